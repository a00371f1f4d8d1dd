// SPDX-License-Identifier: GPL-2.0-only OR BSD-3-Clause

//! The Live Update Orchestrator: sessions, and what files share.

use super::{
    text,
    Flb,
    Luo,
    Result,
    Session,
    Walk, //
};
use crate::abi::{
    luo::{
        self,
        FlbHeaderSer,
        FlbSer,
        LuoSer,
        SessionSer, //
    },
    Error, //
};
use std::{
    format,
    string::String, //
};
use zerocopy::FromBytes as _;

impl Walk<'_> {
    /// Walks LUO's state, whose page is claimed already.
    pub(super) fn luo(&mut self, phys: u64) -> Result<Luo> {
        let raw: LuoSer = self.read_value(phys)?;
        raw.check()?;
        let mut luo = Luo::new(&raw);

        let (sessions, result) = self.blocks::<SessionSer>(raw.sessions);
        luo.pages += sessions.pages;
        if let Err(fault) = result {
            self.complain("sessions", fault);
        }
        for session in &sessions.entries {
            luo.sessions.push(self.session(session));
        }
        match self.shared(raw.flbs, &mut luo) {
            Ok(()) => {}
            Err(fault) => self.complain("shared state", fault),
        }
        Ok(luo)
    }

    fn session(&mut self, raw: &SessionSer) -> Session {
        let name = text(luo::name(&raw.name));
        let (list, result) = self.blocks(raw.files);
        let mut session = Session {
            pages: list.pages,
            files: std::vec::Vec::new(),
            name,
        };
        let place = format!("session {}", session.name);
        if let Err(fault) = result {
            self.complain(&place, fault);
        } else if raw.count != list.entries.len() as u64 {
            let count = list.entries.len();
            let text = format!("says that it has {} files, and has {count}", raw.count);
            self.complain(&place, text);
        }
        for file in &list.entries {
            session.files.push(self.file(&place, file));
        }
        session
    }

    fn shared(&mut self, phys: u64, luo: &mut Luo) -> Result {
        if phys == 0 {
            return Ok(());
        }
        let order = self.claim(phys, None)?;
        let pages = 1u64.checked_shl(order).ok_or(Error::Order)?;
        luo.pages = luo.pages.saturating_add(pages);
        let header: FlbHeaderSer = self.read_value(phys)?;
        let count = header.check(self.page)?;
        if header.pages > pages {
            return Err(Error::Block.into());
        }
        // All entries that there can be so far are in the first page.
        let page = self.read_page(phys)?;
        let mut rest = page.get(size_of::<FlbHeaderSer>()..).unwrap_or_default();
        for _ in 0..count {
            let (entry, left) = FlbSer::read_from_prefix(rest).map_err(|_| Error::Block)?;
            let mut flb = Flb {
                compatible: text(luo::name(&entry.name)),
                files: entry.count,
                pages: 0,
            };
            if let Err(fault) = self.state(&entry, &mut flb) {
                self.complain(&format!("state {}", flb.compatible), fault);
            }
            luo.shared.push(flb);
            rest = left;
        }
        Ok(())
    }
}

/// Where a file is, for people.
pub(super) fn place(session: &str, token: u64) -> String {
    format!("{session}, file {token}")
}

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The session that carries a guest: its memory and its state, each under a token.

use std::fs::File;
use std::path::{
    Path,
    PathBuf, //
};
use std::time::Duration;

use anyhow::{
    bail,
    Context,
    Result, //
};
use liveupdate::hold::{
    Client,
    Held, //
};
use liveupdate::{
    IncomingSession,
    LiveUpdate,
    Session,
    SessionName,
    Token, //
};

use crate::card::Card;
use crate::memory::{
    Backend,
    Files,
    Memory, //
};

const MEMORY: Token = Token(1);
const STATE: Token = Token(2);
const PRIVATE: Token = Token(3);
/// Other VMMs have the device open for a moment only.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where sessions are kept.
#[derive(Clone, Debug)]
pub(crate) struct Keeper {
    name: SessionName,
    /// The socket of `luoctl hold`; without it, this process keeps its session itself.
    hold: Option<PathBuf>,
}

/// A session of this kernel with a guest in it.
#[derive(Debug)]
pub(crate) struct Outgoing {
    session: Session,
    keeper: Keeper,
}

/// What the previous kernel left.
#[derive(Debug)]
pub(crate) struct Incoming {
    session: IncomingSession,
    keeper: Keeper,
}

impl Keeper {
    pub(crate) fn new(name: &str, hold: Option<&Path>) -> Result<Self> {
        Ok(Self {
            name: SessionName::new(name)?,
            hold: hold.map(Path::to_owned),
        })
    }

    /// Makes a session for the next live update.
    pub(crate) fn create(&self) -> Result<Outgoing> {
        let session = match &self.hold {
            Some(socket) => Client::connect(socket)?.create(&self.name)?,
            None => LiveUpdate::open_wait(PATIENCE)?.create_session(&self.name)?,
        };
        Ok(Outgoing {
            session,
            keeper: self.clone(),
        })
    }

    /// Gives up what another VMM of this kernel prepared for the next one, if that is there.
    pub(crate) fn give_up(&self) -> Result<()> {
        if let Some(socket) = &self.hold {
            let client = Client::connect(socket)?;
            if matches!(client.get(&self.name), Ok(Held::Outgoing(_))) {
                client.release(&self.name)?;
            }
        }
        Ok(())
    }

    /// Finds the session that the previous kernel left, or that an earlier VMM had in this kernel.
    pub(crate) fn find(&self) -> Result<Incoming> {
        let session = match &self.hold {
            Some(socket) => {
                let client = Client::connect(socket)?;
                match client.get(&self.name) {
                    Ok(Held::Incoming(session)) => session,
                    Ok(Held::Outgoing(_)) => bail!("the session was made in this kernel"),
                    Err(_) => client.retrieve(&self.name)?,
                }
            }
            None => LiveUpdate::open_wait(PATIENCE)?.retrieve_session(&self.name)?,
        };
        Ok(Incoming {
            session,
            keeper: self.clone(),
        })
    }
}

impl Outgoing {
    /// Preserves the guest's memory; the guest may run on and write to it.
    pub(crate) fn memory(&self, memory: &Memory) -> Result<()> {
        let (memory, private) = memory.files();
        self.session
            .preserve(memory, MEMORY)
            .context("the guest's memory")?;
        private.map_or(Ok(()), |private| {
            self.session
                .preserve(private, PRIVATE)
                .context("the guest's private memory")
        })
    }

    /// Preserves the guest's card. What it writes to comes first.
    pub(crate) fn card(&self, card: &Card) -> Result<()> {
        card.preserve(&self.session)
    }

    pub(crate) fn state(&self, state: &File) -> Result<()> {
        self.session
            .preserve(state, STATE)
            .context("the guest's state")
    }

    /// Takes everything back.
    pub(crate) fn abandon(self) -> Result<()> {
        let Keeper { name, hold, .. } = &self.keeper;
        if let Some(socket) = hold {
            Client::connect(socket)?.release(name)?;
        }
        Ok(())
    }
}

impl Incoming {
    /// The guest's state.
    pub(crate) fn state(&self) -> Result<File> {
        Ok(self
            .session
            .retrieve(STATE)
            .context("the guest's state")?
            .into())
    }

    /// The guest's memory, of the kind that the state names.
    pub(crate) fn memory(&self, backend: Backend) -> Result<Files> {
        let memory = self
            .session
            .retrieve(MEMORY)
            .context("the guest's memory")?;
        let private = match backend.is_private() {
            false => None,
            true => Some(
                self.session
                    .retrieve(PRIVATE)
                    .context("the guest's private memory")?
                    .into(),
            ),
        };
        Ok(Files {
            memory: memory.into(),
            private,
        })
    }

    /// The guest's card, which may be behind an IOMMU, and has been writing to this memory.
    pub(crate) fn card(&self, memory: &Memory, has_iommu: bool) -> Result<Card> {
        Card::take_over(&self.session, memory, has_iommu)
    }

    /// Ends the session; the files belong to this process.
    pub(crate) fn finish(self) -> Result<()> {
        let Keeper { name, hold, .. } = &self.keeper;
        match hold {
            Some(socket) => Ok(Client::connect(socket)?.finish(name)?),
            None => Ok(self.session.finish().map_err(liveupdate::Error::from)?),
        }
    }
}

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The sessions that a server holds, and what each request does to them.

use super::{
    wire::{
        self,
        Entry,
        Reply,
        Request, //
    },
    Kind, //
};
use crate::{
    IncomingSession,
    LiveUpdate,
    SessionName, //
};
use rustix::io::Errno;
use std::{
    collections::BTreeMap,
    fmt,
    os::fd::{
        AsFd,
        BorrowedFd,
        OwnedFd, //
    }, //
};

/// How many sessions are held, well below the usual limit of 1024 open files.
pub(super) const MAX_SESSIONS: usize = 512;

/// What the server does to sessions; tests have another.
pub(super) trait Backend {
    fn create(&mut self, name: &SessionName) -> crate::Result<OwnedFd>;
    fn retrieve(&mut self, name: &SessionName) -> crate::Result<OwnedFd>;
    /// Gives the session back if it could not be finished.
    fn finish(&mut self, session: OwnedFd) -> std::result::Result<(), (OwnedFd, crate::Error)>;
}

/// The kernel. The device is opened for each request only, so that others can use it too, and never
/// waited for: that would keep all other clients waiting.
pub(super) struct Device;

impl Backend for Device {
    fn create(&mut self, name: &SessionName) -> crate::Result<OwnedFd> {
        let device = LiveUpdate::open()?;
        Ok(device.create_session(name)?.into())
    }

    fn retrieve(&mut self, name: &SessionName) -> crate::Result<OwnedFd> {
        let device = LiveUpdate::open()?;
        Ok(device.retrieve_session(name)?.into())
    }

    fn finish(&mut self, session: OwnedFd) -> std::result::Result<(), (OwnedFd, crate::Error)> {
        IncomingSession(session)
            .finish()
            .map_err(|failed| (failed.session.into(), failed.error))
    }
}

/// Why a request was not done.
pub(super) struct Refusal {
    pub(super) reply: Reply,
    /// Another process has the device open: the same request may work in a moment.
    pub(super) again: bool,
}

impl From<Reply> for Refusal {
    fn from(reply: Reply) -> Self {
        Self {
            reply,
            again: false,
        }
    }
}

impl From<crate::Error> for Refusal {
    fn from(error: crate::Error) -> Self {
        let again = matches!(error, crate::Error::Busy { .. });
        let errno = error.errno();
        Self {
            reply: refuse(error, errno),
            again,
        }
    }
}

/// What was done; the descriptor is to be attached to the reply.
type Done<'a> = std::result::Result<(Reply, Option<BorrowedFd<'a>>), Refusal>;

/// What is held, by name.
pub(super) struct Sessions {
    pub(super) held: BTreeMap<SessionName, (Kind, OwnedFd)>,
    pub(super) backend: Box<dyn Backend + Send>,
}

impl Sessions {
    /// Does what is asked for.
    pub(super) fn handle(&mut self, request: &Request) -> Done<'_> {
        match request {
            Request::Create { name } => self.add(name, Kind::Outgoing),
            Request::Retrieve { name } => self.add(name, Kind::Incoming),
            Request::Get { name } => {
                let name = checked(name)?;
                match self.held.get(&name) {
                    Some((kind, fd)) => Ok((Reply::Session { kind: *kind }, Some(fd.as_fd()))),
                    None => Err(unknown(&name).into()),
                }
            }
            Request::Release { name } => {
                drop(self.take(name, Kind::Outgoing)?);
                Ok((Reply::Done, None))
            }
            Request::Finish { name } => {
                let (name, fd) = self.take(name, Kind::Incoming)?;
                if let Err((fd, error)) = self.backend.finish(fd) {
                    self.held.insert(name, (Kind::Incoming, fd));
                    return Err(error.into());
                }
                Ok((Reply::Done, None))
            }
            Request::List { after } => Ok((self.list(after.as_deref()), None)),
        }
    }

    fn add(&mut self, name: &str, kind: Kind) -> Done<'_> {
        let name = checked(name)?;
        if self.held.contains_key(&name) {
            let text = format!("the session \"{name}\" is held already; ask for it with `get`");
            return Err(refuse(text, Some(Errno::EXIST)).into());
        }
        if self.held.len() >= MAX_SESSIONS {
            let text = format!("{MAX_SESSIONS} sessions are held, which is the limit");
            return Err(refuse(text, Some(Errno::NOSPC)).into());
        }
        let fd = match kind {
            Kind::Outgoing => self.backend.create(&name),
            Kind::Incoming => self.backend.retrieve(&name),
        }?;
        let (_, fd) = &*self.held.entry(name).or_insert((kind, fd));
        Ok((Reply::Session { kind }, Some(fd.as_fd())))
    }

    fn take(
        &mut self,
        name: &str,
        kind: Kind,
    ) -> std::result::Result<(SessionName, OwnedFd), Reply> {
        let name = checked(name)?;
        match self.held.remove(&name) {
            Some((found, fd)) if found == kind => Ok((name, fd)),
            Some((found, fd)) => {
                let way = match found {
                    Kind::Outgoing => "it was created in this kernel; use `release`",
                    Kind::Incoming => "it came from the previous kernel; use `finish`",
                };
                let text = format!("the session \"{name}\" cannot end this way: {way}");
                self.held.insert(name, (found, fd));
                Err(refuse(text, Some(Errno::INVAL)))
            }
            None => Err(unknown(&name)),
        }
    }

    fn list(&self, after: Option<&str>) -> Reply {
        let mut left = self
            .held
            .iter()
            .filter(|(name, _)| after.is_none_or(|after| name.as_str() > after))
            .map(|(name, (kind, _))| Entry {
                name: name.as_str().to_owned(),
                kind: *kind,
            })
            .peekable();
        // What is around the entries in a packet takes less than this.
        let mut room = wire::MAX - 64;
        let mut sessions = Vec::new();
        while let Some(entry) = left.peek() {
            let size = serde_json::to_vec(entry).map_or(wire::MAX, |text| text.len() + 1);
            let Some(rest) = room.checked_sub(size) else {
                break;
            };
            room = rest;
            sessions.extend(left.next());
        }
        Reply::List {
            sessions,
            more: left.peek().is_some(),
        }
    }
}

fn checked(name: &str) -> std::result::Result<SessionName, Reply> {
    SessionName::new(name).map_err(|error| refuse(error, Some(Errno::INVAL)))
}

fn unknown(name: &SessionName) -> Reply {
    let text = format!(
        "the session \"{name}\" is not held here; `create` it, or `retrieve` it if it comes from \
         the previous kernel"
    );
    refuse(text, Some(Errno::NOENT))
}

pub(super) fn refuse(why: impl fmt::Display, errno: Option<Errno>) -> Reply {
    Reply::Error {
        message: why.to_string(),
        errno: errno.map(Errno::raw_os_error),
    }
}

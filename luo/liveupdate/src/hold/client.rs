// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The side of the VMM.

use super::{
    wire::{
        self,
        Reply,
        Request, //
    },
    Error,
    Kind,
    Result, //
};
use crate::{
    IncomingSession,
    Session,
    SessionName, //
};
use rustix::{
    io::Errno,
    net::{
        connect,
        socket_with,
        AddressFamily,
        SendFlags,
        SocketAddrUnix,
        SocketFlags,
        SocketType, //
    }, //
};
use std::{
    os::fd::OwnedFd,
    path::Path, //
};

/// A connection to a [`Server`](super::Server).
///
/// # Examples
///
/// A VMM that may be the first or the second of its name in this kernel:
///
/// ```no_run
/// use liveupdate::{hold::{Client, Held, SOCKET}, SessionName, Token};
///
/// # fn vmm(guest_memory: std::os::fd::OwnedFd) -> Result<(), Box<dyn std::error::Error>> {
/// let server = Client::connect(SOCKET.as_ref())?;
/// let name = SessionName::new("vm-7")?;
/// match server.get(&name) {
///     Ok(Held::Outgoing(_session)) => println!("an earlier VMM has preserved our memory"),
///     Ok(Held::Incoming(session)) => drop(session.retrieve(Token(1))?),
///     Err(_) => server.create(&name)?.preserve(&guest_memory, Token(1))?,
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Client(OwnedFd);

/// A session that a server holds.
#[derive(Debug)]
pub enum Held {
    /// Created in this kernel.
    Outgoing(Session),
    /// Left by the previous kernel.
    Incoming(IncomingSession),
}

impl Client {
    /// Connects to the server that listens on `path`.
    ///
    /// # Errors
    ///
    /// [`Error::Connect`] if there is none, or this user may not use it.
    pub fn connect(path: &Path) -> Result<Self> {
        let failed = |source| Error::Connect {
            path: path.to_owned(),
            source,
        };
        let address = SocketAddrUnix::new(path).map_err(|source| Error::Path {
            path: path.to_owned(),
            source,
        })?;
        let socket = socket_with(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .map_err(failed)?;
        connect(&socket, &address).map_err(failed)?;
        Ok(Self(socket))
    }

    /// Creates a session that the server holds from now on.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] with the reason, for example `EEXIST`: then [`Client::get`] has it.
    pub fn create(&self, name: &SessionName) -> Result<Session> {
        let (_, fd) = self.session(Request::Create { name: text(name) })?;
        Ok(fd.try_into()?)
    }

    /// Retrieves a session of the previous kernel, which the server holds from now on.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] with the reason.
    pub fn retrieve(&self, name: &SessionName) -> Result<IncomingSession> {
        let (_, fd) = self.session(Request::Retrieve { name: text(name) })?;
        Ok(fd.try_into()?)
    }

    /// Returns a session that the server holds already.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] with `ENOENT` if it does not.
    pub fn get(&self, name: &SessionName) -> Result<Held> {
        match self.session(Request::Get { name: text(name) })? {
            (Kind::Outgoing, fd) => Ok(Held::Outgoing(fd.try_into()?)),
            (Kind::Incoming, fd) => Ok(Held::Incoming(fd.try_into()?)),
        }
    }

    /// Has the server let go of a session of this kernel. If no one else has it open, its files are
    /// not preserved any more.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] if the server does not hold it, or if it came from the previous kernel.
    pub fn release(&self, name: &SessionName) -> Result<()> {
        self.done(Request::Release { name: text(name) })
    }

    /// Has the server finish a session of the previous kernel and let go of it.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] if the server does not hold it, or the kernel cannot finish it yet. Then it
    /// is still held.
    pub fn finish(&self, name: &SessionName) -> Result<()> {
        self.done(Request::Finish { name: text(name) })
    }

    /// The names and kinds of all sessions that the server holds, sorted by name.
    ///
    /// # Errors
    ///
    /// [`Error::Connection`] or [`Error::Protocol`].
    pub fn list(&self) -> Result<Vec<(SessionName, Kind)>> {
        let mut all: Vec<(SessionName, Kind)> = Vec::new();
        loop {
            let after = all.last().map(|(name, _)| text(name));
            let (reply, _) = self.call(&Request::List { after })?;
            let Reply::List { sessions, more } = reply else {
                return Err(unexpected());
            };
            // A server that does not get on would keep us here for ever.
            let stuck = sessions.is_empty() && more;
            for entry in sessions {
                let name = SessionName::new(entry.name)?;
                if all.last().is_some_and(|(last, _)| *last >= name) {
                    return Err(unexpected());
                }
                all.push((name, entry.kind));
            }
            if stuck {
                return Err(unexpected());
            }
            if !more {
                return Ok(all);
            }
        }
    }

    fn done(&self, request: Request) -> Result<()> {
        match self.call(&request)? {
            (Reply::Done, None) => Ok(()),
            _ => Err(unexpected()),
        }
    }

    pub(super) fn session(&self, request: Request) -> Result<(Kind, OwnedFd)> {
        match self.call(&request)? {
            (Reply::Session { kind }, Some(fd)) => Ok((kind, fd)),
            _ => Err(unexpected()),
        }
    }

    fn call(&self, request: &Request) -> Result<(Reply, Option<OwnedFd>)> {
        let packet = wire::encode(request)?;
        match wire::send(&self.0, &packet, None, SendFlags::empty()) {
            // A server that turns a client away says why before it closes the connection.
            Ok(()) | Err(Errno::PIPE | Errno::CONNRESET) => {}
            Err(source) => return Err(Error::Connection { source }),
        }
        // That the connection is closed is reported once before what was sent ahead of it.
        let reply = match wire::receive(&self.0)? {
            None => wire::receive(&self.0)?,
            reply => reply,
        };
        let (packet, fd) = reply.ok_or(Error::Closed)?;
        match wire::decode(&packet)? {
            Reply::Error { message, errno } => Err(Error::Refused { message, errno }),
            reply => Ok((reply, fd)),
        }
    }
}

fn text(name: &SessionName) -> String {
    name.as_str().to_owned()
}

fn unexpected() -> Error {
    Error::Protocol {
        what: "the reply does not fit the request",
    }
}

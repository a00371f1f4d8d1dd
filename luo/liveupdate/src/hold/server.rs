// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The side that holds the sessions: one thread, bounded in every direction.
//!
//! A client can make the server wait for nothing: packets are read when they are there, and a client
//! that does not read its replies is disconnected.

use super::{
    sessions::{
        refuse,
        Backend,
        Device,
        Sessions, //
    },
    wire,
    Error,
    Kind,
    Result, //
};
use crate::SessionName;
use rustix::{
    event::{
        poll,
        PollFd,
        PollFlags,
        Timespec, //
    },
    fs::{
        chmod,
        chown,
        lstat,
        unlink,
        FileType,
        Mode, //
    },
    io::Errno,
    net::{
        accept_with,
        bind,
        connect,
        listen,
        socket_with,
        sockopt::socket_peercred,
        AddressFamily,
        SendFlags,
        SocketAddrUnix,
        SocketFlags,
        SocketType, //
    },
    process::{
        geteuid,
        Uid, //
    }, //
};
use std::{
    collections::BTreeMap,
    fmt,
    os::fd::OwnedFd,
    path::{
        Path,
        PathBuf, //
    },
    time::Duration, //
};

/// How many clients may be connected; more are disconnected at once.
const MAX_CLIENTS: usize = 64;
/// Holds sessions for its [`Client`](super::Client)s.
///
/// Dropping it closes the sessions: what is outgoing is not handed over any more, what is incoming is
/// freed as far as nobody retrieved it.
///
/// # Examples
///
/// ```no_run
/// use liveupdate::hold::{Server, SOCKET};
///
/// let mut server = Server::bind(SOCKET.as_ref(), None)?;
/// loop {
///     server.step(None)?;
/// }
/// # #[allow(unreachable_code)]
/// # Ok::<(), liveupdate::hold::Error>(())
/// ```
pub struct Server {
    listener: OwnedFd,
    path: PathBuf,
    allowed: Option<Uid>,
    clients: Vec<OwnedFd>,
    sessions: Sessions,
}

impl Server {
    /// Listens on `path`, which root and the user `allowed` may use, with mode 0600. A socket that a
    /// dead server left is replaced.
    ///
    /// # Errors
    ///
    /// [`Error::InUse`] if another server listens there, [`Error::Listen`] otherwise.
    pub fn bind(path: &Path, allowed: Option<u32>) -> Result<Self> {
        Self::with(path, allowed.map(Uid::from_raw), Box::new(Device))
    }

    fn with(path: &Path, allowed: Option<Uid>, backend: Box<dyn Backend + Send>) -> Result<Self> {
        let failed = |source| Error::Listen {
            path: path.to_owned(),
            source,
        };
        let address = SocketAddrUnix::new(path).map_err(|source| Error::Path {
            path: path.to_owned(),
            source,
        })?;
        let listener = socket().map_err(failed)?;
        match bind(&listener, &address) {
            Err(Errno::ADDRINUSE) => {
                remove_stale(path, &address)?;
                bind(&listener, &address).map_err(failed)?;
            }
            other => other.map_err(failed)?,
        }
        // Nobody can connect before listen(), so nobody does while the mode is still the default.
        chmod(path, Mode::RUSR | Mode::WUSR).map_err(failed)?;
        if allowed.is_some() {
            chown(path, allowed, None).map_err(failed)?;
        }
        listen(&listener, 16).map_err(failed)?;

        Ok(Self {
            listener,
            path: path.to_owned(),
            allowed,
            clients: Vec::new(),
            sessions: Sessions {
                held: BTreeMap::new(),
                backend,
            },
        })
    }

    /// Waits up to `timeout` (for ever if there is none) and answers what has arrived. A signal ends
    /// the wait early, without an error.
    ///
    /// # Errors
    ///
    /// [`Error::Poll`]. What clients do wrong is no error here: they are told, or disconnected.
    pub fn step(&mut self, timeout: Option<Duration>) -> Result<()> {
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        let mut fds: Vec<PollFd<'_>> = std::iter::once(&self.listener)
            .chain(&self.clients)
            .map(|fd| PollFd::new(fd, PollFlags::IN))
            .collect();
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) => {}
            Err(Errno::INTR) => return Ok(()),
            Err(source) => return Err(Error::Poll { source }),
        }
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        drop(fds);

        let mut of_client = ready.iter().skip(1);
        self.clients.retain(|client| {
            let ready = of_client.next().copied().unwrap_or_default();
            !ready || answer(&mut self.sessions, client).is_some()
        });
        if ready.first().copied().unwrap_or_default() {
            self.accept();
        }
        Ok(())
    }

    /// The sessions that are held, sorted by name.
    pub fn sessions(&self) -> impl Iterator<Item = (&SessionName, Kind)> {
        let held = self.sessions.held.iter();
        held.map(|(name, (kind, _))| (name, *kind))
    }

    fn accept(&mut self) {
        // A client that is gone again is no concern of ours.
        let Ok(client) = accept_with(&self.listener, SocketFlags::CLOEXEC) else {
            return;
        };
        let Ok(peer) = socket_peercred(&client) else {
            return;
        };
        let known = peer.uid.is_root() || peer.uid == geteuid() || Some(peer.uid) == self.allowed;
        if known && self.clients.len() < MAX_CLIENTS {
            self.clients.push(client);
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // A leftover is replaced by the next server, so a failure does no harm.
        let _ = unlink(&self.path);
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("path", &self.path)
            .field("allowed", &self.allowed)
            .field("clients", &self.clients.len())
            .field("sessions", &self.sessions.held)
            .finish()
    }
}

/// Answers one request of `client`; [`None`] if it is to be disconnected.
fn answer(sessions: &mut Sessions, client: &OwnedFd) -> Option<()> {
    // A descriptor that a client sends is closed here.
    let (packet, _) = wire::receive(client).ok()??;
    let reply = match wire::decode(&packet) {
        Ok(request) => sessions.handle(request),
        Err(error) => Err(refuse(error, None)),
    };
    let (reply, fd) = reply.unwrap_or_else(|reply| (reply, None));
    let packet = wire::encode(&reply).ok()?;
    wire::send(client, &packet, fd, SendFlags::DONTWAIT).ok()
}

fn socket() -> std::result::Result<OwnedFd, Errno> {
    let flags = SocketFlags::CLOEXEC;
    socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
}

/// Removes the socket of a server that is dead. Anything else is left alone.
fn remove_stale(path: &Path, address: &SocketAddrUnix) -> Result<()> {
    let failed = |source| Error::Listen {
        path: path.to_owned(),
        source,
    };
    let stat = lstat(path).map_err(failed)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Socket {
        return Err(failed(Errno::EXIST));
    }
    match connect(socket().map_err(failed)?, address) {
        Err(Errno::CONNREFUSED) => unlink(path).map_err(failed),
        _ => Err(Error::InUse {
            path: path.to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests;

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The side that holds the sessions: one thread, bounded in every direction.
//!
//! A client can make the server wait for nothing: packets are read when they are there, a client that
//! does not read its replies is disconnected, and a request that has to wait for the device is tried
//! again between those of others.

mod connection;
mod place;

use self::{
    connection::{
        room,
        Connection,
        Room, //
    },
    place::Place, //
};
use super::{
    sessions::{
        refuse,
        Backend,
        Device,
        Sessions, //
    },
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
    io::Errno,
    net::{
        accept_with,
        listen,
        sockopt::socket_peercred,
        SocketFlags, //
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
    path::Path,
    time::Duration, //
};

/// How long a client may say nothing before another can have its place.
const IDLE: Duration = Duration::from_secs(10);
/// How often a request that waits for the device is tried again.
const RETRY: Duration = Duration::from_millis(20);

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
    clients: Vec<Connection>,
    sessions: Sessions,
    allowed: Option<Uid>,
    idle: Duration,
    listener: OwnedFd,
    place: Place,
}

impl Server {
    /// Listens on `path`, which root and the user `allowed` may use, with mode 0600. A socket that a
    /// dead server left is replaced.
    ///
    /// # Errors
    ///
    /// [`Error::Directory`] if others than root and this user may write to the socket's directory,
    /// [`Error::InUse`] if another server listens there, [`Error::Listen`] otherwise.
    pub fn bind(path: &Path, allowed: Option<u32>) -> Result<Self> {
        Self::with(path, allowed.map(Uid::from_raw), Box::new(Device))
    }

    fn with(path: &Path, allowed: Option<Uid>, backend: Box<dyn Backend + Send>) -> Result<Self> {
        let mut place = Place::open(path)?;
        let listener = place.bind(allowed)?;
        listen(&listener, 16).map_err(|source| place.failed(source))?;
        Ok(Self {
            clients: Vec::new(),
            sessions: Sessions {
                held: BTreeMap::new(),
                backend,
            },
            allowed,
            idle: IDLE,
            listener,
            place,
        })
    }

    /// Waits up to `timeout` (for ever if there is none) and answers what has arrived. A signal ends
    /// the wait early, without an error.
    ///
    /// # Errors
    ///
    /// [`Error::Poll`]. What clients do wrong is no error here: they are told, or disconnected.
    pub fn step(&mut self, timeout: Option<Duration>) -> Result<()> {
        let timeout = match self.clients.iter().any(Connection::is_waiting) {
            true => Some(timeout.map_or(RETRY, |timeout| timeout.min(RETRY))),
            false => timeout,
        };
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        let mut fds = vec![PollFd::new(&self.listener, PollFlags::IN)];
        fds.extend(self.clients.iter().map(|c| PollFd::new(c, c.interest())));
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) => {}
            Err(Errno::INTR) => return Ok(()),
            Err(source) => return Err(Error::Poll { source }),
        }
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        drop(fds);

        let mut of_client = ready.iter().skip(1);
        self.clients.retain_mut(|client| {
            let ready = of_client.next().copied().unwrap_or_default();
            client.step(&mut self.sessions, ready).is_some()
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
        let privileged = peer.uid.is_root() || peer.uid == geteuid();
        let client = Connection::new(client, privileged);
        // Nothing can be done for those who do not read why they are turned away.
        if !privileged && Some(peer.uid) != self.allowed {
            let why = "only root and the user of --allow-uid may connect";
            let _ = client.send(&refuse(why, Some(Errno::ACCESS)), None);
            return;
        }
        match room(&self.clients, privileged, self.idle) {
            Room::Free => {}
            Room::Instead(index) => drop(self.clients.swap_remove(index)),
            Room::Full => {
                let why = "too many clients are connected; try again in a moment";
                let _ = client.send(&refuse(why, Some(Errno::AGAIN)), None);
                return;
            }
        }
        self.clients.push(client);
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("path", &self.place.path())
            .field("allowed", &self.allowed)
            .field("clients", &self.clients.len())
            .field("sessions", &self.sessions.held)
            .finish()
    }
}

#[cfg(test)]
mod tests;

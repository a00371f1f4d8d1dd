// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! One client, and whether there is room for another.

use super::super::{
    sessions::{
        refuse,
        Sessions, //
    },
    wire::{
        self,
        Reply,
        Request, //
    }, //
};
use rustix::{
    event::PollFlags,
    net::SendFlags, //
};
use std::{
    os::fd::{
        AsFd,
        BorrowedFd,
        OwnedFd, //
    },
    time::{
        Duration,
        Instant, //
    }, //
};

/// How many clients may be connected.
pub(super) const MAX_CLIENTS: usize = 64;
/// How many of these places are kept for root and the server's own user.
const RESERVED: usize = 8;
/// How long a request waits while another process has the device open.
const DEVICE_WAIT: Duration = Duration::from_secs(2);

/// A client.
#[derive(Debug)]
pub(super) struct Connection {
    fd: OwnedFd,
    /// It is root or the server's own user.
    privileged: bool,
    /// When it connected or asked for something.
    active: Instant,
    /// What waits for the device to be free, and until when.
    waiting: Option<(Request, Instant)>,
}

impl Connection {
    pub(super) fn new(fd: OwnedFd, privileged: bool) -> Self {
        Self {
            fd,
            privileged,
            active: Instant::now(),
            waiting: None,
        }
    }

    /// What to wait for. A client whose request waits is not heard until that has its answer.
    pub(super) fn interest(&self) -> PollFlags {
        match self.waiting {
            Some(_) => PollFlags::empty(),
            None => PollFlags::IN,
        }
    }

    pub(super) fn is_waiting(&self) -> bool {
        self.waiting.is_some()
    }

    /// Answers what has arrived or waits; [`None`] if the client is to be disconnected.
    pub(super) fn step(&mut self, sessions: &mut Sessions, ready: bool) -> Option<()> {
        let (request, deadline) = match self.waiting.take() {
            // Nothing but the end is waited for.
            Some(_) if ready => return None,
            Some(waiting) => waiting,
            None if !ready => return Some(()),
            None => {
                // A descriptor that a client sends is closed here.
                let (packet, _) = wire::receive(&self.fd).ok()??;
                self.active = Instant::now();
                match wire::decode(&packet) {
                    Ok(request) => (request, self.active + DEVICE_WAIT),
                    Err(error) => return self.send(&refuse(error, None), None),
                }
            }
        };
        let sent = match sessions.handle(&request) {
            Ok((reply, session)) => send(&self.fd, &reply, session),
            Err(refusal) if refusal.again && Instant::now() < deadline => {
                self.waiting = Some((request, deadline));
                return Some(());
            }
            Err(refusal) => send(&self.fd, &refusal.reply, None),
        };
        self.active = Instant::now();
        sent
    }

    /// Sends something that was not asked for.
    pub(super) fn send(&self, reply: &Reply, fd: Option<BorrowedFd<'_>>) -> Option<()> {
        send(&self.fd, reply, fd)
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn send(to: &OwnedFd, reply: &Reply, fd: Option<BorrowedFd<'_>>) -> Option<()> {
    let packet = wire::encode(reply).ok()?;
    wire::send(to, &packet, fd, SendFlags::DONTWAIT).ok()
}

/// Where a newcomer can go.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Room {
    Free,
    /// In the place of this one, which has been idle.
    Instead(usize),
    Full,
}

/// Looks for room for a newcomer. The one that has been idle longest, for `idle` at least, has to go
/// for it, but root does not go for others.
pub(super) fn room(clients: &[Connection], privileged: bool, idle: Duration) -> Room {
    let others = clients.iter().filter(|client| !client.privileged).count();
    if clients.len() < MAX_CLIENTS && (privileged || others < MAX_CLIENTS - RESERVED) {
        return Room::Free;
    }
    let longest = clients
        .iter()
        .enumerate()
        .filter(|(_, client)| privileged || !client.privileged)
        .filter(|(_, client)| !client.is_waiting() && client.active.elapsed() >= idle)
        .min_by_key(|(_, client)| client.active);
    longest.map_or(Room::Full, |(index, _)| Room::Instead(index))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(3600);

    fn clients(privileged: usize, others: usize) -> Vec<Connection> {
        let all = std::iter::repeat_n(true, privileged).chain(std::iter::repeat_n(false, others));
        all.map(|privileged| Connection::new(super::super::place::socket().unwrap(), privileged))
            .collect()
    }

    #[test]
    fn users_cannot_take_the_places_of_root() {
        let crowd = clients(0, MAX_CLIENTS - RESERVED);
        assert_eq!(room(&crowd, false, LONG), Room::Full);
        assert_eq!(room(&crowd, true, LONG), Room::Free);
        let full = clients(RESERVED, MAX_CLIENTS - RESERVED);
        assert_eq!(room(&full, true, LONG), Room::Full);
    }

    #[test]
    fn the_longest_idle_goes_but_root_not_for_others() {
        let mut full = clients(RESERVED, MAX_CLIENTS - RESERVED);
        assert_eq!(room(&full, true, Duration::ZERO), Room::Instead(0));
        assert_eq!(room(&full, false, Duration::ZERO), Room::Instead(RESERVED));
        full[RESERVED].active = Instant::now();
        let next = RESERVED + 1;
        assert_eq!(room(&full, false, Duration::ZERO), Room::Instead(next));
        let request = Request::List { after: None };
        full[next].waiting = Some((request, Instant::now()));
        assert_eq!(room(&full, false, Duration::ZERO), Room::Instead(next + 1));
    }
}

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Messages, and how they are sent and received.

use super::{
    Error,
    Kind,
    Result, //
};
use rustix::{
    io::Errno,
    net::{
        recvmsg,
        sendmsg,
        RecvAncillaryBuffer,
        RecvAncillaryMessage,
        RecvFlags,
        ReturnFlags,
        SendAncillaryBuffer,
        SendAncillaryMessage,
        SendFlags, //
    }, //
};
use serde::{
    de::DeserializeOwned,
    Deserialize,
    Serialize, //
};
use std::{
    io::{
        IoSlice,
        IoSliceMut, //
    },
    mem::MaybeUninit,
    os::fd::{
        AsFd,
        BorrowedFd,
        OwnedFd, //
    }, //
};

/// The largest packet.
pub(super) const MAX: usize = 4096;

/// What a client asks for.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "lowercase", deny_unknown_fields)]
pub(super) enum Request {
    Create { name: String },
    Retrieve { name: String },
    Get { name: String },
    Release { name: String },
    Finish { name: String },
    List { after: Option<String> },
}

/// What the server answers.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "lowercase")]
pub(super) enum Reply {
    /// A descriptor is attached.
    Session {
        kind: Kind,
    },
    Done,
    List {
        sessions: Vec<Entry>,
        more: bool,
    },
    Error {
        message: String,
        errno: Option<i32>,
    },
}

/// One line of a list.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) kind: Kind,
}

/// The packet for `message`.
pub(super) fn encode(message: &impl Serialize) -> Result<Vec<u8>> {
    let too_long = Error::Protocol {
        what: "a message is too long",
    };
    match serde_json::to_vec(message) {
        Ok(packet) if packet.len() <= MAX => Ok(packet),
        _ => Err(too_long),
    }
}

/// The message in a packet.
pub(super) fn decode<T: DeserializeOwned>(packet: &[u8]) -> Result<T> {
    serde_json::from_slice(packet).map_err(|_| Error::Protocol {
        what: "a message was not understood",
    })
}

/// Sends a packet, with a descriptor if there is one.
pub(super) fn send(
    socket: impl AsFd,
    packet: &[u8],
    fd: Option<BorrowedFd<'_>>,
    flags: SendFlags,
) -> std::result::Result<(), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = fd.map(|fd| [fd]);
    if let Some(fds) = &fds {
        // There is room for one, and it is the first.
        control.push(SendAncillaryMessage::ScmRights(fds));
    }
    sendmsg(
        socket,
        &[IoSlice::new(packet)],
        &mut control,
        flags | SendFlags::NOSIGNAL,
    )?;
    Ok(())
}

/// Receives a packet; [`None`] if the other side is gone. At most one descriptor is accepted.
pub(super) fn receive(socket: impl AsFd) -> Result<Option<(Vec<u8>, Option<OwnedFd>)>> {
    let mut packet = vec![0; MAX];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = loop {
        let parts = &mut [IoSliceMut::new(&mut packet)];
        match recvmsg(&socket, parts, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(Errno::INTR) => {}
            Err(Errno::CONNRESET) => return Ok(None),
            other => break other.map_err(|source| Error::Connection { source })?,
        }
    };
    let fd = control
        .drain()
        .find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut fds) => Some(fds.next()),
            _ => None,
        })
        .flatten();
    if received.bytes == 0 {
        return Ok(None);
    }
    if received.flags.contains(ReturnFlags::TRUNC) {
        return Err(Error::Protocol {
            what: "a message is too long",
        });
    }
    packet.truncate(received.bytes);
    Ok(Some((packet, fd)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{
        socketpair,
        AddressFamily,
        SocketFlags,
        SocketType, //
    };

    fn pair() -> (OwnedFd, OwnedFd) {
        socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .unwrap()
    }

    #[test]
    fn messages_look_as_documented() {
        let name = || String::from("vm-7");
        let text = |message: &Request| String::from_utf8(encode(message).unwrap()).unwrap();
        assert_eq!(
            text(&Request::Create { name: name() }),
            r#"{"op":"create","name":"vm-7"}"#
        );
        assert_eq!(
            decode::<Request>(br#"{"op":"list"}"#).unwrap(),
            Request::List { after: None }
        );
        let reply = Reply::Session {
            kind: Kind::Outgoing,
        };
        assert_eq!(
            encode(&reply).unwrap(),
            br#"{"reply":"session","kind":"outgoing"}"#
        );
    }

    #[test]
    fn what_is_not_a_request_is_refused() {
        for text in [
            "",
            "null",
            "[]",
            r#"{"op":"create"}"#,
            r#"{"op":"destroy","name":"x"}"#,
            r#"{"op":"create","name":7}"#,
            r#"{"op":"create","name":"x","more":1}"#,
            "{\"op\":\"create\",\"name\":\"\u{0}",
        ] {
            assert!(decode::<Request>(text.as_bytes()).is_err(), "{text}");
        }
        assert!(decode::<Request>(&[b'['; MAX]).is_err());
    }

    #[test]
    fn a_descriptor_arrives_with_its_packet() {
        let (a, b) = pair();
        let memfd = rustix::fs::memfd_create("sent", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        send(&a, b"x", Some(memfd.as_fd()), SendFlags::empty()).unwrap();
        let (packet, fd) = receive(&b).unwrap().unwrap();
        assert_eq!(packet, b"x");
        let sent = rustix::fs::fstat(&memfd).unwrap();
        let got = rustix::fs::fstat(fd.unwrap()).unwrap();
        assert_eq!((sent.st_dev, sent.st_ino), (got.st_dev, got.st_ino));
    }

    #[test]
    fn long_packets_and_the_end_are_noticed() {
        let (a, b) = pair();
        send(&a, &[b' '; MAX + 1], None, SendFlags::empty()).unwrap();
        assert!(matches!(receive(&b), Err(Error::Protocol { .. })));
        drop(a);
        assert!(receive(&b).unwrap().is_none());
    }
}

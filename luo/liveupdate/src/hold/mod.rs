// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Sessions that outlive their VMM.
//!
//! A session ends when its last descriptor is closed: before the reboot nothing is handed over any
//! more, after it whatever was not retrieved yet is freed. So a VMM that dies takes its session along. A
//! [`Server`] (`luoctl hold`) keeps a descriptor of each session, and gives a duplicate to its
//! [`Client`]s. When a VMM dies, the next one asks for the session again.
//!
//! # Protocol
//!
//! A Unix socket of type `SOCK_SEQPACKET`; each packet is one JSON object of at most 4096 bytes, and
//! each request gets one reply. A session's descriptor is attached to the reply (`SCM_RIGHTS`).
//!
//! | request | reply |
//! |---|---|
//! | `{"op":"create","name":"vm-7"}` | `{"reply":"session","kind":"outgoing"}` and a descriptor |
//! | `{"op":"retrieve","name":"vm-7"}` | `{"reply":"session","kind":"incoming"}` and a descriptor |
//! | `{"op":"get","name":"vm-7"}` | the same, of the kind that it is |
//! | `{"op":"release","name":"vm-7"}` | `{"reply":"done"}` |
//! | `{"op":"finish","name":"vm-7"}` | `{"reply":"done"}` |
//! | `{"op":"list","after":"vm-6"}` | `{"reply":"list","sessions":[{"name":"vm-7","kind":"outgoing"}],"more":false}` |
//! | anything that fails | `{"reply":"error","message":"a sentence","errno":17}` |
//!
//! `list` returns names in ascending order, as many as fit; `after` (optional) continues.
//!
//! Only root and the user that the server names may connect. All clients may use all sessions. When
//! there are too many clients, one that has said nothing for ten seconds is disconnected for a new one,
//! so connect anew for each group of requests. `create` and `retrieve` are answered after two seconds
//! at most, with `EBUSY` if another process had `/dev/liveupdate` open all the time.
//!
//! The socket's directory must be one to which only root and the user of the server may write. Others
//! need no more than to pass through it.

mod client;
mod server;
mod sessions;
mod wire;

pub use self::{
    client::{
        Client,
        Held, //
    },
    server::Server, //
};

use rustix::io::Errno;
use serde::{
    Deserialize,
    Serialize, //
};
use std::{
    fmt,
    path::PathBuf, //
};

/// Where `luoctl` looks for the server if nothing else is said.
pub const SOCKET: &str = "/run/luoctl-hold.sock";

/// A result of this module.
pub type Result<T> = std::result::Result<T, Error>;

/// What a session is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Created in this kernel, for the next one.
    Outgoing,
    /// Left by the previous kernel.
    Incoming,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Outgoing => "outgoing",
            Self::Incoming => "incoming",
        })
    }
}

/// One variant per step that can fail.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The path of the socket cannot be one.
    #[error("the socket path {} is too long or contains a NUL", path.display())]
    Path {
        /// The path.
        path: PathBuf,
        /// The kernel's answer.
        source: Errno,
    },
    /// A server could not listen.
    #[error("cannot listen on {}: {}", path.display(), listen_advice(*source))]
    Listen {
        /// The path.
        path: PathBuf,
        /// The kernel's answer.
        source: Errno,
    },
    /// Others could change what is in the directory of the socket.
    #[error(
        "others than root and the user of this process may write to the directory {}, and could \
         put something else in the socket's place; choose a directory that only root may write to \
         (others may pass through it), such as /run",
        path.display()
    )]
    Directory {
        /// The directory.
        path: PathBuf,
    },
    /// Another server is listening already.
    #[error("another server is listening on {} already; use it, or choose another path", path.display())]
    InUse {
        /// The path.
        path: PathBuf,
    },
    /// A client could not connect.
    #[error("cannot connect to {}: {}", path.display(), connect_advice(*source))]
    Connect {
        /// The path.
        path: PathBuf,
        /// The kernel's answer.
        source: Errno,
    },
    /// The connection broke.
    #[error("the connection to the server that holds the sessions broke")]
    Connection {
        /// The kernel's answer.
        source: Errno,
    },
    /// The server closed the connection, as it does with one that is idle when others need its place.
    #[error("the server that holds the sessions closed the connection; connect again")]
    Closed,
    /// Waiting for the next event failed.
    #[error("cannot wait for clients")]
    Poll {
        /// The kernel's answer.
        source: Errno,
    },
    /// The other side does not speak this protocol.
    #[error("the other side of the socket does not speak the protocol of `luoctl hold`: {what}")]
    Protocol {
        /// What was wrong.
        what: &'static str,
    },
    /// The server refused; the sentence is its own.
    #[error("{message}")]
    Refused {
        /// Why.
        message: String,
        /// The error number, if there is one.
        errno: Option<i32>,
    },
    /// The server sent a session that is none.
    #[error(transparent)]
    Session(#[from] crate::Error),
}

fn listen_advice(errno: Errno) -> &'static str {
    match errno {
        Errno::ACCESS | Errno::PERM => "run this as root, or choose a directory you may write to",
        Errno::NOENT => "create its directory first",
        Errno::EXIST | Errno::ADDRINUSE => "there is a file of this name that is not a socket",
        _ => "the kernel refused",
    }
}

fn connect_advice(errno: Errno) -> &'static str {
    match errno {
        Errno::NOENT | Errno::CONNREFUSED => "no server is there; start one with `luoctl hold`",
        Errno::ACCESS | Errno::PERM => {
            "run this as root or as the user that the server was started for"
        }
        _ => "the kernel refused",
    }
}

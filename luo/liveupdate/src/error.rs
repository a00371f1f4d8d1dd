// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What can go wrong, each with a sentence that says what to do.

use crate::{
    IncomingSession,
    SessionName,
    Token,
    DEVICE, //
};
use rustix::io::Errno;
use std::time::Duration;

/// A result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// One variant per step that can fail; `source` is what the kernel answered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A session name was empty.
    #[error("a session name must have at least one character")]
    NameEmpty,
    /// A session name was longer than [`SessionName::MAX_LEN`].
    #[error(
        "a session name may have {} bytes at most, this one has {len}",
        SessionName::MAX_LEN
    )]
    NameTooLong {
        /// Its length in bytes.
        len: usize,
    },
    /// A session name had a NUL inside.
    #[error("a session name must not contain a NUL character")]
    NameHasNul,
    /// The kernel has a session whose name is not UTF-8.
    #[error("the session's name is not UTF-8 text; it was created by another program")]
    NameNotText,
    /// `/dev/liveupdate` could not be opened, for another reason than [`Error::Busy`].
    #[error("cannot open {DEVICE}: {}", open_advice(*source))]
    Open {
        /// The kernel's answer.
        source: Errno,
    },
    /// Another process has `/dev/liveupdate` open.
    #[error(
        "{DEVICE} is open in another process, and only one may have it open: wait for it \
         (`LiveUpdate::open_wait`), ask its holder for the session (`luoctl hold`), or find it with \
         `fuser {DEVICE}`"
    )]
    Busy {
        /// How long this call waited before it gave up; zero if it did not wait.
        waited: Duration,
    },
    /// A session could not be created.
    #[error("cannot create the session \"{name}\": {}", create_advice(*source))]
    CreateSession {
        /// The session.
        name: SessionName,
        /// The kernel's answer.
        source: Errno,
    },
    /// A session of the previous kernel could not be retrieved.
    #[error("cannot retrieve the session \"{name}\": {}", retrieve_session_advice(*source))]
    RetrieveSession {
        /// The session.
        name: SessionName,
        /// The kernel's answer.
        source: Errno,
    },
    /// A file could not be preserved.
    #[error("cannot preserve the file as token {token}: {}", preserve_advice(*source))]
    Preserve {
        /// The token.
        token: Token,
        /// The kernel's answer.
        source: Errno,
    },
    /// A file could not be retrieved. Most answers stay the same at every further attempt.
    #[error("cannot retrieve the file of token {token}: {}", retrieve_advice(*source))]
    Retrieve {
        /// The token.
        token: Token,
        /// The kernel's answer.
        source: Errno,
    },
    /// A session could not be finished; it stays as it was.
    #[error("cannot finish the session: {}", finish_advice(*source))]
    Finish {
        /// The kernel's answer.
        source: Errno,
    },
    /// Guest memory could not be linked to a VM.
    #[error("cannot link the guest memory to the VM: {}", link_advice(*source))]
    Link {
        /// The kernel's answer.
        source: Errno,
    },
    /// A file descriptor was offered as guest memory and is none.
    #[error("the file descriptor is no guest_memfd file")]
    NotGuestMemory,
    /// A device of VFIO could not be bound.
    #[error("cannot bind the device: {}", bind_advice(*source))]
    BindDevice {
        /// The kernel's answer.
        source: Errno,
    },
    /// The interrupts of a device of VFIO could not be changed.
    #[error("cannot change the device's interrupts: {}", interrupts_advice(*source))]
    Interrupts {
        /// The kernel's answer.
        source: Errno,
    },
    /// A file descriptor was offered as a device of VFIO and is none.
    #[error("the file descriptor is \"{found}\" and not a device of VFIO (/dev/vfio/devices)")]
    NotADevice {
        /// What it is, as `/proc/self/fd` shows it.
        found: String,
    },
    /// The name of a session could not be read.
    #[error("cannot read the session's name")]
    Name {
        /// The kernel's answer.
        source: Errno,
    },
    /// A file descriptor was offered as a session and is none.
    #[error("the file descriptor is \"{found}\" and not a live update session")]
    NotASession {
        /// What it is, as `/proc/self/fd` shows it.
        found: String,
    },
    /// It could not be found out what a file descriptor is.
    #[error("cannot tell what the file descriptor is: is /proc mounted?")]
    Identify {
        /// The kernel's answer.
        source: Errno,
    },
}

impl Error {
    /// The kernel's answer, if it was the kernel that refused.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Busy { .. } => Some(Errno::BUSY),
            Self::Open { source }
            | Self::CreateSession { source, .. }
            | Self::RetrieveSession { source, .. }
            | Self::Preserve { source, .. }
            | Self::Retrieve { source, .. }
            | Self::Finish { source }
            | Self::Link { source }
            | Self::BindDevice { source }
            | Self::Interrupts { source }
            | Self::Name { source }
            | Self::Identify { source } => Some(*source),
            Self::NameEmpty
            | Self::NameTooLong { .. }
            | Self::NameHasNul
            | Self::NameNotText
            | Self::NotASession { .. }
            | Self::NotADevice { .. }
            | Self::NotGuestMemory => None,
        }
    }
}

/// A session that could not be finished, handed back so that it can be tried again.
///
/// Dropping it closes the session, at which the kernel tries to finish it one last time; if that
/// fails too, what it holds stays reserved until the next reboot.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct FinishError {
    /// The session, unchanged.
    pub session: IncomingSession,
    /// Why it could not be finished.
    #[source]
    pub error: Error,
}

impl From<FinishError> for Error {
    fn from(failed: FinishError) -> Self {
        failed.error
    }
}

const NO_MEMORY: &str = "the kernel has no memory left for it";

fn open_advice(errno: Errno) -> &'static str {
    match errno {
        Errno::NOENT | Errno::NXIO | Errno::NODEV => {
            "the kernel offers no live update; boot it with `kho=on liveupdate=on` on its command \
             line (it needs CONFIG_LIVEUPDATE=y), and see that /dev is a devtmpfs"
        }
        Errno::ACCESS | Errno::PERM => "only root may open it; run this as root",
        Errno::IO => {
            "the kernel could not take over what the previous kernel left, and will not try again \
             before the next reboot; `dmesg | grep -i luo` says why"
        }
        Errno::MFILE | Errno::NFILE => "too many files are open; raise the limit (`ulimit -n`)",
        _ => "the kernel refused",
    }
}

fn create_advice(errno: Errno) -> &'static str {
    match errno {
        Errno::EXIST => "a session of this name exists already; choose another name or close it",
        Errno::NOMEM => NO_MEMORY,
        Errno::NOSPC => "the kernel's limit of sessions is reached; close some",
        Errno::MFILE | Errno::NFILE => "too many files are open; raise the limit (`ulimit -n`)",
        _ => "the kernel refused",
    }
}

fn retrieve_session_advice(errno: Errno) -> &'static str {
    match errno {
        Errno::NOENT => {
            "the previous kernel left no session of this name (was it still open when the host was \
             rebooted, and was the reboot a kexec?)"
        }
        Errno::INVAL => "it has been retrieved already; ask the process that has it",
        Errno::NOMEM => NO_MEMORY,
        Errno::MFILE | Errno::NFILE => "too many files are open; raise the limit (`ulimit -n`)",
        _ => "the kernel refused",
    }
}

fn preserve_advice(errno: Errno) -> &'static str {
    match errno {
        Errno::NOENT => {
            "no loaded handler takes this kind of file; load its module (`modprobe luo_memfd` for a \
             memfd), and see `luoctl status` for the handlers there are"
        }
        Errno::EXIST => "the token is used in this session already; choose another one",
        Errno::BUSY => "the file is preserved already, here or in another session",
        Errno::INVAL => {
            "the kernel cannot preserve this file as it is, or the session came from the previous \
             kernel, which can only be retrieved from"
        }
        Errno::ACCESS => {
            "the file is not open for reading and writing, and would come back so; open it for both"
        }
        Errno::OPNOTSUPP => "the file has a property that would be lost, such as an unknown seal",
        Errno::FBIG => "the file is larger than its format can describe",
        Errno::HWPOISON => "some of its memory is broken (hardware error) and must not be handed on",
        Errno::NOSPC => "the kernel's limit of files in a session is reached; use another session",
        Errno::NOMEM => "the kernel has no memory left to pin it, fill its holes, or record it",
        Errno::AGAIN => {
            "some of its pages could not be pinned now, such as while they are moved; try again"
        }
        Errno::INTR => "a signal interrupted it, and nothing has changed; try again",
        _ => "the kernel refused",
    }
}

fn retrieve_advice(errno: Errno) -> &'static str {
    match errno {
        Errno::NOENT => "nothing was preserved under this token in this session",
        Errno::NODEV => {
            "no handler for its kind is loaded; load its module (`modprobe luo_memfd` for a memfd) and \
             try again before the session is finished, which gives the content up"
        }
        Errno::INVAL | Errno::IO => {
            "the state that the previous kernel left is not valid, or the session is one of this \
             kernel; `dmesg` says which"
        }
        Errno::OPNOTSUPP => "the previous kernel used a property that this one does not know",
        Errno::NOMEM => {
            "there is no memory left, or the memory limit of the calling process's cgroup is too \
             low for the file"
        }
        Errno::MFILE | Errno::NFILE => "too many files are open; raise the limit (`ulimit -n`)",
        _ => "the kernel refused",
    }
}

fn finish_advice(errno: Errno) -> &'static str {
    match errno {
        Errno::BUSY => "a file in it is not ready to be let go; try again when its owner is done",
        Errno::INVAL => "the session was created in this kernel; drop it instead",
        _ => "the kernel refused",
    }
}

fn link_advice(errno: Errno) -> &'static str {
    match errno {
        Errno::BUSY => {
            "a VM has it, or it is preserved for the next kernel; close the files and mappings of that \
             VM, or the session"
        }
        Errno::INVAL => "this is no VM, or one of another type than the memory was made for",
        Errno::IO => "the VM was created by another process, and only works there",
        Errno::NOTTY => "the memory belongs to a VM already: only what was retrieved can be linked",
        Errno::MFILE | Errno::NFILE => "too many files are open; raise the limit (`ulimit -n`)",
        _ => "the kernel refused",
    }
}

fn bind_advice(errno: Errno) -> &'static str {
    match errno {
        Errno::INVAL => "it is bound already",
        Errno::BADFD => "the other file is no /dev/iommu",
        Errno::BUSY => "another process uses it, or a device of its IOMMU group",
        Errno::PERM => {
            "its interrupts are not isolated (`iommufd.allow_unsafe_interrupts=1` permits that), or \
             it has no IOMMU and the caller no CAP_SYS_RAWIO"
        }
        Errno::IO => "it is frozen for a live update",
        Errno::NODEV => "it is not there any more",
        _ => "the kernel refused",
    }
}

fn interrupts_advice(errno: Errno) -> &'static str {
    match errno {
        Errno::INVAL => {
            "it has not so many vectors, this one is not enabled, or another kind of interrupt is; \
             disable that first"
        }
        Errno::IO => "it is frozen for a live update",
        Errno::NOSPC => "the machine has no interrupt vectors left",
        _ => "the kernel refused",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_say_what_to_do_and_do_not_repeat_the_source() {
        let error = Error::Preserve {
            token: Token(3),
            source: Errno::NOENT,
        };
        let text = error.to_string();
        assert!(text.contains("token 3") && text.contains("modprobe luo_memfd"));
        assert!(!text.contains(&Errno::NOENT.to_string()));
        assert_eq!(error.errno(), Some(Errno::NOENT));

        for errno in [Errno::AGAIN, Errno::INTR] {
            assert!(preserve_advice(errno).contains("try again"));
        }
        assert!(retrieve_advice(Errno::MFILE).contains("ulimit"));

        let text = Error::Open {
            source: Errno::NOENT,
        }
        .to_string();
        assert!(text.contains("kho=on liveupdate=on"));
    }
}

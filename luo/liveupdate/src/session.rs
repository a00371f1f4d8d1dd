// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Sessions: of this kernel ([`Session`]) and of the previous one ([`IncomingSession`]).
//!
//! They are two types because the kernel lets a session do one or the other: files go into a session
//! of this kernel and come out of one of the previous kernel.

use crate::{
    uapi,
    Error,
    FinishError,
    Result,
    SessionName,
    Token, //
};
use rustix::fs::{
    readlinkat,
    CWD, //
};
use std::os::fd::{
    AsFd,
    AsRawFd,
    BorrowedFd,
    FromRawFd,
    OwnedFd, //
};

/// How `/proc/self/fd` shows a session; the session's name follows, perhaps cut short.
const LINK: &str = "anon_inode:[luo_session] ";

/// A session of this kernel, to put files into. Closing it (dropping it, and every duplicate)
/// before the reboot takes them out again.
#[derive(Debug)]
pub struct Session(pub(crate) OwnedFd);

/// A session of the previous kernel, to take files out of. Closing it (dropping it, and every
/// duplicate) finishes it, so drop it only when everything is retrieved.
#[derive(Debug)]
pub struct IncomingSession(pub(crate) OwnedFd);

impl Session {
    /// Preserves the file `fd` under `token`.
    ///
    /// The file stays usable, but it is frozen: a memfd, for example, cannot be resized. The caller
    /// may close `fd`; the session has its own reference.
    ///
    /// # Errors
    ///
    /// [`Error::Preserve`], with `ENOENT` if no loaded handler takes this kind of file, `EEXIST` if
    /// the token is taken, `EBUSY` if the file is preserved already.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use liveupdate::{LiveUpdate, SessionName, Token};
    /// use rustix::fs::{memfd_create, MemfdFlags};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let session = LiveUpdate::open()?.create_session(&SessionName::new("vm-7")?)?;
    /// let memory = memfd_create("guest", MemfdFlags::CLOEXEC | MemfdFlags::NOEXEC_SEAL)?;
    /// session.preserve(&memory, Token(1))?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn preserve(&self, fd: impl AsFd, token: Token) -> Result<()> {
        let mut request = uapi::PreserveFd::new(fd.as_fd().as_raw_fd(), token.0);
        uapi::call(&self.0, &mut request).map_err(|source| Error::Preserve { token, source })
    }

    /// The session's name, in full.
    ///
    /// # Errors
    ///
    /// [`Error::Name`], or [`Error::NameNotText`] if another program chose bytes that are not UTF-8.
    pub fn name(&self) -> Result<SessionName> {
        name(self.as_fd())
    }
}

impl IncomingSession {
    /// Retrieves the file that was preserved under `token`. Asking again returns the same open file.
    ///
    /// # Errors
    ///
    /// [`Error::Retrieve`], with `ENOENT` if nothing was preserved under this token, and `ENODEV` if the
    /// handler module for this kind of file is not loaded, which may be tried again when it is. Other
    /// failures are final, unless the handler lost nothing: the kernel keeps its answer for this token.
    pub fn retrieve(&self, token: Token) -> Result<OwnedFd> {
        let mut request = uapi::RetrieveFd::new(-1, token.0);
        uapi::call(&self.0, &mut request).map_err(|source| Error::Retrieve { token, source })?;
        Ok(adopt(request.fd))
    }

    /// Ends the session. Files that were retrieved belong to their new owners; the others are freed.
    ///
    /// # Errors
    ///
    /// [`FinishError`], which gives the session back; with `EBUSY` if a file cannot be let go yet, and with
    /// `EAGAIN` if the module of a handler is just being unloaded: try again. Closing the session at that moment
    /// keeps it, with all that it has, until the next kexec.
    pub fn finish(self) -> std::result::Result<(), FinishError> {
        match uapi::call(&self.0, &mut uapi::Finish::new(0)) {
            Ok(()) => Ok(()),
            Err(source) => Err(FinishError {
                session: self,
                error: Error::Finish { source },
            }),
        }
    }

    /// The session's name, in full.
    ///
    /// # Errors
    ///
    /// As [`Session::name`].
    pub fn name(&self) -> Result<SessionName> {
        name(self.as_fd())
    }
}

/// Conversions that both types share: from and to descriptors, so that they can be inherited and
/// sent over sockets.
macro_rules! descriptor {
    ($type:ident, $example:literal) => {
        /// Takes a descriptor that was inherited or received over a socket. It is checked to be a
        /// session, but the kernel does not tell of which kind: the wrong one answers `EINVAL`.
        ///
        /// ```
        #[doc = $example]
        /// use std::os::fd::OwnedFd;
        ///
        /// let null = OwnedFd::from(std::fs::File::open("/dev/null")?);
        /// assert!(Received::try_from(null).is_err());
        /// # Ok::<(), std::io::Error>(())
        /// ```
        impl TryFrom<OwnedFd> for $type {
            type Error = Error;

            fn try_from(fd: OwnedFd) -> Result<Self> {
                identify(fd.as_fd())?;
                Ok(Self(fd))
            }
        }

        impl From<$type> for OwnedFd {
            fn from(session: $type) -> Self {
                session.0
            }
        }

        impl AsFd for $type {
            fn as_fd(&self) -> BorrowedFd<'_> {
                self.0.as_fd()
            }
        }
    };
}

descriptor!(Session, "use liveupdate::Session as Received;");
descriptor!(
    IncomingSession,
    "use liveupdate::IncomingSession as Received;"
);

/// Takes ownership of a descriptor that LUO has just put into its answer.
pub(crate) fn adopt(fd: i32) -> OwnedFd {
    // SAFETY: The ioctl succeeded, so `fd` is a descriptor the kernel has just installed for this
    // call, and nobody else knows of it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

fn name(fd: BorrowedFd<'_>) -> Result<SessionName> {
    let mut request = uapi::GetName::new(0, [0; uapi::NAME_LEN]);
    uapi::call(fd, &mut request).map_err(|source| Error::Name { source })?;
    SessionName::from_bytes(&request.name)
}

/// Checks that `fd` is a session of LUO: on any other file the same ioctl numbers could mean
/// something that is not safe.
fn identify(fd: BorrowedFd<'_>) -> Result<()> {
    let link = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let found = readlinkat(CWD, link, Vec::new()).map_err(|source| Error::Identify { source })?;
    if found.to_bytes().starts_with(LINK.as_bytes()) {
        return Ok(());
    }
    Err(Error::NotASession {
        found: found.to_string_lossy().into_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_another_kind_is_no_session() {
        let name = format!("{LINK}vm");
        let memfd = rustix::fs::memfd_create(name, rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        match Session::try_from(memfd) {
            Err(Error::NotASession { found }) => assert!(found.starts_with("/memfd:"), "{found}"),
            other => panic!("{other:?}"),
        }
    }
}

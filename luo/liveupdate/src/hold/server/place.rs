// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Where the socket is: a name in a directory that nobody else may change.
//!
//! Everything is done relative to a descriptor of the directory, which is checked once. Whoever can
//! write to the directory could put a link to another file in the socket's place before its owner is
//! changed, and whoever can change a directory above it could put another directory there.

use super::super::{
    Error,
    Result, //
};
use rustix::{
    fs::{
        chownat,
        fchmod,
        fstat,
        openat,
        statat,
        unlinkat,
        AtFlags,
        FileType,
        Mode,
        OFlags,
        Stat,
        CWD, //
    },
    io::Errno,
    net::{
        bind,
        connect,
        socket_with,
        AddressFamily,
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
    ffi::OsString,
    os::fd::{
        AsRawFd as _,
        OwnedFd, //
    },
    path::{
        Path,
        PathBuf, //
    }, //
};

/// The place of a socket, and once it is bound, which file it is.
#[derive(Debug)]
pub(super) struct Place {
    path: PathBuf,
    dir: OwnedFd,
    name: OsString,
    bound: Option<(u64, u64)>,
}

impl Place {
    /// Opens the directory of `path` and makes sure that only root and this user may write to it.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let invalid = || Error::Path {
            path: path.to_owned(),
            source: Errno::INVAL,
        };
        let name = path.file_name().ok_or_else(invalid)?.to_owned();
        let parent = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let failed = |source| Error::Listen {
            path: path.to_owned(),
            source,
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = openat(CWD, parent, flags, Mode::empty()).map_err(failed)?;
        if !is_private(&fstat(&dir).map_err(failed)?) {
            return Err(Error::Directory {
                path: parent.to_owned(),
            });
        }
        Ok(Self {
            path: path.to_owned(),
            dir,
            name,
            bound: None,
        })
    }

    /// Binds a new socket here, with mode 0600 and the owner `user`. That of a dead server is
    /// replaced.
    pub(super) fn bind(&mut self, user: Option<Uid>) -> Result<OwnedFd> {
        let address = self.address()?;
        let listener = socket().map_err(|e| self.failed(e))?;
        // The file gets the socket's mode: it is never open to others, not even for a moment.
        fchmod(&listener, Mode::RUSR | Mode::WUSR).map_err(|e| self.failed(e))?;
        match bind(&listener, &address) {
            Err(Errno::ADDRINUSE) => {
                self.remove_stale(&address)?;
                bind(&listener, &address).map_err(|e| self.failed(e))?;
            }
            other => other.map_err(|e| self.failed(e))?,
        }
        let stat = self.stat().map_err(|e| self.failed(e))?;
        self.bound = Some((stat.st_dev, stat.st_ino));
        if user.is_some() {
            chownat(&self.dir, &self.name, user, None, AtFlags::SYMLINK_NOFOLLOW)
                .map_err(|e| self.failed(e))?;
        }
        Ok(listener)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn failed(&self, source: Errno) -> Error {
        Error::Listen {
            path: self.path.clone(),
            source,
        }
    }

    fn stat(&self) -> rustix::io::Result<Stat> {
        statat(&self.dir, &self.name, AtFlags::SYMLINK_NOFOLLOW)
    }

    /// The address of the name in the directory that was opened, whatever its path leads to now.
    fn address(&self) -> Result<SocketAddrUnix> {
        let path = Path::new("/proc/self/fd")
            .join(self.dir.as_raw_fd().to_string())
            .join(&self.name);
        SocketAddrUnix::new(path).map_err(|source| Error::Path {
            path: self.path.clone(),
            source,
        })
    }

    /// Removes the socket of a server that is dead. Anything else is left alone.
    fn remove_stale(&self, address: &SocketAddrUnix) -> Result<()> {
        let stat = self.stat().map_err(|e| self.failed(e))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Socket {
            return Err(self.failed(Errno::EXIST));
        }
        match connect(socket().map_err(|e| self.failed(e))?, address) {
            Err(Errno::CONNREFUSED) => {
                unlinkat(&self.dir, &self.name, AtFlags::empty()).map_err(|e| self.failed(e))
            }
            _ => Err(Error::InUse {
                path: self.path.clone(),
            }),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let ours = self
            .stat()
            .is_ok_and(|stat| self.bound == Some((stat.st_dev, stat.st_ino)));
        if ours {
            // A leftover is replaced by the next server, so a failure does no harm.
            let _ = unlinkat(&self.dir, &self.name, AtFlags::empty());
        }
    }
}

/// True if nobody but root and this user may write to a directory. The bits of the group also limit
/// what an access control list gives to others.
fn is_private(stat: &Stat) -> bool {
    let owner = stat.st_uid == 0 || stat.st_uid == geteuid().as_raw();
    let others = Mode::WGRP | Mode::WOTH;
    owner && !Mode::from_raw_mode(stat.st_mode).intersects(others)
}

/// An unbound socket.
pub(super) fn socket() -> rustix::io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC;
    socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
}

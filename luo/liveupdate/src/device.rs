// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The device, which creates and finds sessions.

use crate::{
    session,
    uapi,
    Error,
    IncomingSession,
    Result,
    Session,
    SessionName, //
};
use rustix::{
    fs::{
        Mode,
        OFlags, //
    },
    io::Errno, //
};
use std::{
    os::fd::OwnedFd,
    path::Path,
    thread,
    time::{
        Duration,
        Instant, //
    }, //
};

/// Where the device is.
pub const DEVICE: &str = "/dev/liveupdate";

/// How long [`LiveUpdate::open_wait`] sleeps between attempts: the device cannot be polled, and its
/// users are asked to be done in a moment.
const RETRY: Duration = Duration::from_millis(20);

/// `/dev/liveupdate`, open. Only one process on the host can have it, so drop it soon.
#[derive(Debug)]
pub struct LiveUpdate(OwnedFd);

impl LiveUpdate {
    /// Opens the device.
    ///
    /// The first open after a live update takes over what the previous kernel left, so all handler
    /// modules should be loaded by then.
    ///
    /// # Errors
    ///
    /// [`Error::Busy`] if another process has it open, [`Error::Open`] otherwise.
    pub fn open() -> Result<Self> {
        Self::open_path(Path::new(DEVICE))
    }

    /// Opens the device, waiting up to `timeout` while another process has it open.
    ///
    /// # Errors
    ///
    /// [`Error::Busy`] if it was still in use at the end, [`Error::Open`] otherwise.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use liveupdate::{Error, LiveUpdate};
    /// use std::time::Duration;
    ///
    /// match LiveUpdate::open_wait(Duration::from_secs(2)) {
    ///     Ok(_device) => println!("the device is ours"),
    ///     Err(Error::Busy { waited }) => println!("still in use after {waited:?}"),
    ///     Err(error) => println!("{error}"),
    /// }
    /// ```
    pub fn open_wait(timeout: Duration) -> Result<Self> {
        retry(timeout, Self::open)
    }

    /// Not public: an ioctl on a device of another kind could mean something else there.
    fn open_path(path: &Path) -> Result<Self> {
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        match rustix::fs::open(path, flags, Mode::empty()) {
            Ok(fd) => Ok(Self(fd)),
            Err(Errno::BUSY) => Err(Error::Busy {
                waited: Duration::ZERO,
            }),
            Err(source) => Err(Error::Open { source }),
        }
    }

    /// Creates an empty session. It lives as long as the [`Session`] (or a duplicate of its
    /// descriptor) is open, and does not need the device to stay open.
    ///
    /// # Errors
    ///
    /// [`Error::CreateSession`], with `EEXIST` if there is a session of this name.
    pub fn create_session(&self, name: &SessionName) -> Result<Session> {
        let mut request = uapi::CreateSession::new(-1, name.to_bytes());
        uapi::call(&self.0, &mut request).map_err(|source| Error::CreateSession {
            name: name.clone(),
            source,
        })?;
        Ok(Session(session::adopt(request.fd)))
    }

    /// Retrieves the session `name` that the previous kernel left. This works once: from then on the
    /// session belongs to whoever has the descriptor, and closing the last one finishes it.
    ///
    /// # Errors
    ///
    /// [`Error::RetrieveSession`], with `ENOENT` if there is none, `EINVAL` if it is retrieved
    /// already.
    pub fn retrieve_session(&self, name: &SessionName) -> Result<IncomingSession> {
        let mut request = uapi::RetrieveSession::new(-1, name.to_bytes());
        uapi::call(&self.0, &mut request).map_err(|source| Error::RetrieveSession {
            name: name.clone(),
            source,
        })?;
        Ok(IncomingSession(session::adopt(request.fd)))
    }
}

/// Repeats `open` while it answers [`Error::Busy`].
fn retry<T>(timeout: Duration, mut open: impl FnMut() -> Result<T>) -> Result<T> {
    let start = Instant::now();
    loop {
        match open() {
            Err(Error::Busy { .. }) => {
                let waited = start.elapsed();
                let Some(left) = timeout.checked_sub(waited).filter(|left| !left.is_zero()) else {
                    return Err(Error::Busy { waited });
                };
                thread::sleep(left.min(RETRY));
            }
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_device_is_explained() {
        let dir = tempfile::tempdir().unwrap();
        let error = LiveUpdate::open_path(&dir.path().join("liveupdate")).unwrap_err();
        assert_eq!(error.errno(), Some(Errno::NOENT));
        assert!(error.to_string().contains("kho=on"));
    }

    #[test]
    fn waiting_ends_when_the_device_is_free_or_the_time_is_up() {
        fn busy<T>() -> Result<T> {
            Err(Error::Busy {
                waited: Duration::ZERO,
            })
        }

        let mut attempts = 0;
        let opened = retry(Duration::from_secs(60), || {
            attempts += 1;
            if attempts < 3 {
                busy()
            } else {
                Ok(attempts)
            }
        });
        assert_eq!(opened.unwrap(), 3);

        let timeout = Duration::from_millis(50);
        match retry::<()>(timeout, busy) {
            Err(Error::Busy { waited }) => assert!(waited >= timeout),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn other_errors_are_not_waited_for() {
        let opened = retry::<()>(Duration::from_secs(60), || Err(Error::NameEmpty));
        assert!(matches!(opened, Err(Error::NameEmpty)));
    }
}

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Safe access to `/dev/liveupdate`, the kernel's Live Update Orchestrator (LUO).
//!
//! A live update replaces the host kernel with kexec while virtual machines keep their memory and
//! devices. A VMM takes part in four steps, two in each kernel:
//!
//! 1. Old kernel: [`LiveUpdate::create_session`] makes a named, empty [`Session`].
//! 2. Old kernel: [`Session::preserve`] puts an open file (a memfd, for example) into the session
//!    under a [`Token`] that the VMM chooses. The session must stay open until the reboot: closing
//!    it takes everything back, as if nothing had been preserved.
//! 3. New kernel: [`LiveUpdate::retrieve_session`] finds the session by name, and
//!    [`IncomingSession::retrieve`] returns each file by its token.
//! 4. New kernel: [`IncomingSession::finish`] tells the kernel that all is well. What has not been
//!    retrieved by then is freed.
//!
//! If something goes wrong before the reboot, dropping the [`Session`] gives the files back.
//!
//! Two facts shape a VMM's design:
//!
//! * `/dev/liveupdate` can be open only once on the whole host. Open it, create or retrieve the
//!   sessions, and drop it; the sessions live on. [`LiveUpdate::open_wait`] waits for others.
//! * The **first open in a new kernel** takes over everything the old kernel left. Handler modules
//!   should be loaded by then, and tools that only want to look must not open the device.
//!
//! A session is an ordinary file descriptor: it can be inherited or sent over a Unix socket, so that
//! another process holds it while the VMM restarts. The module [`hold`] (feature `hold`, on by
//! default) does that.
//!
//! # Examples
//!
//! Before the update:
//!
//! ```no_run
//! use liveupdate::{LiveUpdate, SessionName, Token};
//! use std::time::Duration;
//!
//! # fn preserve(guest_memory: std::os::fd::OwnedFd) -> Result<(), liveupdate::Error> {
//! let name = SessionName::new("vm-7")?;
//! let session = LiveUpdate::open_wait(Duration::from_secs(5))?.create_session(&name)?;
//! session.preserve(&guest_memory, Token(1))?;
//! // Keep `session` open, and reboot with kexec.
//! # std::mem::forget(session);
//! # Ok(())
//! # }
//! ```
//!
//! After the update:
//!
//! ```no_run
//! use liveupdate::{LiveUpdate, SessionName, Token};
//!
//! # fn resume() -> Result<std::os::fd::OwnedFd, liveupdate::Error> {
//! let name = SessionName::new("vm-7")?;
//! let session = LiveUpdate::open()?.retrieve_session(&name)?;
//! let guest_memory = session.retrieve(Token(1))?;
//! session.finish()?;
//! # Ok(guest_memory)
//! # }
//! ```
//!
//! Both are `no_run` because they need a kernel booted with `kho=on liveupdate=on`; the same calls
//! run in this project's tests in virtual machines.

#![deny(missing_docs)]

mod device;
mod error;
pub mod guest_memfd;
#[cfg(feature = "hold")]
pub mod hold;
mod name;
mod session;
mod uapi;
pub mod vfio;

pub use device::{
    LiveUpdate,
    DEVICE, //
};
pub use error::{
    Error,
    FinishError,
    Result, //
};
pub use name::{
    SessionName,
    Token, //
};
pub use session::{
    IncomingSession,
    Session, //
};

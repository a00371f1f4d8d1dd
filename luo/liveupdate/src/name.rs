// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Names of sessions and tokens of files.

use crate::{
    uapi::NAME_LEN,
    Error,
    Result, //
};
use std::{
    fmt,
    str::FromStr, //
};

/// The name of a session: 1 to 63 bytes, no NUL.
///
/// It must be unique on the host, and it is all that the new kernel's VMM needs to know.
///
/// ```
/// use liveupdate::SessionName;
///
/// assert_eq!(SessionName::new("vm-7")?.as_str(), "vm-7");
/// assert!(SessionName::new("").is_err());
/// assert!("x".repeat(64).parse::<SessionName>().is_err());
/// # Ok::<(), liveupdate::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionName(String);

impl SessionName {
    /// The longest name in bytes.
    pub const MAX_LEN: usize = NAME_LEN - 1;

    /// Checks `name` against the kernel's rules.
    ///
    /// # Errors
    ///
    /// [`Error::NameEmpty`], [`Error::NameTooLong`] or [`Error::NameHasNul`].
    pub fn new(name: impl Into<String>) -> Result<Self> {
        let name = name.into();
        if name.is_empty() {
            return Err(Error::NameEmpty);
        }
        if name.len() > Self::MAX_LEN {
            return Err(Error::NameTooLong { len: name.len() });
        }
        if name.contains('\0') {
            return Err(Error::NameHasNul);
        }
        Ok(Self(name))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name as the kernel wants it, padded with NULs.
    pub(crate) fn to_bytes(&self) -> [u8; NAME_LEN] {
        let mut bytes = [0; NAME_LEN];
        for (to, from) in bytes.iter_mut().zip(self.0.bytes()) {
            *to = from;
        }
        bytes
    }

    /// The name that the kernel stored; text that is not UTF-8 is shown as far as it can be.
    pub(crate) fn from_bytes(bytes: &[u8; NAME_LEN]) -> Result<Self> {
        let text = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
        Self::new(std::str::from_utf8(text).map_err(|_| Error::NameNotText)?)
    }
}

impl fmt::Display for SessionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<str> for SessionName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl FromStr for SessionName {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::new(name)
    }
}

impl TryFrom<String> for SessionName {
    type Error = Error;

    fn try_from(name: String) -> Result<Self> {
        Self::new(name)
    }
}

/// The number under which a file is preserved; the VMM chooses it, unique within its session.
///
/// ```
/// use liveupdate::Token;
///
/// assert_eq!(Token(0x10).to_string(), "16");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Token(pub u64);

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl From<u64> for Token {
    fn from(token: u64) -> Self {
        Self(token)
    }
}

impl FromStr for Token {
    type Err = std::num::ParseIntError;

    fn from_str(token: &str) -> std::result::Result<Self, Self::Err> {
        token.parse().map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_the_kernels() {
        assert!(matches!(SessionName::new(""), Err(Error::NameEmpty)));
        assert!(SessionName::new("x".repeat(63)).is_ok());
        assert!(matches!(
            SessionName::new("x".repeat(64)),
            Err(Error::NameTooLong { len: 64 })
        ));
        assert!(matches!(SessionName::new("a\0b"), Err(Error::NameHasNul)));
    }

    #[test]
    fn bytes_round_trip() {
        for text in ["a", "vm-7", &"x".repeat(63), "\u{e4}"] {
            let name = SessionName::new(text).unwrap();
            let bytes = name.to_bytes();
            assert_eq!(bytes[NAME_LEN - 1], 0);
            assert_eq!(SessionName::from_bytes(&bytes).unwrap(), name);
        }
    }

    #[test]
    fn names_from_the_kernel_are_checked() {
        assert!(matches!(
            SessionName::from_bytes(&[0; NAME_LEN]),
            Err(Error::NameEmpty)
        ));
        assert!(matches!(
            SessionName::from_bytes(&[0xff; NAME_LEN]),
            Err(Error::NameNotText)
        ));
        assert!(matches!(
            SessionName::from_bytes(&[b'x'; NAME_LEN]),
            Err(Error::NameTooLong { .. })
        ));
    }
}

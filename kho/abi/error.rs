// SPDX-License-Identifier: GPL-2.0-only OR BSD-3-Clause

//! What can be wrong with handed-over state.

use core::fmt;

/// A result of this module.
pub type Result<T = ()> = core::result::Result<T, Error>;

/// Why handed-over state was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// A flag is set that this version does not know.
    UnknownFlags,
    /// A seal is set that this version does not know.
    UnknownSeals,
    /// The file position is no file offset.
    Position,
    /// The file size is no file size.
    Size,
    /// There are more records than pages in the file, or an array without records.
    Count,
    /// The array of records does not fit its description: no address, misaligned, truncated, or
    /// larger than the file could need.
    Array,
    /// A page list of the array is damaged.
    ArrayPages,
    /// A page number has no physical address, or is not aligned to its order.
    Pfn,
    /// Nothing that waits to be restored starts at this page: it was not preserved, or it was named
    /// before.
    NotPreserved,
    /// The preserved memory has a size that cannot be in a file.
    Order,
    /// A folio is not aligned to its size within the file.
    IndexUnaligned,
    /// A folio overlaps the one before it, or records are out of order.
    IndexOverlap,
    /// A folio is behind the end of the file.
    IndexOutside,
    /// A checksum does not fit what it was made of.
    Checksum,
    /// The previous kernel had pages of another size.
    PageSize,
    /// This is no header, or one of another version.
    Version,
    /// Memory of a kind that does not belong here, or that this version does not know.
    Class,
    /// Memory of a kind of VM that this version does not know, or that cannot have such memory.
    VmType,
    /// A memory policy that this version does not know, or that contradicts itself.
    Policy,
    /// A device tree is damaged, or lacks what must be in it.
    DeviceTree,
    /// A block of LUO is damaged.
    Block,
}

impl Error {
    /// The nearest error number, positive.
    #[inline]
    pub const fn errno(self) -> i32 {
        const EIO: i32 = 5;
        const EINVAL: i32 = 22;
        const EOPNOTSUPP: i32 = 95;

        match self {
            Self::UnknownFlags | Self::UnknownSeals | Self::Version | Self::VmType => EOPNOTSUPP,
            Self::NotPreserved => EIO,
            _ => EINVAL,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::UnknownFlags => "unknown flags",
            Self::UnknownSeals => "unknown seals",
            Self::Position => "file position out of range",
            Self::Size => "file size out of range",
            Self::Count => "number of folios does not fit the file size",
            Self::Array => "folio array does not fit its description",
            Self::ArrayPages => "page list of the folio array is damaged",
            Self::Pfn => "invalid page number",
            Self::NotPreserved => "page is not preserved, or is used twice",
            Self::Order => "folio is too large for a file",
            Self::IndexUnaligned => "folio is not aligned within the file",
            Self::IndexOverlap => "folios overlap or are out of order",
            Self::IndexOutside => "folio is behind the end of the file",
            Self::Checksum => "wrong checksum",
            Self::PageSize => "the previous kernel had pages of another size",
            Self::Version => "no header of a version that is known",
            Self::Class => "memory of a kind that does not belong here",
            Self::VmType => "memory of a kind of VM that is not known",
            Self::Policy => "memory policy that is not known",
            Self::DeviceTree => "damaged device tree",
            Self::Block => "damaged list of sessions or files",
        })
    }
}

impl core::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

    #[test]
    fn each_class_has_its_error_number() {
        assert_eq!(Error::UnknownSeals.errno(), 95);
        assert_eq!(Error::NotPreserved.errno(), 5);
        assert_eq!(Error::Array.errno(), 22);
        assert_eq!(
            Error::IndexOverlap.to_string(),
            "folios overlap or are out of order"
        );
    }
}

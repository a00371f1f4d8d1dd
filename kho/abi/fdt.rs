// SPDX-License-Identifier: GPL-2.0-only OR BSD-3-Clause

//! Flattened device trees, as far as KHO uses them: what is in them, one thing after the other.
//!
//! The structure is that of the Devicetree Specification, chapter 5. Its numbers are big endian; those
//! that KHO puts into properties are little endian.

use super::{
    Error,
    Result, //
};

const MAGIC: u32 = 0xd00d_feed;
/// The version of the structure that KHO's library writes, and the oldest that reads the same.
const VERSION: u32 = 17;
const COMPATIBLE_VERSION: u32 = 16;

/// How deep nodes may be in one another.
const DEPTH: u32 = 8;

/// A tree whose parts are where its header says.
#[derive(Clone, Copy, Debug)]
pub struct Fdt<'a> {
    total: usize,
    structure: &'a [u8],
    strings: &'a [u8],
}

/// What is in a tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token<'a> {
    /// A node with this name begins.
    Node(&'a [u8]),
    /// A property of the node that began last and has not ended.
    Property(&'a [u8], &'a [u8]),
    /// A node ends.
    End,
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..)?.first_chunk()?;
    Some(u32::from_be_bytes(*bytes))
}

fn offset(bytes: &[u8], at: usize) -> Option<usize> {
    usize::try_from(word(bytes, at)?).ok()
}

/// The bytes before the first zero, which must be there.
fn string(bytes: &[u8]) -> Option<&[u8]> {
    let len = bytes.iter().position(|byte| *byte == 0)?;
    bytes.get(..len)
}

impl<'a> Fdt<'a> {
    /// Finds the parts of the tree that `bytes` begin with.
    pub fn parse(bytes: &'a [u8]) -> Result<Self> {
        Self::find(bytes).ok_or(Error::DeviceTree)
    }

    fn find(bytes: &'a [u8]) -> Option<Self> {
        if word(bytes, 0)? != MAGIC
            || word(bytes, 20)? < VERSION
            || word(bytes, 24)? > COMPATIBLE_VERSION
        {
            return None;
        }
        let total = offset(bytes, 4)?;
        let bytes = bytes.get(..total)?;
        let part = |at: usize, len: usize| {
            let (at, len) = (offset(bytes, at)?, offset(bytes, len)?);
            bytes.get(at..at.checked_add(len)?)
        };
        Some(Self {
            total,
            structure: part(8, 36)?,
            strings: part(12, 32)?,
        })
    }

    /// Size in bytes.
    #[inline]
    pub fn total(&self) -> usize {
        self.total
    }

    /// All that is in it. The last one is the end of the root node, or an error.
    #[inline]
    pub fn tokens(&self) -> Tokens<'a> {
        Tokens {
            fdt: *self,
            rest: Some(self.structure),
            depth: 0,
        }
    }
}

/// The iterator of [`Fdt::tokens`].
#[derive(Clone, Debug)]
pub struct Tokens<'a> {
    fdt: Fdt<'a>,
    /// [`None`] after the end.
    rest: Option<&'a [u8]>,
    depth: u32,
}

impl<'a> Tokens<'a> {
    /// Takes bytes, and those up to the next multiple of four.
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let rest = self.rest?;
        let taken = rest.get(..len)?;
        self.rest = Some(rest.get(len.checked_next_multiple_of(4)?..)?);
        Some(taken)
    }

    fn number(&mut self) -> Option<u32> {
        word(self.take(4)?, 0)
    }

    fn token(&mut self) -> Option<Token<'a>> {
        const BEGIN: u32 = 1;
        const END: u32 = 2;
        const PROPERTY: u32 = 3;
        const NOTHING: u32 = 4;

        loop {
            return match self.number()? {
                NOTHING => continue,
                BEGIN if self.depth < DEPTH => {
                    let name = string(self.rest?)?;
                    // No overflow: there is a zero behind it.
                    self.take(name.len() + 1)?;
                    self.depth += 1;
                    Some(Token::Node(name))
                }
                PROPERTY if self.depth > 0 => {
                    let len = usize::try_from(self.number()?).ok()?;
                    let name = usize::try_from(self.number()?).ok()?;
                    let name = string(self.fdt.strings.get(name..)?)?;
                    Some(Token::Property(name, self.take(len)?))
                }
                END => {
                    self.depth = self.depth.checked_sub(1)?;
                    Some(Token::End)
                }
                _ => None,
            };
        }
    }
}

impl<'a> Iterator for Tokens<'a> {
    type Item = Result<Token<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        self.rest?;
        let token = self.token();
        if token.is_none() || (token == Some(Token::End) && self.depth == 0) {
            self.rest = None;
        }
        Some(token.ok_or(Error::DeviceTree))
    }
}

/// Trees for tests.
#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::vec::Vec;

    /// Writes a tree of properties (a name and a value) and nodes (a name alone, and nothing at all for
    /// the end).
    pub(crate) fn tree(tokens: &[(&str, Option<&[u8]>)]) -> Vec<u8> {
        let (mut structure, mut strings) = (Vec::new(), Vec::new());
        let pad = |bytes: &mut Vec<u8>| bytes.resize(bytes.len().next_multiple_of(4), 0);
        for (name, value) in tokens {
            match value {
                Some(value) => {
                    structure.extend(3u32.to_be_bytes());
                    structure.extend((value.len() as u32).to_be_bytes());
                    structure.extend((strings.len() as u32).to_be_bytes());
                    structure.extend(*value);
                    strings.extend(name.bytes().chain([0]));
                }
                None if *name == "end" => structure.extend(2u32.to_be_bytes()),
                None => {
                    structure.extend(1u32.to_be_bytes());
                    structure.extend(name.bytes().chain([0]));
                }
            }
            pad(&mut structure);
        }
        structure.extend(9u32.to_be_bytes());
        let (at, end) = (40, 40 + structure.len());
        let header = [
            MAGIC as usize,
            end + strings.len(),
            at,
            end,
            40,
            17,
            16,
            0,
            strings.len(),
            structure.len(),
        ];
        let mut bytes: Vec<u8> = header
            .iter()
            .flat_map(|word| (*word as u32).to_be_bytes())
            .collect();
        bytes.extend(structure);
        bytes.extend(strings);
        bytes
    }

    fn small() -> Vec<u8> {
        tree(&[
            ("", None),
            ("compatible", Some(b"kho-v4\0")),
            ("LUO", None),
            ("size", Some(&[32, 0, 0, 0, 0, 0, 0, 0])),
            ("end", None),
            ("end", None),
        ])
    }

    #[test]
    fn everything_is_found_in_order() {
        let bytes = small();
        let tokens: Result<Vec<_>> = Fdt::parse(&bytes).unwrap().tokens().collect();
        let expected = [
            Token::Node(b""),
            Token::Property(b"compatible", b"kho-v4\0"),
            Token::Node(b"LUO"),
            Token::Property(b"size", &[32, 0, 0, 0, 0, 0, 0, 0]),
            Token::End,
            Token::End,
        ];
        assert_eq!(tokens.unwrap(), expected);
    }

    #[test]
    fn any_damage_ends_in_an_error_or_another_tree() {
        let good = small();
        for at in 0..good.len() {
            assert!(Fdt::parse(&good[..at]).is_err());
            for value in [0, 1, 3, 0x7f, 0xff] {
                let mut bytes = good.clone();
                bytes[at] = value;
                if let Ok(fdt) = Fdt::parse(&bytes) {
                    assert!(fdt.tokens().count() < bytes.len());
                }
            }
        }
    }

    #[test]
    fn what_does_not_end_is_an_error() {
        let bytes = tree(&[("", None)]);
        let last = Fdt::parse(&bytes).unwrap().tokens().last();
        assert_eq!(last, Some(Err(Error::DeviceTree)));
        let deep: Vec<_> = (0..20).map(|_| ("x", None)).collect();
        assert!(Fdt::parse(&tree(&deep)).unwrap().tokens().count() < 12);
    }
}

// SPDX-License-Identifier: GPL-2.0-only OR BSD-3-Clause

//! KHO's root: the device tree whose address one kernel gives to the next.
//!
//! C header: [`include/linux/kho/abi/kexec_handover.h`](srctree/include/linux/kho/abi/kexec_handover.h)

use super::{
    fdt::{
        Fdt,
        Token, //
    },
    Error,
    Result, //
};

/// The version of KHO that this describes.
pub const COMPATIBLE: &[u8] = b"kho-v4";

/// A piece of memory that a part of the kernel hands over under a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subtree<'a> {
    /// The name.
    pub name: &'a [u8],
    /// Physical address of its first byte.
    pub phys: u64,
    /// Size in bytes.
    pub size: u64,
}

/// A root whose nodes and properties are those of KHO.
#[derive(Clone, Copy, Debug)]
pub struct Root<'a> {
    fdt: Fdt<'a>,
    /// Physical address of the root of the tree of preserved memory.
    pub memory_map: u64,
}

/// A number in a property.
pub(crate) fn number(value: &[u8]) -> Result<u64> {
    let bytes = value.try_into().map_err(|_| Error::DeviceTree)?;
    Ok(u64::from_le_bytes(bytes))
}

impl<'a> Root<'a> {
    /// Checks all of the tree.
    pub fn parse(bytes: &'a [u8]) -> Result<Self> {
        let fdt = Fdt::parse(bytes)?;
        let (mut depth, mut map) = (0u32, None);
        let mut compatible: &[u8] = &[];
        for token in fdt.tokens() {
            match token? {
                Token::Node(_) => depth += 1,
                // No overflow: the iterator counts them, too.
                Token::End => depth -= 1,
                Token::Property(b"compatible", value) if depth == 1 => compatible = value,
                Token::Property(b"preserved-memory-map", value) if depth == 1 => {
                    map = Some(number(value)?);
                }
                Token::Property(..) => {}
            }
        }
        if compatible.strip_suffix(&[0]) != Some(COMPATIBLE) {
            return Err(Error::Version);
        }
        let memory_map = map.ok_or(Error::DeviceTree)?;
        let root = Self { fdt, memory_map };
        root.subtrees().try_for_each(|subtree| subtree.map(drop))?;
        Ok(root)
    }

    /// Size of the device tree in bytes.
    #[inline]
    pub fn total(&self) -> usize {
        self.fdt.total()
    }

    /// What is handed over under names.
    pub fn subtrees(&self) -> impl Iterator<Item = Result<Subtree<'a>>> {
        let mut tokens = self.fdt.tokens();
        let mut depth = 0u32;
        core::iter::from_fn(move || loop {
            match tokens.next()? {
                Ok(Token::Node(name)) => {
                    depth += 1;
                    if depth == 2 {
                        depth = 1;
                        return Some(subtree(name, &mut tokens));
                    }
                }
                Ok(Token::End | Token::Property(..)) => {}
                Err(error) => return Some(Err(error)),
            }
        })
    }
}

/// Takes the rest of a node, with all that is in it.
fn subtree<'a>(
    name: &'a [u8],
    tokens: &mut impl Iterator<Item = Result<Token<'a>>>,
) -> Result<Subtree<'a>> {
    let (mut phys, mut size, mut depth) = (None, None, 1u32);
    while depth > 0 {
        match tokens.next().ok_or(Error::DeviceTree)?? {
            Token::Node(_) => depth += 1,
            Token::End => depth -= 1,
            Token::Property(b"preserved-data", value) if depth == 1 => phys = Some(number(value)?),
            Token::Property(b"blob-size", value) if depth == 1 => size = Some(number(value)?),
            Token::Property(..) => {}
        }
    }
    Ok(Subtree {
        name,
        phys: phys.ok_or(Error::DeviceTree)?,
        size: size.ok_or(Error::DeviceTree)?,
    })
}

#[cfg(test)]
mod tests {
    use super::{
        super::fdt::tests::tree,
        *, //
    };
    use std::vec::Vec;

    const MAP: &[u8] = &[0, 0x10, 0, 0, 0, 0, 0, 0];

    #[test]
    fn subtrees_are_found() {
        let bytes = tree(&[
            ("", None),
            ("compatible", Some(b"kho-v4\0")),
            ("preserved-memory-map", Some(MAP)),
            ("LUO", None),
            ("preserved-data", Some(&[0, 0x20, 0, 0, 0, 0, 0, 0])),
            ("blob-size", Some(&[32, 0, 0, 0, 0, 0, 0, 0])),
            ("end", None),
            ("x", None),
            ("preserved-data", Some(MAP)),
            ("blob-size", Some(MAP)),
            ("end", None),
            ("end", None),
        ]);
        let root = Root::parse(&bytes).unwrap();
        assert_eq!(root.memory_map, 0x1000);
        let found: Vec<_> = root.subtrees().map(Result::unwrap).collect();
        assert_eq!(found.len(), 2);
        assert_eq!(
            found[0],
            Subtree {
                name: b"LUO",
                phys: 0x2000,
                size: 32
            }
        );
    }

    #[test]
    fn other_trees_are_refused() {
        let refuse = |tokens: &[_]| Root::parse(&tree(tokens)).unwrap_err();
        let version = ("compatible", Some(&b"kho-v3\0"[..]));
        let map = ("preserved-memory-map", Some(MAP));
        let end = ("end", None);
        assert_eq!(refuse(&[("", None), version, map, end]), Error::Version);
        let version = ("compatible", Some(&b"kho-v4\0"[..]));
        assert_eq!(refuse(&[("", None), version, end]), Error::DeviceTree);
        let node = ("LUO", None);
        assert_eq!(
            refuse(&[("", None), version, map, node, end, end]),
            Error::DeviceTree
        );
        let short = ("preserved-memory-map", Some(&b"x"[..]));
        assert_eq!(
            refuse(&[("", None), version, short, end]),
            Error::DeviceTree
        );
    }
}

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The running system: what is preserved, in which versions, and where the next kernel has to fit.

use anyhow::{
    bail,
    Result, //
};
use kho::abi::{
    fdt::{
        Fdt,
        Token, //
    },
    luo, //
};
use std::{
    fs,
    path::Path, //
};

use super::room::Area;
use crate::{
    reason::reason,
    status::{
        number,
        text,
        Status, //
    },
};

const KHO: &str = "sys/kernel/debug/kho/out";

/// A preserved file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct File {
    pub(crate) compatible: String,
    pub(crate) id: u64,
    pub(crate) bytes: u64,
}

/// Preserved huge pages of one size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HugePages {
    pub(crate) size: u64,
    pub(crate) preserved: u64,
    /// How many the pool has now.
    pub(crate) pool: u64,
}

/// What is known of the running system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct System {
    pub(crate) machine: String,
    pub(crate) page_shift: u32,
    /// Its version of KHO, such as "kho-v4", if it can be read.
    pub(crate) kho: Option<String>,
    /// The same of LUO.
    pub(crate) luo: Option<String>,
    /// The areas that the next kernel is loaded into, if they can be read.
    pub(crate) scratch: Option<Vec<Area>>,
    pub(crate) files: Vec<File>,
    pub(crate) huge_pages: Vec<HugePages>,
}

impl System {
    /// Looks at the system below `root`.
    pub(crate) fn read(root: &Path) -> Result<Self> {
        // Whatever else is wrong, this explains it better.
        let status = Status::of(root);
        if !root.join("dev/liveupdate").exists() {
            bail!("nothing can be preserved by this kernel: {}", reason(root));
        }
        let status = status?;
        let uname = rustix::system::uname();
        let files = status.files.iter();
        let preserved = files.filter(|file| text(file, "state") != "retrieved");
        Ok(Self {
            machine: uname.machine().to_string_lossy().into_owned(),
            page_shift: rustix::param::page_size().trailing_zeros(),
            kho: compatible(&root.join(KHO).join("fdt")),
            luo: version(&root.join(KHO).join("sub_fdts/LUO")),
            scratch: scratch(&root.join(KHO)),
            files: preserved
                .map(|file| File {
                    compatible: text(file, "compatible").to_owned(),
                    id: number(file, "id").unwrap_or(0),
                    bytes: number(file, "bytes").unwrap_or(0),
                })
                .collect(),
            huge_pages: status
                .huge_pages
                .iter()
                .filter_map(|pages| {
                    let size = number(pages, "size")?;
                    let preserved = number(pages, "preserved").filter(|nr| *nr > 0)?;
                    let kib = size >> 10;
                    let path = format!("sys/kernel/mm/hugepages/hugepages-{kib}kB/nr_hugepages");
                    let pool = fs::read_to_string(root.join(path)).ok()?;
                    Some(HugePages {
                        size,
                        preserved,
                        pool: pool.trim().parse().ok()?,
                    })
                })
                .collect(),
        })
    }
}

/// The version in KHO's root.
fn compatible(path: &Path) -> Option<String> {
    let bytes = fs::read(path).ok()?;
    let mut tokens = Fdt::parse(&bytes).ok()?.tokens();
    let value = tokens.find_map(|token| match token {
        Ok(Token::Property(b"compatible", value)) => Some(value),
        _ => None,
    })?;
    Some(String::from_utf8_lossy(luo::name(value)).into_owned())
}

/// The version in LUO's state, which begins with it.
fn version(path: &Path) -> Option<String> {
    let bytes = fs::read(path).ok()?;
    let name = luo::name(bytes.get(..8)?);
    Some(String::from_utf8_lossy(name).into_owned())
}

/// The scratch areas, in KHO's order.
fn scratch(kho: &Path) -> Option<Vec<Area>> {
    let numbers = |name| -> Option<Vec<u64>> {
        let text = fs::read_to_string(kho.join(name)).ok()?;
        let numbers = text.lines().map(|line| {
            let digits = line.trim().strip_prefix("0x")?;
            u64::from_str_radix(digits, 16).ok()
        });
        numbers.collect()
    };
    let (starts, lens) = (numbers("scratch_phys")?, numbers("scratch_len")?);
    let areas = starts.into_iter().zip(lens);
    Some(areas.map(|(start, len)| Area { start, len }).collect())
}

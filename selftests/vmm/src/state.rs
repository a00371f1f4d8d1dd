// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The format of the state that a VMM leaves for the VMM of the next kernel.
//!
//! ```text
//! header    magic, version, architecture, length, number of sections, checksum, claim
//! section   kind, index (number of the vCPU or chip), length, payload, padding to 8 bytes
//! ...
//! ```
//!
//! All numbers are little endian; payloads are KVM's own structures or the records below. The state
//! crosses a kernel and perhaps a version of this program, so nothing in it is believed: lengths are
//! compared with what is there, unknown kinds and repeated sections are refused, and a payload must
//! have the exact size of what is read from it.
//!
//! The claim is the only field that changes later. The VMM that lets the guest run sets it, because
//! from then on the memory is newer than the state, and nobody may resume from the pair again.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;

use anyhow::{
    bail,
    ensure,
    Context,
    Result, //
};
use rustix::fs::{
    memfd_create,
    MemfdFlags, //
};
use zerocopy::{
    FromBytes,
    FromZeros,
    Immutable,
    IntoBytes,
    KnownLayout, //
};

const MAGIC: u64 = u64::from_le_bytes(*b"LUVMSTAT");
const VERSION: u32 = 1;
/// More than any vCPU count that this VMM can start needs.
const MAX_LEN: u64 = 16 << 20;
const ALIGN: usize = 8;

#[cfg(target_arch = "x86_64")]
const ARCH: u32 = 1;
#[cfg(target_arch = "aarch64")]
const ARCH: u32 = 2;

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Header {
    magic: u64,
    version: u32,
    arch: u32,
    len: u64,
    sections: u32,
    reserved: u32,
    checksum: u64,
    claim: u64,
}

const HEADER: usize = size_of::<Header>();
const CLAIM_AT: u64 = (HEADER - 8) as u64;

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct SectionHeader {
    kind: u32,
    index: u32,
    len: u64,
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $number:literal,)*) => {
        /// What a section holds. Numbers are never given a second meaning.
        #[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
        #[repr(u32)]
        #[allow(dead_code, reason = "each architecture uses its own and the common ones")]
        pub(crate) enum Kind {
            $($(#[$doc])* $name = $number,)*
        }

        impl Kind {
            fn from_number(number: u32) -> Option<Self> {
                match number {
                    $($number => Some(Self::$name),)*
                    _ => None,
                }
            }
        }
    };
}

kinds! {
    /// [`crate::machine::Record`]
    Guest = 1,
    /// Points in time, see [`crate::timeline`].
    Timeline = 2,
    /// The serial port.
    Serial = 3,
    /// What the guest has written of a line that is not complete yet.
    Line = 4,
    /// Private pages, and pages that the guest wants to be converted: see [`crate::memory::Shape`].
    Private = 5,
    Waiting = 6,
    Regs = 16,
    Sregs = 17,
    Xsave = 18,
    Xcrs = 19,
    DebugRegs = 20,
    Lapic = 21,
    Msrs = 22,
    VcpuEvents = 23,
    MpState = 24,
    Cpuid = 25,
    Tsc = 26,
    Irqchip = 32,
    Pit = 33,
    Clock = 34,
    OneRegs = 48,
    Counter = 49,
    GicDist = 50,
    GicRedist = 51,
    GicCpu = 52,
    GicLevel = 53,
}

/// A 64-bit checksum that notices every changed byte. It is for accidents, not for attackers.
pub(crate) fn checksum(seed: u64, bytes: &[u8]) -> u64 {
    const PRIME: u64 = 0x9e37_79b9_7f4a_7c15;
    let step = |sum: u64, word: u64| (sum ^ word).wrapping_mul(PRIME).rotate_left(29);
    let mut words = bytes.chunks_exact(8);
    let mut sum = seed ^ bytes.len() as u64;
    for word in words.by_ref() {
        sum = step(sum, word.try_into().map_or(0, u64::from_le_bytes));
    }
    words
        .remainder()
        .iter()
        .fold(sum, |sum, byte| step(sum, u64::from(*byte)))
}

/// Collects sections.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    body: Vec<u8>,
    sections: u32,
}

impl Writer {
    /// Adds a section.
    pub(crate) fn put<T: IntoBytes + Immutable + ?Sized>(
        &mut self,
        kind: Kind,
        index: usize,
        value: &T,
    ) -> Result<()> {
        let payload = value.as_bytes();
        let head = SectionHeader {
            kind: kind as u32,
            index: u32::try_from(index)?,
            len: payload.len() as u64,
        };
        self.body.extend_from_slice(head.as_bytes());
        self.body.extend_from_slice(payload);
        self.body.resize(self.body.len().next_multiple_of(ALIGN), 0);
        self.sections += 1;
        Ok(())
    }

    /// Adds a section that is a list of structures.
    pub(crate) fn put_list<T: IntoBytes + Immutable>(
        &mut self,
        kind: Kind,
        index: usize,
        list: &[T],
    ) -> Result<()> {
        self.put(kind, index, list.as_bytes())
    }

    /// The whole state as bytes.
    pub(crate) fn finish(self) -> Result<Vec<u8>> {
        let mut header = Header {
            magic: MAGIC,
            version: VERSION,
            arch: ARCH,
            len: (HEADER + self.body.len()) as u64,
            sections: self.sections,
            ..Header::new_zeroed()
        };
        ensure!(
            header.len <= MAX_LEN,
            "the state is too large: {}",
            header.len
        );
        header.checksum = checksum(checksum(0, header.as_bytes()), &self.body);
        let mut all = header.as_bytes().to_vec();
        all.extend_from_slice(&self.body);
        Ok(all)
    }
}

/// A state that has been checked as a whole.
#[derive(Debug)]
pub(crate) struct State {
    sections: BTreeMap<(Kind, u32), Vec<u8>>,
}

impl State {
    /// Checks the state in `file` and takes it apart.
    pub(crate) fn read(file: &File) -> Result<Self> {
        let len = file.metadata()?.len();
        ensure!(
            (HEADER as u64..=MAX_LEN).contains(&len),
            "a state has between {HEADER} and {MAX_LEN} bytes, this one has {len}"
        );
        let mut bytes = vec![0; usize::try_from(len)?];
        file.read_exact_at(&mut bytes, 0)
            .context("the state cannot be read")?;
        Self::parse(&bytes)
    }

    fn parse(bytes: &[u8]) -> Result<Self> {
        let (mut header, rest) = Header::read_from_prefix(bytes)
            .ok()
            .context("the state is shorter than its header")?;
        ensure!(header.magic == MAGIC, "this is not the state of a VMM");
        ensure!(
            header.version == VERSION,
            "the state has version {}, this VMM knows {VERSION}",
            header.version
        );
        ensure!(
            header.arch == ARCH,
            "the state is of another architecture ({})",
            header.arch
        );
        ensure!(header.reserved == 0, "a reserved field of the state is set");
        let body = usize::try_from(header.len)
            .ok()
            .and_then(|len| len.checked_sub(HEADER))
            .and_then(|len| rest.get(..len))
            .context("the state says that it is longer than its file")?;
        ensure!(
            header.claim == 0,
            "the guest has run on from this state already; its memory is newer"
        );
        let expected = std::mem::take(&mut header.checksum);
        ensure!(
            checksum(checksum(0, header.as_bytes()), body) == expected,
            "the state is damaged: its checksum is wrong"
        );

        let mut sections = BTreeMap::new();
        let mut left = body;
        while !left.is_empty() {
            let (head, tail) = SectionHeader::read_from_prefix(left)
                .ok()
                .context("a section of the state is cut short")?;
            let kind = Kind::from_number(head.kind).with_context(|| {
                format!("the state has a section of unknown kind {}", head.kind)
            })?;
            let len = usize::try_from(head.len).context("a section is too long")?;
            let payload = tail
                .get(..len)
                .with_context(|| format!("section {kind:?} is longer than the state"))?;
            if sections
                .insert((kind, head.index), payload.to_vec())
                .is_some()
            {
                bail!("the state has section {kind:?} {} twice", head.index);
            }
            left = len
                .checked_next_multiple_of(ALIGN)
                .and_then(|padded| tail.get(padded..))
                .with_context(|| format!("the padding of section {kind:?} is missing"))?;
        }
        ensure!(
            u32::try_from(sections.len()) == Ok(header.sections),
            "the state has {} sections and says {}",
            sections.len(),
            header.sections
        );
        Ok(Self { sections })
    }

    /// Puts a state into `kept`, the file of an older one, or into a new file.
    pub(crate) fn write(state: &[u8], kept: Option<&File>) -> Result<File> {
        let file = match kept {
            Some(file) => file.try_clone()?,
            None => memfd_create("guest-state", MemfdFlags::CLOEXEC)?.into(),
        };
        file.set_len(state.len() as u64)?;
        file.write_all_at(state, 0)?;
        Ok(file)
    }

    /// Marks the state in `file` as used, for good.
    pub(crate) fn claim(file: &File) -> Result<()> {
        file.write_all_at(&1u64.to_le_bytes(), CLAIM_AT)
            .context("the state cannot be marked as used")
    }

    /// For tests: changes one bit in the middle of the state in `file`.
    pub(crate) fn damage(file: &File) -> Result<()> {
        let at = file.metadata()?.len() / 2;
        let mut byte = [0];
        file.read_exact_at(&mut byte, at)?;
        Ok(file.write_all_at(&byte.map(|b| b ^ 4), at)?)
    }

    /// The payload of a section.
    pub(crate) fn bytes(&self, kind: Kind, index: usize) -> Result<&[u8]> {
        u32::try_from(index)
            .ok()
            .and_then(|index| self.sections.get(&(kind, index)))
            .map(Vec::as_slice)
            .with_context(|| format!("the state lacks section {kind:?} {index}"))
    }

    /// A section that is one structure.
    pub(crate) fn get<T: FromBytes>(&self, kind: Kind, index: usize) -> Result<T> {
        let bytes = self.bytes(kind, index)?;
        T::read_from_bytes(bytes).ok().with_context(|| {
            format!(
                "section {kind:?} {index} has {} bytes, {} are expected",
                bytes.len(),
                size_of::<T>()
            )
        })
    }

    /// A section that is a list of structures.
    pub(crate) fn list<T: FromBytes>(&self, kind: Kind, index: usize) -> Result<Vec<T>> {
        let bytes = self.bytes(kind, index)?;
        ensure!(
            bytes.len().is_multiple_of(size_of::<T>()),
            "section {kind:?} {index} is no whole list"
        );
        Ok(bytes
            .chunks_exact(size_of::<T>())
            .filter_map(|chunk| T::read_from_bytes(chunk).ok())
            .collect())
    }
}

#[cfg(test)]
mod tests;

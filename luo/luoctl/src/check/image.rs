// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A kernel image: for which machine it is, and what it says of itself.

use anyhow::{
    bail,
    ensure,
    Context as _,
    Result, //
};
use memchr::memmem;
use std::{
    collections::BTreeSet,
    fs::File,
    io::Read as _,
    path::Path, //
};

use crate::unpack::Packing;

/// No image is this large.
const MAX: u64 = 512 << 20;

/// Where the kernel can be loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Placement {
    /// At a multiple of a number, from an address on.
    X86 { align: u64, address: u64 },
    /// Anywhere.
    Arm64,
}

/// What is known of an image.
#[derive(Debug)]
pub(crate) struct Image {
    /// As `uname -m` says it.
    pub(crate) machine: &'static str,
    /// As `uname -r` says it.
    pub(crate) release: String,
    /// How much memory the kernel takes where it is loaded.
    pub(crate) memory: u64,
    pub(crate) placement: Placement,
    /// Its configuration, if that is built in (`CONFIG_IKCONFIG`).
    pub(crate) config: Option<String>,
    /// Versions that are compiled in, such as "kho-v4".
    versions: BTreeSet<String>,
    /// Whether it knows how many huge pages were preserved (patch 0012).
    pub(crate) counts_huge_pages: bool,
    /// Whether it knows which devices go on running (patch 0036).
    pub(crate) knows_devices: bool,
    /// Whether it leaves IOMMUs on for them (patch 0050).
    pub(crate) knows_iommus: bool,
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn range(bytes: &[u8], start: usize, len: u32) -> Option<&[u8]> {
    let end = start.checked_add(usize::try_from(len).ok()?)?;
    bytes.get(start..end)
}

impl Image {
    /// Reads the file of an image, as it is given to `kexec_file_load()`.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let mut bytes = Vec::new();
        File::open(path)
            .and_then(|file| file.take(MAX).read_to_end(&mut bytes))
            .with_context(|| format!("cannot read {}", path.display()))?;
        Self::parse(&bytes).with_context(|| format!("cannot use {}", path.display()))
    }

    fn parse(bytes: &[u8]) -> Result<Self> {
        if bytes.get(0x202..0x206) == Some(b"HdrS") {
            return Self::x86(bytes).context("the header of the bzImage is damaged")?;
        }
        if bytes.get(56..60) == Some(b"ARM\x64") {
            return Self::arm64(bytes);
        }
        if bytes.get(4..8) == Some(b"zimg") {
            bail!(
                "it unpacks itself (EFI zboot), which kexec_file_load() refuses; name the Image that is in it"
            );
        }
        if Packing::of(bytes).is_some() {
            bail!("it is packed, which kexec_file_load() refuses; name what is in it (`gunzip`)");
        }
        bail!("it is neither a bzImage of x86 nor an Image of arm64");
    }

    fn x86(bytes: &[u8]) -> Option<Result<Self>> {
        /// Whether the kernel has a 64-bit entry.
        const KERNEL_64: u16 = 1;

        if half(bytes, 0x206)? < 0x20c || half(bytes, 0x236)? & KERNEL_64 == 0 {
            return Some(Err(anyhow::anyhow!("it is no 64-bit kernel")));
        }
        let sectors = match *bytes.get(0x1f1)? {
            0 => 4,
            sectors => usize::from(sectors),
        };
        let offset = usize::try_from(word(bytes, 0x248)?).ok()?;
        let payload = (sectors + 1) * 512 + offset;
        let payload = range(bytes, payload, word(bytes, 0x24c)?)?;
        let memory = word(bytes, 0x260)?.into();
        let placement = Placement::X86 {
            align: word(bytes, 0x230)?.into(),
            address: u64::from_le_bytes(*bytes.get(0x258..)?.first_chunk()?),
        };
        let kernel = match Packing::of(payload) {
            Some(packing) => packing.unpack(payload),
            None => Ok(payload.to_vec()),
        };
        Some(kernel.and_then(|kernel| Self::kernel(placement, memory, &kernel)))
    }

    fn arm64(bytes: &[u8]) -> Result<Self> {
        let memory = bytes.get(16..).and_then(|bytes| bytes.first_chunk());
        let memory = u64::from_le_bytes(*memory.context("it is too short")?);
        Self::kernel(Placement::Arm64, memory, bytes)
    }

    fn kernel(placement: Placement, memory: u64, kernel: &[u8]) -> Result<Self> {
        let banner = b"Linux version ";
        let release = memmem::find_iter(kernel, banner).find_map(|at| {
            let rest = kernel.get(at + banner.len()..)?;
            let len = rest.iter().position(|byte| *byte == b' ')?;
            let release = std::str::from_utf8(rest.get(..len)?).ok()?;
            release
                .starts_with(|c: char| c.is_ascii_digit())
                .then_some(release)
        });
        let versions = ["kho-v", "luo-v"]
            .into_iter()
            .flat_map(|name| versions(kernel, name));
        let image = Self {
            machine: match placement {
                Placement::X86 { .. } => "x86_64",
                Placement::Arm64 => "aarch64",
            },
            placement,
            release: release.context("it does not say its version")?.to_owned(),
            memory,
            config: config(kernel),
            versions: versions.collect(),
            counts_huge_pages: memmem::find(kernel, b"hugetlb-pools-v1\0").is_some(),
            knows_devices: memmem::find(kernel, b"pci-running-v1\0").is_some(),
            knows_iommus: memmem::find(kernel, b"iommu-translating-v1\0").is_some(),
        };
        ensure!(image.release.len() < 65, "its version is too long");
        Ok(image)
    }

    /// The versions of something, which is in their name.
    pub(crate) fn versions<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        let versions = self.versions.iter().map(String::as_str);
        versions.filter(move |version| version.starts_with(name))
    }
}

/// Strings that are this name and a number.
fn versions<'a>(kernel: &'a [u8], name: &'static str) -> impl Iterator<Item = String> + 'a {
    memmem::find_iter(kernel, name).filter_map(move |at| {
        let number = kernel.get(at + name.len()..)?;
        let len = number.iter().position(|byte| !byte.is_ascii_digit())?;
        let ends = number.get(len) == Some(&0) && (1..4).contains(&len);
        let number = std::str::from_utf8(number.get(..len)?).ok()?;
        ends.then(|| format!("{name}{number}"))
    })
}

fn config(kernel: &[u8]) -> Option<String> {
    let mark = b"IKCFG_ST";
    memmem::find_iter(kernel, mark).find_map(|at| {
        let archive = kernel.get(at + mark.len()..)?;
        let config = Packing::of(archive)?.unpack(archive).ok()?;
        String::from_utf8(config).ok()
    })
}

/// Images for tests.
#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::io::Write as _;

    /// What is in a kernel.
    pub(crate) fn kernel(text: &[u8], config: &str) -> Vec<u8> {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), Default::default());
        gzip.write_all(config.as_bytes()).unwrap();
        let config = gzip.finish().unwrap();
        [&[0; 64][..], text, b"IKCFG_ST", &config, b"IKCFG_ED"].concat()
    }

    /// An Image.
    pub(crate) fn arm64(text: &[u8], config: &str) -> Vec<u8> {
        let mut image = kernel(text, config);
        image[16..24].copy_from_slice(&(32u64 << 20).to_le_bytes());
        image[56..60].copy_from_slice(b"ARM\x64");
        image
    }

    /// A bzImage.
    pub(crate) fn x86(text: &[u8], config: &str) -> Vec<u8> {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), Default::default());
        gzip.write_all(&kernel(text, config)).unwrap();
        let payload = gzip.finish().unwrap();
        let mut image = vec![0; 0x600];
        image[0x1f1] = 1;
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x206..0x208].copy_from_slice(&0x20fu16.to_le_bytes());
        image[0x236] = 1;
        image[0x230..0x234].copy_from_slice(&(2u32 << 20).to_le_bytes());
        image[0x258..0x260].copy_from_slice(&(16u64 << 20).to_le_bytes());
        image[0x248..0x24c].copy_from_slice(&0x200u32.to_le_bytes());
        image[0x24c..0x250].copy_from_slice(&(payload.len() as u32).to_le_bytes());
        image[0x260..0x264].copy_from_slice(&(64u32 << 20).to_le_bytes());
        image.extend(payload);
        image
    }

    impl Image {
        /// One of which nothing else is known.
        pub(crate) fn for_tests(placement: Placement, memory: u64) -> Self {
            Self::kernel(placement, memory, TEXT).unwrap()
        }
    }

    pub(crate) const TEXT: &[u8] =
        b"Linux version %s\0Linux version 7.3.9-x (me)\0kho-v4\0luo-v5\0kho-vmalloc\0luo-v7x\0";

    #[test]
    fn images_of_both_machines_are_read() {
        for (bytes, machine, memory) in [
            (x86(TEXT, "CONFIG_KEXEC_HANDOVER=y\n"), "x86_64", 64 << 20),
            (
                arm64(TEXT, "CONFIG_KEXEC_HANDOVER=y\n"),
                "aarch64",
                32 << 20,
            ),
        ] {
            let image = Image::parse(&bytes).unwrap();
            assert_eq!((image.machine, image.memory), (machine, memory));
            assert_eq!(image.release, "7.3.9-x");
            assert_eq!(image.versions("kho-v").collect::<Vec<_>>(), ["kho-v4"]);
            assert_eq!(image.versions("luo-v").collect::<Vec<_>>(), ["luo-v5"]);
            assert!(image.config.unwrap().contains("HANDOVER=y"));
            assert!(!image.counts_huge_pages);
        }
    }

    #[test]
    fn other_files_are_refused_with_advice() {
        let mut bits32 = x86(TEXT, "");
        bits32[0x236] = 0;
        for (bytes, part) in [
            (bits32, "64-bit"),
            (b"MZ\0\0zimg".to_vec(), "zboot"),
            (b"\x1f\x8b\x08\0".to_vec(), "gunzip"),
            (b"hello".to_vec(), "neither"),
            (x86(b"nothing", ""), "version"),
        ] {
            let error = format!("{:#}", Image::parse(&bytes).unwrap_err());
            assert!(error.contains(part), "{error}");
        }
        let good = x86(TEXT, "");
        for len in 0..good.len() {
            let _ = Image::parse(&good[..len]);
        }
    }
}

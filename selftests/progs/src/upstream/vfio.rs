// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Upstream's selftests of VFIO, with an igb behind an IOMMU.
//!
//! The reference is a kernel without this project's modules, or without its patches. All that a program shows
//! must be the same with them, before a live update and after one through which another igb went on, one
//! without an IOMMU: only such a one can be preserved, and the programs want one that has it.

use super::run_in_time;
use crate::{
    hugetlb::Pool,
    memory::{
        memfd,
        Map,
        HUGE, //
    },
    sys::Setting,
    tap::{
        Outcome,
        Report, //
    },
    vfio::{
        igb,
        PciDevice, //
    }, //
};
use anyhow::{
    ensure,
    Context,
    Result, //
};
use std::{
    path::Path,
    sync::atomic::Ordering, //
};

const PROGRAMS: [&str; 4] = [
    "vfio_iommufd_setup_test",
    "vfio_pci_device_test",
    "vfio_dma_mapping_test",
    "vfio_pci_driver_test",
];

/// One of each size is mapped at a time.
const POOLS: [Pool; 2] = [Pool(1 << 30), Pool(2 << 20)];

/// They clear and map so much memory for each test.
const SIZE: u64 = 1 << 30;

/// Has the machine that this one is emulated on give it the memory, which takes longer than all that follows.
fn touch() -> Result<()> {
    let file = memfd("touched")?;
    rustix::fs::ftruncate(&file, SIZE)?;
    let map = Map::new(&file, SIZE, true)?;
    for at in (0..SIZE).step_by(HUGE as usize) {
        map.word(at).store(0, Ordering::Relaxed);
    }
    Ok(())
}

fn run_all(mut f: impl FnMut(&str, String) -> Result<()>) -> Result<()> {
    for pool in POOLS {
        ensure!(pool.set(1)? == 1, "no huge page of {} bytes", pool.0);
    }
    let _setting = Setting::change(
        "/sys/kernel/mm/transparent_hugepage/shmem_enabled",
        "always",
    )?;
    touch()?;
    let mut all = PciDevice::all(igb::MODEL)?.into_iter();
    let place = all.find(PciDevice::has_iommu);
    let place = place.context("there is no igb behind an IOMMU")?;
    for program in PROGRAMS {
        f(program, run_in_time(program, &[place.name()?])?)?;
    }
    for pool in POOLS {
        pool.set(0)?;
    }
    Ok(())
}

/// Notes what the programs show.
///
/// # Errors
///
/// If a program cannot be run or nothing can be noted.
pub fn reference(dir: &Path) -> Result<Outcome> {
    let mut report = Report::new("vfio.upstream.reference");
    run_all(|name, text| super::note(&mut report, dir, name, &text))?;
    Ok(report.end())
}

/// Compares what the programs show with the reference.
///
/// # Errors
///
/// If a program cannot be run, or if there is no reference.
pub fn compare(dir: &Path) -> Result<Outcome> {
    let mut report = Report::new("vfio.upstream");
    run_all(|name, text| super::compare(&mut report, dir, name, &text))?;
    Ok(report.end())
}

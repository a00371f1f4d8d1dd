// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Upstream's selftests, built from the kernel source as they are.

mod kvm;

use std::fs;
use std::path::{
    Path,
    PathBuf, //
};
use std::process::Command;

use anyhow::Result;

use rustix::fs::{
    flock,
    FlockOperation, //
};

use super::cross;
use super::install;
use super::source;
use super::step;
use crate::arch::Arch;

/// Programs of one directory of tools/testing/selftests.
struct Suite {
    dir: &'static str,
    programs: &'static [&'static str],
    /// Files that each program is built with.
    with: &'static [&'static str],
    /// More for the compiler, with the kernel tree in place of `$TREE`.
    flags: &'static [&'static str],
    /// Headers of a library that the build tools do not have: a path that includes see, and its text.
    headers: &'static [(&'static str, &'static str)],
    arches: &'static [Arch],
}

const SUITES: [Suite; 5] = [
    Suite {
        dir: "liveupdate",
        programs: &[
            "liveupdate",
            "luo_kexec_simple",
            "luo_multi_session",
            "luo_stress_sessions",
            "luo_stress_files",
        ],
        with: &["lib/lu_utils.c"],
        flags: &[],
        headers: &[],
        arches: &Arch::ALL,
    },
    // Those about HugeTLB that need no other program.
    Suite {
        dir: "mm",
        programs: &[
            "hugetlb-mmap",
            "hugetlb-shm",
            "hugetlb-mremap",
            "hugetlb-madvise",
            "hugetlb_dio",
            "hugetlb_madv_vs_map",
            "thuge-gen",
            "hugetlb-soft-offline",
            "hugetlb-read-hwpoison",
        ],
        with: &["vm_util.c", "hugepage_settings.c"],
        flags: &[],
        headers: &[],
        arches: &Arch::ALL,
    },
    Suite {
        dir: "memfd",
        programs: &["memfd_test"],
        with: &["common.c"],
        flags: &[],
        headers: &[],
        arches: &Arch::ALL,
    },
    // The build tools have libuuid for one architecture, and the arm64 machine no MSI.
    Suite {
        dir: "vfio",
        programs: &[
            "vfio_pci_device_test",
            "vfio_pci_driver_test",
            "vfio_dma_mapping_test",
            "vfio_iommufd_setup_test",
        ],
        with: &[
            "lib/iommu.c",
            "lib/iova_allocator.c",
            "lib/libvfio.c",
            "lib/sysfs.c",
            "lib/vfio_pci_device.c",
            "lib/vfio_pci_driver.c",
            "lib/drivers/ioat/ioat.c",
            "lib/drivers/dsa/dsa.c",
            "lib/drivers/nv_falcon/nv_falcon.c",
            "lib/drivers/igb/igb.c",
        ],
        flags: &["-I$TREE/tools/include", "-luuid"],
        headers: &[],
        arches: &[Arch::X86_64],
    },
    Suite {
        dir: "iommu",
        programs: &["iommufd", "iommufd_fail_nth"],
        with: &[],
        flags: &[],
        headers: &[(
            "sys/capability.h",
            include_str!("upstream/include/sys/capability.h"),
        )],
        arches: &[Arch::X86_64],
    },
];

/// What a program is called, wherever its source is.
fn file_name(program: &str) -> &str {
    program.rsplit('/').next().unwrap_or(program)
}

/// Builds all of them, static, and puts them into `bin`. Tells where the kernel's headers are.
pub(super) fn build(arch: Arch, bin: &Path) -> Result<PathBuf> {
    let source = source::prepare()?;
    let work = source.home.join(format!("selftests-{arch}"));
    // Other checkouts with the same patches build them there as well.
    let lock = fs::File::create(source.home.join(format!("selftests-{arch}.lock")))?;
    flock(&lock, FlockOperation::LockExclusive)?;
    let log = source
        .home
        .join("logs")
        .join(format!("{arch}-selftests.log"));
    fs::create_dir_all(&work)?;
    let headers = work.join("usr");
    let tree = source.tree.display().to_string();
    // What a directory was made from is written when all of it was.
    let once = |name: &str, key: &str, make: &mut dyn FnMut() -> Result<()>| -> Result<()> {
        let done = work.join(format!("{name}.key"));
        if fs::read_to_string(&done).ok().as_deref() != Some(key) {
            make()?;
            fs::write(&done, key)?;
        }
        Ok(())
    };

    once("headers", &source.key, &mut || {
        step::run(
            &format!("installing kernel headers ({arch})"),
            Command::new("make")
                .arg("-C")
                .arg(&source.tree)
                .arg(format!("O={}", work.join("o").display()))
                .arg(format!("ARCH={arch}"))
                .args(["LLVM=1", "headers_install"])
                .arg(format!("INSTALL_HDR_PATH={}", headers.display())),
            &log,
        )
    })?;
    for suite in SUITES.iter().filter(|s| s.arches.contains(&arch)) {
        let selftests = source.tree.join("tools/testing/selftests");
        let dir = selftests.join(suite.dir);
        let mut key = format!("{} {}", source.key, suite.programs.join(" "));
        key.extend(suite.headers.iter().map(|(_, text)| *text));
        let own = work.join(format!("{}-include", suite.dir));
        once(suite.dir, &key, &mut || {
            for (name, text) in suite.headers {
                let path = own.join(name);
                fs::create_dir_all(path.parent().unwrap_or(&own))?;
                fs::write(path, text)?;
            }
            suite.programs.iter().try_for_each(|name| {
                let mut cc = Command::new(format!("{}gcc", cross(arch)));
                cc.args(["-D_GNU_SOURCE=", "-static", "-O2", "-Wall"])
                    .args(["-U_FORTIFY_SOURCE", "-D_FILE_OFFSET_BITS=64"])
                    .args(["-Wno-unused-function", "-isystem"])
                    .arg(headers.join("include"))
                    .arg("-I")
                    .arg(dir.join("lib/include"))
                    .arg("-I")
                    .arg(&selftests)
                    .arg(dir.join(format!("{name}.c")))
                    .args(suite.headers.iter().flat_map(|_| [Path::new("-I"), &own]))
                    .args(suite.with.iter().map(|file| dir.join(file)))
                    .args(suite.flags.iter().map(|flag| flag.replace("$TREE", &tree)))
                    .args(["-lrt", "-lpthread", "-lm", "-o"])
                    .arg(work.join(name));
                let what = format!("building upstream's {name} ({arch})");
                step::run(&what, &mut cc, &log)
            })
        })?;
        for name in suite.programs {
            install(&work.join(name), &bin.join(name))?;
        }
    }
    let key = format!("{} {}", source.key, kvm::programs(arch).join(" "));
    once("kvm", &key, &mut || {
        kvm::build(arch, &source.tree, &headers.join("include"), &work, &log)
    })?;
    for program in kvm::programs(arch) {
        let name = file_name(program);
        install(&work.join(name), &bin.join(name))?;
    }
    Ok(headers.join("include"))
}

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Upstream's selftests of KVM: programs with a library, which has the code of their guests.
//!
//! Their own makefile wants a library for the sake of other programs that the build tools do not have. What
//! is compiled, and how, is the same.

use std::fs;
use std::path::{
    Path,
    PathBuf, //
};
use std::process::Command;

use anyhow::{
    Context,
    Result, //
};

use crate::arch::Arch;
use crate::build::cross;
use crate::build::step;

/// Files of the library for all architectures.
const LIBRARY: [&str; 15] = [
    "lib/assert.c",
    "lib/elf.c",
    "lib/guest_modes.c",
    "lib/guest_sprintf.c",
    "lib/io.c",
    "lib/kvm_util.c",
    "lib/lru_gen_util.c",
    "lib/memstress.c",
    "lib/proc_util.c",
    "lib/rbtree.c",
    "lib/sparsebit.c",
    "lib/test_util.c",
    "lib/ucall_common.c",
    "lib/userfaultfd_util.c",
    "../cgroup/lib/cgroup_util.c",
];

/// It defines what the compiler would otherwise make calls of.
const STRINGS: &str = "lib/string_override.c";

/// The name of an architecture there.
fn directory(arch: Arch) -> &'static str {
    match arch {
        Arch::X86_64 => "x86",
        Arch::Arm64 => "arm64",
    }
}

/// Those that touch guest memory in files, as far as an architecture has them.
pub(super) fn programs(arch: Arch) -> &'static [&'static str] {
    match arch {
        Arch::X86_64 => &[
            "guest_memfd_test",
            "set_memory_region_test",
            "pre_fault_memory_test",
            "x86/private_mem_conversions_test",
            "x86/private_mem_kvm_exits_test",
        ],
        Arch::Arm64 => &["guest_memfd_test", "set_memory_region_test"],
    }
}

/// A compiler with the flags of the makefile there.
fn compiler(arch: Arch, tree: &Path, headers: &Path, work: &Path) -> Command {
    let name = directory(arch);
    let tools = tree.join("tools");
    let selftests = tools.join("testing/selftests");
    let kvm = selftests.join("kvm");
    let include = [
        selftests.join("cgroup/lib/include"),
        tools.join("include"),
        tools.join("arch").join(name).join("include"),
        kvm.join("include"),
        kvm.join("include").join(name),
        kvm.join("lib").join(name),
        kvm.join("lib"),
        selftests.join("rseq"),
        selftests,
        work.join("tools/arch/arm64/include/generated"),
    ];
    let mut cc = Command::new(format!("{}gcc", cross(arch)));
    cc.args(["-D_GNU_SOURCE=", "-DCONFIG_64BIT", "-std=gnu99", "-O2"])
        .args(["-Wall", "-Wno-unused-function", "-U_FORTIFY_SOURCE"])
        .args(["-fno-builtin-memcmp", "-fno-builtin-memcpy"])
        .args(["-fno-builtin-memset", "-fno-builtin-strnlen"])
        .args(["-fno-stack-protector", "-fno-PIE", "-fno-strict-aliasing"])
        .args(include.iter().flat_map(|dir| [Path::new("-I"), dir]))
        .arg("-isystem")
        .arg(headers);
    if arch == Arch::X86_64 {
        cc.arg("-march=x86-64-v2");
    }
    cc
}

/// Builds them, static, into `work`.
pub(super) fn build(
    arch: Arch,
    tree: &Path,
    headers: &Path,
    work: &Path,
    log: &Path,
) -> Result<()> {
    let dir = tree.join("tools/testing/selftests/kvm");
    if arch == Arch::Arm64 {
        let tools = work.join("tools");
        fs::create_dir_all(&tools)?;
        step::run(
            "making upstream's headers of system registers",
            Command::new("make")
                .arg("-C")
                .arg(tree.join("tools/arch/arm64/tools"))
                .arg(format!("OUTPUT={}/", tools.display())),
            log,
        )?;
    }
    let common = LIBRARY.iter().map(|file| dir.join(file)).collect();
    let own = fs::read_dir(dir.join("lib").join(directory(arch)))
        .context("KVM's selftests have no library")?
        .map(|entry| Ok(entry?.path()))
        .filter(|path: &Result<PathBuf>| {
            let end = path.as_ref().ok().and_then(|path| path.extension());
            end.is_none_or(|end| end == "c" || end == "S")
        })
        .collect::<Result<Vec<_>>>()?;
    let mut library = Vec::new();
    // Files of two of them have the same names.
    for (part, sources, flag) in [
        ("common", common, None),
        ("own", own, None),
        ("strings", vec![dir.join(STRINGS)], Some("-ffreestanding")),
    ] {
        let objects = work.join("kvm").join(part);
        fs::create_dir_all(&objects)?;
        let mut cc = compiler(arch, tree, headers, work);
        cc.current_dir(&objects).args(flag).arg("-c").args(&sources);
        let what = format!("building upstream's library for KVM, {part} ({arch})");
        step::run(&what, &mut cc, log)?;
        for source in &sources {
            let name = source.file_stem().context("a source without a name")?;
            library.push(objects.join(name).with_extension("o"));
        }
    }
    for program in programs(arch) {
        let mut cc = compiler(arch, tree, headers, work);
        cc.args(["-static", "-no-pie", "-pthread"])
            .arg(dir.join(format!("{program}.c")))
            .args(&library)
            .args(["-ldl", "-o"])
            .arg(work.join(super::file_name(program)));
        let what = format!("building upstream's {program} ({arch})");
        step::run(&what, &mut cc, log)?;
    }
    Ok(())
}

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Has one allocation fail while the next kernel takes its IOMMUs over.
//!
//! The kernel's own fault injection can be told whose allocations are to fail only when it has booted. So a debugger
//! does it: it has the function return nothing. The next kernel must be at the addresses that it was linked for
//! (`nokaslr`).

use std::fs;
use std::path::{
    Path,
    PathBuf, //
};

use anyhow::{
    ensure,
    Context,
    Result, //
};

use super::gdb::{
    Gdb,
    Register, //
};
use super::Machine;

/// From the beginning of this function to that of the other one allocations are counted.
const BEGIN: &str = "init_dmars";
const END: &str = "intel_iommu_settle";

/// All functions that allocate, and of which none calls another.
const ALLOCATE: [&str; 7] = [
    "__kmalloc_noprof",
    "__kmalloc_node_noprof",
    "__kmalloc_cache_noprof",
    "__kmalloc_cache_node_noprof",
    "kmem_cache_alloc_noprof",
    "kmem_cache_alloc_lru_noprof",
    "iommu_alloc_pages_node_sz",
];

/// What is called uses less of the stack.
const STACK: u64 = 0x2000;

/// Which allocation.
#[derive(Debug, clap::Args)]
pub struct Options {
    #[command(flatten)]
    machine: Machine,
    /// The image of the next kernel. Beside it is `kernel`, where it was built.
    #[arg(long, env = "LU_KERNEL", hide_env_values = true)]
    kernel: PathBuf,
    /// The first one is 1.
    #[arg(long)]
    nth: usize,
    /// There is no such one: all were tried.
    #[arg(long)]
    none: bool,
}

/// Where functions are.
struct Symbols(Vec<(u64, String)>);

impl Symbols {
    /// Those of a kernel image.
    fn of(kernel: &Path) -> Result<Self> {
        let map = kernel.with_file_name("kernel").join("System.map");
        let text = fs::read_to_string(&map).with_context(|| map.display().to_string())?;
        Ok(Self::read(&text))
    }

    /// Lines of an address, a type and a name.
    fn read(text: &str) -> Self {
        let mut list = Vec::new();
        for line in text.lines() {
            let mut words = line.split(' ');
            if let (Some(at), Some("t" | "T"), Some(name)) =
                (words.next(), words.next(), words.next())
            {
                list.extend(u64::from_str_radix(at, 16).map(|at| (at, name.to_owned())));
            }
        }
        list.sort_unstable();
        Self(list)
    }

    fn address(&self, name: &str) -> Result<u64> {
        let found = self.0.iter().find(|(_, other)| other == name);
        Ok(found
            .with_context(|| format!("the kernel has no {name}"))?
            .0)
    }

    /// The function that an address is in.
    fn name(&self, address: u64) -> &str {
        let next = self.0.partition_point(|(at, _)| *at <= address);
        self.0[..next].last().map_or("?", |(_, name)| name)
    }
}

/// What the old kernel says when it has booted: it will not be at the next one's address of [`BEGIN`] any more.
const BOOTED: &str = "lu-init: the command of stage 1 begins";

/// Waits for the next kernel, counts, and has one fail.
pub(super) fn main(options: &Options) -> Result<()> {
    let symbols = Symbols::of(&options.kernel)?;
    let end = symbols.address(END)?;
    options.machine.wait_until(|text| text.contains(BOOTED));
    let mut gdb = Gdb::connect(&options.machine.work.join("gdb"))?;
    let begin = symbols.address(BEGIN)?;
    gdb.stop_at(begin)?;
    let mut at = gdb.go_on()?;
    let task = gdb.register(Register::Rsp)?;
    for name in ALLOCATE {
        gdb.stop_at(symbols.address(name)?)?;
    }
    gdb.stop_at(end)?;
    let mut count = 0;
    loop {
        at = gdb.go_on_from(at)?;
        if at == end {
            break;
        }
        let stack = gdb.register(Register::Rsp)?;
        // Others have stacks elsewhere.
        if !(1..STACK).contains(&task.wrapping_sub(stack)) {
            continue;
        }
        count += 1;
        let back = gdb.word(stack)?;
        println!("{count}: {} of {}", symbols.name(at), symbols.name(back));
        if count == options.nth {
            gdb.set(Register::Rax, 0)?;
            gdb.set(Register::Rsp, stack + 8)?;
            gdb.set(Register::Rip, back)?;
            break;
        }
    }
    for name in ALLOCATE {
        gdb.pass(symbols.address(name)?)?;
    }
    gdb.pass(begin)?;
    gdb.pass(end)?;
    let failed = count == options.nth;
    fs::write(options.machine.state.join("failed"), failed.to_string())?;
    gdb.leave()?;
    ensure!(
        failed != options.none,
        "there are {count} allocations, or more"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_are_found_by_name_and_address() {
        let symbols = Symbols::read("10 T first\n30 t second\n20 D data\n");
        assert_eq!(symbols.address("second").unwrap(), 0x30);
        assert_eq!(symbols.name(0x2f), "first");
        assert_eq!(symbols.name(0x31), "second");
        assert_eq!(symbols.name(0), "?");
        assert!(symbols.address("data").is_err());
    }
}

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Kernel command lines.

use crate::arch::Arch;

const MIB: u64 = 1 << 20;

/// What a kernel takes at most on both architectures, with its NUL.
pub(super) const MAX: usize = 2048;

/// KHO scratch: the only memory a kernel has in early boot after a live update.
///
/// It is inherited from the first kernel through all updates, so that one's need is not enough:
/// it must hold the image, the initrd and all early allocations of every later kernel. KASAN's
/// shadow takes an eighth of the memory in early boot. `struct page` takes a 64th, and both are
/// wanted on the node they describe, but may come from elsewhere.
pub(super) fn scratch(debug: bool, mem: u64, nodes: u64) -> String {
    let nodes = nodes.max(1);
    // swiotlb alone wants 64 MiB of low memory where there is memory above 4 GiB.
    let low = 128 * MIB;
    let (global, node) = if debug {
        (256 * MIB + mem / 16, 128 * MIB + mem * 5 / 32 / nodes)
    } else {
        (128 * MIB + mem / 64, 64 * MIB + mem / 32 / nodes)
    };

    // Small machines: leave at least half of the memory to those who live in it.
    let sum = low + global + node * nodes;
    let scale = |bytes: u64| {
        if sum > mem / 2 && !debug {
            bytes * (mem / 2) / sum
        } else {
            bytes
        }
    };
    format!(
        "kho_scratch={}M,{}M,{}M",
        scale(low) / MIB,
        scale(global) / MIB,
        scale(node) / MIB
    )
}

/// The part that every kernel of a machine gets.
///
/// earlycon is kept in every stage: a kernel that finds too little scratch dies before it has any
/// other way to say so.
///
/// Five levels of page tables and KASAN do not go together in early boot: `identify_cpu()` clears the
/// CPU's features for a moment, and if an interrupt comes just then, KASAN computes with four levels and
/// reports a wild access.
///
/// The clock's watchdog is off on x86, as it is on hosts whose clock needs none. It asks another CPU with
/// interrupts off, and takes the time by a clock that in early boot only its own ticks move: if the other is
/// in `stop_machine()`, also with interrupts off, both wait for ever.
///
/// Nor is the timer's interrupt tried out there: that gives it a moment that a busy host may not have, and panics
/// ("IO-APIC + timer doesn't work").
pub(super) fn base(arch: Arch, debug: bool) -> &'static str {
    match (arch, debug) {
        (Arch::X86_64, false) => {
            "console=ttyS0,115200 earlycon=uart8250,io,0x3f8,115200 tsc=nowatchdog no_timer_check"
        }
        (Arch::X86_64, true) => {
            "console=ttyS0,115200 earlycon=uart8250,io,0x3f8,115200 tsc=nowatchdog no_timer_check no5lvl"
        }
        (Arch::Arm64, _) => "console=ttyAMA0 earlycon=pl011,0x9000000",
    }
}

/// The command line of one stage.
///
/// What the user appends comes last, so that it wins.
pub(super) fn compose(
    base: &str,
    scratch: &str,
    stage: usize,
    append: &[String],
    stage_append: Option<&str>,
) -> String {
    let mut line = format!("{base} panic=-1 kho=on liveupdate=on {scratch} lu.stage={stage}");

    for more in append.iter().map(String::as_str).chain(stage_append) {
        if !more.trim().is_empty() {
            line.push(' ');
            line.push_str(more.trim());
        }
    }
    line
}

/// How many NUMA nodes QEMU is asked for.
pub(super) fn nodes(qemu: &[String]) -> u64 {
    qemu.windows(2)
        .filter(
            |w| matches!(w, [flag, value] if flag.ends_with("-numa") && value.starts_with("node")),
        )
        .count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_stages_differ_by_their_own_additions_only() {
        let append = ["a=1".to_owned()];
        let base = base(Arch::X86_64, false);
        let one = compose(base, "kho_scratch=1M,1M,1M", 1, &append, Some("b=2"));
        let two = compose(base, "kho_scratch=1M,1M,1M", 2, &append, None);

        assert_eq!(one.replace("lu.stage=1 a=1 b=2", "lu.stage=2 a=1"), two);
        assert!(two.contains("earlycon") && two.contains("kho=on liveupdate=on"));
    }

    #[test]
    fn scratch_fits_what_early_boot_needs() {
        assert_eq!(scratch(false, 3 << 30, 1), "kho_scratch=128M,176M,160M");
        assert_eq!(scratch(true, 3 << 30, 1), "kho_scratch=128M,448M,608M");
        // An eighth for KASAN, wherever the nodes are.
        assert_eq!(scratch(true, 4 << 30, 2), "kho_scratch=128M,512M,448M");
    }

    #[test]
    fn small_machines_keep_half_of_their_memory() {
        let sizes = scratch(false, 512 << 20, 1);
        let sizes = sizes.trim_start_matches("kho_scratch=").split(',');
        let sum: u64 = sizes
            .map(|s| s.trim_end_matches('M').parse::<u64>().unwrap())
            .sum();
        assert!((200..=256).contains(&sum), "{sum}");
    }

    #[test]
    fn numa_nodes_are_counted() {
        let words = "-numa node,cpus=0 -object x -numa node,cpus=1 -numa dist,src=0";
        let words: Vec<_> = words.split(' ').map(str::to_owned).collect();
        assert_eq!(nodes(&words), 2);
    }
}

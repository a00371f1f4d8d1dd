// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Looks for what a kernel says when something is wrong with it.
//!
//! Only kernel messages are judged, which bear a time in square brackets: a command may print
//! whatever it likes.

use std::sync::LazyLock;

use regex::Regex;

/// Taints that say nothing about a fault: a module from outside the tree (12), unsigned (13), and
/// a kernel's own tests (18).
pub(super) const HARMLESS_TAINTS: u64 = 1 << 12 | 1 << 13 | 1 << 18;

static MESSAGE: LazyLock<Regex> =
    LazyLock::new(|| regex(r"\[ *\d+\.\d{6}\](?:\[ *[TC]\d+\])? (.*)$"));

static BAD: LazyLock<Regex> = LazyLock::new(|| {
    regex(concat!(
        // WARN(), lockdep and RCU reports, KASAN, KFENCE, bad pages, sleeping in atomic context.
        r"^(?:WARNING: |BUG: |UBSAN: |Oops|kernel BUG at |Internal error: |Kernel panic )",
        r"|^(?:general protection fault|double fault|stack segment|Unable to handle kernel)",
        r"|^=+\[ BUG: |^=+ BUG: |BUG at |soft lockup|hard LOCKUP",
        r"|^(?:rcu: )?INFO: (?:rcu\w* .*(?:stall|self-detected)|task .* blocked for more than)",
        r"|^INFO: trying to register non-static key|^INFO: possible ",
        r"|^kmemleak: \d+ new suspected memory leak|^unreferenced object 0x",
        r"|Booted with LPIs enabled, memory probably corrupted",
        r"|^rust_kernel: panicked|^refcount_t: |^list_(?:add|del) corruption",
    ))
});

/// What looks like the above and is harmless, each with the reason. The one place for it.
const HARMLESS: &[(&str, &str)] = &[
    (
        "WARNING: Spectre v2",
        "a mitigation that is off on an emulated CPU",
    ),
    (
        "WARNING: memory leaks",
        "the notice that kmemleak is on, not a report",
    ),
];

fn regex(pattern: &str) -> Regex {
    Regex::new(pattern).expect("the pattern is a constant that the tests compile")
}

/// The text of a kernel message, without its time.
pub(super) fn message(line: &str) -> Option<&str> {
    Some(MESSAGE.captures(line)?.get(1)?.as_str())
}

/// The message if it means that the kernel is in trouble.
pub(super) fn problem(line: &str) -> Option<&str> {
    let text = message(line)?;

    (BAD.is_match(text) && !HARMLESS.iter().any(|(harmless, _)| text.contains(harmless)))
        .then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trouble_is_seen() {
        for text in [
            "WARNING: mm/memblock.c:12 at foo+0x1/0x2, CPU#0: init/1",
            "WARNING: possible circular locking dependency detected",
            "WARNING: suspicious RCU usage",
            "BUG: KASAN: slab-use-after-free in foo",
            "BUG: sleeping function called from invalid context",
            "BUG: Bad page state in process",
            "Oops: 0000 [#1]",
            "Internal error: Oops: 96000004 [#1] SMP",
            "Kernel panic - not syncing: no init",
            "kmemleak: 3 new suspected memory leaks (see /sys/kernel/debug/kmemleak)",
            "rcu: INFO: rcu_preempt self-detected stall on CPU",
            "INFO: task sh:1 blocked for more than 120 seconds.",
            "GICv3: CPU0: Booted with LPIs enabled, memory probably corrupted",
            "watchdog: BUG: soft lockup - CPU#0 stuck for 26s!",
        ] {
            for prefix in [
                "[    1.234567] ",
                "[    1.234567][    T1] ",
                "half a line[   12.345678] ",
            ] {
                assert_eq!(problem(&format!("{prefix}{text}")), Some(text));
            }
            assert_eq!(problem(text), None, "printed by a command");
        }
    }

    #[test]
    fn the_rest_is_not() {
        for text in [
            "Linux version 7.3.4",
            "luo_rs: 1 handler",
            "kmemleak: Kernel memory leak detector initialized",
            "rcu: Hierarchical RCU",
        ] {
            assert_eq!(problem(&format!("[    0.000000] {text}")), None);
        }
    }
}

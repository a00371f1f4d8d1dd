// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Why no handler is there, and what to do about it.

use std::{
    fs,
    path::Path, //
};

/// The reason, from what the system below `root` says about itself. `/dev/liveupdate` is looked for and
/// never opened.
pub(crate) fn reason(root: &Path) -> String {
    let loaded = |module: &str| root.join("sys/module").join(module).exists();
    let device = liveupdate::DEVICE.trim_start_matches('/');
    if !root.join(device).exists() {
        return off(&fs::read_to_string(root.join("proc/cmdline")).unwrap_or_default());
    }
    if loaded("memfd_luo") {
        return "the kernel's own memfd handler (module memfd_luo) is in use, and the first to be loaded \
                wins; `rmmod memfd_luo luo_memfd && modprobe luo_memfd` changes that, and \
                `blacklist memfd_luo` in /etc/modprobe.d keeps it"
            .into();
    }
    if loaded("luo_memfd") {
        return "the module luo_memfd is loaded and inactive: the kernel's own memfd handler is built \
                into this kernel (CONFIG_LIVEUPDATE_MEMFD=y), or `dmesg | grep luo_memfd` says why; build \
                the kernel with CONFIG_LIVEUPDATE_MEMFD=m or n"
            .into();
    }
    if !loaded("luo_rs") {
        return "the module luo_rs is not loaded; load it and the handlers (`modprobe luo_memfd`) before \
                anything opens /dev/liveupdate. If the kernel refuses them, `dmesg` says why: with another \
                version magic they are for another kernel (`make modules KDIR=...` builds them for this \
                one), with unknown symbols this kernel lacks the patches"
            .into();
    }
    "the module luo_rs is loaded, but no handler is; load one (`modprobe luo_memfd`) before anything opens \
     /dev/liveupdate"
        .into()
}

/// Why there is no `/dev/liveupdate`.
fn off(cmdline: &str) -> String {
    let missing: Vec<_> = ["kho", "liveupdate"]
        .into_iter()
        .filter(|name| !is_on(cmdline, name))
        .map(|name| format!("{name}=on"))
        .collect();
    if missing.is_empty() {
        return "live update is off, although the kernel's command line asks for it: the kernel has no \
                CONFIG_LIVEUPDATE=y, or could not set it up (`dmesg | grep -iE 'kho|luo'` says why)"
            .into();
    }
    format!(
        "live update is off: boot the kernel with `{}` on its command line (it needs CONFIG_LIVEUPDATE=y)",
        missing.join(" ")
    )
}

/// Whether the last setting of a parameter is one that the kernel takes for on.
fn is_on(cmdline: &str, name: &str) -> bool {
    let mut values = cmdline
        .split_whitespace()
        .filter_map(|word| word.strip_prefix(name)?.strip_prefix('='));
    let value = values.next_back().unwrap_or_default().to_ascii_lowercase();
    value.starts_with(['y', 't', '1', 'e']) || value.starts_with("on")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn system(paths: &[&str], cmdline: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for path in paths {
            fs::create_dir_all(dir.path().join(path)).unwrap();
        }
        fs::create_dir_all(dir.path().join("proc")).unwrap();
        fs::write(dir.path().join("proc/cmdline"), cmdline).unwrap();
        dir
    }

    #[test]
    fn each_reason_has_its_own_remedy() {
        let device = "dev/liveupdate";
        let (ours, theirs) = ("sys/module/luo_memfd", "sys/module/memfd_luo");
        let core = "sys/module/luo_rs";
        for (paths, cmdline, part) in [
            (&[core, ours][..], "quiet", "`kho=on liveupdate=on`"),
            (&[core], "kho=on", "with `liveupdate=on`"),
            (
                &[core],
                "kho=1 liveupdate=on liveupdate=off",
                "`liveupdate=on`",
            ),
            (&[core, ours], "kho=on liveupdate=on", "CONFIG_LIVEUPDATE"),
            (&[device, core, ours, theirs], "", "rmmod memfd_luo"),
            (&[device, core, ours], "", "CONFIG_LIVEUPDATE_MEMFD=y"),
            (&[device, core], "", "no handler is"),
            (&[device], "", "luo_rs is not loaded"),
        ] {
            let system = system(paths, cmdline);
            let text = reason(system.path());
            assert!(text.contains(part), "{paths:?} {cmdline}: {text}");
        }
    }
}

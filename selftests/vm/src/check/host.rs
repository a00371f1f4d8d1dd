// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Tests that need no virtual machine: unit tests and bounded fuzzing.

use std::fs;
use std::process::Command;

use crate::arch::top;

/// A command of the host that is a test.
pub(super) struct HostTest {
    pub(super) name: String,
    pub(super) about: &'static str,
    /// The exit status that is a pass.
    pub(super) expect: i32,
    /// Runs only if something is asked for by name: it takes long, and another Debian.
    pub(super) on_request: bool,
    args: Vec<String>,
}

impl HostTest {
    fn new(name: &str, about: &'static str, expect: i32, args: &[&str]) -> Self {
        Self {
            name: name.into(),
            about,
            expect,
            on_request: false,
            args: args.iter().map(ToString::to_string).collect(),
        }
    }

    fn on_request(mut self) -> Self {
        self.on_request = true;
        self
    }

    /// The command, ready to be started.
    pub(super) fn command(&self) -> Command {
        let mut command = Command::new(self.args.first().map_or("false", String::as_str));
        command.args(self.args.iter().skip(1)).current_dir(top());
        command
    }
}

/// All of them.
pub(super) fn tests() -> Vec<HostTest> {
    let mut tests = vec![HostTest::new(
        "host.unit",
        "Formats, tools and runner pass their unit tests and documented examples.",
        0,
        &["cargo", "test", "--release", "--locked", "--workspace"],
    )];
    let install = [
        HostTest::new(
            "install.files",
            "What is installed is what is listed, both makers of initramfs images load it, and nothing of it stays.",
            0,
            &["selftests/install/files"],
        ),
        HostTest::new(
            "install.debian",
            "In a Debian with systemd, on a disk: installed, rebooted, updated live, everything retrieved, and uninstalled.",
            0,
            &["selftests/install/debian"],
        ),
        HostTest::new(
            "install.dracut",
            "The same in a Debian that has dracut-core, and no initramfs-tools.",
            0,
            &["selftests/install/debian", "--dracut"],
        ),
    ];
    tests.extend(install.map(HostTest::on_request));
    let mut targets: Vec<String> = fs::read_dir(top().join("kho/fuzz/fuzz_targets"))
        .into_iter()
        .flatten()
        .filter_map(|e| Some(e.ok()?.path().file_stem()?.to_str()?.to_string()))
        .collect();
    targets.sort();
    for target in targets {
        tests.push(HostTest::new(
            &format!("host.fuzz.{target}"),
            "A bounded fuzz run finds nothing.",
            0,
            &["kho/fuzz/run", &target],
        ));
        tests.push(HostTest::new(
            &format!("host.fuzz.{target}.seeded"),
            "The same run finds the bug that is there on purpose.",
            0,
            &["kho/fuzz/run", "--seeded", &target],
        ));
    }
    tests
}

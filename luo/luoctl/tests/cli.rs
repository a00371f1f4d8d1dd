// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Runs the program itself, in ways that need no live update device.

use std::{
    process::{
        Child,
        Command,
        Output,
        Stdio, //
    },
    thread,
    time::Duration, //
};

fn luoctl(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_luoctl"))
        .args(args)
        .output()
        .unwrap()
}

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}

/// A running `luoctl hold`, killed when this is dropped.
struct Hold(Child);

impl Hold {
    /// Starts it and waits until it listens.
    fn start(socket: &str, stderr: impl Into<Stdio>) -> Self {
        let child = Command::new(env!("CARGO_BIN_EXE_luoctl"))
            .args(["hold", "--socket", socket])
            .stderr(stderr)
            .spawn();
        let hold = Self(child.unwrap());
        for _ in 0..1000 {
            let list = luoctl(&["session", "list", "--socket", socket]);
            if list.status.success() {
                return hold;
            }
            thread::sleep(Duration::from_millis(10));
        }
        panic!("luoctl hold does not listen");
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn status_is_shown_as_tables_and_as_json() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("status");
    let text = "luo_rs 1\nhandler compatible=memfd-v2 module=luo_memfd preserved=0 incoming=2 bytes=8192\n";
    std::fs::write(&file, text).unwrap();
    let file = file.to_str().unwrap();

    let tables = luoctl(&["status", "--from", file]);
    assert!(tables.status.success());
    assert!(stdout(&tables).contains("memfd-v2    luo_memfd  0          2         8.0 KiB"));

    let json = luoctl(&["status", "--from", file, "--json"]);
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(json["version"], 1);
    assert_eq!(json["handlers"][0]["incoming"], 2);
    assert_eq!(json["files"], serde_json::json!([]));
    assert_eq!(json["huge_pages"], serde_json::json!([]));
}

#[test]
fn huge_pages_are_in_the_json_with_keys_that_nobody_knows_yet() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("status");
    let text =
        "luo_rs 1\nfile state=preserved bytes=6295552 huge_page=2097152 huge_pages=3 colour=red\n";
    std::fs::write(&file, text).unwrap();
    let json = luoctl(&["status", "--from", file.to_str().unwrap(), "--json"]);
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    let expected =
        serde_json::json!([{"size": 2 << 20, "preserved": 3, "incoming": 0, "bytes": 6 << 20}]);
    assert_eq!(json["huge_pages"], expected);
    assert_eq!(json["files"][0]["colour"], "red");
}

#[test]
fn a_missing_server_is_explained() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("none");
    let output = luoctl(&["session", "list", "--socket", socket.to_str().unwrap()]);
    assert!(!output.status.success());
    assert!(stderr(&output).contains("start one with `luoctl hold`"));
}

#[test]
fn a_bad_name_is_refused_before_anything_is_asked() {
    let output = luoctl(&["session", "create", ""]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("at least one character"));
}

#[test]
fn hold_answers_and_ends_on_sigterm_when_it_holds_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s");
    let path = socket.to_str().unwrap();
    let mut hold = Hold::start(path, Stdio::null());

    let release = luoctl(&["session", "release", "vm", "--socket", path]);
    assert!(stderr(&release).contains("is not held here"));
    let second = luoctl(&["hold", "--socket", path]);
    assert!(stderr(&second).contains("another server"));

    let pid = rustix::process::Pid::from_child(&hold.0);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert!(hold.0.wait().unwrap().success());
    assert!(!socket.exists());
}

#[test]
fn hold_lives_on_when_nobody_reads_what_it_says() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s");
    let path = socket.to_str().unwrap();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut hold = Hold::start(path, writer);
    assert!(hold.0.try_wait().unwrap().is_none());
    assert!(luoctl(&["session", "list", "--socket", path])
        .status
        .success());
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure_and_a_full_disk_is() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("status");
    std::fs::write(&file, "luo_rs 1\n").unwrap();
    let run = |stdout: Stdio| {
        Command::new(env!("CARGO_BIN_EXE_luoctl"))
            .args(["status", "--from", file.to_str().unwrap(), "--json"])
            .stdout(stdout)
            .stderr(Stdio::piped())
            .output()
            .unwrap()
    };
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = run(writer.into());
    assert!(output.status.success());
    assert_eq!(stderr(&output), "");

    let full = std::fs::File::options().write(true).open("/dev/full");
    let output = run(full.unwrap().into());
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("cannot write to standard output"));
}

#[test]
fn help_teaches_with_examples() {
    for args in [
        &["--help"][..],
        &["status", "--help"],
        &["hold", "--help"],
        &["session", "--help"],
        &["inspect", "--help"],
        &["check", "--help"],
        &["kexec", "--help"],
    ] {
        assert!(stdout(&luoctl(args)).contains("Examples:"), "{args:?}");
    }
}

#[test]
fn inspect_reads_copies_only() {
    let output = luoctl(&["inspect", "/dev/null"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains("no copy of a hand-over"),
        "{output:?}"
    );
    assert_eq!(luoctl(&["inspect", "--in", "--out"]).status.code(), Some(2));
    assert_eq!(luoctl(&["inspect", "--in", "copy"]).status.code(), Some(2));
}

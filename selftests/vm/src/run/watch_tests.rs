// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! How what a machine says becomes the status of its stages.

use super::*;

struct Nothing;

impl Sink for Nothing {
    fn console(&mut self, _line: &Line) {}
    fn note(&mut self, _text: &str) {}
}

/// Plays records ("{...}") and console lines to a machine of two stages.
fn play(said: &[&str]) -> Outcome {
    let work = tempfile::tempdir().unwrap();
    let mut nothing = Nothing;
    let planned: Vec<Planned> = (1..=2)
        .map(|number| Planned {
            number,
            cmd: String::new(),
            kernel: "k".into(),
            modules: Vec::new(),
            cmdline: String::new(),
            next: (number == 1).then_some(2),
        })
        .collect();
    let mut watch =
        Watch::new(&mut nothing, Duration::from_secs(9), work.path(), &planned).unwrap();
    let now = Instant::now();
    let mut current = Current {
        stage: 1,
        last: 2,
        console: 1,
        init_seen: false,
        booted: false,
        began: now,
        exit: None,
        jumping: None,
        over: None,
        panicked: None,
    };

    for text in said {
        let event = match serde_json::from_str(text) {
            Ok(record) => Event::Record(now, record),
            Err(_) => Event::Console(now, (*text).to_owned()),
        };
        watch.event(&mut current, event);
    }
    if current.over.is_none() {
        let stage = watch.settle(&current);
        watch.conclude(stage, 125, watch.last_words(stage));
    }
    watch.finish(None)
}

const BOOT1: &str = r#"{"ev":"boot","stage":1}"#;
const BOOT2: &str = r#"{"ev":"boot","stage":2}"#;
const OK: &str = r#"{"ev":"exit","code":0,"taint":12288}"#;
const JUMP: &str = r#"{"ev":"jump","by":"init"}"#;
const OFF: &str = r#"{"ev":"off"}"#;

#[test]
fn two_stages_pass() {
    let outcome = play(&[BOOT1, OK, JUMP, BOOT2, OK, OFF]);
    assert_eq!(outcome.status(), 0);
    assert_eq!(outcome.marks.len(), 6);
    assert_eq!(outcome.marks[4].in_stage, 2);
}

#[test]
fn a_commands_status_is_the_runs() {
    for (end, status) in [
        (r#"{"ev":"exit","code":3}"#, 3),
        (r#"{"ev":"exit","code":124}"#, 1),
        (r#"{"ev":"exit","code":127}"#, 1),
        (r#"{"ev":"exit","code":139}"#, 139),
        (r#"{"ev":"exit","signal":9}"#, 137),
    ] {
        assert_eq!(play(&[BOOT1, end, OFF]).status(), status);
    }
}

#[test]
fn the_runners_own_words() {
    let refused = r#"{"ev":"refused","by":"init","errno":16}"#;
    assert_eq!(play(&[BOOT1, OK, JUMP, refused, OFF]).status(), 126);
    assert_eq!(play(&[BOOT1, r#"{"ev":"failed","why":"x"}"#]).status(), 127);
    assert_eq!(play(&[BOOT1]).status(), 125);
    assert_eq!(play(&[BOOT1, OFF]).status(), 125);
    assert_eq!(play(&[BOOT2]).status(), 125);
}

#[test]
fn a_refusal_in_a_command_is_the_commands_business() {
    let jump = r#"{"ev":"jump","by":"lu-reboot"}"#;
    let refused = r#"{"ev":"refused","by":"lu-reboot","errno":16}"#;
    assert_eq!(
        play(&[BOOT1, jump, refused, OK, JUMP, BOOT2, OK, OFF]).status(),
        0
    );
    // A jump from within a command is its success.
    assert_eq!(play(&[BOOT1, jump, BOOT2, OK, OFF]).status(), 0);
}

#[test]
fn a_machine_is_lost_in_the_kernel_that_spoke_last() {
    let (linux, init) = ("[    0.000000] Linux version 7.3", "lu-init: stage 1");
    let panic = "[    0.100000] Kernel panic - not syncing: no memory";
    let outcome = play(&[linux, init, BOOT1, OK, JUMP, linux, panic]);
    let [one, two] = &outcome.stages[..] else {
        panic!("two stages")
    };
    assert_eq!((one.status, two.status), (Some(0), Some(125)));
    assert!(two.why.contains("no memory"));

    let outcome = play(&[linux, init, BOOT1, OK, JUMP, panic]);
    assert_eq!(outcome.stages[0].status, Some(125));
    assert_eq!(outcome.stages[1].status, None);
}

#[test]
fn an_unhappy_kernel_fails_a_happy_command() {
    let warning = "[    1.000000] WARNING: mm/shmem.c:1 at foo";
    let outcome = play(&[BOOT1, warning, OK, JUMP, BOOT2, OK, OFF]);
    assert_eq!((outcome.status(), outcome.stages[1].status), (1, Some(0)));
    assert_eq!(outcome.stages[0].problems.len(), 1);
    // A command's own failure says more.
    assert_eq!(
        play(&[BOOT1, warning, r#"{"ev":"exit","code":3}"#, OFF]).status(),
        3
    );
    let tainted = r#"{"ev":"exit","code":0,"taint_before":1,"taint":513}"#;
    assert_eq!(play(&[BOOT1, tainted, JUMP, BOOT2, OK, OFF]).status(), 1);
}

#[test]
fn messages_belong_to_the_kernel_that_prints_them() {
    let (linux, warning) = ("[    0.000000] Linux version 7.3", "[    0.500000] BUG: x");
    let said = [
        linux,
        "lu-init: stage 1",
        BOOT1,
        OK,
        JUMP,
        linux,
        warning,
        BOOT2,
        OK,
        OFF,
    ];
    let outcome = play(&said);
    assert_eq!(outcome.stages[0].status, Some(0));
    assert_eq!(outcome.stages[1].status, Some(1));
}

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! How far several machines are.

use std::io::IsTerminal;
use std::time::Instant;

use indicatif::{
    ProgressBar,
    ProgressStyle, //
};

use crate::run::{
    Line,
    Mark,
    Sink, //
};

/// A bar that counts stages; without a terminal, lines.
#[derive(Debug)]
pub(super) struct Progress {
    bar: ProgressBar,
    start: Instant,
    lines: bool,
}

impl Progress {
    pub(super) fn new(stages: usize) -> Self {
        let bar = ProgressBar::new(stages as u64);
        // The template is a constant.
        if let Ok(style) =
            ProgressStyle::with_template("measuring {bar:30} {pos}/{len} kernels {elapsed} {msg}")
        {
            bar.set_style(style);
        }
        Self {
            bar,
            start: Instant::now(),
            lines: !std::io::stderr().is_terminal(),
        }
    }

    /// For one machine.
    pub(super) fn machine(&self, name: &'static str) -> Watcher<'_> {
        Watcher { all: self, name }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// Counts the kernels of one machine and keeps quiet otherwise: what counts is in the outcome.
#[derive(Debug)]
pub(super) struct Watcher<'a> {
    all: &'a Progress,
    name: &'static str,
}

impl Sink for Watcher<'_> {
    fn console(&mut self, _line: &Line) {}

    fn note(&mut self, text: &str) {
        self.all
            .bar
            .suspend(|| eprintln!("bench: {}: {text}", self.name));
    }

    fn mark(&mut self, mark: &Mark) {
        if mark.record.ev != "boot" {
            return;
        }
        let bar = &self.all.bar;
        bar.inc(1);
        bar.set_message(format!("{} {}", self.name, mark.in_stage));
        if self.all.lines {
            let (now, all) = (bar.position(), bar.length().unwrap_or(0));
            let seconds = self.all.start.elapsed().as_secs();
            eprintln!(
                "measuring: kernel {now} of {all} ({}), {seconds} s",
                self.name
            );
        }
    }
}

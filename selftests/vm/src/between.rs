// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The moment between two kernels, when the old one has ended and the next one has not begun.

use std::fs;
use std::path::{
    Path,
    PathBuf, //
};
use std::thread;
use std::time::Duration;

use anyhow::{
    Context,
    Result, //
};
use serde_json::json;

use crate::qmp::{
    Lines,
    Qmp, //
};

/// What the old kernel says when it has ended.
const JUMP: &str = "Starting new kernel";

/// How to reach a machine, and how it is known how far it is.
#[derive(Debug, clap::Args)]
pub struct Sockets {
    /// QEMU's control socket.
    #[arg(long)]
    qmp: PathBuf,
    /// The socket of its option -qtest.
    #[arg(long)]
    qtest: PathBuf,
    /// The console, which tells that the old kernel has ended.
    #[arg(long)]
    log: PathBuf,
}

impl Sockets {
    /// Waits for the old kernel's end, and stops the machine there.
    pub(crate) fn stop(&self) -> Result<(Qmp, Memory)> {
        let mut qmp = Qmp::connect(&self.qmp)?;
        let memory = Memory::connect(&self.qtest)?;
        wait(&self.log);
        qmp.execute("stop", json!({}))?;
        Ok((qmp, memory))
    }
}

/// Waits for the old kernel's last words.
pub(crate) fn wait(log: &Path) {
    while !fs::read_to_string(log).unwrap_or_default().contains(JUMP) {
        thread::sleep(Duration::from_millis(5));
    }
}

/// All that a machine has at physical addresses, through QEMU's socket for tests.
pub(crate) struct Memory(Lines);

impl Memory {
    pub(crate) fn connect(path: &Path) -> Result<Self> {
        Ok(Self(Lines::connect(path)?))
    }

    /// Has QEMU read or write something. What is written answers with 0.
    pub(crate) fn command(&mut self, command: &str) -> Result<u64> {
        self.0.send(command)?;
        let answer = self.0.receive()?;
        let rest = answer
            .trim()
            .strip_prefix("OK")
            .with_context(|| format!("QEMU answered {command:?} with {answer:?}"))?;
        match rest.trim() {
            "" => Ok(0),
            value => hexadecimal(value).map_err(anyhow::Error::msg),
        }
    }
}

pub(crate) fn hexadecimal(text: &str) -> Result<u64, String> {
    let digits = text.strip_prefix("0x").ok_or("it begins with 0x")?;
    u64::from_str_radix(digits, 16).map_err(|error| error.to_string())
}

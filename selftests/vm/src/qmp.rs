// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! QEMU's control sockets.

use std::io::{
    BufRead,
    BufReader,
    ErrorKind,
    Write, //
};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::{
    Duration,
    Instant, //
};

use anyhow::{
    bail,
    ensure,
    Context,
    Result, //
};
use serde_json::{
    json,
    Value, //
};

/// How long QEMU may take for an answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long it may take until it listens.
const START: Duration = Duration::from_secs(5);

/// Registers that say nothing of where a CPU is.
const VECTORS: [&str; 8] = ["FCW", "FPR", "Opmask", "XMM", "YMM", "ZMM", "Q", "FPCR"];

/// Whether nobody listens yet.
fn is_early(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::NotFound | ErrorKind::ConnectionRefused
    )
}

/// A connection to QEMU on which lines are exchanged.
pub(crate) struct Lines {
    reader: BufReader<UnixStream>,
    writer: UnixStream,
}

impl Lines {
    /// QEMU makes its sockets one by one, and listens on each a moment later.
    pub(crate) fn connect(path: &Path) -> Result<Self> {
        let start = Instant::now();
        let writer = loop {
            match UnixStream::connect(path) {
                Ok(stream) => break stream,
                Err(error) if start.elapsed() < START && is_early(&error) => {
                    thread::sleep(Duration::from_millis(10));
                }
                Err(error) => return Err(error).context(path.display().to_string()),
            }
        };
        writer.set_read_timeout(Some(PATIENCE))?;
        let reader = BufReader::new(writer.try_clone()?);
        Ok(Self { reader, writer })
    }

    pub(crate) fn send(&mut self, line: &str) -> Result<()> {
        Ok(self.writer.write_all(format!("{line}\n").as_bytes())?)
    }

    pub(crate) fn receive(&mut self) -> Result<String> {
        let mut line = String::new();
        let count = self.reader.read_line(&mut line)?;
        ensure!(count > 0, "QEMU has ended");
        Ok(line)
    }
}

/// QEMU's control socket.
pub(crate) struct Qmp {
    lines: Lines,
    /// Cards that are gone.
    deleted: Vec<String>,
}

impl Qmp {
    pub(crate) fn connect(path: &Path) -> Result<Self> {
        let lines = Lines::connect(path)?;
        let deleted = Vec::new();
        let mut this = Self { lines, deleted };
        this.receive()?;
        this.execute("qmp_capabilities", json!({}))?;
        Ok(this)
    }

    /// Reads a message, and notes what is gone.
    fn receive(&mut self) -> Result<Value> {
        let message: Value = serde_json::from_str(&self.lines.receive()?)?;
        if message["event"] == "DEVICE_DELETED" {
            let name = message["data"]["device"].as_str().unwrap_or_default();
            self.deleted.push(name.to_owned());
        }
        Ok(message)
    }

    /// Has a command carried out; gives the answer.
    pub(crate) fn execute(&mut self, command: &str, arguments: Value) -> Result<Value> {
        let line = json!({"execute": command, "arguments": arguments}).to_string();
        self.lines.send(&line)?;
        loop {
            let answer = self.receive()?;
            if answer.get("error").is_some() {
                bail!("QEMU refused {line}: {answer}");
            }
            if let Some(value) = answer.get("return") {
                return Ok(value.clone());
            }
        }
    }

    /// Waits until a card is gone.
    pub(crate) fn wait_deleted(&mut self, card: &str) -> Result<()> {
        while !self.deleted.iter().any(|name| name == card) {
            self.receive()
                .with_context(|| format!("{card} is not deleted"))?;
        }
        Ok(())
    }

    /// The registers of all CPUs that say where they are, for people.
    pub(crate) fn registers(&mut self) -> Result<String> {
        let line = json!({"command-line": "info registers -a"});
        let text = self.execute("human-monitor-command", line)?;
        let lines = text.as_str().unwrap_or_default().lines();
        let wide = |line: &&str| VECTORS.iter().any(|name| line.starts_with(name));
        Ok(lines.filter(|l| !wide(l)).collect::<Vec<_>>().join("\n"))
    }
}

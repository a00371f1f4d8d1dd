// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A long command with a log, a progress line and an error that shows why it failed.

use std::fs::{
    self,
    File, //
};
use std::io::{
    BufRead,
    BufReader,
    IsTerminal,
    Write, //
};
use std::path::Path;
use std::process::{
    Command,
    Stdio, //
};
use std::time::{
    Duration,
    Instant, //
};

use anyhow::{
    bail,
    Context,
    Result, //
};
use indicatif::{
    ProgressBar,
    ProgressStyle, //
};

/// Lines of a failed step's log that are shown.
const TAIL: usize = 30;
/// Without a terminal, progress is one line in this interval.
const QUIET: Duration = Duration::from_secs(60);

/// Runs a command; its output goes to `log`, every line counts as progress.
///
/// The number of lines of the last run, kept beside the log, says how far this one is.
pub(super) fn run(what: &str, command: &mut Command, log: &Path) -> Result<()> {
    if let Some(dir) = log.parent() {
        fs::create_dir_all(dir)?;
    }
    let count_file = log.with_extension("lines");
    let expected: u64 = fs::read_to_string(&count_file)
        .ok()
        .and_then(|s| s.trim().parse().ok())
        .unwrap_or(0);
    let bar = ProgressBar::new(expected);
    bar.set_style(ProgressStyle::with_template(
        "{msg} {bar:30} {pos}/{len} {elapsed}",
    )?);
    bar.set_message(what.to_string());
    let terminal = std::io::stderr().is_terminal();
    let start = Instant::now();
    if !terminal {
        eprintln!("{what} ...");
    }

    let (reader, writer) = std::io::pipe()?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(writer.try_clone()?)
        .stderr(writer)
        .spawn()
        .with_context(|| format!("{what}: {:?} could not be started", command.get_program()))?;
    // The command object keeps the pipe's write ends open; the reader would never see its end.
    command.stdout(Stdio::null()).stderr(Stdio::null());

    let mut out = File::create(log)?;
    let mut lines = 0u64;
    let mut spoken = start;
    for line in BufReader::new(reader).split(b'\n') {
        out.write_all(&line?)?;
        out.write_all(b"\n")?;
        lines += 1;
        bar.set_position(lines);
        if lines > expected {
            bar.set_length(lines);
        }
        if !terminal && spoken.elapsed() >= QUIET {
            spoken = Instant::now();
            eprintln!(
                "{what}: {lines} of about {} steps, {} s",
                expected.max(lines),
                start.elapsed().as_secs()
            );
        }
    }
    let status = child.wait()?;
    bar.finish_and_clear();
    if !status.success() {
        let text = String::from_utf8_lossy(&fs::read(log)?).into_owned();
        let all: Vec<&str> = text.lines().collect();
        eprintln!("{}", all[all.len().saturating_sub(TAIL)..].join("\n"));
        if text.contains("No space left on device") {
            bail!("{what} failed: the disk is full; free some space or set LIVEUPDATE_CACHE to a larger disk");
        }
        bail!(
            "{what} failed ({status}); the whole log is {}",
            log.display()
        );
    }
    fs::write(count_file, lines.to_string())?;
    eprintln!("{what}: done in {} s", start.elapsed().as_secs());
    Ok(())
}

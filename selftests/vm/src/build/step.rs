// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A long command with a log, a progress line and an error that shows why it failed.

use std::collections::VecDeque;
use std::fs::{
    self,
    File, //
};
use std::io::{
    self,
    BufRead,
    BufReader,
    ErrorKind,
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
    anyhow,
    bail,
    Context,
    Result, //
};
use indicatif::{
    ProgressBar,
    ProgressStyle, //
};

use super::space;

/// Lines of a failed step's log that are shown.
const TAIL: usize = 30;
/// Without a terminal, progress is one line in this interval.
const QUIET: Duration = Duration::from_secs(60);

/// Runs a command; its output goes to `log`, every line counts as progress.
///
/// The number of lines of the last run, kept beside the log, says how far this one is.
pub(super) fn run(what: &str, command: &mut Command, log: &Path) -> Result<()> {
    run_of(what, 0, command, log)
}

/// The same for a step that prints about `first` lines when it runs for the first time.
pub(super) fn run_of(what: &str, first: u64, command: &mut Command, log: &Path) -> Result<()> {
    let unwritable = |error: io::Error| no_log(log, &error);
    if let Some(dir) = log.parent() {
        fs::create_dir_all(dir).map_err(unwritable)?;
    }
    let count_file = log.with_extension("lines");
    let expected: u64 = fs::read_to_string(&count_file)
        .ok()
        .and_then(|s| s.trim().parse().ok())
        .unwrap_or(first);
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

    let mut out = File::create(log).map_err(unwritable)?;
    let (reader, writer) = io::pipe()?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(writer.try_clone()?)
        .stderr(writer)
        .spawn()
        .with_context(|| format!("{what}: {:?} could not be started", command.get_program()))?;
    // The command object keeps the pipe's write ends open; the reader would never see its end.
    command.stdout(Stdio::null()).stderr(Stdio::null());

    let mut lines = 0u64;
    let mut spoken = start;
    // The log may not fit the disk that the step has just filled.
    let mut tail = VecDeque::new();
    let mut lost = None;
    let mut full = false;
    for line in BufReader::new(reader).split(b'\n') {
        let Ok(line) = line else { break };
        let written = out.write_all(&line).and_then(|()| out.write_all(b"\n"));
        lost = lost.or(written.err());
        let line = String::from_utf8_lossy(&line).into_owned();
        full |= line.contains("No space left on device");
        if tail.len() >= TAIL {
            tail.pop_front();
        }
        tail.push_back(line);
        lines += 1;
        bar.set_position(lines);
        if lines > expected {
            bar.set_length(lines);
        }
        if !terminal && spoken.elapsed() >= QUIET {
            spoken = Instant::now();
            let of = match lines < expected {
                true => format!(" of about {expected}"),
                false => String::new(),
            };
            let seconds = start.elapsed().as_secs();
            eprintln!("{what}: {lines}{of} steps, {seconds} s");
        }
    }
    let status = child.wait()?;
    bar.finish_and_clear();
    if !status.success() {
        eprintln!("{}", Vec::from(tail).join("\n"));
        full |= lost.as_ref().is_some_and(is_full);
        if full {
            bail!("{what} failed: the disk is full; {}", space::advice());
        }
        bail!(
            "{what} failed ({status}); the whole log is {}",
            log.display()
        );
    }
    // Only the next run's progress line needs it.
    let _ = fs::write(count_file, lines.to_string());
    eprintln!("{what}: done in {} s", start.elapsed().as_secs());
    Ok(())
}

fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded
    )
}

fn no_log(log: &Path, error: &io::Error) -> anyhow::Error {
    let advice = match is_full(error) {
        true => format!("; {}", space::advice()),
        false => String::new(),
    };
    anyhow!("{} cannot be written: {error}{advice}", log.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str, log: &Path) -> Result<()> {
        run("a test", Command::new("sh").args(["-c", script]), log)
    }

    #[test]
    fn a_full_disk_is_named_and_nothing_is_left_running() {
        let dir = tempfile::tempdir().unwrap();
        let full = dir.path().join("full");
        std::os::unix::fs::symlink("/dev/full", &full).unwrap();
        let done = dir.path().join("done");
        // More than a pipe holds: who stopped reading would stop the step.
        let long = format!("seq 50000; echo > {}", done.display());
        sh(&long, &full).unwrap();
        assert!(done.exists());
        let error = sh("seq 50000; false", &full).unwrap_err().to_string();
        assert!(error.contains("the disk is full"), "{error}");
        assert!(error.contains("LIVEUPDATE_CACHE"), "{error}");

        let log = dir.path().join("log");
        let error = sh("echo no; exit 3", &log).unwrap_err().to_string();
        assert!(error.contains(log.to_str().unwrap()), "{error}");
        let error = sh("echo x: No space left on device; exit 1", &log);
        assert!(error.unwrap_err().to_string().contains("is full"));
        let nowhere = dir.path().join("log/in/a/file");
        let error = sh("true", &nowhere).unwrap_err().to_string();
        assert!(error.contains("cannot be written"), "{error}");
    }
}

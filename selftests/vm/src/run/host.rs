// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The command that runs on the host beside the machine.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{
    Child,
    Command,
    ExitStatus,
    Stdio, //
};
use std::thread;
use std::time::{
    Duration,
    Instant, //
};

use rustix::process::{
    kill_process_group,
    Pid,
    Signal, //
};

use super::machine::die_with_parent;
use super::Error;

/// How long the command has to end after it has been asked to.
const GRACE: Duration = Duration::from_secs(5);

/// The command. It and its children end when this is dropped.
#[derive(Debug)]
pub(super) struct HostCommand {
    child: Child,
    status: Option<ExitStatus>,
}

impl HostCommand {
    /// Starts the command once QEMU listens on its control socket. The machine ends with this kernel.
    pub(super) fn start(command: &str, work: &Path, kernel: &Path) -> Result<Self, Error> {
        let qmp = work.join("qmp");
        let start = Instant::now();
        while !qmp.exists() && start.elapsed() < GRACE {
            thread::sleep(Duration::from_millis(10));
        }
        // The command may run after this program's file was built anew, which is what has its name then.
        let lab = std::env::current_exe().map_or_else(
            |_| super::SELF.into(),
            |path| path.to_string_lossy().into_owned(),
        );
        let lab = lab.strip_suffix(" (deleted)").unwrap_or(&lab).to_owned();
        let mut shell = Command::new("/bin/sh");
        shell
            .args(["-c", command])
            .env("LU_QMP", &qmp)
            .env("LU_KERNEL", kernel)
            .env("LU_LOG", work.join("console.log"))
            .env("LU_MARKS", work.join("marks"))
            .env("LU_STATE", work.join("state"))
            .env("LU_WORK", work)
            .env("LU_LAB", lab)
            .stdin(Stdio::null())
            .process_group(0);
        die_with_parent(&mut shell);
        let child = shell
            .spawn()
            .map_err(|error| Error::Setup(format!("--host: /bin/sh cannot be started: {error}")))?;
        Ok(Self {
            child,
            status: None,
        })
    }

    /// A sentence if the command has failed.
    pub(super) fn failure(&mut self) -> Option<String> {
        if self.status.is_none() {
            self.status = self.child.try_wait().ok().flatten();
        }
        self.status
            .filter(|status| !status.success())
            .map(|status| format!("the --host command failed ({status})"))
    }

    /// Ends the command, if it still runs, and everything it started.
    pub(super) fn finish(&mut self) {
        let Ok(pid) = i32::try_from(self.child.id()) else {
            return;
        };
        let Some(group) = Pid::from_raw(pid) else {
            return;
        };
        // A group without members is one that has ended.
        let _ = kill_process_group(group, Signal::TERM);
        let start = Instant::now();
        while start.elapsed() < GRACE && matches!(self.child.try_wait(), Ok(None)) {
            thread::sleep(Duration::from_millis(20));
        }
        let _ = kill_process_group(group, Signal::KILL);
        let _ = self.child.wait();
    }
}

impl Drop for HostCommand {
    fn drop(&mut self) {
        self.finish();
    }
}

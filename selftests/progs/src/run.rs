// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Runs cases: what each of them is given, and what is done around them.

use crate::{
    cases::Case,
    expect::{
        same,
        works,
        Check, //
    },
    hugetlb::HugeMap,
    memory,
    pattern,
    sys,
    tap::{
        Outcome,
        Report, //
    }, //
};
use anyhow::{
    Context,
    Result, //
};
use liveupdate::{
    IncomingSession,
    LiveUpdate,
    Session,
    SessionName,
    Token, //
};
use std::{
    fmt,
    fs,
    io::ErrorKind,
    os::fd::{
        AsFd,
        BorrowedFd,
        OwnedFd, //
    },
    path::PathBuf,
    thread,
    time::Duration, //
};

/// How long another process may have the device open.
const PATIENCE: Duration = Duration::from_secs(20);

/// What the command line chose.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where notes outlive the kernel.
    pub state: PathBuf,
    /// How much data the cases about much data have.
    pub size: u64,
    /// How many frames the cases with a network card wait for, in each kernel.
    pub frames: u64,
    /// Change one byte of every retrieved file, to see that it is noticed.
    pub sabotage: bool,
}

/// What all steps of a case have.
#[derive(Debug)]
pub struct Common<'a> {
    /// The case.
    pub case: &'static Case,
    /// What the command line chose.
    pub options: &'a Options,
    report: &'a mut Report,
}

impl Common<'_> {
    /// Reports one result.
    pub fn check(&mut self, name: &str, result: Check) -> bool {
        self.report
            .check(&format!("{}.{name}", self.case.name), result)
    }

    /// Reports that a part cannot be tested here.
    pub fn skip(&mut self, name: &str, why: &str) {
        self.report.skip(&format!("{}.{name}", self.case.name), why);
    }

    fn note_path(&self, key: &str) -> PathBuf {
        self.options.state.join(format!("{}.{key}", self.case.name))
    }

    /// Writes something down for the next kernel.
    pub fn note(&self, key: &str, value: &str) -> Result<()> {
        fs::create_dir_all(&self.options.state)?;
        let path = self.note_path(key);
        fs::write(&path, value).with_context(|| format!("cannot write {}", path.display()))
    }

    /// Reads what the previous kernel wrote down.
    pub fn noted(&self, key: &str) -> Result<Option<String>> {
        match fs::read_to_string(self.note_path(key)) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Skips the case in this kernel and in the next one.
    pub fn skip_all(&mut self, why: &str) -> Result<()> {
        self.skip("all", why);
        self.note("skip", why)
    }

    fn session_name(&self, suffix: &str) -> Result<SessionName> {
        Ok(SessionName::new(format!(
            "lu_memfd.{}{suffix}",
            self.case.name
        ))?)
    }
}

/// What a step in the old kernel has.
#[derive(Debug)]
pub struct Old<'a> {
    /// What all steps have.
    pub common: Common<'a>,
    device: &'a LiveUpdate,
    session: Option<Session>,
    kept: &'a mut Kept,
}

/// What lives on until the reboot.
#[derive(Default)]
struct Kept {
    descriptors: Vec<OwnedFd>,
    jobs: Vec<Job>,
}

/// Something that goes on until the reboot.
type Job = Box<dyn FnOnce() + Send>;

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { descriptors, jobs } = self;
        write!(f, "{descriptors:?} and {} jobs", jobs.len())
    }
}

impl Old<'_> {
    /// The case's session.
    pub fn session(&mut self) -> Result<&Session> {
        if self.session.is_none() {
            self.session = Some(self.new_session("")?);
        }
        Ok(self.session.as_ref().expect("it was just made"))
    }

    /// Preserves a file in the case's session.
    pub fn preserve(&mut self, fd: impl AsFd, token: u64) -> Result<()> {
        Ok(self.session()?.preserve(fd, Token(token))?)
    }

    /// Creates one more session.
    pub fn new_session(&self, suffix: &str) -> Result<Session> {
        let name = self.common.session_name(suffix)?;
        Ok(self.device.create_session(&name)?)
    }

    /// Closes the case's session, which takes back everything in it.
    pub fn close_session(&mut self) {
        self.session = None;
    }

    /// Keeps a descriptor open until the reboot.
    pub fn keep(&mut self, fd: impl Into<OwnedFd>) {
        self.kept.descriptors.push(fd.into());
    }

    /// Does something until the reboot, beside everything else.
    pub fn go_on(&mut self, job: impl FnOnce() + Send + 'static) {
        self.kept.jobs.push(Box::new(job));
    }

    /// Remembers which physical pages a file has.
    pub fn note_pages(&self, fd: impl AsFd, size: u64, token: u64) -> Result<()> {
        let pages = page_digest(fd, size)?;
        self.common.note(&format!("{token}.pages"), &pages)
    }
}

/// What a step in the new kernel has.
#[derive(Debug)]
pub struct New<'a> {
    /// What all steps have.
    pub common: Common<'a>,
    device: &'a LiveUpdate,
    session: Option<IncomingSession>,
    handed_on: &'a mut Vec<Session>,
}

impl New<'_> {
    /// The case's session.
    pub fn session(&mut self) -> Result<&IncomingSession> {
        if self.session.is_none() {
            self.session = Some(self.take_session("")?);
        }
        Ok(self.session.as_ref().expect("it was just retrieved"))
    }

    /// Retrieves one more session.
    pub fn take_session(&self, suffix: &str) -> Result<IncomingSession> {
        let name = self.common.session_name(suffix)?;
        Ok(self.device.retrieve_session(&name)?)
    }

    /// Retrieves a file of the case's session.
    pub fn retrieve(&mut self, token: u64) -> Result<OwnedFd> {
        let fd = self.session()?.retrieve(Token(token))?;
        if self.common.options.sabotage {
            sabotage(&fd)?;
        }
        Ok(fd)
    }

    /// Tells the kernel that the session is done with.
    pub fn finish(&mut self) -> Result<()> {
        self.session()?;
        let session = self.session.take().context("there is no session")?;
        Ok(session.finish().map_err(liveupdate::Error::from)?)
    }

    /// Preserves a file for one more kernel, in a session of the same name. That of this kernel must be
    /// finished.
    pub fn hand_on(&mut self, fd: impl AsFd, token: u64) -> Result<()> {
        self.hand_on_all(&[(fd.as_fd(), token)])
    }

    /// The same with several files.
    pub fn hand_on_all(&mut self, files: &[(BorrowedFd<'_>, u64)]) -> Result<()> {
        let session = self.device.create_session(&self.common.session_name("")?)?;
        for (fd, token) in files {
            session.preserve(fd, Token(*token))?;
        }
        self.handed_on.push(session);
        Ok(())
    }

    /// A file has the physical pages it had in the old kernel.
    pub fn same_pages(&self, fd: impl AsFd, size: u64, token: u64) -> Check {
        let before = self.common.noted(&format!("{token}.pages"));
        let before = before
            .map_err(|e| e.to_string())?
            .ok_or("nothing was written down")?;
        same(page_digest(fd, size).map_err(|e| e.to_string())?, before)
    }
}

/// A line that stands for the physical pages of a file.
fn page_digest(fd: impl AsFd, size: u64) -> Result<String> {
    let pfns = memory::pfns(fd, size)?;
    let missing = pfns.iter().filter(|pfn| **pfn == 0).count();
    let digest = pfns
        .iter()
        .fold(0, |d, pfn| pattern::digest(d, &pfn.to_le_bytes()));
    Ok(format!(
        "{} pages, {missing} missing, {digest:016x}",
        pfns.len()
    ))
}

/// Changes the byte in the middle.
///
/// # Errors
///
/// If it cannot be read or written.
pub fn sabotage(fd: &OwnedFd) -> Result<()> {
    let stat = rustix::fs::fstat(fd)?;
    let (size, huge) = (stat.st_size as u64, stat.st_blksize as u64);
    let middle = size / 2;
    let mut byte = [0];
    rustix::io::pread(fd, &mut byte, middle)?;
    let changed = byte[0] ^ 1;
    if rustix::io::pwrite(fd, &[changed], middle).is_err() {
        // Files with huge pages can only be written through mappings.
        let map = HugeMap::shared(fd, size, huge)?;
        map.write(middle, middle + 1, |_, byte| byte.fill(changed));
    }
    Ok(())
}

fn outcome(common: &mut Common<'_>, result: Result<()>) {
    if let Err(error) = result {
        common.check("all", Err(format!("{error:#}")));
    }
}

/// Runs the first steps of `cases`, and leaves a process behind that holds all they made.
///
/// # Errors
///
/// If nothing could be run at all.
pub fn stage1(cases: &[&'static Case], options: &Options) -> Result<Outcome> {
    let mut report = Report::new("memfd");
    let device = LiveUpdate::open_wait(PATIENCE)?;
    let (mut sessions, mut kept) = (Vec::new(), Kept::default());
    for case in cases {
        let Some(step) = case.old else { continue };
        let common = Common {
            case,
            options,
            report: &mut report,
        };
        let _ = fs::remove_file(common.note_path("skip"));
        let mut old = Old {
            common,
            device: &device,
            session: None,
            kept: &mut kept,
        };
        let result = step(&mut old);
        let session = old.session.take();
        outcome(&mut old.common, result);
        if case.new.is_some() {
            let good = works(session.as_ref().ok_or("nothing to preserve"));
            if old.common.noted("skip")?.is_none() {
                old.common.check("preserved", good);
            }
            sessions.extend(session);
        }
    }
    drop(device);
    let outcome = report.end();
    if !sessions.is_empty() {
        let jobs = std::mem::take(&mut kept.jobs);
        sys::leave_behind(|| {
            let busy = !jobs.is_empty();
            for job in jobs {
                thread::spawn(job);
            }
            if busy {
                thread::sleep(Duration::from_millis(200));
            }
        })?;
    }
    Ok(outcome)
}

/// Runs the second steps of `cases`.
///
/// # Errors
///
/// If nothing could be run at all.
pub fn stage2(cases: &[&'static Case], options: &Options) -> Result<Outcome> {
    let mut report = Report::new("memfd");
    let device = LiveUpdate::open_wait(PATIENCE)?;
    let (mut open, mut handed_on) = (Vec::new(), Vec::new());
    for case in cases {
        let Some(step) = case.new else { continue };
        let common = Common {
            case,
            options,
            report: &mut report,
        };
        let mut new = New {
            common,
            device: &device,
            session: None,
            handed_on: &mut handed_on,
        };
        if let Some(why) = new.common.noted("skip")? {
            new.common.skip("all", &why);
            continue;
        }
        let result = step(&mut new);
        outcome(&mut new.common, result);
        open.extend(new.session.map(|session| (case, session)));
    }
    for (case, session) in open {
        let finished = works(session.finish());
        report.check(&format!("{}.finish", case.name), finished);
    }
    let good = report.end();
    if !handed_on.is_empty() {
        drop(device);
        sys::leave_behind(|| ())?;
    }
    Ok(good)
}

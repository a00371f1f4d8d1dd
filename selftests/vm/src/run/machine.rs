// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! QEMU: its arguments, its process, and the two streams that come out of it.

use std::io::{
    self,
    BufRead,
    BufReader,
    Read,
    Write, //
};
use std::os::unix::net::{
    UnixListener,
    UnixStream, //
};
use std::os::unix::process::CommandExt;
use std::path::{
    Path,
    PathBuf, //
};
use std::process::{
    Child,
    Command,
    ExitStatus,
    Stdio, //
};
use std::sync::mpsc::{
    self,
    Receiver,
    Sender, //
};
use std::sync::LazyLock;
use std::thread::{
    self,
    JoinHandle, //
};
use std::time::Instant;

use regex::Regex;

use super::cmdline;
use super::record::Record;
use super::share::at;
use super::Error;
use crate::arch::Arch;
use crate::qmp::Qmp;

/// What executes the guest's instructions.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Accel {
    /// The host's CPU.
    Kvm,
    /// Emulation, one host thread for each CPU.
    Tcg,
    /// Emulation that counts instructions.
    Icount,
}

/// A machine to be started.
#[derive(Debug)]
pub(super) struct Spec<'a> {
    pub(super) arch: Arch,
    pub(super) accel: Accel,
    pub(super) mem: u64,
    pub(super) smp: u32,
    pub(super) kernel: &'a Path,
    pub(super) initrd: &'a Path,
    pub(super) cmdline: &'a str,
    /// Directory for sockets.
    pub(super) work: &'a Path,
    /// The read-only and the writable directory for the guest.
    pub(super) shares: Option<(&'a Path, &'a Path)>,
    pub(super) more: &'a [String],
}

/// Something the guest did.
#[derive(Debug)]
pub(super) enum Event {
    /// A line of the console, or what there is of it at the end.
    Console(Instant, String),
    /// A record on the result channel.
    Record(Instant, Box<Record>),
    /// Something on the result channel that is none.
    Garbage(String),
    /// The console has ended.
    Closed,
}

impl Spec<'_> {
    fn args(&self) -> Vec<String> {
        let bus = match self.arch {
            Arch::X86_64 => "pci",
            Arch::Arm64 => "device",
        };
        let mut args = Vec::new();
        let mut add = |words: &[&str]| args.extend(words.iter().map(|&word| word.to_owned()));

        add(&[
            "-name",
            "liveupdate-rs",
            "-nodefaults",
            "-no-user-config",
            "-nographic",
            "-no-reboot",
        ]);
        add(match self.arch {
            Arch::X86_64 => &["-M", "q35", "-vga", "none"],
            // Without EFI a kernel cannot tell the next one where the GIC's LPI tables are.
            Arch::Arm64 => &["-M", "virt,gic-version=3,its=off,virtualization=on"],
        });
        add(match (self.accel, self.arch) {
            (Accel::Kvm, Arch::X86_64) => &["-accel", "kvm", "-cpu", "max"],
            (Accel::Kvm, Arch::Arm64) => {
                &["-accel", "kvm", "-cpu", "host", "-M", "virtualization=off"]
            }
            // Without what lets a kernel copy and clear memory with string instructions on bytes, which
            // are emulated a byte at a time.
            (_, Arch::X86_64) => &["-cpu", "max,-erms,-fsrm,-fsrs,-fzrm"],
            (_, Arch::Arm64) => &["-cpu", "cortex-a76"],
        });
        match self.accel {
            Accel::Kvm => {}
            Accel::Tcg => add(&["-accel", "tcg,thread=multi"]),
            Accel::Icount => add(&[
                "-accel",
                "tcg,thread=single",
                "-icount",
                "shift=0,sleep=off",
            ]),
        }
        // A kernel does not take it that one package has CPUs on two nodes.
        let sockets = match cmdline::nodes(self.more) {
            nodes if nodes > 1 && u64::from(self.smp) % nodes == 0 => format!(",sockets={nodes}"),
            _ => String::new(),
        };
        let cpus = format!("{}{sockets}", self.smp);
        add(&["-m", &format!("{}M", self.mem >> 20), "-smp", &cpus]);
        add(&[
            "-kernel",
            &path(self.kernel),
            "-initrd",
            &path(self.initrd),
            "-append",
            self.cmdline,
        ]);
        add(&[
            "-chardev",
            "stdio,id=console,signal=off",
            "-serial",
            "chardev:console",
        ]);
        let result = path(&self.work.join("result"));
        add(&["-chardev", &format!("socket,id=result,path={result}")]);
        add(&["-device", &format!("virtio-serial-{bus}")]);
        add(&["-device", "virtserialport,chardev=result,name=lu.result"]);
        let qmp = path(&self.work.join("qmp"));
        add(&["-qmp", &format!("unix:{qmp},server=on,wait=off")]);
        if let Some((share, state)) = self.shares {
            for (tag, dir, mode) in [("share", share, ",readonly=on"), ("state", state, "")] {
                let dir = path(dir);
                add(&[
                    "-fsdev",
                    &format!("local,id={tag},path={dir},security_model=none{mode}"),
                ]);
                add(&[
                    "-device",
                    &format!("virtio-9p-{bus},fsdev={tag},mount_tag=lu.{tag}"),
                ]);
            }
        }
        // Commas are written twice in QEMU's own syntax.
        let work = path(self.work);
        args.extend(self.more.iter().map(|word| word.replace("$LU_WORK", &work)));
        args
    }

    fn program(&self) -> &'static str {
        match self.arch {
            Arch::X86_64 => "qemu-system-x86_64",
            Arch::Arm64 => "qemu-system-aarch64",
        }
    }

    /// Starts the machine.
    pub(super) fn start(&self) -> Result<Machine, Error> {
        let result = self.work.join("result");
        let _ = std::fs::remove_file(&result);
        let listener = UnixListener::bind(&result).map_err(at(&result))?;
        listener.set_nonblocking(true).map_err(at(&result))?;

        let mut command = Command::new(self.program());
        command
            .args(self.args())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .process_group(0);
        // The console is judged, so what QEMU itself has to say stays apart from it.
        let complaints = self.work.join("qemu.log");
        command.stderr(std::fs::File::create(&complaints).map_err(at(&complaints))?);
        die_with_parent(&mut command);
        let mut child = command.spawn().map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Error::Setup(format!(
                "{} is not installed; run this through selftests/vm/run, which brings its own",
                self.program()
            )),
            _ => Error::Setup(format!("{} cannot be started: {error}", self.program())),
        })?;

        let (sender, events) = mpsc::channel();
        let console = child.stdout.take();
        let threads = vec![thread::spawn({
            let sender = sender.clone();
            move || {
                console
                    .map(|console| read_console(console, &sender))
                    .map_or((), |()| {
                        let _ = sender.send(Event::Closed);
                    })
            }
        })];
        Ok(Machine {
            child,
            events,
            sender,
            listener: Some(listener),
            threads,
            qmp: self.work.join("qmp"),
        })
    }
}

fn path(path: &Path) -> String {
    // QEMU's own syntax: a comma in a value is written twice.
    path.to_string_lossy().replace(',', ",,")
}

/// Has the kernel kill a child whose parent is gone, however it went.
pub(super) fn die_with_parent(command: &mut Command) {
    // SAFETY: between fork and exec the closure only makes a system call.
    unsafe {
        command.pre_exec(|| {
            let signal = Some(rustix::process::Signal::KILL);
            Ok(rustix::process::set_parent_process_death_signal(signal)?)
        });
    }
}

/// A running machine. It is killed when this is dropped.
#[derive(Debug)]
pub(super) struct Machine {
    child: Child,
    pub(super) events: Receiver<Event>,
    sender: Sender<Event>,
    listener: Option<UnixListener>,
    threads: Vec<JoinHandle<()>>,
    qmp: PathBuf,
}

impl Machine {
    /// Takes QEMU's connection to the result channel as soon as it is there.
    pub(super) fn accept(&mut self) {
        let Some(Ok((stream, _))) = self.listener.as_ref().map(UnixListener::accept) else {
            return;
        };
        let sender = self.sender.clone();
        self.listener = None;
        self.threads.push(thread::spawn(move || {
            // An error here is QEMU's end, which the console tells as well.
            let _ = read_results(stream, &sender);
        }));
    }

    /// Whether QEMU has ended, and how.
    pub(super) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// What the CPUs are doing, for people who want to know why it does not get on.
    pub(super) fn registers(&self) -> String {
        Qmp::connect(&self.qmp)
            .and_then(|mut qmp| qmp.registers())
            .unwrap_or_else(|error| format!("QEMU does not tell its registers: {error:#}"))
    }

    /// Ends the machine and waits until all it said has arrived.
    pub(super) fn finish(&mut self) -> Option<ExitStatus> {
        // Both fail only if it has ended already.
        let _ = self.child.kill();
        let status = self.child.wait().ok();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
        status
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.finish();
    }
}

fn read_console(mut console: impl Read, sender: &Sender<Event>) {
    let mut buffer = [0; 16 << 10];
    let mut line = Vec::new();
    let flush = |line: &mut Vec<u8>| {
        let text = plain(&String::from_utf8_lossy(line));
        line.clear();
        sender.send(Event::Console(Instant::now(), text)).is_ok()
    };

    while let Ok(count @ 1..) = console.read(&mut buffer) {
        for &byte in buffer.iter().take(count) {
            if byte != b'\n' {
                line.push(byte);
            } else if !flush(&mut line) {
                return;
            }
        }
    }
    if !line.is_empty() {
        flush(&mut line);
    }
}

/// Without carriage returns and escape sequences: firmware would clear the user's terminal.
fn plain(text: &str) -> String {
    static NOISE: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(r"\x1b(?:\[[0-9;?]*[A-Za-z]|[a-z])|\r").expect("the tests compile it")
    });

    NOISE.replace_all(text, "").into_owned()
}

fn read_results(stream: UnixStream, sender: &Sender<Event>) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    let mut answers = stream.try_clone()?;

    for line in BufReader::new(stream).lines() {
        let line = line?;
        let now = Instant::now();
        let event = match serde_json::from_str(&line) {
            Ok(record) => Event::Record(now, record),
            Err(error) => Event::Garbage(format!("{line:?}: {error}")),
        };
        if sender.send(event).is_err() {
            break;
        }
        // The guest waits for this: it must not go on before its word is safe.
        answers.write_all(b"\n")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn firmware_does_not_clear_the_terminal() {
        assert_eq!(plain("\x1bc\x1b[?7l\x1b[2J\x1b[0mSeaBIOS\r"), "SeaBIOS");
    }

    #[test]
    fn the_last_line_needs_no_end() {
        let (sender, receiver) = mpsc::channel();
        read_console(&b"one\r\ntwo"[..], &sender);
        let lines: Vec<_> = receiver
            .try_iter()
            .map(|e| match e {
                Event::Console(_, text) => text,
                _ => panic!("console only"),
            })
            .collect();
        assert_eq!(lines, ["one", "two"]);
    }
}

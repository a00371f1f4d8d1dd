// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! QEMU's socket for debuggers: stops a machine of x86_64 where it calls a function.
//!
//! The protocol is in "Debugging with GDB", appendix E, the numbers of registers in gdb/features/i386/64bit-core.xml.

use std::io::{
    BufRead,
    BufReader,
    Write, //
};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{
    bail,
    ensure,
    Context,
    Result, //
};

/// How long the machine may take until it is where it is to stop.
const PATIENCE: Duration = Duration::from_secs(240);

/// A register.
#[derive(Clone, Copy, Debug)]
pub(super) enum Register {
    /// What a function returns.
    Rax = 0,
    /// The stack: a function finds there where to return to.
    Rsp = 7,
    /// Where the CPU is.
    Rip = 16,
}

/// The machine, which is stopped whenever there is no call.
pub(super) struct Gdb {
    reader: BufReader<UnixStream>,
    writer: UnixStream,
}

impl Gdb {
    /// Connects, which stops the machine.
    pub(super) fn connect(path: &Path) -> Result<Self> {
        let writer = UnixStream::connect(path).with_context(|| path.display().to_string())?;
        writer.set_read_timeout(Some(PATIENCE))?;
        let reader = BufReader::new(writer.try_clone()?);
        let mut this = Self { reader, writer };
        this.ask("?")?;
        Ok(this)
    }

    /// Has the machine stop before it carries out what is at an address.
    pub(super) fn stop_at(&mut self, address: u64) -> Result<()> {
        self.order(&format!("Z0,{address:x},1"))
    }

    /// Does not have it stop there any more.
    pub(super) fn pass(&mut self, address: u64) -> Result<()> {
        self.order(&format!("z0,{address:x},1"))
    }

    /// Lets the machine go on until it stops. Returns where.
    pub(super) fn go_on(&mut self) -> Result<u64> {
        self.resume("c")
    }

    /// The same from where it has stopped, where it would stop again at once.
    pub(super) fn go_on_from(&mut self, address: u64) -> Result<u64> {
        self.pass(address)?;
        self.resume("s")?;
        self.stop_at(address)?;
        self.go_on()
    }

    fn resume(&mut self, how: &str) -> Result<u64> {
        let answer = self.ask(how)?;
        ensure!(answer.starts_with('T'), "the machine says {answer:?}");
        self.register(Register::Rip)
    }

    /// Lets it go on alone.
    pub(super) fn leave(mut self) -> Result<()> {
        self.order("D")
    }

    pub(super) fn register(&mut self, register: Register) -> Result<u64> {
        let answer = self.ask(&format!("p{:x}", register as u8))?;
        number(&answer)
    }

    pub(super) fn set(&mut self, register: Register, value: u64) -> Result<()> {
        let digits = value.swap_bytes();
        self.order(&format!("P{:x}={digits:016x}", register as u8))
    }

    /// The number at an address.
    pub(super) fn word(&mut self, address: u64) -> Result<u64> {
        let answer = self.ask(&format!("m{address:x},8"))?;
        number(&answer)
    }

    fn order(&mut self, what: &str) -> Result<()> {
        let answer = self.ask(what)?;
        ensure!(answer == "OK", "QEMU answered {what:?} with {answer:?}");
        Ok(())
    }

    /// Sends a packet, and gives the one that answers it.
    fn ask(&mut self, what: &str) -> Result<String> {
        let sum = what.bytes().fold(0u8, u8::wrapping_add);
        self.writer
            .write_all(format!("${what}#{sum:02x}").as_bytes())?;
        // What comes first is that it was understood.
        let mut text = Vec::new();
        self.reader.read_until(b'#', &mut text)?;
        let mut sum = [0; 2];
        std::io::Read::read_exact(&mut self.reader, &mut sum)?;
        self.writer.write_all(b"+")?;
        let text = String::from_utf8(text)?;
        let Some(answer) = text.strip_prefix("+$") else {
            bail!("QEMU did not understand {what:?}: {text:?}");
        };
        Ok(answer.trim_end_matches('#').to_owned())
    }
}

/// Eight bytes, the lowest first.
fn number(digits: &str) -> Result<u64> {
    let value = u64::from_str_radix(digits, 16).with_context(|| format!("QEMU says {digits:?}"))?;
    Ok(value.swap_bytes())
}

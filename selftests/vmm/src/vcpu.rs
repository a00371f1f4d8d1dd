// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! vCPUs: a thread for each, which can be stopped at a point where its state is complete.

use std::sync::{
    atomic::{
        AtomicBool,
        AtomicU64,
        Ordering, //
    },
    Arc,
    Condvar,
    Mutex,
    MutexGuard,
    PoisonError, //
};
use std::thread::{
    self,
    JoinHandle, //
};
use std::time::Duration;

use anyhow::{
    bail,
    ensure,
    Context,
    Result, //
};
use kvm_ioctls::{
    VcpuExit,
    VcpuFd, //
};
use vmm_sys_util::signal::Killable;

use crate::arch;
use crate::devices::Devices;
use crate::memory::{
    Outcome,
    Shape, //
};
use crate::watch::Watch;

/// Interrupts `KVM_RUN`.
const KICK: i32 = signal_hook::consts::SIGUSR1;

/// A signal that comes just before `KVM_RUN` is lost, so it is repeated this often.
const REPEAT: Duration = Duration::from_micros(500);

/// The hypercall's answer to a guest that asks for what there is not: `-KVM_EINVAL`.
const REFUSED: u64 = (-22i64) as u64;

#[derive(Debug)]
struct Gate {
    stop: AtomicBool,
    /// How many vCPUs are stopped.
    parked: Mutex<usize>,
    changed: Condvar,
    /// The counter when a vCPU first came back from the guest.
    first_exit: AtomicU64,
}

/// All vCPUs of a guest. They are stopped at first.
#[derive(Debug)]
pub(crate) struct Vcpus {
    fds: Vec<Arc<Mutex<VcpuFd>>>,
    threads: Vec<JoinHandle<()>>,
    gate: Arc<Gate>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Vcpus {
    /// Makes a thread for each vCPU.
    pub(crate) fn new(
        fds: Vec<VcpuFd>,
        devices: &Arc<Devices>,
        shape: &Arc<Shape>,
        watch: &Arc<Watch>,
    ) -> Result<Self> {
        // The handler does nothing that matters: the system call returns because of it.
        signal_hook::flag::register(KICK, Arc::default()).context("a signal cannot be handled")?;
        let gate = Arc::new(Gate {
            stop: AtomicBool::new(true),
            parked: Mutex::new(0),
            changed: Condvar::new(),
            first_exit: AtomicU64::new(0),
        });
        let fds: Vec<_> = fds.into_iter().map(|fd| Arc::new(Mutex::new(fd))).collect();
        let threads = fds
            .iter()
            .enumerate()
            .map(|(number, fd)| {
                let (fd, gate) = (fd.clone(), gate.clone());
                let outside = Outside {
                    devices: devices.clone(),
                    shape: shape.clone(),
                    watch: watch.clone(),
                };
                thread::Builder::new()
                    .name(format!("vcpu{number}"))
                    .spawn(move || thread_main(number, &fd, &gate, &outside))
                    .context("a thread cannot be started")
            })
            .collect::<Result<_>>()?;
        let vcpus = Self { fds, threads, gate };
        vcpus.stop();
        Ok(vcpus)
    }

    /// Lets the vCPUs run.
    pub(crate) fn start(&self) {
        self.gate.first_exit.store(0, Ordering::SeqCst);
        let _parked = lock(&self.gate.parked);
        self.gate.stop.store(false, Ordering::SeqCst);
        self.gate.changed.notify_all();
    }

    /// Stops all vCPUs, each with its last exit completed, and waits until they are.
    pub(crate) fn stop(&self) {
        self.gate.stop.store(true, Ordering::SeqCst);
        let mut parked = lock(&self.gate.parked);
        // A thread that has ended runs nothing, but does not say that it is parked.
        while *parked < self.threads.iter().filter(|t| !t.is_finished()).count() {
            for thread in &self.threads {
                // It fails only for a thread that has ended.
                let _ = thread.kill(KICK);
            }
            parked = match self.gate.changed.wait_timeout(parked, REPEAT) {
                Ok((parked, _)) => parked,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
    }

    /// Does something with each vCPU; they must be stopped.
    pub(crate) fn each(&self, mut act: impl FnMut(usize, &VcpuFd) -> Result<()>) -> Result<()> {
        for (number, fd) in self.fds.iter().enumerate() {
            act(number, &lock(fd)).with_context(|| format!("vCPU {number}"))?;
        }
        Ok(())
    }

    pub(crate) fn len(&self) -> usize {
        self.fds.len()
    }

    /// The counter's value at the first exit since the last start, once there was one.
    pub(crate) fn first_exit(&self) -> Option<u64> {
        match self.gate.first_exit.load(Ordering::SeqCst) {
            0 => None,
            tick => Some(tick),
        }
    }
}

impl Drop for Vcpus {
    /// Nothing may run any more when the memory goes.
    fn drop(&mut self) {
        self.stop();
    }
}

/// What a vCPU meets outside of the guest.
#[derive(Debug)]
struct Outside {
    devices: Arc<Devices>,
    shape: Arc<Shape>,
    watch: Arc<Watch>,
}

fn thread_main(number: usize, fd: &Mutex<VcpuFd>, gate: &Gate, outside: &Outside) {
    loop {
        let mut parked = lock(&gate.parked);
        *parked += 1;
        gate.changed.notify_all();
        while gate.stop.load(Ordering::SeqCst) {
            parked = gate
                .changed
                .wait(parked)
                .unwrap_or_else(PoisonError::into_inner);
        }
        *parked -= 1;
        drop(parked);

        let mut fd = lock(fd);
        if let Err(error) = run(&mut fd, gate, outside) {
            let watch = &outside.watch;
            watch.fault(format!("vCPU {number} ended: {error:#}"));
            watch.end();
            // What is left to do is to be stopped.
            gate.stop.store(true, Ordering::SeqCst);
        }
    }
}

/// How a stay in the guest ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum End {
    /// With an exit, which has been handled.
    Exit,
    /// With nothing to handle.
    Interrupted,
    /// With an exit for which memory must not be preserved.
    Waits,
    /// Where there is no memory.
    Fault,
}

/// Runs until the gate closes.
fn run(fd: &mut VcpuFd, gate: &Gate, outside: &Outside) -> Result<()> {
    let mut faults = 0;
    while !gate.stop.load(Ordering::SeqCst) {
        let end = enter(fd, outside)?;
        if end != End::Interrupted && gate.first_exit.load(Ordering::Relaxed) == 0 {
            let now = arch::counter();
            let _ = gate
                .first_exit
                .compare_exchange(0, now, Ordering::SeqCst, Ordering::Relaxed);
        }
        match end {
            End::Exit | End::Interrupted => faults = 0,
            End::Fault if !outside.shape.is_frozen() => {
                // The first one may have been while memory was preserved.
                faults += 1;
                ensure!(faults < 3, "the guest has no memory where it wants some");
            }
            End::Waits | End::Fault => {
                outside.shape.waits();
                while outside.shape.is_frozen() && !gate.stop.load(Ordering::SeqCst) {
                    thread::sleep(REPEAT);
                }
            }
        }
    }
    // KVM finishes the instruction of the last exit when it is entered again, and only then are the
    // registers right.
    fd.set_kvm_immediate_exit(1);
    let completed = (|| {
        while enter(fd, outside)? != End::Interrupted {}
        Ok(())
    })();
    fd.set_kvm_immediate_exit(0);
    completed
}

/// Enters the guest once.
fn enter(fd: &mut VcpuFd, outside: &Outside) -> Result<End> {
    let Outside {
        devices,
        shape,
        watch,
    } = outside;
    match fd.run() {
        Err(error) if matches!(error.errno(), libc::EINTR | libc::EAGAIN) => {
            return Ok(End::Interrupted)
        }
        Err(error) if error.errno() == libc::EFAULT => return Ok(End::Fault),
        Err(error) => return Err(error).context("KVM_RUN"),
        Ok(VcpuExit::IoOut(port, data)) => devices.write(u64::from(port), data)?,
        Ok(VcpuExit::IoIn(port, data)) => devices.read(u64::from(port), data),
        Ok(VcpuExit::MmioWrite(address, data)) => devices.write(address, data)?,
        Ok(VcpuExit::MmioRead(address, data)) => devices.read(address, data),
        Ok(VcpuExit::MemoryFault { .. }) => return Ok(End::Fault),
        Ok(VcpuExit::Hypercall(call)) if call.nr == arch::MAP_GPA_RANGE => {
            let [address, count, flags, ..] = call.args;
            let outcome = shape.convert(address, count, flags & arch::MAP_PRIVATE != 0)?;
            *call.ret = match outcome {
                Outcome::Done | Outcome::Later => 0,
                Outcome::Refused => REFUSED,
            };
            if outcome == Outcome::Later {
                return Ok(End::Waits);
            }
        }
        Ok(VcpuExit::Shutdown | VcpuExit::SystemEvent(..)) => {
            watch.end();
            bail!("the guest switched itself off");
        }
        Ok(other) => bail!("an exit that should not happen: {other:?}"),
    }
    Ok(End::Exit)
}

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
use crate::watch::Watch;

/// Interrupts `KVM_RUN`.
const KICK: i32 = signal_hook::consts::SIGUSR1;

/// A signal that comes just before `KVM_RUN` is lost, so it is repeated this often.
const REPEAT: Duration = Duration::from_micros(500);

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
                let (fd, gate, devices, watch) =
                    (fd.clone(), gate.clone(), devices.clone(), watch.clone());
                thread::Builder::new()
                    .name(format!("vcpu{number}"))
                    .spawn(move || thread_main(number, &fd, &gate, &devices, &watch))
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

fn thread_main(number: usize, fd: &Mutex<VcpuFd>, gate: &Gate, devices: &Devices, watch: &Watch) {
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
        if let Err(error) = run(&mut fd, gate, devices, watch) {
            watch.fault(format!("vCPU {number} ended: {error:#}"));
            watch.end();
            // What is left to do is to be stopped.
            gate.stop.store(true, Ordering::SeqCst);
        }
    }
}

/// Runs until the gate closes.
fn run(fd: &mut VcpuFd, gate: &Gate, devices: &Devices, watch: &Watch) -> Result<()> {
    while !gate.stop.load(Ordering::SeqCst) {
        let interrupted = enter(fd, devices, watch)?;
        if !interrupted && gate.first_exit.load(Ordering::Relaxed) == 0 {
            let now = arch::counter();
            let _ = gate
                .first_exit
                .compare_exchange(0, now, Ordering::SeqCst, Ordering::Relaxed);
        }
    }
    // KVM finishes the instruction of the last exit when it is entered again, and only then are the
    // registers right.
    fd.set_kvm_immediate_exit(1);
    let completed = (|| {
        while !enter(fd, devices, watch)? {}
        Ok(())
    })();
    fd.set_kvm_immediate_exit(0);
    completed
}

/// Enters the guest once. Returns whether that ended without an exit to handle.
fn enter(fd: &mut VcpuFd, devices: &Devices, watch: &Watch) -> Result<bool> {
    match fd.run() {
        Err(error) if matches!(error.errno(), libc::EINTR | libc::EAGAIN) => Ok(true),
        Err(error) => Err(error).context("KVM_RUN"),
        Ok(exit) => {
            match exit {
                VcpuExit::IoOut(port, data) => devices.write(u64::from(port), data)?,
                VcpuExit::IoIn(port, data) => devices.read(u64::from(port), data),
                VcpuExit::MmioWrite(address, data) => devices.write(address, data)?,
                VcpuExit::MmioRead(address, data) => devices.read(address, data),
                VcpuExit::Shutdown | VcpuExit::SystemEvent(..) => {
                    watch.end();
                    bail!("the guest switched itself off");
                }
                other => bail!("an exit that should not happen: {other:?}"),
            }
            Ok(false)
        }
    }
}

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What QEMU calls, and is called for.

use std::ffi::{
    c_char,
    c_int,
    c_uint,
    c_void,
    CStr, //
};
use std::fmt::Write as _;
use std::fs::{
    File,
    OpenOptions, //
};
use std::io::Write as _;
use std::ptr;
use std::sync::OnceLock;

use crate::place::name;

/// Tells QEMU which version of the interface this is made for.
#[no_mangle]
#[allow(non_upper_case_globals, reason = "the name is QEMU's")]
pub(crate) static qemu_plugin_version: c_int = 7;

/// A number for each CPU.
#[repr(C)]
#[derive(Clone, Copy)]
struct PerCpu {
    board: *mut c_void,
    offset: usize,
}

/// The beginning of what QEMU tells about the guest.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct Info {
    target: *const c_char,
    versions: [c_int; 2],
    is_system: bool,
    cpus: c_int,
}

type Translated = unsafe extern "C" fn(block: *mut c_void, data: *mut c_void);
type Executed = unsafe extern "C" fn(cpu: c_uint, data: *mut c_void);

const ADD: c_int = 0;
const NO_REGISTERS: c_int = 0;

extern "C" {
    fn qemu_plugin_scoreboard_new(size: usize) -> *mut c_void;
    fn qemu_plugin_scoreboard_find(board: *mut c_void, cpu: c_uint) -> *mut c_void;
    fn qemu_plugin_register_vcpu_tb_trans_cb(id: u64, call: Translated, data: *mut c_void);
    fn qemu_plugin_register_vcpu_tb_exec_inline_per_vcpu(
        block: *mut c_void,
        op: c_int,
        number: PerCpu,
        by: u64,
    );
    fn qemu_plugin_register_vcpu_insn_exec_cb(
        instruction: *mut c_void,
        call: Executed,
        flags: c_int,
        data: *mut c_void,
    );
    fn qemu_plugin_tb_n_insns(block: *const c_void) -> usize;
    fn qemu_plugin_tb_get_insn(block: *const c_void, nr: usize) -> *mut c_void;
    fn qemu_plugin_insn_data(instruction: *const c_void, to: *mut c_void, len: usize) -> usize;
}

struct Counts {
    counts: PerCpu,
    cpus: c_uint,
    is_arm: bool,
    out: File,
}

// SAFETY: QEMU's numbers may be used by any thread.
unsafe impl Send for Counts {}
// SAFETY: As above.
unsafe impl Sync for Counts {}

static COUNTS: OnceLock<Counts> = OnceLock::new();

/// A program has come to a place that is named.
unsafe extern "C" fn reached(_cpu: c_uint, data: *mut c_void) {
    let Some(counts) = COUNTS.get() else { return };
    let mut line = (data as usize).to_string();
    for cpu in 0..counts.cpus {
        // SAFETY: The board was made by QEMU and is never freed, and there are that many CPUs.
        let count = unsafe {
            qemu_plugin_scoreboard_find(counts.counts.board, cpu)
                .cast::<u64>()
                .read_volatile()
        };
        let _ = write!(line, " {count}");
    }
    let _ = writeln!(&counts.out, "{line}");
}

/// A block of instructions was translated.
unsafe extern "C" fn translated(block: *mut c_void, _data: *mut c_void) {
    let Some(counts) = COUNTS.get() else { return };
    // SAFETY: QEMU lends the block until this returns.
    unsafe {
        let nr = qemu_plugin_tb_n_insns(block);
        qemu_plugin_register_vcpu_tb_exec_inline_per_vcpu(block, ADD, counts.counts, nr as u64);
        for nr in 0..nr {
            let instruction = qemu_plugin_tb_get_insn(block, nr);
            let mut code = [0; 16];
            let len = qemu_plugin_insn_data(instruction, code.as_mut_ptr().cast(), code.len());
            if let Some(name) = code.get(..len).and_then(|code| name(counts.is_arm, code)) {
                let data = usize::from(name) as *mut c_void;
                qemu_plugin_register_vcpu_insn_exec_cb(instruction, reached, NO_REGISTERS, data);
            }
        }
    }
}

/// QEMU calls this when it loads the plugin. The answer is 0 if it can be used.
///
/// # Safety
///
/// As QEMU does it: `info` describes the guest, and there are `nr` texts at `args`.
#[no_mangle]
pub(crate) unsafe extern "C" fn qemu_plugin_install(
    id: u64,
    info: *const Info,
    nr: c_int,
    args: *const *const c_char,
) -> c_int {
    // SAFETY: The caller guarantees it.
    let (target, cpus) = unsafe { (CStr::from_ptr((*info).target), (*info).cpus) };
    let args = (0..usize::try_from(nr).unwrap_or(0)).filter_map(|nr| {
        // SAFETY: As above.
        unsafe { CStr::from_ptr(*args.add(nr)) }.to_str().ok()
    });
    let Some(path) = args.filter_map(|arg| arg.strip_prefix("out=")).next() else {
        eprintln!("cpu-counts: out=FILE is missing");
        return 1;
    };
    let out = match OpenOptions::new().create(true).append(true).open(path) {
        Ok(out) => out,
        Err(error) => {
            eprintln!("cpu-counts: {path}: {error}");
            return 1;
        }
    };
    let counts = Counts {
        counts: PerCpu {
            // SAFETY: QEMU has loaded the plugin.
            board: unsafe { qemu_plugin_scoreboard_new(size_of::<u64>()) },
            offset: 0,
        },
        cpus: c_uint::try_from(cpus).unwrap_or(0),
        is_arm: target.to_bytes() == b"aarch64",
        out,
    };
    if COUNTS.set(counts).is_err() {
        return 1;
    }
    // SAFETY: As above; the function has the type that QEMU calls.
    unsafe { qemu_plugin_register_vcpu_tb_trans_cb(id, translated, ptr::null_mut()) };
    0
}

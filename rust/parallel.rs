// SPDX-License-Identifier: GPL-2.0-only

//! Work that several CPUs share.
//!
//! C header: [`include/linux/workqueue.h`](srctree/include/linux/workqueue.h)

use crate::bindings;
use core::ffi::c_void;

/// How many CPUs could help.
pub(crate) fn cpus() -> u32 {
    // SAFETY: FFI call without requirements.
    unsafe { bindings::luo_helper_cpus() }
}

/// What the tasks share.
struct Context<'a, T, F> {
    items: *mut T,
    nr: usize,
    f: &'a F,
}

impl<T, F: Fn(&mut T)> Context<'_, T, F> {
    /// # Safety
    ///
    /// `context` must be one whose items are alive and used by nobody, but for calls of this with other
    /// numbers.
    unsafe extern "C" fn call(context: *mut c_void, nr: u32) {
        // SAFETY: The caller guarantees that it is one; it is only read.
        let context = unsafe { &*context.cast::<Self>() };
        let nr = nr as usize;
        if nr < context.nr {
            // SAFETY: There is such an item, and nobody else has a reference of it.
            (context.f)(unsafe { &mut *context.items.add(nr) });
        }
    }
}

/// Calls `f` with each item: at the same time, if other CPUs have time and memory is not short.
///
/// Returns when all calls did. Memory that `f` allocates or charges belongs to the control group of the
/// caller, whichever task runs it. It may sleep, and must not wait for another call.
pub(crate) fn for_each<T: Send, F: Fn(&mut T) + Sync>(items: &mut [T], f: F) {
    let Ok(nr) = u32::try_from(items.len()) else {
        return items.iter_mut().for_each(f);
    };
    let mut context = Context {
        items: items.as_mut_ptr(),
        nr: items.len(),
        f: &f,
    };
    // SAFETY: `call` gets each number once, and only before this returns, while the items are borrowed and
    // the context is alive. Items and `f` may be used by other tasks by their bounds.
    unsafe {
        bindings::luo_helper_parallel(Some(Context::<T, F>::call), (&raw mut context).cast(), nr);
    }
}

/// Calls both functions: at the same time, if there is `much` to do and another CPU has time. As [`for_each`].
pub(crate) fn both(much: bool, mut first: impl FnMut() + Send, mut second: impl FnMut() + Send) {
    if much {
        let mut calls: [&mut (dyn FnMut() + Send); 2] = [&mut first, &mut second];
        for_each(&mut calls, |call| call());
    } else {
        first();
        second();
    }
}

// SPDX-License-Identifier: GPL-2.0-only

//! Settings of modules that can be changed at run time: one of several names.
//!
//! What `module!` makes is set when the module is loaded, and never again.
//!
//! C header: [`include/linux/moduleparam.h`](srctree/include/linux/moduleparam.h)

use kernel::{
    bindings,
    error::from_result,
    page::PAGE_SIZE,
    prelude::*,
    sync::atomic::{
        Atomic,
        Relaxed, //
    }, //
};

/// One of several names, at first the first of them.
pub struct Choice {
    names: &'static [&'static CStr],
    chosen: Atomic<usize>,
}

impl Choice {
    /// A choice between names, of which there is at least one.
    pub const fn new(names: &'static [&'static CStr]) -> Self {
        Self {
            names,
            chosen: Atomic::new(0),
        }
    }

    /// The number of the name that is chosen.
    #[inline]
    pub fn get(&self) -> usize {
        self.chosen.load(Relaxed)
    }

    fn set(&self, text: &[u8]) -> Result {
        let text = text.trim_ascii();
        let found = self.names.iter().position(|name| name.to_bytes() == text);
        self.chosen.store(found.ok_or(EINVAL)?, Relaxed);
        Ok(())
    }

    /// What the parameter points to.
    #[doc(hidden)]
    pub const fn as_arg(&'static self) -> *mut c_void {
        core::ptr::from_ref(self).cast_mut().cast()
    }
}

/// # Safety
///
/// `param` must be one that [`choice_param!`](crate::choice_param) made, and `val` null or a C string.
unsafe extern "C" fn set(val: *const c_char, param: *const bindings::kernel_param) -> c_int {
    from_result(|| {
        if val.is_null() {
            return Err(EINVAL);
        }
        // SAFETY: The caller guarantees it.
        let val = unsafe { CStr::from_char_ptr(val) };
        // SAFETY: As above: it points to a `Choice` that is never freed as long as the module is there.
        let choice = unsafe { &*(*param).__bindgen_anon_1.arg.cast::<Choice>() };
        choice.set(val.to_bytes())?;
        Ok(0)
    })
}

/// # Safety
///
/// `param` must be one that [`choice_param!`](crate::choice_param) made, and there must be room for a page at
/// `to`.
unsafe extern "C" fn get(to: *mut c_char, param: *const bindings::kernel_param) -> c_int {
    // SAFETY: The caller guarantees it: it points to a `Choice`.
    let choice = unsafe { &*(*param).__bindgen_anon_1.arg.cast::<Choice>() };
    let name = choice
        .names
        .get(choice.get())
        .map_or(&[][..], |n| n.to_bytes());
    let name = name.get(..PAGE_SIZE - 2).unwrap_or(name);
    let to = to.cast::<u8>();
    // SAFETY: There is room, for a line and a final NUL.
    unsafe {
        to.copy_from_nonoverlapping(name.as_ptr(), name.len());
        to.add(name.len()).write(b'\n');
        to.add(name.len() + 1).write(0);
    }
    // CAST: Less than a page.
    (name.len() + 1) as c_int
}

/// What the kernel calls.
#[doc(hidden)]
pub static OPS: bindings::kernel_param_ops = bindings::kernel_param_ops {
    flags: 0,
    set: Some(set),
    get: Some(get),
    free: None,
};

/// Makes a [`Choice`] a parameter of the module `$module` that root can read and write while it is loaded.
#[macro_export]
macro_rules! choice_param {
    ($module:literal, $name:literal, $choice:path, $description:literal) => {
        const _: () = {
            #[link_section = "__param"]
            #[used(compiler)]
            static PARAM: ::kernel::module_param::KernelParam =
                ::kernel::module_param::KernelParam::new(::kernel::bindings::kernel_param {
                    name: ::kernel::str::as_char_ptr_in_const_context(
                        match ::core::ffi::CStr::from_bytes_with_nul(if ::core::cfg!(MODULE) {
                            ::core::concat!($name, "\0").as_bytes()
                        } else {
                            ::core::concat!($module, ".", $name, "\0").as_bytes()
                        }) {
                            Ok(name) => name,
                            Err(_) => panic!("a NUL in a name"),
                        },
                    ),
                    // SAFETY: The kernel made it when it loaded the module, and frees it after the module.
                    #[cfg(MODULE)]
                    mod_: unsafe {
                        ::core::ptr::from_ref(&::kernel::bindings::__this_module).cast_mut()
                    },
                    #[cfg(not(MODULE))]
                    mod_: ::core::ptr::null_mut(),
                    ops: ::core::ptr::from_ref(&$crate::param::OPS),
                    perm: 0o644,
                    level: -1,
                    flags: 0,
                    __bindgen_anon_1: ::kernel::bindings::kernel_param__bindgen_ty_1 {
                        arg: $choice.as_arg(),
                    },
                });
        };
        $crate::modinfo!("parmtype", ::core::concat!($name, ":charp").as_bytes());
        $crate::modinfo!("parm", ::core::concat!($name, ":", $description).as_bytes());
    };
}

// SPDX-License-Identifier: GPL-2.0-only

//! Generated bindings to the C functions and types that [`kernel::bindings`] lacks.
//!
//! Only this crate may use them.

#![allow(
    clippy::all,
    clippy::undocumented_unsafe_blocks,
    dead_code,
    improper_ctypes,
    missing_docs,
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    unreachable_pub,
    unsafe_op_in_unsafe_fn,
    unused_imports
)]

#[allow(ambiguous_glob_reexports)]
mod generated {
    use kernel::{
        bindings::*,
        ffi, //
    };
    use pin_init::MaybeZeroable;

    include!(concat!(env!("LUO_OBJ"), "/bindings_generated.rs"));
}

pub use self::generated::*;
pub use kernel::bindings::{
    file,
    folio,
    module, //
};

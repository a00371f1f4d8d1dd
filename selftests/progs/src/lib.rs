// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What the selftests run in a guest.
//!
//! A [case](cases) is a pair of functions: one prepares and preserves files in the old kernel, the
//! other retrieves and verifies them in the new one. Their content is [computed](pattern), so that
//! nothing but the memory itself has to survive.

pub mod bad;
pub mod cases;
pub mod clock;
pub mod expect;
pub mod gmem;
pub mod guest;
pub mod hugetlb;
pub mod memory;
pub mod numa;
pub mod pattern;
pub mod relay;
pub mod run;
pub mod sweep;
pub mod sys;
pub mod tap;
pub mod upstream;
pub mod vfio;
pub mod vmm;

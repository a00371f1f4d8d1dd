// SPDX-License-Identifier: GPL-2.0-only

//! Shared state of no use but to exercise [`crate::flb`].

use crate::{
    flb::Flb,
    kho::{
        Incoming,
        PreservedBox, //
    }, //
};
use kernel::prelude::*;

const MAGIC: u64 = 0x6c75_6f2d_7273_2d31;

/// Attached to handlers in kernels with `CONFIG_LIVEUPDATE_TEST`.
pub struct TestFlb;

#[vtable]
impl Flb for TestFlb {
    const COMPATIBLE: &'static CStr = c"luo-rs-test-v1";

    type Header = u64;
    type Outgoing = ();
    type Incoming = u64;

    fn preserve() -> Result<(PreservedBox<u64>, ())> {
        pr_info!("test: shared state is preserved\n");
        Ok((PreservedBox::new(MAGIC)?, ()))
    }

    fn retrieve(header: Incoming<u64>) -> Result<u64> {
        if *header != MAGIC {
            pr_err!("test: shared state is damaged\n");
            return Err(EINVAL);
        }
        pr_info!("test: shared state is retrieved\n");
        Ok(*header)
    }

    fn finished(_state: u64) {
        pr_info!("test: shared state is finished\n");
    }
}

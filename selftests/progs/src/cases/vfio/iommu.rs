// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A device behind an IOMMU.

use crate::{
    expect::{
        refused,
        works, //
    },
    run::Old,
    vfio::{
        igb,
        Device,
        PciDevice, //
    }, //
};
use anyhow::Result;
use liveupdate::Token;
use rustix::io::Errno;

pub(super) fn old(old: &mut Old<'_>) -> Result<()> {
    let place = PciDevice::find(igb::MODEL)?;
    let device = Device::bind(place.open()?)?;
    let answer = old.session()?.preserve(device.fd(), Token(1));
    old.common
        .check("bound", refused(answer, &[Errno::OPNOTSUPP]));
    // Only now an IOMMU is told to translate, which there has to be for it.
    old.common.check("attach", works(device.attach()));
    let answer = old.session()?.preserve(device.fd(), Token(1));
    old.common
        .check("attached", refused(answer, &[Errno::OPNOTSUPP]));
    old.common.check("usable", works(device.command()));
    Ok(())
}

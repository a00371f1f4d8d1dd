// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The device tree, from which the guest learns of its machine.

use anyhow::Result;
use vm_fdt::FdtWriter;

use super::{
    GIC_DIST,
    GIC_DIST_SIZE,
    GIC_REDIST,
    GIC_REDIST_SIZE,
    RAM_BASE,
    SERIAL,
    SERIAL_SPI, //
};

const GIC: u32 = 1;
const CLOCK: u32 = 2;
const SPI: u32 = 0;
const PPI: u32 = 1;
const LEVEL_HIGH: u32 = 4;

/// A machine with this many CPUs and this much memory.
pub(super) fn tree(cpus: usize, size: u64, cmdline: &str, initrd: (u64, u64)) -> Result<Vec<u8>> {
    let mut fdt = FdtWriter::new()?;
    let root = fdt.begin_node("")?;
    fdt.property_string("compatible", "linux,dummy-virt")?;
    fdt.property_u32("#address-cells", 2)?;
    fdt.property_u32("#size-cells", 2)?;
    fdt.property_u32("interrupt-parent", GIC)?;

    let chosen = fdt.begin_node("chosen")?;
    fdt.property_string("bootargs", cmdline)?;
    fdt.property_string("stdout-path", "/pl011@9000000")?;
    fdt.property_u64("linux,initrd-start", initrd.0)?;
    fdt.property_u64("linux,initrd-end", initrd.1)?;
    fdt.end_node(chosen)?;

    let memory = fdt.begin_node(&format!("memory@{RAM_BASE:x}"))?;
    fdt.property_string("device_type", "memory")?;
    fdt.property_array_u64("reg", &[RAM_BASE, size])?;
    fdt.end_node(memory)?;

    let list = fdt.begin_node("cpus")?;
    fdt.property_u32("#address-cells", 1)?;
    fdt.property_u32("#size-cells", 0)?;
    for cpu in 0..u32::try_from(cpus)? {
        let node = fdt.begin_node(&format!("cpu@{cpu:x}"))?;
        fdt.property_string("device_type", "cpu")?;
        fdt.property_string("compatible", "arm,armv8")?;
        fdt.property_string("enable-method", "psci")?;
        fdt.property_u32("reg", cpu)?;
        fdt.end_node(node)?;
    }
    fdt.end_node(list)?;

    let psci = fdt.begin_node("psci")?;
    fdt.property_string_list(
        "compatible",
        vec!["arm,psci-1.0".into(), "arm,psci-0.2".into()],
    )?;
    fdt.property_string("method", "hvc")?;
    fdt.end_node(psci)?;

    let timer = fdt.begin_node("timer")?;
    fdt.property_string("compatible", "arm,armv8-timer")?;
    fdt.property_null("always-on")?;
    let interrupts: Vec<u32> = [13, 14, 11, 10]
        .into_iter()
        .flat_map(|number| [PPI, number, LEVEL_HIGH])
        .collect();
    fdt.property_array_u32("interrupts", &interrupts)?;
    fdt.end_node(timer)?;

    let gic = fdt.begin_node(&format!("intc@{GIC_DIST:x}"))?;
    fdt.property_string("compatible", "arm,gic-v3")?;
    fdt.property_null("interrupt-controller")?;
    fdt.property_u32("#interrupt-cells", 3)?;
    let redistributors = GIC_REDIST_SIZE * cpus as u64;
    fdt.property_array_u64(
        "reg",
        &[GIC_DIST, GIC_DIST_SIZE, GIC_REDIST, redistributors],
    )?;
    fdt.property_phandle(GIC)?;
    fdt.end_node(gic)?;

    let clock = fdt.begin_node("apb-pclk")?;
    fdt.property_string("compatible", "fixed-clock")?;
    fdt.property_u32("#clock-cells", 0)?;
    fdt.property_u32("clock-frequency", 24_000_000)?;
    fdt.property_phandle(CLOCK)?;
    fdt.end_node(clock)?;

    let serial = fdt.begin_node("pl011@9000000")?;
    fdt.property_string_list(
        "compatible",
        vec!["arm,pl011".into(), "arm,primecell".into()],
    )?;
    fdt.property_array_u64("reg", &[SERIAL.start, SERIAL.end - SERIAL.start])?;
    fdt.property_array_u32("interrupts", &[SPI, SERIAL_SPI, LEVEL_HIGH])?;
    fdt.property_array_u32("clocks", &[CLOCK, CLOCK])?;
    fdt.property_string_list("clock-names", vec!["uartclk".into(), "apb_pclk".into()])?;
    fdt.end_node(serial)?;

    fdt.end_node(root)?;
    Ok(fdt.finish()?)
}

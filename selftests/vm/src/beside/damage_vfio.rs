// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Damages what one kernel tells the next about the file of a card that goes on running, when there is none of them.
//!
//! The card itself stays as it is. The old kernel has to have left KHO's root in the state directory, as `fdt`.

use anyhow::{
    bail,
    Result, //
};
use kho::abi::{
    luo::FileSer,
    vfio_pci::{
        VfioPciSer,
        COMPATIBLE, //
    }, //
};
use serde_json::json;

use super::between::{
    function,
    Memory, //
};
use super::handed::Handed;
use super::Machine;

/// Where no machine has memory.
const NOWHERE: u64 = 1 << 45;

/// What is wrong.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Damage {
    /// A header of a later version, with a checksum that fits.
    Version,
    /// A bit of the header, so that its checksum does not fit.
    Header,
    /// A header that is said to be nowhere.
    Nowhere,
}

/// What to damage, and where.
#[derive(Debug, clap::Args)]
pub struct Options {
    #[command(flatten)]
    machine: Machine,
    /// The card, such as 1:0.0.
    #[arg(long, value_parser = function)]
    card: u64,
    /// What is to be wrong.
    #[arg(value_enum)]
    damage: Damage,
}

fn damage(memory: &mut Memory, fdt: &[u8], card: u64, damage: Damage) -> Result<()> {
    for (at, file) in Handed::find(memory, fdt)?.files(COMPATIBLE.to_bytes())? {
        let mut header: VfioPciSer = memory.read(file.data)?;
        // Each has 4 KiB of configuration space.
        if u64::from(header.identity.bdf) << 12 != card {
            continue;
        }
        return match damage {
            Damage::Version => {
                header.version += 1;
                header.checksum = header.sum();
                memory.write(file.data, &header)
            }
            Damage::Header => {
                header.flags ^= VfioPciSer::RESET_WORKS;
                memory.write(file.data, &header)
            }
            Damage::Nowhere => {
                let data = NOWHERE;
                memory.write(at, &FileSer { data, ..file })
            }
        };
    }
    bail!("nothing of the card is handed over")
}

/// Waits for the old kernel's end, and does it before the next one looks.
pub(super) fn main(options: &Options) -> Result<()> {
    let (mut qmp, mut memory) = options.machine.stop()?;
    let fdt = options.machine.root()?;
    damage(&mut memory, &fdt, options.card, options.damage)?;
    qmp.execute("cont", json!({}))?;
    Ok(())
}

// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What runs on the host beside a machine, as the command of `--host`.

mod between;
pub mod damage;
pub mod damage_iommu;
pub mod damage_vfio;
pub mod fail_boot;
pub mod frames;
mod gdb;
mod handed;
pub mod master;
pub mod slot;

use std::fs;
use std::path::PathBuf;

use anyhow::{
    Context,
    Result, //
};

/// The machine. The runner says in the environment where it is.
#[derive(Clone, Debug, clap::Args)]
struct Machine {
    /// The run's work directory, with the sockets net.vm, net.host and qtest if the machine has them.
    #[arg(long, env = "LU_WORK", hide_env_values = true)]
    work: PathBuf,
    /// What the machine has as /state.
    #[arg(long, env = "LU_STATE", hide_env_values = true)]
    state: PathBuf,
    /// QEMU's control socket.
    #[arg(long, env = "LU_QMP", hide_env_values = true)]
    qmp: PathBuf,
    /// The console, which tells how far the machine is.
    #[arg(long, env = "LU_LOG", hide_env_values = true)]
    log: PathBuf,
}

impl Machine {
    /// The root of KHO, if the old kernel has left it in the state directory, as `fdt`.
    fn root(&self) -> Result<Vec<u8>> {
        fs::read(self.state.join("fdt")).context("KHO's root")
    }
}

/// What to do.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Sends numbered frames to a network card of a machine; for --host of a run.
    Frames(frames::Options),
    /// Damages what is handed over about preserved memory; for --host of a run.
    Damage(damage::Options),
    /// Damages what is handed over about an IOMMU; for --host of a run.
    DamageIommu(damage_iommu::Options),
    /// Damages what is handed over about a card; for --host of a run.
    DamageVfio(damage_vfio::Options),
    /// Has an allocation fail while the next kernel takes its IOMMUs over; for --host of a run.
    FailBoot(fail_boot::Options),
    /// Lets a card use memory when there is no kernel; for --host of a run.
    Master(master::Options),
    /// Takes a card out of a machine while its kernel is replaced; for --host of a run.
    Slot(slot::Options),
}

/// Does it.
///
/// # Errors
///
/// If the machine cannot be reached, or is not as it is expected to be.
pub fn main(command: &Command) -> Result<()> {
    match command {
        Command::Frames(options) => frames::main(options),
        Command::Damage(options) => damage::main(options),
        Command::DamageIommu(options) => damage_iommu::main(options),
        Command::DamageVfio(options) => damage_vfio::main(options),
        Command::FailBoot(options) => fail_boot::main(options),
        Command::Master(options) => master::main(options),
        Command::Slot(options) => slot::main(options),
    }
}

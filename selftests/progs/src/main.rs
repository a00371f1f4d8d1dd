// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Tests of preserved memfds; runs as root in a guest.

use clap::{
    Args,
    Parser,
    Subcommand,
    ValueEnum, //
};
use progs::{
    cases,
    relay,
    run::{
        self,
        Options, //
    },
    sys,
    tap::{
        Outcome,
        Report, //
    },
    upstream,
    vmm, //
};
use std::{
    path::PathBuf,
    process::ExitCode, //
};

/// Tests that memfds survive a live update.
///
/// `stage1` prepares and preserves files, and leaves a process behind that holds the sessions. After
/// the update, `stage2` with the same cases retrieves and verifies them.
#[derive(Parser)]
#[command(name = "lu_memfd")]
struct Cli {
    /// Where notes outlive the kernel.
    #[arg(long, default_value = "/state/lu_memfd")]
    state: PathBuf,
    #[command(subcommand)]
    action: Action,
}

#[derive(Args)]
struct Selection {
    /// Cases, or subjects of cases; the default ones if none is named.
    cases: Vec<String>,
    /// Leave out a case or a subject.
    #[arg(long, value_name = "CASE")]
    without: Vec<String>,
    /// How much data the cases about much data have, with K, M or G.
    #[arg(long, default_value = "1G", value_parser = size)]
    size: u64,
    /// How many frames the cases with a network card wait for, in each kernel.
    #[arg(long, default_value_t = 20)]
    frames: u64,
    /// Change one byte of every retrieved file: the verification must fail.
    #[arg(long)]
    sabotage: bool,
}

#[derive(Subcommand)]
enum Action {
    /// Before the update.
    Stage1(Selection),
    /// After the update.
    Stage2(Selection),
    /// On a host that is in use: what needs no update, and leaves it as it was.
    Host {
        /// Cases, or subjects of cases; all that are for a host if none is named.
        cases: Vec<String>,
    },
    /// Hand one file on through many kernels.
    Relay {
        /// The number of this kernel, from 1.
        round: u64,
        /// Do not hand it on.
        #[arg(long)]
        last: bool,
        /// Change one byte of the retrieved file: the verification must fail.
        #[arg(long)]
        sabotage: bool,
    },
    /// Be a VMM whose session `luoctl hold` holds.
    Vmm {
        /// What to do with the guest's memory.
        step: Step,
        /// It is that much, in huge pages of 2 MiB, and its hash and the pool are shown.
        #[arg(long, value_name = "SIZE", value_parser = size)]
        huge: Option<u64>,
    },
    /// Run upstream's selftests of HugeTLB before and after an update.
    Upstream {
        /// What to do.
        step: Upstream,
    },
    /// Run upstream's selftests of KVM that touch guest memory in files, on this kernel and on another.
    UpstreamKvm {
        /// What to do.
        step: Compared,
    },
    /// Run upstream's selftests of VFIO with an igb behind an IOMMU, on this kernel and on another.
    UpstreamVfio {
        /// What to do.
        step: Compared,
    },
    /// Run upstream's selftests of iommufd, on this kernel and on another.
    UpstreamIommufd {
        /// What to do.
        step: Compared,
    },
    /// Ask the kernel for memory that the code under test has lost (kmemleak).
    Leaks,
    /// Show the cases.
    List,
}

#[derive(Clone, Copy, ValueEnum)]
enum Step {
    /// Preserve it.
    Preserve,
    /// Retrieve and verify it.
    Retrieve,
}

#[derive(Clone, Copy, ValueEnum)]
enum Upstream {
    /// Run them without any update and note what they show.
    Reference,
    /// Preserve a file with huge pages, in a session that `luoctl session create` gives.
    Preserve,
    /// Retrieve the file, run them and compare.
    Compare,
}

#[derive(Clone, Copy, ValueEnum)]
enum Compared {
    /// Note what they show.
    Reference,
    /// Compare.
    Compare,
}

fn size(text: &str) -> Result<u64, String> {
    let (digits, shift) = match text.trim_end_matches(['K', 'M', 'G']) {
        digits if digits.len() == text.len() => (digits, 0),
        digits => match &text[digits.len()..] {
            "K" => (digits, 10),
            "M" => (digits, 20),
            "G" => (digits, 30),
            other => return Err(format!("\"{other}\" is no unit")),
        },
    };
    let number: u64 = digits
        .parse()
        .map_err(|_| format!("\"{text}\" is no size"))?;
    number
        .checked_mul(1 << shift)
        .ok_or_else(|| format!("{text} is too much"))
}

fn stage(
    action: fn(&[&'static cases::Case], &Options) -> anyhow::Result<Outcome>,
    selection: Selection,
    state: PathBuf,
) -> anyhow::Result<Outcome> {
    let cases = cases::choose(&selection.cases, &selection.without)?;
    let options = Options {
        state,
        size: selection.size,
        frames: selection.frames,
        sabotage: selection.sabotage,
    };
    action(&cases, &options)
}

fn host(names: &[String], state: PathBuf) -> anyhow::Result<Outcome> {
    let cases = cases::choose_for_host(names)?;
    let options = Options {
        state,
        size: 0,
        frames: 0,
        sabotage: false,
    };
    run::stage1(&cases, &options)
}

fn leaks() -> anyhow::Result<Outcome> {
    let mut report = Report::new("leaks");
    match sys::leaks()? {
        None => report.skip("none", "the kernel has no kmemleak"),
        Some(found) => {
            let text = found.concat();
            let result = if found.is_empty() { Ok(()) } else { Err(text) };
            report.check("none", result);
        }
    }
    Ok(report.end())
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.action {
        Action::Stage1(selection) => stage(run::stage1, selection, cli.state),
        Action::Stage2(selection) => stage(run::stage2, selection, cli.state),
        Action::Host { cases } => host(&cases, cli.state),
        Action::Relay {
            round,
            last,
            sabotage,
        } => relay::run(round, last, sabotage, &cli.state),
        Action::Vmm { step, huge } => match step {
            Step::Preserve => vmm::preserve(huge),
            Step::Retrieve => vmm::retrieve(huge),
        },
        Action::Upstream { step } => match step {
            Upstream::Reference => upstream::hugetlb::reference(&cli.state.join("upstream")),
            Upstream::Preserve => upstream::hugetlb::preserve(),
            Upstream::Compare => upstream::hugetlb::compare(&cli.state.join("upstream")),
        },
        Action::UpstreamKvm { step } => match step {
            Compared::Reference => upstream::kvm::reference(&cli.state.join("upstream-kvm")),
            Compared::Compare => upstream::kvm::compare(&cli.state.join("upstream-kvm")),
        },
        Action::UpstreamVfio { step } => match step {
            Compared::Reference => upstream::vfio::reference(&cli.state.join("upstream-vfio")),
            Compared::Compare => upstream::vfio::compare(&cli.state.join("upstream-vfio")),
        },
        Action::UpstreamIommufd { step } => match step {
            Compared::Reference => {
                upstream::iommufd::reference(&cli.state.join("upstream-iommufd"))
            }
            Compared::Compare => upstream::iommufd::compare(&cli.state.join("upstream-iommufd")),
        },
        Action::Leaks => leaks(),
        Action::List => {
            for case in cases::all() {
                let mark = if case.default { ' ' } else { '*' };
                let host = if case.host { 'h' } else { ' ' };
                println!("{mark}{host} {:28} {}", case.name, case.about);
            }
            println!("(* runs only if it is named, h also on a host that is in use)");
            Ok(Outcome::Passed)
        }
    };
    match result {
        Ok(outcome) => outcome.into(),
        Err(error) => {
            println!("Bail out! {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory as _;
        Cli::command().debug_assert();
    }

    #[test]
    fn sizes_have_units() {
        assert_eq!(size("4096"), Ok(4096));
        assert_eq!(size("3K"), Ok(3 << 10));
        assert_eq!(size("2560M"), Ok(2560 << 20));
        assert!(size("G").is_err());
        assert!(size("1T").is_err());
        assert!(size("99999999999G").is_err());
    }
}

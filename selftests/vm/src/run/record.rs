// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What init tells over the result channel, and what the host makes of it.

use serde::{
    Deserialize,
    Serialize, //
};

/// One record of the guest: its kind, clocks, and what belongs to the kind.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Record {
    /// `boot`, `module`, `loading`, `loaded`, `begin`, `mark`, `exit`, `jump`, `live-update`,
    /// `refused`, `failed` or `off`.
    pub ev: String,
    /// Microseconds since this kernel booted.
    #[serde(default)]
    pub up: u64,
    /// The CPU's counter, which goes on over a kexec.
    #[serde(default)]
    pub ticks: u64,
    /// The counter's frequency, 0 if it is unknown; with `--icount` on x86_64 it is 1 GHz.
    #[serde(default)]
    pub hz: u64,
    /// Name of the mark or the module.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Which stage the kernel thinks it is in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stage: Option<usize>,
    /// Exit status of the command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<u8>,
    /// Signal that ended the command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<u8>,
    /// Taint when init started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub taint_before: Option<u64>,
    /// Taint when the command had ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub taint: Option<u64>,
    /// Why the kernel refused the jump.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub errno: Option<i32>,
    /// `init` or `lu-reboot`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// Why the stage could not be set up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// `uname -r`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<String>,
    /// `uname -v`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Differs between any two boots.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_id: Option<String>,
    /// Build id of the kernel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build_id: Option<String>,
}

/// A record with the host's time of its arrival.
#[derive(Clone, Debug, Serialize)]
pub struct Mark {
    /// The stage it belongs to, from 1.
    pub in_stage: usize,
    /// Microseconds since the machine was started.
    pub host_us: u64,
    /// What the guest said.
    #[serde(flatten)]
    pub record: Record,
}

/// Reads the clocks from the line that is the last sign of a kernel that jumps.
pub(super) fn jump_line(line: &str) -> Option<Record> {
    let (_, rest) = line.split_once("lu-init: live update ")?;
    let mut record = Record {
        ev: "live-update".into(),
        ..Record::default()
    };

    for word in rest.split_whitespace() {
        match word.split_once('=')? {
            ("up", value) => record.up = value.parse().ok()?,
            ("ticks", value) => record.ticks = value.parse().ok()?,
            ("hz", value) => record.hz = value.parse().ok()?,
            _ => {}
        }
    }
    Some(record)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read() {
        let line =
            r#"{"ev":"exit","up":5,"ticks":6,"hz":7,"taint_before":0,"taint":4096,"code":3}"#;
        let record: Record = serde_json::from_str(line).unwrap();
        assert_eq!(
            (record.code, record.signal, record.taint),
            (Some(3), None, Some(4096))
        );
        let record = jump_line("lu-init: live update up=12 ticks=34 hz=56").unwrap();
        assert_eq!((record.up, record.ticks, record.hz), (12, 34, 56));
        assert!(jump_line("lu-init: live update up=x").is_none());
    }
}

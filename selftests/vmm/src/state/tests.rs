// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Tests of the format.

use super::*;

fn sample() -> Vec<u8> {
    let mut writer = Writer::default();
    writer.put(Kind::Guest, 0, &7u64).unwrap();
    writer.put(Kind::Line, 0, &b"abc"[..]).unwrap();
    writer.put_list(Kind::Timeline, 0, &[1u64, 2]).unwrap();
    writer.finish().unwrap()
}

#[test]
fn a_state_comes_back() {
    let state = State::parse(&sample()).unwrap();
    assert_eq!(state.get::<u64>(Kind::Guest, 0).unwrap(), 7);
    assert_eq!(state.bytes(Kind::Line, 0).unwrap(), b"abc");
    assert_eq!(state.list::<u64>(Kind::Timeline, 0).unwrap(), [1, 2]);
    assert!(state.get::<u32>(Kind::Guest, 0).is_err());
    assert!(state.get::<u64>(Kind::Guest, 1).is_err());
    assert!(state.list::<u64>(Kind::Line, 0).is_err());
}

#[test]
fn every_changed_bit_is_noticed() {
    let good = sample();
    for at in 0..good.len() * 8 {
        let mut bad = good.clone();
        bad[at / 8] ^= 1 << (at % 8);
        assert!(State::parse(&bad).is_err(), "bit {at}");
    }
}

#[test]
fn every_length_but_the_right_one_is_refused() {
    let good = sample();
    for len in 0..good.len() {
        assert!(State::parse(&good[..len]).is_err(), "{len} bytes");
    }
}

/// With a right checksum, so that the checks behind it are met.
fn with_body(body: &[u8], sections: u32) -> Vec<u8> {
    Writer {
        body: body.to_vec(),
        sections,
    }
    .finish()
    .unwrap()
}

#[test]
fn sections_are_checked() {
    let section = |kind: u32, len: u64, rest: &[u8]| {
        let mut all = SectionHeader {
            kind,
            index: 0,
            len,
        }
        .as_bytes()
        .to_vec();
        all.extend_from_slice(rest);
        all
    };
    assert!(State::parse(&with_body(&section(1, 8, &[0; 8]), 1)).is_ok());
    assert!(State::parse(&with_body(&section(1, 8, &[0; 8]), 2)).is_err());
    assert!(State::parse(&with_body(&section(999, 8, &[0; 8]), 1)).is_err());
    assert!(State::parse(&with_body(&section(1, 9, &[0; 8]), 1)).is_err());
    assert!(State::parse(&with_body(&section(1, u64::MAX, &[0; 8]), 1)).is_err());
    assert!(State::parse(&with_body(&section(1, 5, &[0; 5]), 1)).is_err());
    let twice = [section(1, 0, &[]), section(1, 0, &[])].concat();
    assert!(State::parse(&with_body(&twice, 1)).is_err());
    assert!(State::parse(&with_body(&twice, 2)).is_err());
}

#[test]
fn a_claimed_state_is_refused() {
    let mut bytes = sample();
    bytes[CLAIM_AT as usize] = 1;
    let error = State::parse(&bytes).unwrap_err().to_string();
    assert!(error.contains("run on"), "{error}");
}

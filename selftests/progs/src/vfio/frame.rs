// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Numbered Ethernet frames, all of whose bytes follow from their number.
//!
//! The program on the host that sends them and the one in the guest that looks for them in memory are
//! different programs; both have this file.

/// Length of a frame, without its checksum, which devices add and take away.
pub const LEN: usize = 256;

/// Nobody else uses this type: it is for experiments.
const ETHERTYPE: [u8; 2] = [0x88, 0xb5];

/// The frame with a number.
#[must_use]
pub fn frame(number: u64) -> [u8; LEN] {
    let mut frame = [0; LEN];
    // Everybody, from an address that nobody was given.
    frame[..6].fill(0xff);
    frame[6..12].copy_from_slice(&[0x02, b'L', b'U', b'V', b'P', 0x01]);
    frame[12..14].copy_from_slice(&ETHERTYPE);
    frame[14..16].copy_from_slice(b"LU");
    frame[16..24].copy_from_slice(&number.to_le_bytes());
    // What follows differs in every byte position from one frame to the next.
    let mut word = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    for chunk in frame[24..].chunks_mut(8) {
        word ^= word << 13;
        word ^= word >> 7;
        word ^= word << 17;
        let len = chunk.len();
        chunk.copy_from_slice(&word.to_le_bytes()[..len]);
    }
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_all_different_and_always_the_same() {
        assert_eq!(frame(7), frame(7));
        assert_eq!(frame(7)[16..24], 7u64.to_le_bytes());
        for (number, other) in [(0, 1), (1, 2), (7, 8), (1 << 40, 0)] {
            let same = frame(number)[24..]
                .iter()
                .zip(&frame(other)[24..])
                .filter(|(a, b)| a == b)
                .count();
            assert!(same < 16, "{number} and {other} share {same} bytes");
        }
    }
}

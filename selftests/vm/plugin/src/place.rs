// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Places in programs.

/// The name of a place, if an instruction tells one.
pub(crate) fn name(is_arm: bool, code: &[u8]) -> Option<u8> {
    if is_arm {
        // movz xzr, #0x4cNN
        let word = u32::from_le_bytes(code.try_into().ok()?);
        let value = (word & !(0xffff << 5) == 0xd280_001f).then_some((word >> 5) & 0xffff)?;
        return (value >> 8 == 0x4c).then_some(value.to_le_bytes()[0]);
    }
    // nop dword ptr [rax + rax + 0x4c5500NN]
    match code {
        [0x0f, 0x1f, 0x84, 0x00, name, 0x00, 0x55, 0x4c] => Some(*name),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_have_names() {
        let nop = [0x0f, 0x1f, 0x84, 0x00, 0x02, 0x00, 0x55, 0x4c];
        assert_eq!(name(false, &nop), Some(2));
        assert_eq!(name(false, &nop[..7]), None);
        assert_eq!(name(false, &[0x90]), None);
        let movz = |value: u32| (0xd280_001f | value << 5).to_le_bytes();
        assert_eq!(name(true, &movz(0x4c01)), Some(1));
        assert_eq!(name(true, &movz(0x4d01)), None);
        assert_eq!(
            name(true, &(0xd280_0000u32 | 0x4c01 << 5).to_le_bytes()),
            None
        );
    }
}

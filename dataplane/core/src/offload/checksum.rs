//! The Internet checksum (RFC 1071): sums, incremental updates, and finishing what the kernel left unfinished.
//!
//! A sum is a 16-bit ones' complement number in network order, not yet complemented. Adding in any byte order and
//! word size gives the same sum (RFC 1071 §2), so [`sum`] adds 32-bit words as the machine reads them.

use std::net::{Ipv4Addr, Ipv6Addr};

/// A partial checksum that lies outside its frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the checksum to be finished lies outside the frame")]
pub struct OutsideFrame;

/// The sum of `bytes`; a last odd byte counts as the high half of a word.
pub fn sum(bytes: &[u8]) -> u16 {
    let (words, rest) = bytes.as_chunks::<4>();
    // 2^32 words fit the accumulator; a frame has some 16,000. NOTE(perf): this form is vectorised.
    let mut total: u64 = words.iter().map(|word| u64::from(u32::from_ne_bytes(*word))).sum();
    let mut last = [0; 4];
    last[..rest.len()].copy_from_slice(rest);
    total += u64::from(u32::from_ne_bytes(last));
    u16::from_be(fold(total))
}

/// Adds two sums with end-around carry.
pub fn add(a: u16, b: u16) -> u16 {
    let (total, carry) = a.overflowing_add(b);
    total + u16::from(carry)
}

/// The sum after one of its words has changed (RFC 1624 §3, eqn. 3, on the sum rather than its complement).
pub fn update(sum: u16, old: u16, new: u16) -> u16 {
    add(add(sum, !old), new)
}

/// The pseudo header of IPv4 (RFC 9293 §3.1); `len` counts the transport header and its payload.
pub fn pseudo_header_v4(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, len: u16) -> u16 {
    let addresses = add(sum(&source.octets()), sum(&destination.octets()));
    add(addresses, add(u16::from(protocol), len))
}

/// The pseudo header of IPv6 (RFC 8200 §8.1); `len` counts the upper-layer header and its payload.
pub fn pseudo_header_v6(source: Ipv6Addr, destination: Ipv6Addr, next_header: u8, len: u16) -> u16 {
    let addresses = add(sum(&source.octets()), sum(&destination.octets()));
    add(addresses, add(u16::from(next_header), len))
}

/// Completes a partial checksum in place: adds everything from `csum_start` to the end of the frame.
///
/// A result of 0 is written as `0xffff`, its other form, since 0 means "no checksum" in UDP (RFC 768); the kernel does
/// the same for every protocol. The frame is unchanged on error.
pub fn finish(frame: &mut [u8], csum_start: u16, csum_offset: u16) -> Result<(), OutsideFrame> {
    let start = usize::from(csum_start);
    let at = start + usize::from(csum_offset);
    if at + 2 > frame.len() {
        return Err(OutsideFrame);
    }
    let checksum = match !sum(&frame[start..]) {
        0 => 0xffff,
        checksum => checksum,
    };
    frame[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
    Ok(())
}

fn fold(mut total: u64) -> u16 {
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    total as u16
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::offload::reference;

    #[test]
    fn the_example_of_rfc_1071_adds_up() {
        assert_eq!(sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), 0xddf2);
        assert_eq!(sum(&[]), 0);
        assert_eq!(sum(&[0xab]), 0xab00);
    }

    #[test]
    fn a_valid_ipv4_header_sums_to_all_ones() {
        let header = [
            0x45, 0x00, 0x00, 0x73, 0x00, 0x00, 0x40, 0x00, 0x40, 0x11, 0xb8, 0x61, 0xc0, 0xa8, 0x00, 0x01, 0xc0, 0xa8,
            0x00, 0xc7,
        ];
        assert_eq!(sum(&header), 0xffff);
    }

    #[test]
    fn a_checksum_of_zero_is_written_as_its_other_form() {
        let mut frame = [0xff, 0xfe, 0x00, 0x01];
        finish(&mut frame, 0, 2).unwrap();
        assert_eq!(frame, [0xff, 0xfe, 0xff, 0xff]);
    }

    #[test]
    fn a_checksum_outside_the_frame_is_refused() {
        let mut frame = [1; 20];
        for (start, offset) in [(0, 19), (19, 0), (18, 1), (u16::MAX, u16::MAX), (20, 0)] {
            assert_eq!(finish(&mut frame, start, offset), Err(OutsideFrame));
        }
        assert_eq!(frame, [1; 20]);
        assert_eq!(finish(&mut frame, 18, 0), Ok(()));
    }

    proptest! {
        #[test]
        fn sums_agree_with_adding_byte_by_byte(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            prop_assert_eq!(sum(&bytes), reference::slow_sum(&bytes));
        }

        #[test]
        fn an_update_agrees_with_adding_anew(mut words in proptest::collection::vec(any::<u8>(), 8..64), new: u16) {
            words.truncate(words.len() / 2 * 2);
            words[2] = 1; // A sum of 0 has two forms; no frame sums to 0.
            let before = sum(&words);
            let old = u16::from_be_bytes([words[0], words[1]]);
            words[..2].copy_from_slice(&new.to_be_bytes());
            prop_assert_eq!(update(before, old, new), sum(&words));
        }
    }
}

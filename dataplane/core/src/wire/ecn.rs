//! Explicit congestion notification: two bits in an IP header, and how they pass a tunnel (RFC 3168, RFC 6040).
//!
//! ```text
//! IPv4: | version, IHL | DSCP (6) ECN (2) | …        IPv6: | version (4) DSCP (6) ECN (2) flow label … |
//! ```
//!
//! | frame from the container | datagram goes out as |    | datagram came as | frame was  | goes to the container |
//! |--------------------------|----------------------|----|------------------|------------|-----------------------|
//! | all of the train agree   | the same             |    | CE               | ECT or CE  | CE                    |
//! | they do not              | Not-ECT              |    | CE               | Not-ECT    | dropped               |
//! | not IP                   | Not-ECT              |    | anything else    | anything   | as it was             |
//!
//! That is the normal mode of RFC 6040 §4.1 and §4.2 with one exception: an outer ECT(1) does not change an inner ECT(0),
//! which only pre-congestion notification would do.

use super::ethernet::{EthernetHeader, ethertype};
use crate::offload::checksum;

/// The ECN field of an IP header (RFC 3168 §5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ecn {
    /// The sender does not understand marks.
    #[default]
    NotEct,
    /// It does; the codepoint of L4S (RFC 9331).
    Ect1,
    /// It does.
    Ect0,
    /// Congestion experienced.
    Ce,
}

/// A frame that is not ECN-capable cannot carry the mark: it is to be dropped (RFC 6040 §4.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the frame cannot carry a congestion mark")]
pub struct NotCapable;

const CE_BITS: u8 = 3;

impl Ecn {
    /// The field in an IPv4 type of service or an IPv6 traffic class. The DSCP in the other bits is ignored.
    pub fn from_traffic_class(byte: u8) -> Self {
        match byte & 3 {
            0 => Self::NotEct,
            1 => Self::Ect1,
            2 => Self::Ect0,
            _ => Self::Ce,
        }
    }

    /// The type of service or traffic class with this field and DSCP 0.
    pub fn traffic_class(self) -> u8 {
        match self {
            Self::NotEct => 0,
            Self::Ect1 => 1,
            Self::Ect0 => 2,
            Self::Ce => CE_BITS,
        }
    }

    /// The field of the packet in a frame; [`Ecn::NotEct`] when there is no IP packet in it.
    pub fn of_frame(frame: &[u8]) -> Self {
        match packet(frame) {
            Some((ethertype::IPV4, l3)) => Self::from_traffic_class(frame[l3 + 1]),
            Some((_, l3)) => Self::from_traffic_class(frame[l3 + 1] >> 4),
            None => Self::NotEct,
        }
    }

    /// What datagrams may say that carry two frames.
    #[must_use]
    pub fn agreed(self, other: Self) -> Self {
        if self == other { self } else { Self::NotEct }
    }

    /// Writes the congestion mark to a frame that came in a marked datagram. Changes nothing when it cannot carry one.
    pub fn mark(frame: &mut [u8]) -> Result<(), NotCapable> {
        let (version, l3) = packet(frame).filter(|_| Self::of_frame(frame) != Self::NotEct).ok_or(NotCapable)?;
        if version == ethertype::IPV6 {
            frame[l3 + 1] |= CE_BITS << 4;
            return Ok(());
        }
        let word = |at: usize, frame: &[u8]| u16::from_be_bytes([frame[at], frame[at + 1]]);
        let before = word(l3, frame);
        let after = before | u16::from(CE_BITS);
        let sum = checksum::update(!word(l3 + 10, frame), before, after);
        frame[l3..l3 + 2].copy_from_slice(&after.to_be_bytes());
        frame[l3 + 10..l3 + 12].copy_from_slice(&(!sum).to_be_bytes());
        Ok(())
    }
}

/// The version and place of the IP packet in a frame, when its fixed header is there.
fn packet(frame: &[u8]) -> Option<(u16, usize)> {
    let EthernetHeader { ethertype, l3, .. } = EthernetHeader::parse(frame)?;
    let (version, header_len) = match ethertype {
        ethertype::IPV4 => (4, 20),
        ethertype::IPV6 => (6, 40),
        _ => return None,
    };
    let header = frame.get(l3..l3 + header_len)?;
    (header[0] >> 4 == version).then_some((ethertype, l3))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::offload::reference;

    const ALL: [Ecn; 4] = [Ecn::NotEct, Ecn::Ect1, Ecn::Ect0, Ecn::Ce];

    fn set(frame: &mut [u8], ecn: Ecn) {
        let (version, l3) = packet(frame).unwrap();
        if version == ethertype::IPV6 {
            frame[l3 + 1] = frame[l3 + 1] & 0xcf | ecn.traffic_class() << 4;
            return;
        }
        frame[l3 + 1] = frame[l3 + 1] & 0xfc | ecn.traffic_class();
        frame[l3 + 10..l3 + 12].fill(0);
        let header_len = usize::from(frame[l3] & 15) * 4;
        let sum = !reference::slow_sum(&frame[l3..l3 + header_len]);
        frame[l3 + 10..l3 + 12].copy_from_slice(&sum.to_be_bytes());
    }

    #[test]
    fn datagrams_say_what_all_frames_of_them_say() {
        for ecn in ALL {
            assert_eq!(Ecn::from_traffic_class(0xfc | ecn.traffic_class()), ecn);
            assert_eq!(ecn.agreed(ecn), ecn);
            let others = ALL.iter().filter(|other| **other != ecn);
            assert!(others.into_iter().all(|other| ecn.agreed(*other) == Ecn::NotEct));
        }
    }

    #[test]
    fn what_is_no_whole_ip_header_is_not_capable() {
        let arp = [[2; 12].as_slice(), &[8, 6], &[0x45; 40]].concat();
        let short = [[2; 12].as_slice(), &[8, 0], &[0x47; 19]].concat();
        let wrong_version = [[2; 12].as_slice(), &[0x86, 0xdd], &[0x4f; 60]].concat();
        for frame in [arp, short, wrong_version, vec![0xff; 9]] {
            let mut marked = frame.clone();
            assert_eq!((Ecn::of_frame(&frame), Ecn::mark(&mut marked)), (Ecn::NotEct, Err(NotCapable)));
            assert_eq!(marked, frame);
        }
    }

    proptest! {
        #[test]
        fn a_mark_changes_the_field_and_the_checksum_of_the_header_and_nothing_else(
            spec in reference::any_spec(),
            ecn in prop::sample::select(&ALL[..]),
        ) {
            let mut frame = spec.superframe();
            set(&mut frame, ecn);
            prop_assert_eq!(Ecn::of_frame(&frame), ecn);
            let mut expected = frame.clone();
            if ecn != Ecn::NotEct {
                set(&mut expected, Ecn::Ce);
            }
            prop_assert_eq!(Ecn::mark(&mut frame).is_ok(), ecn != Ecn::NotEct);
            prop_assert_eq!(frame, expected);
        }
    }
}

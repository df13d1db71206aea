//! The Ethernet header as the fast path reads it: addresses, at most two VLAN tags, ethertype.
//!
//! ```text
//! +---------+---------+------------------------------+-----------+--------
//! | dst (6) | src (6) | 0–2 × (TPID u16 | tag u16)   | ethertype | packet
//! +---------+---------+------------------------------+-----------+--------
//! ```
//!
//! Numbers are big endian. Any frame with an Ethernet header is one to us: a tag that is cut short or a third one is
//! not looked into, and its TPID stands as the ethertype.

use weaved_api::MacAddr;

/// Bytes of a header without tags.
pub const ETHERNET_HEADER_LEN: usize = 14;

/// Bytes that each VLAN tag adds.
pub const VLAN_TAG_LEN: usize = 4;

/// Ethertypes that we look into.
pub mod ethertype {
    /// IPv4.
    pub const IPV4: u16 = 0x0800;
    /// ARP.
    pub const ARP: u16 = 0x0806;
    /// IPv6.
    pub const IPV6: u16 = 0x86dd;
    /// A customer's VLAN tag (IEEE 802.1Q).
    pub const VLAN: u16 = 0x8100;
    /// A provider's VLAN tag (IEEE 802.1ad).
    pub const VLAN_PROVIDER: u16 = 0x88a8;
}

const MAX_VLAN_TAGS: usize = 2;

/// What the fast path wants to know of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EthernetHeader {
    /// Whom it is for.
    pub dst: MacAddr,
    /// Who sent it.
    pub src: MacAddr,
    /// What follows behind the tags.
    pub ethertype: u16,
    /// Where the packet begins, in bytes from the start of the frame.
    pub l3: usize,
}

impl EthernetHeader {
    /// Parses the start of a frame. `None` when it is shorter than [`ETHERNET_HEADER_LEN`].
    pub fn parse(frame: &[u8]) -> Option<Self> {
        let header: &[u8; ETHERNET_HEADER_LEN] = frame.first_chunk()?;
        let [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, t0, t1] = *header;
        let mut ethertype = u16::from_be_bytes([t0, t1]);
        let mut l3 = ETHERNET_HEADER_LEN;
        for _ in 0..MAX_VLAN_TAGS {
            if !matches!(ethertype, ethertype::VLAN | ethertype::VLAN_PROVIDER) {
                break;
            }
            let Some([_, _, t0, t1]) = frame.get(l3..l3 + VLAN_TAG_LEN) else { break };
            ethertype = u16::from_be_bytes([*t0, *t1]);
            l3 += VLAN_TAG_LEN;
        }
        Some(Self { dst: MacAddr([d0, d1, d2, d3, d4, d5]), src: MacAddr([s0, s1, s2, s3, s4, s5]), ethertype, l3 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DST: [u8; 6] = [0xff; 6];
    const SRC: [u8; 6] = [2, 0x42, 10, 32, 0, 2];

    fn frame(tags: &[u16], ethertype: u16) -> Vec<u8> {
        let mut frame = [DST, SRC].concat();
        for tpid in tags {
            frame.extend(tpid.to_be_bytes());
            frame.extend([0, 7]);
        }
        frame.extend(ethertype.to_be_bytes());
        frame
    }

    #[test]
    fn addresses_and_ethertype_are_found_behind_up_to_two_tags() {
        for tags in [&[][..], &[0x8100], &[0x88a8, 0x8100]] {
            let header = EthernetHeader::parse(&frame(tags, 0x86dd)).unwrap();
            assert_eq!((header.dst, header.src), (MacAddr(DST), MacAddr(SRC)));
            assert_eq!((header.ethertype, header.l3), (ethertype::IPV6, 14 + 4 * tags.len()));
        }
    }

    #[test]
    fn a_third_tag_is_left_alone() {
        let header = EthernetHeader::parse(&frame(&[0x88a8, 0x8100, 0x8100], 0x0800)).unwrap();
        assert_eq!((header.ethertype, header.l3), (ethertype::VLAN, 22));
    }

    #[test]
    fn a_tag_that_is_cut_short_is_still_a_frame() {
        let tagged = frame(&[0x8100], 0x0800);
        for len in 14..18 {
            let header = EthernetHeader::parse(&tagged[..len]).unwrap();
            assert_eq!((header.ethertype, header.l3), (ethertype::VLAN, 14), "{len}");
        }
        assert_eq!(EthernetHeader::parse(&tagged[..13]), None);
    }
}

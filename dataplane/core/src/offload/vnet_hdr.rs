//! The header that a TAP with `IFF_VNET_HDR` puts in front of each frame, both ways.
//!
//! ```text
//! +--------+----------+---------+----------+------------+-------------+
//! | flags  | gso type | hdr len | gso size | csum start | csum offset |
//! | u8     | u8       | u16     | u16      | u16        | u16         |
//! +--------+----------+---------+----------+------------+-------------+
//! ```
//!
//! This is the legacy `struct virtio_net_hdr` (virtio 1.2 §5.1.6) of 10 bytes. The kernel reads and writes it in the
//! byte order of the machine unless `TUNSETVNETLE` or `TUNSETVNETBE` was called, which we do not do. It never leaves
//! the machine.

/// Bytes of the header.
pub const VNET_HEADER_LEN: usize = 10;

const FLAG_NEEDS_CSUM: u8 = 1;
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
const GSO_ECN: u8 = 0x80;

/// How a super-frame is to be segmented.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Gso {
    /// Not at all.
    #[default]
    None,
    /// TCP over IPv4.
    TcpV4,
    /// TCP over IPv6.
    TcpV6,
    /// UDP over either, one datagram per segment (`UDP_SEGMENT`).
    UdpL4,
}

/// The header as a type.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VnetHeader {
    /// The checksum at `csum_start + csum_offset` holds only the sum of the pseudo header; the rest is to be added.
    pub needs_csum: bool,
    /// Segmentation.
    pub gso: Gso,
    /// TCP's CWR flag belongs to the first segment only.
    pub ecn: bool,
    /// Bytes of all headers. From the kernel only a hint; 0 without segmentation.
    pub hdr_len: u16,
    /// Payload bytes of each segment.
    pub gso_size: u16,
    /// Where to begin to add up, from the start of the frame.
    pub csum_start: u16,
    /// Where the checksum is, from `csum_start`.
    pub csum_offset: u16,
}

/// Why the header could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VnetHeaderError {
    /// Fewer than [`VNET_HEADER_LEN`] bytes.
    #[error("a TAP read is shorter than its virtio header")]
    TooShort,
    /// A kind of segmentation that we never offered to do.
    #[error("segmentation type {0:#04x} was never offered")]
    UnknownGso(u8),
}

impl VnetHeader {
    /// Parses the header at the start of `bytes`. Flags other than `NEEDS_CSUM` only say what the kernel has checked.
    pub fn parse(bytes: &[u8]) -> Result<Self, VnetHeaderError> {
        let bytes: &[u8; VNET_HEADER_LEN] = bytes.first_chunk().ok_or(VnetHeaderError::TooShort)?;
        let word = |at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
        let gso = match bytes[1] & !GSO_ECN {
            GSO_NONE => Gso::None,
            GSO_TCPV4 => Gso::TcpV4,
            GSO_TCPV6 => Gso::TcpV6,
            GSO_UDP_L4 => Gso::UdpL4,
            _ => return Err(VnetHeaderError::UnknownGso(bytes[1])),
        };
        Ok(Self {
            needs_csum: bytes[0] & FLAG_NEEDS_CSUM != 0,
            gso,
            ecn: bytes[1] & GSO_ECN != 0,
            hdr_len: word(2),
            gso_size: word(4),
            csum_start: word(6),
            csum_offset: word(8),
        })
    }

    /// The bytes for the kernel.
    pub fn emit(&self) -> [u8; VNET_HEADER_LEN] {
        let gso = match self.gso {
            Gso::None => GSO_NONE,
            Gso::TcpV4 => GSO_TCPV4,
            Gso::TcpV6 => GSO_TCPV6,
            Gso::UdpL4 => GSO_UDP_L4,
        };
        let mut bytes = [0; VNET_HEADER_LEN];
        bytes[0] = if self.needs_csum { FLAG_NEEDS_CSUM } else { 0 };
        bytes[1] = gso | if self.ecn { GSO_ECN } else { 0 };
        bytes[2..4].copy_from_slice(&self.hdr_len.to_ne_bytes());
        bytes[4..6].copy_from_slice(&self.gso_size.to_ne_bytes());
        bytes[6..8].copy_from_slice(&self.csum_start.to_ne_bytes());
        bytes[8..].copy_from_slice(&self.csum_offset.to_ne_bytes());
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_parsed_as_it_was_emitted() {
        for gso in [Gso::None, Gso::TcpV4, Gso::TcpV6, Gso::UdpL4] {
            for ecn in [false, true] {
                let header = VnetHeader {
                    needs_csum: !ecn,
                    gso,
                    ecn,
                    hdr_len: 66,
                    gso_size: 1348,
                    csum_start: 34,
                    csum_offset: 16,
                };
                assert_eq!(VnetHeader::parse(&header.emit()), Ok(header));
            }
        }
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn the_layout_is_the_kernels() {
        // As read from a TAP on Linux 6.18: TCP over IPv4 with timestamps, inner MTU 1400.
        let bytes = [1, 1, 66, 0, 0x44, 5, 34, 0, 16, 0];
        let header = VnetHeader::parse(&bytes).unwrap();
        assert!(header.needs_csum && !header.ecn);
        assert_eq!((header.gso, header.hdr_len, header.gso_size), (Gso::TcpV4, 66, 1348));
        assert_eq!((header.csum_start, header.csum_offset), (34, 16));
    }

    #[test]
    fn fragmentation_offload_and_short_reads_are_refused() {
        let mut bytes = VnetHeader::default().emit();
        assert_eq!(VnetHeader::parse(&bytes[..9]), Err(VnetHeaderError::TooShort));
        bytes[1] = 3;
        assert_eq!(VnetHeader::parse(&bytes), Err(VnetHeaderError::UnknownGso(3)));
    }
}

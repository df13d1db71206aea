//! Frames built field by field, slowly and without looking at any super-frame: what segmentation has to give.

use std::ops::Range;

use proptest::prelude::*;

use super::{
    superframe::{GsoRequest, Transport},
    vnet_hdr::{Gso, VnetHeader},
};

/// A super-frame by its fields.
#[derive(Clone, Debug)]
pub(crate) struct Spec {
    /// TPIDs of the VLAN tags.
    pub(crate) tags: Vec<u16>,
    pub(crate) ip: Ip,
    pub(crate) transport: L4,
    pub(crate) payload: Vec<u8>,
    pub(crate) gso_size: u16,
}

#[derive(Clone, Debug)]
pub(crate) enum Ip {
    V4 { id: u16, option_words: usize },
    V6 { extensions: Vec<(u8, u8)> },
}

#[derive(Clone, Debug)]
pub(crate) enum L4 {
    Tcp { seq: u32, flags: u8, option_words: usize },
    Udp,
}

/// Whether the checksum is the sum of the pseudo header or finished.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Check {
    Partial,
    Finished,
}

/// Adds byte by byte.
pub(crate) fn slow_sum(bytes: &[u8]) -> u16 {
    let mut total = 0_u32;
    for (at, byte) in bytes.iter().enumerate() {
        total += u32::from(*byte) << if at % 2 == 0 { 8 } else { 0 };
        if total > 0xffff {
            total -= 0xffff;
        }
    }
    total as u16
}

impl Spec {
    pub(crate) fn segment_count(&self) -> usize {
        self.payload.len().div_ceil(self.gso_size.into())
    }

    pub(crate) fn request(&self) -> GsoRequest {
        let transport = if matches!(self.transport, L4::Udp) { Transport::Udp } else { Transport::Tcp };
        GsoRequest { transport, gso_size: self.gso_size }
    }

    /// The super-frame as the kernel hands it over.
    pub(crate) fn superframe(&self) -> Vec<u8> {
        self.frame(&(0..self.segment_count()), Check::Partial)
    }

    /// The virtio header of the frame that holds `segments`, as the kernel writes it.
    pub(crate) fn vnet(&self, segments: &Range<usize>) -> VnetHeader {
        self.vnet_of(&self.bytes(segments))
    }

    /// The payload of these segments.
    pub(crate) fn bytes(&self, segments: &Range<usize>) -> Range<usize> {
        let gso_size = usize::from(self.gso_size);
        segments.start * gso_size..self.payload.len().min(segments.end * gso_size)
    }

    /// The virtio header of the frame that holds these bytes of the payload.
    pub(crate) fn vnet_of(&self, bytes: &Range<usize>) -> VnetHeader {
        let l4 = 14 + 4 * self.tags.len() + self.ip_header(0, 0).len();
        let (csum_offset, header_len) = match self.transport {
            L4::Tcp { option_words, .. } => (16, 20 + 4 * option_words),
            L4::Udp => (6, 8),
        };
        let plain = VnetHeader { needs_csum: true, csum_start: l4 as u16, csum_offset, ..VnetHeader::default() };
        if bytes.len() <= self.gso_size.into() {
            return plain;
        }
        let gso = match (&self.transport, &self.ip) {
            (L4::Udp, _) => Gso::UdpL4,
            (_, Ip::V4 { .. }) => Gso::TcpV4,
            (_, Ip::V6 { .. }) => Gso::TcpV6,
        };
        let ecn = bytes.start == 0 && matches!(self.transport, L4::Tcp { flags, .. } if flags & 0x80 != 0);
        VnetHeader { gso, ecn, hdr_len: (l4 + header_len) as u16, gso_size: self.gso_size, ..plain }
    }

    /// The frame that holds these segments.
    pub(crate) fn frame(&self, segments: &Range<usize>, check: Check) -> Vec<u8> {
        self.frame_of(&self.bytes(segments), check)
    }

    /// The frame that holds these bytes of the payload.
    pub(crate) fn frame_of(&self, bytes: &Range<usize>, check: Check) -> Vec<u8> {
        let payload = &self.payload[bytes.clone()];
        let mut l4 = self.transport_header(bytes);
        let l4_len = l4.len() + payload.len();
        let ip = self.ip_header(bytes.start / usize::from(self.gso_size), l4_len);
        let (protocol, at) = if matches!(self.transport, L4::Udp) { (17, 6) } else { (6, 16) };
        let mut pseudo = match self.ip {
            Ip::V4 { .. } => ip[12..20].to_vec(),
            Ip::V6 { .. } => ip[8..40].to_vec(),
        };
        pseudo.extend([0, protocol]);
        pseudo.extend((l4_len as u16).to_be_bytes());
        let partial = slow_sum(&pseudo);
        let sum = match check {
            Check::Partial => partial,
            Check::Finished => match !slow_sum(&[&partial.to_be_bytes(), &l4[..], payload].concat()) {
                0 => 0xffff,
                sum => sum,
            },
        };
        l4[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        [&self.ethernet_header()[..], &ip, &l4, payload].concat()
    }

    /// Which bytes of the payload a delivered frame holds: of UDP whole datagrams.
    pub(crate) fn identify(&self, vnet: VnetHeader, frame: &[u8]) -> Range<usize> {
        let header_len = self.superframe().len() - self.payload.len();
        let len = frame.len() - header_len;
        let unit = if matches!(self.transport, L4::Udp) { usize::from(self.gso_size) } else { 1 };
        // Of UDP datagrams stay whole, so only the last may be shorter.
        let is_whole = |bytes: &Range<usize>| bytes.end.is_multiple_of(unit) || bytes.end == self.payload.len();
        let places = (0..=self.payload.len() - len).step_by(unit).map(|start| start..start + len);
        let is_it = |bytes: &Range<usize>| self.payload[bytes.clone()] == frame[header_len..];
        let bytes = places.filter(is_whole).find(|bytes| is_it(bytes) && self.frame_of(bytes, Check::Partial) == frame);
        let bytes = bytes.expect("a delivered frame is a piece of what was sent");
        assert_eq!(vnet, self.vnet_of(&bytes));
        bytes
    }

    fn ethernet_header(&self) -> Vec<u8> {
        let mut header = vec![2, 0x42, 10, 32, 1, 2, 2, 0x42, 10, 32, 0, 2];
        for (at, tpid) in self.tags.iter().enumerate() {
            header.extend(tpid.to_be_bytes());
            header.extend([0x20, at as u8 + 5]);
        }
        header.extend(if matches!(self.ip, Ip::V4 { .. }) { [8, 0] } else { [0x86, 0xdd] });
        header
    }

    fn ip_header(&self, first_segment: usize, l4_len: usize) -> Vec<u8> {
        let protocol = if matches!(self.transport, L4::Udp) { 17 } else { 6 };
        match &self.ip {
            Ip::V4 { id, option_words } => {
                let len = 20 + 4 * option_words;
                let mut header = vec![0x40 | (len / 4) as u8, 2];
                header.extend(((len + l4_len) as u16).to_be_bytes());
                header.extend(id.wrapping_add(first_segment as u16).to_be_bytes());
                header.extend([0x40, 0, 64, protocol, 0, 0, 10, 32, 0, 2, 10, 32, 1, 2]);
                header.resize(len, 1);
                let checksum = !slow_sum(&header);
                header[10..12].copy_from_slice(&checksum.to_be_bytes());
                header
            }
            Ip::V6 { extensions } => {
                let extensions_len: usize = extensions.iter().map(|(_, units)| 8 * (usize::from(*units) + 1)).sum();
                let mut header = vec![0x60, 0x20, 0xab, 0xcd];
                header.extend(((extensions_len + l4_len) as u16).to_be_bytes());
                header.extend([extensions.first().map_or(protocol, |(kind, _)| *kind), 64]);
                header.extend((0..32).map(|at| 0xf0 ^ at));
                for (at, (_, units)) in extensions.iter().enumerate() {
                    let next = extensions.get(at + 1).map_or(protocol, |(kind, _)| *kind);
                    header.extend([next, *units, 1]);
                    header.extend(std::iter::repeat_n(0, 8 * (usize::from(*units) + 1) - 3));
                }
                header
            }
        }
    }

    fn transport_header(&self, bytes: &Range<usize>) -> Vec<u8> {
        match self.transport {
            L4::Tcp { seq, flags, option_words } => {
                let seq = seq.wrapping_add(bytes.start as u32);
                let len = 20 + 4 * option_words;
                let mut kept = flags;
                if bytes.start > 0 {
                    kept &= !0x80;
                }
                if bytes.end < self.payload.len() {
                    kept &= !0x09;
                }
                let mut header = vec![0x9c, 0x40, 0x14, 0x51];
                header.extend(seq.to_be_bytes());
                header.extend([1, 2, 3, 4, (len as u8 / 4) << 4, kept, 0x7f, 0xff, 0, 0, 0, 0]);
                header.resize(len, 1);
                header
            }
            L4::Udp => {
                let mut header = vec![0x9c, 0x40, 0x01, 0xbb];
                header.extend((8 + bytes.len() as u16).to_be_bytes());
                header.extend([0, 0]);
                header
            }
        }
    }
}

/// Payload that differs in every segment.
pub(crate) fn payload(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|at| (at as u8).wrapping_mul(31).wrapping_add((at >> 8) as u8) ^ seed).collect()
}

/// Any super-frame of at least two segments.
pub(crate) fn any_spec() -> impl Strategy<Value = Spec> {
    let tags = prop_oneof![Just(vec![]), Just(vec![0x8100]), Just(vec![0x88a8, 0x8100])];
    let ip = prop_oneof![
        (any::<u16>(), 0..=10_usize).prop_map(|(id, option_words)| Ip::V4 { id, option_words }),
        Just(Ip::V6 { extensions: vec![] }),
        Just(Ip::V6 { extensions: vec![(0, 0), (60, 2)] }),
    ];
    let tcp = (any::<u32>(), any::<u8>(), 0..=10_usize);
    let transport =
        prop_oneof![tcp.prop_map(|(seq, flags, option_words)| L4::Tcp { seq, flags, option_words }), Just(L4::Udp)];
    (tags, ip, transport, 48..9000_u16, 1..=64_000_usize, any::<u8>()).prop_map(
        |(tags, ip, transport, gso_size, len, seed)| {
            let most = if matches!(transport, L4::Udp) { 128 * usize::from(gso_size) } else { 64_000 };
            let len = len.clamp(usize::from(gso_size) + 1, most.min(64_000));
            Spec { tags, ip, transport, payload: payload(len, seed), gso_size }
        },
    )
}

/// One short TCP super-frame of three segments for tests by example.
pub(crate) fn small_tcp() -> Spec {
    Spec {
        tags: vec![],
        ip: Ip::V4 { id: 0xfffe, option_words: 0 },
        transport: L4::Tcp { seq: u32::MAX - 50, flags: 0x99, option_words: 3 },
        payload: payload(250, 0),
        gso_size: 100,
    }
}

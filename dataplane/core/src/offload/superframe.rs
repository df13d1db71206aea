//! What may be believed of a frame that asks for segmentation or a checksum: only its own headers.
//!
//! [`Layout`] finds the layers by parsing Ethernet, VLAN tags, IPv4 with options or IPv6 with extension headers, and
//! TCP or UDP. [`Layout::check_gso`] holds a request against them, [`Layout::gso_header`] makes the header for the
//! kernel from them.
//!
//! INVARIANT: a virtio header for a received frame is made here and nowhere else, from the parsed frame and the pair
//! (transport, gso size). Whatever the sender's kernel wrote into its own stays on its host.

use super::{
    checksum::OutsideFrame,
    vnet_hdr::{Gso, VnetHeader},
};
use crate::{
    limits::{MAX_GSO_HEADER_LEN, MAX_IPV6_EXTENSIONS, MAX_UDP_SEGMENTS, MIN_TCP_GSO_SIZE},
    wire::ethernet::{EthernetHeader, ethertype},
};

/// The protocols whose checksum and segmentation we know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// RFC 9293.
    Tcp,
    /// RFC 768.
    Udp,
}

/// The protocols below them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IpVersion {
    /// RFC 791.
    V4,
    /// RFC 8200.
    V6,
}

/// Where the layers of a TCP or UDP frame begin, in bytes from the start of the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Which IP.
    pub ip: IpVersion,
    /// What it carries.
    pub transport: Transport,
    /// The IP header.
    pub l3: usize,
    /// The TCP or UDP header.
    pub l4: usize,
    /// What follows it.
    pub payload: usize,
    /// The end of the IP packet by its own length; at or before the end of the frame.
    pub end: usize,
}

/// A request to segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GsoRequest {
    /// The protocol.
    pub transport: Transport,
    /// Payload bytes of each segment but the last.
    pub gso_size: u16,
}

/// Why a frame cannot be what its sender says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Shorter than an Ethernet header or longer than any frame.
    #[error("the frame has an impossible length")]
    FrameLen,
    /// It ends within a header.
    #[error("the frame ends within its headers")]
    HeadersCut,
    /// Neither IPv4 nor IPv6.
    #[error("the frame is not IP")]
    NotIp,
    /// Another protocol than TCP and UDP, or more extension headers than we follow.
    #[error("the packet is neither TCP nor UDP")]
    NotTcpOrUdp,
    /// A fragment.
    #[error("the packet is a fragment")]
    Fragment,
    /// A length in the IP, TCP or UDP header contradicts the frame.
    #[error("a length in the headers contradicts the frame")]
    Length,
    /// The segments are too small, too many or too few, or the headers too long.
    #[error("the frame cannot be segmented as asked")]
    Segments,
    /// The request names another protocol than the headers, or another place for the checksum.
    #[error("the offload request contradicts the headers")]
    Contradiction,
}

impl From<OutsideFrame> for FrameError {
    fn from(_: OutsideFrame) -> Self {
        Self::Contradiction
    }
}

const PROTOCOL_TCP: u8 = 6;
const PROTOCOL_UDP: u8 = 17;
const TCP_HEADER_LEN: usize = 20;
const UDP_HEADER_LEN: usize = 8;
/// Where the flags are in a TCP header.
pub(super) const TCP_FLAGS: usize = 13;
/// "Congestion window reduced".
pub(super) const TCP_CWR: u8 = 0x80;

/// What the IP header says.
struct Network {
    l4: usize,
    protocol: u8,
    end: usize,
}

impl Layout {
    /// Finds the layers of a frame of `frame_len` bytes of which at least the headers are in `prefix`.
    pub fn parse(prefix: &[u8], frame_len: usize) -> Result<Self, FrameError> {
        let ethernet = EthernetHeader::parse(prefix).ok_or(FrameError::HeadersCut)?;
        let l3 = ethernet.l3;
        let (ip, network) = match ethernet.ethertype {
            ethertype::IPV4 => (IpVersion::V4, parse_ipv4(prefix, l3)?),
            ethertype::IPV6 => (IpVersion::V6, parse_ipv6(prefix, l3)?),
            _ => return Err(FrameError::NotIp),
        };
        let Network { l4, protocol, end } = network;
        let (transport, payload) = match protocol {
            PROTOCOL_TCP => (Transport::Tcp, l4 + tcp_header_len(prefix, l4)?),
            PROTOCOL_UDP => (Transport::Udp, l4 + UDP_HEADER_LEN),
            _ => return Err(FrameError::NotTcpOrUdp),
        };
        if payload > prefix.len() {
            return Err(FrameError::HeadersCut);
        }
        if payload > end || end > frame_len {
            return Err(FrameError::Length);
        }
        Ok(Self { ip, transport, l3, l4, payload, end })
    }

    /// Where the checksum is, counted from `l4`.
    pub fn csum_offset(&self) -> u16 {
        match self.transport {
            Transport::Tcp => 16,
            Transport::Udp => 6,
        }
    }

    /// Checks that a frame of `frame_len` bytes with these layers can be segmented as asked; gives the number of
    /// segments, at least two.
    ///
    /// TCP has no bound of segments but that of the frame's length: a container with an MTU of 296 is slow, not cut
    /// off. UDP has the kernel's, above which a write to the TAP fails.
    pub fn check_gso(&self, request: GsoRequest, prefix: &[u8], frame_len: usize) -> Result<usize, FrameError> {
        if self.transport != request.transport {
            return Err(FrameError::Contradiction);
        }
        if self.end != frame_len {
            return Err(FrameError::Length);
        }
        if self.transport == Transport::Udp && word(prefix, self.l4 + 4)? != frame_len - self.l4 {
            return Err(FrameError::Length);
        }
        let gso_size = usize::from(request.gso_size);
        let payload_len = frame_len - self.payload;
        let min_gso_size = match self.transport {
            Transport::Tcp => MIN_TCP_GSO_SIZE,
            Transport::Udp => 1,
        };
        if gso_size < min_gso_size || payload_len <= gso_size || self.payload > MAX_GSO_HEADER_LEN {
            return Err(FrameError::Segments);
        }
        let segment_count = payload_len.div_ceil(gso_size);
        match self.transport {
            Transport::Udp if segment_count > MAX_UDP_SEGMENTS => Err(FrameError::Segments),
            _ => Ok(segment_count),
        }
    }

    /// The header for a frame with these layers whose checksum is to be finished.
    pub fn checksum_header(&self) -> VnetHeader {
        VnetHeader {
            needs_csum: true,
            csum_start: self.l4 as u16,
            csum_offset: self.csum_offset(),
            ..VnetHeader::default()
        }
    }

    /// The header for a super-frame with these layers. `prefix` holds its headers.
    pub fn gso_header(&self, gso_size: u16, prefix: &[u8]) -> VnetHeader {
        let gso = match (self.transport, self.ip) {
            (Transport::Tcp, IpVersion::V4) => Gso::TcpV4,
            (Transport::Tcp, IpVersion::V6) => Gso::TcpV6,
            (Transport::Udp, _) => Gso::UdpL4,
        };
        // The kernel sets this flag exactly when it sends a super-frame with CWR (RFC 3168 §6.1.2).
        let flags = prefix.get(self.l4 + TCP_FLAGS).copied().unwrap_or(0);
        let ecn = self.transport == Transport::Tcp && flags & TCP_CWR != 0;
        VnetHeader { gso, ecn, gso_size, hdr_len: self.payload as u16, ..self.checksum_header() }
    }
}

fn parse_ipv4(prefix: &[u8], l3: usize) -> Result<Network, FrameError> {
    let header: &[u8; 20] = prefix.get(l3..).and_then(<[u8]>::first_chunk).ok_or(FrameError::HeadersCut)?;
    let header_len = usize::from(header[0] & 0x0f) * 4;
    let total_len = usize::from(u16::from_be_bytes([header[2], header[3]]));
    if header[0] >> 4 != 4 || header_len < header.len() || total_len < header_len {
        return Err(FrameError::Length);
    }
    // RFC 791 §3.1: "more fragments" or an offset.
    if u16::from_be_bytes([header[6], header[7]]) & 0x3fff != 0 {
        return Err(FrameError::Fragment);
    }
    Ok(Network { l4: l3 + header_len, protocol: header[9], end: l3 + total_len })
}

fn parse_ipv6(prefix: &[u8], l3: usize) -> Result<Network, FrameError> {
    const HOP_BY_HOP: u8 = 0;
    const ROUTING: u8 = 43;
    const FRAGMENT: u8 = 44;
    const DESTINATION: u8 = 60;
    let header: &[u8; 40] = prefix.get(l3..).and_then(<[u8]>::first_chunk).ok_or(FrameError::HeadersCut)?;
    if header[0] >> 4 != 6 {
        return Err(FrameError::Length);
    }
    let mut l4 = l3 + header.len();
    let end = l4 + usize::from(u16::from_be_bytes([header[4], header[5]]));
    let mut protocol = header[6];
    for _ in 0..MAX_IPV6_EXTENSIONS {
        match protocol {
            HOP_BY_HOP | ROUTING | DESTINATION => {
                let &[next, units] = prefix.get(l4..).and_then(<[u8]>::first_chunk).ok_or(FrameError::HeadersCut)?;
                protocol = next;
                l4 += (usize::from(units) + 1) * 8;
            }
            FRAGMENT => return Err(FrameError::Fragment),
            _ => break,
        }
    }
    Ok(Network { l4, protocol, end })
}

fn tcp_header_len(prefix: &[u8], l4: usize) -> Result<usize, FrameError> {
    let offset = prefix.get(l4 + 12).ok_or(FrameError::HeadersCut)? >> 4;
    let header_len = usize::from(offset) * 4;
    if header_len < TCP_HEADER_LEN { Err(FrameError::Length) } else { Ok(header_len) }
}

fn word(bytes: &[u8], at: usize) -> Result<usize, FrameError> {
    let word = bytes.get(at..).and_then(<[u8]>::first_chunk).ok_or(FrameError::HeadersCut)?;
    Ok(usize::from(u16::from_be_bytes(*word)))
}

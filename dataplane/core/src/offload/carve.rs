//! Smaller frames out of a super-frame: the frame that holds its segments `i..j`, or of TCP, a stream, any of its bytes.
//!
//! One mechanism serves segmentation for a TAP without offload (`j = i + 1`, checksum finished), salvage of what
//! arrived of a torn train, and splitting. The result is what the kernel's segmentation gives (`inet_gso_segment`,
//! `tcp_gso_segment`, `__udp_gso_segment`):
//!
//! * IPv4: total length; identification + i (RFC 6864 lets atomic datagrams have any); header checksum.
//! * IPv6: payload length.
//! * TCP: sequence number + the place of the first byte; CWR only with the first segment (RFC 3168 §6.1.2), PSH and FIN only with the
//!   last.
//! * UDP: length.
//! * The checksum stays partial: the sum of the pseudo header, of which only the length changes.
//!
//! The header is copied aside when the carver is made. INVARIANT: so a frame may be carved where it lies, with its new
//! header written over payload in front of the first segment, as long as that payload is not wanted any more.

use std::ops::Range;

use super::{
    checksum,
    superframe::{FrameError, GsoRequest, IpVersion, Layout, TCP_CWR, TCP_FLAGS, Transport},
    vnet_hdr::VnetHeader,
};
use crate::limits::MAX_GSO_HEADER_LEN;

const TCP_FIN: u8 = 0x01;
const TCP_PSH: u8 = 0x08;

/// What happens to the checksum of a carved frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checksums {
    /// It stays partial; the header says so. Several segments stay one super-frame.
    Partial,
    /// It is finished, for a TAP without offload. Only for single segments.
    Finished,
}

/// Makes frames out of one super-frame.
#[derive(Clone, Debug)]
pub struct Carver {
    layout: Layout,
    gso_size: usize,
    segment_count: usize,
    payload_len: usize,
    /// The headers of the super-frame, `layout.payload` bytes.
    header: [u8; MAX_GSO_HEADER_LEN],
}

impl Carver {
    /// For a super-frame of `frame_len` bytes that begins with `prefix`, which holds at least its headers.
    pub fn new(request: GsoRequest, prefix: &[u8], frame_len: usize) -> Result<Self, FrameError> {
        let layout = Layout::parse(prefix, frame_len)?;
        let segment_count = layout.check_gso(request, prefix, frame_len)?;
        let mut header = [0; MAX_GSO_HEADER_LEN];
        header[..layout.payload].copy_from_slice(&prefix[..layout.payload]);
        let payload_len = frame_len - layout.payload;
        Ok(Self { layout, gso_size: request.gso_size.into(), segment_count, payload_len, header })
    }

    /// How many segments there are; at least two.
    pub fn segment_count(&self) -> usize {
        self.segment_count
    }

    /// Bytes of headers in front of each carved frame's payload.
    pub fn header_len(&self) -> usize {
        self.layout.payload
    }

    /// Where the payload of these segments lies in the super-frame.
    pub fn payload(&self, segments: &Range<usize>) -> Range<usize> {
        let at = |segment: usize| self.layout.payload + (segment * self.gso_size).min(self.payload_len);
        at(segments.start)..at(segments.end)
    }

    /// Writes the headers of the frame that holds `segments` to the start of `out` and gives its virtio header.
    ///
    /// Panics when `segments` is empty or not within the super-frame, or `out` shorter than the headers.
    pub fn emit_header(&self, segments: &Range<usize>, out: &mut [u8]) -> VnetHeader {
        assert!(segments.start < segments.end && segments.end <= self.segment_count, "segments of this super-frame");
        let payload = self.payload(segments);
        self.emit(&(payload.start - self.layout.payload..payload.end - self.layout.payload), out)
    }

    /// The same for the frame that holds these bytes of the payload, whole segments or not. To TCP a segment is what its
    /// header says, so a stream may be cut anywhere.
    ///
    /// Panics when this is UDP, when `bytes` is empty or not within the payload, or `out` shorter than the headers.
    pub fn emit_stream_header(&self, bytes: &Range<usize>, out: &mut [u8]) -> VnetHeader {
        assert!(self.is_stream(), "only a stream has no boundaries");
        assert!(bytes.start < bytes.end && bytes.end <= self.payload_len, "bytes of this super-frame");
        self.emit(bytes, out)
    }

    /// Whether this is TCP.
    pub fn is_stream(&self) -> bool {
        self.layout.transport == Transport::Tcp
    }

    /// Bytes of payload of each segment but the last.
    pub fn gso_size(&self) -> usize {
        self.gso_size
    }

    /// Bytes of payload.
    pub fn payload_len(&self) -> usize {
        self.payload_len
    }

    /// Copies the frame that holds `segments` out of `frame`, the super-frame that this carver was made for.
    ///
    /// Gives its virtio header and length. Fails when `out` is too short. Panics when `segments` is empty or not
    /// within the super-frame, or `checksums` asks to finish those of several segments.
    pub fn carve(
        &self,
        segments: &Range<usize>,
        checksums: Checksums,
        frame: &[u8],
        out: &mut [u8],
    ) -> Result<(VnetHeader, usize), FrameError> {
        let payload = &frame[self.payload(segments)];
        let len = self.header_len() + payload.len();
        let out = out.get_mut(..len).ok_or(FrameError::FrameLen)?;
        out[self.header_len()..].copy_from_slice(payload);
        let vnet = self.emit_header(segments, out);
        if checksums == Checksums::Partial {
            return Ok((vnet, len));
        }
        assert!(segments.len() == 1, "a finished checksum covers one segment");
        checksum::finish(out, vnet.csum_start, vnet.csum_offset)?;
        Ok((VnetHeader::default(), len))
    }

    fn emit(&self, bytes: &Range<usize>, out: &mut [u8]) -> VnetHeader {
        let out = &mut out[..self.layout.payload];
        out.copy_from_slice(&self.header[..self.layout.payload]);
        let removed_len = (self.payload_len - bytes.len()) as u16;
        self.patch_ip((bytes.start / self.gso_size) as u16, removed_len, out);
        self.patch_transport(bytes, removed_len, out);
        if bytes.len() <= self.gso_size {
            self.layout.checksum_header()
        } else {
            self.layout.gso_header(self.gso_size as u16, out)
        }
    }

    fn patch_ip(&self, id_offset: u16, removed_len: u16, out: &mut [u8]) {
        let l3 = self.layout.l3;
        match self.layout.ip {
            IpVersion::V4 => {
                map_word(out, l3 + 2, |total_len| total_len - removed_len);
                map_word(out, l3 + 4, |id| id.wrapping_add(id_offset));
                let header_len = usize::from(out[l3] & 0x0f) * 4;
                map_word(out, l3 + 10, |_| 0);
                let checksum = !checksum::sum(&out[l3..l3 + header_len]);
                map_word(out, l3 + 10, |_| checksum);
            }
            IpVersion::V6 => map_word(out, l3 + 4, |payload_len| payload_len - removed_len),
        }
    }

    fn patch_transport(&self, bytes: &Range<usize>, removed_len: u16, out: &mut [u8]) {
        let l4 = self.layout.l4;
        match self.layout.transport {
            Transport::Tcp => {
                let seq = u32::from_be_bytes([out[l4 + 4], out[l4 + 5], out[l4 + 6], out[l4 + 7]]);
                out[l4 + 4..l4 + 8].copy_from_slice(&seq.wrapping_add(bytes.start as u32).to_be_bytes());
                let cwr = if bytes.start == 0 { TCP_CWR } else { 0 };
                let at_end = if bytes.end == self.payload_len { TCP_PSH | TCP_FIN } else { 0 };
                out[l4 + TCP_FLAGS] &= !(TCP_CWR | TCP_PSH | TCP_FIN) | cwr | at_end;
            }
            Transport::Udp => map_word(out, l4 + 4, |len| len - removed_len),
        }
        let old_len = (self.layout.end - l4) as u16;
        let checksum_at = l4 + usize::from(self.layout.csum_offset());
        map_word(out, checksum_at, |sum| checksum::update(sum, old_len, old_len - removed_len));
    }
}

/// Changes the 16-bit number at `at`. The callers' places are within the headers, which `Layout` has checked.
fn map_word(bytes: &mut [u8], at: usize, map: impl FnOnce(u16) -> u16) {
    let word = map(u16::from_be_bytes([bytes[at], bytes[at + 1]]));
    bytes[at..at + 2].copy_from_slice(&word.to_be_bytes());
}

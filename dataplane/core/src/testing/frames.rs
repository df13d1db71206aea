//! Frames for tests.

use weaved_api::MacAddr;

use crate::offload::vnet_hdr::{Gso, VnetHeader};

/// The address of container `number` on host `node`.
pub fn mac(node: u16, number: u16) -> MacAddr {
    let ([a, b], [c, d]) = (node.to_be_bytes(), number.to_be_bytes());
    MacAddr([0x02, 0x42, a, b, c, d])
}

/// A frame with an ethertype for experiments (IEEE 802 local) and this payload.
pub fn frame(source: MacAddr, destination: MacAddr, payload: &[u8]) -> Vec<u8> {
    let mut frame = [destination.0, source.0].concat();
    frame.extend([0x88, 0xb5]);
    frame.extend(payload);
    frame
}

/// The payload of a frame made by [`frame`].
pub fn payload(frame: &[u8]) -> &[u8] {
    &frame[14..]
}

/// Bytes of the headers of [`tcp_superframe`].
pub const TCP_HEADERS_LEN: usize = 14 + 20 + 20;

/// A TCP super-frame over IPv4 as a kernel hands it over: one header, payload for several segments of `gso_size`.
pub fn tcp_superframe(
    source: MacAddr,
    destination: MacAddr,
    payload_len: usize,
    gso_size: u16,
) -> (VnetHeader, Vec<u8>) {
    let mut frame = frame(source, destination, &[]);
    frame[12..14].copy_from_slice(&[8, 0]);
    frame.extend([0x45, 0]);
    frame.extend((40 + payload_len as u16).to_be_bytes());
    frame.extend([0, 1, 0x40, 0, 64, 6, 0, 0, 10, 32, 1, 2, 10, 32, 2, 2]);
    frame.extend([0x9c, 0x40, 0x14, 0x51, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 0x7f, 0xff, 0, 0, 0, 0]);
    frame.extend((0..payload_len).map(|at| at as u8 ^ (at >> 8) as u8));
    let vnet = VnetHeader {
        needs_csum: true,
        gso: Gso::TcpV4,
        ecn: false,
        hdr_len: TCP_HEADERS_LEN as u16,
        gso_size,
        csum_start: 34,
        csum_offset: 16,
    };
    (vnet, frame)
}

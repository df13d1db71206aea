//! Frames for tests.

use weaved_api::MacAddr;

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

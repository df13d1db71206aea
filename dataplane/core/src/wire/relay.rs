//! Relay message: a datagram that a third peer passes on without being able to read it.
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-------+-------+---------------+---------------+---------------+
//! |version|type 7 |     zero      |     lane      |     zero      |
//! +-------+-------+---------------+---------------+---------------+
//! |                 receiver index (of the hop)                   |
//! +---------------------------------------------------------------+
//! |                            counter                            |
//! |                        (64 bit, little endian)                |
//! +---------------------------------------------------------------+
//! |          sealed envelope … then the 16-byte tag               |
//!
//! envelope = destination PeerId (32) | source PeerId (32) | hops left u8 | zero (3) | inner datagram
//! ```
//!
//! The header is the associated data of the AEAD, exactly as in a data message. INVARIANT: the counter is taken from
//! the same sequence as those of the lane's data messages, since key and nonce are the same.
//!
//! The inner datagram is a message between the two ends (handshake or data), sealed with keys that the hop does not
//! have. Each hop lowers "hops left" and drops the datagram at 0, so that a loop of relays ends.

use weaved_api::PeerId;

use super::{
    data::{Counter, DATA_HEADER_LEN, Lane, ReceiverIndex, TAG_LEN},
    header::{MessageType, emit_type, parse_type},
};

/// Bytes of the header; the same as a data message's.
pub const RELAY_HEADER_LEN: usize = DATA_HEADER_LEN;

/// Bytes of an envelope in front of the inner datagram.
pub const ENVELOPE_LEN: usize = 32 + 32 + 4;

/// What relaying costs in each datagram.
pub const RELAY_OVERHEAD: usize = RELAY_HEADER_LEN + ENVELOPE_LEN + TAG_LEN;

/// Header of a relay message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RelayHeader {
    /// The sender's thread.
    pub lane: Lane,
    /// The hop's name for its session with the sender.
    pub receiver: ReceiverIndex,
    /// Number of this datagram in its lane.
    pub counter: Counter,
}

/// What the hop finds when it has opened the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Envelope<'a> {
    /// Whom the inner datagram is for.
    pub destination: PeerId,
    /// Who sent it.
    pub source: PeerId,
    /// How many relays may still pass it on.
    pub hops_left: u8,
    /// A message of this protocol.
    pub datagram: &'a [u8],
}

impl RelayHeader {
    /// Parses the header in front of a sealed envelope. `None` when it is not a well-formed relay message.
    pub fn parse(message: &[u8]) -> Option<Self> {
        if parse_type(message) != Ok(MessageType::Relay) || message.len() < RELAY_OVERHEAD {
            return None;
        }
        let header = Self {
            lane: Lane(message[2]),
            receiver: ReceiverIndex(u32::from_le_bytes(message[4..8].try_into().ok()?)),
            counter: Counter(u64::from_le_bytes(message[8..16].try_into().ok()?)),
        };
        message.starts_with(&header.emit()).then_some(header)
    }

    /// The bytes in front of the sealed envelope, which are also its associated data.
    pub fn emit(&self) -> [u8; RELAY_HEADER_LEN] {
        let mut bytes = [0; RELAY_HEADER_LEN];
        bytes[0] = emit_type(MessageType::Relay);
        bytes[2] = self.lane.0;
        bytes[4..8].copy_from_slice(&self.receiver.0.to_le_bytes());
        bytes[8..].copy_from_slice(&self.counter.0.to_le_bytes());
        bytes
    }
}

impl<'a> Envelope<'a> {
    /// Parses an opened envelope. `None` when it is too short or bits without a meaning are set.
    pub fn parse(opened: &'a [u8]) -> Option<Self> {
        let (destination, rest) = opened.split_first_chunk::<32>()?;
        let (source, rest) = rest.split_first_chunk::<32>()?;
        let (&[hops_left, 0, 0, 0], datagram) = rest.split_first_chunk::<4>()? else { return None };
        Some(Self { destination: PeerId(*destination), source: PeerId(*source), hops_left, datagram })
    }

    /// The bytes in front of the inner datagram.
    pub fn emit(&self) -> [u8; ENVELOPE_LEN] {
        let mut bytes = [0; ENVELOPE_LEN];
        bytes[..32].copy_from_slice(&self.destination.0);
        bytes[32..64].copy_from_slice(&self.source.0);
        bytes[64] = self.hops_left;
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: RelayHeader =
        RelayHeader { lane: Lane(2), receiver: ReceiverIndex(0x0102_0304), counter: Counter(1 << 33) };

    #[test]
    fn a_header_is_parsed_as_it_was_emitted() {
        let mut message = HEADER.emit().to_vec();
        message.resize(RELAY_OVERHEAD, 0);
        assert_eq!(RelayHeader::parse(&message), Some(HEADER));
        assert_eq!(RelayHeader::parse(&message[..RELAY_OVERHEAD - 1]), None);
        for at in [1, 3] {
            let mut bad = message.clone();
            bad[at] = 1;
            assert_eq!(RelayHeader::parse(&bad), None, "byte {at} is reserved");
        }
        message[0] = emit_type(MessageType::Data);
        assert_eq!(RelayHeader::parse(&message), None);
    }

    #[test]
    fn an_envelope_is_parsed_as_it_was_emitted() {
        let envelope =
            Envelope { destination: PeerId([1; 32]), source: PeerId([2; 32]), hops_left: 3, datagram: b"inner" };
        let opened = [&envelope.emit()[..], b"inner"].concat();
        assert_eq!(Envelope::parse(&opened), Some(envelope));
        for len in 0..ENVELOPE_LEN {
            assert_eq!(Envelope::parse(&opened[..len]), None, "{len}");
        }
        for at in 65..68 {
            let mut bad = opened.clone();
            bad[at] = 1;
            assert_eq!(Envelope::parse(&bad), None, "byte {at} is reserved");
        }
    }
}

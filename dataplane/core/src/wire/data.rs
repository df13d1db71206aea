//! Data message: one sealed chunk of a train of records.
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-------+-------+---------------+---------------+---------------+
//! |version|type 6 |     flags     |     lane      |  chunk index  |
//! +-------+-------+---------------+---------------+---------------+
//! |                        receiver index                         |
//! +---------------------------------------------------------------+
//! |                            counter                            |
//! |                        (64 bit, little endian)                |
//! +---------------------------------------------------------------+
//! |          sealed chunk … then the 16-byte tag                  |
//! ```
//!
//! The header is the associated data of the AEAD; nonce = lane (32 bit LE) ‖ counter (64 bit LE). The chunks of a
//! train have consecutive counters, so `counter - chunk index` names the train within its lane. All chunks of a train
//! but the last have the same length.
//!
//! INVARIANT: flag bits without a meaning are sent as zero and refused by the receiver, so that they can get one.

use super::header::{MessageType, emit_type, parse_type};

/// Bytes of the header.
pub const DATA_HEADER_LEN: usize = 16;

/// Bytes of the AEAD tag.
pub const TAG_LEN: usize = 16;

/// Header and tag: what one datagram costs over its chunk.
pub const DATA_OVERHEAD: usize = DATA_HEADER_LEN + TAG_LEN;

/// Names a session in messages to the one who chose it (IPsec: SPI).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ReceiverIndex(pub u32);

/// Number of a datagram within a lane of a session: the AEAD nonce. Never repeats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Counter(pub u64);

/// One sending thread. Each lane has keys and counters of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Lane(pub u8);

impl Lane {
    /// Whether datagrams of this lane come from the port that the node is reached at. Those of the others may come from ports
    /// that only send, which say nothing about where the node is.
    pub fn tells_endpoint(self) -> bool {
        self.0 <= 1
    }
}

/// Header of a data message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataHeader {
    /// The sender's thread.
    pub lane: Lane,
    /// Place of this chunk in its train, from 0.
    pub chunk_index: u8,
    /// This chunk ends the train.
    pub is_last: bool,
    /// The addressee's name for the session.
    pub receiver: ReceiverIndex,
    /// Number of this datagram in its lane.
    pub counter: Counter,
}

const FLAG_FIRST: u8 = 0b0000_0001;
const FLAG_LAST: u8 = 0b0000_0010;

impl DataHeader {
    /// Parses the header in front of a sealed chunk. `None` when it is not a well-formed data message.
    pub fn parse(datagram: &[u8]) -> Option<Self> {
        if parse_type(datagram) != Ok(MessageType::Data) || datagram.len() < DATA_OVERHEAD {
            return None;
        }
        let header = Self {
            lane: Lane(datagram[2]),
            chunk_index: datagram[3],
            is_last: datagram[1] & FLAG_LAST != 0,
            receiver: ReceiverIndex(u32::from_le_bytes(datagram[4..8].try_into().ok()?)),
            counter: Counter(u64::from_le_bytes(datagram[8..16].try_into().ok()?)),
        };
        let flags_agree = header.flags() == datagram[1];
        let index_fits = header.counter.0 >= u64::from(header.chunk_index);
        (flags_agree && index_fits).then_some(header)
    }

    /// The bytes in front of the sealed chunk, which are also its associated data.
    pub fn emit(&self) -> [u8; DATA_HEADER_LEN] {
        let mut bytes = [0; DATA_HEADER_LEN];
        bytes[0] = emit_type(MessageType::Data);
        bytes[1] = self.flags();
        bytes[2] = self.lane.0;
        bytes[3] = self.chunk_index;
        bytes[4..8].copy_from_slice(&self.receiver.0.to_le_bytes());
        bytes[8..].copy_from_slice(&self.counter.0.to_le_bytes());
        bytes
    }

    /// Names the train within its lane: the counter of its first chunk.
    pub fn train(&self) -> Counter {
        Counter(self.counter.0 - u64::from(self.chunk_index))
    }

    fn flags(&self) -> u8 {
        let first = if self.chunk_index == 0 { FLAG_FIRST } else { 0 };
        let last = if self.is_last { FLAG_LAST } else { 0 };
        first | last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn datagram(header: &DataHeader) -> Vec<u8> {
        let mut datagram = header.emit().to_vec();
        datagram.extend([0; TAG_LEN]);
        datagram
    }

    const HEADER: DataHeader = DataHeader {
        lane: Lane(3),
        chunk_index: 7,
        is_last: true,
        receiver: ReceiverIndex(0xdead_beef),
        counter: Counter(1 << 40 | 9),
    };

    #[test]
    fn a_header_is_parsed_as_it_was_emitted() {
        assert_eq!(DataHeader::parse(&datagram(&HEADER)), Some(HEADER));
        assert_eq!(HEADER.train(), Counter(1 << 40 | 2));
    }

    #[test]
    fn short_messages_and_unknown_flags_are_refused() {
        let good = datagram(&HEADER);
        for len in 0..good.len() {
            assert_eq!(DataHeader::parse(&good[..len]), None, "{len}");
        }
        for bit in [0, 2, 3, 4, 5, 6, 7] {
            let mut bad = good.clone();
            bad[1] ^= 1 << bit;
            assert_eq!(DataHeader::parse(&bad), None, "flag bit {bit}");
        }
    }

    #[test]
    fn a_chunk_index_above_the_counter_is_refused() {
        let header = DataHeader { counter: Counter(6), ..HEADER };
        assert_eq!(DataHeader::parse(&datagram(&header)), None);
    }
}

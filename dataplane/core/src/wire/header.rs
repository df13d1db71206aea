//! The first four bytes of every datagram: what it is.
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-------+-------+---------------+-------------------------------+
//! |version| type  |        depends on the type                    |
//! +-------+-------+---------------+-------------------------------+
//! |     receiver index (of the addressee; 0 in an initiation)     |
//! +---------------------------------------------------------------+
//! ```
//!
//! All numbers are little endian. INVARIANT: nothing but this file interprets the first byte.

use super::data::ReceiverIndex;

/// The protocol version this program speaks and the only one it accepts so far.
pub const PROTOCOL_VERSION: u8 = 1;

/// The kinds of datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageType {
    /// First handshake message.
    Initiation,
    /// Second handshake message.
    Response,
    /// Third handshake message.
    Finish,
    /// "Prove that you receive at this address": answer to an initiation that proves nothing yet.
    Challenge,
    /// "We do not share a secret": an unauthenticated hint.
    Refusal,
    /// One chunk of a train of records.
    Data,
    /// A datagram for somebody else, to be passed on unread.
    Relay,
}

/// Why the first byte makes no sense to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderError {
    /// No bytes at all.
    Empty,
    /// Another protocol version.
    Version(u8),
    /// This version has no such type.
    Type(u8),
}

/// Tells what a datagram is by its first byte.
pub fn parse_type(datagram: &[u8]) -> Result<MessageType, HeaderError> {
    let first = *datagram.first().ok_or(HeaderError::Empty)?;
    if first >> 4 != PROTOCOL_VERSION {
        return Err(HeaderError::Version(first >> 4));
    }
    Ok(match first & 0x0f {
        1 => MessageType::Initiation,
        2 => MessageType::Response,
        3 => MessageType::Finish,
        4 => MessageType::Challenge,
        5 => MessageType::Refusal,
        6 => MessageType::Data,
        7 => MessageType::Relay,
        other => return Err(HeaderError::Type(other)),
    })
}

/// The addressee's name for the handshake or session, in every type but the initiation.
pub fn parse_receiver(datagram: &[u8]) -> Option<ReceiverIndex> {
    let bytes = datagram.get(4..8)?;
    Some(ReceiverIndex(u32::from_le_bytes(bytes.try_into().ok()?)))
}

/// The first byte of a datagram of this type.
pub const fn emit_type(message_type: MessageType) -> u8 {
    let code = match message_type {
        MessageType::Initiation => 1,
        MessageType::Response => 2,
        MessageType::Finish => 3,
        MessageType::Challenge => 4,
        MessageType::Refusal => 5,
        MessageType::Data => 6,
        MessageType::Relay => 7,
    };
    PROTOCOL_VERSION << 4 | code
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_first_byte_is_a_type_or_an_error() {
        let known = (0..=u8::MAX).filter(|first| parse_type(&[*first]).is_ok()).count();
        assert_eq!(known, 7);
        assert_eq!(parse_type(&[]), Err(HeaderError::Empty));
        assert_eq!(parse_type(&[0x21]), Err(HeaderError::Version(2)));
        assert_eq!(parse_type(&[0x1f]), Err(HeaderError::Type(15)));
    }

    #[test]
    fn a_type_is_parsed_as_it_was_emitted() {
        for message_type in [MessageType::Initiation, MessageType::Data, MessageType::Relay, MessageType::Refusal] {
            assert_eq!(parse_type(&[emit_type(message_type)]), Ok(message_type));
        }
    }
}

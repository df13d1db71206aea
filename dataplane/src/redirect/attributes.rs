//! Netlink messages taken apart (RFC 3549 §2.3): header, netfilter's header, attributes.
//!
//! ```text
//! +----------+-----------+------------+-----------+-----------+---------------------------+---------------+
//! | len: u32 | kind: u16 | flags: u16 | seq: u32  | port: u32 | family: u8, version, …    | attributes …  |
//! +----------+-----------+------------+-----------+-----------+---------------------------+---------------+
//! ```
//!
//! Lengths that make no sense end a message or a list; nothing here panics.

use std::io;

/// Bytes of the netlink header.
const HEADER_LEN: usize = 16;
/// Bytes of both headers.
const HEADERS_LEN: usize = 20;
/// `NLMSG_ERROR`, `NLMSG_DONE`
const ERROR: u16 = 2;
const DONE: u16 = 3;
/// Bits of an attribute's kind that are not its number (`NLA_F_NESTED`, `NLA_F_NET_BYTEORDER`).
const KIND_FLAGS: u16 = 0xc000;

/// One message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Message<'a> {
    /// What it is.
    pub(super) kind: u16,
    /// First byte behind the netlink header: the family, in every protocol that is spoken here.
    pub(super) family: u8,
    /// What follows the netlink header.
    body: &'a [u8],
}

impl<'a> Message<'a> {
    /// The value of an attribute.
    pub(super) fn attribute(&self, wanted: u16) -> Option<&'a [u8]> {
        let list = self.body.get(HEADERS_LEN - HEADER_LEN..)?;
        attributes(list).find(|(kind, _)| *kind == wanted).map(|(_, value)| value)
    }

    /// Whether it ends an answer, and how.
    pub(super) fn end(&self) -> Option<io::Result<()>> {
        match self.kind {
            DONE => Some(Ok(())),
            ERROR => {
                let code = self.body.first_chunk().map_or(0, |code| i32::from_ne_bytes(*code));
                Some(if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(-code)) })
            }
            _ => None,
        }
    }
}

/// The messages of one receive.
pub(super) fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let len = u32::from_ne_bytes(*bytes.first_chunk()?) as usize;
        let body = bytes.get(HEADER_LEN..len)?;
        let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some(Message { kind, family: body.first().copied().unwrap_or_default(), body })
    })
}

/// A list of attributes: number and value of each.
pub(super) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let len = usize::from(u16::from_ne_bytes(*bytes.first_chunk()?));
        let kind = u16::from_ne_bytes(bytes.get(2..4)?.try_into().ok()?) & !KIND_FLAGS;
        let value = bytes.get(4..len)?;
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// A number of netfilter's, which is in network byte order.
pub(super) fn number(value: &[u8]) -> Option<u32> {
    value.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))
}

/// A name, without the zero at its end.
pub(super) fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value).trim_end_matches('\0').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A chain "in" of table "t" in family 7, as the kernel tells it.
    fn chain() -> Vec<u8> {
        let mut bytes = vec![7, 0, 0, 0];
        bytes.extend([6_u16.to_ne_bytes(), 1_u16.to_ne_bytes()].concat());
        bytes.extend(*b"t\0\0\0");
        bytes.extend([7_u16.to_ne_bytes(), 3_u16.to_ne_bytes()].concat());
        bytes.extend(*b"in\0\0");
        bytes.extend([8_u16.to_ne_bytes(), (5 | 0x8000_u16).to_ne_bytes()].concat());
        bytes.extend(1_u32.to_be_bytes());
        let mut message = (16 + bytes.len() as u32).to_ne_bytes().to_vec();
        message.extend([0x0a03_u16.to_ne_bytes(), [0; 2], [0; 2], [0; 2], [0; 2], [0; 2]].concat());
        message.extend(bytes);
        message
    }

    #[test]
    fn messages_and_their_attributes_are_read() {
        let two = [chain(), chain()].concat();
        assert_eq!(messages(&two).count(), 2);
        let message = messages(&two).nth(1).unwrap();
        assert_eq!((message.kind, message.family), (0x0a03, 7));
        assert_eq!(message.attribute(1).map(text).as_deref(), Some("t"));
        assert_eq!(message.attribute(3).map(text).as_deref(), Some("in"));
        assert_eq!(message.attribute(5).and_then(number), Some(1));
        assert_eq!(message.attribute(9), None);
    }

    #[test]
    fn what_is_cut_off_or_has_senseless_lengths_ends_the_list() {
        let whole = chain();
        for len in 0..whole.len() {
            assert_eq!(messages(&whole[..len]).count(), 0, "{len}");
        }
        for announced in [0_u32, 1, 15, 1000, u32::MAX] {
            let mut broken = whole.clone();
            broken[..4].copy_from_slice(&announced.to_ne_bytes());
            assert_eq!(messages(&broken).count(), 0, "{announced}");
        }
        for announced in [0_u16, 3, 100, u16::MAX] {
            let mut broken = whole.clone();
            broken[20..22].copy_from_slice(&announced.to_ne_bytes());
            assert_eq!(messages(&broken).next().unwrap().attribute(3), None, "{announced}");
        }
    }
}

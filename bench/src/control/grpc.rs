//! The few messages of etcd's API that are needed, in the form that is on the wire.
//!
//! ```text
//! PutRequest    { bytes key = 1; bytes value = 2; }
//! RangeRequest  { bytes key = 1; bool serializable = 7; }
//! WatchRequest  { WatchCreateRequest create_request = 1; }    WatchCreateRequest { bytes key = 1; }
//! before each: 00 (not compressed), length as u32 big endian
//! ```

/// Sets a key.
pub(super) const PUT: &str = "/etcdserverpb.KV/Put";
/// Gets a key.
pub(super) const RANGE: &str = "/etcdserverpb.KV/Range";
/// Waits for a key.
pub(super) const WATCH: &str = "/etcdserverpb.Watch/Watch";

pub(super) fn put(key: &str, value: &str) -> Vec<u8> {
    framed(&[field(1, key.as_bytes()), field(2, value.as_bytes())].concat())
}

/// Of the state that this server has, without asking others: what weaved's reads are.
pub(super) fn range(key: &str) -> Vec<u8> {
    framed(&[field(1, key.as_bytes()), vec![7 << 3, 1]].concat())
}

pub(super) fn watch(key: &str) -> Vec<u8> {
    framed(&field(1, &field(1, key.as_bytes())))
}

/// Field `number` of type bytes; none here is longer than a byte of length can tell.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    debug_assert!(bytes.len() < 128, "one byte tells the length");
    [&[number << 3 | 2, bytes.len() as u8], bytes].concat()
}

fn framed(message: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0];
    bytes.extend((message.len() as u32).to_be_bytes());
    bytes.extend(message);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_as_the_protocol_writes_them() {
        assert_eq!(put("k", "vv"), b"\0\0\0\0\x07\x0a\x01k\x12\x02vv");
        assert_eq!(range("k"), b"\0\0\0\0\x05\x0a\x01k\x38\x01");
        assert_eq!(watch("k"), b"\0\0\0\0\x05\x0a\x03\x0a\x01k");
    }
}

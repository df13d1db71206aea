//! A store for tests: of one node, which has founded its network and always finds its disk. And what another may tell it.

use std::time::Instant;

use weaved_api::PeerId;

use super::{Entry, Key, Kv, KvConfig, Members, StoredRows, Value, message::KvMessage};
use crate::{hlc::Hlc, ipam::RingSeed};

/// As an earlier run left it, or a new one.
pub fn alone(stored: &StoredRows) -> Kv {
    let me = PeerId([1; 32]);
    let mut kv =
        Kv::new(KvConfig::new(me), stored, [1; 32], Instant::now()).expect("what a store has written can be read");
    let founding = Some(RingSeed { made_at_us: 1, founder: me });
    kv.handle_members(Members { founding, ..Members::default() }, Instant::now(), 1);
    drop(kv.poll_persist());
    kv.handle_stored();
    kv
}

/// A message of another store: this is what a majority has decided.
///
/// Panics for a key that is none.
pub fn decided(key: &str, value: &[u8]) -> Vec<u8> {
    let writer = PeerId([2; 32]);
    let entry = Entry {
        guard: Some(RingSeed { made_at_us: 1, founder: writer }),
        modified: Hlc(1_800_000_000_000_000),
        writer,
        created: Hlc(1),
        flags: 0,
        lock_index: 0,
        session: None,
        held_back_until: Hlc(0),
        value: Some(Value::new(value)),
    };
    let key = Key::try_from(key.to_owned()).expect("this is a key");
    let message = KvMessage::Entries(vec![(key, entry)]);
    [vec![0], postcard::to_stdvec(&message).expect("a vector takes any message")].concat()
}

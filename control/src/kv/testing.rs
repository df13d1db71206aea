//! A store for tests: of one node, which has founded its network and always finds its disk.

use std::time::Instant;

use weaved_api::PeerId;

use super::{Kv, KvConfig, Members, StoredRows};
use crate::ipam::RingSeed;

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

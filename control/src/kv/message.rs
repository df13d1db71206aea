//! What nodes tell each other about keys and values. All may be lost, repeated or reordered.

use serde::{Deserialize, Serialize};

use super::{entry::Entry, guard::GuardMessage, key::Key};

/// One message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum KvMessage {
    /// Entries that you may lack.
    Entries(Vec<(Key, Entry)>),
    /// What I have, in short: a sum for each bucket.
    Sums(Vec<u64>),
    /// What I have in buckets that differ.
    List {
        /// Which buckets.
        buckets: Vec<u8>,
        /// Hash of the key and fingerprint of the entry.
        items: Vec<(u64, u64)>,
    },
    /// Send me these, by hash of the key.
    Want(Vec<u64>),
    /// About guarded keys.
    Guard(Box<GuardMessage>),
}

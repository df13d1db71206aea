//! What must be on the disk: rows of bytes, gathered until the driver takes them.
//!
//! INVARIANT: nothing that rests on a row leaves the state machine before the row is stored ([`Rows::is_settled`]).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// Which kind of row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Table {
    /// Entries of the replica, by key.
    Entries,
    /// What this node has promised and accepted as a voter, by key.
    Ballots,
    /// Single facts, by name.
    Facts,
}

/// Rows to be written in one transaction: put, or removed where there is no value.
pub type Batch = BTreeMap<(Table, Vec<u8>), Option<Vec<u8>>>;

/// All rows of an earlier run.
pub type StoredRows = Vec<(Table, Vec<u8>, Vec<u8>)>;

/// Stored rows that cannot be read: nothing is guessed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the key-value store on the disk is damaged: restore kv.redb from a backup, or give this host up with `weaved reset --force`"
)]
pub struct Damaged;

/// Rows on their way to the disk.
#[derive(Debug, Default)]
pub(super) struct Rows {
    pending: Batch,
    failed: Option<String>,
}

impl Rows {
    /// This row is to hold the value.
    pub(super) fn put(&mut self, table: Table, key: &[u8], value: &impl Serialize) {
        let value = postcard::to_stdvec(value).expect("a vector takes any row");
        self.pending.insert((table, key.to_vec()), Some(value));
    }

    /// This row is to go.
    pub(super) fn remove(&mut self, table: Table, key: &[u8]) {
        self.pending.insert((table, key.to_vec()), None);
    }

    /// What is to be written.
    pub(super) fn poll(&mut self) -> Option<Batch> {
        (!self.pending.is_empty()).then(|| std::mem::take(&mut self.pending))
    }

    /// The batch could not be written: it is given again, below what has come since.
    pub(super) fn on_failed(&mut self, mut batch: Batch, reason: String) {
        batch.append(&mut self.pending);
        self.pending = batch;
        self.failed = Some(reason);
    }

    /// The batch is on the disk.
    pub(super) fn on_stored(&mut self) {
        self.failed = None;
    }

    /// Why the disk takes nothing, if so.
    pub(super) fn failure(&self) -> Option<&str> {
        self.failed.as_deref()
    }

    /// True when everything is on the disk.
    pub(super) fn is_settled(&self) -> bool {
        self.pending.is_empty()
    }
}

/// Reads a row's value.
pub(super) fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Damaged> {
    postcard::from_bytes(bytes).map_err(|_| Damaged)
}

/// The store's own facts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct StoreFacts {
    /// The latest stamp and arrival.
    pub latest: u64,
    /// The greatest arrival of a collected tombstone.
    pub collected: u64,
}

//! What a key holds, and which of two versions of it stays.
//!
//! An entry that the last writer decides carries the hybrid logical time of the write and its writer; one that a majority
//! has decided ([`super::guard`]) says so by the lineage of that electorate. Of two entries for one key the guarded one
//! stays, of two guarded ones that of the older lineage, else the later one, else that of the greater writer. This order
//! is total, so replicas that have seen the same entries hold the same.
//!
//! INVARIANT: `created <= modified`, and `modified` is below `MAX_STAMP`.

use std::{cmp::Reverse, fmt, sync::Arc};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use serde_bytes::ByteBuf;
use weaved_api::PeerId;

use super::{
    limits::{ENTRY_BYTES, MAX_STAMP, MAX_VALUE_BYTES},
    session::SessionId,
};
use crate::{hlc::Hlc, ipam::RingSeed};

/// Bytes of a value. Copies share them. In JSON it is base64.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Value(Arc<[u8]>);

impl Value {
    /// These bytes.
    pub fn new(bytes: &[u8]) -> Self {
        Self(bytes.into())
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Value {
    /// Values may be secrets: only the length is printed.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.serialize_str(&STANDARD.encode(&self.0))
        } else {
            serializer.serialize_bytes(&self.0)
        }
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = if deserializer.is_human_readable() {
            STANDARD.decode(String::deserialize(deserializer)?).map_err(D::Error::custom)?
        } else {
            ByteBuf::deserialize(deserializer)?.into_vec()
        };
        Ok(Self(bytes.into()))
    }
}

/// Which founding of an electorate decided. The older one, which is the smaller one, wins when two meet.
pub type Lineage = RingSeed;

/// What a key holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The electorate that decided it; none where the last writer wins.
    pub guard: Option<Lineage>,
    /// When it was written: Consul's `ModifyIndex`.
    pub modified: Hlc,
    /// Who wrote it.
    pub writer: PeerId,
    /// When the key came to be: Consul's `CreateIndex`.
    pub created: Hlc,
    /// The client's own number.
    pub flags: u64,
    /// How often it was locked.
    pub lock_index: u64,
    /// Who holds its lock.
    pub session: Option<SessionId>,
    /// After the holder of the lock was lost, nobody gets the lock before this time.
    pub held_back_until: Hlc,
    /// None when it is deleted.
    pub value: Option<Value>,
}

impl Entry {
    /// The greater one of two entries for one key stays.
    pub fn precedence(&self) -> (Option<Reverse<Lineage>>, Hlc, PeerId) {
        (self.guard.map(Reverse), self.modified, self.writer)
    }

    /// True if it holds a value.
    pub fn is_live(&self) -> bool {
        self.value.is_some()
    }

    /// True if it may be in a replica. What comes from others is asked.
    pub fn is_valid(&self) -> bool {
        self.modified.0 < MAX_STAMP
            && self.modified.0 > 0
            && self.created <= self.modified
            && self.value.as_ref().is_none_or(|value| value.as_bytes().len() <= MAX_VALUE_BYTES)
    }

    /// What it counts for the bound of the store, without its key.
    pub fn cost_bytes(&self) -> usize {
        ENTRY_BYTES + self.value.as_ref().map_or(0, |value| value.as_bytes().len())
    }
}

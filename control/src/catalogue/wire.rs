//! What nodes tell each other about their logs of instances.
//!
//! Bulk is only sent to who asks for it: news are small and pushed, everything else is announced by its [`Head`], and the
//! receiver asks one of those who have it.
//!
//! INVARIANT: [`LogDelta::is_valid`] holds for every delta that is applied: its entries are in the order of their versions,
//! within `(after, through]`, and within `limits.rs`.

use serde::{Deserialize, Serialize};
use weaved_api::PeerId;

use super::{
    Instance, InstanceId,
    limits::{
        MAX_CHECK_NAME_BYTES, MAX_CHECK_OUTPUT_BYTES, MAX_CHECKS, MAX_INSTANCE_BYTES, MAX_META, MAX_META_KEY_BYTES,
        MAX_META_VALUE_BYTES, MAX_NAME_BYTES, MAX_TAG_BYTES, MAX_TAGS,
    },
};
use crate::cluster::{IdRange, Version, limits::GOSSIP_BYTES};

/// Bytes around the heads of a message, at most.
const HEADS_HEADER_BYTES: usize = 16 + 64;
/// Bytes of one head with its owner, at most.
const HEAD_BYTES: usize = 32 + 10 + 10;
/// Heads of one message.
const MAX_HEADS: usize = (GOSSIP_BYTES - HEADS_HEADER_BYTES) / HEAD_BYTES;
/// Bytes of a delta around its entries, at most.
pub(super) const DELTA_HEADER_BYTES: usize = 16 + 32 + 4 * 10;

/// How much of a log somebody has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// All of it up to this version.
    pub latest: Version,
    /// Removals up to this version are no longer in the log. Who has less than that needs all of it again.
    pub floor: Version,
}

impl Head {
    /// True if increments do not help somebody who has this much of a log with that floor.
    pub(super) fn is_behind(self, floor: Version) -> bool {
        self.latest < floor && self.floor < floor
    }
}

/// One message about instances. All may be lost, repeated or reordered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CatalogueMessage {
    /// I have this much.
    Heads {
        /// I have nothing else of these owners. None in an answer, which says nothing about others and is not answered.
        range: Option<IdRange>,
        /// Of each owner.
        heads: Vec<(PeerId, Head)>,
    },
    /// Send me what follows this.
    Ask(Vec<(PeerId, Head)>),
    /// A part of a log.
    Delta(LogDelta),
}

/// All that is in one owner's log between two versions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogDelta {
    /// Who has written it.
    pub owner: PeerId,
    /// It follows this version; zero for the beginning.
    pub after: Version,
    /// It is complete up to this version.
    pub through: Version,
    /// What the sender has.
    pub head: Head,
    /// More or not.
    pub rest: Rest,
    /// In the order of their versions.
    pub entries: Vec<Entry>,
}

/// Whether the sender goes on by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Rest {
    /// The rest is sent, or there is none.
    Sent,
    /// The sender waits for a question before it goes on.
    OnRequest,
}

/// What became of one instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Of the log when it was written.
    pub version: Version,
    /// What was written.
    pub fact: Fact,
}

/// See [`Entry`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fact {
    /// It is so.
    Here(Instance),
    /// It is no more.
    Gone(InstanceId),
}

impl CatalogueMessage {
    /// What we have of a range, in as few messages as the length of a datagram allows.
    pub fn heads_of(range: IdRange, heads: &[(PeerId, Head)]) -> Vec<Self> {
        let ids: Vec<_> = heads.iter().map(|(owner, _)| *owner).collect();
        let ranges = range.cut(&ids, MAX_HEADS);
        let within = |range: IdRange| heads.iter().copied().filter(move |(owner, _)| range.contains(*owner)).collect();
        ranges.into_iter().map(|range| Self::Heads { range: Some(range), heads: within(range) }).collect()
    }

    /// What we have of some owners.
    pub fn answers(heads: &[(PeerId, Head)]) -> Vec<Self> {
        heads.chunks(MAX_HEADS).map(|heads| Self::Heads { range: None, heads: heads.to_vec() }).collect()
    }

    /// Questions for what follows these.
    pub fn asks(heads: &[(PeerId, Head)]) -> Vec<Self> {
        heads.chunks(MAX_HEADS).map(|heads| Self::Ask(heads.to_vec())).collect()
    }
}

impl LogDelta {
    /// True for one that may be applied.
    pub fn is_valid(&self) -> bool {
        let mut before = self.after;
        let is_ascending = self.entries.iter().all(|entry| {
            let follows = entry.version > before;
            before = entry.version;
            follows
        });
        let is_within = before <= self.through && self.after <= self.through && self.through <= self.head.latest;
        let is_sane = self.head.latest <= Version::MAX && self.head.floor <= self.head.latest;
        is_ascending && is_within && is_sane && self.entries.iter().all(|entry| entry.fact.is_valid())
    }
}

impl Fact {
    /// Which instance.
    pub fn id(&self) -> &InstanceId {
        match self {
            Self::Here(instance) => &instance.id,
            Self::Gone(id) => id,
        }
    }

    fn is_valid(&self) -> bool {
        match self {
            Self::Here(instance) => instance.is_valid(),
            Self::Gone(id) => is_name(&id.0),
        }
    }
}

impl Instance {
    /// True for one that is within the limits. Others are neither announced nor taken in.
    pub fn is_valid(&self) -> bool {
        let checks_are_valid = self.checks.iter().all(|check| {
            let names = [&check.id.0, &check.name, &check.kind];
            names.iter().all(|name| name.len() <= MAX_CHECK_NAME_BYTES) && check.output.len() <= MAX_CHECK_OUTPUT_BYTES
        });
        let meta_is_valid =
            self.meta.iter().all(|(key, value)| key.len() <= MAX_META_KEY_BYTES && value.len() <= MAX_META_VALUE_BYTES);
        is_name(&self.id.0)
            && is_name(&self.service)
            && self.tags.len() <= MAX_TAGS
            && self.tags.iter().all(|tag| tag.len() <= MAX_TAG_BYTES)
            && self.meta.len() <= MAX_META
            && meta_is_valid
            && self.checks.len() <= MAX_CHECKS
            && checks_are_valid
            && self.source_name().len() <= MAX_NAME_BYTES
    }

    /// Makes it fit a message. Returns false for one that cannot.
    pub(super) fn fit(&mut self) -> bool {
        for check in &mut self.checks {
            let end = check.output.floor_char_boundary(MAX_CHECK_OUTPUT_BYTES);
            check.output.truncate(end);
        }
        if self.encoded_len() > MAX_INSTANCE_BYTES {
            self.checks.iter_mut().for_each(|check| check.output.clear());
        }
        self.is_valid() && self.encoded_len() <= MAX_INSTANCE_BYTES
    }

    fn encoded_len(&self) -> usize {
        encoded_len(self)
    }
}

/// Bytes that something takes in a message.
pub(super) fn encoded_len(value: &impl Serialize) -> usize {
    postcard::experimental::serialized_size(value).unwrap_or(usize::MAX)
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= MAX_NAME_BYTES
}

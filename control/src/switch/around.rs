//! What surrounds the state machines of switches for one call, and what they want done.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Instant,
};

use weaved_api::PeerId;

use super::{
    limits::{MAX_SERVICES, ORPHAN_GRACE},
    message::{Core, Stamp, SwitchMessage},
    order::AttemptId,
    record::{PREFIX, Pending, Record},
};
use crate::{
    catalogue::View,
    kv::{Change, Entry, Key},
};

/// What is known for one call.
pub struct Around<'a> {
    /// This node.
    pub me: PeerId,
    /// What runs where.
    pub view: &'a View,
    /// Who is alive, this node included.
    pub live: &'a BTreeSet<PeerId>,
    /// How people call a node.
    pub name: &'a dyn Fn(PeerId) -> String,
    /// The latest that this node knows of a key that is not a record: its index and its value.
    pub key: &'a dyn Fn(&str) -> Option<Shown>,
    /// Now.
    pub now: Instant,
    /// The same by the wall clock, in microseconds of Unix time.
    pub wall_us: u64,
}

/// A key that shows a colour.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// For a compare-and-set.
    pub index: u64,
    /// What it holds.
    pub value: Vec<u8>,
}

/// Something to be done.
#[derive(Debug)]
pub enum Effect {
    /// Tell a node, maybe this one.
    Send(PeerId, SwitchMessage),
    /// Let a majority decide; the outcome comes back with this number.
    Decide(u64, Key, Change),
    /// Tell the operator.
    Note(String),
}

/// Why something was given to a majority to decide.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    Attempt(AttemptId, Stage),
    /// Nobody waits for it.
    Upkeep(String),
}

/// A step of an attempt that a majority decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// What does the register hold?
    Refresh,
    Reserve,
    Compare,
    Commit,
    Settle,
    Cancel,
    Mirror,
    Figures,
    /// How did that one end?
    Resolve(Box<Stage>),
}

/// What goes out.
#[derive(Debug, Default)]
pub(super) struct Out {
    pub(super) effects: VecDeque<Effect>,
    pub(super) purposes: BTreeMap<u64, Purpose>,
    next_op: u64,
}

impl Out {
    pub(super) fn send(&mut self, to: PeerId, message: SwitchMessage) {
        self.effects.push_back(Effect::Send(to, message));
    }

    pub(super) fn decide(&mut self, purpose: Purpose, key: &str, change: Change) {
        let key = Key::new(key).expect("names of services are short and have no NUL");
        self.next_op += 1;
        self.purposes.insert(self.next_op, purpose);
        self.effects.push_back(Effect::Decide(self.next_op, key, change));
    }

    pub(super) fn note(&mut self, text: String) {
        self.effects.push_back(Effect::Note(text));
    }
}

/// The records of all services, as this node knows them.
#[derive(Debug, Default)]
pub(super) struct Records {
    held: BTreeMap<String, HeldRecord>,
}

/// One record.
#[derive(Clone, Debug)]
pub(super) struct HeldRecord {
    pub(super) record: Record,
    pub(super) stamp: Stamp,
    /// For a compare-and-set; 0 where nothing is.
    pub(super) index: u64,
    /// When this node saw the present revision first.
    pub(super) revision_since: Instant,
    /// When this node saw the pending attempt first.
    pub(super) pending_since: Instant,
}

impl HeldRecord {
    /// What balancers must know of it.
    pub(super) fn core(&self, service: &str) -> Core {
        Core::of(service, &self.record, self.stamp)
    }

    /// The switch that is under way and belongs to somebody. One whose coordinator is gone, or that has taken much longer
    /// than it may, by this node's own clock, is in nobody's way.
    pub(super) fn blocking(&self, around: &Around<'_>) -> Option<&Pending> {
        let pending = self.record.pending.as_ref()?;
        let patience = std::time::Duration::from_millis(pending.patience_ms).min(super::limits::MAX_TIMEOUT);
        let is_over = around.now.saturating_duration_since(self.pending_since) >= patience + ORPHAN_GRACE;
        (around.live.contains(&pending.coordinator) && !is_over).then_some(pending)
    }
}

impl Records {
    pub(super) fn get(&self, service: &str) -> Option<&HeldRecord> {
        self.held.get(service)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &HeldRecord)> {
        self.held.iter().map(|(service, held)| (service.as_str(), held))
    }

    /// The service whose live colour a key shows. Where two were given one key at once it is the first by name, so that no two
    /// take turns in writing it.
    pub(super) fn owner_of(&self, key: &str) -> Option<&str> {
        self.iter().find(|(_, held)| held.record.key == key).map(|(service, _)| service)
    }

    /// Takes in what the register holds. None if that is not news.
    pub(super) fn note(&mut self, service: &str, entry: &Entry, now: Instant) -> Option<&HeldRecord> {
        let stamp = Stamp::of(entry);
        let before = self.held.get(service);
        if before.is_some_and(|before| before.stamp.precedence() >= stamp.precedence())
            || (before.is_none() && self.held.len() >= MAX_SERVICES)
        {
            return None;
        }
        let record = match &entry.value {
            Some(value) => Record::from_value(value)?,
            None => Record::new(service),
        };
        let index = if entry.is_live() { entry.modified.0 } else { 0 };
        let same_revision = before.filter(|before| before.record.revision == record.revision);
        let attempt = |record: &Record| record.pending.as_ref().map(|pending| pending.attempt);
        let same_pending = before.filter(|before| attempt(&before.record) == attempt(&record));
        let revision_since = same_revision.map_or(now, |before| before.revision_since);
        let pending_since = same_pending.map_or(now, |before| before.pending_since);
        let held = HeldRecord { record, stamp, index, revision_since, pending_since };
        self.held.insert(service.to_owned(), held);
        self.held.get(service)
    }
}

/// The service of a record's key. Others may have put a key there that no service has.
pub fn service_of_record(key: &str) -> Option<&str> {
    key.strip_prefix(PREFIX).filter(|service| !service.is_empty() && Key::new(key).is_ok())
}

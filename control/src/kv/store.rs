//! The replica: what this node knows of every key, and what it needs to compare itself with others.
//!
//! The merge takes the entry of greater precedence ([`Entry::precedence`]), a total order, so merges commute and replicas
//! that have exchanged everything are equal.
//!
//! Each entry also has an *arrival*: this node's own number of when it learned of it, which is its index for readers who
//! wait. Stamps alone would not do: what a healed partition brings may be older than what was read before.
//!
//! INVARIANT: arrivals grow with each applied entry, over restarts too; the index of a key, of a prefix and of nothing
//! never goes back, also when tombstones are collected.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
};

use super::{
    entry::Entry,
    key::{Key, SESSIONS},
    limits::{MAX_PAGE_BYTES, MAX_PAGE_ENTRIES, MAX_REPLICA_BYTES, MAX_REPLICA_SESSIONS_BYTES, TOMBSTONE_KEPT},
    request::{Quota, Row, Rows},
    session::{Session, has_long_ended, live_session},
};
use crate::hlc::{Hlc, HybridClock};

/// Buckets that replicas are compared in.
pub(super) const BUCKETS: usize = 256;

/// An entry in the replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// What the key holds.
    pub entry: Entry,
    /// When it came here.
    pub arrival: u64,
}

/// What became of an entry that came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Merged {
    /// It replaced what was there.
    Newer,
    /// Nothing new.
    Stale,
    /// There is no room, or it is no entry.
    Refused,
}

/// All entries of one node.
#[derive(Debug)]
pub struct Store {
    entries: BTreeMap<Key, Held>,
    sums: Box<[u64; BUCKETS]>,
    keys_bytes: usize,
    sessions_bytes: usize,
    /// Sessions that have not ended, so that those that have cost no time.
    live_sessions: BTreeSet<Key>,
    /// Keys that a session has locked.
    locked: BTreeSet<Key>,
    clock: HybridClock,
    last_arrival: u64,
    /// The greatest arrival among collected tombstones: prefixes are at least there.
    collected: u64,
}

impl Store {
    /// An empty replica whose arrivals begin above `latest`.
    pub fn new(latest: Hlc, collected: u64) -> Self {
        let latest = latest.max(Hlc(1));
        Self {
            entries: BTreeMap::new(),
            sums: Box::new([0; BUCKETS]),
            keys_bytes: 0,
            sessions_bytes: 0,
            live_sessions: BTreeSet::new(),
            locked: BTreeSet::new(),
            clock: HybridClock::new(latest),
            last_arrival: latest.0,
            collected: collected.max(1),
        }
    }

    /// An entry as it was stored in an earlier run.
    pub fn restore(&mut self, key: Key, held: Held) {
        let latest = self.clock.latest().0.max(held.arrival);
        self.clock = HybridClock::new(Hlc(latest));
        self.last_arrival = self.last_arrival.max(held.arrival);
        self.insert(key, held);
    }

    /// A stamp for a write of this node.
    pub fn tick(&mut self, wall_us: u64) -> Hlc {
        self.clock.tick(wall_us)
    }

    /// The latest stamp or arrival.
    pub fn latest(&self) -> Hlc {
        self.clock.latest()
    }

    /// See [`Store::new`].
    pub fn collected(&self) -> u64 {
        self.collected
    }

    /// Bytes that count.
    pub fn used_bytes(&self, of: Quota) -> usize {
        match of {
            Quota::Keys => self.keys_bytes,
            Quota::Sessions => self.sessions_bytes,
        }
    }

    /// Takes an entry in if it goes before what is there.
    pub fn merge(&mut self, key: &Key, entry: Entry, wall_us: u64) -> Merged {
        if !entry.is_valid() {
            return Merged::Refused;
        }
        let known = self.entries.get(key);
        if known.is_some_and(|held| held.entry.precedence() >= entry.precedence()) {
            return Merged::Stale;
        }
        // The others have forgotten it, or will within minutes: taking it in would hand it round for ever.
        let is_forgotten = || is_expired(&entry, wall_us) || (key.is_internal() && has_long_ended(&entry, wall_us));
        if known.is_none() && is_forgotten() {
            return Merged::Stale;
        }
        let (used_bytes, max_bytes) = match quota_of(key) {
            Quota::Keys => (self.keys_bytes, MAX_REPLICA_BYTES),
            Quota::Sessions => (self.sessions_bytes, MAX_REPLICA_SESSIONS_BYTES),
        };
        // What takes no more room than what it replaces always has it: that a session has ended must be heard.
        let grown_bytes = cost_bytes(key, &entry).saturating_sub(known.map_or(0, |held| cost_bytes(key, &held.entry)));
        if grown_bytes > 0 && used_bytes + grown_bytes > max_bytes && entry.is_live() {
            return Merged::Refused;
        }
        let arrival = self.arrival(entry.modified, wall_us);
        self.insert(key.clone(), Held { entry, arrival });
        Merged::Newer
    }

    /// What a key holds, deleted or not.
    pub fn get(&self, key: &str) -> Option<&Held> {
        self.entries.get(key)
    }

    /// All entries whose keys begin so, deleted ones too.
    pub fn range<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a Key, &'a Held)> {
        self.after(prefix, None)
    }

    /// All entries.
    pub fn iter(&self) -> impl Iterator<Item = (&Key, &Held)> {
        self.entries.iter()
    }

    /// Sessions that live.
    pub fn live_sessions(&self) -> impl Iterator<Item = (&Key, Session, &Held)> {
        self.live_sessions.iter().filter_map(|key| {
            let held = self.entries.get(key)?;
            Some((key, live_session(&held.entry)?, held))
        })
    }

    /// Keys that a session has locked.
    pub fn locked(&self) -> impl Iterator<Item = (&Key, &Held)> {
        self.locked.iter().filter_map(|key| self.entries.get_key_value(key))
    }

    /// The index of one key: at least 1.
    pub fn key_index(&self, key: &str) -> u64 {
        self.get(key).map_or(self.collected, |held| held.arrival)
    }

    /// The index of a prefix: at least 1.
    pub fn prefix_index(&self, prefix: &str) -> u64 {
        self.range(prefix).map(|(_, held)| held.arrival).fold(self.collected, u64::max)
    }

    /// One key.
    pub fn read_key(&self, key: &str) -> Rows {
        let row = self.entries.get_key_value(key).and_then(|(key, held)| Row::of(key, &held.entry));
        Rows { index: self.key_index(key), rows: row.into_iter().collect(), more_after: None }
    }

    /// A page of the keys that begin so, behind one of them.
    pub fn read_prefix(&self, prefix: &str, after: Option<&str>) -> Rows {
        let mut rows = Rows { index: self.prefix_index(prefix), ..Rows::default() };
        let mut len_bytes = 0;
        let visible = self.after(prefix, after).filter(|(key, _)| !key.is_internal() || prefix.starts_with('\0'));
        for row in visible.filter_map(|(key, held)| Row::of(key, &held.entry)) {
            len_bytes += row.value.as_bytes().len() + row.key.as_str().len();
            if rows.rows.len() == MAX_PAGE_ENTRIES || len_bytes > MAX_PAGE_BYTES {
                rows.more_after = rows.rows.last().map(|row: &Row| row.key.to_string());
                break;
            }
            rows.rows.push(row);
        }
        rows
    }

    /// Forgets tombstones that are old enough; returns their keys.
    pub fn collect(&mut self, wall_us: u64) -> Vec<Key> {
        let old: Vec<_> = self
            .entries
            .iter()
            .filter(|(_, held)| is_expired(&held.entry, wall_us))
            .map(|(key, _)| key.clone())
            .collect();
        for key in &old {
            self.forget(key);
        }
        old
    }

    /// Sessions that ended so long ago that they may be forgotten.
    pub fn long_ended(&self, wall_us: u64) -> impl Iterator<Item = &Key> {
        self.range(SESSIONS).filter(move |(_, held)| has_long_ended(&held.entry, wall_us)).map(|(key, _)| key)
    }

    /// Forgets one entry. True if it was there.
    pub fn forget(&mut self, key: &Key) -> bool {
        let held = self.remove(key);
        self.collected = self.collected.max(held.as_ref().map_or(0, |held| held.arrival));
        held.is_some()
    }

    /// For each bucket a sum over its entries; equal for replicas that are equal.
    pub fn sums(&self) -> &[u64; BUCKETS] {
        &self.sums
    }

    /// The entries of a bucket.
    pub fn bucket(&self, bucket: usize) -> impl Iterator<Item = (&Key, &Held)> {
        self.entries.iter().filter(move |(key, _)| bucket_of(key.hash64()) == bucket)
    }

    fn after<'a>(&'a self, prefix: &'a str, after: Option<&str>) -> impl Iterator<Item = (&'a Key, &'a Held)> {
        let begin = after.filter(|after| *after >= prefix);
        let bound = begin.map_or(Bound::Included(prefix), Bound::Excluded);
        self.entries
            .range::<str, _>((bound, Bound::Unbounded))
            .take_while(move |(key, _)| key.as_str().starts_with(prefix))
    }

    fn arrival(&mut self, modified: Hlc, wall_us: u64) -> u64 {
        // A stamp beyond our clock's reach is kept as it is, and our clock does not follow it.
        let is_next = self.clock.observe(modified, wall_us).is_ok() && modified.0 > self.last_arrival;
        self.last_arrival = if is_next { modified.0 } else { self.clock.tick(wall_us).0 };
        self.last_arrival
    }

    fn insert(&mut self, key: Key, held: Held) {
        self.remove(&key);
        *self.used_bytes_mut(&key) += cost_bytes(&key, &held.entry);
        if key.is_internal() && live_session(&held.entry).is_some() {
            self.live_sessions.insert(key.clone());
        }
        if held.entry.session.is_some() {
            self.locked.insert(key.clone());
        }
        let hash = key.hash64();
        self.sums[bucket_of(hash)] ^= fingerprint(hash, &held.entry);
        self.entries.insert(key, held);
    }

    fn remove(&mut self, key: &Key) -> Option<Held> {
        let held = self.entries.remove(key)?;
        *self.used_bytes_mut(key) -= cost_bytes(key, &held.entry);
        self.live_sessions.remove(key);
        self.locked.remove(key);
        let hash = key.hash64();
        self.sums[bucket_of(hash)] ^= fingerprint(hash, &held.entry);
        Some(held)
    }

    fn used_bytes_mut(&mut self, key: &Key) -> &mut usize {
        match quota_of(key) {
            Quota::Keys => &mut self.keys_bytes,
            Quota::Sessions => &mut self.sessions_bytes,
        }
    }
}

/// Which bound an entry counts for.
fn quota_of(key: &Key) -> Quota {
    if key.is_internal() { Quota::Sessions } else { Quota::Keys }
}

fn cost_bytes(key: &Key, entry: &Entry) -> usize {
    key.as_str().len() + entry.cost_bytes()
}

/// The bucket of a key with this hash.
pub(super) fn bucket_of(hash: u64) -> usize {
    (hash % BUCKETS as u64) as usize
}

/// What tells two versions of a key apart, in short.
pub(super) fn fingerprint(hash: u64, entry: &Entry) -> u64 {
    let guard = entry.guard.map_or(0, |lineage| lineage.made_at_us);
    let stamp = [hash.to_le_bytes(), entry.modified.0.to_le_bytes(), guard.to_le_bytes()].concat();
    super::key::hash64(&[&stamp, &entry.writer.0])
}

/// Deleted long ago. What a majority has decided is kept: its voters remember it too.
fn is_expired(entry: &Entry, wall_us: u64) -> bool {
    let kept_us = TOMBSTONE_KEPT.as_micros() as u64;
    !entry.is_live() && entry.guard.is_none() && entry.modified.0.saturating_add(kept_us) < wall_us
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use weaved_api::PeerId;

    use super::*;
    use crate::kv::entry::Value;

    fn key(text: &str) -> Key {
        Key::new(text).unwrap()
    }

    fn entry(modified: u64, writer: u8, value: Option<&str>) -> Entry {
        Entry {
            guard: None,
            modified: Hlc(modified),
            writer: PeerId([writer; 32]),
            created: Hlc(1),
            flags: 0,
            lock_index: 0,
            session: None,
            held_back_until: Hlc(0),
            value: value.map(|text| Value::new(text.as_bytes())),
        }
    }

    fn store() -> Store {
        Store::new(Hlc(1), 1)
    }

    #[test]
    fn what_arrives_late_with_an_old_stamp_still_moves_the_index() {
        let mut store = store();
        store.merge(&key("p/new"), entry(200, 1, Some("x")), 200);
        let seen = store.prefix_index("p/");
        store.merge(&key("p/old"), entry(100, 2, Some("y")), 201);
        assert!(store.prefix_index("p/") > seen);
        assert_eq!(store.prefix_index("q/"), 1, "others do not wake");
    }

    #[test]
    fn the_index_of_a_prefix_does_not_slide_back_when_a_tombstone_is_collected() {
        let mut store = store();
        store.merge(&key("p/a"), entry(10, 1, Some("x")), 10);
        store.merge(&key("p/b"), entry(20, 1, None), 20);
        let before = store.prefix_index("p/");
        let later = 30 + TOMBSTONE_KEPT.as_micros() as u64;
        assert_eq!(store.collect(later), [key("p/b")]);
        assert!(store.prefix_index("p/") >= before);
        assert_eq!(store.merge(&key("p/b"), entry(20, 1, None), later), Merged::Stale, "it is not taken in again");
    }

    #[test]
    fn a_stamp_of_a_broken_clock_is_kept_but_not_followed() {
        let mut store = store();
        assert_eq!(store.merge(&key("a"), entry(1 << 52, 1, Some("x")), 1_000), Merged::Newer);
        assert!(store.latest() < Hlc(10_000));
        assert_eq!(store.merge(&key("b"), entry(1 << 53, 1, Some("x")), 1_000), Merged::Refused);
    }

    #[test]
    fn a_prefix_is_read_in_pages_without_the_stores_own_entries() {
        let mut store = store();
        for name in ["a", "p/1", "p/2", "q"] {
            store.merge(&key(name), entry(5, 1, Some(name)), 5);
        }
        let session = Key::of_session(crate::kv::SessionId([1; 16]));
        store.merge(&session, entry(6, 1, Some("s")), 6);
        let keys = |rows: Rows| rows.rows.iter().map(|row| row.key.to_string()).collect::<Vec<_>>();
        assert_eq!(keys(store.read_prefix("p/", None)), ["p/1", "p/2"]);
        assert_eq!(keys(store.read_prefix("", None)), ["a", "p/1", "p/2", "q"]);
        assert_eq!(keys(store.read_prefix("", Some("p/1"))), ["p/2", "q"]);
    }

    #[test]
    fn a_full_page_says_where_the_next_begins() {
        let mut store = store();
        let big = "x".repeat(500_000);
        for name in ["a", "b", "c", "d", "e", "f"] {
            store.merge(&key(name), entry(5, 1, Some(&big)), 5);
        }
        let first = store.read_prefix("", None);
        assert_eq!((first.rows.len(), first.more_after.as_deref()), (4, Some("d")));
        let second = store.read_prefix("", first.more_after.as_deref());
        assert_eq!((second.rows.len(), second.more_after), (2, None));
    }

    proptest! {
        #[test]
        fn any_order_and_repetition_gives_the_same_replica(
            writes in prop::collection::vec((0..4u8, 1..9u64, 0..3u8, any::<bool>()), 1..30),
            order in any::<u64>(),
        ) {
            let (mut forth, mut back) = (store(), store());
            let merge = |store: &mut Store, (name, modified, writer, is_live): &(u8, u64, u8, bool)| {
                let value = is_live.then(|| format!("{modified} {writer}"));
                store.merge(&key(&name.to_string()), entry(*modified, *writer * 2 + u8::from(*is_live), value.as_deref()), 10);
            };
            writes.iter().for_each(|write| merge(&mut forth, write));
            let split = (order % writes.len() as u64) as usize;
            writes[split..].iter().rev().chain(&writes).for_each(|write| merge(&mut back, write));
            let contents = |store: &Store| store.iter().map(|(key, held)| (key.clone(), held.entry.clone())).collect::<Vec<_>>();
            prop_assert_eq!(contents(&forth), contents(&back));
            prop_assert_eq!(forth.sums(), back.sums());
            prop_assert_eq!(forth.used_bytes(Quota::Keys), back.used_bytes(Quota::Keys));
        }
    }
}

//! What is forgotten: old tombstones of plain keys, and sessions that ended long ago, here and in this node's vote.
//!
//! A session that is not there is refused as one that has ended is, and its id is never made again. So it may be forgotten as
//! soon as nobody can bring it back:
//!
//! * A voter that missed the end may have accepted that it lives. Its replica has heard of the end since, and goes before its
//!   vote ([`Voter`]: what it reports, and what it gives to new voters).
//! * A register of which no voter knows anything begins with what a replica holds, but not that of a session that this
//!   electorate has decided about: it was forgotten.
//! * A session that holds a lock is kept until the lock is given back. Where a lock's session is not known a majority is
//!   asked before the lock is taken for orphaned: the session may not have arrived yet.
//!
//! This rests on time in one place: each host that votes must have heard of the end within [`SESSION_KEPT`]. Replicas are
//! compared every few seconds, so all have but those that were away for the whole time; one that comes back after longer
//! may bring a session back that ended meanwhile, until its time to live is over. It holds no lock then: locks are
//! registers of their own. A clock that is wrong by a week shortens the time to [`DOUBT`], which is not measured by it.
//!
//! [`Voter`]: super::guard

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use super::{
    key::Key,
    machine::{COLLECT_EVERY, Kv},
    rows::Table,
};

/// A session must look forgettable for so long, whatever the clock says.
pub(super) const DOUBT: Duration = Duration::from_mins(20);

const _: () = assert!(DOUBT.as_secs() >= 2 * COLLECT_EVERY.as_secs(), "it is looked at several times");

/// Sessions that are to be forgotten, and since when this node has thought so.
#[derive(Debug, Default)]
pub(super) struct Doomed {
    since: BTreeMap<Key, Instant>,
}

impl Doomed {
    /// These are the ones that may be forgotten. Gives those that have been among them for long enough.
    fn look(&mut self, forgettable: BTreeSet<Key>, now: Instant) -> Vec<Key> {
        self.since.retain(|key, _| forgettable.contains(key));
        for key in forgettable {
            self.since.entry(key).or_insert(now);
        }
        let is_due = |since: &Instant| now.saturating_duration_since(*since) >= DOUBT;
        let due: Vec<Key> = self.since.iter().filter(|(_, since)| is_due(since)).map(|(key, _)| key.clone()).collect();
        self.since.retain(|_, since| !is_due(since));
        due
    }
}

impl Kv {
    /// Forgets what may be forgotten.
    pub(super) fn collect(&mut self, now: Instant, wall_us: u64) {
        let mut collected = self.store.collect(wall_us);
        for key in self.doomed.look(self.forgettable_sessions(wall_us), now) {
            self.guard.forget(&key, &mut self.rows);
            if self.store.forget(&key) {
                collected.push(key);
            }
        }
        for key in &collected {
            self.rows.remove(Table::Entries, key.as_str().as_bytes());
        }
        if !collected.is_empty() {
            self.store_facts();
        }
    }

    fn forgettable_sessions(&self, wall_us: u64) -> BTreeSet<Key> {
        let holders: BTreeSet<Key> =
            self.store.locked().filter_map(|(_, held)| held.entry.session).map(Key::of_session).collect();
        let ended = self.store.long_ended(wall_us).filter(|key| !holders.contains(*key));
        // What only a vote is left of: one that a new voter was given, or an id that never was one.
        let voted = self.guard.forgettable_sessions(wall_us).filter(|key| self.store.get(key.as_str()).is_none());
        ended.chain(voted).cloned().collect()
    }
}

//! One record per node of the cluster, our own among them.
//!
//! A state-based CRDT: a record is a register with one writer, its owner; the merge of two copies is the one with the
//! higher version. The writer never reuses a version: it starts above all that it may have used before (a stored floor,
//! or the wall clock), and when it meets a version of its own record that it does not remember writing, it goes on above
//! that. So two different records of one version do not exist, merges commute, and replicas that have exchanged
//! everything are equal.
//!
//! A node that has left is a tombstone until [`TOMBSTONE_KEPT`] has passed here. A tombstone of a node that is not known
//! here is not taken in: there is nothing to delete, and two nodes would otherwise hand it to each other for ever.
//!
//! A member that is down stays: it may come back, and its endpoints are where to look for it. When there is no room
//! for a new member, the one with the oldest record among those that the caller calls expendable goes.
//!
//! INVARIANT: at most `MAX_MEMBERS` records; our own is always among them and changed by [`Replica::write_own`] alone.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use weaved_api::PeerId;

use super::{Presence, Record, Version, limits::MAX_MEMBERS};

/// For how long a node that has left is remembered as gone.
const TOMBSTONE_KEPT: Duration = Duration::from_hours(1);

/// The records of all nodes.
pub struct Replica {
    me: PeerId,
    records: BTreeMap<PeerId, Record>,
    left_at: BTreeMap<PeerId, Instant>,
}

/// What became of a record that came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// Of a node that was not known.
    New,
    /// Newer than what was known.
    Newer,
    /// Nothing new.
    Stale,
    /// Our own, in a state that we did not write. Our record is above it afterwards.
    ForeignOwn,
    /// Not taken in: too many members, or not within the limits.
    Refused,
}

impl Replica {
    /// A replica that holds our own record only.
    pub fn new(me: PeerId, own: Record) -> Self {
        Self { me, records: BTreeMap::from([(me, own)]), left_at: BTreeMap::new() }
    }

    /// Our own record.
    pub fn own(&self) -> &Record {
        self.records.get(&self.me).expect("INVARIANT: our own record is always there")
    }

    /// Replaces our own record, but for the version, which is raised. Returns false, with nothing changed, when it says
    /// the same as before.
    pub fn write_own(&mut self, mut record: Record) -> bool {
        let own = self.own();
        record.version = own.version;
        if record == *own {
            return false;
        }
        record.version = own.version.next();
        self.records.insert(self.me, record);
        true
    }

    /// A record that came. `is_known` is true for an owner that we know from an earlier run; `expendable` says which
    /// members may be forgotten for a new one.
    pub fn apply(
        &mut self,
        owner: PeerId,
        record: Record,
        is_known: bool,
        expendable: impl Fn(PeerId) -> bool,
        now: Instant,
    ) -> Applied {
        if !record.is_valid() {
            return Applied::Refused;
        }
        if owner == self.me {
            return self.on_own(&record);
        }
        let applied = match self.records.get(&owner).map(|known| known.version) {
            Some(known) if known >= record.version => return Applied::Stale,
            Some(_) => Applied::Newer,
            None if record.presence == Presence::Left && !is_known => return Applied::Stale,
            None if self.records.len() >= MAX_MEMBERS && !self.make_room(expendable) => return Applied::Refused,
            None => Applied::New,
        };
        match record.presence {
            Presence::Left => self.left_at.insert(owner, now),
            Presence::Member => self.left_at.remove(&owner),
        };
        self.records.insert(owner, record);
        applied
    }

    /// The record of one node.
    pub fn record(&self, owner: PeerId) -> Option<&Record> {
        self.records.get(&owner)
    }

    /// All records in the order of their owners' ids, ours and tombstones included.
    pub fn records(&self) -> impl Iterator<Item = (PeerId, &Record)> {
        self.records.iter().map(|(&owner, record)| (owner, record))
    }

    /// The other members: not we, not those that have left.
    pub fn members(&self) -> impl Iterator<Item = (PeerId, &Record)> {
        self.records().filter(|(owner, record)| *owner != self.me && record.presence == Presence::Member)
    }

    /// Forgets those who left long ago.
    pub fn handle_timeout(&mut self, now: Instant) {
        let is_old = |left_at: &Instant| now.saturating_duration_since(*left_at) >= TOMBSTONE_KEPT;
        let old: Vec<_> = self.left_at.iter().filter(|(_, left_at)| is_old(left_at)).map(|(&owner, _)| owner).collect();
        for owner in old {
            self.forget(owner);
        }
    }

    fn on_own(&mut self, foreign: &Record) -> Applied {
        let me = self.me;
        let own = self.records.get_mut(&me).expect("INVARIANT: our own record is always there");
        let is_ours = foreign.version < own.version || foreign == own;
        if is_ours {
            return Applied::Stale;
        }
        own.version = foreign.version.next();
        Applied::ForeignOwn
    }

    fn make_room(&mut self, expendable: impl Fn(PeerId) -> bool) -> bool {
        let others = || self.records().filter(|(owner, _)| *owner != self.me);
        let oldest = others()
            .filter(|(owner, record)| record.presence == Presence::Left || expendable(*owner))
            .min_by_key(|(owner, record)| (record.presence == Presence::Member, record.version, *owner))
            .map(|(owner, _)| owner);
        oldest.map(|owner| self.forget(owner)).is_some()
    }

    fn forget(&mut self, owner: PeerId) {
        self.left_at.remove(&owner);
        self.records.remove(&owner);
    }
}

/// Of the version arithmetic: the highest version that may come still has a next one.
const _: () = assert!(Version::MAX.0 < u64::MAX);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::record::tests::record;

    const ME: PeerId = PeerId([0; 32]);
    const OTHER: PeerId = PeerId([1; 32]);

    fn replica() -> Replica {
        Replica::new(ME, record(100))
    }

    fn apply(replica: &mut Replica, owner: PeerId, record: Record) -> Applied {
        replica.apply(owner, record, false, |_| false, Instant::now())
    }

    #[test]
    fn the_higher_version_stays_whatever_the_order() {
        let mut replica = replica();
        assert_eq!(apply(&mut replica, OTHER, record(5)), Applied::New);
        assert_eq!(apply(&mut replica, OTHER, record(7)), Applied::Newer);
        assert_eq!(apply(&mut replica, OTHER, record(6)), Applied::Stale);
        assert_eq!(replica.record(OTHER).unwrap().version, Version(7));
    }

    #[test]
    fn nobody_else_writes_our_record_but_we_go_on_above_what_he_wrote() {
        let mut replica = replica();
        let forged = Record { name: "forged".into(), ..record(500) };
        assert_eq!(apply(&mut replica, ME, forged), Applied::ForeignOwn);
        assert_eq!(replica.own(), &record(501));
        assert_eq!(apply(&mut replica, ME, record(501)), Applied::Stale, "an echo of ours is no news");
    }

    #[test]
    fn writing_the_same_again_keeps_the_version() {
        let mut replica = replica();
        assert!(!replica.write_own(record(0)));
        assert!(replica.write_own(Record { name: "renamed".into(), ..record(0) }));
        assert_eq!(replica.own().version, Version(101));
    }

    #[test]
    fn a_tombstone_removes_the_member_and_goes_after_its_time() {
        let (mut replica, now) = (replica(), Instant::now());
        apply(&mut replica, OTHER, record(5));
        let tombstone = Record { version: Version(6), ..record(5).tombstone() };
        assert_eq!(replica.apply(OTHER, tombstone, false, |_| false, now), Applied::Newer);
        assert_eq!(replica.members().count(), 0);
        assert_eq!(apply(&mut replica, OTHER, record(5)), Applied::Stale, "an old record does not revive it");
        replica.handle_timeout(now + TOMBSTONE_KEPT);
        assert!(replica.record(OTHER).is_none());
    }

    #[test]
    fn a_tombstone_of_a_stranger_is_not_taken_in() {
        let mut replica = replica();
        assert_eq!(apply(&mut replica, OTHER, record(6).tombstone()), Applied::Stale);
        assert!(replica.record(OTHER).is_none());
    }

    #[test]
    fn a_full_replica_forgets_an_expendable_member_or_refuses() {
        let (mut replica, now) = (replica(), Instant::now());
        let id = |index: usize| {
            let mut id = [9; 32];
            id[..8].copy_from_slice(&index.to_be_bytes());
            PeerId(id)
        };
        for index in 1..MAX_MEMBERS {
            assert_eq!(apply(&mut replica, id(index), record(index as u64)), Applied::New);
        }
        assert_eq!(apply(&mut replica, id(5000), record(1)), Applied::Refused);
        assert_eq!(replica.apply(id(5000), record(1), false, |owner| owner == id(7), now), Applied::New);
        assert!(replica.record(id(7)).is_none());
        assert_eq!(replica.records().count(), MAX_MEMBERS);
    }

    #[test]
    fn a_record_beyond_the_limits_is_refused() {
        let mut replica = replica();
        let long = Record { name: "x".repeat(65), ..record(1) };
        assert_eq!(apply(&mut replica, OTHER, long), Applied::Refused);
    }
}

//! The log of one node's instances: what is there, what was removed, in the order in which it was written.
//!
//! A log with one writer. Each write takes the next version, so whoever has everything up to a version and is given
//! everything after it has everything (scuttlebutt). A rewritten instance has the version of its last write alone. A
//! removal is kept as a tombstone; when there are too many, the oldest go, and the *floor* says up to where.
//!
//! INVARIANT: who holds a log up to `latest` holds, for each instance, exactly what the owner had written last up to there,
//! but for tombstones up to the floor.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use weaved_api::PeerId;

use super::{
    Instance, InstanceId,
    limits::{MAX_LOG_ENTRIES, MAX_TOMBSTONES, WINDOW},
    wire::{DELTA_HEADER_BYTES, Entry, Fact, Head, LogDelta, Rest, encoded_len},
};
use crate::cluster::{Version, limits::GOSSIP_BYTES};

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Log {
    head: Head,
    entries: BTreeMap<InstanceId, Held>,
    order: BTreeMap<Version, InstanceId>,
    tombstones: BTreeSet<Version>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Held {
    version: Version,
    instance: Option<Arc<Instance>>,
}

/// What a delta did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The log has grown.
    Grown,
    /// Nothing new.
    Stale,
    /// It follows what is not here yet.
    Gap,
    /// The log would be too long.
    Full,
}

impl Log {
    /// An empty log whose owner has written nothing above `floor` yet.
    pub(super) fn begun_at(floor: Version) -> Self {
        Self { head: Head { latest: floor, floor }, ..Self::default() }
    }

    /// An empty log that will be a copy of one with this floor.
    pub(super) fn copy_of(floor: Version) -> Self {
        Self { head: Head { latest: Version(0), floor }, ..Self::default() }
    }

    pub(super) fn head(&self) -> Head {
        self.head
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The instances that are there, by id.
    pub(super) fn instances(&self) -> impl Iterator<Item = &Arc<Instance>> {
        self.entries.values().filter_map(|held| held.instance.as_ref())
    }

    /// What is written of an instance; None for one that is not there.
    pub(super) fn instance(&self, id: &InstanceId) -> Option<&Arc<Instance>> {
        self.entries.get(id)?.instance.as_ref()
    }

    /// The owner writes.
    pub(super) fn write(&mut self, fact: Fact) {
        self.head.latest = self.head.latest.next();
        self.put(self.head.latest, fact);
        while self.tombstones.len() > MAX_TOMBSTONES {
            let oldest = *self.tombstones.first().expect("there are too many");
            self.raise_floor(oldest);
        }
    }

    /// The owner begins again above a version: everything that is there is written once more.
    pub(super) fn begin_again(&mut self, above: Version) {
        let old = std::mem::replace(self, Self::begun_at(above.next()));
        for instance in old.instances() {
            self.write(Fact::Here(Instance::clone(instance)));
        }
    }

    /// Takes in what follows.
    pub(super) fn apply(&mut self, delta: LogDelta) -> Step {
        if delta.after > self.head.latest {
            return Step::Gap;
        }
        self.raise_floor(delta.head.floor.min(self.head.latest));
        if delta.through <= self.head.latest {
            return Step::Stale;
        }
        if self.entries.len() + delta.entries.len() > MAX_LOG_ENTRIES {
            return Step::Full;
        }
        let known = self.head.latest;
        self.head.latest = delta.through;
        for entry in delta.entries.into_iter().filter(|entry| entry.version > known) {
            self.put(entry.version, entry.fact);
        }
        // A copy in the making has the floor of what it will be.
        self.raise_floor(delta.head.floor);
        Step::Grown
    }

    /// What somebody who has `theirs` lacks, cut to datagrams; no more than a window of them.
    pub(super) fn deltas(&self, owner: PeerId, theirs: Head) -> Vec<LogDelta> {
        let mut after = if theirs.is_behind(self.head.floor) { Version(0) } else { theirs.latest };
        if after >= self.head.latest {
            return Vec::new();
        }
        let delta = |after, entries: Vec<Entry>, through| LogDelta {
            owner,
            after,
            through,
            head: self.head,
            rest: Rest::Sent,
            entries,
        };
        let (mut deltas, mut entries, mut len) = (Vec::new(), Vec::new(), DELTA_HEADER_BYTES);
        for (&version, id) in self.order.range(after.next()..) {
            let entry = Entry { version, fact: self.fact(id) };
            let entry_len = encoded_len(&entry);
            if len + entry_len > GOSSIP_BYTES && !entries.is_empty() {
                let through = entries.last().map_or(after, |last: &Entry| last.version);
                deltas.push(delta(after, std::mem::take(&mut entries), through));
                (after, len) = (through, DELTA_HEADER_BYTES);
                if deltas.len() == WINDOW {
                    deltas.last_mut().expect("the window is full").rest = Rest::OnRequest;
                    return deltas;
                }
            }
            len += entry_len;
            entries.push(entry);
        }
        deltas.push(delta(after, entries, self.head.latest));
        deltas
    }

    fn fact(&self, id: &InstanceId) -> Fact {
        match self.instance(id) {
            Some(instance) => Fact::Here(Instance::clone(instance)),
            None => Fact::Gone(id.clone()),
        }
    }

    fn put(&mut self, version: Version, fact: Fact) {
        let id = fact.id().clone();
        let instance = match fact {
            Fact::Here(instance) => Some(Arc::new(instance)),
            Fact::Gone(_) => {
                self.tombstones.insert(version);
                None
            }
        };
        self.order.insert(version, id.clone());
        if let Some(before) = self.entries.insert(id, Held { version, instance }) {
            self.order.remove(&before.version);
            self.tombstones.remove(&before.version);
        }
        debug_assert_eq!(self.order.len(), self.entries.len(), "INVARIANT: each entry has one place in the order");
    }

    fn raise_floor(&mut self, floor: Version) {
        self.head.floor = self.head.floor.max(floor);
        while let Some(version) = self.tombstones.first().copied().filter(|version| *version <= floor) {
            self.tombstones.remove(&version);
            if let Some(id) = self.order.remove(&version) {
                self.entries.remove(&id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue::instance::tests::instance;

    const OWNER: PeerId = PeerId([1; 32]);

    fn here(id: &str) -> Fact {
        Fact::Here(instance(id, "web"))
    }

    fn gone(id: &str) -> Fact {
        Fact::Gone(InstanceId(id.into()))
    }

    fn copy(from: &Log, to: &mut Log) -> Vec<Step> {
        from.deltas(OWNER, to.head()).into_iter().map(|delta| to.apply(delta)).collect()
    }

    fn ids(log: &Log) -> Vec<&str> {
        log.instances().map(|instance| instance.id.0.as_str()).collect()
    }

    #[test]
    fn only_what_follows_is_sent() {
        let mut log = Log::begun_at(Version(100));
        ["a", "b", "c"].map(here).into_iter().for_each(|fact| log.write(fact));
        let mut other = Log::copy_of(Version(100));
        assert_eq!(copy(&log, &mut other), [Step::Grown]);
        log.write(gone("b"));
        let deltas = log.deltas(OWNER, other.head());
        assert_eq!(deltas[0].entries, [Entry { version: Version(104), fact: gone("b") }]);
        assert_eq!(copy(&log, &mut other), [Step::Grown]);
        assert_eq!(other, log);
        assert!(log.deltas(OWNER, other.head()).is_empty());
    }

    #[test]
    fn what_follows_something_unknown_is_a_gap_and_an_echo_is_stale() {
        let mut log = Log::begun_at(Version(100));
        let mut other = log.clone();
        log.write(here("a"));
        let first = log.deltas(OWNER, other.head()).remove(0);
        let before = log.head();
        log.write(here("b"));
        let second = log.deltas(OWNER, before).remove(0);
        assert_eq!(other.apply(second.clone()), Step::Gap);
        assert_eq!(other.len(), 0);
        assert_eq!(
            [first.clone(), second, first].map(|delta| other.apply(delta)),
            [Step::Grown, Step::Grown, Step::Stale]
        );
        assert_eq!(other, log);
    }

    #[test]
    fn old_removals_are_forgotten_and_who_missed_them_gets_everything() {
        let mut log = Log::begun_at(Version(100));
        log.write(here("stays"));
        log.write(here("x0"));
        let mut late = log.clone();
        for number in 0..MAX_TOMBSTONES + 10 {
            log.write(here(&format!("x{number}")));
            log.write(gone(&format!("x{number}")));
        }
        assert!(log.len() <= MAX_TOMBSTONES + 1, "{} entries", log.len());
        assert!(late.head().is_behind(log.head().floor));
        assert_eq!(log.deltas(OWNER, late.head())[0].after, Version(0));
        late = Log::copy_of(log.head().floor);
        while late.head().latest < log.head().latest {
            copy(&log, &mut late);
        }
        assert_eq!(ids(&late), ["stays"]);
        assert_eq!(late, log);
    }

    #[test]
    fn a_long_log_is_cut_to_datagrams_and_windows() {
        let mut log = Log::begun_at(Version(100));
        (0..4000).for_each(|number| log.write(here(&format!("host:web-{number}:80"))));
        let mut other = Log::copy_of(Version(100));
        let mut windows = 0;
        while other.head().latest < log.head().latest {
            let deltas = log.deltas(OWNER, other.head());
            assert!(deltas.len() <= WINDOW && deltas.iter().all(|delta| encoded_len(delta) <= GOSSIP_BYTES));
            let is_last = deltas.last().unwrap().through == log.head().latest;
            assert_eq!(deltas.last().unwrap().rest == Rest::OnRequest, !is_last);
            deltas.into_iter().for_each(|delta| assert_eq!(other.apply(delta), Step::Grown));
            windows += 1;
        }
        assert!(windows > 2);
        assert_eq!(other, log);
    }

    #[test]
    fn a_log_that_is_begun_again_says_the_same_in_higher_versions() {
        let mut log = Log::begun_at(Version(100));
        ["a", "b"].map(here).into_iter().for_each(|fact| log.write(fact));
        let before = log.clone();
        log.begin_again(Version(500));
        assert_eq!(ids(&log), ["a", "b"]);
        assert!(before.head().is_behind(log.head().floor));
        assert!(log.deltas(OWNER, before.head())[0].entries.iter().all(|entry| entry.version > Version(501)));
    }
}

//! The logs of all nodes, our own among them, and how copies of them follow their owners.
//!
//! Nobody but the owner writes a log. A copy grows by deltas that follow what it has; one that comes too early is parked.
//! A copy whose owner has begun a new life, or has forgotten removals that the copy missed, is *replaced*: the new one is
//! made beside it and takes its place when it is complete, so that nothing flaps in between.
//!
//! A node that has just started does not announce anything of its own before [`Catalogue::write_own`] is called: until then
//! the others keep what they had. Its new log begins above every version that it may have used before.
//!
//! INVARIANT: our own log is changed by [`Catalogue::write_own`] alone, but for its versions: when somebody has versions of
//! it that we did not write, it begins again above them.
//! INVARIANT: at most `MAX_ENTRIES` entries in all logs, `MAX_PARKED` parked deltas.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use weaved_api::PeerId;

use super::{
    Instance, InstanceId,
    limits::{MAX_ENTRIES, MAX_INSTANCES, MAX_PARKED},
    log::{Log, Step},
    wire::{Fact, Head, LogDelta, Rest},
};
use crate::cluster::{IdRange, Version, limits::MAX_MEMBERS};

/// After a question about a log nobody else is asked about it for so long.
const ASK_PATIENCE: Duration = Duration::from_millis(200);

/// See the module.
pub struct Catalogue {
    me: PeerId,
    own: Own,
    copies: BTreeMap<PeerId, Copy>,
    parked: BTreeMap<(PeerId, Version), LogDelta>,
    asked: BTreeMap<PeerId, Instant>,
    entry_count: usize,
    changed: BTreeSet<PeerId>,
    rumours: BTreeMap<PeerId, Head>,
    orphans: BTreeSet<PeerId>,
}

struct Own {
    log: Log,
    /// The log of this life has nothing below it.
    born: Version,
    announced: Announced,
}

/// How much of our own log the others were told.
#[derive(Clone, Copy)]
enum Announced {
    /// Nothing: we do not know yet what runs here.
    Nothing,
    UpTo(Head),
}

#[derive(Default)]
struct Copy {
    log: Log,
    /// What will replace it.
    successor: Option<Log>,
}

/// What became of a delta.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Taken {
    /// It is in; the sender may be asked for what follows.
    In(Option<(PeerId, Head)>),
    /// It said nothing new.
    Stale,
    /// It follows what is missing; whoever sent it may be asked for that.
    Gap(Option<(PeerId, Head)>),
    /// It is about us, and we did not write it.
    ForeignOwn,
    /// Beyond the limits.
    Refused,
}

/// What the comparison with somebody's heads tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    /// What to ask for.
    pub asks: Vec<(PeerId, Head)>,
    /// What the other lacks.
    pub answers: Vec<(PeerId, Head)>,
    /// Somebody has of our own log what we did not write.
    pub foreign_own: bool,
}

impl Catalogue {
    /// A catalogue of nothing. `floor` is above all versions that we used before.
    pub fn new(me: PeerId, floor: Version) -> Self {
        Self {
            me,
            own: Own { log: Log::begun_at(floor), born: floor, announced: Announced::Nothing },
            copies: BTreeMap::new(),
            parked: BTreeMap::new(),
            asked: BTreeMap::new(),
            entry_count: 0,
            changed: BTreeSet::new(),
            rumours: BTreeMap::new(),
            orphans: BTreeSet::new(),
        }
    }

    /// All that runs here. Only the difference is written; returns how many instances are left out, because there are too
    /// many, or they are too long, or have the id of another one.
    pub fn write_own(&mut self, instances: Vec<Instance>) -> usize {
        let given = instances.len();
        let mut wanted: BTreeMap<InstanceId, Instance> = BTreeMap::new();
        for mut instance in instances {
            if instance.fit() && wanted.len() < MAX_INSTANCES {
                wanted.entry(instance.id.clone()).or_insert(instance);
            }
        }
        let left_out = given - wanted.len();
        let log = &mut self.own.log;
        let before = log.head();
        let gone: Vec<_> =
            log.instances().map(|instance| &instance.id).filter(|id| !wanted.contains_key(id)).cloned().collect();
        gone.into_iter().for_each(|id| log.write(Fact::Gone(id)));
        for (id, instance) in wanted {
            if log.instance(&id).is_none_or(|known| **known != instance) {
                log.write(Fact::Here(instance));
            }
        }
        if log.head() != before {
            self.changed.insert(self.me);
        }
        if matches!(self.own.announced, Announced::Nothing) {
            // Others may have a log of an earlier life: the whole of the new one replaces it, however short it is.
            self.own.announced = Announced::UpTo(Head::default());
        }
        left_out
    }

    /// True when it is known what runs here.
    pub fn knows_own(&self) -> bool {
        matches!(self.own.announced, Announced::UpTo(_))
    }

    /// Everything of ours in this life is above this version.
    pub fn born(&self) -> Version {
        self.own.born
    }

    /// The highest version that we have used.
    pub fn own_version(&self) -> Version {
        self.own.log.head().latest
    }

    /// How much we have of somebody's log.
    pub fn head(&self, owner: PeerId) -> Head {
        if owner == self.me {
            return self.own.log.head();
        }
        self.copies.get(&owner).map(Copy::head).unwrap_or_default()
    }

    /// The instances of a node, by id.
    pub fn instances(&self, owner: PeerId) -> impl Iterator<Item = &Arc<Instance>> {
        let own = (owner == self.me).then_some(&self.own.log);
        own.or_else(|| self.copies.get(&owner).map(|copy| &copy.log)).into_iter().flat_map(Log::instances)
    }

    /// Whether we have all of somebody's log that is not below a version.
    pub fn is_complete(&self, owner: PeerId, born: Version) -> bool {
        self.copies.get(&owner).is_some_and(|copy| copy.successor.is_none() && copy.log.head().latest >= born)
    }

    /// True when nothing of theirs has changed since the last [`Self::take_changed`].
    pub fn is_taken(&self, owner: PeerId) -> bool {
        !self.changed.contains(&owner)
    }

    /// Whose instances have changed since the last time.
    pub fn take_changed(&mut self) -> BTreeSet<PeerId> {
        std::mem::take(&mut self.changed)
    }

    /// How much we can give of everything in a range.
    pub fn heads(&self, range: IdRange) -> Vec<(PeerId, Head)> {
        let own = self.knows_own().then(|| (self.me, self.own.log.head()));
        let copies = self.copies.iter().filter(|(owner, _)| !self.orphans.contains(owner));
        let mut heads: Vec<_> = copies
            .map(|(&owner, copy)| (owner, copy.log.head()))
            .chain(own)
            .filter(|(owner, _)| range.contains(*owner))
            .collect();
        heads.sort_unstable_by_key(|(owner, _)| *owner);
        heads
    }

    /// Somebody has this much.
    pub fn compare(&mut self, range: Option<IdRange>, theirs: &[(PeerId, Head)], now: Instant) -> Comparison {
        let mut comparison = Comparison::default();
        for &(owner, head) in theirs {
            if owner == self.me {
                comparison.foreign_own |= self.on_own(head.latest);
            } else if self.lacks(owner, head) && self.may_ask(owner, now) {
                comparison.asks.push((owner, self.head(owner)));
            }
        }
        if let Some(range) = range {
            let theirs: BTreeMap<_, _> = theirs.iter().copied().collect();
            comparison.answers = self.heads(range);
            comparison.answers.retain(|(owner, ours)| theirs.get(owner).is_none_or(|head| head.latest < ours.latest));
        }
        comparison
    }

    /// What somebody who has these lacks.
    pub fn deltas<'a>(&'a self, asked: &'a [(PeerId, Head)]) -> impl Iterator<Item = LogDelta> + 'a {
        asked.iter().flat_map(|&(owner, theirs)| match self.copies.get(&owner) {
            Some(copy) => copy.log.deltas(owner, theirs),
            None if owner == self.me && self.knows_own() => self.own.log.deltas(owner, theirs),
            None => Vec::new(),
        })
    }

    /// A part of a log has come.
    pub fn take(&mut self, delta: LogDelta, now: Instant) -> Taken {
        if !delta.is_valid() {
            return Taken::Refused;
        }
        if delta.owner == self.me {
            return if self.on_own(delta.head.latest) { Taken::ForeignOwn } else { Taken::Stale };
        }
        let is_full = self.copies.len() >= MAX_MEMBERS && !self.copies.contains_key(&delta.owner);
        if is_full || self.entry_count + delta.entries.len() > MAX_ENTRIES {
            return Taken::Refused;
        }
        let owner = delta.owner;
        let before = self.copies.get(&owner).map(|copy| copy.log.head()).unwrap_or_default();
        let mut taken = match self.take_one(&delta) {
            Taken::Gap(_) => self.park(delta, now),
            taken => taken,
        };
        while matches!(taken, Taken::In(_))
            && let Some(next) = self.unpark(owner)
        {
            if let next @ Taken::In(_) = self.take_one(&next) {
                taken = next;
            }
        }
        let after = self.copies.get(&owner).map(|copy| copy.log.head()).unwrap_or_default();
        if after != before {
            self.changed.insert(owner);
            self.rumours.entry(owner).or_insert(before);
        }
        taken
    }

    /// What of our own log was not announced yet, and what of the others' is news: to be told once.
    pub fn take_news(&mut self) -> News {
        let head = self.own.log.head();
        let own = match self.own.announced {
            Announced::UpTo(announced) if announced != head => {
                self.own.announced = Announced::UpTo(head);
                Some(announced)
            }
            _ => None,
        };
        let orphans = &self.orphans;
        let rumours = std::mem::take(&mut self.rumours).into_iter().filter(|(owner, _)| !orphans.contains(owner));
        News { own: own.map(|before| (self.me, before)), rumours: rumours.collect() }
    }

    /// True when [`Self::take_news`] has something.
    pub fn has_news(&self) -> bool {
        let head = self.own.log.head();
        !self.rumours.is_empty() || matches!(self.own.announced, Announced::UpTo(announced) if announced != head)
    }

    /// Forgets the logs of those who are no members, and whose record has not come since the last time this was called.
    pub fn prune(&mut self, is_member: impl Fn(PeerId) -> bool) {
        let owners: BTreeSet<_> = self.copies.keys().copied().filter(|&owner| !is_member(owner)).collect();
        let old: Vec<_> = owners.intersection(&self.orphans).copied().collect();
        for owner in &old {
            self.forget(*owner);
        }
        self.orphans = owners;
        self.asked.retain(|owner, _| is_member(*owner));
    }

    /// A node has left for good.
    pub fn forget(&mut self, owner: PeerId) {
        if self.copies.remove(&owner).is_some() {
            self.changed.insert(owner);
        }
        self.parked.retain(|(parked, _), _| *parked != owner);
        self.rumours.remove(&owner);
        self.orphans.remove(&owner);
        self.count();
    }

    fn take_one(&mut self, delta: &LogDelta) -> Taken {
        let owner = delta.owner;
        let copy = self.copies.entry(owner).or_default();
        let step = copy.apply(delta);
        let head = copy.head();
        self.count();
        match step {
            Step::Grown => {
                self.asked.remove(&owner);
                let goes_on = delta.rest == Rest::OnRequest && head.latest == delta.through;
                Taken::In(goes_on.then_some((owner, head)))
            }
            Step::Stale => Taken::Stale,
            Step::Full => Taken::Refused,
            Step::Gap => Taken::Gap(None),
        }
    }

    /// Keeps a delta until what it follows is here, and says what to ask for.
    fn park(&mut self, delta: LogDelta, now: Instant) -> Taken {
        let owner = delta.owner;
        if self.parked.len() < MAX_PARKED {
            self.parked.insert((owner, delta.after), delta);
        }
        Taken::Gap(self.may_ask(owner, now).then(|| (owner, self.head(owner))))
    }

    /// A parked delta that follows what is there.
    fn unpark(&mut self, owner: PeerId) -> Option<LogDelta> {
        let head = self.head(owner);
        let (&key, _) = self.parked.range((owner, Version(0))..=(owner, head.latest)).next()?;
        self.parked.remove(&key)
    }

    fn lacks(&self, owner: PeerId, theirs: Head) -> bool {
        theirs.latest <= Version::MAX && theirs.latest > self.head(owner).latest
    }

    fn may_ask(&mut self, owner: PeerId, now: Instant) -> bool {
        let is_recent = |at: &Instant| now.saturating_duration_since(*at) < ASK_PATIENCE;
        if self.asked.get(&owner).is_some_and(is_recent) || self.asked.len() >= 2 * MAX_MEMBERS {
            return false;
        }
        self.asked.insert(owner, now);
        true
    }

    /// Somebody has our own log up to a version. Returns true, with our log above it, when we did not write that.
    fn on_own(&mut self, latest: Version) -> bool {
        let is_ours = latest <= self.own.log.head().latest || latest > Version::MAX;
        if !is_ours {
            self.own.log.begin_again(latest);
            self.own.born = self.own.log.head().floor;
        }
        !is_ours
    }

    fn count(&mut self) {
        self.entry_count = self.copies.values().map(Copy::len).sum();
    }
}

/// What to tell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct News {
    /// Our own log, and what of it was told before.
    pub own: Option<(PeerId, Head)>,
    /// Logs of others, and what we had of them before.
    pub rumours: Vec<(PeerId, Head)>,
}

impl Copy {
    /// How much there is of the newest log that we know of.
    fn head(&self) -> Head {
        self.successor.as_ref().unwrap_or(&self.log).head()
    }

    fn len(&self) -> usize {
        self.log.len() + self.successor.as_ref().map_or(0, Log::len)
    }

    fn apply(&mut self, delta: &LogDelta) -> Step {
        let floor = delta.head.floor;
        let Some(successor) = &mut self.successor else {
            return if self.log.head().is_behind(floor) {
                self.begin_successor(delta)
            } else {
                self.log.apply(delta.clone())
            };
        };
        if successor.head().is_behind(floor) {
            return self.begin_successor(delta);
        }
        if floor < successor.head().floor {
            // Of an older life, or from somebody who does not know of the newer floor.
            return Step::Stale;
        }
        let step = successor.apply(delta.clone());
        self.succeed(delta.head.latest);
        step
    }

    fn begin_successor(&mut self, delta: &LogDelta) -> Step {
        if delta.after > Version(0) {
            return Step::Gap;
        }
        let mut successor = Log::copy_of(delta.head.floor);
        let step = successor.apply(delta.clone());
        self.successor = Some(successor);
        self.succeed(delta.head.latest);
        step
    }

    /// A successor that has all that its source has takes the place.
    fn succeed(&mut self, latest: Version) {
        if let Some(successor) = self.successor.take_if(|successor| successor.head().latest >= latest) {
            self.log = successor;
        }
    }
}

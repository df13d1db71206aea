//! Who votes, and which electorate goes before which.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use weaved_api::PeerId;

use super::Tag;
use crate::{
    cluster::limits::MAX_MEMBERS,
    kv::{
        entry::Lineage,
        limits::{MAX_GUARDED, MAX_GUARDED_BYTES},
    },
};

/// The voters of one epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Electorate {
    /// Whose founding. Of two that meet the older one stays.
    pub lineage: Lineage,
    /// Grows by one with each decree.
    pub epoch: u64,
    /// Who votes.
    pub voters: BTreeSet<PeerId>,
    /// Who voted in the epoch before: whoever votes now has asked a majority of these.
    pub before: BTreeSet<PeerId>,
    /// Keys that begin so are decided by these voters. The founder says it, once.
    pub guarded: BTreeSet<String>,
    /// Voters that were given up when this or an earlier one was founded anew. They vote again when they answer.
    pub given_up: BTreeSet<PeerId>,
    /// It was founded anew: whoever votes in it has asked all who voted before and were left.
    pub is_anew: bool,
}

/// Epochs of one founding are below this: the bits above count how often it was founded anew.
const EPOCH_BITS: u32 = 32;

impl Electorate {
    /// The first one: its founder alone.
    pub fn found(lineage: Lineage, guarded: BTreeSet<String>) -> Self {
        Self {
            lineage,
            epoch: 1,
            voters: BTreeSet::from([lineage.founder]),
            before: BTreeSet::new(),
            guarded,
            given_up: BTreeSet::new(),
            is_anew: false,
        }
    }

    /// The one that a decree makes of this one.
    #[must_use]
    pub fn next(&self, voters: BTreeSet<PeerId>) -> Self {
        let given_up = self.given_up.difference(&voters).copied().collect();
        Self { epoch: self.epoch + 1, voters, before: self.voters.clone(), given_up, is_anew: false, ..self.clone() }
    }

    /// The one that an operator makes of this one, of the voters that are left. The noise keeps two operators apart.
    #[must_use]
    pub fn found_anew(&self, left: BTreeSet<PeerId>, noise: u32) -> Self {
        let given_up = self.voters.union(&self.given_up).filter(|id| !left.contains(id)).copied().collect();
        let epoch = (self.founded_anew_count() + 1) << EPOCH_BITS | u64::from(noise >> 1).max(2);
        Self { epoch, voters: left.clone(), before: left, given_up, is_anew: true, ..self.clone() }
    }

    /// How often it was founded anew.
    pub fn founded_anew_count(&self) -> u64 {
        self.epoch >> EPOCH_BITS
    }

    /// How many of those who voted before a voter must have asked.
    pub(super) fn needed_before(&self) -> usize {
        if self.is_anew { self.before.len() } else { majority(&self.before) }
    }

    /// True for a key that these voters decide by its name.
    pub fn guards(&self, key: &str) -> bool {
        self.guarded.iter().any(|prefix| key.starts_with(prefix.as_str()))
    }

    /// Which one.
    pub(super) fn tag(&self) -> Tag {
        Tag { lineage: self.lineage, epoch: self.epoch }
    }

    /// True if this one replaces the other.
    pub fn replaces(&self, other: &Self) -> bool {
        self.lineage < other.lineage || (self.lineage == other.lineage && self.epoch > other.epoch)
    }

    /// True for what may come from others.
    pub fn is_valid(&self) -> bool {
        (1..=MAX_MEMBERS).contains(&self.voters.len())
            && self.before.len() <= MAX_MEMBERS
            && self.given_up.len() <= MAX_MEMBERS
            && (1..1 << 48).contains(&self.epoch)
            && self.guarded.len() <= MAX_GUARDED
            && self.guarded.iter().all(|prefix| (1..=MAX_GUARDED_BYTES).contains(&prefix.len()))
    }
}

/// The smallest number that is more than half.
pub(super) fn majority(of: &BTreeSet<PeerId>) -> usize {
    of.len() / 2 + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn epochs_that_nobody_can_have_reached_are_no_electorate() {
        let founder = PeerId([1; 32]);
        let first = Electorate::found(Lineage { made_at_us: 1, founder }, BTreeSet::new());
        assert!(first.is_valid() && first.found_anew(BTreeSet::from([founder]), 7).is_valid());
        for epoch in [0, 1 << 48, u64::MAX] {
            assert!(!Electorate { epoch, ..first.clone() }.is_valid(), "{epoch}");
        }
    }
}

//! Guarded keys: each is a register that a majority of the voters decides, one change after the other.
//!
//! A change is a round of two steps (after Rystsov, "`CASPaxos`: Replicated State Machines without logs", 2018). Its
//! proposer, any node, asks all voters to *promise* a ballot; the promise of a majority is a lease on the key that ends
//! with the next higher ballot and with nothing else: no clock is in it, so no jump of a clock can make two holders. The
//! proposer applies the change to the newest value that the promises report, and asks the voters to *accept* the result.
//!
//! Voters are the known members, dead or alive. They change by a decree of their own ([`Target::Next`]): promising one
//! *seals* a voter, which then takes no more rounds of this epoch; a voter of the next epoch votes when it has the cells of
//! a majority of the sealed ones.
//!
//! # Why no index is used twice
//!
//! Within an epoch: a value is *chosen* when a majority has accepted it at one ballot. A proposer at a higher ballot has the
//! promises of a majority, which shares a voter with that one; the voter reports the value, or one of a ballot in between,
//! which by induction was made from it. So chosen values form one chain, each decided from the one before; a
//! compare-and-set that succeeds at an index is the successor of the entry with that index, and it has only one.
//! Across epochs: whoever decided the next electorate had promises of a majority that took no rounds afterwards. A new
//! voter asks a majority of the old electorate, each sealed; it shares a voter with every majority that has accepted
//! something, and one with the majority that decided, which had all of earlier epochs. Ballots begin with the epoch.
//!
//! Where an operator founds an electorate anew this holds as far as those who are left know what was decided
//! ([`Consensus::found_anew`]): the rest is lost, and who says so is he.
//!
//! A proposer that has asked for acceptance and sees no majority does not know the outcome, and says so. Before it gives
//! any other answer in a later attempt it has a value accepted at a higher ballot, which nothing older can survive.
//!
//! INVARIANT: a voter's promise and acceptance are stored before anybody hears of them; it never goes back on them.

mod electorate;
mod proposer;
mod voter;

use std::{collections::BTreeSet, time::Instant};

use serde::{Deserialize, Serialize};
use weaved_api::PeerId;

pub use self::{
    electorate::Electorate,
    proposer::{Consensus, FoundAnewError},
};
use super::{
    change::Change,
    entry::{Entry, Lineage},
    key::Key,
    request::KvError,
    rows::Rows,
    store::Store,
};

/// A guarded change that somebody waits for, by the caller's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct OpId(pub u64);

/// What a guarded change came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decided {
    /// Of which key.
    pub key: Key,
    /// Whether the rule allowed it.
    pub is_allowed: bool,
    /// What the key holds by decision of a majority.
    pub entry: Option<Entry>,
}

/// What decides guarded keys. [`Consensus`] is one; a Raft group or an external store may be others. All must pass the
/// contract in `kv/scenarios.rs`.
pub trait GuardedStore {
    /// Begins to decide a change. Ends with exactly one outcome of the same number.
    fn begin(&mut self, op: OpId, key: Key, change: Change, world: &mut World<'_>);
    /// What a change came to. An error other than [`KvError::OutcomeUnknown`] has changed nothing and never will.
    fn poll_outcome(&mut self) -> Option<(OpId, Result<Decided, KvError>)>;
    /// Time has passed.
    fn handle_timeout(&mut self, world: &mut World<'_>);
    /// When [`Self::handle_timeout`] wants to be called.
    fn poll_timeout(&self) -> Option<Instant>;
}

/// What is around the state machine for one call.
#[derive(Debug)]
pub struct World<'a> {
    pub(super) store: &'a mut Store,
    pub(super) rows: &'a mut Rows,
    pub(super) now: Instant,
    pub(super) wall_us: u64,
}

/// Orders rounds. The nonce tells two lives of one proposer apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(in crate::kv) struct Ballot {
    pub(super) epoch: u64,
    pub(super) round: u64,
    pub(super) proposer: PeerId,
    pub(super) nonce: u64,
}

/// The highest round that is believed: a higher one is garbage, which must not bring a key to the end of its rounds.
const MAX_ROUND: u64 = 1 << 62;

impl Ballot {
    fn is_valid(&self) -> bool {
        self.round <= MAX_ROUND
    }
}

/// What a round decides about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(in crate::kv) enum Target {
    /// The next electorate.
    Next,
    /// A key.
    Key(Key),
}

/// What a round decides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::kv) enum Decree {
    /// What the key holds.
    Entry(Option<Entry>),
    /// Who votes next.
    Voters(BTreeSet<PeerId>),
}

impl Decree {
    fn is_valid(&self) -> bool {
        !matches!(self, Self::Entry(Some(entry)) if !entry.is_valid())
    }
}

/// Which electorate a message is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(in crate::kv) struct Tag {
    pub(super) lineage: Lineage,
    pub(super) epoch: u64,
}

/// Between proposers and voters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::kv) enum GuardMessage {
    /// Promise this ballot.
    Prepare(Tag, Target, Ballot),
    /// Accept this decree.
    Accept(Tag, Target, Ballot, Decree),
    /// Promised; what was accepted before.
    Promised(Target, Ballot, Option<(Ballot, Decree)>),
    /// Accepted.
    Accepted(Target, Ballot),
    /// Not done, because of a higher ballot or of the seal.
    Rejected(Target, Ballot, Ballot),
    /// Who votes.
    Electorate(Electorate),
    /// Send me your cells behind this key.
    Fetch(Tag, Option<Key>),
    /// A page of cells, and whether there are more.
    Cells(Tag, Vec<(Key, Ballot, Decree)>, bool),
}

impl GuardMessage {
    /// True for what may come from others.
    pub(in crate::kv) fn is_valid(&self) -> bool {
        match self {
            Self::Prepare(_, _, ballot) | Self::Accepted(_, ballot) => ballot.is_valid(),
            Self::Accept(_, _, ballot, decree) => ballot.is_valid() && decree.is_valid(),
            Self::Promised(_, ballot, known) => {
                let knows_valid = |(at, decree): &(Ballot, Decree)| at.is_valid() && decree.is_valid();
                ballot.is_valid() && known.as_ref().is_none_or(knows_valid)
            }
            Self::Rejected(_, ballot, promised) => ballot.is_valid() && promised.is_valid(),
            Self::Electorate(electorate) => electorate.is_valid(),
            Self::Fetch(..) => true,
            Self::Cells(_, cells, _) => cells.iter().all(|(_, ballot, decree)| ballot.is_valid() && decree.is_valid()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{hlc::Hlc, kv::Value};

    #[test]
    fn rounds_and_stamps_at_the_end_of_their_numbers_are_garbage() {
        let me = PeerId([1; 32]);
        let at = |round| Ballot { epoch: 1, round, proposer: me, nonce: 0 };
        let entry = |stamp| Entry {
            guard: None,
            modified: Hlc(stamp),
            writer: me,
            created: Hlc(1),
            flags: 0,
            lock_index: 0,
            session: None,
            held_back_until: Hlc(0),
            value: Some(Value::new(b"x")),
        };
        let tag = Tag { lineage: Lineage { made_at_us: 1, founder: me }, epoch: 1 };
        let messages = |round, stamp| {
            let (target, decree) = (Target::Next, Decree::Entry(Some(entry(stamp))));
            [
                GuardMessage::Prepare(tag, target.clone(), at(round)),
                GuardMessage::Accept(tag, target.clone(), at(round), decree.clone()),
                GuardMessage::Promised(target.clone(), at(1), Some((at(round), decree.clone()))),
                GuardMessage::Accepted(target.clone(), at(round)),
                GuardMessage::Rejected(target, at(1), at(round)),
                GuardMessage::Cells(tag, vec![(Key::new("k").unwrap(), at(round), decree)], false),
            ]
        };
        assert!(messages(7, 7).iter().all(GuardMessage::is_valid));
        assert!(!messages(u64::MAX, 7).iter().any(GuardMessage::is_valid));
        let [_, accept, promised, _, _, cells] = messages(7, u64::MAX);
        assert!(![accept, promised, cells].iter().any(GuardMessage::is_valid));
    }
}

//! A voter: what it has promised and accepted, for each key and for the next electorate.
//!
//! INVARIANT: a cell's promise never goes back, and what it has accepted has at most that ballot.

use std::{collections::BTreeMap, ops::Bound};

use serde::{Deserialize, Serialize};

use super::{Ballot, Decree, Electorate, GuardMessage, Target, World};
use crate::kv::{
    entry::Entry,
    key::Key,
    rows::{Damaged, Rows, StoredRows, Table, read},
    session::{ended_session, has_long_ended},
    store::Store,
};

/// The row of [`Target::Next`]. No key of people begins so.
const NEXT: &[u8] = b"\0next";
/// A page of cells is cut here.
const PAGE_BYTES: usize = 512 << 10;

/// What a voter remembers of one target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Cell {
    promised: Ballot,
    accepted: Option<(Ballot, Decree)>,
}

/// All cells of this node.
#[derive(Debug, Default)]
pub(super) struct Voter {
    cells: BTreeMap<Target, Cell>,
}

impl Voter {
    pub(super) fn restore(stored: &StoredRows) -> Result<Self, Damaged> {
        let mut cells = BTreeMap::new();
        for (_, name, value) in stored.iter().filter(|(table, ..)| *table == Table::Ballots) {
            let target = if name == NEXT {
                Target::Next
            } else {
                let key = String::from_utf8(name.clone()).map_err(|_| Damaged)?;
                Target::Key(Key::try_from(key).map_err(|_| Damaged)?)
            };
            cells.insert(target, read(value)?);
        }
        Ok(Self { cells })
    }

    /// True if it takes no more rounds about keys in this epoch.
    pub(super) fn is_sealed(&self) -> bool {
        self.cells.contains_key(&Target::Next)
    }

    /// The ballot below which this voter refuses all about the target.
    pub(super) fn promised(&self, target: &Target) -> Option<Ballot> {
        self.cells.get(target).map(|cell| cell.promised)
    }

    pub(super) fn prepare(&mut self, target: &Target, ballot: Ballot, world: &mut World<'_>) -> GuardMessage {
        if let Some(refusal) = self.refusal(target, ballot) {
            return refusal;
        }
        let accepted = self.cells.get(target).and_then(|cell| cell.accepted.clone());
        self.put(target, Cell { promised: ballot, accepted: accepted.clone() }, world.rows);
        let known = accepted.map(|(at, decree)| (at, or_its_end(target, decree, world.store)));
        GuardMessage::Promised(target.clone(), ballot, known)
    }

    pub(super) fn accept(&mut self, target: &Target, ballot: Ballot, decree: Decree, rows: &mut Rows) -> GuardMessage {
        if let Some(refusal) = self.refusal(target, ballot) {
            return refusal;
        }
        self.put(target, Cell { promised: ballot, accepted: Some((ballot, decree)) }, rows);
        GuardMessage::Accepted(target.clone(), ballot)
    }

    /// A page of what was accepted about keys.
    pub(super) fn page(&self, after: Option<&Key>, store: &Store) -> (Vec<(Key, Ballot, Decree)>, bool) {
        let begin = after.map_or(Bound::Excluded(Target::Next), |key| Bound::Excluded(Target::Key(key.clone())));
        let (mut page, mut len_bytes) = (Vec::new(), 0);
        for (target, cell) in self.cells.range((begin, Bound::Unbounded)) {
            let (Target::Key(key), Some((ballot, decree))) = (target, &cell.accepted) else { continue };
            let decree = or_its_end(target, decree.clone(), store);
            let value_bytes = match &decree {
                Decree::Entry(Some(entry)) => entry.cost_bytes(),
                _ => 0,
            };
            len_bytes += key.as_str().len() + value_bytes + 64;
            if len_bytes > PAGE_BYTES && !page.is_empty() {
                return (page, true);
            }
            page.push((key.clone(), *ballot, decree));
        }
        (page, false)
    }

    /// Takes over what another voter has accepted, unless ours is newer.
    pub(super) fn adopt(&mut self, key: Key, ballot: Ballot, decree: Decree, rows: &mut Rows) {
        let target = Target::Key(key);
        let ours = self.cells.get(&target);
        if ours.is_some_and(|cell| cell.accepted.as_ref().is_some_and(|(accepted, _)| *accepted >= ballot)) {
            return;
        }
        let promised = ours.map_or(ballot, |cell| cell.promised.max(ballot));
        self.put(&target, Cell { promised, accepted: Some((ballot, decree)) }, rows);
    }

    /// A new epoch begins: the seal is broken.
    pub(super) fn unseal(&mut self, rows: &mut Rows) {
        if self.cells.remove(&Target::Next).is_some() {
            rows.remove(Table::Ballots, NEXT);
        }
    }

    /// The electorate is founded anew: of each key the latest counts that was accepted here, or heard here to be decided. All
    /// that is left of earlier epochs comes to lie in one that nobody votes in, in the order of time.
    pub(super) fn rebase(&mut self, anew: &Electorate, world: &mut World<'_>) {
        let mut latest: BTreeMap<Key, Entry> = BTreeMap::new();
        let decided = world.store.iter().filter(|(_, held)| held.entry.guard == Some(anew.lineage));
        latest.extend(decided.map(|(key, held)| (key.clone(), held.entry.clone())));
        for (target, cell) in &self.cells {
            let (Target::Key(key), Some((_, Decree::Entry(Some(entry))))) = (target, &cell.accepted) else { continue };
            if latest.get(key).is_none_or(|known| known.modified < entry.modified) {
                latest.insert(key.clone(), entry.clone());
            }
        }
        self.clear(world.rows);
        for (key, entry) in latest {
            let (round, proposer) = (entry.modified.0, entry.writer);
            let ballot = Ballot { epoch: anew.epoch - 1, round, proposer, nonce: 0 };
            let cell = Cell { promised: ballot, accepted: Some((ballot, Decree::Entry(Some(entry)))) };
            self.put(&Target::Key(key), cell, world.rows);
        }
    }

    /// Another cluster's electorate has won: all that ours has decided is void.
    pub(super) fn clear(&mut self, rows: &mut Rows) {
        for target in std::mem::take(&mut self.cells).into_keys() {
            rows.remove(Table::Ballots, name(&target));
        }
    }

    /// Sessions of which nothing is left to know: they ended long ago, or never were.
    pub(super) fn forgettable_sessions(&self, wall_us: u64) -> impl Iterator<Item = &Key> {
        let has_nothing = move |cell: &Cell| match &cell.accepted {
            Some((_, Decree::Entry(Some(entry)))) => has_long_ended(entry, wall_us),
            _ => true,
        };
        self.cells.iter().filter_map(move |(target, cell)| match target {
            Target::Key(key) if key.is_internal() && has_nothing(cell) => Some(key),
            _ => None,
        })
    }

    /// Forgets what was promised and accepted about a key.
    pub(super) fn forget(&mut self, key: &Key, rows: &mut Rows) {
        if self.cells.remove(&Target::Key(key.clone())).is_some() {
            rows.remove(Table::Ballots, key.as_str().as_bytes());
        }
    }

    fn refusal(&self, target: &Target, ballot: Ballot) -> Option<GuardMessage> {
        let rejected = |promised| Some(GuardMessage::Rejected(target.clone(), ballot, promised));
        match (target, self.cells.get(&Target::Next)) {
            (Target::Key(_), Some(seal)) => rejected(seal.promised),
            _ => self.cells.get(target).filter(|cell| cell.promised > ballot).and_then(|cell| rejected(cell.promised)),
        }
    }

    fn put(&mut self, target: &Target, cell: Cell, rows: &mut Rows) {
        rows.put(Table::Ballots, name(target), &cell);
        self.cells.insert(target.clone(), cell);
    }
}

/// What was accepted, or that the session has ended where the replica knows it: nothing goes behind that, so it counts for more
/// than the vote of a voter that missed it.
fn or_its_end(target: &Target, accepted: Decree, store: &Store) -> Decree {
    let Target::Key(key) = target else { return accepted };
    let held = store.get(key.as_str()).filter(|held| key.is_internal() && ended_session(&held.entry).is_some());
    held.map_or(accepted, |held| Decree::Entry(Some(held.entry.clone())))
}

fn name(target: &Target) -> &[u8] {
    match target {
        Target::Next => NEXT,
        Target::Key(key) => key.as_str().as_bytes(),
    }
}

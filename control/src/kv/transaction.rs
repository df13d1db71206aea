//! Several operations on plain keys, done all or not at all.
//!
//! The steps are tried one after the other on a draft, each seeing what those before it have written; if one fails, the
//! draft is thrown away and every failure is told. What is done is stored in one write to the disk, so a crash does not
//! part it either. It is atomic on this node: elsewhere its keys arrive soon after one another, and each of them still
//! belongs to its last writer.
//!
//! Guarded keys are decided one by one by ballots, so a transaction may read but not change or check them.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
    time::Instant,
};

use serde::{Deserialize, Serialize};

use super::{
    change::{Author, Change, Decision, Rule, decide},
    entry::{Entry, Value},
    key::Key,
    limits::{MAX_LOOKED_AT, MAX_PAGE_BYTES, MAX_PAGE_ENTRIES, MAX_STAMP},
    machine::Kv,
    request::{KvError, Row, check_prefix},
    session::SessionId,
    spread::Origin,
    store::Store,
};

/// One operation of a transaction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// What a key holds. Fails where it is not there.
    Get {
        /// Which.
        key: String,
    },
    /// What a key holds, or nothing.
    GetOrEmpty {
        /// Which.
        key: String,
    },
    /// All keys that begin so.
    GetTree {
        /// How they begin.
        prefix: String,
    },
    /// Fails unless the key is so.
    Check {
        /// Which.
        key: String,
        /// How it must be.
        is: Expected,
    },
    /// Changes one key. Fails where the rule does not allow it.
    Write {
        /// Which.
        key: String,
        /// How.
        change: Change,
    },
    /// Deletes all keys that begin so.
    DeleteTree {
        /// How they begin.
        prefix: String,
    },
}

/// What a check expects of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Expected {
    /// It is there, with this `ModifyIndex`.
    Index(u64),
    /// It is there, and this session has its lock.
    Session(SessionId),
    /// It is not there.
    Absent,
}

/// What a transaction came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Transacted {
    /// All is done: what was read, and what was checked or written, without its value.
    Done(Vec<Row>),
    /// Nothing is done: each step that failed, by its place, and why.
    Failed(Vec<(usize, String)>),
}

/// The store as it would be.
struct Draft<'a> {
    store: &'a Store,
    author: Author,
    written: BTreeMap<Key, Entry>,
    rows: Vec<Row>,
    rows_bytes: usize,
    /// Entries that trees went through, deleted ones too.
    looked_at: usize,
}

impl Kv {
    /// Does all steps or none.
    pub(super) fn transact(&mut self, steps: &[Step], now: Instant, wall_us: u64) -> Result<Transacted, KvError> {
        let mut grown_bytes = 0;
        for step in steps {
            self.admit(step, &mut grown_bytes)?;
        }
        self.admit_deletions(steps)?;
        let author = Author { writer: self.id(), now: self.store.tick(wall_us) };
        let mut draft = Draft::new(&self.store, author);
        let tried = steps.iter().enumerate().map(|(place, step)| (place, draft.attempt(step)));
        let failed: Vec<_> = tried.filter_map(|(place, outcome)| Some((place, outcome.err()?))).collect();
        if !failed.is_empty() {
            return Ok(Transacted::Failed(failed));
        }
        let Draft { written, rows, .. } = draft;
        if let Some((key, _)) = written.iter().find(|(_, entry)| entry.modified.0 >= MAX_STAMP) {
            return Err(KvError::IndexExhausted { key: key.clone() });
        }
        for (key, entry) in written {
            self.take(&key, entry, Origin::Here, now, wall_us);
        }
        Ok(Transacted::Done(rows))
    }

    /// Refuses what cannot be in a transaction, or does not fit.
    fn admit(&self, step: &Step, grown_bytes: &mut usize) -> Result<(), KvError> {
        let key = match step {
            Step::Get { key } | Step::GetOrEmpty { key } => return Key::new(key).map(drop),
            Step::GetTree { prefix } => return check_prefix(prefix),
            Step::DeleteTree { prefix } => return check_prefix(prefix).and_then(|()| self.check_disk()),
            Step::Check { key, .. } | Step::Write { key, .. } => Key::new(key)?,
        };
        if let Step::Write { change, .. } = step {
            self.check(&key, change, *grown_bytes)?;
            if let Change::Put { value, .. } = change {
                *grown_bytes += value.as_bytes().len() + key.as_str().len();
            }
        }
        let is_lock = matches!(step, Step::Write { change: Change::Put { rule: Rule::Acquire(_), .. }, .. });
        match self.electorate() {
            None => Err(KvError::NoElectorate { key }),
            Some(_) if is_lock || self.is_guarded(&key) => Err(KvError::NotAtomic { key }),
            Some(_) => Ok(()),
        }
    }

    /// Refuses to delete guarded keys by prefix. Each key is looked at once, however many prefixes are above it.
    fn admit_deletions(&self, steps: &[Step]) -> Result<(), KvError> {
        let deleted = steps.iter().filter_map(|step| match step {
            Step::DeleteTree { prefix } => Some(prefix.as_str()),
            _ => None,
        });
        let mut above: Option<&str> = None;
        // A prefix is sorted before all that it covers.
        for prefix in deleted.collect::<BTreeSet<_>>() {
            if above.is_none_or(|above| !prefix.starts_with(above)) {
                self.plain_below(prefix)?;
                above = Some(prefix);
            }
        }
        Ok(())
    }
}

impl<'a> Draft<'a> {
    fn new(store: &'a Store, author: Author) -> Self {
        Self { store, author, written: BTreeMap::new(), rows: Vec::new(), rows_bytes: 0, looked_at: 0 }
    }

    /// One step. Fails with the reason for people.
    fn attempt(&mut self, step: &Step) -> Result<(), String> {
        match step {
            Step::Get { key } => match self.row(key) {
                Some(row) => self.show(row),
                None => Err(format!("key {key:?} doesn't exist")),
            },
            Step::GetOrEmpty { key } => match self.row(key) {
                Some(row) => self.show(row),
                None => self.show(nothing_at(key)),
            },
            Step::GetTree { prefix } => {
                self.tree(prefix, self.room() + 1)?.into_iter().try_for_each(|row| self.show(row))
            }
            Step::Check { key, is } => self.check(key, *is),
            Step::Write { key, change } => self.write(key, change),
            Step::DeleteTree { prefix } => {
                for row in self.tree(prefix, usize::MAX)? {
                    self.write(row.key.as_str(), &Change::Delete { rule: Rule::Always })?;
                }
                Ok(())
            }
        }
    }

    fn entry(&self, key: &str) -> Option<&Entry> {
        self.written.get(key).or_else(|| self.store.get(key).map(|held| &held.entry))
    }

    fn row(&self, key: &str) -> Option<Row> {
        Row::of(&Key::new(key).ok()?, self.entry(key)?)
    }

    /// The first keys that begin so, as the steps before have left them.
    fn tree(&mut self, prefix: &str, at_most: usize) -> Result<Vec<Row>, String> {
        let stored = self.store.range(prefix).filter(|(key, _)| !key.is_internal());
        let from_prefix = (Bound::Included(prefix), Bound::Unbounded);
        let written = self.written.range::<str, _>(from_prefix).take_while(|(key, _)| key.as_str().starts_with(prefix));
        let left = MAX_LOOKED_AT.saturating_sub(self.looked_at);
        let mut looked_at = 0;
        let entries = overlaid(stored.map(|(key, held)| (key, &held.entry)), written);
        let entries = entries.inspect(|_| looked_at += 1).take(left);
        let rows = entries.filter_map(|(key, entry)| Row::of(key, entry)).take(at_most).collect();
        self.looked_at += looked_at;
        if self.looked_at < MAX_LOOKED_AT {
            Ok(rows)
        } else {
            Err(format!("the operations look at more than {MAX_LOOKED_AT} entries; make them several transactions"))
        }
    }

    /// How many rows the answer may still take.
    fn room(&self) -> usize {
        if self.rows_bytes > MAX_PAGE_BYTES { 0 } else { MAX_PAGE_ENTRIES - self.rows.len() }
    }

    fn check(&mut self, key: &str, is: Expected) -> Result<(), String> {
        let row = match (is, self.row(key)) {
            (Expected::Absent, None) => return Ok(()),
            (Expected::Absent, Some(_)) => return Err(format!("key {key:?} exists")),
            (_, None) => return Err(format!("key {key:?} doesn't exist")),
            (_, Some(row)) => row,
        };
        match is {
            Expected::Index(index) if row.modify_index != index => {
                Err(format!("key {key:?} has index {}, not {index}", row.modify_index))
            }
            Expected::Session(session) if row.session != Some(session) => {
                Err(format!("key {key:?} is not locked by session {session}"))
            }
            _ => self.show(Row { value: Value::default(), ..row }),
        }
    }

    fn write(&mut self, key: &str, change: &Change) -> Result<(), String> {
        let name = Key::new(key).map_err(|error| error.to_string())?;
        match decide(self.entry(key), change, self.author) {
            Decision::Refused => return Err(refused(key, change)),
            Decision::Unchanged => {}
            Decision::Changed(entry) => drop(self.written.insert(name, entry)),
        }
        match (change, self.row(key)) {
            (Change::Put { .. }, Some(row)) => self.show(Row { value: Value::default(), ..row }),
            _ => Ok(()),
        }
    }

    /// Takes a row into the answer, which has the bounds of a page.
    fn show(&mut self, row: Row) -> Result<(), String> {
        self.rows_bytes += row.value.as_bytes().len() + row.key.as_str().len();
        if self.room() == 0 {
            return Err(format!("the answer would hold more than {MAX_PAGE_ENTRIES} keys or {MAX_PAGE_BYTES} bytes"));
        }
        self.rows.push(row);
        Ok(())
    }
}

/// What lies above hides what has the same key below. Both are in the order of keys.
fn overlaid<'a>(
    below: impl Iterator<Item = (&'a Key, &'a Entry)>,
    above: impl Iterator<Item = (&'a Key, &'a Entry)>,
) -> impl Iterator<Item = (&'a Key, &'a Entry)> {
    let (mut below, mut above) = (below.peekable(), above.peekable());
    std::iter::from_fn(move || match (below.peek(), above.peek()) {
        (Some((lower, _)), Some((upper, _))) if lower < upper => below.next(),
        (Some((lower, _)), Some((upper, _))) if lower == upper => {
            below.next();
            above.next()
        }
        (_, Some(_)) => above.next(),
        (_, None) => below.next(),
    })
}

/// Why a change is not made.
fn refused(key: &str, change: &Change) -> String {
    match change {
        Change::Put { rule: Rule::AtIndex(_), .. } => format!("failed to set key {key:?}, its index is another"),
        Change::Put { rule: Rule::Release(_), .. } => {
            format!("failed to unlock key {key:?}, the session does not hold its lock")
        }
        Change::Delete { .. } => format!("failed to delete key {key:?}, its index is another"),
        _ => format!("failed to change key {key:?}"),
    }
}

/// What is shown of a key that is not there.
fn nothing_at(key: &str) -> Row {
    Row {
        key: Key::new(key).expect("it was looked at when the transaction was admitted"),
        value: Value::default(),
        flags: 0,
        create_index: 0,
        modify_index: 0,
        lock_index: 0,
        session: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::{Answer, Reply, Request, RequestId, Topic, limits::MAX_VALUE_BYTES, testing::alone};

    fn kv() -> Kv {
        alone(&vec![])
    }

    fn transact(kv: &mut Kv, steps: Vec<Step>) -> Answer {
        kv.handle_request(RequestId(1), Request::Transaction { steps }, Instant::now(), 100);
        drop(kv.poll_persist());
        kv.poll_answer().unwrap().1
    }

    fn done(kv: &mut Kv, steps: Vec<Step>) -> Vec<Row> {
        match transact(kv, steps) {
            Ok(Reply::Transacted(Transacted::Done(rows))) => rows,
            other => panic!("{other:?}"),
        }
    }

    fn failed(kv: &mut Kv, steps: Vec<Step>) -> Vec<usize> {
        match transact(kv, steps) {
            Ok(Reply::Transacted(Transacted::Failed(failed))) => failed.into_iter().map(|(place, _)| place).collect(),
            other => panic!("{other:?}"),
        }
    }

    fn put(key: &str, value: &str, rule: Rule) -> Step {
        Step::Write { key: key.into(), change: Change::Put { value: Value::new(value.as_bytes()), flags: 0, rule } }
    }

    fn get(key: &str) -> Step {
        Step::Get { key: key.into() }
    }

    fn values(rows: &[Row]) -> Vec<&str> {
        rows.iter().map(|row| std::str::from_utf8(row.value.as_bytes()).unwrap()).collect()
    }

    #[test]
    fn all_changes_are_made_at_one_index_and_stored_in_one_write() {
        let mut kv = kv();
        let steps = vec![put("a", "1", Rule::Always), put("b", "2", Rule::AtIndex(0))];
        kv.handle_request(RequestId(1), Request::Transaction { steps }, Instant::now(), 100);
        assert_eq!(kv.poll_answer(), None, "nothing is stored yet");
        assert!(kv.poll_persist().is_some() && kv.poll_persist().is_none());
        let Some((_, Ok(Reply::Transacted(Transacted::Done(rows))))) = kv.poll_answer() else { panic!() };
        assert_eq!((values(&rows), rows[0].modify_index), (vec!["", ""], rows[1].modify_index));
        let there = kv.read(&Topic::Prefix(String::new()), None).unwrap();
        assert_eq!(values(&there.rows), ["1", "2"]);
    }

    #[test]
    fn one_step_that_fails_undoes_all_and_every_failure_is_told() {
        let mut kv = kv();
        done(&mut kv, vec![put("a", "1", Rule::Always)]);
        let before = kv.read(&Topic::Prefix(String::new()), None).unwrap();
        let steps = vec![
            put("a", "2", Rule::Always),
            put("b", "2", Rule::AtIndex(7)),
            get("none"),
            put("c", "2", Rule::Always),
        ];
        assert_eq!(failed(&mut kv, steps), [1, 2]);
        assert_eq!(kv.read(&Topic::Prefix(String::new()), None).unwrap(), before);
    }

    #[test]
    fn a_step_sees_what_those_before_it_did() {
        let mut kv = kv();
        let tree = |prefix: &str| Step::GetTree { prefix: prefix.into() };
        let steps = vec![
            put("p/a", "1", Rule::Always),
            put("p/b", "2", Rule::Always),
            tree("p/"),
            Step::DeleteTree { prefix: "p/a".into() },
            tree("p/"),
            put("p/a", "3", Rule::AtIndex(0)),
            get("p/a"),
        ];
        assert_eq!(values(&done(&mut kv, steps)), ["", "", "1", "2", "2", "", "3"]);
    }

    #[test]
    fn checks_decide_whether_the_rest_is_done() {
        let mut kv = kv();
        let check = |key: &str, is| Step::Check { key: key.into(), is };
        let index = done(&mut kv, vec![check("a", Expected::Absent), put("a", "1", Rule::Always)])[0].modify_index;
        for is in [Expected::Absent, Expected::Index(index + 1), Expected::Session(SessionId([1; 16]))] {
            assert_eq!(failed(&mut kv, vec![put("a", "2", Rule::Always), check("a", is)]), [1], "{is:?}");
        }
        let rows = done(&mut kv, vec![check("a", Expected::Index(index)), put("a", "2", Rule::Always), get("a")]);
        assert_eq!(values(&rows), ["", "", "2"]);
        let empty = done(&mut kv, vec![Step::GetOrEmpty { key: "none".into() }]);
        assert_eq!((values(&empty), empty[0].modify_index), (vec![""], 0));
    }

    #[test]
    fn guarded_keys_are_read_but_a_transaction_that_would_change_or_check_one_is_refused_whole() {
        let mut kv = kv();
        let lock = Rule::Acquire(SessionId([1; 16]));
        for odd in [
            put("backend/x", "1", Rule::Always),
            put("b", "1", lock),
            Step::Check { key: "backend/x".into(), is: Expected::Absent },
        ] {
            let refused = transact(&mut kv, vec![put("a", "1", Rule::Always), odd]);
            assert!(matches!(refused, Err(KvError::NotAtomic { .. })), "{refused:?}");
        }
        let own = transact(&mut kv, vec![put("a", "1", Rule::Always), put("weaved/x", "1", Rule::Always)]);
        assert!(matches!(own, Err(KvError::Reserved { .. })));
        assert_eq!(failed(&mut kv, vec![put("a", "1", Rule::Always), get("backend/x")]), [1]);
        assert!(kv.read(&Topic::Prefix(String::new()), None).unwrap().rows.is_empty());
    }

    #[test]
    fn a_tree_gives_no_more_than_an_answer_takes_and_what_cannot_be_shown_is_not_read() {
        let mut kv = kv();
        let many = MAX_PAGE_ENTRIES + 100;
        fill(&mut kv, many);
        let author = Author { writer: kv.id(), now: kv.store.tick(100) };
        let mut draft = Draft::new(&kv.store, author);
        assert_eq!(draft.tree("k/", 5).unwrap().len(), 5);
        draft.looked_at = 0;
        draft.write("k/0", &Change::Delete { rule: Rule::Always }).unwrap();
        for _ in 0..64 {
            draft.attempt(&Step::GetTree { prefix: "k/".into() }).unwrap_err();
        }
        assert!(draft.looked_at <= MAX_PAGE_ENTRIES + 2 + 64 * 3, "{}", draft.looked_at);
        assert_eq!(draft.tree("k/", usize::MAX).unwrap().len(), many - 1);
    }

    #[test]
    fn a_transaction_that_goes_through_the_store_again_and_again_is_refused() {
        let mut kv = kv();
        fill(&mut kv, 20_000);
        let deletions: Vec<_> = (0..64).map(|_| Step::DeleteTree { prefix: "k/".into() }).collect();
        let places = failed(&mut kv, deletions.clone());
        assert!(places.len() < 64 && places.last() == Some(&63), "{places:?}");
        assert_eq!(done(&mut kv, deletions[..2].to_vec()), []);
    }

    /// So many keys below `k/`.
    fn fill(kv: &mut Kv, count: usize) {
        for chunk in (0..count).collect::<Vec<_>>().chunks(1000) {
            done(kv, chunk.iter().map(|n| put(&format!("k/{n}"), "1", Rule::Always)).collect());
        }
    }

    #[test]
    fn what_does_not_fit_together_is_refused() {
        let mut kv = kv();
        let big = "x".repeat(MAX_VALUE_BYTES);
        let most: Vec<_> = (0..126).map(|n| put(&format!("k/{n}"), &big, Rule::Always)).collect();
        done(&mut kv, most);
        let refused = transact(&mut kv, vec![put("l/1", &big, Rule::Always), put("l/2", &big, Rule::Always)]);
        assert!(matches!(refused, Err(KvError::Full { .. })), "{refused:?}");
        assert!(kv.read(&Topic::Prefix("l/".into()), None).unwrap().rows.is_empty());
        assert_eq!(failed(&mut kv, vec![Step::GetTree { prefix: "k/".into() }]), [0], "more than an answer holds");
    }
}

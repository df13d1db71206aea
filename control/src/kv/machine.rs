//! The key-value store of one node as a state machine.
//!
//! The driver's turn: hand in what has happened, then store what [`Kv::poll_persist`] gives, then take messages, answers
//! and changed keys.
//!
//! INVARIANT: no answer and no message leaves before what it rests on is stored.

use std::{
    collections::{BTreeSet, VecDeque},
    time::{Duration, Instant},
};

use super::{
    change::{Author, Change, Decision, decide},
    entry::Entry,
    key::{Key, SESSIONS},
    limits::{MAX_STAMP, MAX_TOTAL_BYTES, MAX_VALUE_BYTES},
    request::{Answer, KvConfig, KvError, Reply, Request, Rows as ReadRows, SessionRow, Sessions, Topic, check_prefix},
    rows::{Batch, Damaged, Rows, StoreFacts, StoredRows, Table, read},
    session::{Phase, Session, SessionId},
    store::{Held, Merged, Store},
};
use crate::hlc::Hlc;

/// How often old tombstones are looked for.
const COLLECT_EVERY: Duration = Duration::from_mins(10);
/// The row of [`StoreFacts`].
const STORE_FACTS: &[u8] = b"store";

/// A client's request, by the driver's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RequestId(pub u64);

/// The store of one node.
#[derive(Debug)]
pub struct Kv {
    config: KvConfig,
    store: Store,
    rows: Rows,
    answers: VecDeque<(RequestId, Answer)>,
    changed: BTreeSet<Key>,
    collect_at: Instant,
}

impl Kv {
    /// The store as an earlier run left it.
    pub fn new(config: KvConfig, stored: &StoredRows, now: Instant) -> Result<Self, Damaged> {
        let fact = stored.iter().find(|(table, key, _)| *table == Table::Facts && key == STORE_FACTS);
        let facts: StoreFacts = fact.map(|(_, _, value)| read(value)).transpose()?.unwrap_or_default();
        let mut store = Store::new(Hlc(facts.latest), facts.collected);
        for (_, key, value) in stored.iter().filter(|(table, ..)| *table == Table::Entries) {
            let key = String::from_utf8(key.clone()).map_err(|_| Damaged)?;
            let (entry, arrival): (Entry, u64) = read(value)?;
            store.restore(Key::try_from(key).map_err(|_| Damaged)?, Held { entry, arrival });
        }
        let rows = Rows::default();
        Ok(Self { config, store, rows, answers: VecDeque::new(), changed: BTreeSet::new(), collect_at: now })
    }

    /// A client asks. Reads are answered by [`Self::read`]; they are not waited for here.
    pub fn handle_request(&mut self, id: RequestId, request: Request, _now: Instant, wall_us: u64) {
        let answer = match request {
            Request::Read { topic, after, .. } => self.read(&topic, after.as_deref()).map(Reply::Rows),
            Request::ReadConsistent { key } => self.read(&Topic::Key(key), None).map(Reply::Rows),
            Request::Write { key, change } => self.write(&key, &change, wall_us).map(Reply::Written),
            Request::DeletePrefix { prefix } => self.delete_prefix(&prefix, wall_us).map(Reply::Written),
            Request::Sessions { id, .. } => Ok(Reply::Sessions(self.sessions(id))),
            Request::SessionCreate { spec } => {
                spec.check().and(Err(KvError::NoElectorate { key: Key::of_session(SessionId([0; 16])) }))
            }
            Request::SessionDestroy { id } | Request::SessionRenew { id } => {
                Err(KvError::NoElectorate { key: Key::of_session(id) })
            }
        };
        self.answers.push_back((id, answer));
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant, wall_us: u64) {
        if self.collect_at <= now {
            self.collect_at = now + COLLECT_EVERY;
            let collected = self.store.collect(wall_us);
            for key in &collected {
                self.rows.remove(Table::Entries, key.as_str().as_bytes());
            }
            if !collected.is_empty() {
                self.store_facts();
            }
        }
    }

    /// When [`Self::handle_timeout`] wants to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        Some(self.collect_at)
    }

    /// What is there now.
    pub fn read(&self, topic: &Topic, after: Option<&str>) -> Result<ReadRows, KvError> {
        match topic {
            Topic::Key(key) => Ok(self.store.read_key(Key::new(key)?.as_str())),
            Topic::Prefix(prefix) => {
                check_prefix(prefix)?;
                Ok(self.store.read_prefix(prefix, after))
            }
        }
    }

    /// Sessions that live: one, or all.
    pub fn sessions(&self, id: Option<SessionId>) -> Sessions {
        let topic = id.map_or(SESSIONS.to_owned(), |id| Key::of_session(id).to_string());
        let rows = self.store.range(&topic).filter_map(|(key, held)| {
            let session = held.entry.value.as_ref().and_then(Session::from_value)?;
            let id = key.as_str().strip_prefix(SESSIONS)?.parse().ok()?;
            let (create_index, modify_index) = (held.entry.created.0, held.entry.modified.0);
            (session.phase == Phase::Live).then_some(SessionRow { id, session, create_index, modify_index })
        });
        Sessions { index: self.store.prefix_index(&topic), sessions: rows.collect() }
    }

    /// What to wait for when sessions are waited for.
    pub fn sessions_topic(id: Option<SessionId>) -> Topic {
        id.map_or(Topic::Prefix(SESSIONS.into()), |id| Topic::Key(Key::of_session(id).to_string()))
    }

    /// True if there is something that a client who has seen `index` has not. A client may also name the `ModifyIndex` of
    /// the key that he has.
    pub fn has_news(&self, topic: &Topic, index: u64) -> bool {
        match topic {
            Topic::Key(key) => {
                let modified = self.store.get(key).map(|held| held.entry.modified.0);
                self.store.key_index(key) > index && modified != Some(index)
            }
            Topic::Prefix(prefix) => self.store.prefix_index(prefix) > index,
        }
    }

    /// The latest index of this node.
    pub fn latest_index(&self) -> u64 {
        self.store.latest().0
    }

    /// What must be stored before anything else is polled.
    #[must_use = "what is not stored is forgotten by a crash"]
    pub fn poll_persist(&mut self) -> Option<Batch> {
        self.rows.poll()
    }

    /// The batch is on the disk.
    pub fn handle_stored(&mut self) {
        self.rows.on_stored();
    }

    /// The batch could not be written. Who waits for an answer does not learn whether his change lasts.
    pub fn handle_persist_failed(&mut self, batch: Batch, reason: &str) {
        self.rows.on_failed(batch, reason.to_owned());
        for (_, answer) in &mut self.answers {
            if matches!(answer, Ok(Reply::Written(true) | Reply::SessionMade(_))) {
                *answer = Err(KvError::Disk { reason: reason.to_owned() });
            }
        }
    }

    /// An answer for a client.
    #[must_use = "an answer is handed out once"]
    pub fn poll_answer(&mut self) -> Option<(RequestId, Answer)> {
        if self.rows.is_settled() || self.rows.failure().is_some() { self.answers.pop_front() } else { None }
    }

    /// A key that has changed, for those who wait.
    pub fn poll_changed(&mut self) -> Option<Key> {
        self.changed.pop_first()
    }

    /// True for a key that a majority must decide.
    pub fn is_guarded(&self, key: &Key) -> bool {
        key.is_internal()
            || self.config.guarded.iter().any(|prefix| key.as_str().starts_with(prefix))
            || self.store.get(key.as_str()).is_some_and(|held| held.entry.guard.is_some())
    }

    fn write(&mut self, key: &str, change: &Change, wall_us: u64) -> Result<bool, KvError> {
        let key = Key::new(key)?;
        self.check(&key, change)?;
        if self.is_guarded(&key) {
            return Err(KvError::NoElectorate { key });
        }
        let author = Author { writer: self.config.id, now: self.store.tick(wall_us) };
        let current = self.store.get(key.as_str()).map(|held| &held.entry);
        match decide(current, change, author) {
            Decision::Refused => Ok(false),
            Decision::Unchanged => Ok(true),
            Decision::Changed(entry) if entry.modified.0 >= MAX_STAMP => Err(KvError::IndexExhausted { key }),
            Decision::Changed(entry) => {
                self.take(&key, entry, wall_us);
                Ok(true)
            }
        }
    }

    /// Refuses what would not fit.
    fn check(&self, key: &Key, change: &Change) -> Result<(), KvError> {
        if let Some(reason) = self.rows.failure() {
            return Err(KvError::Disk { reason: reason.into() });
        }
        let Change::Put { value, .. } = change else { return Ok(()) };
        let len = value.as_bytes().len();
        if len > MAX_VALUE_BYTES {
            return Err(KvError::ValueTooLong { len });
        }
        let used_bytes = self.store.used_bytes();
        let grown = used_bytes + len + key.as_str().len();
        if grown > MAX_TOTAL_BYTES { Err(KvError::Full { used_bytes }) } else { Ok(()) }
    }

    fn delete_prefix(&mut self, prefix: &str, wall_us: u64) -> Result<bool, KvError> {
        check_prefix(prefix)?;
        let live = self.store.range(prefix).filter(|(key, held)| held.entry.is_live() && !key.is_internal());
        let keys: Vec<_> = live.map(|(key, _)| key.clone()).collect();
        let guarded: Vec<_> = keys.iter().filter(|key| self.is_guarded(key)).collect();
        if let Some(&first) = guarded.first() {
            return Err(KvError::GuardedBelow { count: guarded.len(), first: first.clone() });
        }
        for key in keys {
            self.write(key.as_str(), &Change::Delete { rule: super::Rule::Always }, wall_us)?;
        }
        Ok(true)
    }

    /// Takes an entry into the replica, to be stored and told.
    fn take(&mut self, key: &Key, entry: Entry, wall_us: u64) -> Merged {
        let merged = self.store.merge(key, entry, wall_us);
        if merged == Merged::Newer {
            let held = self.store.get(key.as_str()).expect("it was taken in");
            self.rows.put(Table::Entries, key.as_str().as_bytes(), &(&held.entry, held.arrival));
            self.store_facts();
            self.changed.insert(key.clone());
        }
        merged
    }

    fn store_facts(&mut self) {
        let facts = StoreFacts { latest: self.store.latest().0, collected: self.store.collected() };
        self.rows.put(Table::Facts, STORE_FACTS, &facts);
    }
}

#[cfg(test)]
mod tests {
    use weaved_api::PeerId;

    use super::*;
    use crate::kv::{Rule, Value};

    fn kv(stored: &StoredRows) -> Kv {
        Kv::new(KvConfig::new(PeerId([1; 32])), stored, Instant::now()).unwrap()
    }

    fn ask(kv: &mut Kv, request: Request, wall_us: u64) -> Answer {
        kv.handle_request(RequestId(1), request, Instant::now(), wall_us);
        let _ = kv.poll_persist();
        kv.poll_answer().unwrap().1
    }

    fn put(key: &str, value: &str, rule: Rule) -> Request {
        Request::Write { key: key.into(), change: Change::Put { value: Value::new(value.as_bytes()), flags: 7, rule } }
    }

    #[test]
    fn no_answer_leaves_before_its_row_is_stored() {
        let mut kv = kv(&vec![]);
        kv.handle_request(RequestId(1), put("a", "1", Rule::Always), Instant::now(), 100);
        assert_eq!(kv.poll_answer(), None);
        assert!(kv.poll_persist().is_some());
        assert_eq!(kv.poll_answer(), Some((RequestId(1), Ok(Reply::Written(true)))));
    }

    #[test]
    fn a_restart_loses_nothing_and_the_index_goes_on() {
        let mut first = kv(&vec![]);
        first.handle_request(RequestId(1), put("a", "1", Rule::Always), Instant::now(), 100);
        let before = first.read(&Topic::Key("a".into()), None).unwrap();
        let batch = first.poll_persist().unwrap();
        let stored = batch.into_iter().filter_map(|((table, key), value)| Some((table, key, value?))).collect();
        let mut second = kv(&stored);
        assert_eq!(second.read(&Topic::Key("a".into()), None).unwrap(), before);
        ask(&mut second, put("b", "2", Rule::Always), 5).unwrap();
        assert!(second.read(&Topic::Key("b".into()), None).unwrap().index > before.index);
    }

    #[test]
    fn a_disk_that_takes_nothing_is_told_and_later_writes_are_refused() {
        let mut kv = kv(&vec![]);
        kv.handle_request(RequestId(1), put("a", "1", Rule::Always), Instant::now(), 100);
        let batch = kv.poll_persist().unwrap();
        kv.handle_persist_failed(batch.clone(), "full");
        assert!(matches!(kv.poll_answer(), Some((_, Err(KvError::Disk { .. })))));
        kv.handle_request(RequestId(2), put("b", "1", Rule::Always), Instant::now(), 101);
        assert!(matches!(kv.poll_answer(), Some((_, Err(KvError::Disk { .. })))));
        assert_eq!(kv.poll_persist(), Some(batch));
        kv.handle_stored();
        assert_eq!(ask(&mut kv, put("b", "1", Rule::Always), 102), Ok(Reply::Written(true)));
    }

    #[test]
    fn a_client_that_names_the_modify_index_of_what_it_has_waits() {
        let mut kv = kv(&vec![]);
        ask(&mut kv, put("a", "1", Rule::Always), 100).unwrap();
        let rows = kv.read(&Topic::Key("a".into()), None).unwrap();
        let topic = Topic::Key("a".into());
        assert!(!kv.has_news(&topic, rows.index) && !kv.has_news(&topic, rows.rows[0].modify_index));
        assert!(kv.has_news(&topic, 0) && kv.has_news(&topic, rows.index - 1));
    }

    #[test]
    fn what_does_not_fit_is_refused_with_a_reason_and_deleting_makes_room() {
        let mut kv = kv(&vec![]);
        let long = "x".repeat(MAX_VALUE_BYTES + 1);
        assert!(matches!(ask(&mut kv, put("a", &long, Rule::Always), 1), Err(KvError::ValueTooLong { .. })));
        let most = "x".repeat(MAX_VALUE_BYTES);
        let full = (0..200).find_map(|n| ask(&mut kv, put(&format!("k/{n}"), &most, Rule::Always), 1).err());
        assert!(full.unwrap().to_string().contains("delete something"));
        assert_eq!(ask(&mut kv, Request::DeletePrefix { prefix: "k/".into() }, 2), Ok(Reply::Written(true)));
        assert_eq!(ask(&mut kv, put("a", "1", Rule::Always), 3), Ok(Reply::Written(true)));
    }

    #[test]
    fn guarded_keys_are_refused_without_an_electorate() {
        let mut kv = kv(&vec![]);
        assert!(matches!(ask(&mut kv, put("backend/x", "1", Rule::Always), 1), Err(KvError::NoElectorate { .. })));
    }
}

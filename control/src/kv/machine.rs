//! The key-value store of one node as a state machine.
//!
//! The driver's turn: hand in what has happened, then store what [`Kv::poll_persist`] gives, then take messages, answers
//! and changed keys.
//!
//! INVARIANT: no answer and no message leaves before what it rests on is stored.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::{Duration, Instant},
};

use super::{
    change::{Author, Change, Decision, Rule, decide},
    entry::{Entry, Lineage},
    forgetting::Doomed,
    guard::{Consensus, Decided, FoundAnewError, GuardedStore as _, OpId, World},
    keeper::{Due, Keeper, unlock},
    key::{Key, SESSIONS},
    limits::{MAX_SESSIONS_BYTES, MAX_STAMP, MAX_TOTAL_BYTES, MAX_VALUE_BYTES},
    message::KvMessage,
    parts::Reassembly,
    reach::{Contact, Reach},
    request::{
        Answer, KvConfig, KvError, Quota, Reply, Request, Row, Rows as ReadRows, SessionRow, Sessions, Topic,
        check_prefix,
    },
    rows::{Batch, Damaged, Rows, StoreFacts, StoredRows, Table, read},
    session::{Phase, Session, SessionId, SessionSpec, ended_session, live_session},
    spread::{Origin, Spread},
    store::{Held, Merged, Store},
    transaction::Transacted,
};
use crate::hlc::Hlc;

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use weaved_api::PeerId;

/// How often it is looked for what may be forgotten.
pub(super) const COLLECT_EVERY: Duration = Duration::from_mins(10);
/// The row of [`StoreFacts`].
const STORE_FACTS: &[u8] = b"store";

/// A client's request, by the driver's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RequestId(pub u64);

/// The others, as far as the store cares.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Members {
    /// All members, this node included, dead or alive.
    pub known: BTreeSet<PeerId>,
    /// Who has left for good.
    pub gone: BTreeSet<PeerId>,
    /// Who is alive, this node included.
    pub live: BTreeSet<PeerId>,
    /// Set on the node that has founded the cluster.
    pub founding: Option<Lineage>,
}

/// What was counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KvCounters {
    /// Messages that are none.
    pub garbage: u64,
    /// Entries of others for which there was no room, or that are none.
    pub refused: u64,
    /// Messages that were not sent because too many waited.
    pub dropped: u64,
}

/// Who waits for a guarded change.
#[derive(Debug)]
enum Pending {
    Written(RequestId),
    Read(RequestId),
    Made(RequestId, SessionId),
    Renewed(RequestId, SessionId),
    Destroyed(RequestId),
    /// The session that wants the lock is looked at first.
    Locks(RequestId, SessionId, Key, Change),
    /// Nobody: upkeep.
    Upkeep,
    /// Nobody: whether a session lives that holds the lock of this key.
    Orphaned(SessionId, Key),
    /// Another part of this node, by its number.
    Own(u64),
}

/// The store of one node.
#[derive(Debug)]
pub struct Kv {
    config: KvConfig,
    pub(super) store: Store,
    pub(super) members: Members,
    pub(super) keeper: Keeper,
    pub(super) doomed: Doomed,
    contact: Contact,
    spread: Spread,
    parts: Reassembly,
    pub(super) guard: Consensus,
    pending: BTreeMap<OpId, Pending>,
    next_op: u64,
    counters: KvCounters,
    pub(super) rows: Rows,
    answers: VecDeque<(RequestId, Answer)>,
    own_outcomes: VecDeque<(u64, Result<Decided, KvError>)>,
    changed: BTreeSet<Key>,
    /// The same, of weaved's own keys, for the rest of this node.
    own_changed: BTreeSet<Key>,
    collect_at: Instant,
}

impl Kv {
    /// The store as an earlier run left it.
    pub fn new(config: KvConfig, stored: &StoredRows, seed: [u8; 32], now: Instant) -> Result<Self, Damaged> {
        let fact = stored.iter().find(|(table, key, _)| *table == Table::Facts && key == STORE_FACTS);
        let facts: StoreFacts = fact.map(|(_, _, value)| read(value)).transpose()?.unwrap_or_default();
        let mut store = Store::new(Hlc(facts.latest), facts.collected);
        for (_, key, value) in stored.iter().filter(|(table, ..)| *table == Table::Entries) {
            let key = String::from_utf8(key.clone()).map_err(|_| Damaged)?;
            let (entry, arrival): (Entry, u64) = read(value)?;
            store.restore(Key::try_from(key).map_err(|_| Damaged)?, Held { entry, arrival });
        }
        let mut rng = StdRng::from_seed(seed);
        let guard = Consensus::restore(config.id, StdRng::from_seed(rng.random()), stored)?;
        Ok(Self {
            config,
            store,
            members: Members::default(),
            keeper: Keeper::new(now),
            doomed: Doomed::default(),
            contact: Contact::none(now),
            spread: Spread::new(rng, now),
            parts: Reassembly::default(),
            guard,
            pending: BTreeMap::new(),
            next_op: 0,
            counters: KvCounters::default(),
            rows: Rows::default(),
            answers: VecDeque::new(),
            own_outcomes: VecDeque::new(),
            changed: BTreeSet::new(),
            own_changed: BTreeSet::new(),
            collect_at: now,
        })
    }

    /// A client asks. Reads are answered with what is there: waiting is the driver's business ([`Self::has_news`]).
    pub fn handle_request(&mut self, id: RequestId, request: Request, now: Instant, wall_us: u64) {
        let answer = match request {
            Request::Read { topic, after, .. } => self.read(&topic, after.as_deref()).map(Reply::Rows),
            Request::Reach => Ok(Reply::Reach(self.reach(now))),
            Request::Sessions { id, .. } => Ok(Reply::Sessions(self.sessions(id))),
            Request::Watch { .. } => Ok(Reply::Watched),
            Request::DeletePrefix { prefix } => self.delete_prefix(&prefix, now, wall_us).map(Reply::Written),
            Request::Transaction { steps } => self.transact(&steps, now, wall_us).map(Reply::Transacted),
            Request::ReadConsistent { key } => match Key::new(&key) {
                Ok(key) if self.is_guarded(&key) => {
                    return self.begin(Pending::Read(id), key, Change::Look, now, wall_us);
                }
                Ok(key) => Ok(Reply::Rows(self.store.read_key(key.as_str()))),
                Err(error) => Err(error),
            },
            Request::Write { key, change } => match self.write(id, &key, change, now, wall_us) {
                Ok(None) => return,
                Ok(Some(is_allowed)) => Ok(Reply::Written(is_allowed)),
                Err(error) => Err(error),
            },
            Request::SessionCreate { spec } => match self.check_session(&spec) {
                Ok(()) => return self.make_session(id, spec, now, wall_us),
                Err(error) => Err(error),
            },
            Request::SessionDestroy { id: session } => {
                let change = Change::EndSession { phase: Phase::Destroyed, renewals: None };
                return self.begin(Pending::Destroyed(id), Key::of_session(session), change, now, wall_us);
            }
            Request::SessionRenew { id: session } => {
                let pending = Pending::Renewed(id, session);
                return self.begin(pending, Key::of_session(session), Change::RenewSession, now, wall_us);
            }
        };
        self.answers.push_back((id, answer));
    }

    /// A session with this peer is up.
    pub fn handle_peer_up(&mut self, id: PeerId) {
        self.spread.on_peer_up(id, &self.store);
        self.guard.tell(id);
    }

    /// No session with this peer is left.
    pub fn handle_peer_down(&mut self, id: PeerId) {
        self.spread.on_peer_down(id);
    }

    /// Who is there has changed.
    pub fn handle_members(&mut self, members: Members, now: Instant, wall_us: u64) {
        if let Some(lineage) = members.founding {
            let mut world = World { store: &mut self.store, rows: &mut self.rows, now, wall_us };
            self.guard.found(lineage, &self.config.guarded, &mut world);
        }
        self.guard.handle_members(&members.known, &members.gone, &members.live, now);
        self.members = members;
        self.reach(now);
    }

    /// Bytes from a peer's store.
    pub fn handle_message(&mut self, from: PeerId, bytes: &[u8], now: Instant, wall_us: u64) {
        let message = match self.parts.handle(from, bytes) {
            Ok(None) => return,
            Ok(Some(whole)) => postcard::from_bytes(&whole).ok(),
            Err(()) => None,
        };
        match message {
            Some(KvMessage::Entries(entries)) => {
                for (key, entry) in entries {
                    self.take(&key, entry, Origin::Elsewhere, now, wall_us);
                }
            }
            Some(KvMessage::Sums(sums)) => self.spread.on_sums(from, &sums, &self.store),
            Some(KvMessage::List { buckets, items }) => self.spread.on_list(from, &buckets, &items, &self.store),
            Some(KvMessage::Want(wanted)) => self.spread.on_want(from, &wanted, &self.store),
            Some(KvMessage::Guard(message)) if message.is_valid() => {
                let mut world = World { store: &mut self.store, rows: &mut self.rows, now, wall_us };
                self.guard.handle_message(from, *message, &mut world);
                self.drain_guard(now, wall_us);
            }
            Some(KvMessage::Guard(_)) | None => self.counters.garbage += 1,
        }
    }

    /// Bytes for a peer's store. None while there is something to store.
    #[must_use = "the bytes are handed out once"]
    pub fn poll_send(&mut self) -> Option<(PeerId, Vec<u8>)> {
        if !self.rows.is_settled() {
            return None;
        }
        while let Some((to, message)) = self.guard.poll_send() {
            self.spread.send(to, &KvMessage::Guard(Box::new(message)));
        }
        self.spread.poll_send()
    }

    /// This node.
    pub(super) fn id(&self) -> PeerId {
        self.config.id
    }

    /// Who decides guarded keys, as far as this node knows.
    pub fn electorate(&self) -> Option<&super::Electorate> {
        self.guard.electorate()
    }

    /// The voters that answer go on without those that are gone for good.
    pub fn found_anew(&mut self, now: Instant, wall_us: u64) -> Result<(), FoundAnewError> {
        let mut world = World { store: &mut self.store, rows: &mut self.rows, now, wall_us };
        self.guard.found_anew(&mut world)?;
        self.drain_guard(now, wall_us);
        Ok(())
    }

    /// What was counted.
    pub fn counters(&self) -> KvCounters {
        KvCounters { dropped: self.spread.dropped_count, ..self.counters }
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant, wall_us: u64) {
        let mut world = World { store: &mut self.store, rows: &mut self.rows, now, wall_us };
        self.guard.handle_timeout(&mut world);
        self.drain_guard(now, wall_us);
        for due in self.upkeep(now) {
            let (pending, key, change) = match due {
                Due::Change(key, change) => (Pending::Upkeep, key, change),
                Due::Ask(session, lock) => (Pending::Orphaned(session, lock), Key::of_session(session), Change::Look),
            };
            self.begin(pending, key, change, now, wall_us);
        }
        self.spread.handle_timeout(&self.store, now);
        self.reach(now);
        if self.collect_at <= now {
            self.collect_at = now + COLLECT_EVERY;
            self.collect(now, wall_us);
        }
    }

    /// When [`Self::handle_timeout`] wants to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let timeouts = [Some(self.collect_at), Some(self.spread.next_timeout()), self.guard.poll_timeout()];
        timeouts.into_iter().flatten().chain([self.keeper.next_timeout()]).min()
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

    /// Since when this node has not been with the others, as it last looked.
    pub fn lost_since(&self) -> Option<Instant> {
        self.contact.lost_since()
    }

    /// Whether this node is with the others.
    pub fn reach(&mut self, now: Instant) -> Reach {
        let voters = self.guard.electorate().map(|electorate| &electorate.voters);
        let answering = voters.map_or(0, |voters| voters.intersection(&self.members.live).count());
        self.contact.look(answering, voters.map_or(0, BTreeSet::len), now);
        self.contact.reach(now)
    }

    /// The same as it was seen last.
    pub fn contact(&self) -> Contact {
        self.contact
    }

    /// Sessions that live: one, or all.
    pub fn sessions(&self, id: Option<SessionId>) -> Sessions {
        let topic = id.map_or(SESSIONS.to_owned(), |id| Key::of_session(id).to_string());
        let asked = self.store.live_sessions().filter(|(key, ..)| key.as_str().starts_with(&topic));
        let rows = asked.filter_map(|(key, session, held)| {
            let id = key.as_str().strip_prefix(SESSIONS)?.parse().ok()?;
            let (create_index, modify_index) = (held.entry.created.0, held.entry.modified.0);
            Some(SessionRow { id, session, create_index, modify_index })
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
            if let Ok(Reply::Written(true) | Reply::SessionMade(_) | Reply::Transacted(Transacted::Done(_))) = answer {
                *answer = Err(KvError::Disk { reason: reason.to_owned() });
            }
        }
        // What another part of this node does next must not rest on what a crash would forget: it asks again.
        for (_, outcome) in &mut self.own_outcomes {
            if let Ok(decided) = outcome {
                *outcome = Err(KvError::OutcomeUnknown { key: decided.key.clone() });
            }
        }
    }

    /// An answer for a client.
    #[must_use = "an answer is handed out once"]
    pub fn poll_answer(&mut self) -> Option<(RequestId, Answer)> {
        if self.rows.is_settled() || self.rows.failure().is_some() { self.answers.pop_front() } else { None }
    }

    /// Another part of this node wants a guarded key changed. Ends with one [`Self::poll_own`] of the same number.
    pub fn begin_own(&mut self, number: u64, key: Key, change: Change, now: Instant, wall_us: u64) {
        self.begin(Pending::Own(number), key, change, now, wall_us);
    }

    /// What a change of [`Self::begin_own`] came to. None while there is something to store.
    #[must_use = "an outcome is handed out once"]
    pub fn poll_own(&mut self) -> Option<(u64, Result<Decided, KvError>)> {
        if self.rows.is_settled() || self.rows.failure().is_some() { self.own_outcomes.pop_front() } else { None }
    }

    /// A key of weaved's own that has changed.
    pub fn poll_own_changed(&mut self) -> Option<Key> {
        self.own_changed.pop_first()
    }

    /// What a key holds here, deletions included.
    pub fn entry(&self, key: &str) -> Option<&Entry> {
        self.store.get(key).map(|held| &held.entry)
    }

    /// All entries whose keys begin so, deletions included.
    pub fn entries<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a Key, &'a Entry)> {
        self.store.range(prefix).map(|(key, held)| (key, &held.entry))
    }

    /// A key that has changed, for those who wait.
    pub fn poll_changed(&mut self) -> Option<Key> {
        self.changed.pop_first()
    }

    /// True for a key that a majority must decide. Without an electorate nobody knows which are not.
    pub fn is_guarded(&self, key: &Key) -> bool {
        key.is_internal()
            || key.is_own()
            || self.electorate().is_none_or(|electorate| electorate.guards(key.as_str()))
            || self.store.get(key.as_str()).is_some_and(|held| held.entry.guard.is_some())
    }

    /// None when a majority has to decide first.
    fn write(
        &mut self,
        id: RequestId,
        key: &str,
        change: Change,
        now: Instant,
        wall_us: u64,
    ) -> Result<Option<bool>, KvError> {
        let key = Key::new(key)?;
        self.check(&key, &change, 0)?;
        if let Change::Put { rule: Rule::Acquire(session), .. } = change {
            let pending = Pending::Locks(id, session, key, change);
            self.begin(pending, Key::of_session(session), Change::Look, now, wall_us);
            return Ok(None);
        }
        if self.is_guarded(&key) {
            self.begin(Pending::Written(id), key, change, now, wall_us);
            return Ok(None);
        }
        self.write_plain(key, &change, now, wall_us).map(Some)
    }

    fn write_plain(&mut self, key: Key, change: &Change, now: Instant, wall_us: u64) -> Result<bool, KvError> {
        let author = Author { writer: self.config.id, now: self.store.tick(wall_us) };
        let current = self.store.get(key.as_str()).map(|held| &held.entry);
        match decide(current, change, author) {
            Decision::Refused => Ok(false),
            Decision::Unchanged => Ok(true),
            Decision::Changed(entry) if entry.modified.0 >= MAX_STAMP => Err(KvError::IndexExhausted { key }),
            Decision::Changed(entry) => {
                self.take(&key, entry, Origin::Here, now, wall_us);
                Ok(true)
            }
        }
    }

    fn make_session(&mut self, id: RequestId, spec: SessionSpec, now: Instant, wall_us: u64) {
        let session = SessionId(self.spread.rng().random());
        let value = Session { spec, node: self.config.id, phase: Phase::Live, renewals: 0 }.to_value();
        let change = Change::Put { value, flags: 0, rule: Rule::AtIndex(0) };
        self.begin(Pending::Made(id, session), Key::of_session(session), change, now, wall_us);
    }

    fn begin(&mut self, pending: Pending, key: Key, change: Change, now: Instant, wall_us: u64) {
        self.next_op += 1;
        let op = OpId(self.next_op);
        self.pending.insert(op, pending);
        let mut world = World { store: &mut self.store, rows: &mut self.rows, now, wall_us };
        self.guard.begin(op, key, change, &mut world);
        self.drain_guard(now, wall_us);
    }

    /// Takes what a majority has decided into the replica, and answers.
    fn drain_guard(&mut self, now: Instant, wall_us: u64) {
        while let Some((op, outcome)) = self.guard.poll_outcome() {
            if let Ok(Decided { key, entry: Some(entry), .. }) = &outcome {
                self.take(key, entry.clone(), Origin::Here, now, wall_us);
            }
            let Some(pending) = self.pending.remove(&op) else { continue };
            let is_live = |decided: &Decided| decided.entry.as_ref().and_then(live_session).is_some();
            let answer = match pending {
                Pending::Upkeep => continue,
                Pending::Orphaned(session, lock) => {
                    if let Some(decided) = outcome.ok().filter(|decided| !is_live(decided)) {
                        let ended = decided.entry.as_ref().and_then(ended_session);
                        self.begin(Pending::Upkeep, lock, unlock(session, ended.as_ref()), now, wall_us);
                    }
                    continue;
                }
                Pending::Own(number) => {
                    self.own_outcomes.push_back((number, outcome));
                    continue;
                }
                Pending::Locks(id, _, key, change) if outcome.as_ref().is_ok_and(is_live) => {
                    self.begin(Pending::Written(id), key, change, now, wall_us);
                    continue;
                }
                Pending::Locks(id, session, ..) => (id, outcome.and(Err(KvError::NoSession { id: session }))),
                Pending::Written(id) => (id, outcome.map(|decided| Reply::Written(decided.is_allowed))),
                Pending::Destroyed(id) => (id, outcome.map(|_| Reply::Written(true))),
                Pending::Made(id, session) => (id, outcome.map(|_| Reply::SessionMade(session))),
                Pending::Renewed(id, session) => (
                    id,
                    outcome.and_then(|decided| {
                        let is_renewed = decided.is_allowed;
                        is_renewed.then_some(Reply::Written(true)).ok_or(KvError::NoSession { id: session })
                    }),
                ),
                Pending::Read(id) => (
                    id,
                    outcome.map(|decided| {
                        let row = decided.entry.as_ref().and_then(|entry| Row::of(&decided.key, entry));
                        let index = self.store.key_index(decided.key.as_str());
                        Reply::Rows(ReadRows { index, rows: row.into_iter().collect(), more_after: None })
                    }),
                ),
            };
            self.answers.push_back(answer);
        }
    }

    /// Refuses what would not fit behind so many bytes that come with it.
    pub(super) fn check(&self, key: &Key, change: &Change, grown_bytes: usize) -> Result<(), KvError> {
        self.check_disk()?;
        if key.is_own() {
            return Err(KvError::Reserved { key: key.clone() });
        }
        let value = match change {
            Change::Put { value, .. } => value,
            Change::Delete { .. } => return Ok(()),
            _ => return Err(KvError::BadKey { reason: "this change is the store's own".into() }),
        };
        let len = value.as_bytes().len();
        if len > MAX_VALUE_BYTES {
            return Err(KvError::ValueTooLong { len });
        }
        let used_bytes = self.store.used_bytes(Quota::Keys);
        let grown = used_bytes + grown_bytes + len + key.as_str().len();
        if grown > MAX_TOTAL_BYTES { Err(KvError::Full { quota: Quota::Keys, used_bytes }) } else { Ok(()) }
    }

    /// Refuses a new session that cannot work or would not fit.
    fn check_session(&self, spec: &SessionSpec) -> Result<(), KvError> {
        spec.check()?;
        self.check_disk()?;
        let used_bytes = self.store.used_bytes(Quota::Sessions);
        if used_bytes >= MAX_SESSIONS_BYTES {
            Err(KvError::Full { quota: Quota::Sessions, used_bytes })
        } else {
            Ok(())
        }
    }

    pub(super) fn check_disk(&self) -> Result<(), KvError> {
        self.rows.failure().map_or(Ok(()), |reason| Err(KvError::Disk { reason: reason.into() }))
    }

    fn delete_prefix(&mut self, prefix: &str, now: Instant, wall_us: u64) -> Result<bool, KvError> {
        for key in self.plain_below(prefix)? {
            self.write_plain(key, &Change::Delete { rule: Rule::Always }, now, wall_us)?;
        }
        Ok(true)
    }

    /// The keys that begin so. Fails when there are guarded ones among them.
    pub(super) fn plain_below(&self, prefix: &str) -> Result<Vec<Key>, KvError> {
        check_prefix(prefix)?;
        let live = self.store.range(prefix).filter(|(key, held)| held.entry.is_live() && !key.is_internal());
        let keys: Vec<_> = live.map(|(key, _)| key.clone()).collect();
        let guarded: Vec<_> = keys.iter().filter(|key| self.is_guarded(key)).collect();
        if let Some(&first) = guarded.first() {
            return Err(KvError::GuardedBelow { count: guarded.len(), first: first.clone() });
        }
        Ok(keys)
    }

    /// Takes an entry into the replica, to be stored and told.
    pub(super) fn take(&mut self, key: &Key, entry: Entry, origin: Origin, now: Instant, wall_us: u64) {
        match self.store.merge(key, entry, wall_us) {
            Merged::Newer => {
                let held = self.store.get(key.as_str()).expect("it was taken in");
                self.rows.put(Table::Entries, key.as_str().as_bytes(), &(&held.entry, held.arrival));
                self.store_facts();
                self.changed.insert(key.clone());
                if key.is_own() {
                    self.own_changed.insert(key.clone());
                }
                self.spread.on_news(key, origin, now);
            }
            Merged::Refused => self.counters.refused += 1,
            Merged::Stale => {}
        }
    }

    pub(super) fn store_facts(&mut self) {
        let facts = StoreFacts { latest: self.store.latest().0, collected: self.store.collected() };
        self.rows.put(Table::Facts, STORE_FACTS, &facts);
    }
}

#[cfg(test)]
mod tests;

//! Upkeep of sessions: who is not renewed or has lost its node ends, and locks of the ended are given back.
//!
//! For each session and each locked key one live node cares, chosen by rendezvous hashing, so that not all ask at once.
//! Two that both think so do no harm: each step is a guarded change with its condition.
//!
//! A time to live is measured on this node's monotonic clock, from the moment at which it saw the last renewal, and the
//! session ends only if there was none since: a jump of a clock ends nothing early.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use weaved_api::PeerId;

use super::{
    change::Change,
    key::{Key, hash64},
    machine::Kv,
    session::{Behaviour, Phase, Session, SessionId, ended_session},
};

/// Interval of looking.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A node must be away for so long before its sessions are lost.
const NODE_PATIENCE: Duration = Duration::from_secs(10);

/// Work on behalf of the cluster.
#[derive(Debug)]
pub(super) enum Due {
    /// This is to be changed.
    Change(Key, Change),
    /// This replica does not know a session that holds a lock: it has not arrived, or was forgotten. A majority knows which.
    Ask(SessionId, Key),
}

/// When each session was renewed last, as seen here.
#[derive(Debug)]
pub(super) struct Keeper {
    seen: BTreeMap<Key, Seen>,
    look_at: Instant,
}

#[derive(Debug)]
struct Seen {
    renewals: u64,
    renewed_at: Instant,
    node_alive_at: Instant,
}

impl Keeper {
    pub(super) fn new(now: Instant) -> Self {
        Self { seen: BTreeMap::new(), look_at: now }
    }

    pub(super) fn next_timeout(&self) -> Instant {
        self.look_at
    }
}

impl Kv {
    /// What is due.
    pub(super) fn upkeep(&mut self, now: Instant) -> Vec<Due> {
        if self.keeper.look_at > now {
            return Vec::new();
        }
        self.keeper.look_at = now + LOOK_EVERY;
        let mut due = self.lost_sessions(now);
        due.extend(self.orphaned_locks());
        due
    }

    fn lost_sessions(&mut self, now: Instant) -> Vec<Due> {
        let mut due = Vec::new();
        let mut seen = BTreeMap::new();
        for (key, session, _) in self.store.live_sessions() {
            let before = self.keeper.seen.get(key);
            let is_alive = self.members.live.contains(&session.node);
            let renewed = before.filter(|before| before.renewals == session.renewals).map(|before| before.renewed_at);
            let alive = before.filter(|_| !is_alive).map(|before| before.node_alive_at);
            let (renewed_at, node_alive_at) = (renewed.unwrap_or(now), alive.unwrap_or(now));
            let ttl = session.spec.ttl_us.map(Duration::from_micros);
            let is_lost = ttl.is_some_and(|ttl| now >= renewed_at + ttl) || now >= node_alive_at + NODE_PATIENCE;
            if is_lost && self.cares_for(key) {
                let renewals = Some(session.renewals);
                due.push(Due::Change(key.clone(), Change::EndSession { phase: Phase::Lost, renewals }));
            }
            seen.insert(key.clone(), Seen { renewals: session.renewals, renewed_at, node_alive_at });
        }
        self.keeper.seen = seen;
        due
    }

    fn orphaned_locks(&self) -> impl Iterator<Item = Due> {
        let locked = self.store.locked().filter_map(|(key, held)| Some((key, held.entry.session?)));
        locked.filter(|(key, _)| self.cares_for(key)).filter_map(|(key, session)| {
            let Some(held) = self.store.get(Key::of_session(session).as_str()) else {
                return Some(Due::Ask(session, key.clone()));
            };
            let ended = ended_session(&held.entry)?;
            Some(Due::Change(key.clone(), unlock(session, Some(&ended))))
        })
    }

    /// Whether this node is the live one with the highest hash of key and id.
    fn cares_for(&self, key: &Key) -> bool {
        let weight = |id: &PeerId| hash64(&[key.as_str().as_bytes(), &id.0]);
        let first = self.members.live.iter().max_by_key(|id| weight(id));
        first.is_none_or(|first| *first == self.id())
    }
}

/// Gives the lock of a session back that has ended. Of one that was forgotten it is known that it ended long ago.
pub(super) fn unlock(session: SessionId, ended: Option<&Session>) -> Change {
    let is_lost = ended.is_some_and(|ended| ended.phase == Phase::Lost);
    let spec = ended.map(|ended| &ended.spec);
    Change::Unlock {
        session,
        behaviour: spec.map_or(Behaviour::Release, |spec| spec.behaviour),
        delay_us: spec.filter(|_| is_lost).map_or(0, |spec| spec.lock_delay_us),
    }
}

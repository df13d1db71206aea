//! All switches as one node sees them: orders that it carries out, its own part in those of others, and upkeep.
//!
//! The caller's turn: hand in what has happened, carry out [`Switches::poll_effect`] until None, take
//! [`Switches::poll_answer`] until None, and call [`Switches::handle_timeout`] at [`Switches::poll_timeout`].

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::{Duration, Instant},
};

use rand::{RngExt as _, rngs::StdRng};
use weaved_api::{
    PeerId,
    balancer::{BalancerReport, SwitchState},
};

use super::{
    ServiceFacts,
    around::{Around, Effect, Out, Purpose, Records, service_of_record},
    attempt::{Attempt, Context},
    keeper::Tally,
    limits::{CATCH_UP, MAX_ATTEMPTS, MAX_CORES, UPKEEP},
    member::{Asked, Heard, Member},
    message::SwitchMessage,
    order::{AttemptId, Order, ProgressReport, What},
    record::{Record, service_of_mirror},
    refusal::Refusal,
};
use crate::{
    catalogue::{Instance, View},
    kv::{Change, Decided, Entry, KvError, RequestId, Rule},
};

/// Attempts are numbered below this, so that every reader of JSON keeps all digits.
const ID_BITS: u32 = 53;

/// The switches of one node.
#[derive(Debug)]
pub struct Switches {
    rng: StdRng,
    started_at: Instant,
    pub(super) records: Records,
    pub(super) member: Member,
    pub(super) attempts: BTreeMap<AttemptId, Attempt>,
    pub(super) out: Out,
    /// Clients of the key-value store that wait for a switch.
    waiting: BTreeMap<RequestId, AttemptId>,
    answers: VecDeque<(RequestId, Result<bool, Refusal>)>,
    pub(super) upkeep_busy: BTreeSet<String>,
    pub(super) tallies: BTreeMap<String, Tally>,
    /// What the operator was told of keys in his file that other services have.
    pub(super) told_taken: BTreeSet<String>,
    /// And of what is due and held, by service and source: at which revision.
    pub(super) told_held: BTreeMap<(String, String), u64>,
    upkeep_at: Instant,
    has_caught_up: bool,
}

impl Switches {
    /// Before anything is known.
    pub fn new(rng: StdRng, now: Instant) -> Self {
        Self {
            rng,
            started_at: now,
            records: Records::default(),
            member: Member::default(),
            attempts: BTreeMap::new(),
            out: Out::default(),
            waiting: BTreeMap::new(),
            answers: VecDeque::new(),
            upkeep_busy: BTreeSet::new(),
            tallies: BTreeMap::new(),
            told_taken: BTreeSet::new(),
            told_held: BTreeMap::new(),
            upkeep_at: now,
            has_caught_up: false,
        }
    }

    /// Somebody wants something of a service.
    pub fn begin(&mut self, order: Order, around: &Around<'_>) -> Result<AttemptId, Refusal> {
        // What the operator's file says holds until something is decided.
        let fresh = self.fresh_record(&order.service);
        let is_fresh = self.records.get(&order.service).is_none();
        if let Some(key) = order.key.as_ref().or(is_fresh.then_some(&fresh.key)) {
            self.require_free(key, &order.service, around.view)?;
        }
        self.attempts.retain(|_, attempt| !attempt.is_forgotten(around.now));
        if self.attempts.len() >= MAX_ATTEMPTS {
            let oldest_ended = self.attempts.iter().find(|(_, attempt)| attempt.is_ended()).map(|(id, _)| *id);
            self.attempts.remove(&oldest_ended.ok_or(Refusal::Busy)?);
        }
        let id = AttemptId(self.rng.random::<u64>() >> (64 - ID_BITS));
        let mut ctx = Context { around, records: &mut self.records, out: &mut self.out };
        let attempt = Attempt::begin(id, order, fresh, &mut ctx);
        self.attempts.insert(id, attempt);
        Ok(id)
    }

    /// A key shows one live colour.
    pub(super) fn require_free(&self, key: &str, service: &str, view: &View) -> Result<(), Refusal> {
        match self.shown_by(key, view).into_iter().find(|other| other != service) {
            Some(by) => Err(Refusal::KeyTaken { service: service.to_owned(), key: key.to_owned(), by }),
            None => Ok(()),
        }
    }

    /// How an attempt goes, behind the line of this number; None for one that is not known, or not any more.
    pub fn progress(&self, id: AttemptId, after: usize) -> Option<ProgressReport> {
        self.attempts.get(&id).map(|attempt| attempt.report(after))
    }

    /// The service whose live colour a key shows.
    pub fn mirrored_by(&self, key: &str, view: &View) -> Option<String> {
        self.shown_by(key, view).into_iter().next()
    }

    /// All services whose live colour a key shows: those about which something is decided first, then what files say, then the
    /// usual one.
    fn shown_by(&self, key: &str, view: &View) -> Vec<String> {
        let decided = self.records.iter().filter(|(_, held)| held.record.key == key).map(|(service, _)| service);
        let named = self.member.balanced().map(|facts| facts.name.as_str());
        let usual = service_of_mirror(key).filter(|service| view.service(service).is_some());
        let undecided = named.chain(usual).filter(|service| self.records.get(service).is_none());
        let undecided = undecided.filter(|service| self.fresh_record(service).key == key);
        decided.chain(undecided).map(ToOwned::to_owned).collect()
    }

    /// A client of the key-value store changes the key that shows the live colour of a service. The answer comes with
    /// [`Self::poll_answer`].
    pub fn handle_write(&mut self, id: RequestId, service: &str, change: &Change, source: &str, around: &Around<'_>) {
        match order_of_write(service, change, source) {
            Ok(order) => match self.begin(order, around) {
                Ok(attempt) => {
                    self.waiting.insert(id, attempt);
                    self.answer_waiting();
                }
                Err(refusal) => self.answers.push_back((id, Err(refusal))),
            },
            Err(refusal) => self.answers.push_back((id, Err(refusal))),
        }
    }

    /// An answer for a client of the key-value store: whether its condition held, or why nothing was switched.
    #[must_use = "an answer is handed out once"]
    pub fn poll_answer(&mut self) -> Option<(RequestId, Result<bool, Refusal>)> {
        self.answers.pop_front()
    }

    /// The record of a service.
    pub fn record(&self, service: &str) -> Option<&Record> {
        self.records.get(service).map(|held| &held.record)
    }

    /// All records, by service.
    pub fn records(&self) -> impl Iterator<Item = (&str, &Record)> {
        self.records.iter().map(|(service, held)| (service, &held.record))
    }

    /// What the register of a service holds, as it comes with the keys.
    pub fn handle_entry(&mut self, key: &str, entry: &Entry, around: &Around<'_>) {
        let Some(service) = service_of_record(key) else { return };
        if let Some(held) = self.records.note(service, entry, around.now) {
            let core = held.core(service);
            let pending = held.record.pending.as_ref().map(|pending| pending.attempt);
            self.member.hear(core, Heard::InPassing, around);
            self.member.on_pending(service, pending);
        }
    }

    /// The same, from an earlier run.
    pub fn restore_entry(&mut self, key: &str, entry: &Entry, around: &Around<'_>) {
        let Some(service) = service_of_record(key) else { return };
        if let Some(core) = self.records.note(service, entry, around.now).map(|held| held.core(service)) {
            self.member.hear(core, Heard::Late, around);
        }
    }

    /// A session with a peer is up: it is told what is decided, so that it does not serve what was.
    pub fn handle_peer_up(&mut self, id: PeerId) {
        self.send_cores(id, false);
    }

    fn send_cores(&mut self, id: PeerId, is_answer: bool) {
        let cores: Vec<_> = self.member.cores().cloned().collect();
        let count = cores.len().div_ceil(MAX_CORES).max(1);
        for place in 0..count {
            let cores = cores.iter().skip(place * MAX_CORES).take(MAX_CORES).cloned().collect();
            self.out.send(id, SwitchMessage::Cores { cores, is_last: place + 1 == count, is_answer });
        }
    }

    /// A peer says something, or this node itself.
    pub fn handle_message(&mut self, from: PeerId, message: SwitchMessage, around: &Around<'_>) {
        let mut ctx = Context { around, records: &mut self.records, out: &mut self.out };
        match message {
            SwitchMessage::Prepare { attempt, service, colour, colours, patience_ms } => {
                let patience = Duration::from_millis(patience_ms).min(super::limits::MAX_TIMEOUT);
                let asked = Asked { attempt, service, colour, colours, patience };
                self.member.on_prepare(from, asked, around.now, &mut self.out);
            }
            SwitchMessage::Prepared { attempt, state } => {
                if let Some(attempt) = self.attempts.get_mut(&AttemptId(attempt)) {
                    attempt.handle_prepared(from, &state, &mut ctx);
                }
            }
            SwitchMessage::Cancel { attempt, service } => self.member.on_cancel(&service, attempt),
            SwitchMessage::Commit { attempt, core, in_us } => {
                let (service, revision) = (core.service.clone(), core.revision);
                self.member.hear(core, Heard::Directly { in_us }, around);
                self.member.on_asked(from, attempt, &service, revision, &mut self.out);
            }
            SwitchMessage::Told { attempt, state } => {
                if let Some(attempt) = self.attempts.get_mut(&AttemptId(attempt)) {
                    attempt.handle_told(from, state, &mut ctx);
                }
            }
            SwitchMessage::Cores { cores, is_last, is_answer } => {
                for core in cores {
                    self.member.hear(core, Heard::Late, around);
                }
                self.has_caught_up |= is_last;
                if is_last && !is_answer {
                    self.send_cores(from, true);
                }
            }
            SwitchMessage::Counted { service, revision, new, old } => {
                self.on_counted(from, &service, revision, (new, old));
            }
        }
        self.answer_waiting();
    }

    /// What a majority has decided, or why it has not.
    pub fn handle_decided(&mut self, op: u64, result: Result<Decided, KvError>, around: &Around<'_>) {
        match self.out.purposes.remove(&op) {
            Some(Purpose::Attempt(id, stage)) => {
                let mut ctx = Context { around, records: &mut self.records, out: &mut self.out };
                if let Some(attempt) = self.attempts.get_mut(&id) {
                    attempt.handle_decided(stage, result, &mut ctx);
                }
            }
            Some(Purpose::Upkeep(service)) => drop(self.upkeep_busy.remove(&service)),
            None => {}
        }
        self.answer_waiting();
    }

    /// The services that the balancer of this host serves.
    pub fn handle_balanced_services(&mut self, services: Vec<ServiceFacts>) {
        self.member.handle_balanced(services);
    }

    /// The gateway of this host does not answer.
    pub fn handle_balancer_away(&mut self, reason: &str) {
        self.member.handle_away(reason, &mut self.out);
    }

    /// What the balancer of this host does.
    pub fn handle_balancer_report(&mut self, report: BalancerReport) {
        self.member.handle_report(report, &mut self.out);
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, around: &Around<'_>) {
        self.member.handle_timeout(around.now);
        let mut ctx = Context { around, records: &mut self.records, out: &mut self.out };
        for attempt in self.attempts.values_mut() {
            attempt.handle_timeout(&mut ctx);
        }
        if self.upkeep_at <= around.now {
            self.upkeep_at = around.now + UPKEEP;
            self.upkeep(around);
        }
        self.answer_waiting();
    }

    /// When [`Self::handle_timeout`] wants to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let attempts = self.attempts.values().filter_map(Attempt::next_timeout);
        attempts.chain(self.member.next_timeout()).chain([self.upkeep_at]).min()
    }

    /// Something to be done.
    #[must_use = "an effect is handed out once"]
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.out.effects.pop_front()
    }

    /// What the balancer of this host is to do for a service. `offset_us` is what the system's clock is ahead of the node's.
    pub fn state(&self, service: &str, offset_us: i64) -> SwitchState {
        self.member.state(service, offset_us)
    }

    /// Grows when a [`Self::state`] or the colours of instances may have changed.
    pub fn version(&self) -> u64 {
        self.member.version()
    }

    /// The colours of an instance.
    pub fn colours_of(&self, instance: &Instance) -> Vec<String> {
        self.member.colours_of(instance)
    }

    /// True when what is live may be believed: somebody has told, or nobody has for long enough.
    pub fn has_caught_up(&self, is_alone: bool, now: Instant) -> bool {
        self.has_caught_up || is_alone || now >= self.started_at + CATCH_UP
    }

    /// The record of a service about which nothing is decided.
    pub(super) fn fresh_record(&self, service: &str) -> Record {
        let facts = self.member.balanced().find(|facts| facts.name == service);
        let usual = Record::new(service);
        Record {
            key: facts.map_or_else(|| usual.key.clone(), ServiceFacts::mirror_key),
            colours: facts.and_then(|facts| facts.colour.clone()).unwrap_or_default(),
            ..usual
        }
    }

    pub(super) fn is_attempting(&self, service: &str) -> bool {
        self.attempts.values().any(|attempt| !attempt.is_ended() && attempt.service() == service)
    }

    fn answer_waiting(&mut self) {
        let done: Vec<_> = self
            .waiting
            .iter()
            .filter_map(|(request, id)| match self.attempts.get(id) {
                Some(attempt) => Some((*request, attempt.verdict()?)),
                None => Some((*request, Err(Refusal::Overtaken))),
            })
            .collect();
        for (request, verdict) in done {
            self.waiting.remove(&request);
            self.answers.push_back((request, verdict));
        }
    }
}

/// A put of the key that shows the live colour, as an order.
fn order_of_write(service: &str, change: &Change, source: &str) -> Result<Order, Refusal> {
    let senseless = |what: &str| {
        Refusal::Senseless(format!(
            "{what}: this key shows which colour of {service} is live; put another colour there"
        ))
    };
    let Change::Put { value, flags, rule } = change else {
        return Err(senseless("the key cannot be deleted"));
    };
    if *flags != 0 {
        return Err(senseless("the key cannot have flags"));
    }
    let at_index = match rule {
        Rule::Always => None,
        Rule::AtIndex(index) => Some(*index),
        Rule::Acquire(_) | Rule::Release(_) => return Err(senseless("the key cannot be locked")),
    };
    let colour = std::str::from_utf8(value.as_bytes()).map_err(|_| senseless("the value is no text"))?.trim();
    Ok(Order { at_index, ..Order::new(service, What::To(colour.to_owned()), "a client", source) })
}

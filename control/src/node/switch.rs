//! The node's place between the switches of services, the keys that a majority decides, and the balancer of its host.

use std::{
    collections::BTreeSet,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use weaved_api::{
    PeerId,
    balancer::{BalancerReport, SwitchState},
};

use super::{Node, NodeEvent};
use crate::{
    catalogue::Instance,
    cluster::Message,
    kv::{Answer, KvError, Reply, Request, RequestId},
    switch::{
        Around, AttemptId, Effect, Order, PREFIX, ProgressReport, Record, Refusal, ServiceFacts, Shown, SwitchMessage,
        Switches,
    },
};

impl Node {
    /// Which colours of this service get traffic here. Grows [`Self::switch_version`] when it changes.
    pub fn switch_state(&self, service: &str) -> SwitchState {
        self.switches().state(service, self.clock_offset_us)
    }

    /// Grows whenever a [`Self::switch_state`] or the colours of instances may have changed.
    pub fn switch_version(&self) -> u64 {
        self.switches().version()
    }

    /// True when what this node knows to be live may be believed: after a start it may have missed switches, and hears of
    /// them from the first peer.
    pub fn knows_what_is_live(&self, now: Instant) -> bool {
        let is_alone = self.known.is_empty() && self.sessions.is_empty() && self.replica.members().next().is_none();
        self.switches().has_caught_up(is_alone, now)
    }

    /// The colours of an instance, by the rule of its service.
    pub fn colours_of(&self, instance: &Instance) -> Vec<String> {
        self.switches().colours_of(instance)
    }

    /// The system's clock, which may be set while the node runs: moments are told to the balancer by it.
    pub fn handle_clock(&mut self, wall: SystemTime, now: Instant) {
        let wall_us = wall.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64);
        self.clock_offset_us = wall_us.cast_signed() - self.clock.wall_us(now).cast_signed();
    }

    /// The services that the balancer of this host serves, all of them, as the operator's file says.
    pub fn handle_balanced_services(&mut self, services: Vec<ServiceFacts>, now: Instant) {
        self.with_switches(now, |switches, _| switches.handle_balanced_services(services));
        self.refresh(now);
    }

    /// The gateway of this host does not answer, for this reason. Over with the next [`Self::handle_balancer_report`].
    pub fn handle_balancer_away(&mut self, reason: &str, now: Instant) {
        self.with_switches(now, |switches, _| switches.handle_balancer_away(reason));
        self.refresh(now);
    }

    /// What the balancer of this host does.
    pub fn handle_balancer_report(&mut self, mut report: BalancerReport, now: Instant) {
        for service in &mut report.services {
            service.switched_at_us = service.switched_at_us.saturating_add_signed(-self.clock_offset_us);
        }
        self.with_switches(now, |switches, _| switches.handle_balancer_report(report));
        self.refresh(now);
    }

    /// Somebody wants something of a service.
    pub fn handle_switch(&mut self, order: Order, now: Instant) -> Result<AttemptId, Refusal> {
        let begun = self.with_switches(now, |switches, around| switches.begin(order, around));
        self.refresh(now);
        begun
    }

    /// How an attempt goes, behind the line of this number; None for one that is not known, or not any more.
    pub fn switch_progress(&self, id: AttemptId, after: usize) -> Option<ProgressReport> {
        self.switches().progress(id, after)
    }

    /// What is decided about a service.
    pub fn switch_record(&self, service: &str) -> Option<&Record> {
        self.switches().record(service)
    }

    /// What is decided, by service.
    pub fn switch_records(&self) -> impl Iterator<Item = (&str, &Record)> {
        self.switches().records()
    }

    /// A client changes keys. Where the key shows the live colour of a service, that is an order to switch.
    pub(super) fn is_switched_by(&mut self, id: RequestId, request: &Request, source: &str, now: Instant) -> bool {
        let Request::Write { key, change } = request else { return false };
        self.with_switches(now, |switches, around| {
            let Some(service) = switches.mirrored_by(key, around.view) else { return false };
            switches.handle_write(id, &service, change, source, around);
            true
        })
    }

    pub(super) fn on_switch_message(&mut self, from: PeerId, message: SwitchMessage, now: Instant) {
        self.with_switches(now, |switches, around| switches.handle_message(from, message, around));
    }

    pub(super) fn on_switch_peer_up(&mut self, id: PeerId, now: Instant) {
        self.with_switches(now, |switches, _| switches.handle_peer_up(id));
    }

    pub(super) fn switch_timeout(&mut self, now: Instant) {
        if self.switches().poll_timeout().is_some_and(|at| at <= now) {
            self.with_switches(now, Switches::handle_timeout);
        }
    }

    pub(super) fn next_switch_timeout(&self) -> Option<Instant> {
        self.switches().poll_timeout()
    }

    /// The records as the keys of an earlier run have them.
    pub(super) fn restore_switches(&mut self, now: Instant) {
        let entries: Vec<_> = self.kv.entries(PREFIX).map(|(key, entry)| (key.clone(), entry.clone())).collect();
        self.with_switches(now, |switches, around| {
            for (key, entry) in &entries {
                switches.restore_entry(key.as_str(), entry, around);
            }
        });
    }

    /// Carries messages, decisions and keys between switches and the rest of the node, until nothing is left.
    pub(super) fn drain_switches(&mut self, now: Instant) {
        loop {
            if let Some(effect) = self.switches.as_mut().and_then(|own| own.poll_effect()) {
                self.carry_out_switch(effect, now);
            } else if let Some((op, outcome)) = self.kv.poll_own() {
                if let Some(request) = self.own_requests.remove(&op) {
                    let answer = outcome.map(|decided| Reply::Written(decided.is_allowed));
                    self.kv_answers.push_back((request, answer));
                } else {
                    self.with_switches(now, |switches, around| switches.handle_decided(op, outcome, around));
                }
            } else if let Some(key) = self.kv.poll_own_changed() {
                if let Some(entry) = self.kv.entry(key.as_str()).cloned() {
                    self.with_switches(now, |switches, around| switches.handle_entry(key.as_str(), &entry, around));
                }
                self.on_drain_key(&key, now);
            } else {
                break;
            }
        }
        while let Some((request, answer)) = self.switches.as_mut().and_then(|switches| switches.poll_answer()) {
            self.kv_answers.push_back((request, answer_of(answer)));
        }
    }

    fn carry_out_switch(&mut self, effect: Effect, now: Instant) {
        match effect {
            Effect::Send(to, message) if to == self.config.id => self.on_switch_message(to, message, now),
            Effect::Send(to, message) => self.send(to, &Message::Switch(Box::new(message))),
            Effect::Decide(op, key, change) => self.kv.begin_own(op, key, change, now, self.clock.wall_us(now)),
            Effect::Note(text) => self.emit(NodeEvent::Switch(text)),
        }
    }

    fn switches(&self) -> &Switches {
        self.switches.as_ref().expect("they are away only within `with_switches`")
    }

    /// Hands the rest of the node to a call of its switches.
    fn with_switches<R>(&mut self, now: Instant, call: impl FnOnce(&mut Switches, &Around<'_>) -> R) -> R {
        let mut switches = self.switches.take().expect("they are away only within this function");
        let me = self.config.id;
        let members = self.replica.members().map(|(id, _)| id);
        let live: BTreeSet<_> = members.filter(|&id| self.membership.is_up(id)).chain([me]).collect();
        let around = Around {
            me,
            view: self.services.view(),
            live: &live,
            name: &|id| self.name_of(id),
            key: &|key| {
                let entry = self.kv.entry(key)?;
                Some(Shown { index: entry.modified.0, value: entry.value.as_ref()?.as_bytes().to_vec() })
            },
            now,
            wall_us: self.clock.wall_us(now),
        };
        let result = call(&mut switches, &around);
        self.switches = Some(switches);
        result
    }
}

/// Nothing is known yet.
pub(super) fn new_switches(rng: &mut StdRng, now: Instant) -> Box<Switches> {
    Box::new(Switches::new(StdRng::from_seed(rng.random()), now))
}

fn answer_of(answer: Result<bool, Refusal>) -> Answer {
    let refused = |refusal: Refusal| KvError::NotSwitched { reason: refusal.to_string(), word: refusal.word().into() };
    answer.map(Reply::Written).map_err(refused)
}

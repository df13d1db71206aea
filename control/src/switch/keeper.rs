//! Upkeep of services: what nobody asks for and must be done.
//!
//! For each service one live node cares, chosen by rendezvous hashing; each step is a compare-and-set, so two that both
//! think so do no harm. Times are measured on this node's own clock, from the moment at which it saw the present revision.
//!
//! * A pending switch that belongs to nobody is taken away.
//! * The key that mirrors the live colour is written where it differs.
//! * A canary takes its next step; a colour that does worse than it may is taken back; a watch that is over ends. A step to where
//!   nobody could answer is held, and so is a way back: looked at with each upkeep, and noted once.

use std::{collections::BTreeMap, time::Duration};

use aws_lc_rs::digest::{SHA256, digest};
use weaved_api::PeerId;

use super::{
    around::{Around, HeldRecord, Purpose},
    canary::Canary,
    limits::UPKEEP,
    machine::Switches,
    message::SwitchMessage,
    order::{Order, What},
    plan::plan,
    record::{Record, record_key},
    refusal::Refusal,
    verdict::{Counts, Verdict},
};
use crate::kv::{self, Rule, Value};

/// A mirror key is given this long after a switch: its coordinator writes it first.
const MIRROR_PATIENCE: Duration = Duration::from_secs(1);
/// Who switches what nobody has ordered.
const OURSELVES: &str = "weaved";

/// What the balancers of all hosts have counted of a service.
#[derive(Debug, Default)]
pub(super) struct Tally {
    revision: u64,
    hosts: BTreeMap<PeerId, (Counts, Counts)>,
}

/// What a record needs.
#[derive(Debug, PartialEq, Eq)]
enum Need {
    Change(Box<Record>),
    Mirror(u64),
    Order(What, &'static str),
}

impl Switches {
    /// Does what is due.
    pub(super) fn upkeep(&mut self, around: &Around<'_>) {
        let services: Vec<_> = self.records.iter().map(|(service, _)| service.to_owned()).collect();
        for service in services {
            let Some(held) = self.records.get(&service).cloned() else { continue };
            self.tell_counts(&service, &held.record, around);
            if self.upkeep_busy.contains(&service) || self.is_attempting(&service) {
                continue;
            }
            let is_ours = held.record.pending.as_ref().is_some_and(|pending| pending.coordinator == around.me);
            if is_ours || keeper_of(&service, around) == around.me {
                self.meet(&service, &held, around);
            }
        }
        self.adopt_facts(around);
    }

    fn meet(&mut self, service: &str, held: &HeldRecord, around: &Around<'_>) {
        let Some(need) = self.need(service, held, around) else { return };
        match need {
            Need::Change(record) => self.write(service, held, &record),
            Need::Mirror(index) => {
                self.upkeep_busy.insert(service.to_owned());
                let value = Value::new(held.record.current().unwrap_or_default().as_bytes());
                let change = kv::Change::Put { value, flags: 0, rule: Rule::AtIndex(index) };
                self.out.decide(Purpose::Upkeep(service.to_owned()), &held.record.key, change);
            }
            Need::Order(what, source) => {
                let order = Order::new(service, what, OURSELVES, source);
                match plan(&order, &held.record, None, around.view) {
                    // One that is refused all the same is tried again with the next upkeep.
                    Ok(_) => drop(self.begin(order, around)),
                    Err(refusal) => self.hold(service, held, order, &refusal),
                }
            }
        }
    }

    /// What is due cannot be done. It is only looked at until it can be: told once, and a canary's record says it.
    fn hold(&mut self, service: &str, held: &HeldRecord, order: Order, refusal: &Refusal) {
        let (record, revision) = (&held.record, held.record.revision);
        let words = format!("the {} of {service} waits: {refusal}", order.source);
        if self.told_held.insert((service.to_owned(), order.source), revision) != Some(revision) {
            self.out.note(words);
        }
        if let (What::Step, Some(canary)) = (order.what, &record.canary)
            && canary.held.is_none()
        {
            let canary = Canary { held: Some(refusal.to_string()), ..canary.clone() };
            self.write(service, held, &Record { canary: Some(canary), ..record.clone() });
        }
    }

    /// Another record that says the same of what is live.
    fn write(&mut self, service: &str, held: &HeldRecord, record: &Record) {
        self.upkeep_busy.insert(service.to_owned());
        let change = kv::Change::Put { value: record.to_value(), flags: 0, rule: Rule::AtIndex(held.index) };
        self.out.decide(Purpose::Upkeep(service.to_owned()), &record_key(service), change);
    }

    fn need(&self, service: &str, held: &HeldRecord, around: &Around<'_>) -> Option<Need> {
        let record = &held.record;
        let age = around.now.saturating_duration_since(held.revision_since);
        if let Some(pending) = &record.pending {
            // An attempt of an earlier life of this node, or one that has ended without a majority.
            let is_lost = pending.coordinator == around.me;
            let is_orphan = held.blocking(around).is_none();
            let without = || Need::Change(Box::new(Record { pending: None, ..record.clone() }));
            return (is_lost || is_orphan).then(without);
        }
        if let (Some(watch), Some(tally)) = (&record.watch, self.tallies.get(service))
            && tally.revision == record.revision
            && let Verdict::Bad(reason) = tally.judge(&watch.limits)
        {
            return Some(Need::Order(What::Rescue(reason), "automatic rollback"));
        }
        if let Some(colour) = record.current()
            && age >= MIRROR_PATIENCE
        {
            let known = (around.key)(&record.key);
            let differs = known.as_ref().is_none_or(|shown| shown.value != colour.as_bytes());
            if differs && self.records.owner_of(&record.key) == Some(service) {
                return Some(Need::Mirror(known.map_or(0, |shown| shown.index)));
            }
        }
        match (&record.canary, &record.watch) {
            (Some(canary), _) if !canary.paused && age >= Duration::from_millis(canary.step_ms) => {
                Some(Need::Order(What::Step, "canary"))
            }
            (None, Some(watch)) if age >= Duration::from_millis(watch.length_ms) => {
                Some(Need::Change(Box::new(Record { watch: None, ..record.clone() })))
            }
            _ => None,
        }
    }

    /// Tells the node that watches what this host's balancer has counted.
    fn tell_counts(&mut self, service: &str, record: &Record, around: &Around<'_>) {
        let Some(watch) = &record.watch else {
            self.tallies.remove(service);
            return;
        };
        if let Some((revision, new, old)) = self.member.counts(service, watch) {
            let message = SwitchMessage::Counted { service: service.to_owned(), revision, new, old };
            self.out.send(keeper_of(service, around), message);
        }
    }

    pub(super) fn on_counted(&mut self, from: PeerId, service: &str, revision: u64, counts: (Counts, Counts)) {
        let Some(held) = self.records.get(service).filter(|held| held.record.watch.is_some()) else { return };
        let latest = held.record.revision;
        let tally = self.tallies.entry(service.to_owned()).or_default();
        if tally.revision != latest {
            *tally = Tally { revision: latest, ..Tally::default() };
        }
        if revision == latest {
            tally.hosts.insert(from, counts);
        }
    }

    /// What the operator's file of this host says of a service that nothing is decided about yet.
    fn adopt_facts(&mut self, around: &Around<'_>) {
        let unknown = self.member.balanced().filter(|facts| facts.key.is_some() || facts.colour.is_some());
        let unknown = unknown.filter(|facts| self.records.get(&facts.name).is_none());
        let facts: Vec<_> = unknown.filter(|facts| !self.upkeep_busy.contains(&facts.name)).cloned().collect();
        for facts in facts {
            let record = self.fresh_record(&facts.name);
            if let Err(taken) = self.require_free(&record.key, &facts.name, around.view) {
                let words = format!("the file of this host: {taken}");
                if self.told_taken.insert(words.clone()) {
                    self.out.note(words);
                }
                continue;
            }
            if Order::new(&facts.name, What::Back, "", "").problem().is_none() && around.live.contains(&around.me) {
                self.upkeep_busy.insert(facts.name.clone());
                let change = kv::Change::Put { value: record.to_value(), flags: 0, rule: Rule::AtIndex(0) };
                self.out.decide(Purpose::Upkeep(facts.name.clone()), &record_key(&facts.name), change);
            }
        }
    }
}

impl Tally {
    fn judge(&self, limits: &super::verdict::Limits) -> Verdict {
        let (mut new, mut old) = (Counts::default(), Counts::default());
        for (ours, theirs) in self.hosts.values() {
            new.add(ours);
            old.add(theirs);
        }
        limits.judge(&new, &old)
    }
}

/// The live node with the highest hash of service and id.
fn keeper_of(service: &str, around: &Around<'_>) -> PeerId {
    let weight = |id: &PeerId| {
        let hashed = digest(&SHA256, &[service.as_bytes(), &id.0].concat());
        <[u8; 32]>::try_from(hashed.as_ref()).expect("SHA-256 has 32 bytes")
    };
    around.live.iter().copied().max_by_key(weight).unwrap_or(around.me)
}

const _: () = assert!(UPKEEP.as_millis() <= MIRROR_PATIENCE.as_millis());

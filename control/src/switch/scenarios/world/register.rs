//! The register of each key, as the hosts of a majority keep it, and how its news reach each host.

use std::time::Duration;

use rand::RngExt as _;
use weaved_api::PeerId;

use super::{
    super::super::record::{Record, describe, record_key},
    Broken, Event, REPAIR, World,
};
use crate::{
    hlc::Hlc,
    ipam::RingSeed,
    kv::{Author, Change, Decided, Decision, Entry, Key, KvError, Rule, decide},
};

impl World {
    pub(in crate::switch::scenarios) fn record(&self) -> Option<Record> {
        let entry = self.register.get(&Key::new(&record_key("web")).unwrap())?;
        Record::from_value(entry.value.as_ref()?)
    }

    /// Of the record: another one after each change.
    pub(in crate::switch::scenarios) fn register_index(&self) -> u64 {
        self.register.get(&Key::new(&record_key("web")).unwrap()).map_or(0, |entry| entry.modified.0)
    }

    pub(in crate::switch::scenarios) fn live_in_words(&self) -> String {
        describe(&self.record().unwrap_or_default().live)
    }

    pub(in crate::switch::scenarios) fn last_reason(&self) -> String {
        self.record().and_then(|record| record.history.last().map(|entry| entry.reason.clone())).unwrap_or_default()
    }

    pub(in crate::switch::scenarios) fn mirror(&self) -> String {
        self.shown("backend/web").map(|(_, value)| value).unwrap_or_default()
    }

    /// The index of a key and what it holds.
    pub(in crate::switch::scenarios) fn shown(&self, key: &str) -> Option<(u64, String)> {
        let entry = self.register.get(&Key::new(key).unwrap())?;
        let value = String::from_utf8_lossy(entry.value.as_ref()?.as_bytes()).into_owned();
        Some((entry.modified.0, value))
    }

    /// What a majority makes of a change.
    pub(super) fn decide(&mut self, index: usize, op: u64, key: Key, change: Change) {
        let count = self.hosts.len();
        let reached = (0..count).filter(|&other| self.passes(index, other) && self.passes(other, index)).count();
        if reached * 2 <= count {
            let error = KvError::NoMajority { key, answered: reached, voters: count };
            return self.at(Duration::from_secs(4), Event::Outcome(index, op, Err(error)));
        }
        let is_unknown = self.rng.random_range(0..1000) < self.faults.unknown_permille;
        if is_unknown && self.rng.random() {
            // Nothing happened, and nobody knows.
            return self.at(Duration::from_secs(4), Event::Outcome(index, op, Err(KvError::OutcomeUnknown { key })));
        }
        let change = match (self.broken, change) {
            (Some(Broken::Conditions), Change::Put { value, flags, .. }) => {
                Change::Put { value, flags, rule: Rule::Always }
            }
            (_, change) => change,
        };
        let author = Author { writer: self.hosts[index].id, now: Hlc(self.wall_us(index)) };
        let current = self.register.get(&key).cloned();
        let is_allowed = match decide(current.as_ref(), &change, author) {
            Decision::Refused => false,
            Decision::Unchanged => true,
            Decision::Changed(entry) => {
                let guard = Some(RingSeed { made_at_us: 1, founder: PeerId([1; 32]) });
                let entry = Entry { guard, ..entry };
                self.check_chain(&key, current.as_ref(), &entry);
                self.register.insert(key.clone(), entry);
                let revision = self.record().unwrap_or_default().revision;
                self.decided_at.entry(revision).or_insert(self.now);
                true
            }
        };
        let entry = self.register.get(&key).cloned();
        for other in (0..count).filter(|&other| other != index) {
            let is_lost = self.rng.random_range(0..1000) < self.faults.loss_permille;
            if let (Some(entry), false, true) = (&entry, is_lost, self.passes(index, other)) {
                let delay = Duration::from_millis(10) + self.delay();
                self.at(delay, Event::Entry(other, key.clone(), entry.clone()));
            }
        }
        let result =
            if is_unknown { Err(KvError::OutcomeUnknown { key }) } else { Ok(Decided { key, is_allowed, entry }) };
        let delay = if is_unknown { Duration::from_secs(4) } else { self.delay() };
        self.at(delay, Event::Outcome(index, op, result));
    }

    /// Who reaches a majority has everything after a while.
    pub(super) fn repair(&mut self) {
        self.at(REPAIR, Event::Repair);
        let newest: Vec<_> = self.register.clone().into_iter().collect();
        for index in 0..self.hosts.len() {
            let reaches = (0..self.hosts.len()).filter(|&other| self.passes(other, index)).count();
            if reaches * 2 > self.hosts.len() {
                newest.iter().for_each(|(key, entry)| self.take(index, key, entry));
            }
        }
    }

    /// A host hears what a key holds.
    pub(super) fn take(&mut self, index: usize, key: &Key, entry: &Entry) {
        let known = self.hosts[index].keys.get(key);
        if known.is_none_or(|known| known.precedence() < entry.precedence()) {
            self.hosts[index].keys.insert(key.clone(), entry.clone());
            self.call(index, |switches, around| switches.handle_entry(key.as_str(), entry, around));
        }
    }
}

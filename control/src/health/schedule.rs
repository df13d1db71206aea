//! When which check runs, and what its results mean. No I/O: time is an argument, jitter comes from a seed.
//!
//! ```text
//!            poll_start                      handle_outcome
//!  waiting ─────────────▶ running (bounded) ───────────────▶ waiting until interval ± jitter
//!                                              │ rise good, or fall bad ones in a row
//!                                              ▼
//!                                            health
//! ```
//!
//! A TTL is nothing that runs: its end is looked for apart from the runs, so that none of them, however long, holds it up.
//!
//! INVARIANT: a check runs at most once at a time, also when it is defined anew meanwhile, and at most [`MAX_RUNNING`] run
//! together, each for at most [`MAX_TIMEOUT`]; half of the places are for those that end within [`DEFAULT_TIMEOUT`]. An
//! outcome of a run that was started for an earlier definition of the check is dropped.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use serde::{Deserialize, Serialize};

use super::{CheckSpec, DEFAULT_TIMEOUT, MAX_TIMEOUT, Probe};
use crate::catalogue::{Check, CheckId, Health, InstanceId, limits};

/// Checks that run together; further ones wait their turn.
pub const MAX_RUNNING: usize = 64;
/// Of these, such whose timeout is longer than [`DEFAULT_TIMEOUT`]: those that hang do not hold up all others.
const MAX_SLOW: usize = MAX_RUNNING / 2;
/// What a node keeps of a check's output.
pub const MAX_OUTPUT_BYTES: usize = 4096;
/// New checks begin within this time, spread, so that a start of the host is no burst.
const FIRST_SPREAD: Duration = Duration::from_secs(1);
/// A result that differs in its words only is told so often: each telling goes to the whole cluster.
const OUTPUT_INTERVAL: Duration = Duration::from_mins(5);
/// Of the interval, either way.
const JITTER: f64 = 0.1;

/// A check of an instance; of the node itself where there is none.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct CheckKey {
    /// Which instance.
    pub instance: Option<InstanceId>,
    /// Which of its checks.
    pub check: CheckId,
}

/// A run to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// Which check.
    pub key: CheckKey,
    /// Which of its runs.
    pub number: u64,
    /// What is done.
    pub probe: Probe,
    /// How long it may take.
    pub timeout: Duration,
}

/// How a run, or a report of a client, ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// How the instance is.
    pub health: Health,
    /// What it printed or answered.
    pub output: String,
}

/// Decides when checks run, and keeps what they say.
pub struct Scheduler {
    rng: StdRng,
    entries: BTreeMap<CheckKey, Entry>,
    /// Runs that wait.
    due: BTreeSet<(Instant, CheckKey)>,
    /// Those of them that may take long.
    slow_due: BTreeSet<(Instant, CheckKey)>,
    /// TTLs that end.
    expiries: BTreeSet<(Instant, CheckKey)>,
    run_count: u64,
    /// Under way, also for definitions that there are no longer; true for those that may take long.
    running: BTreeMap<CheckKey, bool>,
    has_changed: bool,
    /// How checks were when the last process ended.
    remembered: BTreeMap<CheckKey, Health>,
}

struct Entry {
    spec: CheckSpec,
    since: Instant,
    /// When it runs next, or a TTL ends; None while it runs.
    due: Option<Instant>,
    running: Option<u64>,
    /// It is due, and waits for the end of a run that was started for an earlier definition.
    is_held_up: bool,
    good_count: u32,
    bad_count: u32,
    has_passed: bool,
    health: Health,
    output: String,
    output_told_at: Instant,
    critical_since: Option<Instant>,
}

impl Scheduler {
    /// Without any checks. What is remembered of an earlier run takes the place of the initial state, so that a restart
    /// of ours is no event for what we check.
    pub fn new(seed: [u8; 32], remembered: BTreeMap<CheckKey, Health>) -> Self {
        Self {
            rng: StdRng::from_seed(seed),
            entries: BTreeMap::new(),
            due: BTreeSet::new(),
            slow_due: BTreeSet::new(),
            expiries: BTreeSet::new(),
            run_count: 0,
            running: BTreeMap::new(),
            has_changed: false,
            remembered,
        }
    }

    /// All checks that there shall be. One that stays as it was goes on; one that differs begins anew, from how it was where
    /// it asks the same as before, only more or less often.
    pub fn set_checks(&mut self, wanted: BTreeMap<CheckKey, CheckSpec>, now: Instant) {
        let gone: Vec<CheckKey> = self
            .entries
            .iter()
            .filter(|(key, entry)| wanted.get(key).is_none_or(|spec| *spec != entry.spec))
            .map(|(key, _)| key.clone())
            .collect();
        for key in gone {
            let was = self.remove(&key);
            let asks_the_same = |was: &Entry| wanted.get(&key).is_some_and(|spec| spec.probe == was.spec.probe);
            if let Some(was) = was.filter(asks_the_same) {
                self.remembered.insert(key, was.health);
            }
        }
        for (key, spec) in wanted {
            if !self.entries.contains_key(&key) {
                self.add(&key, spec, now);
            }
        }
    }

    /// The next run that is to begin now; None when none is due, or too many are running. TTLs that are over end either
    /// way.
    #[must_use = "a run is handed out once"]
    pub fn poll_start(&mut self, now: Instant) -> Option<Run> {
        while let Some(key) = pop_due(&mut self.expiries, now) {
            self.expire(&key, now);
        }
        loop {
            let waiting = self.next_run().filter(|(at, _)| *at <= now)?.clone();
            // It is in one of them.
            let _ = self.due.remove(&waiting) || self.slow_due.remove(&waiting);
            let key = waiting.1;
            let entry = self.entries.get_mut(&key)?;
            entry.due = None;
            if self.running.contains_key(&key) {
                entry.is_held_up = true;
                continue;
            }
            self.run_count += 1;
            self.running.insert(key.clone(), entry.spec.is_slow());
            entry.running = Some(self.run_count);
            // A definition that an earlier version has stored may ask for more.
            let (probe, timeout) = (entry.spec.probe.clone(), entry.spec.timeout.min(MAX_TIMEOUT));
            return Some(Run { key, number: self.run_count, probe, timeout });
        }
    }

    /// The first of the runs that wait for time alone; the others wait for a place.
    fn next_run(&self) -> Option<&(Instant, CheckKey)> {
        if self.running.len() >= MAX_RUNNING {
            return None;
        }
        let slow_count = self.running.values().filter(|is_slow| **is_slow).count();
        let slow = self.slow_due.first().filter(|_| slow_count < MAX_SLOW);
        self.due.first().into_iter().chain(slow).min()
    }

    /// A run has ended. Each run that was handed out ends exactly once.
    pub fn handle_outcome(&mut self, key: &CheckKey, number: u64, outcome: &Outcome, now: Instant) {
        self.running.remove(key);
        let Some(entry) = self.entries.get_mut(key) else { return };
        if entry.running != Some(number) {
            if std::mem::take(&mut entry.is_held_up) {
                self.wait_until(key, now);
            }
            return;
        }
        entry.running = None;
        self.has_changed |= entry.take(outcome, now);
        let interval = entry.spec.interval;
        let factor = self.rng.random_range(1.0 - JITTER..1.0 + JITTER);
        self.wait_until(key, now + interval.mul_f64(factor));
    }

    /// A client reports. False when there is no check of kind `ttl` with this id.
    pub fn handle_report(&mut self, check: &CheckId, outcome: &Outcome, now: Instant) -> bool {
        let is_asked = |key: &CheckKey, entry: &Entry| key.check == *check && matches!(entry.spec.probe, Probe::Ttl(_));
        let keys: Vec<CheckKey> =
            self.entries.iter().filter(|(key, entry)| is_asked(key, entry)).map(|(key, _)| key.clone()).collect();
        for key in &keys {
            let Some(entry) = self.entries.get_mut(key) else { continue };
            let Probe::Ttl(ttl) = entry.spec.probe else { continue };
            self.has_changed |= entry.take(outcome, now);
            if let Some(end) = entry.due.take() {
                self.expiries.remove(&(end, key.clone()));
            }
            self.wait_until(key, now + ttl);
        }
        !keys.is_empty()
    }

    /// When [`Self::poll_start`] may have something.
    pub fn poll_timeout(&self) -> Option<Instant> {
        // While all places are taken, an outcome comes before the next run.
        self.next_run().into_iter().chain(self.expiries.first()).map(|(at, _)| *at).min()
    }

    /// True once after any result that somebody should see.
    pub fn take_change(&mut self) -> bool {
        std::mem::take(&mut self.has_changed)
    }

    /// How a check is, as the catalogue has it.
    pub fn check(&self, key: &CheckKey) -> Option<Check> {
        let entry = self.entries.get(key)?;
        Some(Check {
            id: key.check.clone(),
            name: entry.spec.name.clone(),
            kind: entry.spec.probe.kind().into(),
            health: entry.health,
            output: cut(&entry.output, limits::MAX_CHECK_OUTPUT_BYTES).to_owned(),
        })
    }

    /// How all checks are, to be remembered.
    pub fn states(&self) -> BTreeMap<CheckKey, Health> {
        self.entries.iter().map(|(key, entry)| (key.clone(), entry.health)).collect()
    }

    /// Instances with a check that has been critical for as long as it may be.
    pub fn expired(&self, now: Instant) -> Vec<InstanceId> {
        let is_over = |entry: &Entry| match (entry.spec.deregister_after, entry.critical_since) {
            (Some(after), Some(since)) => now.saturating_duration_since(since) >= after,
            _ => false,
        };
        let over = self.entries.iter().filter(|(_, entry)| is_over(entry));
        over.filter_map(|(key, _)| key.instance.clone()).collect()
    }

    fn add(&mut self, key: &CheckKey, spec: CheckSpec, now: Instant) {
        let first = match spec.probe {
            Probe::Ttl(ttl) => now + ttl,
            _ => now + spec.interval.min(FIRST_SPREAD).mul_f64(self.rng.random_range(0.0..1.0)),
        };
        let health = self.remembered.remove(key).unwrap_or(spec.initial);
        let entry = Entry {
            since: now,
            due: None,
            running: None,
            is_held_up: false,
            good_count: 0,
            bad_count: 0,
            has_passed: false,
            health,
            output: String::new(),
            output_told_at: now,
            critical_since: (health == Health::Critical).then_some(now),
            spec,
        };
        self.entries.insert(key.clone(), entry);
        self.has_changed = true;
        self.wait_until(key, first);
    }

    fn remove(&mut self, key: &CheckKey) -> Option<Entry> {
        let entry = self.entries.remove(key)?;
        if let Some(due) = entry.due {
            let waiting = (due, key.clone());
            // It is in one of them.
            let _ = self.due.remove(&waiting) || self.slow_due.remove(&waiting) || self.expiries.remove(&waiting);
        }
        self.has_changed = true;
        Some(entry)
    }

    fn expire(&mut self, key: &CheckKey, now: Instant) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        entry.due = None;
        let output = format!("no report within {} s", entry.spec.interval_or_ttl().as_secs_f64());
        self.has_changed |= entry.take(&Outcome { health: Health::Critical, output }, now);
        // A threshold or the start period may want more silence than this.
        if let (Probe::Ttl(ttl), true) = (&entry.spec.probe, entry.health != Health::Critical) {
            let next = now + *ttl;
            self.wait_until(key, next);
        }
    }

    fn wait_until(&mut self, key: &CheckKey, at: Instant) {
        if let Some(entry) = self.entries.get_mut(key) {
            entry.due = Some(at);
            let waiting = match entry.spec.probe {
                Probe::Ttl(_) => &mut self.expiries,
                _ if entry.spec.is_slow() => &mut self.slow_due,
                _ => &mut self.due,
            };
            waiting.insert((at, key.clone()));
        }
    }
}

impl Entry {
    /// Takes one outcome into account. True when others should see the difference.
    fn take(&mut self, outcome: &Outcome, now: Instant) -> bool {
        let is_bad = outcome.health == Health::Critical;
        let is_starting = now.saturating_duration_since(self.since) < self.spec.start_period && !self.has_passed;
        if is_bad && is_starting {
            return self.tell(self.health, &format!("starting: {}", outcome.output), now);
        }
        (self.good_count, self.bad_count) =
            if is_bad { (0, self.bad_count.saturating_add(1)) } else { (self.good_count.saturating_add(1), 0) };
        self.has_passed |= !is_bad;
        let is_decided = if is_bad { self.bad_count >= self.spec.fall } else { self.good_count >= self.spec.rise };
        // From one good state to another no threshold is in the way.
        let is_decided = is_decided || (!is_bad && self.health != Health::Critical);
        self.tell(if is_decided { outcome.health } else { self.health }, &outcome.output, now)
    }

    fn tell(&mut self, health: Health, output: &str, now: Instant) -> bool {
        let is_other = health != self.health;
        if is_other {
            self.critical_since = (health == Health::Critical).then_some(now);
        }
        self.health = health;
        let is_late = now.saturating_duration_since(self.output_told_at) >= OUTPUT_INTERVAL;
        if is_other || self.output.is_empty() || (is_late && self.output != output) {
            let output = cut(output, MAX_OUTPUT_BYTES);
            let is_news = is_other || self.output != output;
            self.output = output.into();
            self.output_told_at = now;
            return is_news;
        }
        false
    }
}

impl CheckSpec {
    fn is_slow(&self) -> bool {
        self.timeout > DEFAULT_TIMEOUT
    }

    fn interval_or_ttl(&self) -> Duration {
        match self.probe {
            Probe::Ttl(ttl) => ttl,
            _ => self.interval,
        }
    }
}

/// Takes out the first that is due.
fn pop_due(waiting: &mut BTreeSet<(Instant, CheckKey)>, now: Instant) -> Option<CheckKey> {
    waiting.first().filter(|(at, _)| *at <= now)?;
    waiting.pop_first().map(|(_, key)| key)
}

/// The beginning of a text, at most so many bytes.
pub(super) fn cut(text: &str, max_len: usize) -> &str {
    let mut end = text.len().min(max_len);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests;

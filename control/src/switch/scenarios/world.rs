//! The world of the scenarios: hosts, a network, clocks, and orders to switch. The hosts' balancers, the register of each key
//! and what is checked have files of their own.
//!
//! INVARIANT, checked with every decision: each value of a record follows from the one before, its history has no gap.
//! INVARIANT, checked with every acknowledged switch: whoever has acknowledged it serves it.

mod balancers;
mod checks;
mod register;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use weaved_api::PeerId;

use self::balancers::Balancer;
use super::super::{
    ServiceFacts,
    around::{Around, Effect, Shown},
    machine::Switches,
    message::SwitchMessage,
    order::{AttemptId, Order, Outcome},
    refusal::Refusal,
    testing::{instances, view},
};
use crate::{
    catalogue::View,
    cluster::Message,
    kv::{Change, Decided, Entry, Key, KvError},
};

/// A member is believed dead when nothing was heard of it for so long.
const DETECTION: Duration = Duration::from_secs(3);
const BEAT: Duration = Duration::from_millis(500);
/// How often a host compares its keys with another one.
const REPAIR: Duration = Duration::from_secs(2);

#[derive(Clone, Copy, Debug)]
pub(super) struct Faults {
    /// Of 1,000 messages.
    pub(super) loss_permille: u32,
    pub(super) max_delay: Duration,
    /// Of 1,000 decisions whose proposer is told nothing.
    pub(super) unknown_permille: u32,
    /// Clocks are wrong by up to so much, in both directions.
    pub(super) skew: Duration,
}

impl Faults {
    pub(super) const LAN: Self = Self {
        loss_permille: 10,
        max_delay: Duration::from_millis(2),
        unknown_permille: 0,
        skew: Duration::from_mins(5),
    };
    pub(super) const BAD: Self = Self {
        loss_permille: 100,
        max_delay: Duration::from_millis(80),
        unknown_permille: 100,
        skew: Duration::from_mins(5),
    };
}

/// What is broken on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Broken {
    /// The register ignores compare-and-set.
    Conditions,
    /// Balancers say that they have gone over and do not.
    Balancers,
}

pub(super) struct World {
    pub(super) broken: Option<Broken>,
    pub(super) faults: Faults,
    now: Instant,
    started_at: Instant,
    seed: u64,
    rng: StdRng,
    hosts: Vec<Host>,
    view: View,
    register: BTreeMap<Key, Entry>,
    events: BTreeMap<(Instant, u64), Event>,
    event_count: u64,
    /// Nothing passes from the first to the second.
    cuts: BTreeSet<(usize, usize)>,
    orders: Vec<(usize, AttemptId, Option<Outcome>)>,
    /// Those of services that no balancer here serves.
    unserved: BTreeSet<AttemptId>,
    /// When each balancer went over to the latest revision.
    flips: BTreeMap<u64, BTreeMap<usize, Instant>>,
    /// When each revision was decided.
    pub(super) decided_at: BTreeMap<u64, Instant>,
    /// What operators were told.
    pub(super) notes: Vec<String>,
}

struct Host {
    id: PeerId,
    switches: Option<Switches>,
    /// Survives crashes.
    keys: BTreeMap<Key, Entry>,
    skew_us: i64,
    heard: BTreeMap<usize, Instant>,
    balancer: Option<Balancer>,
    seen_version: u64,
}

enum Event {
    Deliver(usize, usize, SwitchMessage),
    Decide(usize, u64, Key, Change),
    Outcome(usize, u64, Result<Decided, KvError>),
    Entry(usize, Key, Entry),
    Beat,
    Repair,
    /// The balancer does what it was told.
    Look(usize),
    Flip(usize, u64),
    Prepared(usize, u64),
}

impl World {
    pub(super) fn new(seed: u64, count: usize, faults: Faults) -> Self {
        let started_at = Instant::now();
        let mut rng = StdRng::seed_from_u64(seed);
        let mut hosts = Vec::new();
        for index in 0..count {
            let mut id = [0; 32];
            id[..8].copy_from_slice(&rng.random::<u64>().to_le_bytes());
            id[31] = index as u8;
            let skew = faults.skew.as_micros() as i64;
            let has_balancer = index < 3 || rng.random_range(0..10) < 9;
            hosts.push(Host {
                id: PeerId(id),
                switches: None,
                keys: BTreeMap::new(),
                skew_us: rng.random_range(-skew..=skew),
                heard: BTreeMap::new(),
                balancer: has_balancer.then(Balancer::default),
                seen_version: 0,
            });
        }
        let mut world = Self {
            broken: None,
            faults,
            now: started_at,
            started_at,
            seed,
            rng,
            hosts,
            view: shown("", 0),
            register: BTreeMap::new(),
            events: BTreeMap::new(),
            event_count: 0,
            cuts: BTreeSet::new(),
            orders: Vec::new(),
            unserved: BTreeSet::new(),
            flips: BTreeMap::new(),
            decided_at: BTreeMap::new(),
            notes: Vec::new(),
        };
        world.at(Duration::ZERO, Event::Beat);
        world.at(REPAIR, Event::Repair);
        (0..count).for_each(|host| world.start(host));
        world
    }

    /// So many of the three instances of web's colour pass their checks, and all of the others.
    pub(super) fn let_pass(&mut self, colour: &str, passing: usize) {
        self.view = shown(colour, passing);
    }

    /// Orders that were begun anywhere, those of the upkeep too.
    pub(super) fn attempt_count(&self) -> usize {
        self.hosts.iter().filter_map(|host| host.switches.as_ref()).map(|switches| switches.attempts.len()).sum()
    }

    pub(super) fn random(&mut self, below: usize) -> usize {
        self.rng.random_range(0..below)
    }

    pub(super) fn start(&mut self, index: usize) {
        if self.hosts[index].switches.is_some() {
            return;
        }
        let rng = StdRng::seed_from_u64(self.rng.random());
        self.hosts[index].switches = Some(Switches::new(rng, self.now));
        self.hosts[index].seen_version = 0;
        let keys: Vec<_> = self.hosts[index].keys.clone().into_iter().collect();
        for (key, entry) in keys {
            self.call(index, |switches, around| switches.restore_entry(key.as_str(), &entry, around));
        }
        if self.hosts[index].balancer.is_some() {
            let facts = ServiceFacts { name: "web".into(), key: None, colour: None };
            self.call(index, |switches, _| switches.handle_balanced_services(vec![facts]));
            self.report(index);
        }
        for other in (0..self.hosts.len()).filter(|&other| other != index) {
            let (us, them) = (self.hosts[index].id, self.hosts[other].id);
            self.call(index, |switches, _| switches.handle_peer_up(them));
            self.call(other, |switches, _| switches.handle_peer_up(us));
        }
    }

    /// The host loses its power: its gateway too.
    /// Its balancer goes on.
    pub(super) fn kill_control(&mut self, index: usize) {
        self.hosts[index].switches = None;
        self.hosts[index].heard.clear();
    }

    pub(super) fn crash(&mut self, index: usize) {
        self.kill_control(index);
        if let Some(balancer) = &mut self.hosts[index].balancer {
            balancer.lose_power();
        }
    }

    pub(super) fn cut_off(&mut self, index: usize) {
        for other in (0..self.hosts.len()).filter(|&other| other != index) {
            self.cuts.extend([(index, other), (other, index)]);
        }
    }

    pub(super) fn cut_one_way(&mut self, from: usize, to: usize) {
        self.cuts.insert((from, to));
    }

    pub(super) fn heal(&mut self) {
        self.cuts.clear();
    }

    /// Orders, and does not wait. Returns the number to ask with.
    pub(super) fn order(&mut self, host: usize, order: Order) -> usize {
        let is_served = order.service == "web";
        let begun = self.call(host, |switches, around| switches.begin(order, around));
        if let Some(begun) = begun {
            let (id, outcome) = match begun {
                Ok(id) => (id, None),
                Err(refusal) => (AttemptId(0), Some(Outcome::Refused(refusal))),
            };
            self.unserved.extend((!is_served).then_some(id));
            self.orders.push((host, id, outcome));
            self.note_outcomes();
        }
        self.orders.len().saturating_sub(1)
    }

    pub(super) fn outcome(&self, order: usize) -> Option<Outcome> {
        self.orders[order].2.clone()
    }

    /// Orders, and waits for the end.
    pub(super) fn switch(&mut self, host: usize, order: Order) -> Outcome {
        let number = self.order(host, order);
        for _ in 0..10_000 {
            if let Some(outcome) = self.outcome(number) {
                return outcome;
            }
            self.run_for(Duration::from_millis(5));
        }
        panic!("WEAVED_SEED={}: a switch does not end", self.seed);
    }

    pub(super) fn run_for(&mut self, time: Duration) {
        let until = self.now + time;
        loop {
            let due = self.hosts.iter().enumerate();
            let due = due.filter_map(|(index, host)| Some((host.switches.as_ref()?.poll_timeout()?, index))).min();
            let event = self.events.keys().next().map(|(at, _)| *at);
            let next = [due.map(|(at, _)| at), event].into_iter().flatten().min();
            let Some(next) = next.filter(|next| *next <= until) else { break };
            self.now = self.now.max(next);
            if event == Some(next) {
                let (_, event) = self.events.pop_first().expect("there is one");
                self.happen(event);
            } else if let Some((_, index)) = due {
                self.call(index, Switches::handle_timeout);
            }
            self.note_outcomes();
        }
        self.now = until;
    }

    fn at(&mut self, delay: Duration, event: Event) {
        self.event_count += 1;
        self.events.insert((self.now + delay, self.event_count), event);
    }

    fn delay(&mut self) -> Duration {
        Duration::from_micros(100) + self.faults.max_delay.mul_f64(self.rng.random())
    }

    fn wall_us(&self, index: usize) -> u64 {
        let true_us = 1_700_000_000_000_000 + (self.now - self.started_at).as_micros() as u64;
        true_us.saturating_add_signed(self.hosts[index].skew_us)
    }

    fn passes(&self, from: usize, to: usize) -> bool {
        let runs = |index: usize| self.hosts[index].switches.is_some();
        runs(from) && runs(to) && (from == to || !self.cuts.contains(&(from, to)))
    }

    /// Calls a host that runs, and carries out what it wants.
    fn call<R>(&mut self, index: usize, call: impl FnOnce(&mut Switches, &Around<'_>) -> R) -> Option<R> {
        let mut switches = self.hosts[index].switches.take()?;
        let wall_us = self.wall_us(index);
        let host = &self.hosts[index];
        let is_live = |other: usize| host.heard.get(&other).is_some_and(|at| self.now - *at < DETECTION);
        let live = (0..self.hosts.len()).filter(|&other| other == index || is_live(other));
        let live: BTreeSet<_> = live.map(|other| self.hosts[other].id).collect();
        let around = Around {
            me: host.id,
            view: &self.view,
            live: &live,
            name: &|id| format!("h{}", id.0[31]),
            key: &|key| {
                let entry = host.keys.get(key)?;
                Some(Shown { index: entry.modified.0, value: entry.value.as_ref()?.as_bytes().to_vec() })
            },
            now: self.now,
            wall_us,
        };
        let result = call(&mut switches, &around);
        let effects: Vec<_> = std::iter::from_fn(|| switches.poll_effect()).collect();
        let is_settled = switches.has_caught_up(self.hosts.len() == 1, self.now);
        let version = switches.version();
        self.hosts[index].switches = Some(switches);
        for effect in effects {
            self.carry_out(index, effect);
        }
        if is_settled && self.hosts[index].balancer.is_some() && self.hosts[index].seen_version != version {
            self.hosts[index].seen_version = version;
            self.at(Duration::from_millis(1), Event::Look(index));
        }
        Some(result)
    }

    fn carry_out(&mut self, index: usize, effect: Effect) {
        match effect {
            Effect::Send(to, message) => {
                let to = self.hosts.iter().position(|host| host.id == to).expect("a known host");
                let travels = Message::Switch(Box::new(message.clone())).encode();
                assert!(travels.len() < 1200, "a message of {} bytes", travels.len());
                assert_eq!(Message::decode(&travels), Ok(Message::Switch(Box::new(message.clone()))));
                if to == index {
                    self.call(to, |switches, around| switches.handle_message(around.me, message, around));
                } else if self.rng.random_range(0..1000) >= self.faults.loss_permille {
                    let delay = self.delay();
                    self.at(delay, Event::Deliver(index, to, message));
                }
            }
            Effect::Decide(op, key, change) => {
                let delay = self.delay() * 3 + Duration::from_millis(2);
                self.at(delay, Event::Decide(index, op, key, change));
            }
            Effect::Note(text) => self.notes.push(text),
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Deliver(from, to, message) => {
                if self.passes(from, to) {
                    let id = self.hosts[from].id;
                    self.call(to, |switches, around| switches.handle_message(id, message, around));
                }
            }
            Event::Decide(index, op, key, change) => self.decide(index, op, key, change),
            Event::Outcome(index, op, result) => {
                if let Ok(Decided { key, entry: Some(entry), .. }) = &result {
                    self.take(index, key, entry);
                }
                self.call(index, |switches, around| switches.handle_decided(op, result, around));
            }
            Event::Entry(index, key, entry) => {
                if self.hosts[index].switches.is_some() {
                    self.take(index, &key, &entry);
                }
            }
            Event::Beat => self.beat(),
            Event::Repair => self.repair(),
            Event::Look(index) => self.look(index),
            Event::Flip(index, revision) => self.flip(index, revision),
            Event::Prepared(index, attempt) => self.prepared(index, attempt),
        }
    }

    fn beat(&mut self) {
        self.at(BEAT, Event::Beat);
        let count = self.hosts.len();
        for (from, to) in (0..count).flat_map(|from| (0..count).map(move |to| (from, to))) {
            if from != to && self.passes(from, to) && self.passes(to, from) {
                let before = self.hosts[to].heard.insert(from, self.now);
                let was_away = before.is_none_or(|at| self.now - at >= DETECTION);
                if was_away {
                    let id = self.hosts[from].id;
                    self.call(to, |switches, _| switches.handle_peer_up(id));
                }
            }
        }
    }

    /// Remembers how orders have ended, and checks what was acknowledged.
    fn note_outcomes(&mut self) {
        for number in 0..self.orders.len() {
            let (host, id, known) = &self.orders[number];
            if known.is_some() {
                continue;
            }
            let (host, id) = (*host, *id);
            let report = self.hosts[host].switches.as_ref().map(|switches| switches.progress(id, 0));
            match report {
                Some(Some(report)) => {
                    if let Some(outcome) = report.outcome {
                        if !self.unserved.contains(&id) {
                            self.check_acknowledged(host, &outcome);
                        }
                        self.orders[number].2 = Some(outcome);
                    }
                }
                // It died with its host.
                _ => {
                    self.orders[number].2 = Some(Outcome::Refused(Refusal::Unknown("died".into())));
                }
            }
        }
    }
}

/// The catalogue, in which so many of the three instances of web's colour are passing.
fn shown(colour: &str, passing: usize) -> View {
    let web = |own| ("web", instances(own, 3, if own == colour { passing } else { 3 }));
    view(&[web("blue"), web("green"), web("red"), ("api", instances("green", 3, 3))])
}

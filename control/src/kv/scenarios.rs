//! Stores in virtual time: messages that are lost, repeated and overtaken, cuts in one direction or both, crashes before
//! anything is stored, clocks that jump by minutes. `WEAVED_SEED=n` runs one seed, `WEAVED_SEEDS=n` so many.

mod anew;
mod sessions;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use weaved_api::PeerId;

use super::{
    checker::{Event, NEVER, Op, is_linearizable},
    *,
};
use crate::ipam::RingSeed;

const KEY: &str = "backend/current";

type Disk = BTreeMap<(Table, Vec<u8>), Vec<u8>>;

struct World {
    rng: StdRng,
    seed: u64,
    begin: Instant,
    now: Instant,
    nodes: Vec<Option<Kv>>,
    disks: Vec<Disk>,
    skew_us: Vec<u64>,
    /// What the clocks that are not wrong say at the beginning.
    right_us: u64,
    wire: BTreeMap<(Instant, u64), (usize, usize, Vec<u8>)>,
    sent: u64,
    cuts: BTreeSet<(usize, usize)>,
    loss: u32,
    crash_permille: u32,
    asked: BTreeMap<RequestId, (usize, Ask, u64)>,
    /// Answers to what is in no history.
    others: BTreeMap<RequestId, Answer>,
    next_value: u32,
    history: Vec<Event>,
    refused_count: usize,
    founder_guards: [String; 1],
    /// What was read last: index and value.
    last_read: (u64, u32),
}

#[derive(Clone, Copy, Debug)]
enum Ask {
    Read,
    Put(u32),
    Cas(u32, u32),
}

fn id(index: usize) -> PeerId {
    PeerId([index as u8 + 1; 32])
}

fn value_of(rows: &Rows) -> (u64, u32) {
    let number = |row: &Row| (row.modify_index, std::str::from_utf8(row.value.as_bytes()).unwrap().parse().unwrap());
    rows.rows.first().map_or((0, 0), number)
}

impl World {
    fn new(seed: u64, count: usize, loss: u32) -> Self {
        let begin = Instant::now();
        let mut world = Self {
            rng: StdRng::seed_from_u64(seed),
            seed,
            begin,
            now: begin,
            nodes: (0..count).map(|_| None).collect(),
            disks: vec![BTreeMap::new(); count],
            skew_us: vec![1_000_000_000_000; count],
            right_us: 1_000_000_000_000,
            wire: BTreeMap::new(),
            sent: 0,
            cuts: BTreeSet::new(),
            loss,
            crash_permille: 0,
            asked: BTreeMap::new(),
            others: BTreeMap::new(),
            next_value: 0,
            history: Vec::new(),
            refused_count: 0,
            founder_guards: ["config/".into()],
            last_read: (0, 0),
        };
        (0..count).for_each(|index| world.start(index));
        world
    }

    fn us(&self) -> u64 {
        (self.now - self.begin).as_micros() as u64
    }

    fn start(&mut self, index: usize) {
        let stored =
            self.disks[index].iter().map(|((table, key), value)| (*table, key.clone(), value.clone())).collect();
        let config = KvConfig::new(id(index)).guarding(&self.founder_guards[..usize::from(index == 0)]);
        let kv = Kv::new(config, &stored, self.rng.random(), self.now).unwrap();
        self.nodes[index] = Some(kv);
        for other in (0..self.nodes.len()).filter(|&other| other != index) {
            self.nodes[index].as_mut().unwrap().handle_peer_up(id(other));
        }
        self.tell_members();
    }

    fn tell_members(&mut self) {
        let known: BTreeSet<_> = (0..self.nodes.len()).map(id).collect();
        let live = (0..self.nodes.len()).filter(|&index| self.nodes[index].is_some()).map(id).collect::<BTreeSet<_>>();
        for index in 0..self.nodes.len() {
            let (now, wall_us) = (self.now, self.skew_us[index] + self.us());
            let founding = (index == 0).then_some(RingSeed { made_at_us: 1, founder: id(0) });
            let members = Members { known: known.clone(), gone: BTreeSet::new(), live: live.clone(), founding };
            if let Some(kv) = &mut self.nodes[index] {
                kv.handle_members(members, now, wall_us);
                self.drain(index);
            }
        }
    }

    /// Ends a node before anything is stored; its clock is another one when it comes back.
    fn crash(&mut self, index: usize) {
        self.nodes[index] = None;
        self.skew_us[index] = self.right_us + self.rng.random_range(0..600_000_000);
        let lost: Vec<_> = self.asked.iter().filter(|(_, (node, ..))| *node == index).map(|(id, _)| *id).collect();
        for id in lost {
            let (_, ask, begin) = self.asked.remove(&id).unwrap();
            self.unknown(ask, begin);
        }
    }

    fn unknown(&mut self, ask: Ask, begin: u64) {
        match ask {
            Ask::Read => {}
            Ask::Put(value) => self.history.push(Event { op: Op::Put(value), begin, end: NEVER }),
            Ask::Cas(old, new) => self.history.push(Event { op: Op::Cas(old, new, None), begin, end: NEVER }),
        }
    }

    fn drain(&mut self, index: usize) {
        if self.rng.random_range(0..1000) < self.crash_permille {
            return self.crash(index);
        }
        let Some(kv) = &mut self.nodes[index] else { return };
        for (row, value) in kv.poll_persist().into_iter().flatten() {
            match value {
                Some(value) => self.disks[index].insert(row, value),
                None => self.disks[index].remove(&row),
            };
        }
        let sent: Vec<_> = std::iter::from_fn(|| kv.poll_send()).collect();
        let answers: Vec<_> = std::iter::from_fn(|| kv.poll_answer()).collect();
        for (to, bytes) in sent {
            let to = usize::from(to.0[0]) - 1;
            for _ in 0..=u32::from(self.rng.random_range(0..20) == 0) {
                if self.rng.random_range(0..100) >= self.loss && !self.cuts.contains(&(index, to)) {
                    let delay = Duration::from_micros(self.rng.random_range(100..20_000));
                    self.wire.insert((self.now + delay, self.sent), (index, to, bytes.clone()));
                    self.sent += 1;
                }
            }
        }
        for (id, answer) in answers {
            let Some((_, ask, begin)) = self.asked.remove(&id) else {
                self.others.insert(id, answer);
                continue;
            };
            let end = self.us();
            let op = match (ask, answer) {
                (Ask::Read, Ok(Reply::Rows(rows))) => {
                    self.last_read = value_of(&rows);
                    Op::Read(self.last_read.1)
                }
                (Ask::Put(value), Ok(Reply::Written(true))) => Op::Put(value),
                (Ask::Cas(old, new), Ok(Reply::Written(is_done))) => Op::Cas(old, new, Some(is_done)),
                (ask, Err(KvError::OutcomeUnknown { .. })) => {
                    self.unknown(ask, begin);
                    continue;
                }
                (_, Err(KvError::NoMajority { .. } | KvError::NoElectorate { .. })) => {
                    self.refused_count += 1;
                    continue;
                }
                (Ask::Put(_), Ok(Reply::Written(false))) => continue,
                (ask, answer) => panic!("{ask:?} got {answer:?}"),
            };
            self.history.push(Event { op, begin, end });
        }
    }

    fn ask(&mut self, index: usize) {
        self.next_value += 1;
        let new = self.next_value;
        let put = |rule| Change::Put { value: Value::new(new.to_string().as_bytes()), flags: 0, rule };
        let (ask, request) = match self.rng.random_range(0..6) {
            0 | 1 => (Ask::Read, Request::ReadConsistent { key: KEY.into() }),
            2 => (Ask::Put(new), Request::Write { key: KEY.into(), change: put(Rule::Always) }),
            _ => {
                let (at, old) = self.last_read;
                (Ask::Cas(old, new), Request::Write { key: KEY.into(), change: put(Rule::AtIndex(at)) })
            }
        };
        self.request(index, ask, request);
    }

    fn request(&mut self, index: usize, ask: Ask, request: Request) {
        let (request_id, now, wall_us, begin) = (
            RequestId(self.sent + u64::from(self.next_value) * 1_000_000),
            self.now,
            self.skew_us[index] + self.us(),
            self.us(),
        );
        let Some(kv) = &mut self.nodes[index] else { return };
        self.asked.insert(request_id, (index, ask, begin));
        kv.handle_request(request_id, request, now, wall_us);
        self.drain(index);
    }

    fn run_for(&mut self, time: Duration) {
        let until = self.now + time;
        loop {
            let timeout = (0..self.nodes.len())
                .filter_map(|index| Some((self.nodes[index].as_ref()?.poll_timeout()?, index)))
                .min();
            let arrival = self.wire.keys().next().map(|(at, _)| *at);
            let next = timeout.map(|(at, _)| at).into_iter().chain(arrival).min();
            let Some(next) = next.filter(|&next| next <= until) else { break };
            self.now = self.now.max(next);
            let now = self.now;
            if arrival == Some(next) {
                let (_, (from, to, bytes)) = self.wire.pop_first().unwrap();
                let wall_us = self.skew_us[to] + self.us();
                if let Some(kv) = &mut self.nodes[to] {
                    kv.handle_message(id(from), &bytes, now, wall_us);
                    self.drain(to);
                }
            } else if let Some((_, index)) = timeout {
                let wall_us = self.skew_us[index] + self.us();
                self.nodes[index].as_mut().unwrap().handle_timeout(now, wall_us);
                self.drain(index);
            }
        }
        self.now = until;
    }

    fn restart_all(&mut self) {
        for index in 0..self.nodes.len() {
            if self.nodes[index].is_none() {
                self.start(index);
            }
        }
    }

    fn cut_at_random(&mut self) {
        self.cuts.clear();
        let count = self.nodes.len();
        match self.rng.random_range(0..4) {
            0 => {}
            1 => drop(self.cuts.insert((self.rng.random_range(0..count), self.rng.random_range(0..count)))),
            _ => {
                let side: Vec<bool> = (0..count).map(|_| self.rng.random()).collect();
                for from in 0..count {
                    self.cuts.extend((0..count).filter(|&to| side[from] != side[to]).map(|to| (from, to)));
                }
            }
        }
    }

    fn contents(&self, index: usize) -> Vec<(Key, Entry)> {
        let kv = self.nodes[index].as_ref().unwrap();
        kv.store.iter().map(|(key, held)| (key.clone(), held.entry.clone())).collect()
    }

    fn assert_equal(&self) {
        for index in 1..self.nodes.len() {
            assert_eq!(self.contents(index), self.contents(0), "WEAVED_SEED={} node {index}", self.seed);
        }
    }
}

/// What every [`GuardedStore`] keeps: one outcome for each change, changes in a chain, one winner at an index.
fn assert_contract(guarded: &mut impl GuardedStore, store: &mut Store, begin: Instant) {
    let mut rows = rows::Rows::default();
    let mut now = begin;
    let mut ask = |op: u64, change: Change| {
        let key = Key::new(KEY).unwrap();
        guarded.begin(
            OpId(op),
            key,
            change,
            &mut guard::World { store: &mut *store, rows: &mut rows, now, wall_us: op },
        );
        let (of, outcome) = loop {
            if let Some(outcome) = guarded.poll_outcome() {
                break outcome;
            }
            now = guarded.poll_timeout().expect("it has something to do");
            guarded.handle_timeout(&mut guard::World { store: &mut *store, rows: &mut rows, now, wall_us: op });
        };
        assert_eq!((of, guarded.poll_outcome().is_none()), (OpId(op), true));
        outcome.unwrap()
    };
    let put = |value: &str, rule| Change::Put { value: Value::new(value.as_bytes()), flags: 0, rule };
    let made = ask(100, put("blue", Rule::AtIndex(0)));
    assert!(made.is_allowed && !ask(101, put("red", Rule::AtIndex(0))).is_allowed);
    let at = made.entry.unwrap().modified.0;
    let green = ask(102, put("green", Rule::AtIndex(at)));
    assert!(green.is_allowed && !ask(103, put("red", Rule::AtIndex(at))).is_allowed);
    assert_eq!(ask(104, Change::Look).entry, green.entry);
    assert!(ask(105, Change::Delete { rule: Rule::Always }).is_allowed);
    assert!(!ask(106, Change::Look).entry.is_some_and(|entry| entry.is_live()));
}

#[test]
fn consensus_keeps_the_contract_of_a_guarded_store() {
    let (begin, mut store, mut rows) = (Instant::now(), Store::new(crate::hlc::Hlc(1), 1), rows::Rows::default());
    let mut consensus = Consensus::restore(id(0), StdRng::seed_from_u64(1), &Vec::new()).unwrap();
    let lineage = RingSeed { made_at_us: 1, founder: id(0) };
    let guarded = BTreeSet::from(["backend/".to_owned()]);
    consensus.found(
        lineage,
        &guarded,
        &mut guard::World { store: &mut store, rows: &mut rows, now: begin, wall_us: 1 },
    );
    assert_contract(&mut consensus, &mut store, begin);
}

fn each_seed(default_count: u64, test: impl Fn(u64)) {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse().expect("a number"));
    match number("WEAVED_SEED") {
        Some(seed) => test(seed),
        None => (0..number("WEAVED_SEEDS").unwrap_or(default_count)).for_each(test),
    }
}

#[test]
fn guarded_histories_are_linearizable_under_cuts_crashes_and_clock_jumps() {
    each_seed(60, |seed| {
        let mut world = World::new(seed, 3 + (seed % 3) as usize, 5);
        world.run_for(Duration::from_secs(5));
        world.crash_permille = 2;
        for _ in 0..30 {
            if world.rng.random_range(0..4) == 0 {
                world.cut_at_random();
                world.restart_all();
            }
            for _ in 0..world.rng.random_range(1..4) {
                let index = world.rng.random_range(0..world.nodes.len());
                world.ask(index);
            }
            let pause = world.rng.random_range(1..1500);
            world.run_for(Duration::from_millis(pause));
        }
        world.crash_permille = 0;
        world.cuts.clear();
        world.restart_all();
        world.run_for(Duration::from_secs(20));
        world.request(0, Ask::Read, Request::ReadConsistent { key: KEY.into() });
        let before = world.history.len();
        world.run_for(Duration::from_secs(10));
        assert_eq!(world.history.len(), before + 1, "WEAVED_SEED={seed}: no answer after the heal");
        assert!(is_linearizable(&world.history), "WEAVED_SEED={seed}: {:#?}", world.history);
        world.run_for(Duration::from_secs(30));
        world.assert_equal();
    });
}

#[test]
fn the_side_without_a_majority_refuses_and_the_other_decides() {
    let mut world = World::new(1, 3, 0);
    world.run_for(Duration::from_secs(5));
    world.cuts.extend([(0, 1), (0, 2), (1, 0), (2, 0)]);
    let put = |value: &str| Change::Put { value: Value::new(value.as_bytes()), flags: 0, rule: Rule::Always };
    world.request(0, Ask::Put(1), Request::Write { key: KEY.into(), change: put("1") });
    world.next_value = 2;
    world.request(1, Ask::Put(2), Request::Write { key: KEY.into(), change: put("2") });
    world.run_for(Duration::from_secs(6));
    assert_eq!(world.refused_count, 1);
    assert!(matches!(world.history[..], [Event { op: Op::Put(2), .. }]), "{:?}", world.history);
}

#[test]
fn what_the_founder_guards_is_guarded_everywhere_and_nobody_writes_before_he_knows() {
    let mut world = World::new(1, 3, 0);
    world.cuts.extend([(0, 1), (2, 1)]);
    world.run_for(Duration::from_secs(5));
    let put = |key: &str| {
        let change = Change::Put { value: Value::new(b"1"), flags: 0, rule: Rule::Always };
        Request::Write { key: key.into(), change }
    };
    for key in ["config/a", "plain/a"] {
        world.next_value += 1;
        world.request(1, Ask::Put(1), put(key));
    }
    assert_eq!((world.refused_count, world.history.len()), (2, 0));
    world.cuts.clear();
    world.run_for(Duration::from_secs(5));
    for key in ["config/a", "plain/a"] {
        world.next_value += 1;
        world.request(1, Ask::Put(1), put(key));
        world.run_for(Duration::from_secs(1));
        let guard = world.nodes[2].as_ref().unwrap().entry(key).unwrap().guard;
        assert_eq!(guard.is_some(), key.starts_with("config/"), "{key}");
    }
}

#[test]
fn plain_keys_are_equal_everywhere_after_cuts_and_crashes() {
    each_seed(15, |seed| {
        let mut world = World::new(seed, 4, 15);
        for turn in 0..120 {
            if turn % 15 == 0 {
                world.cut_at_random();
                let index = world.rng.random_range(0..4);
                world.crash(index);
                world.restart_all();
            }
            let (index, key) = (world.rng.random_range(0..4), format!("k/{}", world.rng.random_range(0..12)));
            let change = if world.rng.random_range(0..4) == 0 {
                Change::Delete { rule: Rule::Always }
            } else {
                let len = if world.rng.random_range(0..12) == 0 { 200_000 } else { 20 };
                Change::Put { value: Value::new(&vec![turn as u8; len]), flags: 0, rule: Rule::Always }
            };
            let (now, wall_us) = (world.now, world.skew_us[index] + world.us());
            if let Some(kv) = &mut world.nodes[index] {
                kv.handle_request(RequestId(turn), Request::Write { key, change }, now, wall_us);
                world.drain(index);
            }
            world.run_for(Duration::from_millis(100));
        }
        world.cuts.clear();
        world.restart_all();
        world.run_for(Duration::from_secs(90));
        world.assert_equal();
        assert!(world.contents(0).len() >= 10);
    });
}

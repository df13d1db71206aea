//! The backends of one colour, and who of them gets the next request.
//!
//! One that is ejected is passed over while another is there; when all are, they are used as they are: a floor below which passive
//! checks take nothing away.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use weaved_api::balancer::{ColourReport, Ejection, Policy};

use super::backend::Backend;

/// Latencies are told apart by powers of two: less than 1 ms, 2 ms, … 65 s, more.
const LATENCY_BUCKETS: usize = 18;

/// Backends of one colour.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) counts: Arc<ColourCounts>,
    pub(super) backends: Vec<Arc<Backend>>,
    cursor: AtomicU32,
}

/// Counts of one colour since the start.
#[derive(Debug, Default)]
pub(super) struct ColourCounts {
    pub(super) colour: String,
    pub(super) in_flight: AtomicU64,
    pub(super) streams: AtomicU64,
    requests: AtomicU64,
    failures: AtomicU64,
    latency: [AtomicU64; LATENCY_BUCKETS],
    latency_us: AtomicU64,
}

/// What one attempt is looking for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wish<'a> {
    pub(super) policy: Policy,
    /// Clients with the same number get the same backend while it is there.
    pub(super) hash: Option<u64>,
    /// By the client's cookie.
    pub(super) mark: Option<u64>,
    /// [`Backend::id`] of those that were tried.
    pub(super) tried: &'a [u64],
}

impl Group {
    pub(super) fn new(counts: Arc<ColourCounts>, backends: Vec<Arc<Backend>>) -> Self {
        Self { counts, backends, cursor: AtomicU32::new(0) }
    }

    pub(super) fn colour(&self) -> &str {
        &self.counts.colour
    }

    /// Who gets it; None when nobody is left who was not tried.
    pub(super) fn pick(&self, wish: Wish<'_>, now: Instant) -> Option<&Arc<Backend>> {
        // A request that began before its host was known to be down may come back for another.
        let is_new = |backend: &Arc<Backend>| !wish.tried.contains(&backend.id) && !backend.is_down();
        let is_well = |backend: &Arc<Backend>| is_new(backend) && !backend.is_ejected(now);
        self.choose(wish, is_well).or_else(|| self.choose(wish, is_new))
    }

    fn choose(&self, wish: Wish<'_>, may: impl Fn(&Arc<Backend>) -> bool) -> Option<&Arc<Backend>> {
        if let Some(mark) = wish.mark
            && let Some(marked) = self.backends.iter().find(|backend| backend.mark == mark && may(backend))
        {
            return Some(marked);
        }
        if let Some(hash) = wish.hash {
            // Rendezvous: when one goes, only its clients move.
            return self.backends.iter().filter(|backend| may(backend)).max_by_key(|backend| mix(hash ^ backend.mark));
        }
        let from = self.cursor.fetch_add(1, Relaxed) as usize % self.backends.len().max(1);
        let (front, back) = self.backends.split_at(from);
        let mut in_turn = back.iter().chain(front).filter(|backend| may(backend));
        match wish.policy {
            Policy::RoundRobin => in_turn.next(),
            // The first of several that have the same: the turn goes round.
            Policy::LeastConnections => in_turn.min_by_key(|backend| backend.in_flight()),
        }
    }

    /// A request to one of them has failed.
    pub(super) fn on_failure(&self, backend: &Backend, rule: Ejection, now: Instant) -> bool {
        if !backend.on_failure(rule) {
            return false;
        }
        let others = self.backends.iter().filter(|other| other.id != backend.id && other.is_ejected(now)).count();
        let may = (others + 1) * 100 <= self.backends.len() * usize::from(rule.max_percent);
        if may {
            backend.eject(rule, now);
        }
        may
    }
}

/// Spreads the bits, so that the greatest of several is any of them (the finalizer of `SplitMix64`).
fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

impl ColourCounts {
    pub(super) fn new(colour: &str) -> Self {
        Self { colour: colour.to_owned(), ..Self::default() }
    }

    /// A request was answered or given up; `took` until the head of the answer.
    pub(super) fn on_answer(&self, is_failure: bool, took: Duration) {
        self.requests.fetch_add(1, Relaxed);
        if is_failure {
            self.failures.fetch_add(1, Relaxed);
        }
        self.latency_us.fetch_add(took.as_micros() as u64, Relaxed);
        let millis = took.as_millis() as u64;
        let bucket = (u64::BITS - millis.leading_zeros()) as usize;
        self.latency[bucket.min(LATENCY_BUCKETS - 1)].fetch_add(1, Relaxed);
    }

    pub(super) fn report(&self, healthy: usize) -> ColourReport {
        ColourReport {
            colour: self.colour.clone(),
            healthy: healthy as u32,
            in_flight: self.in_flight.load(Relaxed),
            streams: self.streams.load(Relaxed),
            requests: self.requests.load(Relaxed),
            failures: self.failures.load(Relaxed),
            latency: self.latency.iter().map(|count| count.load(Relaxed)).collect(),
            latency_us: self.latency_us.load(Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::balancer::backend::sample;

    fn group(count: u8) -> Group {
        Group::new(Arc::default(), (1..=count).map(sample).collect())
    }

    const ANY: Wish<'_> = Wish { policy: Policy::RoundRobin, hash: None, mark: None, tried: &[] };

    fn shares(group: &Group, wish: impl Fn(u64) -> Wish<'static>) -> HashMap<u64, usize> {
        let mut shares = HashMap::new();
        for number in 0..1000 {
            *shares.entry(group.pick(wish(number), Instant::now()).unwrap().id).or_default() += 1;
        }
        shares
    }

    #[test]
    fn round_robin_gives_each_the_same() {
        let shares = shares(&group(4), |_| ANY);
        assert!(shares.len() == 4 && shares.values().all(|share| *share == 250), "{shares:?}");
    }

    #[test]
    fn least_connections_takes_whoever_has_the_fewest() {
        let group = group(3);
        group.backends[0].begin();
        group.backends[2].begin();
        let wish = Wish { policy: Policy::LeastConnections, ..ANY };
        for _ in 0..5 {
            assert_eq!(group.pick(wish, Instant::now()).unwrap().id, group.backends[1].id);
        }
    }

    #[test]
    fn clients_with_one_hash_stay_together_and_only_those_of_a_lost_backend_move() {
        let all = group(5);
        let by_hash = |hash| Wish { hash: Some(hash), ..ANY };
        let shares = shares(&all, by_hash);
        assert!(shares.len() == 5 && shares.values().all(|share| (100..300).contains(share)), "{shares:?}");
        let without = Group::new(Arc::default(), all.backends[..4].to_vec());
        for hash in 0..1000 {
            let (before, after) =
                (all.pick(by_hash(hash), Instant::now()), without.pick(by_hash(hash), Instant::now()));
            let before = before.unwrap().id;
            assert!(before == all.backends[4].id || before == after.unwrap().id);
        }
    }

    #[test]
    fn a_marked_backend_is_taken_while_it_is_there_and_was_not_tried() {
        let group = group(3);
        let marked = Wish { mark: Some(group.backends[2].mark), ..ANY };
        assert!((0..10).all(|_| group.pick(marked, Instant::now()).unwrap().id == group.backends[2].id));
        let tried = [group.backends[2].id];
        assert_ne!(group.pick(Wish { tried: &tried, ..marked }, Instant::now()).unwrap().id, group.backends[2].id);
        let tried: Vec<u64> = group.backends.iter().map(|backend| backend.id).collect();
        assert!(group.pick(Wish { tried: &tried, ..marked }, Instant::now()).is_none());
    }

    #[test]
    fn ejection_stops_at_the_floor_and_when_all_are_out_all_are_used() {
        let (group, now) = (group(4), Instant::now());
        let rule = Ejection { failures: 1, duration: Duration::from_secs(10), max_percent: 50 };
        let ejected = group.backends.iter().filter(|backend| group.on_failure(backend, rule, now)).count();
        assert_eq!(ejected, 2);
        let well: Vec<u64> = (0..8).map(|_| group.pick(ANY, now).unwrap().id).collect();
        assert!(group.backends[..2].iter().all(|backend| !well.contains(&backend.id)), "{well:?}");
        group.backends.iter().for_each(|backend| backend.eject(rule, now));
        assert!(group.pick(ANY, now).is_some());
    }

    #[test]
    fn latencies_fall_into_powers_of_two() {
        let counts = ColourCounts::new("blue");
        for millis in [0, 1, 2, 3, 4, 70_000_000] {
            counts.on_answer(millis == 4, Duration::from_millis(millis));
        }
        let report = counts.report(3);
        assert_eq!(report.latency[..4], [1, 1, 2, 1]);
        assert_eq!((report.latency[17], report.requests, report.failures, report.healthy), (1, 6, 1, 3));
    }
}

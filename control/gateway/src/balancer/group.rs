//! The backends of one colour, and who of them gets the next request.
//!
//! One that is ejected is passed over while another is there; when all are, they are used as they are: a floor below which passive
//! checks take nothing away.
//!
//! Weights count with each policy, and only where they differ. Numbers in turn, spread by the golden ratio, fall on each in proportion
//! to its weight: at every moment each has had its share but for a few, without a state that threads would fight over, and whoever is left out
//! leaves its share to the others.

use std::{
    sync::{
        Arc,
        atomic::{
            AtomicU32, AtomicU64,
            Ordering::{Acquire, Relaxed, Release},
        },
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
    /// In the order of the backends; None where all are the same.
    weights: Option<Box<[u16]>>,
    cursor: AtomicU32,
}

/// Counts of one colour since the start.
#[derive(Debug, Default)]
pub(super) struct ColourCounts {
    pub(super) colour: String,
    pub(super) in_flight: AtomicU64,
    pub(super) streams: AtomicU64,
    /// Of those in flight; see [`ColourReport::waiting`].
    pub(super) waiting: AtomicU64,
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
    pub(super) fn new(counts: Arc<ColourCounts>, weighed: Vec<(Arc<Backend>, u16)>) -> Self {
        let (backends, weights): (Vec<_>, Vec<_>) = weighed.into_iter().unzip();
        let are_same = weights.windows(2).all(|pair| pair[0] == pair[1]);
        let weights = (!are_same).then(|| weights.into_boxed_slice());
        Self { counts, backends, weights, cursor: AtomicU32::new(0) }
    }

    pub(super) fn colour(&self) -> &str {
        &self.counts.colour
    }

    /// Who gets it; None when nobody is left who was not tried.
    pub(super) fn pick(&self, wish: Wish<'_>, now: Instant) -> Option<&Arc<Backend>> {
        // A request that began before its host was known to be down may come back for another.
        let is_new = |backend: &Arc<Backend>| !wish.tried.contains(&backend.id) && !backend.is_down();
        let is_well = |backend: &Arc<Backend>| is_new(backend) && !backend.is_ejected(now);
        self.marked(wish, is_well)
            .or_else(|| self.choose(wish, is_well))
            .or_else(|| self.marked(wish, is_new))
            .or_else(|| self.choose(wish, is_new))
    }

    fn marked(&self, wish: Wish<'_>, may: impl Fn(&Arc<Backend>) -> bool) -> Option<&Arc<Backend>> {
        let mark = wish.mark?;
        self.backends.iter().find(|backend| backend.mark == mark && may(backend))
    }

    fn choose(&self, wish: Wish<'_>, may: impl Fn(&Arc<Backend>) -> bool) -> Option<&Arc<Backend>> {
        if let Some(weights) = &self.weights {
            // Those without a weight get what nobody else can take.
            return self
                .choose_weighed(wish, weights, |backend, weight| weight > 0 && may(backend))
                .or_else(|| self.choose_weighed(wish, weights, |backend, _| may(backend)));
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

    fn choose_weighed(
        &self,
        wish: Wish<'_>,
        weights: &[u16],
        may: impl Fn(&Arc<Backend>, u16) -> bool,
    ) -> Option<&Arc<Backend>> {
        let weighed = || self.backends.iter().zip(weights).map(|(backend, weight)| (backend, *weight));
        let able = || weighed().filter(|(backend, weight)| may(backend, *weight));
        if let Some(hash) = wish.hash {
            let pulls = able().map(|(backend, weight)| (backend, pull(hash ^ backend.mark, weight)));
            return pulls.max_by(|(_, left), (_, right)| left.total_cmp(right)).map(|(backend, _)| backend);
        }
        let total = able().map(|(_, weight)| u64::from(weight.max(1))).sum();
        let mut place = spread(self.cursor.fetch_add(1, Relaxed), total);
        let is_its_turn = |(backend, weight): (&Arc<Backend>, u16)| {
            let share = if may(backend, weight) { u64::from(weight.max(1)) } else { 0 };
            let is_within = place < share;
            place = place.saturating_sub(share);
            is_within
        };
        // One that was able a moment ago may not be any more: then it is the first who is.
        let from = weighed().position(is_its_turn).unwrap_or_default();
        let in_turn = weighed().skip(from).chain(weighed().take(from));
        let mut in_turn = in_turn.filter(|(backend, weight)| may(backend, *weight));
        let chosen = match wish.policy {
            Policy::RoundRobin => in_turn.next(),
            // The first of several that have the same: the turn goes round.
            Policy::LeastConnections => in_turn.min_by_key(|(backend, weight)| load(backend.in_flight(), *weight)),
        };
        chosen.map(|(backend, _)| backend)
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

/// A place below `total`; those of numbers in turn are spread evenly, however many there are (the golden ratio's multiples, modulo 1).
fn spread(number: u32, total: u64) -> u64 {
    (u64::from(number.wrapping_mul(0x9e37_79b9)) * total) >> 32
}

/// Connections for the weight, in parts of 2^32.
fn load(in_flight: u32, weight: u16) -> u64 {
    (u64::from(in_flight) << 32) / u64::from(weight.max(1))
}

/// Weighted rendezvous: who pulls strongest gets it, each with a chance in proportion to its weight; and of the same weight
/// whose [`mix`] is the greatest, as where all are the same.
#[expect(clippy::cast_precision_loss, reason = "52 bits and a half fit")]
fn pull(value: u64, weight: u16) -> f64 {
    // Neither 0 nor 1.
    let chance = ((mix(value) >> 12) as f64 + 0.5) / (1_u64 << 52) as f64;
    f64::from(weight.max(1)) / -chance.ln()
}

impl ColourCounts {
    pub(super) fn new(colour: &str) -> Self {
        Self { colour: colour.to_owned(), ..Self::default() }
    }

    /// A request was answered or given up; `took` until the head of the answer.
    pub(super) fn on_answer(&self, is_failure: bool, took: Duration) {
        // Behind the end of its wait, for whoever reads.
        self.requests.fetch_add(1, Release);
        if is_failure {
            self.failures.fetch_add(1, Release);
        }
        self.latency_us.fetch_add(took.as_micros() as u64, Relaxed);
        let millis = took.as_millis() as u64;
        let bucket = (u64::BITS - millis.leading_zeros()) as usize;
        self.latency[bucket.min(LATENCY_BUCKETS - 1)].fetch_add(1, Relaxed);
    }

    /// True while something is under way there.
    pub(super) fn is_busy(&self) -> bool {
        self.in_flight.load(Relaxed) > 0 || self.streams.load(Relaxed) > 0
    }

    /// What has been counted as answered has failed behind its head.
    pub(super) fn on_late_failure(&self) {
        self.failures.fetch_add(1, Relaxed);
    }

    pub(super) fn report(&self, healthy: usize) -> ColourReport {
        // INVARIANT: no request is in a report twice, as one that waits and as one that has failed. Its wait ends before it is counted, so
        // what is counted must be read before those that wait.
        let (failures, requests) = (self.failures.load(Acquire), self.requests.load(Acquire));
        ColourReport {
            colour: self.colour.clone(),
            healthy: healthy as u32,
            in_flight: self.in_flight.load(Relaxed),
            waiting: self.waiting.load(Relaxed),
            streams: self.streams.load(Relaxed),
            requests,
            failures,
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
        weighed(&vec![1; usize::from(count)])
    }

    /// web1, web2, … with these weights.
    fn weighed(weights: &[u16]) -> Group {
        Group::new(Arc::default(), (1..).map(sample).zip(weights.iter().copied()).collect())
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

    /// How often each was picked, in their order.
    fn counts(group: &Group, count: u64, wish: impl Fn(u64) -> Wish<'static>) -> Vec<u64> {
        let mut counts = vec![0; group.backends.len()];
        for number in 0..count {
            counts[picked(group, wish(number))] += 1;
        }
        counts
    }

    /// Whose turn it is, by place.
    fn picked(group: &Group, wish: Wish<'_>) -> usize {
        let picked = group.pick(wish, Instant::now()).unwrap();
        group.backends.iter().position(|backend| backend.id == picked.id).unwrap()
    }

    #[test]
    fn at_every_moment_each_has_had_what_its_weight_gives_it_but_for_a_few() {
        for weights in [&[5, 1, 1][..], &[1, 2], &[10, 20, 30, 40], &[300, 1, 7, 7], &[65_535, 1], &[65_535, 65_534, 3]]
        {
            let (group, total) = (weighed(weights), weights.iter().map(|weight| f64::from(*weight)).sum::<f64>());
            let mut counts = vec![0_u32; weights.len()];
            for number in 1..=70_000 {
                counts[picked(&group, ANY)] += 1;
                let is_fair = |(count, weight): (&u32, &u16)| {
                    (f64::from(*count) - f64::from(number) * f64::from(*weight) / total).abs() < 4.0
                };
                assert!(counts.iter().zip(weights).all(is_fair), "{weights:?} {number} {counts:?}");
            }
        }
    }

    #[test]
    fn weights_that_are_all_the_same_change_nothing() {
        let group = weighed(&[10, 10, 10]);
        assert!(group.weights.is_none());
        assert_eq!((0..6).map(|_| picked(&group, ANY)).collect::<Vec<_>>(), [0, 1, 2, 0, 1, 2]);
    }

    #[test]
    fn whoever_is_left_out_leaves_its_share_to_the_others_by_their_weights() {
        let (group, now) = (weighed(&[60, 10, 30]), Instant::now());
        let rule = Ejection { failures: 1, duration: Duration::from_secs(1000), max_percent: 50 };
        group.backends[0].eject(rule, now);
        let counts = counts(&group, 300, |_| ANY);
        assert!(counts[0] == 0 && counts[1].abs_diff(75) < 3, "{counts:?}");
    }

    #[test]
    fn least_connections_counts_them_for_the_weight() {
        let group = weighed(&[1, 4, 2]);
        let wish = Wish { policy: Policy::LeastConnections, ..ANY };
        // Whoever has nothing is taken in turn, by weight.
        assert!(counts(&group, 700, |_| wish).iter().zip([100, 400, 200]).all(|(count, due)| count.abs_diff(due) < 3));
        for _ in 0..70 {
            group.pick(wish, Instant::now()).unwrap().begin();
        }
        let in_flight: Vec<u32> = group.backends.iter().map(|backend| backend.in_flight()).collect();
        assert_eq!(in_flight, [10, 40, 20]);
        for _ in 0..3 {
            group.backends[2].end();
        }
        assert_eq!(picked(&group, wish), 2);
    }

    #[test]
    fn hashes_fall_by_weight_and_a_greater_weight_moves_only_those_that_go_there() {
        let by_hash = |hash| Wish { hash: Some(hash), ..ANY };
        let (before, after) = (weighed(&[1, 1, 1, 1]), weighed(&[1, 1, 5, 1]));
        let shares = counts(&after, 8000, by_hash);
        assert!(
            shares.iter().zip([1000, 1000, 5000, 1000]).all(|(count, due)| count.abs_diff(due) < 200),
            "{shares:?}"
        );
        for hash in 0..8000 {
            let (old, new) = (picked(&before, by_hash(hash)), picked(&after, by_hash(hash)));
            assert!(new == old || new == 2, "{hash}: {old} {new}");
        }
    }

    #[test]
    fn one_without_a_weight_gets_what_nobody_else_can_take_and_keeps_its_clients() {
        let group = weighed(&[0, 2, 1]);
        let policies = [ANY, Wish { policy: Policy::LeastConnections, ..ANY }, Wish { hash: Some(7), ..ANY }];
        assert!(policies.iter().all(|wish| counts(&group, 300, |_| *wish)[0] == 0));
        let tried: Vec<u64> = group.backends[1..].iter().map(|backend| backend.id).collect();
        assert!(policies.iter().all(|wish| picked(&group, Wish { tried: &tried, ..*wish }) == 0));
        assert_eq!(picked(&group, Wish { mark: Some(group.backends[0].mark), ..ANY }), 0);
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
        let four = all.backends[..4].iter().cloned().map(|backend| (backend, 1));
        let without = Group::new(Arc::default(), four.collect());
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

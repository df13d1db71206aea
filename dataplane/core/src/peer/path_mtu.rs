//! Path MTU discovery by probes of our own (DPLPMTUD, RFC 8899), and with the same probes: round-trip time, liveness.
//!
//! A probe is a sealed datagram of an exact length; its answer proves that the length passes. A search sends one
//! probe for every rung of [`RUNGS`] above the confirmed length, up to three times; the largest one answered is
//! confirmed. Afterwards the confirmed length is probed again and again. When that stays unanswered but the
//! smallest length is answered, the path has become a black hole: the search starts again from the bottom. When
//! nothing at all is answered, the peer is silent, which the caller judges.
//!
//! The search is not one probe at a time as in RFC 8899 §5.3: the rungs are few and small, and one round trip
//! instead of ten decides how fast the first second of a connection is.
//!
//! INVARIANT: `confirmed` is a length that was answered on this path, or the smallest one.

use std::time::{Duration, Instant};

use crate::{
    limits::{MAX_DATAGRAM_LEN, MIN_DATAGRAM_LEN},
    mtu::DatagramLen,
};

/// UDP payload lengths that are tried: steps of 20 bytes up to Ethernet's 1500, and what jumbo underlays use.
const RUNGS: [usize; 17] = [
    MIN_DATAGRAM_LEN,
    1252,
    1272,
    1292,
    1312,
    1332,
    1352,
    1372,
    1392,
    1412,
    1432,
    1452,
    1472,
    1972,
    3972,
    MAX_DATAGRAM_LEN - 20,
    MAX_DATAGRAM_LEN,
];

/// How often a rung is tried in one search, and a confirmed length before it is doubted (RFC 8899 §5.1.2 `MAX_PROBES`).
const MAX_TRIES: u32 = 3;

/// How long an answer may take before the first round trip has been measured.
const INITIAL_TIMEOUT: Duration = Duration::from_millis(500);
/// Bounds of that time once the round trip is known.
const MIN_TIMEOUT: Duration = Duration::from_millis(200);
const MAX_TIMEOUT: Duration = Duration::from_secs(2);

/// How long until a larger MTU is looked for again (RFC 8899 §5.1.1 `PMTU_RAISE_TIMER`).
const RAISE_AFTER: Duration = Duration::from_secs(600);

/// How often the confirmed length is probed while data flows. Bounds how long a black hole lasts.
const CONFIRM_BUSY: Duration = Duration::from_secs(1);
/// The same while nothing flows: keeps NAT mappings open and notices a dead peer.
const CONFIRM_IDLE: Duration = Duration::from_secs(5);

/// A datagram to be sent: `len` bytes long, answered with `id`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathProbe {
    /// Repeated in the answer.
    pub id: u32,
    /// Exact length of the datagram.
    pub len: DatagramLen,
}

/// What an answer taught.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Nothing: no such probe is waiting.
    Unknown,
    /// The path is as it was.
    Confirmed,
    /// The path carries more than was known.
    Raised,
}

/// What the passing of time showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing to be worried about.
    Fine,
    /// Large datagrams are lost in silence; the length was lowered.
    BlackHole,
    /// Nothing is answered any more.
    Silent,
}

/// What is being found out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// All rungs above the confirmed one; the number of rounds sent.
    Search { rounds: u32 },
    /// Waiting until the confirmed length is probed again.
    Rest,
    /// The confirmed length (and with it the smallest) is being probed; the number of rounds sent.
    Confirm { rounds: u32 },
}

#[derive(Clone, Copy, Debug)]
struct Waiting {
    probe: PathProbe,
    sent_at: Instant,
}

/// The path to one peer.
#[derive(Debug)]
pub struct PathMtu {
    confirmed: DatagramLen,
    phase: Phase,
    /// When the phase goes on.
    due: Instant,
    raise_at: Instant,
    /// Probes without an answer; at most those of one search, so a few dozen.
    waiting: Vec<Waiting>,
    /// Probes to be sent.
    ready: Vec<PathProbe>,
    next_id: u32,
    rtt: Option<Duration>,
    /// The smallest length was answered since the confirmed one was asked for.
    small_answered: bool,
    is_busy: bool,
}

impl PathMtu {
    /// A path about which nothing is known; the search starts at once. Ids of probes start at `first_id`.
    pub fn new(first_id: u32, now: Instant) -> Self {
        Self {
            confirmed: DatagramLen::MIN,
            phase: Phase::Search { rounds: 0 },
            due: now,
            raise_at: now + RAISE_AFTER,
            waiting: Vec::new(),
            ready: Vec::new(),
            next_id: first_id,
            rtt: None,
            small_answered: false,
            is_busy: false,
        }
    }

    /// The largest datagram that the path is known to carry.
    pub fn datagram_len(&self) -> DatagramLen {
        self.confirmed
    }

    /// From a probe to its answer, smoothed (RFC 6298 §2).
    pub fn rtt(&self) -> Option<Duration> {
        self.rtt
    }

    /// The next probe to be sent.
    #[must_use = "a probe that is not sent counts as lost"]
    pub fn poll_probe(&mut self, now: Instant) -> Option<PathProbe> {
        let probe = self.ready.pop()?;
        self.waiting.push(Waiting { probe, sent_at: now });
        Some(probe)
    }

    /// When [`Self::handle_timeout`] wants to be called.
    pub fn next_timeout(&self) -> Instant {
        self.due
    }

    /// Data flows to the peer (or not): decides how soon the path is doubted.
    pub fn on_activity(&mut self, is_busy: bool, now: Instant) {
        if is_busy && !self.is_busy && self.phase == Phase::Rest {
            self.due = self.due.min(now + CONFIRM_BUSY);
        }
        self.is_busy = is_busy;
    }

    /// An answer to the probe `id` has come.
    pub fn on_answer(&mut self, id: u32, now: Instant) -> Answer {
        let Some(at) = self.waiting.iter().position(|waiting| waiting.probe.id == id) else { return Answer::Unknown };
        let answered = self.waiting.swap_remove(at);
        self.measure(now.saturating_duration_since(answered.sent_at));
        self.small_answered |= answered.probe.len < self.confirmed;
        let raised = answered.probe.len > self.confirmed;
        if raised {
            self.confirmed = answered.probe.len;
        }
        if matches!(self.phase, Phase::Confirm { .. }) && answered.probe.len >= self.confirmed {
            self.rest(now);
        }
        if raised { Answer::Raised } else { Answer::Confirmed }
    }

    /// The kernel or the path says that `len` does not fit. Says whether the confirmed length was lowered.
    pub fn on_too_big(&mut self, len: usize, now: Instant) -> bool {
        if len > self.confirmed.bytes() || self.confirmed == DatagramLen::MIN {
            return false;
        }
        self.restart(now);
        true
    }

    /// The peer is somewhere else: nothing is known of the new path.
    pub fn on_new_path(&mut self, now: Instant) {
        self.rtt = None;
        self.restart(now);
    }

    /// Time has passed: sends the next round or draws a conclusion.
    pub fn handle_timeout(&mut self, now: Instant) -> Verdict {
        if now < self.due {
            return Verdict::Fine;
        }
        match self.phase {
            Phase::Search { rounds } => self.search(rounds, now),
            Phase::Rest if now >= self.raise_at => {
                self.raise_at = now + RAISE_AFTER;
                self.phase = Phase::Search { rounds: 0 };
            }
            Phase::Rest => self.confirm(0, now),
            Phase::Confirm { rounds } if rounds < MAX_TRIES => self.confirm(rounds, now),
            Phase::Confirm { .. } if self.small_answered => {
                self.restart(now);
                return Verdict::BlackHole;
            }
            Phase::Confirm { .. } => {
                self.confirm(0, now);
                return Verdict::Silent;
            }
        }
        Verdict::Fine
    }

    /// Asks for every rung above the confirmed length, unless there is none or it was asked often enough.
    fn search(&mut self, rounds: u32, now: Instant) {
        let above = RUNGS.iter().filter(|len| **len > self.confirmed.bytes());
        let lens: Vec<_> = above.map(|len| DatagramLen::clamped(*len)).collect();
        if lens.is_empty() || rounds >= MAX_TRIES {
            return self.rest(now);
        }
        // An answer to an earlier round proves as much, and on a long path nothing else comes.
        if rounds == 0 {
            self.waiting.clear();
        }
        lens.iter().for_each(|len| self.ask(*len));
        self.phase = Phase::Search { rounds: rounds + 1 };
        self.due = now + self.timeout();
    }

    fn confirm(&mut self, rounds: u32, now: Instant) {
        if rounds == 0 {
            self.small_answered = false;
            self.waiting.clear();
        }
        self.ask(self.confirmed);
        if rounds > 0 && self.confirmed > DatagramLen::MIN {
            self.ask(DatagramLen::MIN);
        }
        self.phase = Phase::Confirm { rounds: rounds + 1 };
        self.due = now + self.timeout();
    }

    fn ask(&mut self, len: DatagramLen) {
        self.ready.push(PathProbe { id: self.next_id, len });
        self.next_id = self.next_id.wrapping_add(1);
    }

    fn rest(&mut self, now: Instant) {
        self.phase = Phase::Rest;
        self.due = now + if self.is_busy { CONFIRM_BUSY } else { CONFIRM_IDLE };
    }

    fn restart(&mut self, now: Instant) {
        self.confirmed = DatagramLen::MIN;
        self.waiting.clear();
        self.ready.clear();
        self.phase = Phase::Search { rounds: 0 };
        self.due = now;
        self.raise_at = now + RAISE_AFTER;
    }

    fn timeout(&self) -> Duration {
        self.rtt.map_or(INITIAL_TIMEOUT, |rtt| (rtt * 3).clamp(MIN_TIMEOUT, MAX_TIMEOUT))
    }

    fn measure(&mut self, sample: Duration) {
        self.rtt = Some(self.rtt.map_or(sample, |rtt| (rtt * 7 + sample) / 8));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A path with a one-way nothing: answers every probe up to `mtu` after 1 ms.
    struct Path {
        prober: PathMtu,
        now: Instant,
        mtu: usize,
        sent: usize,
    }

    impl Path {
        #[expect(clippy::disallowed_methods, reason = "tests begin somewhere")]
        fn new(mtu: usize) -> Self {
            let now = Instant::now();
            Self { prober: PathMtu::new(0, now), now, mtu, sent: 0 }
        }

        /// Lets time pass; the worst verdict seen.
        fn run(&mut self, time: Duration) -> Verdict {
            let end = self.now + time;
            let mut worst = Verdict::Fine;
            while self.prober.next_timeout() <= end {
                self.now = self.now.max(self.prober.next_timeout());
                let verdict = self.prober.handle_timeout(self.now);
                if verdict != Verdict::Fine {
                    worst = verdict;
                }
                let mut answers = Vec::new();
                while let Some(probe) = self.prober.poll_probe(self.now) {
                    self.sent += 1;
                    if probe.len.bytes() <= self.mtu {
                        answers.push(probe.id);
                    }
                }
                self.now += Duration::from_millis(1);
                for id in answers {
                    self.prober.on_answer(id, self.now);
                }
            }
            self.now = end;
            worst
        }
    }

    #[test]
    fn the_largest_rung_that_passes_is_found_in_one_round_trip() {
        for (mtu, expected) in [(1232, 1232), (1372, 1372), (1471, 1452), (1472, 1472), (9000, 8972)] {
            let mut path = Path::new(mtu);
            path.run(Duration::from_millis(1));
            assert_eq!(path.prober.datagram_len().bytes(), expected, "path of {mtu}");
        }
    }

    #[test]
    fn a_path_on_which_answers_take_longer_than_a_round_is_searched_all_the_same() {
        let Path { mut prober, now, .. } = Path::new(1472);
        let _ = prober.handle_timeout(now);
        let first: Vec<PathProbe> = std::iter::from_fn(|| prober.poll_probe(now)).collect();
        let later = prober.next_timeout();
        let _ = prober.handle_timeout(later);
        while prober.poll_probe(later).is_some() {}
        let longest = first.iter().find(|probe| probe.len.bytes() == 1472).expect("it is a rung");
        let round_trip = Duration::from_millis(600);
        assert!(later < now + round_trip, "the second round is under way");
        assert_eq!(prober.on_answer(longest.id, now + round_trip), Answer::Raised);
        assert_eq!((prober.datagram_len().bytes(), prober.rtt()), (1472, Some(round_trip)));
    }

    #[test]
    fn a_path_that_shrinks_is_noticed_while_data_flows() {
        let mut path = Path::new(1472);
        path.run(Duration::from_secs(3));
        path.prober.on_activity(true, path.now);
        path.run(Duration::from_secs(5));
        path.mtu = 1300;
        assert_eq!(path.run(Duration::from_secs(3)), Verdict::BlackHole);
        assert_eq!(path.prober.datagram_len().bytes(), 1292);
    }

    #[test]
    fn a_path_that_grows_is_found_when_the_raise_timer_ends() {
        let mut path = Path::new(1300);
        path.run(Duration::from_secs(60));
        path.mtu = 9000;
        assert_eq!(path.run(RAISE_AFTER + CONFIRM_IDLE), Verdict::Fine);
        assert_eq!(path.prober.datagram_len().bytes(), 8972);
    }

    #[test]
    fn a_peer_that_answers_nothing_is_silent_not_a_black_hole() {
        let mut path = Path::new(1472);
        path.run(Duration::from_secs(6));
        path.mtu = 0;
        assert_eq!(path.run(Duration::from_secs(8)), Verdict::Silent);
        assert_eq!(path.prober.datagram_len().bytes(), 1472, "silence says nothing about the length");
    }

    #[test]
    fn too_big_lowers_at_once_and_a_smaller_length_is_found() {
        let mut path = Path::new(1472);
        path.run(Duration::from_secs(1));
        path.mtu = 1400;
        assert!(path.prober.on_too_big(1472, path.now));
        assert_eq!(path.prober.datagram_len(), DatagramLen::MIN);
        path.run(Duration::from_millis(1));
        assert_eq!(path.prober.datagram_len().bytes(), 1392);
        assert!(!path.prober.on_too_big(8972, path.now), "a probe that was too big says nothing new");
    }

    #[test]
    fn an_idle_path_costs_one_probe_every_few_seconds() {
        let mut path = Path::new(9000);
        path.run(Duration::from_secs(10));
        path.sent = 0;
        path.run(Duration::from_secs(100));
        assert!(path.sent <= 21, "{} probes in 100 s", path.sent);
    }

    #[test]
    fn an_unknown_answer_changes_nothing() {
        let mut path = Path::new(1472);
        assert_eq!(path.prober.on_answer(77, path.now), Answer::Unknown);
        assert_eq!(path.prober.rtt(), None);
    }
}

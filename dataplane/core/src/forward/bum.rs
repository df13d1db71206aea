//! The rate limit of broadcast, unknown and multicast frames, and of questions to the router: token buckets, one of each for each
//! sending thread and below them one for each source.
//!
//! Ingress replication makes a copy for each peer, so a frame is charged for its copies: in a cluster of some hundreds a storm
//! of a few thousand frames would be a million sends. There is a most that a frame is charged for, because ARP and DHCP have
//! to get through in the largest cluster.
//!
//! INVARIANT: whatever one source sends, it takes no more than its part ([`BUM_SOURCE_PART`]) of what the thread may flood.

use std::time::Instant;

use weaved_api::MacAddr;

use crate::limits::{BUM_BURST, BUM_FRAMES_PER_SECOND, BUM_FREE_COPIES, BUM_MAX_CHARGE, BUM_SOURCE_PART, BUM_SOURCES};

/// Tokens for frames that go to everybody.
#[derive(Debug)]
pub(super) struct BumLimiter {
    all: Bucket,
    /// For questions that the router answers. With those of floods they would leave none to frames that need many at once, or
    /// the other way round.
    questions: Bucket,
    /// By a hash of the source's address.
    sources: Box<[Bucket; BUM_SOURCES]>,
    now: Instant,
}

/// Tokens, in frames; a fraction is kept, so that short times do not lose what they have earned.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    tokens: f64,
    filled_at: Instant,
}

impl BumLimiter {
    /// Full buckets.
    pub(super) fn new(now: Instant) -> Self {
        let source = Bucket { tokens: f64::from(BUM_BURST / BUM_SOURCE_PART), filled_at: now };
        let all = Bucket { tokens: f64::from(BUM_BURST), filled_at: now };
        Self { all, questions: all, sources: Box::new([source; BUM_SOURCES]), now }
    }

    /// Adds what the time since the last call has earned. Once a batch.
    pub(super) fn refill(&mut self, now: Instant) {
        self.now = now;
        self.all.refill(1, now);
        self.questions.refill(1, now);
    }

    /// Takes a token for a question of this source if there is one.
    pub(super) fn take(&mut self, source: MacAddr) -> bool {
        Bucket::take_from([own_bucket(&mut self.sources, source, self.now), &mut self.questions], 1.0)
    }

    /// Takes the tokens for a frame of this source that so many peers get a copy of, if there are enough.
    pub(super) fn take_copies(&mut self, source: MacAddr, count: u32) -> bool {
        let charge = (f64::from(count) / f64::from(BUM_FREE_COPIES)).clamp(1.0, BUM_MAX_CHARGE.into());
        Bucket::take_from([own_bucket(&mut self.sources, source, self.now), &mut self.all], charge)
    }
}

impl Bucket {
    /// Takes so many from both, or none from either.
    fn take_from(both: [&mut Self; 2], count: f64) -> bool {
        let granted = both.iter().all(|bucket| bucket.tokens >= count);
        if granted {
            both.into_iter().for_each(|bucket| bucket.tokens -= count);
        }
        granted
    }

    /// Adds what has been earned at the `part`-th part of the rate.
    fn refill(&mut self, part: u32, now: Instant) {
        let seconds = now.saturating_duration_since(self.filled_at).as_secs_f64();
        let earned = seconds * f64::from(BUM_FRAMES_PER_SECOND / part);
        self.tokens = (self.tokens + earned).min(f64::from(BUM_BURST / part));
        self.filled_at = now;
    }
}

/// That of this source, with what it has earned until now.
fn own_bucket(sources: &mut [Bucket; BUM_SOURCES], source: MacAddr, now: Instant) -> &mut Bucket {
    let own = &mut sources[slot_of(source)];
    own.refill(BUM_SOURCE_PART, now);
    own
}

/// Docker numbers addresses upwards: neighbours are to fall apart, which the low bits do, and random ones as well.
fn slot_of(MacAddr(octets): MacAddr) -> usize {
    let spread = octets.iter().fold(0_u32, |hash, octet| (hash ^ u32::from(*octet)).wrapping_mul(0x0100_0193));
    (spread ^ spread >> 16) as usize % BUM_SOURCES
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests begin somewhere")]
mod tests {
    use std::time::Duration;

    use super::*;

    const STEP: Duration = Duration::from_millis(100);

    fn container(last: u8) -> MacAddr {
        MacAddr([2, 0x42, 10, 32, 1, last])
    }

    #[test]
    fn a_burst_of_many_passes_and_then_the_rate_holds() {
        let mut now = Instant::now();
        let mut limiter = BumLimiter::new(now);
        let mut granted = 0;
        for _ in 0..10 {
            now += STEP;
            limiter.refill(now);
            granted += (0..100_000_u32).filter(|at| limiter.take(container(*at as u8))).count();
        }
        assert_eq!(granted, (BUM_BURST + BUM_FRAMES_PER_SECOND * 9 / 10) as usize);
    }

    #[test]
    fn a_storm_of_one_container_leaves_every_frame_of_the_others_its_way() {
        let mut now = Instant::now();
        let mut limiter = BumLimiter::new(now);
        let (mut of_storm, mut of_others) = (0, 0);
        for _ in 0..100 {
            now += STEP;
            limiter.refill(now);
            of_storm += (0..100_000).filter(|_| limiter.take(container(1))).count();
            of_others += (2..102).filter(|last| limiter.take(container(*last))).count();
        }
        assert_eq!(of_others, 100 * 100);
        assert_eq!(of_storm, ((BUM_BURST + BUM_FRAMES_PER_SECOND * 99 / 10) / BUM_SOURCE_PART) as usize);
    }

    /// Ten seconds in a cluster: what a storm of one container may send, and a hundred others of which so many ask in each of a
    /// thousand moments.
    fn storm(peers: u32, asking: usize) -> (usize, usize) {
        let mut now = Instant::now();
        let mut limiter = BumLimiter::new(now);
        let mut others = (2..102).cycle();
        let (mut of_storm, mut of_others) = (0, 0);
        for _ in 0..1000 {
            now += Duration::from_millis(10);
            limiter.refill(now);
            of_storm += (0..1000).filter(|_| limiter.take_copies(container(1), peers)).count();
            let asking = others.by_ref().take(asking);
            of_others += asking.filter(|last| limiter.take_copies(container(*last), peers)).count();
        }
        (of_storm, of_others)
    }

    #[test]
    fn a_storm_is_no_more_sends_among_many_hosts_than_among_few() {
        let copies = |peers| peers as usize * storm(peers, 0).0;
        for peers in [8, 20, 50, 200] {
            assert!(copies(peers) <= copies(4), "{peers} hosts: {} copies, four: {}", copies(peers), copies(4));
        }
    }

    #[test]
    fn in_the_largest_cluster_too_the_others_ask_in_spite_of_a_storm() {
        for (peers, asking) in [(4, 100), (50, 10), (200, 2), (4000, 2)] {
            let (of_storm, of_others) = storm(peers, asking);
            assert_eq!(of_others, 1000 * asking, "{peers} hosts");
            assert!(of_storm >= 1000, "{peers} hosts: {of_storm}");
        }
    }

    #[test]
    fn neither_questions_nor_floods_among_many_hosts_starve_the_others() {
        const MOMENT: Duration = Duration::from_micros(100);
        for is_storm_of_questions in [true, false] {
            let mut now = Instant::now();
            let mut limiter = BumLimiter::new(now);
            let take = |limiter: &mut BumLimiter, source, is_question| {
                if is_question { limiter.take(container(source)) } else { limiter.take_copies(container(source), 200) }
            };
            let (mut of_storm, mut of_others) = (0, 0);
            for moment in 0..10_000_u32 {
                now += MOMENT;
                limiter.refill(now);
                // Far more than there are tokens, from a hundred containers; of another one now and then.
                let storm = (0..4).map(|at| ((moment * 4 + at) % 100) as u8);
                of_storm += storm.filter(|from| take(&mut limiter, *from, is_storm_of_questions)).count();
                if moment % 100 == 0 {
                    of_others += usize::from(take(&mut limiter, 200, !is_storm_of_questions));
                }
            }
            assert_eq!(of_others, 100, "{of_storm} passed of the storm");
        }
    }

    #[test]
    fn containers_with_addresses_one_after_the_other_do_not_share_a_part() {
        let mut slots: Vec<usize> = (0..=u8::MAX).map(|last| slot_of(container(last))).collect();
        slots.sort_unstable();
        slots.dedup();
        assert!(slots.len() > BUM_SOURCES / 2, "{}", slots.len());
    }
}

//! The rate limit of broadcast, unknown and multicast frames: token buckets, one for each sending thread and below it one
//! for each source.
//!
//! INVARIANT: whatever one source sends, it takes no more than its part ([`BUM_SOURCE_PART`]) of what the thread may flood.

use std::time::Instant;

use weaved_api::MacAddr;

use crate::limits::{BUM_BURST, BUM_FRAMES_PER_SECOND, BUM_SOURCE_PART, BUM_SOURCES};

/// Tokens for frames that go to everybody.
#[derive(Debug)]
pub(super) struct BumLimiter {
    all: Bucket,
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
        Self { all, sources: Box::new([source; BUM_SOURCES]), now }
    }

    /// Adds what the time since the last call has earned. Once a batch.
    pub(super) fn refill(&mut self, now: Instant) {
        self.now = now;
        self.all.refill(1, now);
    }

    /// Takes a token for a frame of this source if there is one.
    pub(super) fn take(&mut self, source: MacAddr) -> bool {
        let own = &mut self.sources[slot_of(source)];
        own.refill(BUM_SOURCE_PART, self.now);
        let granted = own.tokens >= 1.0 && self.all.tokens >= 1.0;
        if granted {
            own.tokens -= 1.0;
            self.all.tokens -= 1.0;
        }
        granted
    }
}

impl Bucket {
    /// Adds what has been earned at the `part`-th part of the rate.
    fn refill(&mut self, part: u32, now: Instant) {
        let seconds = now.saturating_duration_since(self.filled_at).as_secs_f64();
        let earned = seconds * f64::from(BUM_FRAMES_PER_SECOND / part);
        self.tokens = (self.tokens + earned).min(f64::from(BUM_BURST / part));
        self.filled_at = now;
    }
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

    #[test]
    fn containers_with_addresses_one_after_the_other_do_not_share_a_part() {
        let mut slots: Vec<usize> = (0..=u8::MAX).map(|last| slot_of(container(last))).collect();
        slots.sort_unstable();
        slots.dedup();
        assert!(slots.len() > BUM_SOURCES / 2, "{}", slots.len());
    }
}

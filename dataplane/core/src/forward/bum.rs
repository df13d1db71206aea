//! The rate limit of broadcast, unknown and multicast frames: a token bucket per sending thread.

use std::time::Instant;

use crate::limits::{BUM_BURST, BUM_FRAMES_PER_SECOND};

/// Tokens for frames that go to everybody.
#[derive(Debug)]
pub(super) struct BumLimiter {
    /// In frames; a fraction is kept, so that short batches do not lose what they have earned.
    tokens: f64,
    filled_at: Instant,
}

impl BumLimiter {
    /// A full bucket.
    pub(super) fn new(now: Instant) -> Self {
        Self { tokens: f64::from(BUM_BURST), filled_at: now }
    }

    /// Adds what the time since the last call has earned. Once a batch.
    pub(super) fn refill(&mut self, now: Instant) {
        let earned = now.saturating_duration_since(self.filled_at).as_secs_f64() * f64::from(BUM_FRAMES_PER_SECOND);
        self.tokens = (self.tokens + earned).min(f64::from(BUM_BURST));
        self.filled_at = now;
    }

    /// Takes a token if there is one.
    pub(super) fn take(&mut self) -> bool {
        let granted = self.tokens >= 1.0;
        if granted {
            self.tokens -= 1.0;
        }
        granted
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "tests begin somewhere")]
    fn a_burst_passes_and_then_the_rate_holds() {
        let mut now = Instant::now();
        let mut limiter = BumLimiter::new(now);
        let mut granted = 0;
        for _ in 0..10 {
            now += Duration::from_millis(100);
            limiter.refill(now);
            granted += (0..100_000).filter(|_| limiter.take()).count();
        }
        assert_eq!(granted, (BUM_BURST + BUM_FRAMES_PER_SECOND * 9 / 10) as usize);
    }
}

//! How long to wait before a part that ended is started again.
//!
//! The first restart comes at once: most ends are single accidents, and frames wait for it. A part that ends again
//! and again is started less and less often, down to once in [`MAX_PAUSE`]; one that has lived for [`HEALTHY`] is
//! treated as new.

use std::time::Duration;

/// The second restart in a row waits this long; each further one twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const MAX_PAUSE: Duration = Duration::from_secs(5);
const HEALTHY: Duration = Duration::from_secs(10);

/// The pauses of one part.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    next: Duration,
}

impl Backoff {
    /// The pause before the next start of a part that has lived this long.
    pub(super) fn on_end(&mut self, lived: Duration) -> Duration {
        let pause = if lived >= HEALTHY { Duration::ZERO } else { self.next };
        self.next = if pause.is_zero() { FIRST_PAUSE } else { (pause * 2).min(MAX_PAUSE) };
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_restart_is_at_once_and_later_ones_wait_up_to_the_maximum() {
        let mut backoff = Backoff::default();
        let pauses: Vec<_> = (0..9).map(|_| backoff.on_end(Duration::from_secs(1)).as_millis()).collect();
        assert_eq!(pauses, [0, 100, 200, 400, 800, 1600, 3200, 5000, 5000]);
    }

    #[test]
    fn a_healthy_while_makes_the_next_restart_immediate() {
        let mut backoff = Backoff::default();
        for _ in 0..5 {
            backoff.on_end(Duration::ZERO);
        }
        assert_eq!(backoff.on_end(HEALTHY), Duration::ZERO);
        assert_eq!(backoff.on_end(Duration::ZERO), FIRST_PAUSE);
    }
}

//! Whether a worker that has nothing to do looks again or sleeps.
//!
//! Looking again pays when the next frame comes sooner than sleeping and being woken would take; for traffic with
//! pauses it only costs. So it is learned from the sleeps: a short one says that waiting would have been better, a
//! long one that it would have been in vain. Idle hosts therefore do not spend anything on it.

use std::time::{Duration, Instant};

/// The longest time that is spent on looking again.
const LOOKING_TIME: Duration = Duration::from_micros(20);

/// A sleep of less than this was not worth it. It includes what waking up takes: some 50 µs on a virtual machine
/// whose core was halted.
const SHORT_SLEEP: Duration = Duration::from_micros(100);

/// What ends sooner was no sleep: something was there. Going to sleep and waking up takes longer.
const AT_ONCE: Duration = Duration::from_micros(3);

/// What a worker has learned of the intervals of its work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Eagerness {
    is_eager: bool,
    idle_since: Option<Instant>,
}

impl Eagerness {
    /// There was work.
    pub(super) fn on_work(&mut self) {
        self.idle_since = None;
    }

    /// There was none: whether to look again before sleeping.
    pub(super) fn looks_again(&mut self, now: Instant) -> bool {
        let idle_since = *self.idle_since.get_or_insert(now);
        self.is_eager && now.saturating_duration_since(idle_since) < LOOKING_TIME
    }

    /// A wait has ended that took so long. Tells whether it was a sleep.
    pub(super) fn on_woken(&mut self, slept: Duration) -> bool {
        let has_slept = slept >= AT_ONCE;
        if has_slept {
            self.is_eager = slept < SHORT_SLEEP;
            self.idle_since = None;
        }
        has_slept
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MICROSECOND: Duration = Duration::from_micros(1);

    #[test]
    fn a_worker_that_has_learned_nothing_sleeps_at_once() {
        assert!(!Eagerness::default().looks_again(Instant::now()));
    }

    #[test]
    fn after_a_short_sleep_it_looks_again_for_a_moment_only() {
        let (mut eagerness, now) = (Eagerness::default(), Instant::now());
        eagerness.on_woken(30 * MICROSECOND);
        assert!(eagerness.looks_again(now));
        assert!(eagerness.looks_again(now + 19 * MICROSECOND));
        assert!(!eagerness.looks_again(now + 20 * MICROSECOND));
    }

    #[test]
    fn work_begins_the_moment_anew() {
        let (mut eagerness, now) = (Eagerness::default(), Instant::now());
        eagerness.on_woken(5 * MICROSECOND);
        assert!(eagerness.looks_again(now));
        eagerness.on_work();
        assert!(eagerness.looks_again(now + 50 * MICROSECOND));
    }

    #[test]
    fn a_wait_that_ends_at_once_teaches_nothing() {
        let mut eagerness = Eagerness::default();
        assert!(!eagerness.on_woken(MICROSECOND));
        assert!(!eagerness.looks_again(Instant::now()));
        assert!(eagerness.on_woken(30 * MICROSECOND));
        assert!(!eagerness.on_woken(MICROSECOND));
        assert!(eagerness.looks_again(Instant::now()));
    }

    #[test]
    fn a_long_sleep_ends_the_looking() {
        let mut eagerness = Eagerness::default();
        eagerness.on_woken(5 * MICROSECOND);
        eagerness.on_woken(Duration::from_millis(2));
        assert!(!eagerness.looks_again(Instant::now()));
    }
}

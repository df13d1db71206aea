//! A pause after a refusal: something is not tried for a while, then once, and again only if that goes well.
//!
//! ```text
//!            refused                 n tries skipped              taken
//!   open ──────────────▶ paused(n) ───────────────────▶ trial ───────────▶ open
//!                            ▲─────────── refused ────────┘
//! ```
//!
//! Counted in tries, not in time, so that it needs no clock. Threads share it without a lock; when two of them race,
//! one more try is made or skipped.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// Tries that are skipped after a refusal: the cost of asking again is nothing then, and a route or a device that has
/// changed is noticed within seconds of traffic.
pub(crate) const PAUSE_TRIES: u32 = 4096;

/// What an answer changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// Nothing: it was known.
    None,
    /// From here on it is not tried.
    Entered,
    /// From here on it is tried again.
    Left,
}

/// The state of one pause. Zero is open; otherwise the tries still to be skipped and one more.
#[derive(Debug, Default)]
pub(crate) struct Pause(AtomicU32);

impl Pause {
    /// Whether to try. Each `false` brings the trial nearer.
    pub(crate) fn may_try(&self) -> bool {
        let state = self.0.load(Relaxed);
        if state > 1 {
            self.0.store(state - 1, Relaxed);
        }
        state <= 1
    }

    /// A try was refused.
    pub(crate) fn on_refused(&self) -> Change {
        if self.0.swap(PAUSE_TRIES + 1, Relaxed) == 0 { Change::Entered } else { Change::None }
    }

    /// A try went well.
    pub(crate) fn on_taken(&self) -> Change {
        // Nearly always open: a load keeps the line shared between cores.
        let was_open = self.0.load(Relaxed) == 0 || self.0.swap(0, Relaxed) == 0;
        if was_open { Change::None } else { Change::Left }
    }

    /// Whether the last answer was a refusal.
    pub(crate) fn is_paused(&self) -> bool {
        self.0.load(Relaxed) > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_remembered_for_a_while_and_then_one_trial_decides() {
        let pause = Pause::default();
        assert!(pause.may_try() && !pause.is_paused());
        assert_eq!(pause.on_taken(), Change::None);
        assert_eq!(pause.on_refused(), Change::Entered);
        for _ in 0..PAUSE_TRIES {
            assert!(!pause.may_try());
        }
        assert!(pause.may_try(), "the trial");
        assert_eq!(pause.on_refused(), Change::None, "still refused: nothing has changed");
        assert!(!pause.may_try());
        for _ in 1..PAUSE_TRIES {
            pause.may_try();
        }
        assert!(pause.may_try());
        assert_eq!(pause.on_taken(), Change::Left);
        assert!(!pause.is_paused());
    }
}

//! Replay window of one lane: each counter is accepted once, by any number of threads, without a lock.
//!
//! ```text
//! slot = block % SLOT_COUNT        block = counter / 32        bit = counter % 32
//! +--------------------------------+--------------------------------+
//! |  number of the block (32 bit)  |  one bit for each counter      |
//! +--------------------------------+--------------------------------+
//! ```
//!
//! A slot that holds an older block is taken over, one that holds a newer block means that the counter is too old.
//! So the block number of a slot only grows, and within a block bits are only set: each step is one compare-and-swap
//! on one word, and of two threads with the same counter exactly one sets the bit.
//!
//! INVARIANT: `accept` is called only after the datagram has been authenticated, so that a forged counter cannot
//! move the window.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::spec::{REJECT_AFTER_DATAGRAMS, REPLAY_WINDOW_LEN};
use crate::wire::data::Counter;

/// Counters in one slot.
const BLOCK_LEN: u64 = 32;

/// Slots of the ring.
const SLOT_COUNT: u64 = REPLAY_WINDOW_LEN / BLOCK_LEN;

const _: () = {
    assert!(REJECT_AFTER_DATAGRAMS / BLOCK_LEN <= 1 << 32, "a block number has 32 bits");
    assert!(REPLAY_WINDOW_LEN.is_multiple_of(BLOCK_LEN) && SLOT_COUNT.is_power_of_two());
};

/// What the window says about a counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replay {
    /// Not seen before.
    Fresh,
    /// Seen before.
    Seen,
    /// So far behind that the window has forgotten whether it was seen.
    TooOld,
}

/// The counters of one lane that have been accepted.
pub struct ReplayWindow {
    slots: Box<[AtomicU64]>,
}

/// Where a counter is noted down.
struct Place {
    slot: usize,
    block: u64,
    bit: u64,
}

impl Default for ReplayWindow {
    /// A window that has seen nothing. Slot 0 begins with block 0, which is right, and for the others block 0 is old.
    fn default() -> Self {
        Self { slots: (0..SLOT_COUNT).map(|_| AtomicU64::new(0)).collect() }
    }
}

impl ReplayWindow {
    /// What [`Self::accept`] would say, without noting anything: saves the cost of opening a replayed datagram.
    ///
    /// The counter must be below [`REJECT_AFTER_DATAGRAMS`].
    pub fn precheck(&self, counter: Counter) -> Replay {
        let place = Place::of(counter);
        place.judge(self.slots[place.slot].load(Relaxed)).0
    }

    /// Notes an authenticated counter. `Fresh` is the answer exactly once for each counter.
    ///
    /// The counter must be below [`REJECT_AFTER_DATAGRAMS`].
    pub fn accept(&self, counter: Counter) -> Replay {
        let place = Place::of(counter);
        let slot = &self.slots[place.slot];
        let mut word = slot.load(Relaxed);
        loop {
            let (verdict, marked) = place.judge(word);
            if verdict != Replay::Fresh {
                return verdict;
            }
            // Relaxed: nothing but this word is decided by it. The loop ends, because a slot changes only forward.
            match slot.compare_exchange_weak(word, marked, Relaxed, Relaxed) {
                Ok(_) => return Replay::Fresh,
                Err(changed) => word = changed,
            }
        }
    }

    /// One more than the highest counter that was accepted; 0 when none was. Looks at all slots: not for the fast path.
    pub fn end(&self) -> u64 {
        let end = |word: u64| match word as u32 {
            0 => 0,
            bits => (word >> 32) * BLOCK_LEN + u64::from(32 - bits.leading_zeros()),
        };
        self.slots.iter().map(|slot| end(slot.load(Relaxed))).max().unwrap_or(0)
    }
}

impl Place {
    fn of(counter: Counter) -> Self {
        debug_assert!(counter.0 < REJECT_AFTER_DATAGRAMS, "INVARIANT: counters above the limit are refused before");
        let block = counter.0 / BLOCK_LEN;
        Self { slot: (block % SLOT_COUNT) as usize, block, bit: 1 << (counter.0 % BLOCK_LEN) }
    }

    /// What the word in the slot says about the counter, and the word with the counter noted.
    fn judge(&self, word: u64) -> (Replay, u64) {
        let held = word >> 32;
        if held > self.block {
            (Replay::TooOld, word)
        } else if held < self.block {
            (Replay::Fresh, self.block << 32 | self.bit)
        } else if word & self.bit != 0 {
            (Replay::Seen, word)
        } else {
            (Replay::Fresh, word | self.bit)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, sync::Barrier};

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_counter_is_accepted_once() {
        let window = ReplayWindow::default();
        for counter in [0, 5, 4, 31, 32, 8191, 8192] {
            assert_eq!(window.precheck(Counter(counter)), Replay::Fresh, "{counter}");
            assert_eq!(window.accept(Counter(counter)), Replay::Fresh, "{counter}");
            assert_ne!(window.precheck(Counter(counter)), Replay::Fresh, "{counter}");
            assert_ne!(window.accept(Counter(counter)), Replay::Fresh, "{counter}");
        }
    }

    #[test]
    fn a_precheck_notes_nothing() {
        let window = ReplayWindow::default();
        assert_eq!(window.precheck(Counter(70_000)), Replay::Fresh);
        assert_eq!(window.precheck(Counter(70_000)), Replay::Fresh);
        assert_eq!(window.accept(Counter(1)), Replay::Fresh);
    }

    #[test]
    fn late_counters_are_accepted_within_the_window_and_refused_behind_it() {
        let window = ReplayWindow::default();
        let newest = 10 * REPLAY_WINDOW_LEN;
        for counter in (0..=newest).step_by(32) {
            window.accept(Counter(counter));
        }
        let oldest_held = newest - REPLAY_WINDOW_LEN + BLOCK_LEN;
        assert_eq!(window.accept(Counter(oldest_held + 1)), Replay::Fresh);
        assert_eq!(window.accept(Counter(oldest_held - 1)), Replay::TooOld);
        assert_eq!(window.accept(Counter(1)), Replay::TooOld);
    }

    #[test]
    fn the_last_counter_below_the_limit_fits_the_window() {
        let window = ReplayWindow::default();
        let last = Counter(REJECT_AFTER_DATAGRAMS - 1);
        assert_eq!(window.accept(last), Replay::Fresh);
        assert_eq!(window.accept(last), Replay::Seen);
    }

    /// Remembers everything.
    #[derive(Default)]
    struct Model {
        seen: BTreeSet<u64>,
    }

    proptest! {
        /// Against a model that remembers everything: nothing is accepted twice, and a counter that is new is
        /// refused only when it is a whole window behind.
        #[test]
        fn the_window_agrees_with_a_model(jumps in prop::collection::vec((-9000i64..300, any::<bool>()), 1..2000)) {
            let (window, mut model) = (ReplayWindow::default(), Model::default());
            let mut newest = 0i64;
            for (jump, is_far) in jumps {
                let counter = newest.saturating_add(if is_far { jump } else { jump / 40 }).max(0);
                let verdict = window.accept(Counter(counter.unsigned_abs()));
                let is_new = model.seen.insert(counter.unsigned_abs());
                match verdict {
                    Replay::Fresh => prop_assert!(is_new),
                    Replay::Seen => prop_assert!(!is_new),
                    Replay::TooOld => prop_assert!(newest - counter > (REPLAY_WINDOW_LEN - BLOCK_LEN).cast_signed()),
                }
                newest = newest.max(counter);
            }
        }
    }

    #[test]
    fn the_end_is_behind_the_highest_counter() {
        let window = ReplayWindow::default();
        assert_eq!(window.end(), 0);
        for (counter, end) in [(0, 1), (31, 32), (5, 32), (32, 33), (9000, 9001), (8999, 9001), (70_000, 70_001)] {
            window.accept(Counter(counter));
            assert_eq!(window.end(), end);
        }
    }

    #[test]
    fn two_threads_accept_each_counter_at_most_once_together() {
        // Both run over the same counters, forward in steps that overlap, so that they meet in the same words.
        let counters: Vec<u64> = (0..60_000).map(|i| i / 3 + i % 3 * 40).collect();
        for _ in 0..20 {
            let (window, start) = (ReplayWindow::default(), Barrier::new(2));
            let run = || {
                start.wait();
                let is_fresh = |counter: &&u64| window.accept(Counter(**counter)) == Replay::Fresh;
                counters.iter().filter(is_fresh).copied().collect::<Vec<u64>>()
            };
            let (a, b) = std::thread::scope(|scope| {
                let other = scope.spawn(run);
                (run(), other.join().unwrap())
            });
            let together: BTreeSet<u64> = a.iter().chain(&b).copied().collect();
            assert_eq!(together.len(), a.len() + b.len(), "no counter was accepted twice");
            assert!(together.len() > 10_000, "most were accepted by one of them");
        }
    }
}

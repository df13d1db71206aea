//! Whether a history of one register is linearizable: a search after Wing and Gong, with the memory of Lowe.
//!
//! Values are unique, so that a compare-and-set at an index is one at the value that has it.

use std::collections::BTreeSet;

/// What a client asked, and learned. A write of which nothing was learned has `end` at the end of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Op {
    Read(u32),
    Put(u32),
    /// Expected, wanted, whether it was told to have succeeded; none where nothing was told.
    Cas(u32, u32, Option<bool>),
}

/// An operation and when it began and ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Event {
    pub(super) op: Op,
    pub(super) begin: u64,
    pub(super) end: u64,
}

/// The end of an operation of unknown outcome.
pub(super) const NEVER: u64 = u64::MAX;

/// True if some order that respects time explains what all clients learned. The register begins with 0.
pub(super) fn is_linearizable(history: &[Event]) -> bool {
    assert!(history.len() <= 128, "a history of {} operations is too long to search", history.len());
    let mut seen = BTreeSet::new();
    let mut stack = vec![(0_u128, 0_u32)];
    while let Some((done, value)) = stack.pop() {
        if !seen.insert((done, value)) {
            continue;
        }
        let open = || history.iter().enumerate().filter(|(place, _)| done & (1 << place) == 0);
        // Who knows nothing of his operation cannot be contradicted.
        if open().all(|(_, event)| event.end == NEVER) {
            return true;
        }
        let first_end = open().map(|(_, event)| event.end).min().unwrap_or(NEVER);
        for (place, event) in open().filter(|(_, event)| event.begin <= first_end) {
            if let Some(next) = step(value, event.op) {
                stack.push((done | 1 << place, next));
            }
        }
    }
    false
}

fn step(value: u32, op: Op) -> Option<u32> {
    match op {
        Op::Read(read) => (read == value).then_some(value),
        Op::Put(new) => Some(new),
        Op::Cas(expected, new, Some(true) | None) if expected == value => Some(new),
        Op::Cas(expected, _, Some(false)) if expected != value => Some(value),
        Op::Cas(..) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(events: &[(Op, u64, u64)]) -> Vec<Event> {
        events.iter().map(|&(op, begin, end)| Event { op, begin, end }).collect()
    }

    #[test]
    fn good_histories_pass() {
        let overlapping =
            [(Op::Put(1), 0, 10), (Op::Read(0), 1, 2), (Op::Read(1), 3, 4), (Op::Cas(1, 2, Some(true)), 5, 6)];
        let unknown_happens = [(Op::Cas(0, 1, None), 0, NEVER), (Op::Read(0), 5, 6), (Op::Read(1), 7, 8)];
        let unknown_does_not =
            [(Op::Put(1), 0, NEVER), (Op::Read(0), 5, 6), (Op::Cas(0, 2, Some(true)), 7, 8), (Op::Read(2), 9, 10)];
        for good in [&overlapping[..], &unknown_happens, &unknown_does_not] {
            assert!(is_linearizable(&history(good)), "{good:?}");
        }
    }

    #[test]
    fn bad_histories_are_found() {
        let two_winners = [(Op::Cas(0, 1, Some(true)), 0, 10), (Op::Cas(0, 2, Some(true)), 0, 10)];
        let stale_read = [(Op::Put(1), 0, 1), (Op::Read(0), 2, 3)];
        let lost_write = [(Op::Put(1), 0, 1), (Op::Cas(0, 2, Some(true)), 2, 3)];
        let back_and_forth = [(Op::Put(1), 0, NEVER), (Op::Read(1), 2, 3), (Op::Read(0), 4, 5)];
        let denied_but_done = [(Op::Cas(0, 1, Some(false)), 0, 1), (Op::Read(1), 2, 3)];
        for bad in [&two_winners[..], &stale_read, &lost_write, &back_and_forth, &denied_but_done] {
            assert!(!is_linearizable(&history(bad)), "{bad:?}");
        }
    }
}

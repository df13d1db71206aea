//! Hybrid logical time: wall-clock microseconds that never go back and never repeat on one node, and that are later than
//! everything this node has heard of (Kulkarni et al., "Logical Physical Clocks", 2014).
//!
//! The physical and the logical part share one number: an event within the same microsecond, or behind a clock that went
//! back, takes the next microsecond. So a stamp stays readable as a time, and below 2^53 until the year 2255, which is as
//! far as JSON readers with floating-point numbers count.
//!
//! INVARIANT: each [`HybridClock::tick`] is greater than all ticks before it and all stamps observed before it.

use serde::{Deserialize, Serialize};

/// How far ahead of our own clock a stamp may be that we follow. One beyond it is a broken clock, and is refused.
pub const MAX_AHEAD_US: u64 = 60_000_000;

/// A moment in hybrid logical time, in microseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Hlc(pub u64);

/// A stamp that is further ahead of our clock than [`MAX_AHEAD_US`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a time {} s ahead of this host's clock: the clock of one of the hosts is wrong", ahead_us / 1_000_000)]
pub struct TooFarAhead {
    /// By how much, in microseconds.
    pub ahead_us: u64,
}

/// Gives stamps. The wall clock is an argument, so that the same calls give the same stamps.
#[derive(Clone, Copy, Debug, Default)]
pub struct HybridClock {
    latest: Hlc,
}

impl HybridClock {
    /// A clock that goes on behind `floor`: the latest stamp that an earlier run may have given.
    pub fn new(floor: Hlc) -> Self {
        Self { latest: floor }
    }

    /// The stamp of an event of this node.
    #[must_use]
    pub fn tick(&mut self, wall_us: u64) -> Hlc {
        self.latest = Hlc(wall_us.max(self.latest.0 + 1));
        self.latest
    }

    /// A stamp of another node: later ticks are greater. Changes nothing when it is refused.
    pub fn observe(&mut self, stamp: Hlc, wall_us: u64) -> Result<(), TooFarAhead> {
        let ahead_us = stamp.0.saturating_sub(wall_us.max(self.latest.0));
        if ahead_us > MAX_AHEAD_US {
            return Err(TooFarAhead { ahead_us });
        }
        self.latest = self.latest.max(stamp);
        Ok(())
    }

    /// The latest stamp given or observed.
    pub fn latest(&self) -> Hlc {
        self.latest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_grow_when_the_wall_clock_stands_or_goes_back() {
        let mut clock = HybridClock::new(Hlc(100));
        let stamps: Vec<_> = [50, 200, 200, 10].map(|wall_us| clock.tick(wall_us)).to_vec();
        assert_eq!(stamps, [Hlc(101), Hlc(200), Hlc(201), Hlc(202)]);
    }

    #[test]
    fn what_follows_another_nodes_event_is_stamped_later() {
        let mut clock = HybridClock::default();
        clock.observe(Hlc(5_000), 1_000).unwrap();
        assert_eq!(clock.tick(1_001), Hlc(5_001));
    }

    #[test]
    fn a_clock_that_is_wrong_by_an_hour_does_not_take_the_others_with_it() {
        let mut clock = HybridClock::new(Hlc(1_000));
        let refused = clock.observe(Hlc(3_600_000_000), 1_000).unwrap_err();
        assert!(refused.to_string().contains("3599 s ahead"), "{refused}");
        assert_eq!(clock.latest(), Hlc(1_000));
    }
}

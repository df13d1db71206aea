//! Whether this node is with the others: what a reader of its replica can know of how old an answer may be.
//!
//! A node that a majority of the voters is alive for hears of a decision within moments, and of what is lost on the way
//! when replicas are compared, some seconds later. One that is not may lack everything since then.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// How many voters are alive, as far as this node's failure detector says. It takes some seconds to see a cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Reach {
    /// How many are alive, this node included if it votes.
    pub answering: usize,
    /// How many there are; 0 before this node has heard of them.
    pub voters: usize,
    /// For how long fewer than a majority have been, in milliseconds; None while a majority is.
    pub lost_for_ms: Option<u64>,
}

/// The same, with the moment since when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Contact {
    answering: usize,
    voters: usize,
    lost_since: Option<Instant>,
}

impl Contact {
    /// There was none before.
    pub fn none(now: Instant) -> Self {
        Self { answering: 0, voters: 0, lost_since: Some(now) }
    }

    /// Since when there has been no majority; None while there is one.
    pub(super) fn lost_since(&self) -> Option<Instant> {
        self.lost_since
    }

    /// So many of the voters are alive.
    pub fn look(&mut self, answering: usize, voters: usize, now: Instant) {
        let is_majority = answering > voters / 2;
        let lost_since = if is_majority { None } else { Some(self.lost_since.unwrap_or(now)) };
        *self = Self { answering, voters, lost_since };
    }

    /// For readers at this moment.
    pub fn reach(&self, now: Instant) -> Reach {
        let lost_for = self.lost_since.map(|since| now.saturating_duration_since(since));
        Reach { answering: self.answering, voters: self.voters, lost_for_ms: lost_for.map(in_ms) }
    }
}

fn in_ms(time: Duration) -> u64 {
    time.as_millis().try_into().unwrap_or(u64::MAX)
}

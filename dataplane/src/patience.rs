//! How long several sends may wait together for a socket that is full.
//!
//! INVARIANT: the first wait begins it, and no later one prolongs it.

use std::time::{Duration, Instant};

/// A time that is spent on waiting for room.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    time: Duration,
    ends_at: Option<Instant>,
}

impl Patience {
    /// So much, from the first wait on.
    pub(crate) fn new(time: Duration) -> Self {
        Self { time, ends_at: None }
    }

    /// A send has had to wait.
    pub(crate) fn has_begun(&self) -> bool {
        self.ends_at.is_some()
    }

    /// Until when a send may wait; none when that is over.
    pub(crate) fn begin(&mut self, now: Instant) -> Option<Instant> {
        let ends_at = *self.ends_at.get_or_insert(now + self.time);
        Some(ends_at).filter(|end| *end > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_sends_wait_no_longer_than_one_would() {
        let (start, millis) = (Instant::now(), Duration::from_millis);
        let mut patience = Patience::new(millis(500));
        assert!(!patience.has_begun());
        let left = [3, 103, 502, 503, 900].map(|at| {
            let now = start + millis(at);
            patience.begin(now).map(|end| end - now)
        });
        assert_eq!(left, [Some(millis(500)), Some(millis(400)), Some(millis(1)), None, None]);
        assert!(patience.has_begun());
    }
}

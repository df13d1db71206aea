//! What keeps an address from being listened on, and from when on somebody should hear of it.
//!
//! Everything is a problem at once, but that the address is not there: a bridge gets its address a moment after it is wanted, when the
//! data plane has made it.
//!
//! INVARIANT: what has become a problem stays one until the address is listened on, so that it is told once.

use std::{
    io,
    time::{Duration, Instant},
};

/// After what time an address is tried again.
pub const RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// For so long an address need not be there.
const GRACE: Duration = Duration::from_secs(5);

/// What keeps one address from being listened on, while it is tried again and again.
#[derive(Debug)]
pub struct Obstacle {
    since: Instant,
    tried: Instant,
    reason: String,
    is_problem: bool,
}

impl Obstacle {
    /// Before the first attempt that fails.
    pub fn new(now: Instant) -> Self {
        Self { since: now, tried: now, reason: String::new(), is_problem: false }
    }

    /// An attempt has failed. The reason, where that has become a problem only now.
    pub fn on_failed(&mut self, error: &io::Error, now: Instant) -> Option<&str> {
        let is_missing = error.kind() == io::ErrorKind::AddrNotAvailable;
        self.tried = now;
        self.reason = match error.kind() {
            io::ErrorKind::AddrInUse => "another program has the port".into(),
            io::ErrorKind::AddrNotAvailable => "this host does not have the address".into(),
            _ => error.to_string(),
        };
        if self.is_problem || is_missing && now.saturating_duration_since(self.since) < GRACE {
            return None;
        }
        self.is_problem = true;
        Some(&self.reason)
    }

    /// When it should be tried again.
    pub fn retry_at(&self) -> Instant {
        self.tried + RETRY_INTERVAL
    }

    /// The reason, where it is a problem.
    pub fn problem(&self) -> Option<&str> {
        self.is_problem.then_some(self.reason.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MISSING: io::ErrorKind = io::ErrorKind::AddrNotAvailable;
    const TAKEN: io::ErrorKind = io::ErrorKind::AddrInUse;

    #[test]
    fn an_address_that_is_not_there_is_a_problem_only_when_it_does_not_come() {
        let start = Instant::now();
        let mut obstacle = Obstacle::new(start);
        for after in [Duration::ZERO, GRACE / 2] {
            assert_eq!(obstacle.on_failed(&MISSING.into(), start + after), None);
            assert_eq!(obstacle.problem(), None, "after {after:?}");
        }
        assert_eq!(obstacle.on_failed(&MISSING.into(), start + GRACE), Some("this host does not have the address"));
        assert_eq!(obstacle.problem(), Some("this host does not have the address"));
    }

    #[test]
    fn everything_else_is_a_problem_at_once() {
        let now = Instant::now();
        for (error, reason) in
            [(TAKEN.into(), "another program has the port"), (io::Error::other("no more sockets"), "no more sockets")]
        {
            assert_eq!(Obstacle::new(now).on_failed(&error, now), Some(reason));
        }
    }

    #[test]
    fn a_problem_is_told_once_and_has_its_latest_reason() {
        let start = Instant::now();
        let mut obstacle = Obstacle::new(start);
        assert!(obstacle.on_failed(&TAKEN.into(), start).is_some());
        assert_eq!(obstacle.on_failed(&TAKEN.into(), start + RETRY_INTERVAL), None);
        assert_eq!(obstacle.on_failed(&MISSING.into(), start + 2 * RETRY_INTERVAL), None);
        assert_eq!(obstacle.problem(), Some("this host does not have the address"));
    }

    #[test]
    fn it_is_tried_again_an_interval_after_the_latest_attempt() {
        let start = Instant::now();
        let mut obstacle = Obstacle::new(start);
        assert_eq!(obstacle.retry_at(), start + RETRY_INTERVAL);
        obstacle.on_failed(&TAKEN.into(), start + GRACE);
        assert_eq!(obstacle.retry_at(), start + GRACE + RETRY_INTERVAL);
    }
}

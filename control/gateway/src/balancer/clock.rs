//! The two clocks: one that only goes forward, for waiting, and the wall's, which the hosts of a cluster share.

use std::{
    sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Instant, SystemTime, UNIX_EPOCH},
};

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Milliseconds since the process began to balance.
pub(super) fn millis(now: Instant) -> u64 {
    now.saturating_duration_since(*START).as_millis() as u64
}

/// A moment that threads set and ask for; at first there is none.
#[derive(Debug, Default)]
pub(super) struct Until(AtomicU64);

impl Until {
    /// From now on it is this one.
    pub(super) fn set(&self, until: Instant) {
        self.0.store(millis(until).max(1), Relaxed);
    }

    /// True while it is still to come.
    pub(super) fn is_ahead(&self, now: Instant) -> bool {
        let until = self.0.load(Relaxed);
        until != 0 && until > millis(now)
    }
}

/// Microseconds of Unix time. 0 on a host whose clock stands before 1970.
pub(super) fn wall_us() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64)
}

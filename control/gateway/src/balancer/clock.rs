//! The two clocks: one that only goes forward, for waiting, and the wall's, which the hosts of a cluster share.

use std::{
    sync::LazyLock,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Milliseconds since the process began to balance.
pub(super) fn millis(now: Instant) -> u64 {
    now.saturating_duration_since(*START).as_millis() as u64
}

/// Microseconds of Unix time. 0 on a host whose clock stands before 1970.
pub(super) fn wall_us() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64)
}

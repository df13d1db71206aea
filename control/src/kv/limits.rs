//! Bounds of the key-value store, and what happens at each.

use std::time::Duration;

/// Longest key. A longer one is refused.
pub const MAX_KEY_BYTES: usize = 4096;

/// Longest value: Consul's. A longer one is refused.
pub const MAX_VALUE_BYTES: usize = 512 << 10;

/// Prefixes of guarded keys. More are refused at launch.
pub const MAX_GUARDED: usize = 32;

/// Longest prefix of guarded keys.
pub const MAX_GUARDED_BYTES: usize = 128;

/// Keys, values and their bookkeeping, without sessions. A put beyond it is refused; a deletion never is.
pub const MAX_TOTAL_BYTES: usize = 64 << 20;

/// What replication may fill: two halves of a cut may both have written up to [`MAX_TOTAL_BYTES`], and must be able to
/// merge. Entries of others beyond it are not taken and counted.
pub const MAX_REPLICA_BYTES: usize = 2 * MAX_TOTAL_BYTES;

/// Sessions, counted as keys are, those included that have ended and are not forgotten yet. A new one beyond it is refused, and
/// keys do not notice.
pub const MAX_SESSIONS_BYTES: usize = 64 << 20;

/// As [`MAX_REPLICA_BYTES`], of sessions.
pub const MAX_REPLICA_SESSIONS_BYTES: usize = 2 * MAX_SESSIONS_BYTES;

/// What an entry counts besides its key and value.
pub const ENTRY_BYTES: usize = 160;

/// For how long a deletion is remembered. A host that was away for longer may bring the key back.
pub const TOMBSTONE_KEPT: Duration = Duration::from_hours(24);

/// Stamps at or beyond it are garbage: readers of JSON that count in floating point lose the last digits there.
pub const MAX_STAMP: u64 = 1 << 53;

/// Entries in one answer to a verb, and their values together. Further ones are in the next page.
pub const MAX_PAGE_ENTRIES: usize = 10_000;
/// See [`MAX_PAGE_ENTRIES`].
pub const MAX_PAGE_BYTES: usize = 2 << 20;

/// Entries that the steps of one transaction go through, those deleted included: some 100 ms of work. It fits twice what a full
/// store can hold.
pub const MAX_LOOKED_AT: usize = 1_000_000;

/// Reads that wait for a change. A further one is refused.
pub const MAX_WATCHERS: usize = 50_000;

/// The longest that a read waits: Consul's.
pub const MAX_WAIT: Duration = Duration::from_mins(10);

/// For how long it is remembered that a session has ended. Every host that is not away for longer hears of it in that time.
pub const SESSION_KEPT: Duration = Duration::from_hours(7 * 24);

const _: () = {
    assert!(MAX_LOOKED_AT > 2 * MAX_TOTAL_BYTES / ENTRY_BYTES, "all plain keys can be deleted by one transaction");
    assert!(MAX_VALUE_BYTES + MAX_KEY_BYTES < MAX_PAGE_BYTES, "a page holds at least one entry");
    // Base64 grows by a third; the control socket takes messages of 8 MiB.
    assert!(MAX_PAGE_BYTES * 4 / 3 + MAX_PAGE_ENTRIES * 400 < 8 << 20, "a page fits the control socket");
};

//! Bounds of the catalogue, and what happens at each.

use weaved_api::MAX_CONTROL_BYTES;

/// Instances that one node may own. Further ones are not registered, and an event says so.
pub const MAX_INSTANCES: usize = 4096;

/// Bytes of a service's name or an instance's id. Longer ones are refused, with a reason.
pub const MAX_NAME_BYTES: usize = 255;

/// Tags of one instance; further ones are left out and counted.
pub const MAX_TAGS: usize = 64;

/// Bytes of one tag.
pub const MAX_TAG_BYTES: usize = 255;

/// Pairs of metadata of one instance (Consul's own limit).
pub const MAX_META: usize = 64;

/// Bytes of a key of metadata (Consul's own limit).
pub const MAX_META_KEY_BYTES: usize = 128;

/// Bytes of a value of metadata (Consul's own limit).
pub const MAX_META_VALUE_BYTES: usize = 512;

/// Checks of one instance.
pub const MAX_CHECKS: usize = 16;

/// Bytes of a check's output that travel; the node that runs the check keeps more.
pub const MAX_CHECK_OUTPUT_BYTES: usize = 512;

/// Bytes of a check's name, id or kind.
pub const MAX_CHECK_NAME_BYTES: usize = 255;

/// Bytes of an encoded instance: it travels in one message, with room for what is around it. One that is longer loses the
/// output of its checks first; if that is not enough it is not announced, and an event says so.
pub const MAX_INSTANCE_BYTES: usize = MAX_CONTROL_BYTES - 256;

/// Removed instances that a log remembers. For the sake of a node that missed the removal of an older one, the whole log is
/// sent again.
pub const MAX_TOMBSTONES: usize = 1024;

/// Entries of one node's log.
pub const MAX_LOG_ENTRIES: usize = MAX_INSTANCES + 2 * MAX_TOMBSTONES;

/// Entries of all logs together. What would go beyond it is refused and counted.
pub const MAX_ENTRIES: usize = 1 << 17;

/// Deltas that are sent for one question; the receiver asks again for the rest.
pub const WINDOW: usize = 32;

/// Deltas that came before one that they follow; further ones are dropped, they come again.
pub const MAX_PARKED: usize = 256;

/// Services that have vanished and whose index is remembered. Beyond it the oldest shares its index with all unknown names.
pub const MAX_VANISHED: usize = 4096;

const _: () = assert!(MAX_TOMBSTONES < MAX_INSTANCES && MAX_LOG_ENTRIES < MAX_ENTRIES, "one log fits among all");

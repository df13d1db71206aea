//! Bounds of the catalogue, and what happens at each.

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

//! Bounds on what containers, files and clients may say, and what happens at each.

/// Bytes of one variable or label of a container that are looked at; a longer one is left out, with a note.
pub const MAX_ENTRY_BYTES: usize = 4096;

/// `SERVICE_…` variables and labels of one container; further ones are left out, with a note.
pub const MAX_ENTRIES: usize = 512;

/// Ports of one container that are registered; further ones are left out, with a note. An image that exposes a range of
/// thousands means something else.
pub const MAX_PORTS: usize = 64;

/// Notes that are kept; further ones are counted in the last.
pub const MAX_NOTES: usize = 256;

/// Bytes of a note that quotes somebody.
pub const MAX_QUOTE_BYTES: usize = 80;

/// Bytes of a file of definitions; a longer one is refused as a whole.
pub const MAX_FILE_BYTES: u64 = 1 << 20;

/// Files in the services directory; further ones, in the order of their names, are not read, and a note says so.
pub const MAX_FILES: usize = 1024;

/// Services and checks that clients have registered; further ones are refused.
pub const MAX_REGISTERED: usize = 2048;

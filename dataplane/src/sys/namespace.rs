//! Network namespaces for tests.

use std::io;

use rustix::thread::{UnshareFlags, unshare_unsafe};

/// Gives the calling thread, and those it will start, a network namespace of its own. It ends with the last of them.
pub(crate) fn enter_new() -> io::Result<()> {
    // SAFETY: a new network namespace leaves memory and the descriptor table of the thread as they are.
    Ok(unsafe { unshare_unsafe(UnshareFlags::NEWNET) }?)
}

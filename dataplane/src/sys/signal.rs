//! Signals as a file descriptor, so that they are one more thing to poll.

use std::{
    io,
    os::fd::{AsFd, FromRawFd, OwnedFd},
    ptr,
};

use super::check;

/// The signals that the daemon hears.
const HEARD: [libc::c_int; 3] = [libc::SIGTERM, libc::SIGINT, libc::SIGHUP];

/// A set of the signals that the daemon hears.
fn heard() -> libc::sigset_t {
    // SAFETY: `sigset_t` is plain integers, for which all zeroes is a value; it is the empty set on Linux.
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    for signal in HEARD {
        // SAFETY: `set` is initialised and `signal` is a valid number.
        unsafe { libc::sigaddset(&raw mut set, signal) };
    }
    set
}

/// Blocks the heard signals in this thread and in those it will start, so that only [`descriptor`] gets them.
pub(crate) fn block() -> io::Result<()> {
    let set = heard();
    // SAFETY: `set` is initialised and outlives the call; a null old set is allowed.
    let error = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, ptr::null_mut()) };
    if error == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(error)) }
}

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Signal {
    /// `SIGTERM` or `SIGINT`: come to an end.
    End,
    /// `SIGHUP`: read the configuration again.
    Reload,
}

/// The next signal that has arrived on a [`descriptor`]; none when there is none.
pub(crate) fn next(descriptor: impl AsFd) -> Option<Signal> {
    // A `signalfd_siginfo` has 128 bytes and begins with the number of the signal.
    let mut info = [0; 128];
    let len = rustix::io::read(descriptor, &mut info).ok()?;
    let (number, _) = info.get(..len)?.split_first_chunk()?;
    let is_hangup = u32::from_ne_bytes(*number) == libc::SIGHUP.cast_unsigned();
    Some(if is_hangup { Signal::Reload } else { Signal::End })
}

/// A descriptor that becomes readable when a heard signal has arrived (signalfd(2)).
pub(crate) fn descriptor() -> io::Result<OwnedFd> {
    let set = heard();
    // SAFETY: `set` is initialised and outlives the call; -1 asks for a new descriptor.
    let fd = check(unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) })?;
    // SAFETY: the kernel has just given us this descriptor and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

//! System calls that no safe crate offers: TUN requests, datagram control messages, eBPF, signals, namespaces.
//!
//! One system call per function, with a safe signature. What rustix wraps safely is called from there directly and
//! has no place here.
//!
//! INVARIANT: this is the only module of the project with `unsafe`; each block has its SAFETY comment.

#![expect(unsafe_code, reason = "the one place for system calls that have no safe wrapper")]

pub(crate) mod bpf;
#[cfg(test)]
pub(crate) mod namespace;
pub(crate) mod signal;
pub(crate) mod socket;
pub(crate) mod tun;

use std::{ffi::c_int, io};

/// The outcome of a C call that answers -1 on failure.
fn check(result: c_int) -> io::Result<c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// The outcome of a C call that answers a length, or -1 on failure.
fn check_len(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

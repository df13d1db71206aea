//! Requests to `/dev/net/tun` (`linux/if_tun.h`).
//!
//! Each function is one ioctl. The request numbers come from the kernel's header; `libc` has some of them only.

use std::{
    ffi::{c_int, c_uint, c_ulong},
    io,
    os::fd::{AsRawFd, BorrowedFd},
};

use super::check;

// The generic ioctl layout of x86-64, aarch64 and riscv64: direction << 30 | size << 16 | 'T' << 8 | number.
const fn write_int(number: c_ulong) -> c_ulong {
    1 << 30 | (size_of::<c_int>() as c_ulong) << 16 | (b'T' as c_ulong) << 8 | number
}

const fn read_int(number: c_ulong) -> c_ulong {
    2 << 30 | (size_of::<c_int>() as c_ulong) << 16 | (b'T' as c_ulong) << 8 | number
}

const TUNSETIFF: c_ulong = write_int(202);
const TUNSETPERSIST: c_ulong = write_int(203);
const TUNSETOFFLOAD: c_ulong = write_int(208);
const TUNSETSNDBUF: c_ulong = write_int(212);
const TUNSETVNETHDRSZ: c_ulong = write_int(216);
/// In the header's words it is read from; in truth the kernel reads.
const TUNSETSTEERINGEBPF: c_ulong = read_int(224);

/// Attaches the descriptor to the device of this name, making it when there is none (`TUNSETIFF`).
pub(crate) fn attach(fd: BorrowedFd<'_>, name: &str, flags: c_int) -> io::Result<()> {
    if name.len() >= libc::IFNAMSIZ || name.contains('\0') {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut ifr_name = [0; libc::IFNAMSIZ];
    for (to, from) in ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    let request =
        libc::ifreq { ifr_name, ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_flags: flags as libc::c_short } };
    // SAFETY: `request` is a valid `ifreq` with a NUL-terminated name and outlives the call; the descriptor is open.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), TUNSETIFF as _, &raw const request) })?;
    Ok(())
}

/// Makes the device stay when the last descriptor on it is closed (`TUNSETPERSIST`).
pub(crate) fn set_persistent(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the argument is a number, the kernel reads no memory of ours; the descriptor is open.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), TUNSETPERSIST as _, 1 as c_ulong) })?;
    Ok(())
}

/// Says which unfinished frames we can take from the kernel: `TUN_F_*` bits (`TUNSETOFFLOAD`).
pub(crate) fn set_offload(fd: BorrowedFd<'_>, bits: c_uint) -> io::Result<()> {
    // SAFETY: the argument is a number, the kernel reads no memory of ours; the descriptor is open.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), TUNSETOFFLOAD as _, c_ulong::from(bits)) })?;
    Ok(())
}

/// Bytes that the kernel may queue for one write (`TUNSETSNDBUF`).
pub(crate) fn set_send_buffer(fd: BorrowedFd<'_>, bytes: c_int) -> io::Result<()> {
    // SAFETY: the kernel reads one int through the pointer, which outlives the call; the descriptor is open.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), TUNSETSNDBUF as _, &raw const bytes) })?;
    Ok(())
}

/// Length of the vnet header in front of each frame (`TUNSETVNETHDRSZ`).
pub(crate) fn set_vnet_header_len(fd: BorrowedFd<'_>, len: u8) -> io::Result<()> {
    let len = c_int::from(len);
    // SAFETY: the kernel reads one int through the pointer, which outlives the call; the descriptor is open.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), TUNSETVNETHDRSZ as _, &raw const len) })?;
    Ok(())
}

/// Has a program decide which queue each frame goes to (`TUNSETSTEERINGEBPF`). The device keeps it.
pub(crate) fn set_steering(fd: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let program = program.as_raw_fd();
    // SAFETY: the kernel reads one int through the pointer, which outlives the call; both descriptors are open.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), TUNSETSTEERINGEBPF as _, &raw const program) })?;
    Ok(())
}

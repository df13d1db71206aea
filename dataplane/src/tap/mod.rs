//! The TAP device: Ethernet frames from and to the kernel, up to 64 KB each.
//!
//! Every frame has a vnet header in front (`struct virtio_net_hdr`, 10 bytes), whether offload is on or not. The
//! device is persistent, so that the bridge port outlives this process; the offloads it has are then those of the
//! last process, which is why opening always sets them anew.
//!
//! INVARIANT: a descriptor of ours is non-blocking and the only one on the device (no multi-queue).

mod offload;
mod refusals;
#[cfg(test)]
mod tests;

use std::{
    io::{self, IoSlice, IoSliceMut},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
};
use weaved_api::Switch;

use weaved_core::offload::superframe::Transport;

pub use self::offload::TapOffload;
pub(crate) use self::refusals::Refusals;
use crate::{feature::Feature, sys::tun};

/// Bytes of the vnet header in front of each frame.
pub const VNET_HEADER_LEN: usize = 10;

/// Frames that the kernel keeps for us while we are busy; above, it drops the newest.
pub const TAP_QUEUE_FRAMES: u32 = 1000;

/// Where `gso_type` is in the vnet header; zero means that the frame is no super-frame.
const GSO_TYPE_OFFSET: usize = 1;

const TUN_DEVICE: &str = "/dev/net/tun";

/// An open TAP device.
#[derive(Debug)]
pub struct Tap {
    fd: OwnedFd,
    name: String,
    offload: TapOffload,
    feature: Feature,
    refusals: Refusals,
}

/// Why a TAP cannot be opened. `Display` says what to do.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    /// The kernel has no TUN/TAP driver, or the container does not show it.
    #[error(
        "{TUN_DEVICE} does not exist: load the driver with `modprobe tun`; \
         in a container, pass the device with `--device {TUN_DEVICE}`"
    )]
    NoDriver,
    /// No right to make network devices.
    #[error("no permission to open the TAP device {0}: run weaved as root (it needs CAP_NET_ADMIN)")]
    NotPermitted(String),
    /// Another process has the device open.
    #[error("the TAP device {0} is in use by another process: stop the other weaved first (`weaved stop`)")]
    Busy(String),
    /// There is a device of this name that is no TAP, or one with other flags.
    #[error("{0} exists and is not a TAP device of weaved: rename or delete it, or give the TAP another name")]
    OtherDevice(String),
    /// Offload was asked for and the kernel refuses it.
    #[error("the kernel refuses offload on the TAP device {0}: set tap-offload to `auto` or `off`")]
    NoOffload(String),
    /// Anything else.
    #[error("cannot open the TAP device {name}: {step}: {source}")]
    Other {
        /// Name of the device.
        name: String,
        /// What was tried.
        step: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Why a frame was not written. The frame is lost, the device is as before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TapWriteError {
    /// This kernel does not take the super-frame; its segments may pass one by one.
    #[error("the kernel refuses a super-frame")]
    GsoRefused,
    /// The device is down or there is no memory at the moment.
    #[error("the TAP device does not take frames at the moment")]
    Unavailable,
    /// The device has been deleted.
    #[error("the TAP device is gone")]
    Gone,
    /// The frame makes no sense to the kernel.
    #[error("the kernel refuses a frame")]
    Refused,
}

impl Tap {
    /// Opens the TAP of this name, making it when there is none. A new one goes away with us until [`Tap::persist`].
    ///
    /// Whether an existing device is ours to open is for the caller to know: see `reconcile`.
    pub fn open(name: &str, switch: Switch) -> Result<Self, TapError> {
        let fd = open_driver(name)?;
        let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
        tun::attach(fd.as_fd(), name, flags).map_err(|error| attach_error(name, error))?;
        let other = |step| move |source| TapError::Other { name: name.to_owned(), step, source };
        tun::set_vnet_header_len(fd.as_fd(), VNET_HEADER_LEN as u8).map_err(other("set the vnet header length"))?;
        // Without a bound: the fast path of the kernel asks for it, and a write is never queued anyway.
        tun::set_send_buffer(fd.as_fd(), i32::MAX).map_err(other("set the send buffer"))?;
        let no_offload = || TapError::NoOffload(name.to_owned());
        let offload = offload::negotiate(switch, |bits| tun::set_offload(fd.as_fd(), bits)).ok_or_else(no_offload)?;
        let feature = Feature::decide(switch, offload.finding()).ok_or_else(no_offload)?;
        let tap = Self { fd, name: name.to_owned(), offload, feature, refusals: Refusals::default() };
        if offload.has_super_frames() {
            for transport in [Transport::Tcp, Transport::Udp] {
                tap.refusals.test(transport, |vnet, frame| tap.write_frame(vnet, frame));
            }
        }
        if switch == Switch::On && !tap.refusals.may_offer(Transport::Tcp) {
            return Err(no_offload());
        }
        Ok(tap)
    }

    /// Makes the device stay when this process ends.
    pub fn persist(&self) -> Result<(), TapError> {
        tun::set_persistent(self.fd.as_fd()).map_err(|source| TapError::Other {
            name: self.name.clone(),
            step: "make it persistent",
            source,
        })
    }

    /// Name of the device.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What the kernel agreed to hand us unfinished.
    pub fn offload(&self) -> TapOffload {
        self.offload
    }

    /// Whether offload is used, and why.
    pub fn feature(&self) -> Feature {
        self.feature
    }

    /// What the kernel refuses to take from us.
    pub(crate) fn refusals(&self) -> &Refusals {
        &self.refusals
    }

    /// Reads one frame and its vnet header; the length of the frame. None when no frame is waiting.
    ///
    /// The kernel cuts a frame that does not fit the buffer. Fails when the device is gone.
    pub fn read_frame(&self, vnet: &mut [u8; VNET_HEADER_LEN], frame: &mut [u8]) -> io::Result<Option<usize>> {
        loop {
            match rustix::io::readv(&self.fd, &mut [IoSliceMut::new(vnet), IoSliceMut::new(frame)]) {
                Ok(len) => return Ok(Some(len.saturating_sub(VNET_HEADER_LEN))),
                Err(Errno::AGAIN) => return Ok(None),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Writes one frame with its vnet header.
    pub fn write_frame(&self, vnet: &[u8; VNET_HEADER_LEN], frame: &[u8]) -> Result<(), TapWriteError> {
        loop {
            match rustix::io::writev(&self.fd, &[IoSlice::new(vnet), IoSlice::new(frame)]) {
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(Errno::INVAL) if vnet[GSO_TYPE_OFFSET] != 0 => return Err(TapWriteError::GsoRefused),
                Err(Errno::AGAIN | Errno::IO | Errno::NOMEM | Errno::NOBUFS) => return Err(TapWriteError::Unavailable),
                Err(Errno::BADFD | Errno::NODEV | Errno::NXIO) => return Err(TapWriteError::Gone),
                Err(_) => return Err(TapWriteError::Refused),
            }
        }
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn open_driver(name: &str) -> Result<OwnedFd, TapError> {
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
    rustix::fs::open(Path::new(TUN_DEVICE), flags, Mode::empty()).map_err(|error| match error {
        Errno::NOENT | Errno::NODEV | Errno::NXIO => TapError::NoDriver,
        Errno::ACCESS | Errno::PERM => TapError::NotPermitted(name.to_owned()),
        other => TapError::Other { name: name.to_owned(), step: "open the driver", source: other.into() },
    })
}

fn attach_error(name: &str, error: io::Error) -> TapError {
    match Errno::from_io_error(&error) {
        Some(Errno::BUSY) => TapError::Busy(name.to_owned()),
        Some(Errno::PERM | Errno::ACCESS) => TapError::NotPermitted(name.to_owned()),
        Some(Errno::INVAL) => TapError::OtherDevice(name.to_owned()),
        _ => TapError::Other { name: name.to_owned(), step: "attach to it", source: error },
    }
}

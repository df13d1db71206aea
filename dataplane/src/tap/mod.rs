//! The TAP device: Ethernet frames from and to the kernel, up to 64 KB each.
//!
//! Every frame has a vnet header in front (`struct virtio_net_hdr`, 10 bytes), whether offload is on or not. The
//! device is persistent, so that the bridge port outlives this process; the offloads it has are then those of the
//! last process, which is why opening always sets them anew.
//!
//! A device has one queue, or several for each worker: then a program of ours chooses by flow and source ([`steering`]).
//! Which of the two it is, is settled when the device is made.
//!
//! INVARIANT: descriptors of ours are non-blocking, and nobody else has one on the device. With one queue the kernel sees to
//! that; with several `reconcile` does, by the number of queues that the kernel tells.

mod offload;
mod queue;
mod refusals;
mod steering;
#[cfg(test)]
mod tests;

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
    sync::Arc,
};

use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
};
use weaved_api::Switch;

use weaved_core::offload::superframe::Transport;

pub use self::{
    offload::TapOffload,
    queue::TapQueue,
    steering::{Layout, Unsteered},
};
pub(crate) use self::{refusals::Refusals, steering::Steering};
use crate::{feature::Feature, sys::tun};

/// Bytes of the vnet header in front of each frame.
pub const VNET_HEADER_LEN: usize = 10;

/// Frames that the kernel keeps for us in each queue while we are busy; above, it drops the newest.
pub const TAP_QUEUE_FRAMES: u32 = 1000;

/// Queues of each worker where sources have queues of their own. Two of so many sources that are chosen by chance meet in
/// one with a chance of a sixteenth.
pub(crate) const QUEUES_PER_WORKER: usize = 16;

const _: () = assert!(QUEUES_PER_WORKER * weaved_api::MAX_WORKERS <= 256, "the kernel gives a TAP so many");

const TUN_DEVICE: &str = "/dev/net/tun";

/// What all our descriptors ask for.
const FLAGS: libc::c_int = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;

/// An open TAP device.
#[derive(Debug)]
pub struct Tap {
    device: Arc<Device>,
    /// At least one.
    queues: Vec<Arc<TapQueue>>,
    layout: Layout,
}

/// What is known of an open device.
#[derive(Debug)]
struct Device {
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
    #[error(
        "the TAP device {0} is in use by another process (`grep -ls 'iff:.*{0}$' /proc/*/fdinfo/*` names it): \
         stop the other weaved first (`weaved stop`)"
    )]
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
    /// Opens the TAP of this name with one queue, making it when there is none. A new one goes away with us until
    /// [`Tap::persist`].
    ///
    /// Whether an existing device is ours to open is for the caller to know: see `reconcile`.
    pub fn open(name: &str, switch: Switch) -> Result<Self, TapError> {
        let fd = attach(name, FLAGS)?;
        Self::set_up(name, switch, (vec![fd], Layout::SINGLE))
    }

    /// The same with several queues, and a program that chooses among them. The kernel does not refuse it where another
    /// process has some, too.
    pub(crate) fn open_several(
        name: &str,
        switch: Switch,
        layout: Layout,
        steering: &Steering,
    ) -> Result<Self, TapError> {
        let attached: Result<Vec<OwnedFd>, TapError> =
            (0..layout.queue_count()).map(|_| attach(name, FLAGS | libc::IFF_MULTI_QUEUE)).collect();
        let fds = attached?;
        let refused =
            |source| TapError::Other { name: name.to_owned(), step: "set the program that chooses a queue", source };
        let program = steering.with_layout(layout).map_err(refused)?;
        tun::set_steering(fds[0].as_fd(), program).map_err(refused)?;
        Self::set_up(name, switch, (fds, layout))
    }

    /// What is set for the whole device is set by its first descriptor.
    fn set_up(name: &str, switch: Switch, (fds, layout): (Vec<OwnedFd>, Layout)) -> Result<Self, TapError> {
        let other = |step| move |source| TapError::Other { name: name.to_owned(), step, source };
        let fd = fds[0].as_fd();
        tun::set_vnet_header_len(fd, VNET_HEADER_LEN as u8).map_err(other("set the vnet header length"))?;
        // Without a bound: the fast path of the kernel asks for it, and a write is never queued anyway.
        tun::set_send_buffer(fd, i32::MAX).map_err(other("set the send buffer"))?;
        let no_offload = || TapError::NoOffload(name.to_owned());
        let offload = offload::negotiate(switch, |bits| tun::set_offload(fd, bits)).ok_or_else(no_offload)?;
        let feature = Feature::decide(switch, offload.finding()).ok_or_else(no_offload)?;
        let device = Arc::new(Device { name: name.to_owned(), offload, feature, refusals: Refusals::default() });
        let queues = fds.into_iter().map(|fd| Arc::new(TapQueue::new(fd, device.clone()))).collect();
        let tap = Self { device, queues, layout };
        if offload.has_super_frames() {
            for transport in [Transport::Tcp, Transport::Udp] {
                tap.refusals().test(transport, |vnet, frame| tap.first().write_frame(vnet, frame));
            }
        }
        if switch == Switch::On && !tap.refusals().may_offer(Transport::Tcp) {
            return Err(no_offload());
        }
        Ok(tap)
    }

    /// Makes the device stay when this process ends.
    pub fn persist(&self) -> Result<(), TapError> {
        tun::set_persistent(self.as_fd()).map_err(|source| TapError::Other {
            name: self.name().to_owned(),
            step: "make it persistent",
            source,
        })
    }

    /// Name of the device.
    pub fn name(&self) -> &str {
        &self.device.name
    }

    /// What the kernel agreed to hand us unfinished.
    pub fn offload(&self) -> TapOffload {
        self.device.offload
    }

    /// Whether offload is used, and why.
    pub fn feature(&self) -> Feature {
        self.device.feature
    }

    /// What the kernel refuses to take from us.
    pub(crate) fn refusals(&self) -> &Refusals {
        &self.device.refusals
    }

    /// How its queues are shared out.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// The queues of each worker.
    pub(crate) fn queues_of_workers(&self) -> impl Iterator<Item = &[Arc<TapQueue>]> {
        self.queues.chunks(self.layout.queues_per_worker)
    }

    /// Its queues, at least one.
    pub fn queues(&self) -> &[Arc<TapQueue>] {
        &self.queues
    }

    /// The first queue.
    pub fn first(&self) -> &TapQueue {
        &self.queues[0]
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.first().as_fd()
    }
}

/// A new descriptor on the device of this name.
fn attach(name: &str, flags: libc::c_int) -> Result<OwnedFd, TapError> {
    let fd = open_driver(name)?;
    tun::attach(fd.as_fd(), name, flags).map_err(|error| attach_error(name, error))?;
    Ok(fd)
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

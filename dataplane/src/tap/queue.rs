//! One queue of a TAP: frames from and to the kernel by one descriptor.
//!
//! Each worker has one for itself. All queues of a device share what is known of it.

use std::{
    io::{self, IoSlice, IoSliceMut},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
};

use rustix::io::Errno;

use super::{Device, TapOffload, TapWriteError, VNET_HEADER_LEN, refusals::Refusals};

/// Where `gso_type` is in the vnet header; zero means that the frame is no super-frame.
pub(super) const GSO_TYPE_OFFSET: usize = 1;

/// A queue of an open TAP device.
#[derive(Debug)]
pub struct TapQueue {
    fd: OwnedFd,
    device: Arc<Device>,
}

impl TapQueue {
    pub(super) fn new(fd: OwnedFd, device: Arc<Device>) -> Self {
        Self { fd, device }
    }

    /// Name of the device.
    pub fn name(&self) -> &str {
        &self.device.name
    }

    /// What the kernel agreed to hand us unfinished.
    pub fn offload(&self) -> TapOffload {
        self.device.offload
    }

    /// What the kernel refuses to take from us.
    pub(crate) fn refusals(&self) -> &Refusals {
        &self.device.refusals
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

impl AsFd for TapQueue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

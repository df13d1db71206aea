//! Raw Ethernet frames from and to one interface (packet(7)).

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    time::Duration,
};

use nix::{
    errno::Errno,
    ifaddrs::getifaddrs,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{
        AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, bind, recvfrom, send, setsockopt, socket,
        sockopt::RcvBufForce,
    },
};

/// Room for the largest super-packet that a veth carries, with its Ethernet header.
pub(crate) const MAX_FRAME_BYTES: usize = 65_535 + 64;
/// Frames that may wait for the reader: bursts must not be lost here, where a test would take it for the product's
/// fault.
const RECEIVE_BUFFER_BYTES: usize = 32 << 20;
/// `sll_pkttype` of a frame that this machine sends (`linux/if_packet.h`).
const PACKET_OUTGOING: u8 = 4;

/// A packet socket on one interface of the namespace that it was made in.
#[derive(Debug)]
pub struct PacketSocket(OwnedFd);

/// Which way a frame went past the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Passing {
    /// Towards the kernel.
    In,
    /// From the kernel.
    Out,
}

impl PacketSocket {
    /// Opens one on `interface` of the calling thread's namespace.
    pub fn open(interface: &str) -> io::Result<Self> {
        let fd = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll)?;
        bind(fd.as_raw_fd(), &link_address(interface)?)?;
        setsockopt(&fd, RcvBufForce, &RECEIVE_BUFFER_BYTES)?;
        Ok(Self(fd))
    }

    /// Sends one frame, from the destination's address on.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        send(self.0.as_raw_fd(), frame, MsgFlags::empty())?;
        Ok(())
    }

    /// The next frame that is there already, if any.
    pub(crate) fn try_receive(&self, buffer: &mut [u8]) -> io::Result<Option<(usize, Passing)>> {
        // The flag is not among the constants that nix names for `recvfrom`, so readiness is asked for first.
        if !is_ready(&[self.0.as_fd()], Duration::ZERO)? {
            return Ok(None);
        }
        let (len, from) = recvfrom::<LinkAddr>(self.0.as_raw_fd(), buffer)?;
        let outgoing = from.is_some_and(|from| from.pkttype() == PACKET_OUTGOING);
        Ok(Some((len, if outgoing { Passing::Out } else { Passing::In })))
    }
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Waits until one of them can be read, at most `timeout`.
pub(crate) fn is_ready(fds: &[BorrowedFd<'_>], timeout: Duration) -> io::Result<bool> {
    let mut fds: Vec<PollFd<'_>> = fds.iter().map(|fd| PollFd::new(*fd, PollFlags::POLLIN)).collect();
    // Rounded up, so that waiting for a moment does not become spinning up to it.
    let millis = u16::try_from(timeout.as_micros().div_ceil(1000)).unwrap_or(u16::MAX);
    match poll(&mut fds, PollTimeout::from(millis)) {
        Ok(count) => Ok(count > 0),
        Err(Errno::EINTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn link_address(interface: &str) -> io::Result<LinkAddr> {
    let of_interface = getifaddrs()?.filter(|entry| entry.interface_name == interface);
    let mut links = of_interface.filter_map(|entry| entry.address?.as_link_addr().copied());
    links.next().ok_or_else(|| io::Error::other(format!("no interface {interface} here")))
}

//! The UDP socket: trains of datagrams out and in, one system call each where the kernel can.
//!
//! One dual-stack socket serves both families (IPv4 alone where the host has no IPv6); of several workers each has one, and
//! the kernel gives the datagrams of one sender always to the same (`SO_REUSEPORT`). IPv4-mapped addresses exist
//! on the kernel's side of this file only. DF is set on all we send and the kernel's own idea of the path MTU is not
//! asked: the core probes for it (RFC 8899).
//!
//! INVARIANT: nothing here blocks but [`UdpSocket::wait_for_room`].

mod error;
mod offload;
#[cfg(test)]
mod tests;
mod trains;

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    net::{
        AddressFamily, SocketFlags, SocketType,
        sockopt::{self, Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery},
    },
};
use weaved_api::OffloadSwitches;
use weaved_core::{forward::Sends, wire::ecn::Ecn};

use self::trains::Trains;
pub use self::{
    error::{SendError, SocketError, Unsent},
    offload::UdpOffload,
};
use crate::{
    stats::IoStats,
    sys::socket::{self, MessageOut},
};

/// Bytes of datagrams that the kernel keeps for us, counted with its overhead of about two.
const RECEIVE_BUFFER_BYTES: usize = 8 << 20;
/// Bytes that may wait for the network card, counted likewise: what the kernel lets one TCP connection have there. They are one queue for
/// all, so more would only delay everybody; who sends more waits in the queues of the TAP, which take turns.
const SEND_BUFFER_BYTES: usize = 512 << 10;

/// Room for the most that one receive can give: 64 KiB of datagrams.
pub const RECEIVE_BYTES: usize = 1 << 16;

/// Destinations that `status` names when they refuse trains; the others are summed up.
const MAX_NAMED_DESTINATIONS: usize = 4;

/// An open UDP socket.
#[derive(Debug)]
pub struct UdpSocket {
    fd: OwnedFd,
    port: u16,
    family: Family,
    offload: UdpOffload,
    /// What the kernel has refused since the start.
    trains: Trains,
    /// The socket's count of lost datagrams when it was told last.
    overflow_told: AtomicU32,
    stats: Arc<IoStats>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    /// An IPv6 socket that also carries IPv4, as mapped addresses.
    Dual,
    /// The host has no IPv6.
    V4,
}

/// Memory of the kernel for datagrams that wait, its own overhead included (it doubles what is asked for).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Buffers {
    /// For those that have come.
    pub receive_bytes: usize,
    /// For those that are to go.
    pub send_bytes: usize,
}

impl Buffers {
    /// Both together.
    #[must_use]
    pub fn with(self, other: Self) -> Self {
        Self { receive_bytes: self.receive_bytes + other.receive_bytes, send_bytes: self.send_bytes + other.send_bytes }
    }
}

/// Datagrams for one destination, on their way out.
#[derive(Clone, Copy, Debug)]
pub struct Sending<'a> {
    /// Where to; never an IPv4-mapped address.
    pub to: SocketAddr,
    /// The address of ours to send from; none leaves it to the kernel. One that the host has no more does not count.
    pub source: Option<IpAddr>,
    /// Whether several leave in one send, where the kernel can.
    pub sends: Sends,
    /// One or several.
    pub datagrams: &'a [u8],
    /// Length of each but the last, which may be shorter.
    pub segment_len: usize,
    /// For their IP headers. Anything but [`Ecn::NotEct`] costs a control message.
    pub ecn: Ecn,
}

/// The first few of these destinations; none when there are none.
pub(crate) fn name_some(destinations: &[String]) -> Option<String> {
    let (named, more) = destinations.split_at(destinations.len().min(MAX_NAMED_DESTINATIONS));
    let more = if more.is_empty() { "" } else { " and others" };
    (!named.is_empty()).then(|| format!("{}{more}", named.join(", ")))
}

/// What one receive gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// Who sent it; never an IPv4-mapped address.
    pub from: SocketAddr,
    /// The address of ours that it was sent to.
    pub to: Option<IpAddr>,
    /// Bytes in the buffer.
    pub len: usize,
    /// Length of each datagram in the buffer but the last, which may be shorter. Equal to `len` for a single one.
    pub segment_len: usize,
    /// Datagrams that this socket has lost so far because it was full; wraps.
    pub overflow_count: Option<u32>,
    /// From the IP headers: the same for all, because the kernel does not put others together.
    pub ecn: Ecn,
    /// The buffer was too small; what did not fit is lost.
    pub is_truncated: bool,
}

/// What a wait for room ended with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waited {
    /// There is room, or an error that the next send tells.
    Room,
    /// Whoever waits is to end.
    Stopped,
    /// There is no room yet, and something to receive.
    Datagrams,
    /// Neither in time.
    Nothing,
}

impl UdpSocket {
    /// Opens the port on all addresses of the host. Port 0 takes any free one.
    #[cfg(test)]
    pub(crate) fn open(port: u16, switches: OffloadSwitches, stats: Arc<IoStats>) -> Result<Self, SocketError> {
        Ok(Self::open_group(port, switches, [stats])?.remove(0))
    }

    /// Opens the port as many times as there are counters. Which of the sockets receives a datagram depends on the two
    /// addresses and ports alone.
    pub(crate) fn open_group(
        port: u16,
        switches: OffloadSwitches,
        stats: impl IntoIterator<Item = Arc<IoStats>>,
    ) -> Result<Vec<Self>, SocketError> {
        let offload = offload::negotiate(port, switches)?;
        let mut group: Vec<Self> = Vec::new();
        for stats in stats {
            let bound = match group.first() {
                None => bind(port, Sharing::Alone)?,
                Some(first) => {
                    let share = |source| SocketError::Other { port, step: "share it among the workers", source };
                    // Only after the first has found the port free: who sets it before may join somebody else's group.
                    sockopt::set_socket_reuseport(&first.fd, true).map_err(|error| share(error.into()))?;
                    bind(first.port, Sharing::Grouped)?
                }
            };
            group.push(Self::set_up(port, bound, offload, stats)?);
        }
        Ok(group)
    }

    /// Opens any free port to send from. What comes to it is not read.
    pub(crate) fn open_sender(switches: OffloadSwitches, stats: Arc<IoStats>) -> Result<Self, SocketError> {
        let socket = Self::open_group(0, switches, [stats])?.remove(0);
        // As little as the kernel allows: nobody is to have us keep what nobody reads.
        let other = |error: Errno| SocketError::Other { port: 0, step: "size the buffers", source: error.into() };
        sockopt::set_socket_recv_buffer_size(&socket.fd, 0).map_err(other)?;
        Ok(socket)
    }

    fn set_up(
        port: u16,
        (fd, family): (OwnedFd, Family),
        offload: UdpOffload,
        stats: Arc<IoStats>,
    ) -> Result<Self, SocketError> {
        let other = |step: &'static str| move |source| SocketError::Other { port, step, source };
        let step = |result: rustix::io::Result<()>, step| result.map_err(|error| other(step)(error.into()));
        step(sockopt::set_ip_mtu_discover(&fd, Ipv4PathMtuDiscovery::PROBE), "set DF")?;
        if family == Family::Dual {
            step(sockopt::set_ipv6_mtu_discover(&fd, Ipv6PathMtuDiscovery::PROBE), "forbid IPv6 fragmentation")?;
        }
        step(set_buffers(&fd), "size the buffers")?;
        socket::set_overflow_report(fd.as_fd()).map_err(other("ask for lost datagrams"))?;
        socket::set_ipv4_traffic_class_report(fd.as_fd()).map_err(other("ask for congestion marks"))?;
        if family == Family::Dual {
            socket::set_ipv6_traffic_class_report(fd.as_fd()).map_err(other("ask for congestion marks of IPv6"))?;
            socket::set_ipv6_destination_report(fd.as_fd()).map_err(other("ask for the addresses sent to"))?;
        } else {
            socket::set_ipv4_destination_report(fd.as_fd()).map_err(other("ask for the addresses sent to"))?;
        }
        if offload.gro.is_on {
            socket::set_receive_offload(fd.as_fd()).map_err(other("turn on UDP_GRO"))?;
        }
        let port = local_port(&fd).map_err(other("ask for the port"))?;
        Ok(Self { fd, port, family, offload, trains: Trains::default(), overflow_told: AtomicU32::new(0), stats })
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// What the kernel has granted.
    pub fn buffers(&self) -> Buffers {
        // The kernel refuses to tell only for a descriptor that is no socket.
        Buffers {
            receive_bytes: sockopt::socket_recv_buffer_size(&self.fd).unwrap_or_default(),
            send_bytes: sockopt::socket_send_buffer_size(&self.fd).unwrap_or_default(),
        }
    }

    /// What the kernel does for us, as found out at the start.
    pub fn offload(&self) -> UdpOffload {
        self.offload
    }

    /// What the kernel has refused of sending trains since then, for the operator.
    pub fn refused_trains(&self) -> Option<String> {
        let refusing: Vec<String> = self.trains.refusing().map(|ip| ip.to_string()).collect();
        let routes = name_some(&refusing).map(|refusing| format!("refused on the way to {refusing}"));
        let segments = self.trains.fewer_segments().map(|most| format!("at most {most} datagrams in one send"));
        let refused: Vec<String> = routes.into_iter().chain(segments).collect();
        (!refused.is_empty()).then(|| refused.join("; "))
    }

    /// Sends a run of datagrams. An error tells how many of them have left.
    pub fn send(&self, Sending { to, source, sends, datagrams, segment_len, ecn }: Sending<'_>) -> Result<(), Unsent> {
        debug_assert!(segment_len > 0, "a run of datagrams has a segment length");
        let unsent = |error| Unsent { error, sent_len: 0 };
        let address = self.to_kernel(to).ok_or(unsent(SendError::Unreachable))?;
        let traffic_class = ecn.traffic_class();
        let send = |bytes: &[u8], segment_len| {
            let message = MessageOut { to: address, source, bytes, segment_len, traffic_class };
            match self.send_once(message) {
                // The host has lost that address, or it is of the other family: the kernel finds another one.
                Err(Errno::INVAL | Errno::NETUNREACH) if source.is_some() => {
                    self.send_once(MessageOut { source: None, ..message })
                }
                outcome => outcome,
            }
        };
        if datagrams.len() <= segment_len {
            return send(datagrams, None).map_err(|errno| unsent(errno.into()));
        }
        if self.offload.gso.is_on && sends == Sends::Joined {
            self.trains.send(to.ip(), (datagrams, segment_len), &self.stats, send)
        } else {
            Trains::send_singly((datagrams, segment_len), &self.stats, send)
        }
    }

    /// Sends a run of datagrams. Where the socket is full, `may_retry` waits, or says that it has waited long enough; what has not left
    /// is then sent, or told.
    pub(crate) fn send_and_retry<E>(
        &self,
        mut sending: Sending<'_>,
        mut may_retry: impl FnMut() -> Result<bool, E>,
    ) -> Result<Result<(), Unsent>, E> {
        let mut sent_len = 0;
        loop {
            let Err(unsent) = self.send(sending) else { return Ok(Ok(())) };
            sent_len += unsent.sent_len;
            sending.datagrams = &sending.datagrams[unsent.sent_len..];
            if unsent.error != SendError::Full || !may_retry()? {
                return Ok(Err(Unsent { sent_len, ..unsent }));
            }
        }
    }

    /// Receives into the buffer, which should have [`RECEIVE_BYTES`]. None when nothing is waiting.
    pub fn receive(&self, buffer: &mut [u8]) -> io::Result<Option<Received>> {
        loop {
            match socket::receive(self.fd.as_fd(), buffer) {
                Ok(message) => return Ok(Some(from_kernel(message))),
                Err(error) => match Errno::from_io_error(&error) {
                    Some(Errno::AGAIN) => return Ok(None),
                    // An ICMP answer to something we sent: it belongs to no datagram.
                    Some(Errno::INTR | Errno::CONNREFUSED | Errno::HOSTUNREACH | Errno::NETUNREACH) => {}
                    _ => return Err(error),
                },
            }
        }
    }

    /// How many datagrams were lost since the last call, when a receive says that there are so many by now. The socket outlives
    /// its readers, of which it has one at a time.
    pub(crate) fn newly_lost(&self, overflow_count: u32) -> u32 {
        let lost = overflow_count.wrapping_sub(self.overflow_told.load(Relaxed));
        self.overflow_told.store(overflow_count, Relaxed);
        lost
    }

    /// Memory that datagrams take which have come and were not read yet: more than their bytes, much more where they are short,
    /// and up to twice as much as that, because the kernel takes its time to count what was read.
    pub(crate) fn waiting_bytes(&self) -> usize {
        // The kernel refuses to tell only for a descriptor that is no socket.
        socket::waiting_bytes(self.fd.as_fd()).unwrap_or_default()
    }

    /// Waits until there is room to send here or something to receive at `incoming`, which may be the same, until `stop` can be
    /// read, or the timeout is over.
    pub fn wait_for_room(&self, incoming: &Self, stop: impl AsFd, timeout: Duration) -> Waited {
        let mut fds = [
            PollFd::new(&self.fd, PollFlags::OUT),
            PollFd::new(&stop, PollFlags::IN),
            PollFd::new(&incoming.fd, PollFlags::IN),
        ];
        let timeout = Timespec { tv_sec: timeout.as_secs().cast_signed(), tv_nsec: timeout.subsec_nanos().into() };
        let Ok(1..) = poll(&mut fds, Some(&timeout)) else { return Waited::Nothing };
        match fds.map(|fd| !fd.revents().is_empty()) {
            // Whatever else it is, the next send tells.
            [true, ..] => Waited::Room,
            [_, true, _] => Waited::Stopped,
            _ => Waited::Datagrams,
        }
    }

    /// Makes the kernel refuse trains.
    #[cfg(test)]
    fn refuse_trains(&self) -> io::Result<()> {
        socket::set_no_checksums(self.fd.as_fd())
    }

    fn send_once(&self, message: MessageOut<'_>) -> Result<(), Errno> {
        loop {
            let Err(error) = socket::send(self.fd.as_fd(), message) else {
                return Ok(());
            };
            match Errno::from_io_error(&error) {
                Some(Errno::INTR) => {}
                errno => return Err(errno.unwrap_or(Errno::OPNOTSUPP)),
            }
        }
    }

    /// The address as this socket's family writes it; none when it cannot.
    fn to_kernel(&self, to: SocketAddr) -> Option<SocketAddr> {
        match (self.family, to) {
            (Family::Dual, SocketAddr::V4(v4)) => {
                Some(SocketAddr::new(IpAddr::V6(v4.ip().to_ipv6_mapped()), v4.port()))
            }
            (Family::Dual, SocketAddr::V6(_)) | (Family::V4, SocketAddr::V4(_)) => Some(to),
            (Family::V4, SocketAddr::V6(_)) => None,
        }
    }
}

impl AsFd for UdpSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn from_kernel(message: socket::MessageIn) -> Received {
    let mut from = message.from;
    // Only the address: a link-local one is no use without its scope.
    if let IpAddr::V4(v4) = from.ip().to_canonical() {
        from = SocketAddr::new(IpAddr::V4(v4), from.port());
    }
    Received {
        from,
        to: message.to.map(|to| to.to_canonical()),
        len: message.len,
        segment_len: message.segment_len.unwrap_or(message.len),
        overflow_count: message.overflow_count,
        ecn: Ecn::from_traffic_class(message.traffic_class),
        is_truncated: message.is_truncated,
    }
}

/// Whether others of ours have the port, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sharing {
    Alone,
    Grouped,
}

/// A bound socket: dual-stack if the host has IPv6.
fn bind(port: u16, sharing: Sharing) -> Result<(OwnedFd, Family), SocketError> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let failed = |error| SocketError::from_bind(port, error);
    let share = |fd: &OwnedFd| sockopt::set_socket_reuseport(fd, sharing == Sharing::Grouped).map_err(failed);
    match rustix::net::socket_with(AddressFamily::INET6, SocketType::DGRAM, flags, None) {
        Ok(fd) => {
            share(&fd)?;
            sockopt::set_ipv6_v6only(&fd, false).map_err(failed)?;
            match rustix::net::bind(&fd, &SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))) {
                Ok(()) => return Ok((fd, Family::Dual)),
                Err(Errno::ADDRNOTAVAIL) => {}
                Err(error) => return Err(failed(error)),
            }
        }
        Err(Errno::AFNOSUPPORT) => {}
        Err(error) => return Err(failed(error)),
    }
    let fd = rustix::net::socket_with(AddressFamily::INET, SocketType::DGRAM, flags, None).map_err(failed)?;
    share(&fd)?;
    rustix::net::bind(&fd, &SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))).map_err(failed)?;
    Ok((fd, Family::V4))
}

/// Big buffers; without the right to go over the host's limit, as big as that allows.
fn set_buffers(fd: &OwnedFd) -> rustix::io::Result<()> {
    if sockopt::set_socket_recv_buffer_size_force(fd, RECEIVE_BUFFER_BYTES).is_err() {
        sockopt::set_socket_recv_buffer_size(fd, RECEIVE_BUFFER_BYTES)?;
    }
    if sockopt::set_socket_send_buffer_size_force(fd, SEND_BUFFER_BYTES).is_err() {
        sockopt::set_socket_send_buffer_size(fd, SEND_BUFFER_BYTES)?;
    }
    Ok(())
}

fn local_port(fd: &OwnedFd) -> io::Result<u16> {
    let address = rustix::net::getsockname(fd)?;
    let address: SocketAddr = address.try_into().map_err(io::Error::from)?;
    Ok(address.port())
}

//! Datagrams with control messages: segment length, traffic class and our own address both ways, and
//! the overflow on the way in.
//!
//! rustix has no type for these control messages. Their bytes are put together and taken apart here without
//! `unsafe`, in the kernel's layout:
//!
//! ```text
//! +------------------+-----------------+----------------+----------------------------------+
//! | len: usize       | level: i32      | type: i32      | data, padded to a multiple of 8  |
//! +------------------+-----------------+----------------+----------------------------------+
//! ```

use std::{
    ffi::{c_int, c_void},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6},
    os::fd::{AsRawFd, BorrowedFd},
};

use super::{check, check_len};

/// Bytes of a `sockaddr_in6`, the longer of the two addresses.
const ADDRESS_BYTES: usize = 28;
/// Bytes of the header of a control message; its data begins there.
const CONTROL_HEADER_BYTES: usize = size_of::<usize>() + 8;
/// Room for the control messages that we ask for, and some more.
const CONTROL_BYTES: usize = 192;

/// `asm-generic/socket.h`; `libc` does not have it for all targets.
const SO_MEMINFO: c_int = 55;

/// A socket address in the kernel's form.
#[repr(C, align(8))]
struct RawAddress([u8; ADDRESS_BYTES]);

/// A run of control messages in the kernel's form.
#[repr(C, align(8))]
struct RawControl([u8; CONTROL_BYTES]);

/// What goes out with one send.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MessageOut<'a> {
    /// Where to; of the socket's family.
    pub(crate) to: SocketAddr,
    /// `IP_PKTINFO` or `IPV6_PKTINFO`: our own address; of the same family, where mapped addresses count as IPv4.
    pub(crate) source: Option<IpAddr>,
    /// One datagram, or with a segment length as many as it takes.
    pub(crate) bytes: &'a [u8],
    /// `UDP_SEGMENT`.
    pub(crate) segment_len: Option<u16>,
    /// `IP_TOS` or `IPV6_TCLASS`; zero is what datagrams have without it.
    pub(crate) traffic_class: u8,
}

impl<'a> MessageOut<'a> {
    /// A train with nothing special about it.
    pub(crate) fn train(to: SocketAddr, bytes: &'a [u8], segment_len: u16) -> Self {
        Self { to, source: None, bytes, segment_len: Some(segment_len), traffic_class: 0 }
    }
}

/// What came in with one receive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MessageIn {
    /// Where it came from.
    pub(crate) from: SocketAddr,
    /// `IP_PKTINFO` or `IPV6_PKTINFO`: the address of ours that it was sent to.
    pub(crate) to: Option<IpAddr>,
    /// Bytes in the buffer.
    pub(crate) len: usize,
    /// `UDP_GRO`: length of each datagram in the buffer but the last; none when it is one datagram.
    pub(crate) segment_len: Option<usize>,
    /// `SO_RXQ_OVFL`: datagrams lost so far because the socket's buffer was full; wraps. None when nothing was lost.
    pub(crate) overflow_count: Option<u32>,
    /// `IP_TOS` or `IPV6_TCLASS` of all of them; zero when it was not asked for.
    pub(crate) traffic_class: u8,
    /// The buffer was too small and the rest is lost.
    pub(crate) is_truncated: bool,
}

/// Sends datagrams.
pub(crate) fn send(
    fd: BorrowedFd<'_>,
    MessageOut { to, source, bytes, segment_len, traffic_class }: MessageOut<'_>,
) -> io::Result<()> {
    let (mut address, address_len) = emit_address(to);
    let mut control = RawControl([0; CONTROL_BYTES]);
    let mut control_len = 0;
    if let Some(len) = segment_len {
        emit_control(&mut control.0, &mut control_len, libc::SOL_UDP, libc::UDP_SEGMENT, &len.to_ne_bytes());
    }
    if traffic_class > 0 {
        let (level, kind) = match to.ip().to_canonical() {
            IpAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_TOS),
            IpAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_TCLASS),
        };
        emit_control(&mut control.0, &mut control_len, level, kind, &c_int::from(traffic_class).to_ne_bytes());
    }
    if let Some(source) = source {
        emit_source(&mut control.0, &mut control_len, source);
    }
    let mut vector = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let mut message = empty_message();
    message.msg_name = (&raw mut address).cast();
    message.msg_namelen = address_len;
    message.msg_iov = &raw mut vector;
    message.msg_iovlen = 1;
    if control_len > 0 {
        message.msg_control = (&raw mut control).cast();
        message.msg_controllen = control_len;
    }
    // SAFETY: all pointers in `message` are to live buffers of the lengths given, which the kernel only reads.
    check_len(unsafe { libc::sendmsg(fd.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL) })?;
    Ok(())
}

/// Receives one datagram, or with `UDP_GRO` several of one sender.
pub(crate) fn receive(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<MessageIn> {
    let mut address = RawAddress([0; ADDRESS_BYTES]);
    let mut control = RawControl([0; CONTROL_BYTES]);
    let mut vector = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    let mut message = empty_message();
    message.msg_name = (&raw mut address).cast();
    message.msg_namelen = ADDRESS_BYTES as libc::socklen_t;
    message.msg_iov = &raw mut vector;
    message.msg_iovlen = 1;
    message.msg_control = (&raw mut control).cast();
    message.msg_controllen = CONTROL_BYTES;
    // SAFETY: all pointers in `message` are to live, exclusively borrowed buffers of the lengths given.
    let len = check_len(unsafe { libc::recvmsg(fd.as_raw_fd(), &raw mut message, 0) })?;
    let control = parse_control(control.0.get(..message.msg_controllen).unwrap_or_default());
    Ok(MessageIn {
        from: parse_address(&address).ok_or(io::ErrorKind::InvalidData)?,
        to: control.destination,
        len,
        segment_len: control.segment_len.filter(|segment_len| *segment_len > 0 && *segment_len < len),
        overflow_count: control.overflow_count,
        traffic_class: control.traffic_class,
        is_truncated: message.msg_flags & libc::MSG_TRUNC != 0,
    })
}

/// Asks for several datagrams per receive (`UDP_GRO`).
pub(crate) fn set_receive_offload(fd: BorrowedFd<'_>) -> io::Result<()> {
    set_int(fd, libc::SOL_UDP, libc::UDP_GRO, 1)
}

/// Asks for the number of lost datagrams with each receive (`SO_RXQ_OVFL`).
pub(crate) fn set_overflow_report(fd: BorrowedFd<'_>) -> io::Result<()> {
    set_int(fd, libc::SOL_SOCKET, libc::SO_RXQ_OVFL, 1)
}

/// Asks for the type of service of IPv4 datagrams (`IP_RECVTOS`); also on a dual-stack socket.
pub(crate) fn set_ipv4_traffic_class_report(fd: BorrowedFd<'_>) -> io::Result<()> {
    set_int(fd, libc::IPPROTO_IP, libc::IP_RECVTOS, 1)
}

/// Asks for the traffic class of IPv6 datagrams (`IPV6_RECVTCLASS`).
pub(crate) fn set_ipv6_traffic_class_report(fd: BorrowedFd<'_>) -> io::Result<()> {
    set_int(fd, libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS, 1)
}

/// Asks for the address that datagrams were sent to (`IP_PKTINFO`), on an IPv4 socket.
pub(crate) fn set_ipv4_destination_report(fd: BorrowedFd<'_>) -> io::Result<()> {
    set_int(fd, libc::IPPROTO_IP, libc::IP_PKTINFO, 1)
}

/// Asks for the address that datagrams were sent to (`IPV6_RECVPKTINFO`); on a dual-stack socket it may be a mapped one.
pub(crate) fn set_ipv6_destination_report(fd: BorrowedFd<'_>) -> io::Result<()> {
    set_int(fd, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1)
}

/// Memory of what has come and was not read yet (`SO_MEMINFO`).
pub(crate) fn waiting_bytes(fd: BorrowedFd<'_>) -> io::Result<usize> {
    // SK_MEMINFO_RMEM_ALLOC is the first of them; the kernel writes as many as there is room for.
    let mut allocated = 0_u32;
    let mut len = size_of::<u32>() as libc::socklen_t;
    let value: *mut c_void = (&raw mut allocated).cast();
    // SAFETY: the pointer is to a number that outlives the call, `len` is its size and the kernel writes no more than that.
    check(unsafe { libc::getsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, SO_MEMINFO, value, &raw mut len) })?;
    Ok(allocated as usize)
}

/// Sends without checksums (`SO_NO_CHECK`), which goes with no offload.
#[cfg(test)]
pub(crate) fn set_no_checksums(fd: BorrowedFd<'_>) -> io::Result<()> {
    set_int(fd, libc::SOL_SOCKET, libc::SO_NO_CHECK, 1)
}

fn set_int(fd: BorrowedFd<'_>, level: c_int, name: c_int, value: c_int) -> io::Result<()> {
    let len = size_of::<c_int>() as libc::socklen_t;
    let value: *const c_void = (&raw const value).cast();
    // SAFETY: the pointer is to an int that outlives the call, and `len` is its size.
    check(unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, value, len) })?;
    Ok(())
}

fn empty_message() -> libc::msghdr {
    // SAFETY: `msghdr` is plain integers and pointers, for which all zeroes is a value: an empty message.
    unsafe { std::mem::zeroed() }
}

fn emit_address(address: SocketAddr) -> (RawAddress, libc::socklen_t) {
    let mut raw = [0; ADDRESS_BYTES];
    raw[2..4].copy_from_slice(&address.port().to_be_bytes());
    let len = match address {
        SocketAddr::V4(v4) => {
            raw[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
            raw[4..8].copy_from_slice(&v4.ip().octets());
            16
        }
        SocketAddr::V6(v6) => {
            raw[..2].copy_from_slice(&(libc::AF_INET6 as u16).to_ne_bytes());
            raw[4..8].copy_from_slice(&v6.flowinfo().to_be_bytes());
            raw[8..24].copy_from_slice(&v6.ip().octets());
            raw[24..28].copy_from_slice(&v6.scope_id().to_ne_bytes());
            ADDRESS_BYTES as libc::socklen_t
        }
    };
    (RawAddress(raw), len)
}

fn parse_address(RawAddress(raw): &RawAddress) -> Option<SocketAddr> {
    let port = u16::from_be_bytes([raw[2], raw[3]]);
    match c_int::from(u16::from_ne_bytes([raw[0], raw[1]])) {
        libc::AF_INET => Some((IpAddr::from(Ipv4Addr::new(raw[4], raw[5], raw[6], raw[7])), port).into()),
        libc::AF_INET6 => {
            let octets: [u8; 16] = raw[8..24].try_into().ok()?;
            let scope_id = u32::from_ne_bytes(raw[24..28].try_into().ok()?);
            Some(SocketAddrV6::new(Ipv6Addr::from(octets), port, 0, scope_id).into())
        }
        _ => None,
    }
}

/// Writes the control message that says which of our addresses to send from.
fn emit_source(control: &mut [u8; CONTROL_BYTES], end: &mut usize, source: IpAddr) {
    match source {
        // struct in_pktinfo: interface (any), our address, and one that only counts on the way in.
        IpAddr::V4(v4) => {
            let mut info = [0; 12];
            info[4..8].copy_from_slice(&v4.octets());
            emit_control(control, end, libc::IPPROTO_IP, libc::IP_PKTINFO, &info);
        }
        // struct in6_pktinfo: our address, interface (any).
        IpAddr::V6(v6) => {
            let mut info = [0; 20];
            info[..16].copy_from_slice(&v6.octets());
            emit_control(control, end, libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &info);
        }
    }
}

/// Writes one control message behind the first `end` bytes and moves `end`.
fn emit_control(control: &mut [u8; CONTROL_BYTES], end: &mut usize, level: c_int, kind: c_int, data: &[u8]) {
    let message = &mut control[*end..];
    let (level_at, kind_at) = (size_of::<usize>(), size_of::<usize>() + 4);
    let len = CONTROL_HEADER_BYTES + data.len();
    message[..level_at].copy_from_slice(&len.to_ne_bytes());
    message[level_at..kind_at].copy_from_slice(&level.to_ne_bytes());
    message[kind_at..CONTROL_HEADER_BYTES].copy_from_slice(&kind.to_ne_bytes());
    message[CONTROL_HEADER_BYTES..len].copy_from_slice(data);
    *end += padded(len);
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct ControlIn {
    segment_len: Option<usize>,
    overflow_count: Option<u32>,
    traffic_class: u8,
    destination: Option<IpAddr>,
}

fn parse_control(mut control: &[u8]) -> ControlIn {
    let mut parsed = ControlIn::default();
    while let Some((level, kind, data, rest)) = split_control(control) {
        let number = data.first_chunk().map(|number| u32::from_ne_bytes(*number));
        match (level, kind) {
            (libc::SOL_UDP, libc::UDP_GRO) => parsed.segment_len = number.map(|len| len as usize),
            (libc::SOL_SOCKET, libc::SO_RXQ_OVFL) => parsed.overflow_count = number,
            // The first address of the struct is ours, the second the one in the header: the same but for broadcasts.
            (libc::IPPROTO_IP, libc::IP_PKTINFO) => parsed.destination = octets::<4>(data, 4).map(IpAddr::from),
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => parsed.destination = octets::<16>(data, 0).map(IpAddr::from),
            // One byte for IPv4, an int for IPv6.
            (libc::IPPROTO_IP, libc::IP_TOS) => parsed.traffic_class = data.first().copied().unwrap_or_default(),
            (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => parsed.traffic_class = number.unwrap_or_default() as u8,
            _ => {}
        }
        control = rest;
    }
    parsed
}

fn octets<const N: usize>(data: &[u8], at: usize) -> Option<[u8; N]> {
    data.get(at..)?.first_chunk().copied()
}

/// Level, type and data of the first control message, and what follows it.
fn split_control(control: &[u8]) -> Option<(c_int, c_int, &[u8], &[u8])> {
    let (len, rest) = control.split_first_chunk()?;
    let (level, rest) = rest.split_first_chunk()?;
    let (kind, _) = rest.split_first_chunk()?;
    let len = usize::from_ne_bytes(*len);
    let data = control.get(CONTROL_HEADER_BYTES..len)?;
    let following = control.get(padded(len)..).unwrap_or_default();
    Some((c_int::from_ne_bytes(*level), c_int::from_ne_bytes(*kind), data, following))
}

/// The next multiple of the alignment of control messages.
const fn padded(len: usize) -> usize {
    len.next_multiple_of(size_of::<usize>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_parsed_as_it_was_emitted() {
        for text in ["192.0.2.1:6783", "[2001:db8::1]:6783", "[fe80::1%3]:1", "[::ffff:192.0.2.1]:2"] {
            let address: SocketAddr = text.parse().unwrap();
            assert_eq!(parse_address(&emit_address(address).0), Some(address));
        }
        assert_eq!(parse_address(&RawAddress([0; ADDRESS_BYTES])), None);
    }

    #[test]
    fn control_messages_of_any_length_are_parsed_without_a_panic() {
        let mut control = [0; CONTROL_BYTES];
        emit_control(&mut control, &mut 0, libc::SOL_UDP, libc::UDP_SEGMENT, &1400_u16.to_ne_bytes());
        // What comes in is an int where what goes out is 16 bits.
        let len = CONTROL_HEADER_BYTES + 4;
        control[..size_of::<usize>()].copy_from_slice(&len.to_ne_bytes());
        control[size_of::<usize>() + 4..CONTROL_HEADER_BYTES].copy_from_slice(&libc::UDP_GRO.to_ne_bytes());
        assert_eq!(parse_control(&control[..len]).segment_len, Some(1400));
        for len in 0..len {
            assert_eq!(parse_control(&control[..len]), ControlIn::default(), "{len}");
        }
        let mut end = 0;
        emit_control(&mut control, &mut end, libc::IPPROTO_IP, libc::IP_TOS, &[3]);
        emit_control(&mut control, &mut end, libc::IPPROTO_IPV6, libc::IPV6_TCLASS, &2_u32.to_ne_bytes());
        assert_eq!(parse_control(&control[..end / 2]).traffic_class, 3);
        assert_eq!(parse_control(&control[..end]).traffic_class, 2);
        for announced in [0_usize, 1, 15, CONTROL_BYTES + 1, usize::MAX] {
            control[..size_of::<usize>()].copy_from_slice(&announced.to_ne_bytes());
            assert_eq!(parse_control(&control), ControlIn::default(), "{announced}");
        }
    }
}

//! What can go wrong with the socket, told apart by what there is to do about it.

use std::io;

use rustix::io::Errno;

/// Why the socket cannot be opened. `Display` says what to do.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Somebody else has the port.
    #[error(
        "UDP port {0} is in use by another program: stop it (`ss -lnup 'sport = :{0}'` names it) \
         or give weaved another port"
    )]
    PortInUse(u16),
    /// The port is reserved and we have no right to it.
    #[error("no permission to open UDP port {0}: take a port above 1023")]
    NotPermitted(u16),
    /// The operator insists on an offload that this kernel does not have or that failed its self-test.
    #[error("{0} does not work on this kernel: set it to `auto` or `off`")]
    NoOffload(&'static str),
    /// Anything else.
    #[error("cannot open UDP port {port}: {step}: {source}")]
    Other {
        /// The port.
        port: u16,
        /// What was tried.
        step: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Why datagrams were not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// Larger than the first link of the path takes. The path MTU has changed; GSO is not to blame.
    #[error("larger than the path takes")]
    TooBig,
    /// The device at the end of the route cannot do `UDP_SEGMENT`; one by one they may go.
    #[error("the kernel refuses UDP_SEGMENT on this route")]
    GsoRefused,
    /// No route, or a firewall says no.
    #[error("the network is not reachable")]
    Unreachable,
    /// The queue towards the network is full.
    #[error("the send queue is full")]
    Full,
    /// Anything else.
    #[error("the kernel refuses to send")]
    Refused,
}

impl SocketError {
    pub(super) fn from_bind(port: u16, error: Errno) -> Self {
        match error {
            Errno::ADDRINUSE => Self::PortInUse(port),
            Errno::ACCESS | Errno::PERM => Self::NotPermitted(port),
            other => Self::Other { port, step: "bind", source: other.into() },
        }
    }
}

impl SendError {
    /// Older kernels say `EINVAL` for a segment that is longer than the MTU, newer ones `EMSGSIZE`.
    pub(super) fn from_errno(errno: Option<Errno>, segment_len: Option<u16>) -> Self {
        match errno {
            Some(Errno::MSGSIZE) => Self::TooBig,
            Some(Errno::INVAL) if segment_len.is_some() => Self::TooBig,
            Some(Errno::IO) if segment_len.is_some() => Self::GsoRefused,
            Some(Errno::AGAIN | Errno::NOBUFS | Errno::NOMEM) => Self::Full,
            Some(
                Errno::NETUNREACH
                | Errno::HOSTUNREACH
                | Errno::CONNREFUSED
                | Errno::PERM
                | Errno::ACCESS
                | Errno::NETDOWN
                | Errno::ADDRNOTAVAIL,
            ) => Self::Unreachable,
            _ => Self::Refused,
        }
    }
}

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
    #[error("{name} does not work on this kernel ({reason}): set it to `auto` or `off`")]
    NoOffload {
        /// Its switch.
        name: &'static str,
        /// What was found out.
        reason: &'static str,
    },
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
    /// No route, or a firewall says no.
    #[error("the network is not reachable")]
    Unreachable,
    /// The queue towards the network is full: there will be room when some of it has left.
    #[error("the send queue is full")]
    Full,
    /// The kernel has no memory for it. It does not tell when it has.
    #[error("the kernel has no memory")]
    NoMemory,
    /// Anything else.
    #[error("the kernel refuses to send")]
    Refused,
}

/// A run of datagrams that has not left as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{error}")]
pub struct Unsent {
    /// Why.
    pub error: SendError,
    /// Bytes at its beginning that have left: whole datagrams.
    pub sent_len: usize,
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

impl From<Errno> for SendError {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::MSGSIZE => Self::TooBig,
            Errno::AGAIN => Self::Full,
            Errno::NOBUFS | Errno::NOMEM => Self::NoMemory,
            Errno::NETUNREACH
            | Errno::HOSTUNREACH
            | Errno::CONNREFUSED
            | Errno::PERM
            | Errno::ACCESS
            | Errno::NETDOWN
            | Errno::ADDRNOTAVAIL => Self::Unreachable,
            _ => Self::Refused,
        }
    }
}

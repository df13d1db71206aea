//! What workers hand to the router.
//!
//! Everything but [`Punt::Record`] is of fixed size, so that handing it over takes no allocation: the queue between
//! the threads has its room from the start.

use std::net::{IpAddr, SocketAddr};

use weaved_api::{MacAddr, PeerId};

use crate::{
    fib::FibPort,
    wire::{
        data::ReceiverIndex,
        record::{Farewell, LossReport, ProbeAck, ProbeId},
    },
};

/// Room for a handshake message or an ARP or ND frame.
pub const SHORT_LEN: usize = 320;

/// A few bytes, held in place.
#[derive(Clone, Copy)]
pub struct Short {
    len: u16,
    bytes: [u8; SHORT_LEN],
}

/// A message for the slow path.
#[derive(Clone, Debug)]
pub enum Punt {
    /// A handshake message.
    Handshake {
        /// Sender's address, not authenticated.
        from: SocketAddr,
        /// The address of ours that it was sent to, as far as the shell knows: answers come from there.
        asked_at: Option<IpAddr>,
        /// The datagram.
        datagram: Short,
    },
    /// The first datagram has been opened on a session that was waiting for it.
    Confirmed {
        /// The session.
        index: ReceiverIndex,
        /// Where the datagram came from.
        from: SocketAddr,
    },
    /// An authentic datagram came from another address than the one the peer has.
    Roamed {
        /// Who.
        peer: PeerId,
        /// The session that it came on.
        index: ReceiverIndex,
        /// The new address.
        from: SocketAddr,
    },
    /// A source address that the table does not have behind this port.
    Sighted {
        /// The source.
        mac: MacAddr,
        /// Where it was seen.
        port: FibPort,
    },
    /// An ARP or ND question from the TAP that the router has the answer to.
    Question(Short),
    /// A record that is not a frame: control bytes, a probe or its answer, a farewell, a loss report. The one punt that allocates:
    /// these come a few times a second.
    Record {
        /// Who sent it; authenticated.
        from: PeerId,
        /// What it is.
        record: SlowRecord,
    },
    /// A send was refused because the datagram is larger than the path.
    TooBig {
        /// Towards whom.
        peer: PeerId,
        /// How long it was.
        datagram_len: usize,
    },
}

/// A record for the slow path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SlowRecord {
    /// Bytes for the control half.
    Control(Vec<u8>),
    /// Asks for this answer.
    Probe(ProbeAck),
    /// Answers a probe of ours.
    ProbeAnswer(ProbeId),
    /// Ends a session.
    Farewell {
        /// The session that it came on.
        index: ReceiverIndex,
        /// Why.
        farewell: Farewell,
    },
    /// Says what has arrived of a session.
    LossReport {
        /// The session that it came on.
        index: ReceiverIndex,
        /// How much.
        report: LossReport,
    },
}

impl Punt {
    /// Notes the address of ours that the datagram was sent to, which the shell knows.
    #[must_use]
    pub fn received_at(mut self, local: Option<IpAddr>) -> Self {
        if let Self::Handshake { asked_at, .. } = &mut self {
            *asked_at = local;
        }
        self
    }
}

impl Short {
    /// A copy of `bytes`; `None` when they do not fit.
    pub fn new(bytes: &[u8]) -> Option<Self> {
        let mut short = Self { len: u16::try_from(bytes.len()).ok()?, bytes: [0; SHORT_LEN] };
        short.bytes.get_mut(..bytes.len())?.copy_from_slice(bytes);
        Some(short)
    }

    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

impl std::fmt::Debug for Short {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Short({} bytes)", self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_holds_what_fits_and_refuses_the_rest() {
        assert_eq!(Short::new(b"abc").unwrap().as_slice(), b"abc");
        assert!(Short::new(&[7; SHORT_LEN]).is_some());
        assert!(Short::new(&[7; SHORT_LEN + 1]).is_none());
        assert!(Short::new(&vec![0; 70_000]).is_none());
    }
}

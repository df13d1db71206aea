//! What travels on the socket between control and the data plane.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::{DesiredState, Generation, PeerId, Stats};

/// From control to the data plane.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// First on each connection: [`crate::API_VERSION`] of the caller.
    Hello(u32),
    /// Make it so. Answered by [`Event::Applied`].
    Apply(Box<DesiredState>),
    /// Carry these bytes to a peer, sealed, unordered and unreliable.
    SendControl {
        /// Who gets them. With no session they are dropped and counted.
        to: PeerId,
        /// At most [`crate::MAX_CONTROL_BYTES`].
        #[serde(with = "serde_bytes")]
        bytes: Vec<u8>,
    },
    /// Ask for [`Event::Stats`].
    QueryStats,
    /// Remove the devices (only `reset` asks for it) and end the process. Answered by the end of the connection.
    Teardown,
}

/// From the data plane to control.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// First on each connection: [`crate::API_VERSION`] of the data plane.
    Hello(u32),
    /// This generation is in force. What could not be done is listed; it is tried again with the next one.
    Applied {
        /// Number of the desired state.
        generation: Generation,
        /// What stands in the way, one line each for the operator.
        problems: Vec<Problem>,
    },
    /// A session with this peer is up, or its endpoint has changed.
    PeerUp {
        /// Who.
        id: PeerId,
        /// Where it was heard.
        endpoint: SocketAddr,
        /// The target that led there, when it was reached by address.
        target: Option<SocketAddr>,
    },
    /// No session with this peer is left.
    PeerDown {
        /// Who.
        id: PeerId,
        /// Why.
        end: LinkEnd,
    },
    /// An attempt to reach a target or a peer's endpoint has failed; it goes on trying.
    TargetFailed {
        /// Where.
        endpoint: SocketAddr,
        /// Why.
        failure: TargetFailure,
    },
    /// Somebody who does not know the cluster secret tried to connect. At most one a second is reported.
    StrangerRefused {
        /// From where.
        endpoint: SocketAddr,
    },
    /// Bytes from a peer's control half.
    Control {
        /// Who sent them; authenticated.
        from: PeerId,
        /// What [`Request::SendControl`] was given there.
        #[serde(with = "serde_bytes")]
        bytes: Vec<u8>,
    },
    /// The rules of iptables are to be looked at; answered by [`crate::RulesVerdict`] in the next desired state.
    RulesChanged {
        /// Number of these rules.
        generation: u32,
    },
    /// Answer to [`Request::QueryStats`].
    Stats(Box<Stats>),
}

/// Why the connection with a peer has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LinkEnd {
    /// Nothing authentic came for too long, or no new keys were agreed in time.
    Silent,
    /// The peer said that its data plane ends in an orderly way: stopped, reset or replaced.
    PeerSaidGoodbye,
    /// The peer said that its control no longer wants us.
    PeerDismissedUs,
    /// Our control no longer wants the peer.
    Dismissed,
}

/// Something that keeps the data plane from doing as desired. `Display` is one line: what is wrong, what to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// What the operator reads.
    pub message: String,
}

/// Why a target is not connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TargetFailure {
    /// Nothing came back.
    NoAnswer,
    /// It answered that it does not know our cluster secret. The answer is not authenticated: a hint.
    OtherSecret,
    /// It is this node itself.
    Ourselves,
    /// Another node has our identity: a cloned machine.
    ClonedIdentity,
    /// Another node than expected lives at that address.
    OtherIdentity,
    /// It speaks a protocol version that we do not.
    OtherVersion,
    /// The kernel refused to send: unreachable network.
    Unreachable,
}

//! What an operator hears from the node: one clear line each, by `Display`.

use ipnet::Ipv4Net;
use weaved_api::PeerId;

use super::status::Conflict;
use crate::ipam::Overlay;

/// Something that the operator may care about.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NodeEvent {
    /// This host has a slice; it stays with it while containers exist.
    #[error("this host's containers get addresses from {0}")]
    SliceAssigned(Ipv4Net),
    /// A slice that Docker had not used yet was given up for somebody else's.
    #[error(
        "gave up the unused slice {slice}: it belongs to {holder} in the older network that we met; asking for another one"
    )]
    SliceGivenUp {
        /// What we had.
        slice: Ipv4Net,
        /// Who has it.
        holder: String,
    },
    /// A slice that Docker had not used here yet was given to somebody who has it too, and whose Docker uses it.
    #[error("gave the unused slice {slice} to {user}, where Docker uses it; taking another one")]
    SliceCeded {
        /// What we had.
        slice: Ipv4Net,
        /// Who has it.
        user: String,
    },
    /// Our slice is somebody else's in the cluster that we met, and Docker uses it here.
    #[error("{0}")]
    SliceRefused(Conflict),
    /// The refusal is over.
    #[error("this host and the cluster agree on addresses again")]
    SliceResolved,
    /// A member answers.
    #[error("member {name} ({}) is up", id.short())]
    MemberUp {
        /// Who.
        id: PeerId,
        /// Its host name.
        name: String,
    },
    /// A member no longer answers anybody.
    #[error("member {name} ({}) is down", id.short())]
    MemberDown {
        /// Who.
        id: PeerId,
        /// Its host name.
        name: String,
    },
    /// A member was stopped in an orderly way.
    #[error("member {name} ({}) is away: weaved was stopped there", id.short())]
    MemberAway {
        /// Who.
        id: PeerId,
        /// Its host name.
        name: String,
    },
    /// A member has gone for good.
    #[error("member {name} ({}) has left the cluster", id.short())]
    MemberLeft {
        /// Who.
        id: PeerId,
        /// Its host name.
        name: String,
    },
    /// A node that knows our secret has another address plan.
    #[error("{name} ({}) uses {theirs}, we use {ours}: its containers are not reachable; launch both with the same range", id.short())]
    OverlayMismatch {
        /// Who.
        id: PeerId,
        /// Its host name.
        name: String,
        /// Its plan.
        theirs: Overlay,
        /// Our plan.
        ours: Overlay,
    },
    /// Somebody else writes our record.
    #[error("another machine seems to run with this host's identity: was it cloned? run `weaved reset` on one of them")]
    CloneSuspected,
    /// More containers than a record has room for.
    #[error("{0} containers of this host are too many to advertise; they are reached by flooding")]
    ContainersNotAdvertised(usize),
    /// More instances, or longer ones, than a log has room for.
    #[error(
        "{0} instances of services of this host are not announced: too many, too long, or with the id of another one"
    )]
    InstancesNotAnnounced(usize),
    /// A majority of the voters was given up.
    #[error(
        "the voters were founded anew by an operator: {voters} decide guarded keys from now on; what only those given up \
         had decided is lost"
    )]
    VotersFoundAnew {
        /// How many vote now.
        voters: usize,
    },
    /// A service was switched from here, or was not.
    #[error("{0}")]
    Switch(String),
}

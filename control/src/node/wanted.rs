//! What the data plane should have, as far as the cluster decides it.

use std::net::SocketAddr;

use ipnet::IpNet;
use weaved_api::{Neighbour, PeerConfig, PeerId};

/// The part of the desired state that comes out of the cluster. The daemon adds keys, devices and the generation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// All members but ourselves, by id, with the endpoints to try, best first.
    pub peers: Vec<PeerConfig>,
    /// Addresses to connect to, as given.
    pub targets: Vec<SocketAddr>,
    /// Containers on *other* live nodes, sorted.
    pub neighbours: Vec<Neighbour>,
    /// Address of the bridge, with the prefix length of the whole range; None until this node has a slice.
    pub gateway: Option<IpNet>,
    /// Peers that may exchange control bytes with us but no frames: their addresses may collide with ours.
    pub quarantined: Vec<PeerId>,
}

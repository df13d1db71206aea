//! What a node stores between runs. The daemon chooses the encoding; all fields are serde-serialisable.
//!
//! INVARIANT: `version_floor` and `incarnation` are above everything that the node has used, so that a later run that
//! starts from them never repeats a version, whatever happened to the clock.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use serde::{Deserialize, Serialize};
use weaved_api::{PeerConfig, PeerId};

use super::{Node, outbox::Storing};
use crate::{
    cluster::{Incarnation, Version, limits::MAX_MEMBERS},
    ipam::{Overlay, StoredIpam},
};

/// How long newly found members are gathered before they are stored: a mesh of hundreds is not a write for each.
pub(super) const REMEMBER_DELAY: Duration = Duration::from_millis(50);

/// All that must survive a crash. Written whole: some kilobytes, more only in clusters of hundreds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Persisted {
    /// Whose state this is.
    pub id: PeerId,
    /// The address plan that the ring and the slice belong to.
    pub overlay: Overlay,
    /// The ring and the slice in use.
    pub ipam: StoredIpam,
    /// The versions of our record begin above this one in the next run.
    pub version_floor: Version,
    /// Our lives in the failure detector begin above this one in the next run.
    pub incarnation: Incarnation,
    /// Members and where they were last found.
    pub peers: Vec<KnownPeer>,
}

/// A member and where it was last found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownPeer {
    /// Who.
    pub id: PeerId,
    /// Its host name.
    pub name: String,
    /// Where, best first.
    pub endpoints: Vec<SocketAddr>,
}

impl Node {
    /// The process is about to end in an orderly way: what waits to be stored is given by the next
    /// [`Self::poll_persist`].
    pub fn prepare_to_end(&mut self) {
        self.remember_peers();
    }

    /// Whether there is a member that the next run would not find by itself.
    pub(super) fn has_found_somebody(&self) -> bool {
        let is_new = |peer: &PeerConfig| !peer.endpoints.is_empty() && !self.known.contains_key(&peer.id);
        self.known.len() < MAX_MEMBERS && self.wanted.peers.iter().any(is_new)
    }

    /// Notes where members are, for the next run: soon when somebody is new, else with the repairs, because endpoints
    /// of sessions come and go.
    pub(super) fn remember_peers(&mut self) {
        let peers = self.wanted.peers.iter().filter(|peer| !peer.endpoints.is_empty());
        let known: BTreeMap<_, _> = peers
            .take(MAX_MEMBERS)
            .map(|peer| {
                let (id, name, endpoints) = (peer.id, peer.name.clone(), peer.endpoints.clone());
                (id, KnownPeer { id, name, endpoints })
            })
            .collect();
        if known != self.known {
            self.known = known;
            self.storing = Storing::Pending;
        }
    }
}

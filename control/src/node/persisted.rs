//! What a node stores between runs. The daemon chooses the encoding; all fields are serde-serialisable.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use weaved_api::PeerId;

use crate::ipam::{Overlay, SliceIndex};

/// All that must survive a crash. Small: written whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Persisted {
    /// Whose state this is.
    pub id: PeerId,
    /// The address plan that the slice belongs to.
    pub overlay: Overlay,
    /// The slice in use.
    pub slice: Option<SliceIndex>,
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

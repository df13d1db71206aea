//! What a node stores between runs. The daemon chooses the encoding; all fields are serde-serialisable.
//!
//! INVARIANT: `version_floor` and `incarnation` are above everything that the node has used, so that a later run that
//! starts from them never repeats a version, whatever happened to the clock.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use weaved_api::PeerId;

use crate::{
    cluster::{Incarnation, Version},
    ipam::{Overlay, StoredIpam},
};

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

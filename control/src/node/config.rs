//! What a node is told once, at its start, and the facts about its host that it is told later.
//!
//! INVARIANT: a [`NodeConfig`] that passed [`NodeConfig::validate`] has a range that holds at least one slice and at
//! most [`MAX_SLICES`], and slices large enough for a gateway and one container.

use std::net::{IpAddr, SocketAddr};

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};
use weaved_api::{MacAddr, PeerId};

use crate::ipam::{MAX_SLICES, Overlay};

/// What a node is told at its start.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// Our identity.
    pub id: PeerId,
    /// Our host name, for people. Cut to [`crate::cluster::limits::MAX_NAME_BYTES`] bytes when it is advertised.
    pub name: String,
    /// Addresses of the whole overlay network. The same on all nodes.
    pub range: Ipv4Net,
    /// Prefix length of the part of `range` that one node gets. The same on all nodes.
    pub slice_prefix: u8,
    /// Zone of the names that this host answers; others are told, so that a difference is seen.
    pub zone: String,
    /// Prefixes of keys that are guarded besides the usual ones, where this node founds the network.
    pub guarded: Vec<String>,
    /// UDP port that the data plane listens on.
    pub listen_port: u16,
    /// Whether this node may begin an address ring.
    pub start: Start,
    /// Addresses of this host's interfaces with the port: where others may reach us.
    pub local_endpoints: Vec<SocketAddr>,
}

/// How a node begins when nothing is stored from an earlier run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Start {
    /// It begins a ring of its own and has a slice at once. Rings that meet are merged; see [`crate::ipam`].
    Founder,
    /// It waits for a member that gives it a slice: started with a token, so that there is a cluster.
    Joiner,
    /// It waits like a joiner, but founds a ring together with others that wait as well: started with a password and
    /// peers, as one may do on all hosts at once.
    Either,
}

/// Whether Docker on this host has made use of the node's slice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DockerUse {
    /// Not known yet. The slice is treated as used, because giving up a used one would leave two owners.
    #[default]
    Unknown,
    /// Docker does not use the bridge: the slice may still be exchanged for another one.
    Unused,
    /// dockerd is configured with the slice or has containers in it.
    Used,
}

/// A container of this host, or one that a member advertises.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Container {
    /// Docker's id, or a name made up by `attach`. Only the first 12 bytes travel.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its Ethernet address on the overlay.
    pub mac: MacAddr,
    /// Its addresses on the overlay.
    pub ips: Vec<IpAddr>,
}

/// A configuration that cannot work. Nothing has been changed when one is reported.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NodeError {
    /// The slice is not a part of the range.
    #[error("slices of /{slice_prefix} do not fit the range {range}: choose a longer prefix for the slices")]
    SliceLargerThanRange {
        /// The whole range.
        range: Ipv4Net,
        /// The prefix length of a slice.
        slice_prefix: u8,
    },
    /// No room for a gateway and a container.
    #[error("slices of /{slice_prefix} have no room for a gateway and a container: choose /30 or shorter")]
    SliceTooSmall {
        /// The prefix length of a slice.
        slice_prefix: u8,
    },
    /// More slices than the ring keeps track of.
    #[error("the range {range} has more than {MAX_SLICES} slices of /{slice_prefix}: choose a shorter prefix")]
    TooManySlices {
        /// The whole range.
        range: Ipv4Net,
        /// The prefix length of a slice.
        slice_prefix: u8,
    },
    /// The stored state is of another network.
    #[error(
        "this host's addresses come from {stored}, not from {configured}: launch with that range, or `weaved reset` to begin anew"
    )]
    OtherOverlay {
        /// What the state directory says.
        stored: Overlay,
        /// What the launch says.
        configured: Overlay,
    },
    /// The stored state contradicts itself.
    #[error("the stored cluster state is damaged: restore it, or `weaved reset` to begin anew")]
    CorruptState,
    /// The stored state is of another identity.
    #[error("the stored state belongs to node {stored}, not to this one: remove it with `weaved reset`")]
    OtherIdentity {
        /// What the state directory says.
        stored: PeerId,
    },
}

impl NodeConfig {
    /// The overlay settings, checked.
    pub fn validate(&self) -> Result<Overlay, NodeError> {
        let (range, slice_prefix) = (self.range.trunc(), self.slice_prefix);
        if slice_prefix < range.prefix_len() {
            return Err(NodeError::SliceLargerThanRange { range, slice_prefix });
        }
        if slice_prefix > 30 {
            return Err(NodeError::SliceTooSmall { slice_prefix });
        }
        Overlay::new(range, slice_prefix).ok_or(NodeError::TooManySlices { range, slice_prefix })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(range: &str, slice_prefix: u8) -> NodeConfig {
        NodeConfig {
            id: PeerId([1; 32]),
            name: "a".into(),
            range: range.parse().unwrap(),
            slice_prefix,
            zone: crate::defaults::ZONE.into(),
            guarded: vec![],
            listen_port: 6783,
            start: Start::Founder,
            local_endpoints: vec![],
        }
    }

    #[test]
    fn default_range_is_accepted_with_host_bits_ignored() {
        let overlay = config("10.32.7.9/12", 24).validate().unwrap();
        assert_eq!(overlay.to_string(), "10.32.0.0/12 in slices of /24");
        assert_eq!(overlay.slice_count(), 4096);
    }

    #[test]
    fn slices_that_do_not_fit_are_refused_with_the_reason() {
        assert!(matches!(config("10.32.0.0/24", 16).validate(), Err(NodeError::SliceLargerThanRange { .. })));
        assert!(matches!(config("10.32.0.0/24", 31).validate(), Err(NodeError::SliceTooSmall { .. })));
        assert!(matches!(config("10.0.0.0/8", 30).validate(), Err(NodeError::TooManySlices { .. })));
    }
}

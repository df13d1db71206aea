//! What control wants of the data plane, complete.
//!
//! The document is level-triggered: the receiver compares it with what it has and does the difference, so sending it
//! twice changes nothing and a lost one is repaired by the next. The same document, as JSON, can be read from a file.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{CipherChoice, ClusterSecret, Generation, MacAddr, PeerId, SecretKey, SourcePorts, WorkerCount};

/// All that the data plane should be doing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DesiredState {
    /// Number of this document; acknowledged when applied.
    pub generation: Generation,
    /// This node's private key. A change of it needs a restart of the data plane.
    pub identity: SecretKey,
    /// The pre-shared key of the cluster.
    pub cluster_secret: ClusterSecret,
    /// UDP port for everything: data, gossip, handshakes.
    pub listen_port: u16,
    /// The devices of the overlay.
    pub overlay: Overlay,
    /// Peers whose identity is known.
    pub peers: Vec<PeerConfig>,
    /// Addresses to connect to whose identity the handshake will tell.
    pub targets: Vec<SocketAddr>,
    /// Containers that control knows: they need no learning, and ARP and ND for them are answered locally.
    pub neighbours: Vec<Neighbour>,
    /// Peers to exchange no frames with, because their containers' addresses collide with others'. Sessions and control
    /// bytes go on, so that the collision can be resolved.
    pub quarantined: Vec<PeerId>,
    /// Kernel offloads.
    pub offload: OffloadSwitches,
    /// Which ciphers this node offers.
    #[serde(default)]
    pub cipher: CipherChoice,
    /// How many threads carry frames.
    #[serde(default)]
    pub workers: WorkerCount,
    /// From how many ports their datagrams leave; at most one for each worker.
    #[serde(default)]
    pub source_ports: SourcePorts,
    /// What control has found in the rules of iptables, which decides whether frames may skip the bridge. None while
    /// nobody has looked.
    pub bridge_rules: Option<RulesVerdict>,
}

/// The local end of the overlay network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overlay {
    /// Name of the Linux bridge that containers are attached to.
    pub bridge: String,
    /// Name of the TAP device, a port of that bridge.
    pub tap: String,
    /// MTU of the bridge: what Docker and the host itself use. The TAP takes any frame that a container can send.
    pub mtu: u16,
    /// Address of the bridge with the prefix length of the *whole* range, so that all containers are on-link;
    /// the gateway of this host's containers. None until the node has a slice of the range.
    pub gateway: Option<IpNet>,
}

/// One peer and where it may be found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerConfig {
    /// Its public key.
    pub id: PeerId,
    /// Its host name, for logs and `status`.
    pub name: String,
    /// Addresses to try, best first.
    pub endpoints: Vec<SocketAddr>,
}

/// A container somewhere in the cluster.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Neighbour {
    /// Its Ethernet address.
    pub mac: MacAddr,
    /// Its addresses.
    pub ips: Vec<IpAddr>,
    /// The peer whose host it runs on.
    pub peer: PeerId,
}

/// Kernel offloads that may be forced on or off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OffloadSwitches {
    /// Super-frames from and to the TAP (`IFF_VNET_HDR`, TSO, USO).
    pub tap_offload: Switch,
    /// One send for many datagrams (`UDP_SEGMENT`). `Auto` gives it up for peers whose paths lose them; `On` does not.
    pub udp_gso: Switch,
    /// One receive for many datagrams (`UDP_GRO`).
    pub udp_gro: Switch,
    /// Known unicast frames between the TAP and local containers skip the Linux bridge, where no rule of the
    /// operator's would see them there. `Auto` is off: it does not pay enough (docs/performance.md).
    #[serde(default)]
    pub bridge_redirect: Switch,
    /// Several queues of the TAP for each worker, with containers spread over them, so that one that sends more than is
    /// carried does not fill its neighbours' queue.
    #[serde(default)]
    pub source_queues: Switch,
}

/// What the rules of iptables do to frames on the bridge. A verdict holds for one generation of the rules.
///
/// An obstacle is a rule, in words for the operator, that does something to such a frame or is not understood; without
/// one, all frames of that family pass, unchanged and uncounted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RulesVerdict {
    /// Which rules were looked at.
    pub generation: u32,
    /// In the way of IPv4 packets between two addresses of the overlay.
    pub ipv4: Option<String>,
    /// In the way of IPv6 packets.
    pub ipv6: Option<String>,
}

/// A feature that is normally probed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Switch {
    /// On where the self-test passes.
    #[default]
    Auto,
    /// On; failing to get it is an error.
    On,
    /// Off.
    Off,
}

/// A text that is no switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("choose auto, on or off")]
pub struct SwitchError;

impl fmt::Display for Switch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::On => "on",
            Self::Off => "off",
        })
    }
}

impl FromStr for Switch {
    type Err = SwitchError;

    fn from_str(text: &str) -> Result<Self, SwitchError> {
        let all = [Self::Auto, Self::On, Self::Off];
        all.into_iter().find(|switch| switch.to_string() == text).ok_or(SwitchError)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_switch_is_read_as_it_is_written_and_nothing_else_is() {
        for switch in [Switch::Auto, Switch::On, Switch::Off] {
            assert_eq!(switch.to_string().parse(), Ok(switch));
            assert_eq!(serde_json::to_string(&switch).unwrap(), format!("\"{switch}\""));
        }
        assert_eq!("ON".parse::<Switch>(), Err(SwitchError));
    }
}

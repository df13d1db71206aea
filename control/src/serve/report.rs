//! Everything that `weaved control` tells about itself: what `status` and `ps` show, and what `--json` prints.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use weaved_api::{Counter, FeatureStatus, Generation, PeerId, Stats, TargetFailure, balancer::BalancerReport};

use crate::{
    docker::{
        config::{DnsOptions, DockerOptions},
        watch::DockerState,
    },
    node::{ClusterStatus, SliceState},
    serve::services::ServicesSummary,
    state::Settings,
};

/// The state of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusReport {
    /// Version of the running program.
    pub version: String,
    /// Milliseconds since control started.
    pub uptime_ms: u64,
    /// How the node is set up.
    pub settings: Settings,
    /// Members, slices, containers.
    pub cluster: ClusterStatus,
    /// The data plane.
    pub dataplane: DataplaneReport,
    /// The process that answers names.
    pub gateway: GatewayReport,
    /// What the node was told to connect to.
    pub targets: Vec<TargetReport>,
    /// The Docker of this host.
    pub docker: DockerState,
    /// Services of all hosts.
    #[serde(default)]
    pub services: ServicesSummary,
    /// Clients of the HTTP API.
    #[serde(default)]
    pub http: HttpReport,
    /// Whether the host's own address is announced.
    pub exposed: bool,
    /// What somebody should look at, one line each.
    pub problems: Vec<String>,
}

/// The data plane as control sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataplaneReport {
    /// Its process answers.
    pub connected: bool,
    /// The newest desired state.
    pub wanted: Generation,
    /// The newest one in force.
    pub applied: Option<Generation>,
    /// What stands in the way of it.
    pub problems: Vec<String>,
    /// Its counters, when it answered in time, and those of what control does for it.
    pub stats: Option<Stats>,
    /// Containers are asked for super-frames that leave in one send. Control sees to it, because it takes rights that
    /// the data plane gives up.
    #[serde(default)]
    pub container_gso: Option<FeatureStatus>,
}

/// The gateway as control sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatewayReport {
    /// Its process answers.
    pub connected: bool,
    /// The newest state.
    pub wanted: Generation,
    /// The newest one that it answers from.
    pub applied: Option<Generation>,
    /// What stands in the way of it.
    pub problems: Vec<String>,
    /// What its balancer does; None before it has said so.
    #[serde(default)]
    pub balancer: Option<BalancerReport>,
}

/// What the HTTP API counts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpReport {
    /// Connections of clients at this moment.
    pub open: u64,
    /// What only grows.
    pub counters: Vec<Counter>,
}

/// One target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetReport {
    /// As the operator wrote it.
    pub target: String,
    /// What it resolves to.
    pub addresses: Vec<SocketAddr>,
    /// How far it is.
    #[serde(flatten)]
    pub state: TargetState,
}

/// How far a target is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "state", content = "detail")]
pub enum TargetState {
    /// Its name was not looked up yet.
    Resolving,
    /// Its name has no address.
    Unresolved(String),
    /// Being tried.
    Connecting,
    /// The last attempt failed; it is tried again.
    Failed(TargetFailure),
    /// A session with this peer is up.
    Connected(PeerId),
}

impl TargetReport {
    /// Why no patience helps. A host that does not answer may answer yet, and a list of peers may name this host, too.
    pub fn hopeless(&self) -> Option<TargetFailure> {
        match self.state {
            TargetState::Failed(TargetFailure::NoAnswer | TargetFailure::Ourselves) => None,
            TargetState::Failed(failure) => Some(failure),
            _ => None,
        }
    }
}

impl StatusReport {
    /// True when the data plane does all that is wanted of it.
    pub fn is_up(&self) -> bool {
        self.dataplane.connected
            && self.dataplane.applied == Some(self.dataplane.wanted)
            && self.dataplane.problems.is_empty()
    }

    /// True when this host has a part of the address range that the cluster agrees on.
    pub fn has_slice(&self) -> bool {
        self.cluster.ipam.slice.is_some() && self.cluster.ipam.state == SliceState::Ready
    }

    /// What Docker must be told; the reason when there is nothing to tell yet.
    pub fn docker_options(&self) -> Result<DockerOptions, String> {
        match (&self.cluster.ipam.state, self.cluster.ipam.slice) {
            (SliceState::Ready, Some(slice)) => {
                // The first address of a slice is its host's.
                let server = slice.hosts().next();
                let dns = server.map(|server| DnsOptions { server, search: self.settings.zone.clone() });
                let bridge = self.settings.bridge.clone();
                Ok(DockerOptions { bridge, fixed_cidr: slice, mtu: self.settings.mtu, dns })
            }
            (SliceState::Refused(conflict), _) => Err(conflict.to_string()),
            (SliceState::Waiting(reason), _) => {
                Err(format!("this host has no address range for containers yet: {reason}; see `weaved status`"))
            }
            (SliceState::Ready, None) => Err("this host has no address range for containers yet".into()),
        }
    }
}

/// Why a target is not connected, and what to do.
pub fn explain(failure: TargetFailure) -> &'static str {
    match failure {
        TargetFailure::NoAnswer => "no answer: is weaved running there, and does UDP pass?",
        TargetFailure::OtherSecret => {
            "it does not share our secret: join its cluster with the output of `weaved token` there"
        }
        TargetFailure::Ourselves => "it is this host itself",
        TargetFailure::ClonedIdentity => {
            "it has the same identity as this host: one is a clone; run `weaved reset` on that one"
        }
        TargetFailure::OtherIdentity => {
            "another host than before answers there: was it set up anew? It is taken when it joins under its own name"
        }
        TargetFailure::OtherVersion => "it speaks another version of the protocol: upgrade the older of the two",
        TargetFailure::Unreachable => "this host has no route to it",
    }
}

//! What control says to the gateway and hears from it: the names of the cluster and what is balanced, complete.
//!
//! Level-triggered like the data plane's [`crate::DesiredState`]: each [`GatewayState`] replaces the one before. The gateway
//! keeps the last one in a file and answers from it while control is away.

use std::net::IpAddr;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use crate::{
    Counter, Generation, Problem,
    balancer::{BalancerReport, BalancerState, BalancerStatus},
};

/// Version of this part of the contract. Both ends say it first; they must agree exactly.
pub const GATEWAY_API_VERSION: u32 = 7;

/// All that the gateway should be answering with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatewayState {
    /// Number of this document; acknowledged when applied.
    pub generation: Generation,
    /// The zone of the cluster's names, without a dot at its end: `weave.local`.
    pub zone: String,
    /// Name of this host.
    pub host: String,
    /// Address of the bridge, where containers ask; None until the node has a slice of the range.
    pub listen: Option<IpAddr>,
    /// Addresses of all containers: reverse names within are ours.
    pub range: Ipv4Net,
    /// All hosts, this one included.
    pub hosts: Vec<NamedHost>,
    /// All containers of all hosts.
    pub containers: Vec<NamedContainer>,
    /// All instances of all services, those that get no traffic included: a lookup says why.
    pub instances: Vec<NamedInstance>,
    /// What the balancer should be doing.
    pub balancer: BalancerState,
}

/// One host.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct NamedHost {
    /// Its name.
    pub name: String,
    /// Its address on the overlay.
    pub address: Option<IpAddr>,
    /// Whether what runs there can be reached.
    pub standing: Standing,
    /// True if nothing of it is heard any more, neither of its control nor of its data plane: what is in flight there will not be
    /// answered.
    pub is_gone: bool,
}

/// One container.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct NamedContainer {
    /// Its name, as Docker has it.
    pub name: String,
    /// Its addresses on the overlay.
    pub ips: Vec<IpAddr>,
    /// Index of its host in [`GatewayState::hosts`].
    pub host: u32,
}

/// One instance of a service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct NamedInstance {
    /// The service.
    pub service: String,
    /// Names the instance on its host.
    pub id: String,
    /// In the order in which they were given.
    pub tags: Vec<String>,
    /// Colours that it has, by the rule of its service; the tags unless the operator said otherwise.
    pub colours: Vec<String>,
    /// Where it answers; None for the address of its host.
    pub address: Option<IpAddr>,
    /// At which port; 0 for none.
    pub port: u16,
    /// Index of its host in [`GatewayState::hosts`].
    pub host: u32,
    /// Its own health; that of its host counts besides.
    pub standing: Standing,
    /// How much it gets beside the others of its service; 0 for what nobody else can take.
    pub weight: u16,
}

/// Whether names lead to something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Standing {
    /// It is well.
    Passing,
    /// Somebody should look at it; it takes traffic.
    Warning,
    /// A check says that it takes none.
    Critical,
    /// It is being stopped.
    Draining,
    /// Its host does not answer.
    HostDown,
    /// Its host was stopped.
    HostAway,
    /// Its host is back and has not said yet what is still there.
    HostReturning,
    /// Its host has addresses that are another host's too.
    Quarantined,
}

/// From control, or from a verb.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum GatewayRequest {
    /// First on each connection: [`GATEWAY_API_VERSION`] of the caller.
    Hello(u32),
    /// Make it so. Answered by [`GatewayEvent::Applied`].
    Apply(Box<GatewayState>),
    /// Ask for [`GatewayEvent::Stats`].
    QueryStats,
    /// Ask for [`GatewayEvent::BalancerStatus`].
    QueryBalancer,
    /// Ask for [`GatewayEvent::Found`].
    Lookup {
        /// As the operator wrote it.
        name: String,
        /// Which kind of record.
        kind: LookupKind,
    },
}

/// From the gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum GatewayEvent {
    /// First on each connection.
    Hello {
        /// [`GATEWAY_API_VERSION`] of the gateway.
        version: u32,
        /// What it answers from, perhaps of an earlier control process; None while it knows no names.
        generation: Option<Generation>,
    },
    /// This generation is in force.
    Applied {
        /// Number of the state.
        generation: Generation,
    },
    /// What keeps the gateway from doing as desired has changed. It is tried again by itself.
    Problems(Vec<Problem>),
    /// What the balancer is doing has changed.
    Balancer(Box<BalancerReport>),
    /// Answer to [`GatewayRequest::QueryStats`].
    Stats(Box<GatewayStats>),
    /// Answer to [`GatewayRequest::QueryBalancer`].
    BalancerStatus(Box<BalancerStatus>),
    /// Answer to [`GatewayRequest::Lookup`].
    Found(Box<LookupReport>),
}

/// Which kind of record is looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum LookupKind {
    /// IPv4 addresses.
    A,
    /// IPv6 addresses.
    Aaaa,
    /// Addresses with ports.
    Srv,
    /// The name of an address.
    Ptr,
}

/// What the gateway is doing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatewayStats {
    /// Milliseconds since its start.
    pub uptime_ms: u64,
    /// What it answers from.
    pub generation: Option<Generation>,
    /// Where it listens, such as `10.32.0.1:53 udp`.
    pub listening: Vec<String>,
    /// Resolvers that it asks for other names.
    pub upstreams: Vec<IpAddr>,
    /// Names that it knows.
    pub name_count: u64,
    /// Answers kept of other resolvers.
    pub cached_count: u64,
    /// What keeps it from doing as desired.
    pub problems: Vec<Problem>,
    /// Counts since the start.
    pub counters: Vec<Counter>,
}

/// An answer, and why it is so.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LookupReport {
    /// The whole name that was looked up.
    pub name: String,
    /// `NOERROR`, `NXDOMAIN`, …
    pub outcome: String,
    /// Records, one line each, as in a zone file.
    pub records: Vec<String>,
    /// Everything that the name stands for, what is left out included.
    pub candidates: Vec<Candidate>,
    /// In a sentence, where the answer comes from.
    pub source: String,
}

/// Something that a name stands for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Candidate {
    /// The instance or container.
    pub id: String,
    /// Its host.
    pub host: String,
    /// Its addresses, with the port where there is one.
    pub addresses: Vec<String>,
    /// Whether the answer has it, and else why not.
    pub standing: Standing,
}

impl Standing {
    /// True if new connections are welcome.
    pub fn takes_traffic(self) -> bool {
        matches!(self, Self::Passing | Self::Warning)
    }

    /// In words.
    pub fn describe(self) -> &'static str {
        match self {
            Self::Passing => "passing",
            Self::Warning => "warning: takes traffic, look at its checks",
            Self::Critical => "left out: a check is critical",
            Self::Draining => "left out: it is being stopped",
            Self::HostDown => "left out: its host does not answer",
            Self::HostAway => "left out: its host was stopped",
            Self::HostReturning => "left out: its host is back and has not said yet what is still there",
            Self::Quarantined => "left out: its host's addresses collide with another's",
        }
    }
}

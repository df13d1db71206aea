//! What the balancer of a host should be doing, and what it says of it: the part of the gateway's contract that carries
//! traffic.
//!
//! Level-triggered as all of it: [`BalancerState`] is complete, [`BalancerReport`] too. A colour is any name by which instances
//! of one service are told apart: a tag, a compose project, a label. Control resolves which instance has which.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::Counter;

/// Where to listen, and how to serve what comes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BalancerState {
    /// In the order of the operator's file.
    pub listeners: Vec<Listener>,
    /// All services that a route leads to.
    pub services: Vec<BalancedService>,
}

/// One address that is listened on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listener {
    /// The operator's name for it.
    pub name: String,
    /// Where.
    pub address: SocketAddr,
    /// What is spoken there.
    pub protocol: ListenerProtocol,
    /// Directory of certificates, `NAME.crt` and `NAME.key` in PEM; None for plain text.
    pub tls: Option<PathBuf>,
    /// Whose connections must begin with a PROXY header. At the others' none is looked for.
    pub accept_proxy: Trust,
    /// Who may say in `X-Forwarded-*` and the like who has asked: another proxy in front. By the address in the PROXY header, where there is one.
    pub trust_forwarded: Trust,
    /// The first that matches decides; TCP takes the first.
    pub routes: Vec<Route>,
    /// Bounds of what a client may take.
    pub limits: ClientLimits,
    /// Where each request is written down.
    pub access_log: Option<AccessLog>,
}

/// What a listener speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ListenerProtocol {
    /// HTTP/1.1 and HTTP/2, upgrades included.
    Http,
    /// Bytes.
    Tcp,
}

/// Whose word is taken.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Trust {
    /// Nobody's.
    #[default]
    Nobody,
    /// Everybody's.
    Everybody,
    /// That of the addresses in these networks.
    Networks(Vec<IpNet>),
}

impl Trust {
    /// True if the word of this address is taken.
    pub fn covers(&self, address: IpAddr) -> bool {
        match self {
            Self::Nobody => false,
            Self::Everybody => true,
            Self::Networks(networks) => {
                let address = address.to_canonical();
                networks.iter().any(|network| network.contains(&address))
            }
        }
    }
}

/// Which requests go to which service. What is None matches everything.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// The host asked for, without port, in lower case; `*.example.com` stands for one label more.
    pub host: Option<String>,
    /// How the path begins, at a boundary of segments.
    pub path: Option<String>,
    /// A header, its name in lower case, and the value that it must have.
    pub header: Option<(String, String)>,
    /// Where it goes.
    pub service: String,
    /// Always this colour, whatever is live: a preview.
    pub colour: Option<String>,
    /// A header whose value names the colour where a request has it, its name in lower case: a preview as well.
    pub colour_header: Option<String>,
}

/// What one client may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientLimits {
    /// Connections at once on the listener.
    pub connections: u32,
    /// Bytes of a request's head.
    pub head_bytes: u32,
    /// Bytes of a request's body.
    pub body_bytes: u64,
    /// How long a head may take to come.
    pub head_timeout: Duration,
    /// How long a connection may be idle between requests.
    pub idle_timeout: Duration,
    /// Requests a second of one client address; None for as many as come.
    pub requests_per_second: Option<u32>,
}

/// Where requests are written down.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessLog {
    /// The file, appended to, opened anew when it was moved away.
    pub path: PathBuf,
    /// How.
    pub format: LogFormat,
}

/// How a request is written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// The Common Log Format of web servers, with the backend and the time behind it.
    Common,
    /// One JSON object a line.
    Json,
}

/// How one service is balanced here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BalancedService {
    /// Its name in the catalogue.
    pub name: String,
    /// Who gets the next request.
    pub policy: Policy,
    /// What ties a client to a backend.
    pub sticky: Option<Sticky>,
    /// How long is waited for backends.
    pub timeouts: BackendTimeouts,
    /// Attempts at another backend where it is safe: nothing was sent, or the method is idempotent and nothing came back.
    pub retries: u32,
    /// The header that backends get in front of each connection.
    pub send_proxy: Option<ProxyVersion>,
    /// True if backends speak HTTP/2 without TLS (gRPC).
    pub http2_backends: bool,
    /// When a backend that fails is left out.
    pub ejection: Ejection,
    /// Which colours get traffic.
    pub switch: SwitchState,
}

/// Who gets the next request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Policy {
    /// One after the other.
    #[default]
    RoundRobin,
    /// Whoever has the fewest in flight.
    LeastConnections,
}

/// What ties a client to a backend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sticky {
    /// A cookie of this name, made by the balancer.
    Cookie(String),
    /// A hash of the client's address.
    Address,
    /// A hash of this header's value, its name in lower case.
    Header(String),
}

/// How long is waited for backends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackendTimeouts {
    /// For a connection.
    pub connect: Duration,
    /// For the head of an answer.
    pub response: Duration,
    /// For the next byte of TCP streams, of upgraded connections, and of answers that are neither events nor gRPC; None for ever.
    pub idle: Option<Duration>,
}

/// Version of the PROXY protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProxyVersion {
    /// Text.
    V1,
    /// Binary.
    V2,
}

/// Passive checks: a backend that fails its clients is left out for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ejection {
    /// Failures in a row; 0 never ejects.
    pub failures: u32,
    /// For how long, the first time; doubled each time, up to ten times as long.
    pub duration: Duration,
    /// At most this share of the backends, in percent: the rest stays in whatever it does.
    pub max_percent: u8,
}

/// Which colours of a service get traffic. Follows from the cluster's record of the service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SwitchState {
    /// Number of the switch that is in force or about to be; 0 before the first.
    pub revision: u64,
    /// What is in force from `at_us` on. Empty: all instances, whatever their colour.
    pub live: Vec<ColourShare>,
    /// What is in force until then.
    pub before: Vec<ColourShare>,
    /// The instant, in microseconds of Unix time. In the past: at once.
    pub at_us: u64,
    /// A switch that is being prepared: connect to this colour and say how many are well.
    pub prepare: Option<Prepare>,
    /// How long requests at a colour that is not live any more may wait for their answers.
    pub drain: Duration,
    /// How long upgraded connections and TCP streams may go on there, and, when `drain` is over as well, answers that have begun; None for ever.
    pub stream_drain: Option<Duration>,
}

/// A colour's share of new requests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ColourShare {
    /// Which.
    pub colour: String,
    /// Its weight beside the others'; 0 gets nothing.
    pub weight: u32,
}

/// Make this colour ready.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prepare {
    /// Names the attempt: it is in the answer.
    pub attempt: u64,
    /// Which colour.
    pub colour: String,
}

/// What the balancer of a host is doing. Told when a switch or a preparation changes, and else every second while something
/// has changed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BalancerReport {
    /// In the order of [`BalancerState::services`].
    pub services: Vec<BalancedServiceReport>,
    /// Listeners that could not be opened and the like, in sentences.
    pub problems: Vec<String>,
}

/// What it does for one service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BalancedServiceReport {
    /// Its name.
    pub service: String,
    /// [`SwitchState::revision`] that new requests follow.
    pub revision: u64,
    /// When that began, in microseconds of Unix time by this host's clock.
    pub switched_at_us: u64,
    /// The answer to [`SwitchState::prepare`].
    pub prepared: Option<Prepared>,
    /// Every colour that there is.
    pub colours: Vec<ColourReport>,
}

/// How a preparation stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prepared {
    /// Of which attempt.
    pub attempt: u64,
    /// Instances of the colour that take traffic.
    pub healthy: u32,
    /// Of them, those to which a connection was made.
    pub warm: u32,
    /// True when each was tried.
    pub is_settled: bool,
}

/// A request that has waited so long for the head of its answer is told before it has any, so that a colour that hangs is noticed
/// before the service's `response` is over (a minute, which is as long as a switch is watched). One for all: answers that come in
/// their time come sooner, but for those of services where waiting is usual; whoever judges a colour by it must know which those are.
pub const LONG_WAIT: Duration = Duration::from_secs(10);

/// One colour. Counts are since the start of the gateway and never go back until then.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ColourReport {
    /// Its name; empty for instances without one.
    pub colour: String,
    /// Instances that take traffic.
    pub healthy: u32,
    /// Requests in flight.
    pub in_flight: u64,
    /// Of them, those that have waited for [`LONG_WAIT`] or longer for the head of an answer, and not for their clients. They are
    /// neither among `requests` nor among `failures` until they are answered or given up.
    pub waiting: u64,
    /// Upgraded connections, TCP streams, and answers that are events or gRPC, as long as they are open.
    pub streams: u64,
    /// Requests that were answered or given up.
    pub requests: u64,
    /// Of them, those answered with 5xx or not at all.
    pub failures: u64,
    /// How long they took until the head of the answer: requests that took less than 1, 2, 4, … milliseconds, the last one the rest.
    pub latency: Vec<u64>,
    /// The sum of those times, in microseconds.
    pub latency_us: u64,
}

/// What the balancer of a host is doing, in full: for people.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BalancerStatus {
    /// In the order of the operator's file.
    pub listeners: Vec<ListenerStatus>,
    /// In the order of [`BalancerState::services`].
    pub services: Vec<ServiceStatus>,
    /// What stands in the way.
    pub problems: Vec<String>,
    /// Counts since the start.
    pub counters: Vec<Counter>,
}

/// One listener.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenerStatus {
    /// The operator's name for it.
    pub name: String,
    /// Where.
    pub address: SocketAddr,
    /// What is spoken there.
    pub protocol: ListenerProtocol,
    /// True if it is open.
    pub is_open: bool,
    /// Connections of clients.
    pub connections: u32,
}

/// One service, with everybody behind it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceStatus {
    /// Its name.
    pub name: String,
    /// What new requests follow; empty for all instances.
    pub live: Vec<ColourShare>,
    /// The switch that this is.
    pub revision: u64,
    /// All instances, those without traffic included.
    pub backends: Vec<BackendStatus>,
    /// Counts by colour.
    pub colours: Vec<ColourReport>,
}

/// One instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackendStatus {
    /// Names the instance on its host.
    pub id: String,
    /// Its host.
    pub host: String,
    /// Where it answers; None if nobody knows.
    pub address: Option<SocketAddr>,
    /// Its colours.
    pub colours: Vec<String>,
    /// [`crate::gateway::NamedInstance::weight`].
    pub weight: u16,
    /// Requests and streams that it has.
    pub in_flight: u32,
    /// Whether it gets new requests, and else why not.
    pub state: String,
}

impl BalancedService {
    /// A service of which the operator says nothing but its name.
    pub fn plain(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            policy: Policy::default(),
            sticky: None,
            timeouts: BackendTimeouts::default(),
            retries: 1,
            send_proxy: None,
            http2_backends: false,
            ejection: Ejection::default(),
            switch: SwitchState::default(),
        }
    }
}

impl Default for ClientLimits {
    fn default() -> Self {
        Self {
            connections: 10_000,
            head_bytes: 32 * 1024,
            body_bytes: 1 << 30,
            head_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_mins(1),
            requests_per_second: None,
        }
    }
}

impl Default for BackendTimeouts {
    fn default() -> Self {
        Self { connect: Duration::from_secs(3), response: Duration::from_mins(1), idle: Some(Duration::from_hours(1)) }
    }
}

impl Default for Ejection {
    fn default() -> Self {
        Self { failures: 5, duration: Duration::from_secs(10), max_percent: 50 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::framing;

    #[test]
    fn networks_cover_their_addresses_also_where_an_ipv4_address_comes_as_an_ipv6_one() {
        let trust = Trust::Networks(vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()]);
        for (address, expected) in
            [("10.1.2.3", true), ("::ffff:10.1.2.3", true), ("fd00::1", true), ("11.0.0.1", false), ("::1", false)]
        {
            assert_eq!(trust.covers(address.parse().unwrap()), expected, "{address}");
        }
        assert_eq!(framing::decode::<Trust>(&framing::encode(&trust).unwrap()[framing::LEN_BYTES..]).unwrap(), trust);
        let anyone = "10.1.2.3".parse().unwrap();
        assert!(Trust::Everybody.covers(anyone) && !Trust::Nobody.covers(anyone));
    }
}

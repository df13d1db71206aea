//! What the Docker of this host runs on our bridge.
//!
//! Lists, listens to events, and lists again: after each event, and every [`Watch::relist_every`] in case one was missed. Events that
//! come while nobody listens are asked for afterwards: that a container was told to stop is in no list.
//! Docker being absent, restarting or old is normal: it is tried again, and `status` says so.
//!
//! INVARIANT: while Docker does not answer, the last list stays: its containers go on without it.

use std::{
    collections::HashMap,
    net::IpAddr,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use bollard::{
    Docker,
    models::{ContainerSummary, EndpointSettings, EventMessage, Network},
    query_parameters::EventsOptionsBuilder,
};
use futures_util::{FutureExt, Stream, StreamExt};
use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};

use super::{
    inspect::{Inspector, Overlay},
    one_line,
};
use crate::{node::Container, registration::facts::ContainerFacts, state::DockerChoice};

/// How often it is looked though no event says so, unless somebody wants it otherwise. What a missed event left wrong is right on
/// all hosts within 30 s.
pub const RELIST_INTERVAL: Duration = Duration::from_secs(20);
/// An event stream begins a little after the list that came before it; the gap is closed by one more list.
const FIRST_RELIST: Duration = Duration::from_millis(500);
/// Events that come together, as a `docker compose up` makes them, cause one list.
const GATHER: Duration = Duration::from_millis(20);
const RETRY_INTERVAL: Duration = Duration::from_secs(1);
const MAX_RETRY_INTERVAL: Duration = Duration::from_secs(5);
/// The driver option that names a network's Linux bridge.
const BRIDGE_OPTION: &str = "com.docker.network.bridge.name";
/// Only these change what is seen. Health checks cause many others: one for each run.
const EVENTS: [&str; 12] = [
    "start",
    "die",
    "kill",
    "pause",
    "unpause",
    "health_status",
    "update",
    "rename",
    "connect",
    "disconnect",
    "create",
    "destroy",
];

/// Whether Docker can be seen, and whether it uses our bridge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "state")]
pub enum DockerState {
    /// The operator said `--no-docker`.
    Off,
    /// It does not answer.
    Absent {
        /// What the system says.
        reason: String,
    },
    /// It answers.
    Connected {
        /// Its version.
        version: String,
        /// Its network on our bridge; None when it was not told of the bridge.
        network: Option<BridgeNetwork>,
    },
}

/// Docker's network on our bridge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BridgeNetwork {
    /// Its name: `bridge` for the one that containers get by default.
    pub name: String,
    /// The part of the overlay that Docker gives addresses from, as Docker writes it.
    pub fixed_cidr: Option<String>,
}

/// What has been seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Docker.
    pub state: DockerState,
    /// Containers on our bridge; None when Docker does not answer, and nothing is known of them.
    pub containers: Option<Vec<Container>>,
}

/// What it means that there is no socket of Docker's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoSocket {
    /// That there are no containers.
    NoContainers,
    /// Nothing: Docker may be restarting, and its containers go on.
    Unknown,
}

/// Which Docker, which bridge, which addresses.
#[derive(Clone, Debug)]
pub struct Watch {
    /// Which Docker.
    pub choice: DockerChoice,
    /// Our bridge.
    pub bridge: String,
    /// The overlay's addresses.
    pub range: Ipv4Net,
    /// Repairs what a missed event left wrong.
    pub relist_every: Duration,
    /// Until Docker answers for the first time.
    pub no_socket: NoSocket,
}

/// Who is told what is seen.
#[derive(Clone, Debug)]
pub struct Listeners {
    /// Whether Docker is there, and who is on the overlay; each change.
    pub seen: mpsc::Sender<Seen>,
    /// What all running containers say of themselves; the newest. None while that is not known.
    pub facts: watch::Sender<Option<Vec<ContainerFacts>>>,
}

/// What is remembered from look to look, also while Docker is away.
#[derive(Default)]
struct Memory {
    last: Option<Seen>,
    inspector: Inspector,
    /// The next event is not older than this, in nanoseconds of Docker's clock, which is ours.
    next_event: Option<u64>,
}

impl Memory {
    fn on_event(&mut self, event: &EventMessage) {
        self.inspector.on_event(event, Instant::now());
        if let Some(at) = event.time_nano.and_then(|at| u64::try_from(at).ok()) {
            self.next_event = Some(at.saturating_add(1));
        }
    }
}

/// Our bridge, for whoever wants to know which network is on it.
struct OurBridge<'a> {
    watch: &'a Watch,
    networks: &'a [&'a Network],
}

impl Overlay for OurBridge<'_> {
    fn holds(&self, name: &str) -> bool {
        self.networks.iter().any(|network| network.name.as_deref() == Some(name))
    }

    fn addresses(&self, endpoint: &EndpointSettings) -> Vec<IpAddr> {
        self.watch.addresses(endpoint)
    }
}

impl Watch {
    /// Tells what it sees, whenever that changes, until nobody listens.
    pub async fn run(self, listeners: Listeners) {
        let mut pause = RETRY_INTERVAL;
        let mut memory = Memory::default();
        while !listeners.seen.is_closed() {
            let reason = match self.connect().await {
                Ok((docker, version)) => {
                    pause = RETRY_INTERVAL;
                    self.follow(&docker, &version, &mut memory, &listeners).await
                }
                Err(reason) => reason,
            };
            if self.no_socket == NoSocket::NoContainers && super::is_missing(&self.choice) {
                listeners.facts.send_if_modified(|known| {
                    let is_news = known.is_none();
                    known.get_or_insert_default();
                    is_news
                });
            }
            let absent = Seen { state: DockerState::Absent { reason }, containers: None };
            if tell(absent, &listeners.seen, &mut memory.last).await.is_err() {
                return;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(MAX_RETRY_INTERVAL);
        }
    }

    async fn connect(&self) -> Result<(Docker, String), String> {
        let docker = super::connect(&self.choice).await?;
        let version = docker.version().await.map_err(|error| one_line(&error))?;
        Ok((docker, version.version.unwrap_or_default()))
    }

    /// Returns why Docker no longer answers.
    async fn follow(&self, docker: &Docker, version: &str, memory: &mut Memory, listeners: &Listeners) -> String {
        let since = *memory.next_event.get_or_insert_with(now_nanos);
        let mut events = std::pin::pin!(changes(docker, since));
        let mut relist = FIRST_RELIST.min(self.relist_every);
        loop {
            if let Err(reason) = self.look(docker, version, memory, listeners).await {
                return reason;
            }
            tokio::select! {
                change = events.next() => match change {
                    Some(Ok(event)) => {
                        memory.on_event(&event);
                        tokio::time::sleep(GATHER).await;
                    }
                    Some(Err(reason)) => return reason,
                    None => return "its event stream has ended".into(),
                },
                () = tokio::time::sleep(relist) => relist = self.relist_every,
            }
            // What has come meanwhile is seen by the same look.
            while let Some(Some(Ok(event))) = events.next().now_or_never() {
                memory.on_event(&event);
            }
        }
    }

    async fn look(
        &self,
        docker: &Docker,
        version: &str,
        memory: &mut Memory,
        listeners: &Listeners,
    ) -> Result<(), String> {
        let networks = docker.list_networks(None).await.map_err(|error| one_line(&error))?;
        let containers = docker.list_containers(None).await.map_err(|error| one_line(&error))?;
        let ours: Vec<&Network> = networks.iter().filter(|network| self.is_on_our_bridge(network)).collect();
        let mut found: Vec<Container> =
            containers.iter().filter_map(|container| self.container(container, &ours)).collect();
        found.sort();
        let network = ours.first().map(|network| BridgeNetwork {
            name: network.name.clone().unwrap_or_default(),
            fixed_cidr: fixed_cidr(network),
        });
        let state = DockerState::Connected { version: version.to_owned(), network };
        let seen = Seen { state, containers: Some(found) };
        tell(seen, &listeners.seen, &mut memory.last).await.map_err(|()| "nobody listens".to_owned())?;
        let bridge = OurBridge { watch: self, networks: &ours };
        let facts = memory.inspector.look(docker, &containers, &bridge, Instant::now()).await?;
        listeners.facts.send_if_modified(|known| {
            let is_new = known.as_ref() != Some(&facts);
            *known = Some(facts);
            is_new
        });
        Ok(())
    }

    fn is_on_our_bridge(&self, network: &Network) -> bool {
        let bridge = network.options.as_ref().and_then(|options| options.get(BRIDGE_OPTION));
        bridge.is_some_and(|bridge| *bridge == self.bridge)
    }

    fn container(&self, summary: &ContainerSummary, ours: &[&Network]) -> Option<Container> {
        let endpoints = summary.network_settings.as_ref()?.networks.as_ref()?;
        let is_ours = |name: &str| ours.iter().any(|network| network.name.as_deref() == Some(name));
        let endpoint = endpoints.iter().find(|(name, _)| is_ours(name)).map(|(_, endpoint)| endpoint)?;
        let ips = self.addresses(endpoint);
        let mac = endpoint.mac_address.as_ref()?.parse().ok()?;
        let name = summary.names.as_ref().and_then(|names| names.first()).map_or("", |name| name.trim_matches('/'));
        let id = summary.id.as_deref().unwrap_or_default();
        (!ips.is_empty()).then(|| Container { id: id.to_owned(), name: name.to_owned(), mac, ips })
    }

    fn addresses(&self, endpoint: &EndpointSettings) -> Vec<IpAddr> {
        let texts = [&endpoint.ip_address, &endpoint.global_ipv6_address];
        let parsed = texts.into_iter().flatten().filter_map(|text| text.parse().ok());
        parsed
            .filter(|address| match address {
                IpAddr::V4(address) => self.range.contains(address),
                IpAddr::V6(_) => true,
            })
            .collect()
    }
}

/// Docker writes the part that it gives addresses from as a range within the bridge's subnet.
fn fixed_cidr(network: &Network) -> Option<String> {
    let configs = network.ipam.as_ref()?.config.as_ref()?;
    configs.iter().find_map(|config| config.ip_range.clone().or_else(|| config.subnet.clone()))
}

fn now_nanos() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}

/// Docker keeps the last 256 events, until it is restarted. A clock that is set back does not hold up those to come: they are told
/// whatever their time is.
fn changes(docker: &Docker, since_nanos: u64) -> impl Stream<Item = Result<EventMessage, String>> {
    let filters = HashMap::from([("event", EVENTS.to_vec())]);
    let options = EventsOptionsBuilder::default().filters(&filters).since(&stamp(since_nanos)).build();
    docker.events(Some(options)).map(|event| event.map_err(|error| one_line(&error)))
}

/// As Docker writes a time with its fraction.
fn stamp(nanos: u64) -> String {
    let second = Duration::from_secs(1).as_nanos() as u64;
    format!("{}.{:09}", nanos / second, nanos % second)
}

async fn tell(seen: Seen, sender: &mpsc::Sender<Seen>, last: &mut Option<Seen>) -> Result<(), ()> {
    if last.as_ref() == Some(&seen) {
        return Ok(());
    }
    *last = Some(seen.clone());
    sender.send(seen).await.map_err(drop)
}

#[cfg(test)]
mod tests;

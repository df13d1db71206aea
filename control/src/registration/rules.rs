//! From containers to services: registrator's rules (v7), with our own for addresses.
//!
//! One instance per port. Its **name** is `SERVICE_<port>_NAME`, else `SERVICE_NAME`, else the service's name in its compose
//! or swarm file, else the image's name without path and tag; `-<port>` is appended where the container has several ports,
//! unless the name is of the port. Its **id** is `HOST:CONTAINER:PORT[:udp]` unless it has one of its own. Its **address**
//! is decided by [`place`].
//!
//! INVARIANT: the same containers give the same definitions, in whatever order they come. No two definitions have one
//! id: of several containers that claim it, the oldest keeps it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use super::{
    Definition, Note,
    container_checks::{self, Subject},
    definition::check_id,
    facts::{ContainerFacts, DockerHealth, DockerHealthState, Network, Port, Transport},
    limits::MAX_PORTS,
    metadata::{Entries, Metadata, quote, split_tags},
    names,
};
use crate::catalogue::{Check, Drain, Health, InstanceId, WEIGHTS_KEY, Weights, limits};

const COMPOSE_SERVICE: &str = "com.docker.compose.service";
const COMPOSE_PROJECT: &str = "com.docker.compose.project";
const SWARM_SERVICE: &str = "com.docker.swarm.service.name";
/// Metadata key of the name as the container said it, where DNS cannot carry that.
pub const ORIGINAL_NAME: &str = "weaved-original-name";

/// An instance of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registered {
    /// What is registered.
    pub definition: Definition,
    /// Full id of its container.
    pub container: String,
    /// Whether its container is being stopped.
    pub drain: Drain,
    /// What Docker's own check says, if there is one.
    pub health: Option<Check>,
}

/// What containers give.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// By id.
    pub registered: Vec<Registered>,
    /// What was ignored, cut or mapped, and why.
    pub notes: Vec<Note>,
}

/// What all of a host's containers register. `node` is the host's name.
pub fn register(node: &str, containers: &[ContainerFacts]) -> Outcome {
    let mut notes = Vec::new();
    let mut by_age: Vec<&ContainerFacts> = containers.iter().collect();
    by_age.sort_by_key(|container| (&container.created, &container.id));
    let with_ids: BTreeMap<&str, &ContainerFacts> =
        containers.iter().map(|container| (container.id.as_str(), container)).collect();
    let mut claims = Vec::new();
    for container in by_age {
        let owner = match &container.network {
            Network::Container(id) => with_ids.get(id.as_str()).copied(),
            _ => Some(container),
        };
        match owner {
            Some(owner) => Reading { node, container, owner }.claims(&mut claims, &mut notes),
            None => notes.push(Note::new(&container.name, "ignored: the container whose network it uses does not run")),
        }
    }
    Outcome { registered: settle(claims, &mut notes), notes }
}

/// An instance with the id that it would like, and the one that nobody else can have.
struct Claim {
    wanted: Option<InstanceId>,
    registered: Registered,
    about: String,
}

/// Gives each id to the oldest that claims it. Nobody can claim what is somebody else's id by the usual form. Docker gives a name
/// once; of two containers with one name, which were looked at before and behind a renaming, the next look tells.
fn settle(claims: Vec<Claim>, notes: &mut Vec<Note>) -> Vec<Registered> {
    let mut taken = BTreeSet::new();
    let is_first = |claim: &Claim| taken.insert(claim.registered.definition.id.clone());
    let (claims, doubles): (Vec<_>, Vec<_>) = claims.into_iter().partition(is_first);
    notes.extend(doubles.into_iter().map(|claim| Note::new(claim.about, "left out: an older container has its name")));
    let mut registered = Vec::new();
    for Claim { wanted, registered: mut each, about } in claims {
        if let Some(wanted) = wanted.filter(|wanted| *wanted != each.definition.id) {
            if taken.insert(wanted.clone()) {
                rename(&mut each, wanted);
            } else {
                let id = &each.definition.id.0;
                let text = format!("SERVICE_ID {} is taken; registered as {id}", quote(&wanted.0));
                notes.push(Note::new(about, text));
            }
        }
        registered.push(each);
    }
    registered.sort_by(|left, right| left.definition.id.cmp(&right.definition.id));
    registered
}

fn rename(registered: &mut Registered, id: InstanceId) {
    for check in &mut registered.definition.checks {
        check.id = check_id("service", &id);
    }
    if let Some(health) = &mut registered.health {
        health.id = check_id("docker", &id);
    }
    registered.definition.id = id;
}

/// One container; `owner` is the one whose network it uses, mostly itself.
struct Reading<'a> {
    node: &'a str,
    container: &'a ContainerFacts,
    owner: &'a ContainerFacts,
}

/// Where a port answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// At this address, from everywhere in the cluster.
    At(SocketAddr),
    /// At the host's own addresses.
    OnHost(u16),
}

impl Reading<'_> {
    fn claims(&self, claims: &mut Vec<Claim>, notes: &mut Vec<Note>) {
        let entries = Entries::of(self.container, notes);
        let ports: BTreeSet<Port> =
            self.container.exposed.iter().chain(self.container.published.keys()).copied().collect();
        let placed: Vec<(Port, Place)> =
            ports.iter().filter_map(|port| Some((*port, place(self.owner, self.container, *port)?))).collect();
        if ports.is_empty() {
            notes.push(self.note("ignored: it exposes no port (EXPOSE, --expose, or --publish)"));
        } else if placed.is_empty() {
            notes.push(self.note("ignored: it is not on the overlay and publishes no port that other hosts can reach"));
        }
        if placed.len() > MAX_PORTS {
            notes.push(self.note(&format!("{} ports; the first {MAX_PORTS} are registered", placed.len())));
        }
        let is_group = placed.len() > 1;
        for (port, place) in placed.into_iter().take(MAX_PORTS) {
            let metadata = entries.for_port(port.number);
            if metadata.value("ignore").is_none() {
                claims.push(self.claim(port, place, is_group, &metadata, notes));
            }
        }
    }

    fn claim(&self, port: Port, place: Place, is_group: bool, metadata: &Metadata, notes: &mut Vec<Note>) -> Claim {
        let (address, number) = match place {
            Place::At(endpoint) => (Some(endpoint.ip()), endpoint.port()),
            Place::OnHost(number) => (None, number),
        };
        let id = self.usual_id(port, notes);
        let mut meta = metadata.rest();
        let service = self.service(port, is_group, metadata, &mut meta, notes);
        self.add_origin(&mut meta);
        let endpoint = SocketAddr::new(address.unwrap_or(Ipv4Addr::LOCALHOST.into()), number);
        let is_own = self.owner.attachments.iter().any(|each| each.ips.contains(&endpoint.ip()));
        let inside = if is_own { endpoint } else { SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port.number) };
        let subject = Subject { container: self.container, id: &id, endpoint, inside };
        let checks = container_checks::check_of(&subject, metadata, notes).into_iter().collect();
        let definition = Definition {
            service,
            address,
            port: number,
            tags: self.tags(port, metadata, notes),
            meta: self.weighed(meta, metadata, notes),
            checks,
            id,
        };
        let health = self.container.health.as_ref().map(|health| docker_check(&definition.id, health));
        let container = self.container.id.clone();
        let wanted = metadata.value("id").filter(|id| self.is_fit_for_id(id, notes)).map(|id| InstanceId(id.into()));
        let registered = Registered { definition, container, drain: self.container.drain, health };
        Claim { wanted, registered, about: self.container.name.clone() }
    }

    fn service(
        &self,
        port: Port,
        is_group: bool,
        metadata: &Metadata,
        meta: &mut BTreeMap<String, String>,
        notes: &mut Vec<Note>,
    ) -> String {
        let labels = &self.container.labels;
        let label = |key: &str| labels.get(key).map(String::as_str).filter(|text| !text.is_empty());
        let name = metadata.value("name").or_else(|| label(COMPOSE_SERVICE)).or_else(|| label(SWARM_SERVICE));
        let mut name = name.unwrap_or_else(|| image_name(&self.container.image)).to_owned();
        if is_group && !metadata.is_of_port("name") {
            name = format!("{name}-{}", port.number);
        }
        let mapped = names::to_label(&name);
        if mapped != name {
            notes.push(self.note(&format!("DNS cannot carry the name {}; registered as {mapped}", quote(&name))));
            meta.insert(ORIGINAL_NAME.into(), quote(&name));
        }
        mapped
    }

    /// Which compose project it is of: two may use one service name.
    fn add_origin(&self, meta: &mut BTreeMap<String, String>) {
        if let Some(project) = self.container.labels.get(COMPOSE_PROJECT) {
            meta.entry("compose-project".into()).or_insert_with(|| project.clone());
        }
    }

    fn tags(&self, port: Port, metadata: &Metadata, notes: &mut Vec<Note>) -> Vec<String> {
        let mut tags = split_tags(metadata.value("tags").unwrap_or_default());
        if port.transport == Transport::Udp {
            tags.push("udp".into());
        }
        let said_count = tags.len();
        tags.retain(|tag| tag.len() <= limits::MAX_TAG_BYTES);
        tags.truncate(limits::MAX_TAGS);
        if tags.len() < said_count {
            notes.push(self.note(&format!("{} tags left out: too many or too long", said_count - tags.len())));
        }
        tags
    }

    /// With its weights, for which there is always room.
    fn weighed(
        &self,
        mut meta: BTreeMap<String, String>,
        metadata: &Metadata,
        notes: &mut Vec<Note>,
    ) -> BTreeMap<String, String> {
        let weights = metadata.value("weight").map_or_else(Weights::default, |text| {
            Weights::read(text).unwrap_or_else(|error| {
                let note = self.note(&format!("SERVICE_WEIGHT: {} {error}; ignored, it is 1", quote(text)));
                // Of several ports one line is enough.
                if !notes.contains(&note) {
                    notes.push(note);
                }
                Weights::default()
            })
        });
        meta.remove(WEIGHTS_KEY);
        let room = limits::MAX_META - usize::from(!weights.is_usual());
        let mut meta = self.fitting(meta, room, notes);
        weights.put(&mut meta);
        meta
    }

    fn fitting(&self, meta: BTreeMap<String, String>, most: usize, notes: &mut Vec<Note>) -> BTreeMap<String, String> {
        let said_count = meta.len();
        let fits = |(key, value): &(String, String)| {
            key.len() <= limits::MAX_META_KEY_BYTES && value.len() <= limits::MAX_META_VALUE_BYTES
        };
        let meta: BTreeMap<String, String> = meta.into_iter().filter(fits).take(most).collect();
        if meta.len() < said_count {
            let count = said_count - meta.len();
            notes.push(self.note(&format!("{count} pairs of metadata left out: too many or too long")));
        }
        meta
    }

    /// registrator's; where the container's name does not fit one, its own id stands for it.
    fn usual_id(&self, port: Port, notes: &mut Vec<Note>) -> InstanceId {
        let udp = if port.transport == Transport::Udp { ":udp" } else { "" };
        let of = |container: &str| format!("{}:{container}:{}{udp}", self.node, port.number);
        let id = of(&self.container.name);
        if is_fit(&id) {
            return InstanceId(id);
        }
        notes.push(self.note("its name is too long for an id, or no text: its own id stands for it"));
        InstanceId(of(&self.container.id))
    }

    fn is_fit_for_id(&self, id: &str, notes: &mut Vec<Note>) -> bool {
        let is_fit = is_fit(id);
        if !is_fit {
            notes.push(self.note(&format!("SERVICE_ID {} is too long or no text; ignored", quote(id))));
        }
        is_fit
    }

    fn note(&self, text: &str) -> Note {
        Note::new(&self.container.name, text)
    }
}

fn is_fit(id: &str) -> bool {
    id.len() <= limits::MAX_NAME_BYTES && !id.chars().any(char::is_control)
}

/// Where a port answers; None when nobody on another host can reach it. In this order:
///
/// 1. in the host's own network: at the host;
/// 2. on the overlay: at the container's address there (the first network by name, IPv4 before IPv6);
/// 3. published at an address of the host: there. One that is published at loopback only is not reachable.
fn place(owner: &ContainerFacts, container: &ContainerFacts, port: Port) -> Option<Place> {
    if owner.network == Network::Host {
        return Some(Place::OnHost(port.number));
    }
    let overlay = owner.attachments.iter().filter(|attachment| attachment.is_overlay);
    let mut ips: Vec<IpAddr> = overlay.flat_map(|attachment| attachment.ips.iter().copied()).collect();
    ips.sort_by_key(IpAddr::is_ipv6);
    if let Some(ip) = ips.first() {
        return Some(Place::At(SocketAddr::new(*ip, port.number)));
    }
    let bindings = owner.published.get(&port).or_else(|| container.published.get(&port))?;
    bindings.iter().find_map(|binding| match binding.ip {
        Some(ip) if ip.is_loopback() => None,
        Some(ip) if !ip.is_unspecified() => Some(Place::At(SocketAddr::new(ip, binding.port))),
        _ => Some(Place::OnHost(binding.port)),
    })
}

/// `registry:5000/team/httpd:2.4@sha256:…` is `httpd`.
fn image_name(image: &str) -> &str {
    let base = image.rsplit('/').next().unwrap_or(image);
    base.split(['@', ':']).next().unwrap_or(base)
}

fn docker_check(id: &InstanceId, health: &DockerHealth) -> Check {
    let state = match health.state {
        DockerHealthState::Healthy => Health::Passing,
        DockerHealthState::Starting | DockerHealthState::Unhealthy => Health::Critical,
    };
    let output = match health.state {
        DockerHealthState::Starting => "Docker's HEALTHCHECK has not passed yet".into(),
        _ => health.output.clone(),
    };
    let id = check_id("docker", id);
    Check { id, name: "Docker's HEALTHCHECK".into(), kind: "docker".into(), health: state, output }
}

#[cfg(test)]
mod tests;

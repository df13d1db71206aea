//! What the gateway of this host is told: the names of the whole cluster, and where to answer them.
//!
//! Changes are gathered for [`defaults::GATHER`]. After its start control knows little at first: nothing of Docker, nothing of the
//! others. Until it does, a gateway that still has names from before keeps those of hosts that were not heard yet ([`settling`], for
//! [`SETTLE`] at most): a restart of control takes no name out of the answers, and gives new ones at once.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use weaved_api::{
    Generation, PeerId, Problem,
    balancer::BalancerReport,
    gateway::{GatewayEvent, GatewayState, NamedContainer, NamedHost, NamedInstance, Standing},
};

use super::{requests::EXPOSED_NAME, settling};
use crate::{
    balancer_file::{BalancerFile, Loaded},
    catalogue::{self, Drain, Health, Index, InstanceView, Readiness, View},
    defaults,
    docker::watch::DockerState,
    gateway_client::{GatewayClient, GatewayNews},
    node::{ClusterStatus, Container, Heard, MemberState, MemberStatus, Node},
    serve::report::GatewayReport,
    state::Settings,
};

/// How long names from before are kept for what has not been heard of since. A member that does not answer is known to be down
/// by then.
const SETTLE: Duration = Duration::from_secs(10);
/// A host that has said good-bye may be back before this, and what is in flight there then goes on.
const RESTART_PATIENCE: Duration = Duration::from_secs(10);
/// Somebody may be heard of without an event that says so.
const SETTLING_REVIEW: Duration = Duration::from_millis(250);
/// Repairs what no event has told.
const REVIEW_INTERVAL: Duration = Duration::from_secs(5);
/// A gateway that is being started is no problem for so long.
const LOSS_GRACE: Duration = Duration::from_secs(3);

/// Tells the gateway, and remembers what it says.
#[derive(Debug)]
pub(super) struct Names {
    client: GatewayClient,
    generation: Generation,
    /// The newest state that was sent.
    told: Option<GatewayState>,
    /// What an earlier control has told, until everybody was heard.
    before: Option<GatewayState>,
    /// Of the node's wishes, of the catalogue and of switches.
    seen: Option<(u64, Index, u64)>,
    file: Loaded,
    due: Instant,
    settled_at: Instant,
    connection: Connection,
    applied: Option<Generation>,
    problems: Vec<Problem>,
    balancer: Option<BalancerReport>,
}

#[derive(Debug)]
enum Connection {
    Lost {
        reason: String,
        since: Instant,
    },
    /// It answers; whether it has names of an earlier control.
    Up {
        knows_names: bool,
    },
}

impl Names {
    pub(super) fn new(client: GatewayClient, file: Loaded, now: Instant) -> Self {
        Self {
            client,
            generation: Generation::default(),
            told: None,
            before: None,
            seen: None,
            file,
            due: now,
            settled_at: now + SETTLE,
            connection: Connection::Lost { reason: "it was not asked yet".into(), since: now },
            applied: None,
            problems: Vec::new(),
            balancer: None,
        }
    }

    /// When [`Self::poll`] wants to be called.
    pub(super) fn due(&self) -> Instant {
        self.due
    }

    /// Something may have changed.
    pub(super) fn gather(&mut self, now: Instant) {
        self.due = self.due.min(now + defaults::GATHER);
    }

    /// Takes notice of what the node wants now.
    pub(super) fn update(&mut self, node: &Node, now: Instant) {
        let switch = node.switch_version();
        // All hosts go over at one instant: a host that gathers hears of it later than it may.
        if self.seen.is_some_and(|(_, _, seen)| seen != switch) {
            self.due = now;
        }
        let seen = Some((node.wanted_version(), node.view().index, switch));
        if self.seen != seen {
            self.seen = seen;
            self.gather(now);
        }
    }

    /// The operator has written another file.
    pub(super) fn handle_file(&mut self, file: Loaded, now: Instant) {
        self.file = file;
        self.gather(now);
    }

    /// Tells the gateway, when that is due and there is something new.
    pub(super) fn poll(&mut self, node: &Node, settings: &Settings, docker: &DockerState, now: Instant) {
        if now < self.due {
            return;
        }
        self.due = now + REVIEW_INTERVAL;
        let cluster = node.status(now);
        if now >= self.settled_at || is_settled(node.view(), &cluster, docker) {
            self.before = None;
        } else if self.before.is_some() {
            self.due = now + SETTLING_REVIEW;
        } else if self.told.is_none() && !matches!(self.connection, Connection::Up { knows_names: false }) {
            self.due = self.due.min(self.settled_at);
            return;
        }
        // A host that was away must not serve what was live then.
        if self.told.is_none() && !node.knows_what_is_live(now) {
            self.due = now + defaults::GATHER;
            return;
        }
        let mut state = state(self.generation, node, &cluster, settings, &self.file.file);
        if let Some(before) = &self.before {
            state = settling::keep(before, state, &heard(node, &cluster, docker));
        }
        if self.told.as_ref() != Some(&state) {
            self.generation = Generation(self.generation.0 + 1);
            let state = GatewayState { generation: self.generation, ..state };
            self.told = Some(state.clone());
            self.client.apply(state);
        }
    }

    pub(super) fn handle(&mut self, news: GatewayNews, now: Instant) {
        match news {
            GatewayNews::Connected(known) => {
                tracing::info!("the gateway answers");
                self.connection = Connection::Up { knows_names: known.is_some() };
                if known.is_some() && self.told.is_none() {
                    self.before = self.client.last_state();
                }
                self.gather(now);
            }
            GatewayNews::Lost(reason) => {
                let since = match &self.connection {
                    Connection::Lost { since, .. } => *since,
                    Connection::Up { .. } => {
                        tracing::warn!(reason, "the gateway does not answer");
                        now
                    }
                };
                self.connection = Connection::Lost { reason, since };
                self.applied = None;
                self.problems.clear();
            }
            GatewayNews::Heard(GatewayEvent::Applied { generation }) => self.applied = Some(generation),
            GatewayNews::Heard(GatewayEvent::Problems(problems)) => self.problems = problems,
            GatewayNews::Heard(GatewayEvent::Balancer(report)) => self.balancer = Some(*report),
            GatewayNews::Heard(_) => {}
        }
    }

    /// For `status`.
    pub(super) fn report(&self, now: Instant) -> GatewayReport {
        let lost = match &self.connection {
            Connection::Lost { reason, since } if now.saturating_duration_since(*since) >= LOSS_GRACE => {
                Some(format!("names: the gateway does not answer: {reason}"))
            }
            _ => None,
        };
        let problems = self.problems.iter().map(|problem| problem.message.clone());
        GatewayReport {
            connected: matches!(self.connection, Connection::Up { .. }),
            wanted: self.generation,
            applied: self.applied,
            problems: lost.into_iter().chain(problems).chain(self.file.problem.clone()).collect(),
            balancer: self.balancer.clone(),
        }
    }
}

/// True when everybody has been heard of.
fn is_settled(view: &View, cluster: &ClusterStatus, docker: &DockerState) -> bool {
    knows_docker(docker)
        && view.readiness == Readiness::Ready
        && cluster.members.iter().all(|member| member.state != MemberState::Joining)
}

fn knows_docker(docker: &DockerState) -> bool {
    matches!(docker, DockerState::Off | DockerState::Connected { .. })
}

/// What was heard of the hosts of [`state`], in their order.
fn heard(node: &Node, cluster: &ClusterStatus, docker: &DockerState) -> Vec<Heard> {
    let own = Heard { containers: knows_docker(docker), ..node.heard_of(cluster.id) };
    std::iter::once(own).chain(cluster.members.iter().map(|member| node.heard_of(member.id))).collect()
}

fn state(
    generation: Generation,
    node: &Node,
    cluster: &ClusterStatus,
    settings: &Settings,
    file: &BalancerFile,
) -> GatewayState {
    let mut state = GatewayState {
        generation,
        zone: settings.zone.clone(),
        host: cluster.name.clone(),
        listen: node.wanted().gateway.map(|gateway| gateway.addr()),
        range: settings.range,
        hosts: Vec::new(),
        containers: Vec::new(),
        instances: Vec::new(),
        balancer: file.state(node.wanted().gateway.map(|gateway| gateway.addr()), |name| node.switch_state(name)),
    };
    let own =
        NamedHost { name: cluster.name.clone(), address: state.listen, standing: Standing::Passing, is_gone: false };
    add_host(&mut state, own, &cluster.containers);
    for member in &cluster.members {
        // The first address of a slice is its host's.
        let address = member.slice.and_then(|slice| slice.hosts().next()).map(Into::into);
        let (standing, is_gone) = (standing(member), is_gone(member));
        let host = NamedHost { name: member.name.clone(), address, standing, is_gone };
        add_host(&mut state, host, &member.containers);
    }
    let members = cluster.members.iter().map(|member| member.id);
    let hosts: BTreeMap<PeerId, u32> = std::iter::once(cluster.id).chain(members).zip(0..).collect();
    let listed = node.view().services.values().flat_map(|service| &service.instances);
    state.instances = listed
        .filter_map(|listed| Some(instance(listed, node.colours_of(&listed.instance), *hosts.get(&listed.node.id)?)))
        .collect();
    state
}

fn instance(listed: &InstanceView, colours: Vec<String>, host: u32) -> NamedInstance {
    let instance = &listed.instance;
    let standing = match (listed.node.standing, instance.drain, instance.health()) {
        // The gateway looks at the host's own state first.
        (catalogue::Standing::Suspended | catalogue::Standing::Expired, _, _) => Standing::HostReturning,
        (_, Drain::Draining, _) => Standing::Draining,
        (_, _, Health::Critical) => Standing::Critical,
        (_, _, Health::Warning) => Standing::Warning,
        (_, _, Health::Passing) => Standing::Passing,
    };
    // One without an address is at its host's on the overlay, which the gateway knows; else on the underlay.
    let elsewhere = listed.address.filter(|_| listed.node.gateway.is_none());
    NamedInstance {
        service: instance.service.clone(),
        id: instance.id.0.clone(),
        tags: instance.tags.clone(),
        colours,
        address: instance.address.or(elsewhere),
        port: instance.port,
        host,
        standing,
        weight: instance.weights().at(instance.health()),
    }
}

fn standing(member: &MemberStatus) -> Standing {
    match member.state {
        MemberState::Up if member.problem.is_some() => Standing::Quarantined,
        MemberState::Up => Standing::Passing,
        MemberState::Away => Standing::HostAway,
        MemberState::Down | MemberState::Joining => Standing::HostDown,
    }
}

/// A host that is down may be one whose control alone is away: its containers go on. It is gone when there is no session with it
/// either. One that was stopped gets the time of a restart besides.
fn is_gone(member: &MemberStatus) -> bool {
    let is_silent = match member.state {
        MemberState::Down => true,
        MemberState::Away => member.since_secs >= RESTART_PATIENCE.as_secs(),
        MemberState::Up | MemberState::Joining => false,
    };
    is_silent && member.endpoint.is_none()
}

fn add_host(state: &mut GatewayState, host: NamedHost, containers: &[Container]) {
    let index = state.hosts.len() as u32;
    state.hosts.push(host);
    // The host itself, where it is exposed, has its own name.
    let named = containers.iter().filter(|container| container.name != EXPOSED_NAME && !container.name.is_empty());
    let mut by_name: BTreeMap<&str, Vec<_>> = BTreeMap::new();
    for container in named {
        by_name.entry(&container.name).or_default().extend(container.ips.iter().copied());
    }
    state.containers.extend(by_name.into_iter().map(|(name, ips)| NamedContainer {
        name: name.to_owned(),
        ips,
        host: index,
    }));
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{daemon::tests, node::KnownPeer};

    fn names(now: Instant) -> Names {
        let dir = tempfile::tempdir().unwrap();
        let (client, _) = GatewayClient::start(&dir.path().join("gateway.sock"));
        Names::new(client, Loaded::default(), now)
    }

    #[tokio::test]
    async fn a_gateway_that_is_being_started_is_no_problem_and_one_that_stays_away_is() {
        let now = Instant::now();
        let mut names = names(now);
        names.handle(GatewayNews::Lost("no such file".into()), now);
        assert!(names.report(now).problems.is_empty());
        let later = now + LOSS_GRACE;
        names.handle(GatewayNews::Lost("connection refused".into()), later);
        assert!(names.report(later).problems[0].contains("connection refused"));
        names.handle(GatewayNews::Connected(None), later);
        assert!(names.report(later).problems.is_empty());
    }

    #[tokio::test]
    async fn while_a_host_is_missing_what_is_known_is_told_and_what_it_had_is_kept_for_a_while() {
        let dir = tempfile::tempdir().unwrap();
        let memory = tests::memory(dir.path());
        let mut persisted = tests::node(&memory, None).poll_persist().unwrap();
        let dead =
            KnownPeer { id: PeerId([9; 32]), name: "dead".into(), endpoints: vec!["192.0.2.9:6783".parse().unwrap()] };
        persisted.peers.push(dead);
        let mut node = tests::node(&memory, Some(persisted));
        let container = |name: &str| Container {
            id: name.into(),
            name: name.into(),
            mac: "02:42:0a:20:00:02".parse().unwrap(),
            ips: vec!["10.32.0.2".parse().unwrap()],
        };
        let now = Instant::now();
        let mut names = names(now);
        let mut before = state(Generation(7), &node, &node.status(now), &memory.settings, &BalancerFile::default());
        let place = before.hosts.iter().position(|host| host.name == "dead").unwrap() as u32;
        for (name, host) in [("own", 0), ("its", place)] {
            before.containers.push(NamedContainer { name: name.into(), ips: vec![], host });
        }
        names.handle(GatewayNews::Connected(Some(Generation(7))), now);
        names.before = Some(before);
        let told = |names: &Names| -> Vec<String> {
            names.told.iter().flat_map(|state| &state.containers).map(|container| container.name.clone()).collect()
        };

        // From here on what is live is known, which a switch may have changed meanwhile.
        let at = now + crate::switch::limits::CATCH_UP;
        let silent = DockerState::Absent { reason: "it was not asked yet".into() };
        names.due = at;
        names.poll(&node, &memory.settings, &silent, at);
        assert_eq!(told(&names), ["own", "its"]);
        node.handle_containers(vec![container("new")], at);
        let seen = DockerState::Connected { version: "1".into(), network: None };
        names.due = at;
        names.poll(&node, &memory.settings, &seen, at);
        assert_eq!(told(&names), ["new", "its"]);
        names.due = now + SETTLE;
        names.poll(&node, &memory.settings, &seen, now + SETTLE);
        assert_eq!(told(&names), ["new"]);
    }

    #[test]
    fn an_instance_is_as_well_as_its_checks_its_drain_and_its_node_and_its_weight_follows() {
        let facts = |standing| {
            let id = PeerId([1; 32]);
            let (name, gateway) = ("a".to_owned(), Some("10.32.0.1".parse().unwrap()));
            let (address, state, meta) = (None, MemberState::Up, BTreeMap::new());
            Arc::new(catalogue::NodeFacts { id, name, address, gateway, state, standing, meta })
        };
        let plain = catalogue::Instance {
            id: catalogue::InstanceId("a:web:80".into()),
            service: "web".into(),
            address: None,
            port: 80,
            tags: vec![],
            meta: BTreeMap::new(),
            source: catalogue::Source::Api,
            drain: Drain::Serving,
            checks: vec![],
        };
        let draining = catalogue::Instance { drain: Drain::Draining, ..plain.clone() };
        let mut weighed = plain.clone();
        catalogue::Weights { passing: 10, warning: 2 }.put(&mut weighed.meta);
        let check = |health| catalogue::Check {
            id: catalogue::CheckId("c".into()),
            name: "c".into(),
            kind: "http".into(),
            health,
            output: String::new(),
        };
        let warned = catalogue::Instance { checks: vec![check(Health::Warning)], ..weighed.clone() };
        for (shown, standing, expected, weight) in [
            (&plain, catalogue::Standing::Trusted, Standing::Passing, 1),
            (&draining, catalogue::Standing::Trusted, Standing::Draining, 1),
            (&draining, catalogue::Standing::Suspended, Standing::HostReturning, 1),
            (&weighed, catalogue::Standing::Trusted, Standing::Passing, 10),
            (&warned, catalogue::Standing::Trusted, Standing::Warning, 2),
        ] {
            let (index, node) = (Index(1), facts(standing));
            let (instance_shown, health) = (shown.clone(), node.health());
            let address = node.gateway;
            let listed =
                InstanceView { instance: instance_shown, node, address, health, created: index, modified: index };
            let named = instance(&listed, Vec::new(), 0);
            assert_eq!((named.standing, named.address, named.weight), (expected, None, weight));
        }
    }

    #[test]
    fn a_host_is_gone_when_neither_its_control_nor_its_data_plane_is_heard_and_a_restart_had_its_time() {
        let session = Some("192.0.2.1:6783".parse().unwrap());
        for (state, since_secs, endpoint, expected) in [
            (MemberState::Down, 0, None, true),
            // Its control is away; its containers go on.
            (MemberState::Down, 600, session, false),
            (MemberState::Away, 2, None, false),
            (MemberState::Away, 10, None, true),
            // Our own data plane has begun anew.
            (MemberState::Up, 600, None, false),
            (MemberState::Joining, 600, None, false),
        ] {
            let (id, name) = (PeerId([1; 32]), "b".to_owned());
            let (endpoints, containers) = (vec![], vec![]);
            let member = MemberStatus {
                id,
                name,
                state,
                since_secs,
                endpoint,
                endpoints,
                slice: None,
                containers,
                zone: "weave.local".to_owned(),
                problem: None,
            };
            assert_eq!(is_gone(&member), expected, "{state:?} for {since_secs} s");
        }
    }

    #[tokio::test]
    async fn a_problem_of_the_gateway_is_one_of_the_node_until_it_is_gone() {
        let now = Instant::now();
        let mut names = names(now);
        names.handle(GatewayNews::Connected(None), now);
        let problem = Problem { message: "port 53".into() };
        names.handle(GatewayNews::Heard(GatewayEvent::Problems(vec![problem])), now);
        assert_eq!(names.report(now).problems, ["port 53"]);
        names.handle(GatewayNews::Heard(GatewayEvent::Problems(vec![])), now);
        assert!(names.report(now).problems.is_empty());
    }
}

//! `weaved control`: one loop that owns the node and everything around it.
//!
//! ```text
//!   data plane ──▶┐                      ┌──▶ state files   (before anything is sent)
//!   verbs      ──▶│  daemon ──▶ Node ──▶ ├──▶ control bytes (through the data plane)
//!   Docker     ──▶│  (this loop)         ├──▶ desired state (gathered for 20 ms; the first at once)
//!   names      ──▶│                      ├──▶ names for the gateway
//!   gateway    ──▶│                      └──▶ log
//!   time       ──▶┘
//! ```
//!
//! INVARIANT: only this loop touches the [`Node`]; everything else sends it messages. Nothing in the loop waits for
//! anybody but the disk.

mod agent;
mod api;
mod desired;
mod gateway;
mod kv;
mod links;
mod report;
mod requests;
mod services;
mod settling;
mod switch;

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, oneshot, watch},
};
use weaved_api::{ClusterSecret, Event, LinkEnd, MacAddr, Request, RulesVerdict, gateway::GatewayEvent};
use weaved_dataplane::container_ends::ContainerEnds;
use weaved_gateway::private_socket;

use self::{
    agent::Agent,
    api::Api,
    desired::DesiredSender,
    gateway::Names,
    kv::{KvCall, KvDesk},
    links::Links,
    switch::ProgressCall,
};
pub use self::{kv::KvClient, services::Views};
use crate::{
    balancer_file::{Follower, Loaded},
    catalogue::View,
    consul::{kv::Turns, routes::Routes},
    dataplane_client::{DataplaneClient, DataplaneEvent},
    defaults,
    docker::watch::{DockerState, Listeners, RELIST_INTERVAL, Seen, Watch},
    failure::Failure,
    firewall,
    gateway_client::{GatewayClient, GatewayNews},
    host::{interfaces, process::PidFile},
    kv::{Contact, StoredRows},
    metrics::{self, serve::Sources},
    node::{Container, DockerUse, Node, NodeConfig, NodeEvent, Persisted},
    paths::{Part, Paths},
    registration::agent::AgentHandle,
    serve::{self, Call, protocol::Reply},
    state::{
        DockerChoice, Identity, SecretRecord, Settings, Store, Wishes,
        kv_file::{KvFile, Origin},
    },
    targets::{self, Resolved, Target},
};

/// How long a `status` waits for the counters of the data plane.
const STATS_PATIENCE: Duration = Duration::from_millis(500);
/// How long a `reset` waits until somebody has taken over what we owned.
const LEAVE_PATIENCE: Duration = Duration::from_secs(3);
/// A write that failed is tried again after this.
const PERSIST_RETRY: Duration = Duration::from_secs(1);

/// All that the process remembers from earlier runs.
struct Memory {
    store: Store,
    settings: Settings,
    identity: Identity,
    secret: ClusterSecret,
    wishes: Wishes,
    kv_file: KvFile,
}

struct Daemon {
    memory: Memory,
    node: Node,
    dataplane: DataplaneClient,
    desired: DesiredSender,
    names: Names,
    links: Links,
    targets: watch::Sender<Vec<Target>>,
    views: watch::Sender<Arc<View>>,
    contact: watch::Sender<Contact>,
    api: Api,
    /// Generation of iptables' rules that the data plane asks about.
    rules_question: watch::Sender<Option<u32>>,
    rules: Option<RulesVerdict>,
    docker: DockerState,
    agent: AgentHandle,
    containers: Vec<Container>,
    bridge_mac: Option<MacAddr>,
    /// None where it could not be started.
    container_ends: Option<ContainerEnds>,
    persist_problem: Option<String>,
    dropped_count: u64,
    /// Verbs that wait for counters, oldest first.
    status_calls: Vec<(oneshot::Sender<Reply>, Instant)>,
    leave_calls: Vec<(oneshot::Sender<Reply>, Instant)>,
    progress_calls: Vec<ProgressCall>,
    kv_client: KvClient,
    kv_desk: KvDesk,
    /// Why metrics are not served.
    metrics_problem: watch::Sender<Option<String>>,
    /// Where the supervisor has its pid file; None where there is none to look for.
    paths: Option<Paths>,
    started: Instant,
}

/// Where the loop hears from everybody.
struct Inputs {
    dataplane: mpsc::Receiver<DataplaneEvent>,
    gateway: mpsc::Receiver<GatewayNews>,
    calls: mpsc::Receiver<Call>,
    kv: mpsc::Receiver<KvCall>,
    docker: mpsc::Receiver<Seen>,
    resolved: mpsc::Receiver<Resolved>,
    instances: agent::Instances,
    balancer_file: watch::Receiver<Loaded>,
    rules: mpsc::Receiver<RulesVerdict>,
}

/// Runs until it is told to end.
pub fn run(paths: &Paths) -> Result<(), Failure> {
    let _pid_file = PidFile::claim(paths, Part::Control)?;
    let (memory, persisted, kv_rows) = Memory::load(paths)?;
    // Before the runtime: netlink has one of its own.
    let local_endpoints = interfaces::endpoints(&memory.settings);
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(|error| Failure::refused(format!("no random numbers: {error}")))?;
    let config = NodeConfig {
        id: memory.identity.id,
        name: memory.settings.name.clone(),
        range: memory.settings.range,
        slice_prefix: memory.settings.slice_prefix,
        zone: memory.settings.zone.clone(),
        guarded: memory.settings.guarded.clone(),
        listen_port: memory.settings.port,
        start: memory.settings.start,
        local_endpoints,
    };
    let mut node = Node::new(config, persisted, seed, Instant::now(), SystemTime::now()).map_err(Failure::refused)?;
    node.restore_kv(&kv_rows, Instant::now()).map_err(Failure::refused)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::refused(format!("cannot start control: {error}")))?;
    let outcome = runtime.block_on(assemble(paths, memory, node));
    // Names that are being looked up are not waited for.
    runtime.shutdown_background();
    outcome
}

async fn assemble(paths: &Paths, memory: Memory, node: Node) -> Result<(), Failure> {
    let socket = paths.control_socket();
    let cannot = |error: std::io::Error| Failure::refused(format!("cannot serve {}: {error}", socket.display()));
    let mut terminate = signal(SignalKind::terminate()).map_err(cannot)?;
    let (call_sender, calls) = mpsc::channel(serve::MAX_CONNECTIONS);
    let (docker_sender, docker) = mpsc::channel(1);
    let (resolved_sender, resolved) = mpsc::channel(1);
    let (rules_sender, rules) = mpsc::channel(1);
    let settings = memory.settings.clone();

    let (client, dataplane) = DataplaneClient::start(&paths.dataplane_socket());
    // What asks in this process (the HTTP APIs) gets a clone of the client.
    let (kv_client, kv) = KvClient::new();
    let told = weaved_gateway::last_state(&paths.run_dir);
    let (gateway_client, gateway) = GatewayClient::start(&paths.gateway_socket());
    let Agent { handle, instances, containers } = agent::start(&settings, &memory.store)?;
    let file = settings.balancer_file.clone().unwrap_or_else(|| paths.state_dir.join(defaults::BALANCER_FILE));
    let mut follower = Follower::new(&file, &paths.state_dir);
    // Before the gateway hears of anything: a file that is read late would look like one that says nothing.
    let loaded = follower.look().unwrap_or_default();
    let (file_sender, balancer_file) = watch::channel(loaded.clone());
    tokio::spawn(follower.follow(file_sender));
    let mut daemon = Daemon::new(memory, node, client, gateway_client, kv_client, handle);
    daemon.handle_balancer_file(loaded, Instant::now());
    daemon.paths = Some(paths.clone());
    daemon.container_ends = ContainerEnds::start(settings.container_gso, &settings.bridge)
        .inspect_err(|error| tracing::warn!(%error, "containers' super-frames are as long as they are"))
        .ok();
    tokio::spawn(targets::keep_resolved(daemon.targets.subscribe(), resolved_sender));
    let overlay = firewall::Overlay { bridge: settings.bridge.clone(), range: settings.range };
    tokio::spawn(firewall::keep_judged(overlay, daemon.rules_question.subscribe(), rules_sender));
    if settings.docker != DockerChoice::Off {
        let (bridge, range, relist_every) = (settings.bridge, settings.range, RELIST_INTERVAL);
        let no_socket = agent::no_socket(daemon.memory.wishes.docker_slice, told.as_ref());
        let watch = Watch { choice: settings.docker, bridge, range, relist_every, no_socket };
        tokio::spawn(watch.run(Listeners { seen: docker_sender.clone(), facts: containers }));
    }
    if let Some(address) = settings.metrics.address {
        let sources = Sources { calls: call_sender.clone(), paths: paths.clone() };
        tokio::spawn(metrics::serve::serve(address, sources, daemon.metrics_problem.clone()));
    }
    // That no other process serves it is ensured by the lock on the pid file.
    let verbs = private_socket::bind(&socket).map_err(cannot)?;
    tokio::spawn(serve::serve(verbs, call_sender));
    tracing::info!(version = env!("CARGO_PKG_VERSION"), name = settings.name, "control started");

    let mut inputs = Inputs { dataplane, gateway, calls, kv, docker, resolved, instances, balancer_file, rules };
    tokio::select! {
        () = daemon.run(&mut inputs) => {}
        _ = terminate.recv() => tracing::info!("control is asked to end"),
    }
    daemon.node.prepare_to_end();
    daemon.store();
    // The next one replaces it anyway; without it, verbs say at once that nobody is there.
    drop(std::fs::remove_file(&socket));
    Ok(())
}

impl Memory {
    fn load(paths: &Paths) -> Result<(Self, Option<Persisted>, StoredRows), Failure> {
        let store = Store::new(&paths.state_dir);
        let missing = || Failure::refused("this host was never launched; run `weaved launch`");
        let settings = store.load().map_err(Failure::refused)?.ok_or_else(missing)?;
        let persisted = store.load::<Persisted>().map_err(Failure::refused)?;
        // It is made before the node stores anything.
        let origin = if persisted.is_some() { Origin::Earlier } else { Origin::MayBeNew };
        let (kv_file, kv_rows) = KvFile::open(&paths.state_dir, origin).map_err(Failure::refused)?;
        let memory = Self {
            settings,
            identity: Identity::load(&store).map_err(Failure::refused)?.ok_or_else(missing)?,
            secret: store.load::<SecretRecord>().map_err(Failure::refused)?.ok_or_else(missing)?.secret,
            wishes: store.load().map_err(Failure::refused)?.unwrap_or_default(),
            kv_file,
            store,
        };
        Ok((memory, persisted, kv_rows))
    }
}

impl Daemon {
    fn new(
        memory: Memory,
        mut node: Node,
        dataplane: DataplaneClient,
        gateway: GatewayClient,
        kv_client: KvClient,
        agent: AgentHandle,
    ) -> Self {
        let parsed = memory.wishes.targets.iter().filter_map(|target| target.parse().ok()).collect();
        let docker = match memory.settings.docker {
            DockerChoice::Off => DockerState::Off,
            _ => DockerState::Absent { reason: "it was not asked yet".into() },
        };
        node.handle_docker_use(docker_use(&docker, memory.wishes.docker_slice.is_some()), Instant::now());
        let views = watch::Sender::new(Arc::clone(node.view()));
        let contact = watch::Sender::new(node.kv().contact());
        let (shown, told, keys, registrations) =
            (views.subscribe(), contact.subscribe(), kv_client.clone(), agent.clone());
        let routes =
            |token| Routes { views: shown, contact: told, keys, turns: Turns::default(), agent: registrations, token };
        let api = Api::start(&memory.settings.http, routes);
        Self {
            memory,
            node,
            dataplane,
            desired: DesiredSender::default(),
            names: Names::new(gateway, Loaded::default(), Instant::now()),
            links: Links::default(),
            targets: watch::Sender::new(parsed),
            views,
            contact,
            api,
            rules_question: watch::Sender::default(),
            rules: None,
            docker,
            agent,
            containers: Vec::new(),
            bridge_mac: None,
            container_ends: None,
            persist_problem: None,
            dropped_count: 0,
            status_calls: Vec::new(),
            leave_calls: Vec::new(),
            progress_calls: Vec::new(),
            kv_client,
            kv_desk: KvDesk::default(),
            metrics_problem: watch::Sender::default(),
            paths: None,
            started: Instant::now(),
        }
    }

    async fn run(&mut self, inputs: &mut Inputs) {
        loop {
            self.drain(Instant::now());
            let wake = tokio::time::Instant::from_std(self.next_wake(Instant::now()));
            tokio::select! {
                Some(event) = inputs.dataplane.recv() => self.handle_dataplane(event, Instant::now()),
                Some(news) = inputs.gateway.recv() => self.handle_gateway(news, Instant::now()),
                Some((request, reply)) = inputs.calls.recv() => self.handle_call(request, reply, Instant::now()),
                Some(call) = inputs.kv.recv() => self.handle_kv_call(call, &mut inputs.kv, Instant::now()),
                Some(seen) = inputs.docker.recv() => self.handle_docker(seen, Instant::now()),
                Some(resolved) = inputs.resolved.recv() => self.handle_resolved(resolved, Instant::now()),
                Ok(()) = inputs.instances.changed() => self.handle_instances(&mut inputs.instances, Instant::now()),
                Ok(()) = inputs.balancer_file.changed() => {
                    let loaded = inputs.balancer_file.borrow_and_update().clone();
                    self.handle_balancer_file(loaded, Instant::now());
                }
                Some(verdict) = inputs.rules.recv() => {
                    self.rules = Some(verdict);
                    self.desired.gather(Instant::now());
                }
                () = tokio::time::sleep_until(wake) => {}
            }
            self.handle_time(Instant::now());
        }
    }

    /// Everything that the node wants done, in the order that it asks for.
    fn drain(&mut self, now: Instant) {
        self.store();
        self.tell_contact();
        self.kv_desk.drain(&mut self.node, &mut self.memory.kv_file, now);
        while let Some((to, bytes)) = self.node.poll_send() {
            self.dropped_count += u64::from(!self.dataplane.send(Request::SendControl { to, bytes }));
        }
        while let Some(event) = self.node.poll_event() {
            log(&event);
            self.names.gather(now);
        }
        // What is wanted may rest on what is not stored yet: a slice that a crash would forget must not be used.
        if self.persist_problem.is_none() {
            self.desired.update(&self.node, now);
            if let Some(desired) = self.desired.poll(&self.node, &self.memory, self.rules.as_ref(), now) {
                self.dataplane.apply(desired);
            }
            self.publish_view();
            self.place_api();
            self.names.update(&self.node, now);
            self.names.poll(&self.node, &self.memory.settings, &self.docker, now);
        }
        self.answer_leave(now);
        self.answer_progress(now);
    }

    /// Stores what the node wants to find again after a restart.
    fn store(&mut self) {
        if let Some(persisted) = self.node.poll_persist() {
            match self.memory.store.save(&persisted) {
                Ok(()) => self.persist_problem = None,
                Err(error) => {
                    if self.persist_problem.is_none() {
                        tracing::error!(%error, "cannot store the cluster's state");
                    }
                    self.persist_problem = Some(error.to_string());
                    self.node.handle_persist_failed();
                }
            }
        }
    }

    fn next_wake(&self, now: Instant) -> Instant {
        let calls = self.status_calls.iter().chain(&self.leave_calls).map(|(_, deadline)| *deadline);
        let calls = calls.chain(self.progress_calls.iter().map(|call| call.deadline));
        let retry = self.persist_problem.as_ref().map(|_| now + PERSIST_RETRY);
        let keys = [self.kv_desk.next_deadline(), self.kv_desk.retry_at()];
        let timers = [self.node.poll_timeout(), self.desired.due(), Some(self.names.due()), retry];
        let timers = timers.into_iter().chain(keys);
        let idle = now + Duration::from_mins(1);
        timers.flatten().chain(calls).fold(idle, Instant::min)
    }

    /// After the drain: what tells the others is on its way then.
    fn answer_leave(&mut self, now: Instant) {
        let has_left = self.node.has_left();
        let line = if has_left { "left the cluster" } else { "left without a word: the cluster does not answer" };
        for (reply, _) in self.leave_calls.extract_if(.., |(_, deadline)| has_left || *deadline <= now) {
            drop(reply.send(Reply::done(line)));
        }
    }

    fn handle_time(&mut self, now: Instant) {
        self.node.handle_clock(SystemTime::now(), now);
        if self.node.poll_timeout().is_some_and(|due| due <= now) {
            self.node.handle_timeout(now);
        }
        if self.status_calls.first().is_some_and(|(_, deadline)| *deadline <= now) {
            self.answer_status(now);
        }
    }

    fn handle_dataplane(&mut self, event: DataplaneEvent, now: Instant) {
        match event {
            DataplaneEvent::Connected => {
                tracing::info!("the data plane answers");
                self.links.on_connected();
            }
            DataplaneEvent::Lost(reason) => {
                if self.links.is_connected() {
                    tracing::warn!(reason, "the data plane does not answer");
                }
                for id in self.links.on_lost(reason) {
                    self.node.handle_peer_down(id, LinkEnd::Silent, now);
                }
                self.answer_status(now);
            }
            DataplaneEvent::Heard(event) => self.handle_event(event, now),
        }
    }

    fn handle_event(&mut self, event: Event, now: Instant) {
        match event {
            Event::Hello(_) => {}
            Event::Applied { generation, problems } => {
                for problem in &problems {
                    tracing::warn!(generation = generation.0, problem = problem.message, "not all could be applied");
                }
                self.links.on_applied(generation, problems);
                self.announce_containers(now);
            }
            Event::PeerUp { id, endpoint, target } => {
                self.links.on_peer_up(id, endpoint, target);
                self.node.handle_peer_up(id, endpoint, target, now);
            }
            Event::PeerDown { id, end } => {
                self.links.on_peer_down(id);
                self.node.handle_peer_down(id, end, now);
                // Its host may be gone now, which shows nowhere else.
                self.names.gather(now);
            }
            Event::TargetFailed { endpoint, failure } => self.links.on_failure(endpoint, failure),
            Event::StrangerRefused { endpoint } => self.links.on_stranger(endpoint, now),
            Event::Control { from, bytes } => self.node.handle_control(from, &bytes, now),
            Event::RulesChanged { generation } => drop(self.rules_question.send_replace(Some(generation))),
            Event::Stats(stats) => {
                self.links.on_stats(*stats);
                self.answer_status(now);
            }
        }
    }

    fn handle_gateway(&mut self, news: GatewayNews, now: Instant) {
        match &news {
            GatewayNews::Heard(GatewayEvent::Balancer(report)) => {
                self.node.handle_balancer_report(report.as_ref().clone(), now);
            }
            GatewayNews::Lost(reason) => self.node.handle_balancer_away(reason, now),
            GatewayNews::Connected(_) | GatewayNews::Heard(_) => {}
        }
        self.names.handle(news, now);
    }

    fn handle_balancer_file(&mut self, loaded: Loaded, now: Instant) {
        self.node.handle_balanced_services(loaded.file.facts(), now);
        self.names.handle_file(loaded, now);
    }

    fn handle_docker(&mut self, seen: Seen, now: Instant) {
        if let DockerState::Connected { network: Some(_), .. } = &seen.state {
            self.note_docker_slice();
        }
        self.node.handle_docker_use(docker_use(&seen.state, self.memory.wishes.docker_slice.is_some()), now);
        self.docker = seen.state;
        self.names.gather(now);
        if let Some(containers) = seen.containers {
            self.containers = containers;
            self.announce_containers(now);
        }
    }

    /// Remembers that Docker has to do with our slice, so that the slice is not exchanged while Docker is away.
    fn note_docker_slice(&mut self) {
        let slice = self.node.status(Instant::now()).ipam.slice;
        if slice.is_some() && self.memory.wishes.docker_slice != slice {
            self.memory.wishes.docker_slice = slice;
            if let Err(error) = self.memory.store.save(&self.memory.wishes) {
                tracing::error!(%error, "cannot remember that Docker uses the slice");
            }
        }
    }

    fn handle_resolved(&mut self, resolved: Resolved, now: Instant) {
        self.links.on_resolved(resolved);
        self.node.handle_targets(self.links.addresses_of(&self.memory.wishes.targets), now);
    }

    /// Containers, and the host itself where it is exposed.
    fn announce_containers(&mut self, now: Instant) {
        let mut all = self.containers.clone();
        if self.memory.wishes.exposed
            && let Some(gateway) = self.node.wanted().gateway
        {
            self.bridge_mac = self.bridge_mac.or_else(|| interfaces::mac_of(&self.memory.settings.bridge));
            all.extend(self.bridge_mac.map(|mac| Container {
                id: String::new(),
                name: requests::EXPOSED_NAME.into(),
                mac,
                ips: vec![gateway.addr()],
            }));
        }
        self.node.handle_containers(all, now);
    }
}

/// What the node must think of Docker. One that is away may come back with what it was told.
fn docker_use(state: &DockerState, knows_slice: bool) -> DockerUse {
    match state {
        DockerState::Connected { network: Some(_), .. } => DockerUse::Used,
        _ if knows_slice => DockerUse::Used,
        _ => DockerUse::Unused,
    }
}

fn log(event: &NodeEvent) {
    match event {
        NodeEvent::SliceRefused(_)
        | NodeEvent::OverlayMismatch { .. }
        | NodeEvent::CloneSuspected
        | NodeEvent::VotersFoundAnew { .. } => {
            tracing::warn!("{event}");
        }
        _ => tracing::info!("{event}"),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::{node::Start, serve::report::StatusReport};

    /// The status of a node that was just launched and has heard of nobody. To be called within a runtime.
    pub(crate) fn status() -> StatusReport {
        let dir = tempfile::tempdir().unwrap();
        let mut daemon = daemon(dir.path());
        daemon.drain(Instant::now());
        daemon.report(Instant::now())
    }

    pub(super) fn memory(dir: &std::path::Path) -> Memory {
        let store = Store::new(dir);
        store.create().unwrap();
        let settings = Settings::first(&crate::state::settings::Requested::default(), "alpha", Start::Founder).unwrap();
        let secret = ClusterSecret([7; 32]);
        let (kv_file, _) = KvFile::open(dir, Origin::MayBeNew).unwrap();
        Memory { store, settings, identity: Identity::generate(), secret, wishes: Wishes::default(), kv_file }
    }

    pub(super) fn node(memory: &Memory, persisted: Option<Persisted>) -> Node {
        let config = NodeConfig {
            id: memory.identity.id,
            name: "alpha".into(),
            range: memory.settings.range,
            slice_prefix: memory.settings.slice_prefix,
            zone: memory.settings.zone.clone(),
            guarded: memory.settings.guarded.clone(),
            listen_port: 6783,
            start: Start::Founder,
            local_endpoints: vec![],
        };
        Node::new(config, persisted, [1; 32], Instant::now(), SystemTime::now()).unwrap()
    }

    fn daemon(dir: &std::path::Path) -> Daemon {
        let memory = memory(dir);
        let node = node(&memory, None);
        let (client, _) = DataplaneClient::start(&dir.join("dataplane.sock"));
        let (gateway, _) = GatewayClient::start(&dir.join("gateway.sock"));
        Daemon::new(memory, node, client, gateway, KvClient::new().0, AgentHandle::new().0)
    }

    #[tokio::test]
    async fn what_the_node_stores_is_read_back_by_the_next_run() {
        let dir = tempfile::tempdir().unwrap();
        let mut daemon = daemon(dir.path());
        daemon.drain(Instant::now());
        let slice = daemon.node.status(Instant::now()).ipam.slice.unwrap();
        let persisted = daemon.memory.store.load::<Persisted>().unwrap().unwrap();
        let again = node(&daemon.memory, Some(persisted));
        assert_eq!(again.status(Instant::now()).ipam.slice, Some(slice));
    }

    #[tokio::test]
    async fn a_slice_that_cannot_be_stored_is_not_used() {
        let dir = tempfile::tempdir().unwrap();
        let mut daemon = daemon(dir.path());
        // A directory in the place of the temporary file is what a test can do as root.
        let obstacle = dir.path().join(".node.json.new");
        std::fs::create_dir(&obstacle).unwrap();
        daemon.drain(Instant::now());
        assert_eq!(daemon.desired.generation().0, 0);
        assert!(daemon.report(Instant::now()).problems.iter().any(|problem| problem.contains("node.json")));
        std::fs::remove_dir(&obstacle).unwrap();
        daemon.drain(Instant::now());
        assert_eq!(daemon.desired.generation().0, 1);
        assert_eq!(daemon.persist_problem, None);
    }

    #[tokio::test]
    async fn keys_that_cannot_be_stored_are_a_problem_until_they_can() {
        let dir = tempfile::tempdir().unwrap();
        let (mut daemon, now) = (daemon(dir.path()), Instant::now());
        let (path, aside) = (dir.path().join("kv.redb"), dir.path().join("aside"));
        let has_problem = |daemon: &Daemon| daemon.report(now).problems.iter().any(|line| line.contains("kv.redb"));
        daemon.memory.kv_file.close();
        std::fs::rename(&path, &aside).unwrap();
        daemon.drain(now);
        assert!(has_problem(&daemon));
        std::fs::rename(&aside, &path).unwrap();
        daemon.drain(now);
        assert!(has_problem(&daemon), "it is not tried with each event");
        assert_eq!(daemon.kv_desk.retry_at(), Some(now + PERSIST_RETRY));
        daemon.drain(now + PERSIST_RETRY);
        assert!(!has_problem(&daemon));
    }

    #[tokio::test]
    async fn targets_are_remembered_and_an_unknown_one_cannot_be_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let mut daemon = daemon(dir.path());
        let ask = |daemon: &mut Daemon, request| {
            let (sender, mut receiver) = oneshot::channel();
            daemon.handle_call(request, sender, Instant::now());
            receiver.try_recv().unwrap()
        };
        let targets = vec!["b".to_owned(), "b:6783".to_owned()];
        let connect = crate::serve::protocol::Request::Connect {
            targets: targets.clone(),
            mode: crate::serve::protocol::ConnectMode::Add,
        };
        assert!(matches!(ask(&mut daemon, connect), Reply::Done(_)));
        assert_eq!(daemon.memory.store.load::<Wishes>().unwrap().unwrap().targets, targets);
        let forget = |target: &str| crate::serve::protocol::Request::Forget { targets: vec![target.into()] };
        assert!(matches!(ask(&mut daemon, forget("c")), Reply::Refused { reason } if reason.contains("b, b:6783")));
        assert!(matches!(ask(&mut daemon, forget("b")), Reply::Done(_)));
        assert_eq!(daemon.memory.store.load::<Wishes>().unwrap().unwrap().targets, ["b:6783"]);
    }

    #[test]
    fn a_docker_that_knows_our_slice_keeps_it_while_it_is_away() {
        let away = DockerState::Absent { reason: "restarting".into() };
        assert_eq!(docker_use(&away, false), DockerUse::Unused);
        assert_eq!(docker_use(&away, true), DockerUse::Used);
    }
}

//! A world of nodes: virtual time, a bad network, hosts that crash.
//!
//! The data plane is a rule: two hosts have a session while both run, nothing cuts them apart and one of them knows the
//! other's address; a lost session is noticed after [`SESSION_TIMEOUT`]. Control messages are lost, delayed, reordered and
//! repeated at random.
//!
//! Everything random comes from one seed, so the same seed gives the same run; [`World::fingerprint`] tells two runs apart.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use weaved::{
    catalogue::{Index, Instance, Readiness, View},
    node::{
        ClusterStatus, Container, DockerUse, Node, NodeConfig, NodeEvent, Persisted, RingStatus, SliceState, Start,
    },
};
use weaved_api::{LinkEnd, MAX_CONTROL_BYTES, MacAddr, PeerId};

/// How long a data plane takes to notice that a peer is gone.
const SESSION_TIMEOUT: Duration = Duration::from_secs(10);
/// How often the data planes look whom to connect to.
const CONNECT_EVERY: Duration = Duration::from_millis(250);

/// What the network does to control messages.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Faults {
    /// Per cent of messages that are lost.
    pub(crate) loss: u32,
    /// Per cent of messages that arrive twice.
    pub(crate) repeat: u32,
    /// Of 1,000 turns so many end in a crash of the host before anything is stored or sent.
    pub(crate) crash_permille: u32,
    /// The longest delay; delays are drawn evenly, so messages overtake each other.
    pub(crate) max_delay: Duration,
}

impl Faults {
    pub(crate) const LAN: Self = Self { loss: 1, repeat: 0, crash_permille: 0, max_delay: Duration::from_millis(2) };
    pub(crate) const BAD: Self =
        Self { loss: 20, repeat: 10, crash_permille: 0, max_delay: Duration::from_millis(150) };
}

pub(crate) struct World {
    pub(crate) now: Instant,
    pub(crate) faults: Faults,
    pub(crate) hosts: Vec<Host>,
    started_at: Instant,
    rng: StdRng,
    seed: u64,
    wire: BTreeMap<(Instant, u64), (usize, usize, Vec<u8>)>,
    sent_count: u64,
    next_connect: Instant,
    /// Pairs between which nothing passes.
    cuts: BTreeSet<(usize, usize)>,
    /// Hosts whose control process gets no core until then.
    stalls: BTreeMap<usize, Instant>,
    /// Sessions as each side sees them, with the time since which the other is gone.
    sessions: BTreeMap<(usize, usize), Option<Instant>>,
    fingerprint: u64,
}

pub(crate) struct Host {
    pub(crate) node: Option<Node>,
    pub(crate) config: NodeConfig,
    pub(crate) disk: Option<Persisted>,
    pub(crate) disk_is_full: bool,
    pub(crate) events: Vec<NodeEvent>,
    pub(crate) targets: Vec<SocketAddr>,
    pub(crate) docker: DockerUse,
    pub(crate) containers: Vec<Container>,
    /// The services that run here, whether control has looked or not.
    pub(crate) instances: Vec<Instance>,
    /// The views that the host has shown, by index, over restarts too.
    pub(crate) shown: BTreeMap<Index, Arc<View>>,
    /// What the host uses and owns, for the invariants: ring, slice, owned runs.
    claim: Claim,
}

#[derive(Clone, Debug, Default)]
struct Claim {
    ring: Option<RingStatus>,
    slice: Option<Ipv4Addr>,
    owned: Vec<(u32, u32)>,
}

pub(crate) fn address(index: usize) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, (index / 250) as u8, (index % 250) as u8 + 1)), 6783)
}

impl World {
    pub(crate) fn new(seed: u64, faults: Faults) -> Self {
        // The one clock of the tests; all that follows is relative to it.
        let started_at = Instant::now();
        Self {
            now: started_at,
            faults,
            hosts: Vec::new(),
            started_at,
            rng: StdRng::seed_from_u64(seed),
            seed,
            wire: BTreeMap::new(),
            sent_count: 0,
            next_connect: started_at,
            cuts: BTreeSet::new(),
            stalls: BTreeMap::new(),
            sessions: BTreeMap::new(),
            fingerprint: 0,
        }
    }

    /// A host that is configured but does not run yet; its id is random but for what the caller sets.
    pub(crate) fn add_host(&mut self, start: Start, targets: &[usize]) -> usize {
        let index = self.hosts.len();
        let mut id: [u8; 32] = self.rng.random();
        id[31] = index as u8;
        self.hosts.push(Host {
            node: None,
            config: NodeConfig {
                id: PeerId(id),
                name: format!("h{index}"),
                range: "10.32.0.0/12".parse().expect("a range"),
                slice_prefix: 24,
                zone: "weave.local".into(),
                guarded: vec![],
                listen_port: 6783,
                start,
                local_endpoints: vec![address(index)],
            },
            disk: None,
            disk_is_full: false,
            events: Vec::new(),
            targets: targets.iter().map(|&target| address(target)).collect(),
            docker: DockerUse::Unused,
            containers: Vec::new(),
            instances: Vec::new(),
            shown: BTreeMap::new(),
            claim: Claim::default(),
        });
        index
    }

    /// A founder and joiners that know its address.
    pub(crate) fn star(seed: u64, faults: Faults, count: usize) -> Self {
        let mut world = Self::new(seed, faults);
        for index in 0..count {
            let (start, targets): (_, &[usize]) =
                if index == 0 { (Start::Founder, &[]) } else { (Start::Joiner, &[0]) };
            let host = world.add_host(start, targets);
            world.start(host);
        }
        world
    }

    pub(crate) fn start(&mut self, index: usize) {
        let (now, wall) = (self.now, self.wall());
        let seed = self.rng.random();
        let host = &mut self.hosts[index];
        assert!(host.node.is_none(), "the host runs already");
        let mut node = Node::new(host.config.clone(), host.disk.clone(), seed, now, wall).expect("the host starts");
        node.handle_targets(host.targets.clone(), now);
        node.handle_docker_use(host.docker, now);
        node.handle_containers(host.containers.clone(), now);
        host.node = Some(node);
        self.drain(index);
    }

    /// Ends a host's control process and its data plane at once. What was not stored is lost.
    pub(crate) fn crash(&mut self, index: usize) {
        self.hosts[index].node = None;
        self.sessions.retain(|&(us, _), _| us != index);
        self.mark_gone();
    }

    /// Nothing passes between the two groups any more.
    pub(crate) fn cut(&mut self, group: &[usize]) {
        for &inside in group {
            for outside in (0..self.hosts.len()).filter(|index| !group.contains(index)) {
                self.cuts.insert(pair(inside, outside));
            }
        }
        self.mark_gone();
    }

    /// A host's control process gets no core for a while; what is sent to it waits.
    pub(crate) fn stall(&mut self, index: usize, time: Duration) {
        self.stalls.insert(index, self.now + time);
    }

    pub(crate) fn heal(&mut self) {
        self.cuts.clear();
    }

    /// Docker takes the bridge and starts containers.
    pub(crate) fn run_containers(&mut self, index: usize, count: u8) {
        let now = self.now;
        let host = &mut self.hosts[index];
        let Some(node) = &mut host.node else { return };
        let Some(gateway) = node.wanted().gateway else { return };
        let IpAddr::V4(gateway) = gateway.addr() else { unreachable!("slices are IPv4") };
        host.docker = DockerUse::Used;
        host.containers = (0..count)
            .map(|number| Container {
                id: format!("{index:06}{number:06}"),
                name: format!("h{index}-{number}"),
                mac: MacAddr([2, 0x42, 0, 0, index as u8, number]),
                ips: vec![IpAddr::V4(Ipv4Addr::from(u32::from(gateway) + 1 + u32::from(number)))],
            })
            .collect();
        node.handle_docker_use(host.docker, now);
        node.handle_containers(host.containers.clone(), now);
        self.drain(index);
    }

    /// The operator stops what runs there and lets the host go.
    pub(crate) fn leave(&mut self, index: usize) {
        self.stop_containers(index);
        let now = self.now;
        if let Some(node) = &mut self.hosts[index].node {
            node.leave(now);
            self.drain(index);
        }
    }

    /// The host gets a new identity and forgets everything; whoever knew it sees it dead.
    pub(crate) fn reset(&mut self, index: usize) {
        self.crash(index);
        self.sessions.retain(|&(us, them), _| us != index && them != index);
        let id: [u8; 32] = self.rng.random();
        let host = &mut self.hosts[index];
        host.config.id = PeerId(id);
        host.config.start = Start::Joiner;
        (host.disk, host.docker, host.containers) = (None, DockerUse::Unused, Vec::new());
        host.claim = Claim::default();
    }

    /// Docker ends its containers and no longer uses the bridge.
    pub(crate) fn stop_containers(&mut self, index: usize) {
        let now = self.now;
        let host = &mut self.hosts[index];
        (host.docker, host.containers) = (DockerUse::Unused, Vec::new());
        if let Some(node) = &mut host.node {
            node.handle_containers(Vec::new(), now);
            node.handle_docker_use(DockerUse::Unused, now);
            self.drain(index);
        }
    }

    pub(crate) fn status(&self, index: usize) -> ClusterStatus {
        self.hosts[index].node.as_ref().expect("the host runs").status(self.now)
    }

    pub(crate) fn running(&self) -> Vec<usize> {
        (0..self.hosts.len()).filter(|&index| self.hosts[index].node.is_some()).collect()
    }

    pub(crate) fn random(&mut self, below: usize) -> usize {
        self.rng.random_range(0..below)
    }

    /// Depends on every message and its time.
    pub(crate) fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    pub(crate) fn run_for(&mut self, time: Duration) {
        let until = self.now + time;
        while self.step(until) {}
        self.now = until;
    }

    /// Runs until the condition holds. Panics, with what is wrong, when that takes longer than `limit`.
    pub(crate) fn run_until(&mut self, limit: Duration, condition: impl Fn(&Self) -> Result<(), String>) -> Duration {
        let begin = self.now;
        loop {
            let Err(wrong) = condition(self) else { return self.now - begin };
            assert!(self.now - begin < limit, "WEAVED_SEED={}: not within {limit:?}: {wrong}", self.seed);
            self.run_for(Duration::from_millis(100));
        }
    }

    /// The next thing that happens before `until`, if any.
    fn step(&mut self, until: Instant) -> bool {
        let timeout = (0..self.hosts.len())
            .filter_map(|index| {
                let at = self.hosts[index].node.as_ref()?.poll_timeout()?;
                Some((self.stalls.get(&index).map_or(at, |end| at.max(*end)), index))
            })
            .min();
        let arrival = self.wire.keys().next().map(|(at, _)| *at);
        let next = [timeout.map(|(at, _)| at), arrival, Some(self.next_connect)].into_iter().flatten().min();
        let Some(next) = next.filter(|&next| next <= until) else { return false };
        self.now = self.now.max(next);
        let now = self.now;
        if arrival == Some(next) {
            let ((_, number), (from, to, bytes)) = self.wire.pop_first().expect("there is an arrival");
            if let Some(end) = self.stalls.get(&to).filter(|end| **end > now) {
                self.wire.insert((*end, number), (from, to, bytes));
                return true;
            }
            self.note(to, &bytes);
            let sender = self.hosts[from].config.id;
            if let Some(node) = &mut self.hosts[to].node
                && self.sessions.contains_key(&(to, from))
                && !self.cuts.contains(&pair(from, to))
            {
                node.handle_control(sender, &bytes, now);
                self.end_turn(to);
            }
        } else if self.next_connect == next {
            self.next_connect = next + CONNECT_EVERY;
            self.connect();
        } else if let Some((_, index)) = timeout {
            let node = self.hosts[index].node.as_mut().expect("it has a timeout");
            node.handle_timeout(now);
            self.end_turn(index);
        }
        true
    }

    fn end_turn(&mut self, index: usize) {
        if self.rng.random_range(0..1000) < self.faults.crash_permille {
            self.crash(index);
        } else {
            self.drain(index);
        }
    }

    /// The driver's turn, in the order that `Node` demands.
    pub(crate) fn drain(&mut self, index: usize) {
        let host = &mut self.hosts[index];
        let Some(node) = &mut host.node else { return };
        let mut stored = node.poll_persist();
        if host.disk_is_full && stored.take().is_some() {
            node.handle_persist_failed();
        }
        // Keys and values have simulations of their own; here they only take part in the traffic.
        while node.poll_kv_persist().is_some() {
            node.handle_kv_stored(self.now);
        }
        let has_stored = stored.is_some();
        host.disk = stored.or_else(|| host.disk.take());
        let mut sent = Vec::new();
        while let Some(message) = node.poll_send() {
            sent.push(message);
        }
        while let Some(event) = node.poll_event() {
            host.events.push(event);
        }
        if !host.disk_is_full {
            show(host, self.seed);
        }
        if has_stored {
            self.check_invariants(index);
        }
        for (to, bytes) in sent {
            assert!(bytes.len() <= MAX_CONTROL_BYTES, "a message of {} bytes", bytes.len());
            if let Some(to) = self.hosts.iter().position(|host| host.config.id == to) {
                self.transmit(index, to, &bytes);
            }
        }
    }

    fn transmit(&mut self, from: usize, to: usize, bytes: &[u8]) {
        let copies = 1 + u32::from(self.rng.random_range(0..100) < self.faults.repeat);
        for _ in 0..copies {
            let delay = Duration::from_micros(100) + self.faults.max_delay.mul_f64(self.rng.random());
            let is_lost = self.rng.random_range(0..100) < self.faults.loss;
            if !is_lost {
                self.wire.insert((self.now + delay, self.sent_count), (from, to, bytes.to_vec()));
                self.sent_count += 1;
            }
        }
    }

    /// What the data planes do: connect those who can, give up those who are gone.
    fn connect(&mut self) {
        let count = self.hosts.len();
        for us in 0..count {
            for them in (0..count).filter(|&them| them != us) {
                let is_possible = self.is_possible(us, them);
                match self.sessions.get(&(us, them)).copied() {
                    Some(Some(gone_since)) if is_possible => {
                        let _ = gone_since;
                        self.sessions.insert((us, them), None);
                    }
                    Some(Some(gone_since)) if self.now - gone_since >= SESSION_TIMEOUT => self.peer_down(us, them),
                    None if is_possible && (self.knows(us, them) || self.knows(them, us)) => self.peer_up(us, them),
                    _ => {}
                }
            }
        }
    }

    fn peer_up(&mut self, us: usize, them: usize) {
        let (now, id) = (self.now, self.hosts[them].config.id);
        self.sessions.insert((us, them), None);
        if let Some(node) = &mut self.hosts[us].node {
            node.handle_peer_up(id, address(them), None, now);
            self.drain(us);
        }
    }

    fn peer_down(&mut self, us: usize, them: usize) {
        let (now, id) = (self.now, self.hosts[them].config.id);
        self.sessions.remove(&(us, them));
        if let Some(node) = &mut self.hosts[us].node {
            node.handle_peer_down(id, LinkEnd::Silent, now);
            self.drain(us);
        }
    }

    fn is_possible(&self, us: usize, them: usize) -> bool {
        self.hosts[us].node.is_some() && self.hosts[them].node.is_some() && !self.cuts.contains(&pair(us, them))
    }

    fn knows(&self, us: usize, them: usize) -> bool {
        let Some(node) = &self.hosts[us].node else { return false };
        let wanted = node.wanted();
        wanted.targets.contains(&address(them))
            || wanted
                .peers
                .iter()
                .any(|peer| peer.id == self.hosts[them].config.id && peer.endpoints.contains(&address(them)))
    }

    fn mark_gone(&mut self) {
        let gone: Vec<_> = self.sessions.keys().copied().filter(|&(us, them)| !self.is_possible(us, them)).collect();
        for key in gone {
            self.sessions.entry(key).and_modify(|gone_since| {
                gone_since.get_or_insert(self.now);
            });
        }
    }

    fn wall(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_hours(500_000) + (self.now - self.started_at)
    }

    fn note(&mut self, to: usize, bytes: &[u8]) {
        let at = (self.now - self.started_at).as_nanos() as u64;
        for word in [at, to as u64].into_iter().chain(bytes.iter().map(|&byte| u64::from(byte))) {
            self.fingerprint = (self.fingerprint ^ word).wrapping_mul(0x0100_0000_01b3).rotate_left(7);
        }
    }

    /// INVARIANT: within one ring no two hosts own or use the same slice, running or crashed; a slice with containers
    /// does not change; a record says only what its owner wrote.
    fn check_invariants(&mut self, index: usize) {
        let status = self.status(index);
        let claim = claim_of(&status);
        let before = std::mem::replace(&mut self.hosts[index].claim, claim.clone());
        let seed = self.seed;
        for member in &status.members {
            let foreign =
                member.containers.iter().find(|container| !container.name.starts_with(&format!("{}-", member.name)));
            assert!(foreign.is_none(), "WEAVED_SEED={seed}: {foreign:?} in the record of {}", member.name);
        }
        if !self.hosts[index].containers.is_empty() && before.slice.is_some() {
            assert_eq!(claim.slice, before.slice, "WEAVED_SEED={seed}: h{index}'s slice changed under its containers");
        }
        for (other, host) in self.hosts.iter().enumerate().filter(|(other, _)| *other != index) {
            if claim.ring.is_none() || host.claim.ring != claim.ring {
                continue;
            }
            let both_use = claim.slice.is_some() && claim.slice == host.claim.slice;
            let is_told = matches!(status.ipam.state, SliceState::Refused(_));
            assert!(!both_use || is_told, "WEAVED_SEED={seed}: h{index} and h{other} both use {:?}", claim.slice);
            for (start, end) in &claim.owned {
                let overlap = host.claim.owned.iter().find(|(first, last)| first < end && start < last);
                assert!(overlap.is_none(), "WEAVED_SEED={seed}: h{index} and h{other} both own {start}..{end}");
            }
        }
    }

    pub(crate) fn has_left(&self, index: usize) -> bool {
        self.hosts[index].node.as_ref().is_some_and(Node::has_left)
    }
}

/// What the daemon does with a view that is ready.
///
/// INVARIANT: over all lives of a host its index only grows, and no index stands for two contents.
fn show(host: &mut Host, seed: u64) {
    let Some(view) = host.node.as_ref().map(Node::view).filter(|view| view.readiness == Readiness::Ready) else {
        return;
    };
    let latest = host.shown.last_key_value();
    let Some((index, shown)) = latest.filter(|(index, _)| **index >= view.index) else {
        host.shown.insert(view.index, Arc::clone(view));
        return;
    };
    assert_eq!(*index, view.index, "WEAVED_SEED={seed}: the index of {} went back", host.config.name);
    assert_eq!(shown, view, "WEAVED_SEED={seed}: {} shows two contents for one index", host.config.name);
}

fn claim_of(status: &ClusterStatus) -> Claim {
    let own = status.ipam.owners.iter().find(|owner| owner.id == status.id);
    let start = u32::from(status.ipam.range.network());
    let to_index = |first: Ipv4Addr| (u32::from(first) - start) >> (32 - status.ipam.slice_prefix);
    Claim {
        ring: status.ipam.ring,
        slice: status.ipam.slice.map(|slice| slice.network()),
        owned: own
            .into_iter()
            .flat_map(|owner| &owner.ranges)
            .map(|range| (to_index(range.first.network()), to_index(range.first.network()) + range.slice_count))
            .collect(),
    }
}

fn pair(a: usize, b: usize) -> (usize, usize) {
    (a.min(b), a.max(b))
}

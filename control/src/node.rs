//! The heart of a control process without I/O: facts in by `handle_*`, effects out by `poll_*`; time and seed are
//! arguments.
//!
//! The driver's turn: hand in what has happened, then drain in this order:
//!
//! 1. [`Node::poll_persist`]: store it durably before going on (a grant that was sent but not stored would be given
//!    twice after a crash). When storing fails, call [`Node::handle_persist_failed`].
//! 2. [`Node::poll_send`] until None.
//! 3. [`Node::poll_event`] until None.
//! 4. [`Node::wanted`], when [`Node::wanted_version`] has changed.
//! 5. [`Node::poll_timeout`]: call [`Node::handle_timeout`] then, or earlier.
//!
//! The same seed and the same calls give the same outputs.
//!
//! Inside, state machines know nothing of each other: [`Membership`] who is alive, [`Replica`] what each says of
//! itself, [`Allocator`] who owns which addresses, [`Catalogue`](crate::catalogue::Catalogue) what runs where, [`Kv`] keys,
//! [`Switches`] which version of a service is live. This module
//! brings facts to them and, after each, [`Node::refresh`] makes our own record and the wanted state follow from what they
//! know. [`Node::view`] follows a little later.

mod config;
mod drain;
mod event;
mod farewell;
mod gossip;
mod kv;
mod outbox;
mod persisted;
mod services;
mod status;
mod switch;
mod view;
mod wanted;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::SocketAddr,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use weaved_api::{LinkEnd, PeerId};

pub use config::{Container, DockerUse, NodeConfig, NodeError, Start};
pub use drain::{DrainNote, HostDrain};
pub use event::NodeEvent;
pub use persisted::{KnownPeer, Persisted};
pub use services::{GRACE, Heard};
pub use status::{
    ClusterStatus, Conflict, Counters, IpamStatus, MemberState, MemberStatus, OwnerStatus, RangeStatus, RingStatus,
    SliceState, VoterStatus, VotersStatus,
};
pub use wanted::Wanted;

use self::{
    farewell::Farewell,
    outbox::{Outbox, Storing},
    services::Services,
};
use crate::{
    catalogue::Instance,
    cluster::{
        Garbage, Incarnation, Membership, MembershipEvent, Message, Presence, Record, Replica, Version,
        limits::{MAX_EVENTS, MAX_MEMBERS, MAX_TARGETS},
    },
    ipam::{Allocator, IpamMessage, Overlay},
    kv::{Answer, Kv, KvConfig, RequestId},
    switch::Switches,
};

/// Versions that one run may use before a new floor is stored.
const VERSION_RESERVE: u64 = 1 << 32;

/// So many foreign writes of our record within [`CLONE_WINDOW`] are no accident.
const CLONE_SIGNS: usize = 4;
/// See [`CLONE_SIGNS`]. Also the least interval of the event.
const CLONE_WINDOW: Duration = Duration::from_mins(1);

/// One control process, without its sockets and files.
pub struct Node {
    config: NodeConfig,
    overlay: Overlay,
    clock: Clock,
    rng: StdRng,
    membership: Membership,
    replica: Replica,
    allocator: Allocator,
    services: Services,
    kv: Kv,
    /// None only while one of its calls is going on.
    switches: Option<Box<Switches>>,

    // What we were told.
    sessions: BTreeMap<PeerId, SocketAddr>,
    known: BTreeMap<PeerId, KnownPeer>,
    containers: Vec<Container>,
    docker: DockerUse,
    targets: Vec<SocketAddr>,
    /// None until all sources have been asked.
    instances_here: Option<Vec<Instance>>,
    /// What the system's clock is ahead of ours.
    clock_offset_us: i64,

    // What there is to do.
    has_changed: bool,
    own_changed: bool,
    rumours: BTreeSet<PeerId>,
    flush_at: Option<Instant>,
    /// When news of others are taken into account: together, because they come in swarms.
    consider_at: Option<Instant>,
    /// When members that are not stored yet will be.
    remember_at: Option<Instant>,
    repair_at: Instant,
    farewell: Option<Farewell>,

    // What the operator has been told.
    mismatched: BTreeSet<PeerId>,
    came_up: BTreeSet<PeerId>,
    not_advertised_count: usize,
    clone_signs: VecDeque<Instant>,
    /// How often the voters were founded anew, as far as it was told; None before any were known.
    anew_count: Option<u64>,

    // What goes out.
    storing: Storing,
    version_floor: Version,
    incarnation: Incarnation,
    outbox: Outbox,
    kv_answers: VecDeque<(RequestId, Answer)>,
    /// Clients that wait for a change of a key of weaved's own.
    own_requests: BTreeMap<u64, RequestId>,
    events: VecDeque<NodeEvent>,
    wanted: Wanted,
    wanted_version: u64,
    counters: Counters,
}

/// Wall-clock time, derived from the one instant at which it was told, so that it never jumps while the node runs.
#[derive(Clone, Copy)]
struct Clock {
    started_at: Instant,
    wall_us: u64,
}

impl Clock {
    fn wall_us(self, now: Instant) -> u64 {
        self.wall_us + now.saturating_duration_since(self.started_at).as_micros() as u64
    }
}

impl Node {
    /// A node as it is after a start. `seed` makes its choices repeatable; `wall` is the wall clock at `now`.
    ///
    /// Fails when the configuration cannot work or contradicts what is stored; nothing is changed then.
    pub fn new(
        config: NodeConfig,
        persisted: Option<Persisted>,
        seed: [u8; 32],
        now: Instant,
        wall: SystemTime,
    ) -> Result<Self, NodeError> {
        let overlay = config.validate()?;
        if let Some(stored) = &persisted {
            check_stored(stored, &config, overlay)?;
        }
        let wall_us = wall.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64);
        let clock = Clock { started_at: now, wall_us: wall_us.min(Version::MAX.0 / 2) };
        let mut allocator = Allocator::new(config.id, overlay, config.start);
        if !allocator.begin(persisted.as_ref().map(|stored| &stored.ipam), clock.wall_us) {
            return Err(NodeError::CorruptState);
        }
        let floor = persisted.as_ref().map_or(0, |stored| stored.version_floor.0).max(clock.wall_us);
        let incarnation = persisted.as_ref().map_or(0, |stored| stored.incarnation.0).max(clock.wall_us);
        let mut rng = StdRng::from_seed(seed);
        let membership_rng = StdRng::from_seed(rng.random());
        let first = first_record(&config, overlay, Version(floor));
        let known = persisted.into_iter().flat_map(|stored| stored.peers).take(MAX_MEMBERS);
        let mut node = Self {
            overlay,
            clock,
            membership: Membership::new(config.id, Incarnation(incarnation), membership_rng),
            replica: Replica::new(config.id, first),
            allocator,
            services: Services::new(config.id, Version(floor), clock.wall_us),
            kv: Kv::new(KvConfig::new(config.id).guarding(&config.guarded), &Vec::new(), [0; 32], now)
                .expect("an empty store is sound"),
            switches: Some(switch::new_switches(&mut rng, now)),
            sessions: BTreeMap::new(),
            known: known.map(|peer| (peer.id, peer)).collect(),
            containers: Vec::new(),
            docker: DockerUse::Unknown,
            targets: Vec::new(),
            instances_here: None,
            clock_offset_us: 0,
            has_changed: true,
            own_changed: false,
            rumours: BTreeSet::new(),
            flush_at: None,
            consider_at: None,
            remember_at: None,
            repair_at: now,
            farewell: None,
            mismatched: BTreeSet::new(),
            came_up: BTreeSet::new(),
            not_advertised_count: 0,
            clone_signs: VecDeque::new(),
            anew_count: None,
            storing: Storing::Pending,
            version_floor: floor_above(Version(floor)),
            incarnation: Incarnation(incarnation + VERSION_RESERVE),
            outbox: Outbox::default(),
            kv_answers: VecDeque::new(),
            own_requests: BTreeMap::new(),
            events: VecDeque::new(),
            wanted: Wanted::default(),
            wanted_version: 0,
            counters: Counters::default(),
            rng,
            config,
        };
        node.repair_at = node.next_repair(now);
        node.refresh(now);
        Ok(node)
    }

    /// A session with this peer is up, or its endpoint has changed. `target` is the target that led there.
    pub fn handle_peer_up(&mut self, id: PeerId, endpoint: SocketAddr, _target: Option<SocketAddr>, now: Instant) {
        if id == self.config.id || (self.sessions.len() >= MAX_MEMBERS && !self.sessions.contains_key(&id)) {
            return;
        }
        let before = self.sessions.insert(id, endpoint);
        if before.is_none() {
            self.membership.announce(id, now);
            self.send_digests(id);
            self.kv.handle_peer_up(id);
            self.send_heads(id);
            self.on_switch_peer_up(id, now);
        }
        self.has_changed |= before != Some(endpoint);
        self.refresh(now);
    }

    /// No session with this peer is left. Not taken for its death, because others may still reach it, unless it said so
    /// itself.
    pub fn handle_peer_down(&mut self, id: PeerId, end: LinkEnd, now: Instant) {
        self.has_changed |= self.sessions.remove(&id).is_some();
        self.kv.handle_peer_down(id);
        if end == LinkEnd::PeerSaidGoodbye {
            self.membership.handle_goodbye(id, now);
        }
        self.refresh(now);
    }

    /// Bytes from a peer's control half. What cannot be read is counted.
    pub fn handle_control(&mut self, from: PeerId, bytes: &[u8], now: Instant) {
        self.counters.messages_received += 1;
        match Message::decode(bytes) {
            Ok(Message::Membership(packet)) => {
                let is_good = self.farewell.is_some() || self.membership.handle_data(from, &packet, now);
                self.counters.garbage += u64::from(!is_good);
            }
            Ok(Message::Digest(digest)) => self.on_digest(from, &digest),
            Ok(Message::Delta(delta)) => self.on_delta(&delta, now),
            Ok(Message::Kv(bytes)) => self.kv.handle_message(from, &bytes, now, self.clock.wall_us(now)),
            Ok(Message::Ipam(IpamMessage::HandoverSeen)) => self.finish_farewell(now),
            Ok(Message::Ipam(message)) => {
                self.allocator.handle_message(from, message);
                self.has_changed = true;
            }
            Ok(Message::Catalogue(message)) => self.on_catalogue(from, message, now),
            Ok(Message::Switch(message)) => self.on_switch_message(from, *message, now),
            Err(Garbage::OtherVersion(_)) => self.counters.other_version += 1,
            Err(Garbage::Malformed) => self.counters.garbage += 1,
        }
        self.refresh(now);
    }

    /// All containers of this host that are on the overlay, by Docker or by `attach`.
    pub fn handle_containers(&mut self, mut containers: Vec<Container>, now: Instant) {
        containers.sort_unstable();
        self.has_changed |= containers != self.containers;
        self.containers = containers;
        self.refresh(now);
    }

    /// All addresses to connect to, resolved.
    pub fn handle_targets(&mut self, mut targets: Vec<SocketAddr>, now: Instant) {
        self.counters.targets_ignored += targets.len().saturating_sub(MAX_TARGETS) as u64;
        targets.truncate(MAX_TARGETS);
        self.has_changed |= targets != self.targets;
        self.targets = targets;
        self.refresh(now);
    }

    /// Whether Docker on this host uses the slice.
    pub fn handle_docker_use(&mut self, docker: DockerUse, now: Instant) {
        self.has_changed |= docker != self.docker;
        self.docker = docker;
        self.refresh(now);
    }

    /// Storing what [`Self::poll_persist`] gave has failed: it is given again, and until it is stored only the failure
    /// detector and digests are sent.
    pub fn handle_persist_failed(&mut self) {
        self.storing = Storing::Pending;
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.membership.handle_timeout(now);
        if self.repair_at <= now {
            self.repair(now);
            self.remember_peers();
            self.tell_who_came_up(|_| true);
            self.repair_at = self.next_repair(now);
        }
        if self.remember_at.take_if(|at| *at <= now).is_some() {
            self.remember_peers();
        }
        if self.consider_at.take_if(|at| *at <= now).is_some()
            || self.allocator.next_timeout().is_some_and(|at| at <= now)
        {
            self.has_changed = true;
        }
        if self.flush_at.take_if(|at| *at <= now).is_some() {
            self.flush();
        }
        if self.services.view_at.take_if(|at| *at <= now).is_some() {
            self.update_view(now);
        }
        self.kv.handle_timeout(now, self.clock.wall_us(now));
        self.switch_timeout(now);
        self.farewell_timeout(now);
        self.refresh(now);
    }

    /// When [`Self::handle_timeout`] wants to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let allocator = self.allocator.next_timeout().filter(|_| self.farewell.is_none());
        let farewell = self.farewell.as_ref().and_then(Farewell::next_timeout);
        let timeouts = [
            Some(self.repair_at),
            self.flush_at,
            self.consider_at,
            self.remember_at,
            self.services.view_at,
            self.membership.poll_timeout(),
            allocator,
            farewell,
            self.kv.poll_timeout(),
            self.next_switch_timeout(),
        ];
        timeouts.into_iter().flatten().min()
    }

    /// What must be stored durably before anything else is polled.
    #[must_use = "what is not stored is forgotten by a crash, and an address given away would be given twice"]
    pub fn poll_persist(&mut self) -> Option<Persisted> {
        match std::mem::replace(&mut self.storing, Storing::Done) {
            Storing::Done => None,
            Storing::Pending => Some(Persisted {
                id: self.config.id,
                overlay: self.overlay,
                ipam: self.allocator.stored(),
                version_floor: self.version_floor,
                incarnation: self.incarnation,
                peers: self.known.values().cloned().collect(),
            }),
        }
    }

    /// Bytes for a peer's control half.
    #[must_use = "the bytes are handed out once"]
    pub fn poll_send(&mut self) -> Option<(PeerId, Vec<u8>)> {
        let sent = self.outbox.pop(self.storing).or_else(|| self.poll_kv_send());
        self.counters.messages_sent += u64::from(sent.is_some());
        sent
    }

    /// Something that the operator may care about.
    #[must_use = "an event is handed out once"]
    pub fn poll_event(&mut self) -> Option<NodeEvent> {
        self.events.pop_front()
    }

    /// What the data plane should have. To be used only after what [`Self::poll_persist`] gave has been stored.
    pub fn wanted(&self) -> &Wanted {
        &self.wanted
    }

    /// Grows whenever [`Self::wanted`] changes.
    pub fn wanted_version(&self) -> u64 {
        self.wanted_version
    }

    /// Makes everything follow from what has changed. Ends each `handle_*`.
    fn refresh(&mut self, now: Instant) {
        self.drain_membership(now);
        let has_changed = std::mem::take(&mut self.has_changed);
        if has_changed {
            self.pursue_slice(now);
        }
        self.drain_allocator();
        if has_changed {
            self.tell_kv_who_is_there(now);
            self.update_own_record();
            self.update_wanted();
            if self.has_found_somebody() {
                self.remember_at.get_or_insert(now + persisted::REMEMBER_DELAY);
            }
            self.tell_who_came_up(|name_is_known| name_is_known);
            self.look_again_soon(now);
        }
        self.watch_voters();
        self.drain_switches(now);
        if self.own_changed || !self.rumours.is_empty() || self.services.catalogue.has_news() {
            self.flush_at.get_or_insert(now + gossip::GATHER);
        }
    }

    fn drain_membership(&mut self, now: Instant) {
        while let Some(event) = self.membership.poll_event() {
            self.consider_soon(now);
            match event {
                MembershipEvent::Up(id) => drop(self.came_up.insert(id)),
                MembershipEvent::Down(id) => {
                    let name = self.name_of(id);
                    self.tell_who_went(id, NodeEvent::MemberDown { id, name });
                }
                MembershipEvent::Away(id) => {
                    let name = self.name_of(id);
                    self.tell_who_went(id, NodeEvent::MemberAway { id, name });
                }
                MembershipEvent::Rejoined => {
                    let peers: Vec<_> = self.sessions.keys().copied().collect();
                    for peer in peers {
                        self.membership.announce(peer, now);
                    }
                }
            }
        }
        while let Some((to, packet)) = self.membership.poll_send() {
            self.send(to, &Message::Membership(packet));
        }
    }

    fn consider_soon(&mut self, now: Instant) {
        self.consider_at.get_or_insert(now + gossip::GATHER);
    }

    fn pursue_slice(&mut self, now: Instant) {
        self.allocator.handle_use(self.docker, !self.containers.is_empty());
        if self.farewell.is_none() {
            let neighbours = self.neighbours();
            self.allocator.pursue(&neighbours, now, self.clock.wall_us(now));
        }
    }

    /// Carries out what the allocator wants. Always, whoever called it: a change of the ring that is not noted as to be
    /// stored could be sent before it is stored.
    fn drain_allocator(&mut self) {
        if self.allocator.take_needs_storing() {
            self.storing = Storing::Pending;
        }
        while let Some(effect) = self.allocator.poll_effect() {
            self.carry_out(effect);
        }
    }

    fn update_own_record(&mut self) {
        if self.has_left() {
            return;
        }
        let (record, left_out) = self.own_record();
        self.own_changed |= self.replica.write_own(record);
        if left_out != self.not_advertised_count && left_out > 0 {
            self.emit(NodeEvent::ContainersNotAdvertised(left_out));
        }
        self.not_advertised_count = left_out;
        self.raise_version_floor();
    }

    fn raise_version_floor(&mut self) {
        let version = self.replica.own().version.max(self.services.highest_number());
        let floor = floor_above(version);
        if version.0 + VERSION_RESERVE / 2 > self.version_floor.0 && floor > self.version_floor {
            self.version_floor = floor;
            self.storing = Storing::Pending;
        }
    }

    fn update_wanted(&mut self) {
        let wanted = self.compute_wanted();
        if wanted != self.wanted || self.wanted_version == 0 {
            self.wanted = wanted;
            self.wanted_version += 1;
        }
    }

    /// A member often answers before its record is here; the event waits a little for the name.
    fn tell_who_came_up(&mut self, tell: impl Fn(bool) -> bool) {
        let (now, later): (BTreeSet<_>, BTreeSet<_>) =
            self.came_up.iter().copied().partition(|&id| tell(self.replica.record(id).is_some()));
        self.came_up = later;
        for id in now {
            self.emit(NodeEvent::MemberUp { id, name: self.name_of(id) });
        }
    }

    /// Who was never told to be up needs not be told to be down, and who has left was told to have.
    fn tell_who_went(&mut self, id: PeerId, event: NodeEvent) {
        let was_told = !self.came_up.remove(&id);
        let has_left = self.replica.record(id).is_some_and(|record| record.presence == Presence::Left);
        if was_told && !has_left {
            self.emit(event);
        }
    }

    /// Our record was written by somebody else. Once may be our own earlier life; often is a clone.
    fn on_foreign_own(&mut self, now: Instant) {
        self.counters.own_record_foreign += 1;
        self.own_changed = true;
        self.raise_version_floor();
        self.clone_signs.retain(|at| now.saturating_duration_since(*at) < CLONE_WINDOW);
        self.clone_signs.push_back(now);
        if self.clone_signs.len() == CLONE_SIGNS {
            self.emit(NodeEvent::CloneSuspected);
        }
        self.clone_signs.truncate(CLONE_SIGNS);
    }

    fn emit(&mut self, event: NodeEvent) {
        if self.events.len() >= MAX_EVENTS {
            self.events.pop_front();
            self.counters.events_dropped += 1;
        }
        self.events.push_back(event);
    }
}

fn check_stored(stored: &Persisted, config: &NodeConfig, overlay: Overlay) -> Result<(), NodeError> {
    if stored.id != config.id {
        return Err(NodeError::OtherIdentity { stored: stored.id });
    }
    if stored.overlay != overlay {
        return Err(NodeError::OtherOverlay { stored: stored.overlay, configured: overlay });
    }
    let is_sane = stored.version_floor < Version::MAX && stored.incarnation.0 < Version::MAX.0;
    is_sane.then_some(()).ok_or(NodeError::CorruptState)
}

/// The floor that is stored when so many versions are in use. However high somebody has pushed us, the next run can begin with it.
fn floor_above(version: Version) -> Version {
    Version((version.0 + VERSION_RESERVE).min(Version::MAX.0 - 1))
}

/// Our record before anything is known.
fn first_record(config: &NodeConfig, overlay: Overlay, version: Version) -> Record {
    Record {
        version,
        presence: Presence::Member,
        name: String::new(),
        zone: config.zone.clone(),
        overlay,
        seed: None,
        slice: None,
        endpoints: config.local_endpoints.clone(),
        observed: Vec::new(),
        containers: Vec::new(),
        instances_from: version,
    }
}

//! The slow path: everything that changes state. Exactly one per process, without I/O.
//!
//! Four kinds of methods, as in quinn-proto: `handle_*` takes something in, `poll_*` hands effects out until `None`,
//! [`Router::poll_timeout`] says when [`Router::handle_timeout`] wants to be called, the rest look. After any
//! `handle_*` the shell drains in this order: [`Router::poll_table`] first (a session must be able to receive before
//! its peer learns of it), then transmits, frames, events. Time given must not go back.
//!
//! The mechanisms live in files of their own and are told facts: `peer/` (dials, links, path MTU), `fib/`, `noise/`.
//! Here they are tied together: `handshake.rs`, `traffic.rs` (records and sightings), `farewell.rs`, `desired.rs`,
//! `snapshot.rs`, `status.rs`.
//!
//! INVARIANT: state changes only on authenticated messages, on the operator's wish and by time.

mod desired;
mod farewell;
mod handshake;
mod snapshot;
mod status;
mod traffic;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use weaved_api::{ClusterSecret, DesiredState, Event, LinkEnd, MacAddr, PeerId, SecretKey, Switch};

use self::farewell::Goodbye;
use crate::{
    fib::Fib,
    forward::{DropReason, ForwardingTable, Punt, Sends, WorkerStats},
    noise::{Announcement, AwaitingFinish, Gate, StaticKeys, UnixMicros},
    peer::{Dial, GsoNews, LinkDue, Peer},
    rng::Rng,
    wire::data::ReceiverIndex,
};

/// How often addresses age: [`crate::fib::AGE_LIMIT`] of these without a sighting and an address is forgotten.
const FIB_TICK: Duration = Duration::from_secs(30);

/// Least time between two tables that differ only in learned addresses.
const LEARN_INTERVAL: Duration = Duration::from_millis(10);

/// Strangers are told to control no more often than this.
const STRANGER_INTERVAL: Duration = Duration::from_secs(1);

/// How long a responder waits for the third message.
const HALF_OPEN_TIMEOUT: Duration = Duration::from_secs(10);

/// What a router is made with.
pub struct RouterConfig {
    /// This node's private key.
    pub identity: SecretKey,
    /// The pre-shared key of the cluster.
    pub cluster_secret: ClusterSecret,
    /// What the handshake tells about this node.
    pub announcement: Announcement,
    /// All randomness comes from here.
    pub seed: [u8; 32],
    /// The wall clock at `started_at`; orders this node's handshakes, over restarts too.
    pub wall_clock: SystemTime,
    /// The monotonic clock at the same moment.
    pub started_at: Instant,
}

/// What a transmit carries: tells what it means that it cannot be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cargo {
    /// What fits any path: a handshake message, a sign of life, a farewell.
    Small,
    /// Records for this peer, in datagrams that its path is known to carry.
    Records(PeerId),
    /// A longer datagram for this peer, to find out if its path carries that.
    Search(PeerId),
}

/// Datagrams to be sent: one `UDP_SEGMENT` send when there are several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// Where to.
    pub to: SocketAddr,
    /// The address of ours to send from; none leaves it to the kernel.
    pub source: Option<IpAddr>,
    /// Whether they leave in one.
    pub sends: Sends,
    /// The datagrams, one after the other.
    pub datagrams: Vec<u8>,
    /// Length of each but the last.
    pub segment_len: usize,
    /// What they are.
    pub cargo: Cargo,
}

/// A responder's half of a handshake.
struct HalfOpen {
    awaiting: AwaitingFinish,
    since: Instant,
}

/// An address to connect to, whoever is there.
struct Target {
    dial: Dial,
    /// Who was found there; while it is connected, nothing is attempted.
    peer: Option<PeerId>,
}

/// Who a dial belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum DialKey {
    Peer(PeerId),
    Target(SocketAddr),
}

/// The slow path.
pub struct Router {
    keys: StaticKeys,
    announcement: Announcement,
    rng: Rng,
    started_at: Instant,
    wall_clock: UnixMicros,
    last_timestamp: UnixMicros,
    gate: Gate,
    peers: BTreeMap<PeerId, Peer>,
    targets: BTreeMap<SocketAddr, Target>,
    half_open: BTreeMap<ReceiverIndex, HalfOpen>,
    course: Course,
    /// Sessions that have ended here and whose other ends are being told.
    goodbyes: Vec<Goodbye>,
    fib: Fib,
    /// Peers that no frames are exchanged with.
    quarantined: BTreeSet<PeerId>,
    /// Address → MAC, told by control.
    neighbours: BTreeMap<IpAddr, MacAddr>,
    workers: Vec<Arc<WorkerStats>>,
    stats: Arc<WorkerStats>,
    table_change: TableChange,
    table_at: Instant,
    fib_tick_at: Instant,
    stranger_told_at: Option<Instant>,
    /// The address of ours that the handshake message in hand was sent to.
    asked_at: Option<IpAddr>,
    transmits: VecDeque<Transmit>,
    frames: VecDeque<Vec<u8>>,
    events: VecDeque<Event>,
    /// What the operator wants of sends of several datagrams.
    udp_gso: Switch,
    /// What was found out about such sends, and to whom.
    gso_news: VecDeque<(String, GsoNews)>,
}

/// Whether the router is to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Course {
    Running,
    /// It takes nothing in any more and only says good-bye.
    Ending,
}

/// Whether the workers' table is out of date.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum TableChange {
    None,
    /// Only learned addresses: may wait for [`LEARN_INTERVAL`].
    Learned,
    /// Sessions or paths: must not wait.
    Urgent,
}

impl Router {
    /// A router that knows nobody yet. `workers` are the counters of the other threads, for [`Self::stats`].
    pub fn new(config: &RouterConfig, workers: Vec<Arc<WorkerStats>>) -> Self {
        let mut rng = Rng::new(config.seed);
        let now = config.started_at;
        let wall_clock = UnixMicros::from_system_time(config.wall_clock);
        Self {
            keys: StaticKeys::new(&config.identity, &config.cluster_secret),
            announcement: config.announcement,
            gate: Gate::new(&mut rng, now),
            rng,
            started_at: now,
            wall_clock,
            last_timestamp: wall_clock,
            peers: BTreeMap::new(),
            targets: BTreeMap::new(),
            half_open: BTreeMap::new(),
            course: Course::Running,
            goodbyes: Vec::new(),
            fib: Fib::default(),
            quarantined: BTreeSet::new(),
            neighbours: BTreeMap::new(),
            workers,
            stats: Arc::default(),
            table_change: TableChange::Urgent,
            table_at: now,
            fib_tick_at: now + FIB_TICK,
            stranger_told_at: None,
            asked_at: None,
            transmits: VecDeque::new(),
            frames: VecDeque::new(),
            events: VecDeque::new(),
            udp_gso: Switch::Auto,
            gso_news: VecDeque::new(),
        }
    }

    /// This node's own id.
    pub fn id(&self) -> PeerId {
        self.keys.id()
    }

    /// Makes peers, targets and neighbours what control wants.
    pub fn handle_desired_state(&mut self, desired: &DesiredState, now: Instant) {
        if self.course == Course::Running {
            self.apply(desired, now);
        }
    }

    /// Takes what a worker could not decide.
    pub fn handle_punt(&mut self, punt: Punt, now: Instant) {
        if self.course == Course::Ending {
            return;
        }
        match punt {
            Punt::Handshake { from, asked_at, datagram } => {
                self.asked_at = asked_at;
                self.on_handshake(from, datagram.as_slice(), now);
                self.asked_at = None;
            }
            Punt::Confirmed { index, from } => self.on_confirmed(index, from, now),
            Punt::Roamed { peer, index, from } => self.on_roamed(peer, index, from, now),
            Punt::Sighted { mac, port } => self.on_sighted(mac, port),
            Punt::Question(frame) => self.on_question(frame.as_slice()),
            Punt::Record { from, record } => self.on_record(from, record, now),
            Punt::TooBig { peer, datagram_len } => self.on_too_big(peer, datagram_len, now),
        }
    }

    /// Carries control bytes to a peer. With no session they are dropped and counted.
    pub fn handle_send_control(&mut self, to: PeerId, bytes: &[u8]) {
        self.send_control(to, bytes);
    }

    /// So many datagrams of a transmit have not left, for this reason: the shell could not send them.
    pub fn handle_unsent(&mut self, transmit: &Transmit, count: u64, reason: DropReason, now: Instant) {
        self.on_unsent(transmit, count, reason, now);
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        if now >= self.fib_tick_at {
            self.fib_tick_at = now + FIB_TICK;
            self.fib.age();
            self.mark(TableChange::Learned);
        }
        self.half_open.retain(|_, half| now.saturating_duration_since(half.since) < HALF_OPEN_TIMEOUT);
        self.drive_links(now);
        self.drive_dismissals(now);
        self.drive_dials(now);
        self.drive_goodbyes(now);
    }

    /// When [`Self::handle_timeout`] wants to be called.
    pub fn poll_timeout(&self) -> Instant {
        let peers = self.peers.values().filter_map(Peer::next_timeout);
        let targets = self.targets.values().filter(|target| !self.is_reached(target));
        let targets = targets.map(|target| target.dial.next_timeout());
        let learned = (self.table_change == TableChange::Learned).then(|| self.table_at + LEARN_INTERVAL);
        let goodbyes = self.goodbyes.iter().map(Goodbye::next_timeout);
        peers.chain(targets).chain(learned).chain(goodbyes).fold(self.fib_tick_at, Instant::min)
    }

    /// The table that the workers are to use from here on, when it has changed.
    pub fn poll_table(&mut self, now: Instant) -> Option<Arc<ForwardingTable>> {
        let is_due = match self.table_change {
            TableChange::None => false,
            TableChange::Learned => now >= self.table_at + LEARN_INTERVAL,
            TableChange::Urgent => true,
        };
        is_due.then(|| {
            self.table_change = TableChange::None;
            self.table_at = now;
            Arc::new(self.snapshot())
        })
    }

    /// The next datagrams to be sent.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    /// The next frame for the TAP; its checksums are complete.
    pub fn poll_frame(&mut self) -> Option<Vec<u8>> {
        self.frames.pop_front()
    }

    /// The next event for control.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// What was found out last about sends of several datagrams to a peer, which is named; for the log.
    pub fn poll_gso_news(&mut self) -> Option<(String, GsoNews)> {
        self.gso_news.pop_front()
    }

    /// Lets every link's probes, rekeying and end happen when they are due.
    fn drive_links(&mut self, now: Instant) {
        let due: Vec<PeerId> = self.peers.values().filter(|peer| is_link_due(peer, now)).map(|peer| peer.id).collect();
        for id in due {
            let Some(peer) = self.peers.get_mut(&id) else { continue };
            let Some(link) = peer.link.as_mut() else { continue };
            match link.handle_timeout(now) {
                LinkDue::Fine => {}
                LinkDue::Rekey => peer.ensure_dial(now),
                LinkDue::TableChanged => self.mark(TableChange::Urgent),
                LinkDue::Dead => self.disconnect(id, LinkEnd::Silent, now),
            }
            self.send_probes(id, now);
        }
    }

    /// The peer is gone: its addresses too. Attempts to reach it again start if control wants it.
    fn disconnect(&mut self, id: PeerId, end: LinkEnd, now: Instant) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if peer.link.take().is_none() {
            return;
        }
        peer.dial = None;
        peer.ended = Some(end);
        if peer.is_wanted() {
            peer.ensure_dial(now);
        } else {
            self.peers.remove(&id);
        }
        for target in self.targets.values_mut().filter(|target| target.peer == Some(id)) {
            target.dial = Dial::new(target.dial.to, now);
            target.peer = None;
        }
        self.fib.forget_peer(id);
        self.mark(TableChange::Urgent);
        self.events.push_back(Event::PeerDown { id, end });
    }

    fn mark(&mut self, change: TableChange) {
        self.table_change = self.table_change.max(change);
    }

    fn count_drop(&self, reason: DropReason) {
        self.stats.count_drop(reason);
    }

    fn is_connected(&self, id: PeerId) -> bool {
        self.peers.get(&id).is_some_and(|peer| peer.link.is_some())
    }

    fn is_reached(&self, target: &Target) -> bool {
        target.peer.is_some_and(|id| self.is_connected(id))
    }
}

fn is_link_due(peer: &Peer, now: Instant) -> bool {
    peer.link.as_ref().is_some_and(|link| link.next_timeout() <= now)
}

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

mod config;
mod event;
mod persisted;
mod status;
mod wanted;

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    time::{Instant, SystemTime},
};

use weaved_api::{PeerConfig, PeerId};

pub use config::{Container, DockerUse, NodeConfig, NodeError, Start};
pub use event::NodeEvent;
pub use persisted::{KnownPeer, Persisted};
pub use status::{
    ClusterStatus, Conflict, Counters, IpamStatus, MemberState, MemberStatus, OwnerStatus, RangeStatus, SliceState,
};
pub use wanted::Wanted;

use crate::ipam::{Overlay, SliceIndex};

/// One control process, without its sockets and files.
pub struct Node {
    config: NodeConfig,
    overlay: Overlay,
    slice: Option<SliceIndex>,
    docker: DockerUse,
    containers: Vec<Container>,
    sessions: BTreeMap<PeerId, SocketAddr>,
    persist: Option<Persisted>,
    events: VecDeque<NodeEvent>,
    wanted: Wanted,
    wanted_version: u64,
}

impl Node {
    /// A node as it is after a start. `seed` makes its choices repeatable; `wall` is the wall clock at `now`.
    ///
    /// Fails when the configuration cannot work or contradicts what is stored; nothing is changed then.
    pub fn new(
        config: NodeConfig,
        persisted: Option<Persisted>,
        seed: [u8; 32],
        _now: Instant,
        _wall: SystemTime,
    ) -> Result<Self, NodeError> {
        let overlay = config.validate()?;
        let slice = match persisted {
            Some(stored) if stored.id != config.id => return Err(NodeError::OtherIdentity { stored: stored.id }),
            Some(stored) if stored.overlay != overlay => {
                return Err(NodeError::OtherOverlay { stored: stored.overlay, configured: overlay });
            }
            Some(stored) => stored.slice,
            None if config.start == Start::Founder => Some(SliceIndex(u32::from(seed[0]) % overlay.slice_count())),
            None => None,
        };
        let mut node = Self {
            overlay,
            slice,
            docker: DockerUse::Unknown,
            containers: Vec::new(),
            sessions: BTreeMap::new(),
            persist: Some(Persisted { id: config.id, overlay, slice, peers: Vec::new() }),
            events: slice.map(|slice| NodeEvent::SliceAssigned(overlay.slice(slice))).into_iter().collect(),
            wanted: Wanted { gateway: slice.map(|slice| overlay.gateway(slice).into()), ..Wanted::default() },
            wanted_version: 1,
            config,
        };
        node.update_wanted();
        Ok(node)
    }

    /// A session with this peer is up, or its endpoint has changed.
    pub fn handle_peer_up(&mut self, id: PeerId, endpoint: SocketAddr, _target: Option<SocketAddr>, _now: Instant) {
        self.sessions.insert(id, endpoint);
        self.update_wanted();
    }

    /// No session with this peer is left.
    pub fn handle_peer_down(&mut self, id: PeerId, _now: Instant) {
        self.sessions.remove(&id);
    }

    /// Bytes from a peer's control half. What cannot be read is counted.
    pub fn handle_control(&mut self, _from: PeerId, _bytes: &[u8], _now: Instant) {}

    /// All containers of this host that are on the overlay, by Docker or by `attach`.
    pub fn handle_containers(&mut self, containers: Vec<Container>, _now: Instant) {
        self.containers = containers;
    }

    /// All addresses to connect to, resolved.
    pub fn handle_targets(&mut self, targets: Vec<SocketAddr>, _now: Instant) {
        if self.wanted.targets != targets {
            self.wanted.targets = targets;
            self.wanted_version += 1;
        }
    }

    /// Whether Docker on this host uses the slice.
    pub fn handle_docker_use(&mut self, docker: DockerUse, _now: Instant) {
        self.docker = docker;
    }

    /// Storing what [`Self::poll_persist`] gave has failed: it is given again, and nothing that depends on it is sent.
    pub fn handle_persist_failed(&mut self) {}

    /// Time has passed.
    pub fn handle_timeout(&mut self, _now: Instant) {}

    /// When [`Self::handle_timeout`] wants to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        None
    }

    /// What must be stored durably before anything else is polled.
    #[must_use = "what is not stored is forgotten by a crash, and an address given away would be given twice"]
    pub fn poll_persist(&mut self) -> Option<Persisted> {
        self.persist.take()
    }

    /// Bytes for a peer's control half.
    #[must_use = "the bytes are handed out once"]
    pub fn poll_send(&mut self) -> Option<(PeerId, Vec<u8>)> {
        None
    }

    /// Something that the operator may care about.
    #[must_use = "an event is handed out once"]
    pub fn poll_event(&mut self) -> Option<NodeEvent> {
        self.events.pop_front()
    }

    /// What the data plane should have.
    pub fn wanted(&self) -> &Wanted {
        &self.wanted
    }

    /// Grows whenever [`Self::wanted`] changes.
    pub fn wanted_version(&self) -> u64 {
        self.wanted_version
    }

    /// The cluster as this node sees it.
    pub fn status(&self, _now: Instant) -> ClusterStatus {
        ClusterStatus {
            id: self.config.id,
            name: self.config.name.clone(),
            containers: self.containers.clone(),
            docker: self.docker,
            members: Vec::new(),
            ipam: IpamStatus {
                range: self.overlay.range(),
                slice_prefix: self.config.slice_prefix,
                slice: self.slice.map(|slice| self.overlay.slice(slice)),
                state: match self.slice {
                    Some(_) => SliceState::Ready,
                    None => SliceState::Waiting("for a member to connect to".into()),
                },
                owners: Vec::new(),
            },
            targets: self.wanted.targets.clone(),
            counters: Counters::default(),
        }
    }

    /// Begins to leave the cluster for good: gives our ranges to a live member and tells the others. Go on driving the
    /// node until [`Self::has_left`], or for some two seconds.
    pub fn leave(&mut self, _now: Instant) {}

    /// True when a member has taken over what we owned, or there is nobody to take it over.
    pub fn has_left(&self) -> bool {
        true
    }

    fn update_wanted(&mut self) {
        let peers: Vec<_> = self
            .sessions
            .iter()
            .map(|(&id, &endpoint)| PeerConfig { id, name: String::new(), endpoints: vec![endpoint] })
            .collect();
        if peers != self.wanted.peers {
            self.wanted.peers = peers;
            self.wanted_version += 1;
        }
    }
}

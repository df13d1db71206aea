//! One weaved of the simulated network: a router, one worker and a TAP that remembers what was written to it.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use weaved_api::{
    CipherChoice, ClusterSecret, DesiredState, Event, Generation, Neighbour, OffloadSwitches, Overlay, PeerConfig,
    PeerId, SecretKey, SourcePorts, WorkerCount,
};

use crate::{
    forward::{Datagrams, Decapsulator, Delivery, Encapsulator, ForwardingTable, Outcome, WorkerStats},
    noise::{Announcement, Cipher, OUR_VERSIONS, peer_id_of},
    offload::vnet_hdr::VnetHeader,
    router::{Cargo, Router, RouterConfig, Transmit},
    wire::{data::Lane, ecn::Ecn},
};

/// Workers that a session has lanes for. A node has one; tests may put others beside it.
const WORKER_COUNT: u8 = 2;

/// A simulated host.
pub struct Node {
    /// Its address on the underlay.
    pub address: SocketAddr,
    /// Its id.
    pub id: PeerId,
    /// The slow path.
    pub router: Router,
    /// Counters of the worker.
    pub stats: Arc<WorkerStats>,
    /// Frames written to the TAP, with their offload request.
    pub delivered: Vec<(VnetHeader, Vec<u8>)>,
    /// Events for control.
    pub events: Vec<Event>,
    /// What control wants; changed by the test and applied by [`Node::apply`].
    pub desired: DesiredState,
    encapsulator: Encapsulator,
    decapsulator: Decapsulator,
    table: Arc<ForwardingTable>,
}

impl Node {
    /// A node whose key is made from `number`, at an address of its own.
    pub fn new(number: u16, seed: u64, secret: ClusterSecret, wall_clock: SystemTime, now: Instant) -> Self {
        let mut key = [0x5a; 32];
        // Not at the ends: X25519 clamps bits there.
        key[8..10].copy_from_slice(&number.to_le_bytes());
        let identity = SecretKey(key);
        let mut router_seed = [0; 32];
        router_seed[..8].copy_from_slice(&seed.to_le_bytes());
        router_seed[8..10].copy_from_slice(&number.to_le_bytes());
        let stats = Arc::<WorkerStats>::default();
        let [high, low] = number.to_be_bytes();
        let address = SocketAddr::from(([192, 168, high, low], 6783));
        let config = RouterConfig {
            identity: identity.clone(),
            cluster_secret: secret.clone(),
            announcement: Announcement {
                ciphers: Cipher::Aegis256X4.and_slower(),
                lane_count: 1 + WORKER_COUNT,
                versions: OUR_VERSIONS,
            },
            seed: router_seed,
            wall_clock,
            started_at: now,
        };
        Self {
            address,
            id: peer_id_of(&identity),
            router: Router::new(&config, vec![stats.clone()]),
            delivered: Vec::new(),
            events: Vec::new(),
            desired: DesiredState {
                generation: Generation(1),
                identity,
                cluster_secret: secret,
                listen_port: address.port(),
                overlay: Overlay { bridge: "weave".into(), tap: "weave-tap".into(), mtu: 1500, gateway: None },
                peers: Vec::new(),
                targets: Vec::new(),
                neighbours: Vec::new(),
                quarantined: Vec::new(),
                offload: OffloadSwitches::default(),
                cipher: CipherChoice::Auto,
                workers: WorkerCount::Auto,
                source_ports: SourcePorts::default(),
                bridge_rules: None,
            },
            encapsulator: Encapsulator::new(Lane(1), stats.clone(), now),
            decapsulator: Decapsulator::new(stats.clone()),
            table: Arc::default(),
            stats,
        }
    }

    /// Wants a session with this peer, at this address.
    pub fn want_peer(&mut self, id: PeerId, endpoint: SocketAddr) {
        self.desired.peers.push(PeerConfig { id, name: String::new(), endpoints: vec![endpoint] });
    }

    /// Knows a container of another host.
    pub fn want_neighbour(&mut self, neighbour: Neighbour) {
        self.desired.neighbours.push(neighbour);
    }

    /// Applies [`Node::desired`].
    pub fn apply(&mut self, now: Instant) {
        self.router.handle_desired_state(&self.desired.clone(), now);
    }

    /// Whether there is a session with this peer.
    pub fn is_connected(&self, id: PeerId) -> bool {
        self.table.peers.iter().any(|peer| peer.id == id)
    }

    /// The table in force.
    pub fn table(&self) -> &ForwardingTable {
        &self.table
    }

    /// A container of this host sends frames in one burst. Returns the datagrams that leave.
    pub fn send_frames(&mut self, frames: &[(VnetHeader, Vec<u8>)], now: Instant) -> Vec<Transmit> {
        let mut sends = Vec::new();
        self.encapsulator.begin_batch(&self.table, now);
        for (vnet, frame) in frames {
            self.encapsulator.frame_buffer()[..frame.len()].copy_from_slice(frame);
            let punt = self.encapsulator.push(*vnet, frame.len());
            drain(&mut self.encapsulator, &mut sends);
            if let Some(punt) = punt {
                self.router.handle_punt(punt, now);
            }
        }
        self.encapsulator.end_batch();
        drain(&mut self.encapsulator, &mut sends);
        sends
    }

    /// A datagram has come that was sent to this address of the node.
    pub fn handle_datagram(&mut self, from: SocketAddr, to: SocketAddr, bytes: &[u8], now: Instant) {
        self.decapsulator.begin_batch(&self.table);
        let router = &mut self.router;
        let datagrams = Datagrams { from, bytes, segment_len: bytes.len(), ecn: Ecn::NotEct };
        self.decapsulator.handle(datagrams, |punt| router.handle_punt(punt.received_at(Some(to.ip())), now));
        self.take_outcomes(now);
    }

    /// The socket has nothing more for the moment.
    pub fn on_socket_empty(&mut self, now: Instant) {
        self.decapsulator.begin_batch(&self.table);
        self.decapsulator.on_socket_empty();
        self.take_outcomes(now);
    }

    /// How long the socket may be silent before [`Self::on_silence`] wants to be called.
    pub fn patience(&self) -> Option<Duration> {
        self.decapsulator.patience()
    }

    /// The socket has been silent for that long.
    pub fn on_silence(&mut self, now: Instant) {
        self.decapsulator.begin_batch(&self.table);
        self.decapsulator.on_silence();
        self.take_outcomes(now);
    }

    fn take_outcomes(&mut self, now: Instant) {
        while let Some(outcome) = self.decapsulator.poll() {
            match outcome {
                Outcome::Deliver(Delivery { vnet, frame, sighting }) => {
                    self.delivered.push((vnet, frame.to_vec()));
                    sighting.into_iter().for_each(|punt| self.router.handle_punt(punt, now));
                }
                Outcome::Punt(punt) => self.router.handle_punt(punt, now),
                Outcome::Dropped => {}
            }
        }
    }

    /// Lets the router act. Returns the datagrams that leave.
    pub fn drive(&mut self, now: Instant) -> Vec<Transmit> {
        if self.router.poll_timeout() <= now {
            self.router.handle_timeout(now);
        }
        if let Some(table) = self.router.poll_table(now) {
            self.table = table;
        }
        while let Some(frame) = self.router.poll_frame() {
            self.delivered.push((VnetHeader::default(), frame));
        }
        self.events.extend(std::iter::from_fn(|| self.router.poll_event()));
        std::iter::from_fn(|| self.router.poll_transmit()).collect()
    }
}

fn drain(encapsulator: &mut Encapsulator, sends: &mut Vec<Transmit>) {
    let table = encapsulator.table().clone();
    while let Some(outgoing) = encapsulator.poll_outgoing() {
        sends.push(Transmit {
            to: outgoing.to,
            source: outgoing.source,
            sends: outgoing.sends,
            datagrams: outgoing.datagrams.to_vec(),
            segment_len: outgoing.segment_len,
            cargo: Cargo::Records(table.peer(outgoing.slot).id),
        });
    }
}

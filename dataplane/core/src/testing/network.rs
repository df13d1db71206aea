//! Nodes joined by an underlay in virtual time.
//!
//! Datagrams and timers are handled strictly in the order of their times; nothing else makes time pass. Each
//! datagram of a send travels alone, so conditions act on datagrams as a real path does.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::{Duration, Instant, SystemTime},
};

use weaved_api::ClusterSecret;

use super::{Conditions, Node, Wiretap, wiretap::Observed};
use crate::{
    forward::{DropReason, Sends},
    offload::vnet_hdr::VnetHeader,
    rng::Rng,
    router::Transmit,
};

struct InFlight {
    from: SocketAddr,
    to: SocketAddr,
    datagram: Vec<u8>,
}

/// Hosts and what is between them.
pub struct Network {
    /// The hosts.
    pub nodes: Vec<Node>,
    /// Virtual time.
    pub now: Instant,
    /// What the underlay does.
    pub conditions: Conditions,
    /// What an observer saw.
    pub wiretap: Wiretap,
    /// Pairs of nodes (smaller number first) with no path between them.
    pub cut: BTreeSet<(usize, usize)>,
    in_flight: BTreeMap<(Instant, u64), InFlight>,
    sequence: u64,
    rng: Rng,
    seed: u64,
    started_at: Instant,
    secret: ClusterSecret,
    silence_at: BTreeMap<usize, Instant>,
    /// Where a node's datagrams seem to come from, when not from its address: NAT, roaming.
    pub seen_as: BTreeMap<usize, SocketAddr>,
    /// Other addresses of nodes. A node that leaves the choice to its kernel sends from [`Node::address`].
    pub other_addresses: BTreeMap<SocketAddr, usize>,
    /// Datagrams that are lost besides, if any.
    pub is_lost: Option<fn(&Observed) -> bool>,
}

impl Network {
    /// `count` nodes that share a secret and do not know each other.
    #[expect(clippy::disallowed_methods, reason = "virtual time begins at any instant; it never reads the clock again")]
    pub fn new(count: u16, conditions: Conditions, seed: u64) -> Self {
        let now = Instant::now() + Duration::from_secs(3600);
        let mut key = [7; 32];
        key[..8].copy_from_slice(&seed.to_le_bytes());
        let secret = ClusterSecret([9; 32]);
        let wall_clock = wall_clock(Duration::ZERO);
        Self {
            nodes: (1..=count).map(|number| Node::new(number, seed, secret.clone(), wall_clock, now)).collect(),
            now,
            started_at: now,
            conditions,
            wiretap: Wiretap::default(),
            cut: BTreeSet::new(),
            in_flight: BTreeMap::new(),
            sequence: 0,
            rng: Rng::new(key),
            seed,
            secret,
            silence_at: BTreeMap::new(),
            seen_as: BTreeMap::new(),
            other_addresses: BTreeMap::new(),
            is_lost: None,
        }
    }

    /// Two nodes; the first wants to reach the address of the second. Not connected yet.
    pub fn pair(conditions: Conditions, seed: u64) -> Self {
        let mut network = Self::new(2, conditions, seed);
        let address = network.nodes[1].address;
        network.nodes[0].desired.targets.push(address);
        network.apply();
        network
    }

    /// Every node knows every other one. Not connected yet.
    pub fn mesh(count: u16, conditions: Conditions, seed: u64) -> Self {
        let mut network = Self::new(count, conditions, seed);
        let known: Vec<_> = network.nodes.iter().map(|node| (node.id, node.address)).collect();
        for node in &mut network.nodes {
            let own = node.id;
            for (id, address) in known.iter().filter(|(id, _)| *id != own).copied() {
                node.want_peer(id, address);
            }
        }
        network.apply();
        network
    }

    /// Applies the desired state of every node.
    pub fn apply(&mut self) {
        let now = self.now;
        self.nodes.iter_mut().for_each(|node| node.apply(now));
    }

    /// The data plane of a node is killed and started again: same key and desired state, nothing else left.
    pub fn restart(&mut self, node: usize) {
        let desired = self.nodes[node].desired.clone();
        self.replace(node, node);
        self.nodes[node].desired = desired;
        self.nodes[node].apply(self.now);
    }

    /// The data plane of a node is asked to end. It is done when its router has ended.
    pub fn end(&mut self, node: usize) {
        let now = self.now;
        self.nodes[node].router.handle_end(now);
    }

    /// A node is replaced by a clone of another one, at its own address, that wants nothing yet.
    pub fn restart_as(&mut self, node: usize, original: usize) {
        let address = self.nodes[node].address;
        self.replace(node, original);
        self.nodes[node].address = address;
    }

    fn replace(&mut self, node: usize, identity: usize) {
        self.sequence += 1;
        let wall_clock = wall_clock(self.now - self.started_at);
        let seed = self.seed ^ self.sequence << 32;
        self.nodes[node] = Node::new(identity as u16 + 1, seed, self.secret.clone(), wall_clock, self.now);
    }

    /// Lets virtual time pass.
    pub fn run(&mut self, time: Duration) {
        self.run_until(time, |_| false);
    }

    /// Lets virtual time pass until `is_done` or the time is over. Says whether it was done.
    pub fn run_until(&mut self, time: Duration, is_done: impl Fn(&Self) -> bool) -> bool {
        let end = self.now + time;
        loop {
            self.drive_nodes();
            if is_done(self) {
                return true;
            }
            let Some(next) = self.next_instant().filter(|next| *next <= end) else { break };
            self.now = self.now.max(next);
            self.deliver_due();
        }
        self.now = end;
        is_done(self)
    }

    /// Whether every node has a session with every other.
    pub fn is_full_mesh(&self) -> bool {
        self.nodes.iter().all(|node| node.table().peers.len() + 1 == self.nodes.len())
    }

    /// A container of `node` sends plain frames in one burst.
    pub fn send(&mut self, node: usize, frames: &[Vec<u8>]) {
        let frames: Vec<_> = frames.iter().map(|frame| (VnetHeader::default(), frame.clone())).collect();
        self.send_offloaded(node, &frames);
    }

    /// A container of `node` sends frames with offload requests in one burst.
    pub fn send_offloaded(&mut self, node: usize, frames: &[(VnetHeader, Vec<u8>)]) {
        let now = self.now;
        let sends = self.nodes[node].send_frames(frames, now);
        self.launch(node, sends);
    }

    /// Puts a datagram on its way that no node has sent.
    pub fn inject(&mut self, from: SocketAddr, to: SocketAddr, datagram: Vec<u8>) {
        self.schedule(Duration::ZERO, InFlight { from, to, datagram });
    }

    fn next_instant(&self) -> Option<Instant> {
        let datagram = self.in_flight.keys().next().map(|(at, _)| *at);
        let timers = self.nodes.iter().map(|node| node.router.poll_timeout());
        datagram.into_iter().chain(timers).chain(self.silence_at.values().copied()).min()
    }

    fn drive_nodes(&mut self) {
        for node in 0..self.nodes.len() {
            let now = self.now;
            if self.silence_at.get(&node).is_some_and(|at| *at <= now) {
                self.nodes[node].on_silence(now);
                self.set_silence(node);
            }
            let sends = self.nodes[node].drive(now);
            self.launch(node, sends);
        }
    }

    fn set_silence(&mut self, node: usize) {
        match self.nodes[node].patience() {
            Some(patience) => self.silence_at.insert(node, self.now + patience),
            None => self.silence_at.remove(&node),
        };
    }

    fn deliver_due(&mut self) {
        let mut receivers = BTreeSet::new();
        while let Some(entry) = self.in_flight.first_entry().filter(|entry| entry.key().0 <= self.now) {
            let InFlight { from, to, datagram } = entry.remove();
            let Some(node) = self.node_at(to) else { continue };
            let now = self.now;
            self.nodes[node].handle_datagram(from, to, &datagram, now);
            receivers.insert(node);
        }
        for node in receivers {
            self.nodes[node].on_socket_empty(self.now);
            self.set_silence(node);
        }
    }

    fn launch(&mut self, node: usize, sends: Vec<Transmit>) {
        let own = self.nodes[node].address;
        let seen_as = self.seen_as.get(&node).copied();
        for send in sends {
            if let Some(reason) = self.refusal(&send) {
                let count = send.datagrams.len().div_ceil(send.segment_len);
                let now = self.now;
                self.nodes[node].router.handle_unsent(&send, count as u64, reason, now);
                continue;
            }
            let source = send.source.map(|ip| SocketAddr::new(ip, own.port()));
            let from = seen_as.or(source).unwrap_or(own);
            let to = self.seen_as.iter().find(|(_, seen)| **seen == send.to);
            let to = to.map_or(send.to, |(node, _)| self.nodes[*node].address);
            let is_joined = send.sends == Sends::Joined && send.datagrams.len() > send.segment_len;
            let may_damage = is_joined && self.conditions.joined_loss > 0.0;
            for datagram in send.datagrams.chunks(send.segment_len.max(1)) {
                let is_damaged = may_damage && self.happens(self.conditions.joined_loss);
                self.travel(node, from, to, datagram, is_damaged);
            }
        }
    }

    fn node_at(&self, address: SocketAddr) -> Option<usize> {
        let first = self.nodes.iter().position(|node| node.address == address);
        first.or_else(|| self.other_addresses.get(&address).copied())
    }

    /// Why the sender's own host does not take this send, if it does not.
    fn refusal(&mut self, send: &Transmit) -> Option<DropReason> {
        if send.segment_len.min(send.datagrams.len()) > self.conditions.max_sent {
            return Some(DropReason::UnderlayTooBig);
        }
        let is_full = self.conditions.full > 0.0 && self.happens(self.conditions.full);
        is_full.then_some(DropReason::UnderlayFull)
    }

    fn travel(&mut self, node: usize, from: SocketAddr, to: SocketAddr, datagram: &[u8], is_damaged: bool) {
        let observed = Observed { from, to, datagram: datagram.to_vec() };
        let is_lost = is_damaged || self.is_lost.is_some_and(|is_lost| is_lost(&observed));
        self.wiretap.seen.push(observed);
        let receiver = self.node_at(to);
        let is_cut = receiver.is_some_and(|other| self.cut.contains(&(node.min(other), node.max(other))));
        if is_lost || is_cut || datagram.len() > self.conditions.max_datagram || self.happens(self.conditions.loss) {
            return;
        }
        let mut datagram = datagram.to_vec();
        if self.happens(self.conditions.damage) {
            let bit = self.rng.public_u32() as usize % (datagram.len() * 8);
            datagram[bit / 8] ^= 1 << (bit % 8);
        }
        let copies = if self.happens(self.conditions.duplicate) { 2 } else { 1 };
        for _ in 0..copies {
            let jitter = self.conditions.jitter.mul_f64(f64::from(self.rng.public_u32()) / f64::from(u32::MAX));
            let delay = self.conditions.delay + jitter;
            self.schedule(delay, InFlight { from, to, datagram: datagram.clone() });
        }
    }

    fn schedule(&mut self, delay: Duration, datagram: InFlight) {
        self.sequence += 1;
        self.in_flight.insert((self.now + delay, self.sequence), datagram);
    }

    fn happens(&mut self, probability: f64) -> bool {
        f64::from(self.rng.public_u32()) < probability * f64::from(u32::MAX)
    }
}

/// The wall clock when the network has run for this long.
fn wall_clock(elapsed: Duration) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000) + elapsed
}

//! What members send, to a node that takes part in everything: its place in the ring, its catalogue, its keys, its vote.
//!
//! An input is a conversation, step by step. Behind each step the driver's turn is done as the daemon does it, and in the end
//! the node is started anew from what it has stored.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant, SystemTime},
};

use serde::de::DeserializeOwned;
use weaved_api::{LinkEnd, MAX_CONTROL_BYTES, PeerId};

use crate::{
    catalogue::{Drain, Instance, InstanceId, Source},
    cluster::Message,
    kv::{self, Batch, Request, RequestId, StoredRows},
    node::{DockerUse, Node, NodeConfig, Persisted, Start},
    switch::{Order, ServiceFacts},
};

/// The node that is talked to.
const ME: PeerId = PeerId([1; 32]);
/// The others. The last has no session.
const OTHERS: [PeerId; 3] = [PeerId([2; 32]), PeerId([3; 32]), PeerId([4; 32])];
/// Steps of one conversation.
const MAX_STEPS: usize = 512;
/// The service that is balanced here.
const SERVICE: &str = "web";
/// Keys whose values the node itself reads.
const KEYS: [&str; 4] = [
    "weaved/switch/web",
    "weaved/drain/0101010101010101010101010101010101010101010101010101010101010101",
    "backend/web",
    "\0session/00102030-4050-6070-8090-a0b0c0d0e0f0",
];

/// Any conversation.
pub fn fuzz_gossip(data: &[u8]) {
    drop(converse(data));
}

fn converse(data: &[u8]) -> Host {
    let (first, mut rest) = data.split_first().map_or((0, data), |(first, rest)| (*first, rest));
    let mut host = Host::new(if first & 1 == 0 { Start::Founder } else { Start::Joiner });
    for _ in 0..MAX_STEPS {
        let Some(step) = Step::read(&mut rest) else { break };
        host.take(step);
    }
    host.assert_starts_anew();
    host
}

/// One thing that happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step<'a> {
    /// Control bytes.
    Control(PeerId, &'a [u8]),
    /// A message about keys, in control bytes.
    Kv(PeerId, &'a [u8]),
    /// A record with its owner, in control bytes.
    Record(PeerId, &'a [u8]),
    /// So many milliseconds pass.
    Wait(u16),
    /// A session begins.
    Up(PeerId),
    /// A session ends, in a word or without one.
    Down(PeerId, LinkEnd),
    /// A client asks something of the store, in JSON.
    Ask(&'a [u8]),
    /// A client orders a switch, in JSON.
    Order(&'a [u8]),
    /// What a majority is said to have decided about one of [`KEYS`], in control bytes.
    Decided(PeerId, &'static str, &'a [u8]),
}

impl<'a> Step<'a> {
    fn read(rest: &mut &'a [u8]) -> Option<Self> {
        let kind = *rest.split_off_first()?;
        let who = OTHERS[usize::from(kind >> 4) % OTHERS.len()];
        Some(match kind & 0x0f {
            0 | 11.. => Self::Control(who, take(rest)?),
            1 => Self::Kv(who, take(rest)?),
            2 => Self::Record(who, take(rest)?),
            3 => Self::Wait(word(rest)?),
            4 => Self::Up(who),
            5 => Self::Down(who, LinkEnd::PeerSaidGoodbye),
            6 => Self::Down(who, LinkEnd::Silent),
            7 => Self::Ask(take(rest)?),
            8 => Self::Order(take(rest)?),
            9 | 10 => Self::Decided(who, KEYS[usize::from(*rest.split_off_first()?) % KEYS.len()], take(rest)?),
        })
    }
}

fn word(rest: &mut &[u8]) -> Option<u16> {
    rest.split_off(..2).and_then(|bytes| bytes.try_into().ok()).map(u16::from_le_bytes)
}

/// So many bytes as are announced, or all that there are.
fn take<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let len = usize::from(word(rest)?).min(rest.len());
    rest.split_off(..len)
}

/// A node with its disk.
struct Host {
    node: Node,
    now: Instant,
    config: NodeConfig,
    persisted: Option<Persisted>,
    rows: Batch,
    asked_count: u64,
    sent: Vec<(PeerId, Vec<u8>)>,
}

impl Host {
    fn new(start: Start) -> Self {
        let config = config(ME, start);
        let now = Instant::now();
        let node = Node::new(config.clone(), None, [1; 32], now, wall()).expect("the configuration works");
        let mut host =
            Self { node, now, config, persisted: None, rows: Batch::new(), asked_count: 0, sent: Vec::new() };
        host.node.handle_docker_use(DockerUse::Unused, now);
        host.node.handle_instances(["blue", "green"].map(instance).to_vec(), now);
        let facts = ServiceFacts { name: SERVICE.into(), key: None, colour: None };
        host.node.handle_balanced_services(vec![facts], now);
        OTHERS[..2].iter().for_each(|&other| host.node.handle_peer_up(other, endpoint(other), None, now));
        host.turn();
        host
    }

    fn take(&mut self, step: Step<'_>) {
        let now = self.now;
        match step {
            Step::Control(from, bytes) => {
                if let Ok(message) = Message::decode(bytes) {
                    assert_eq!(Message::decode(&message.encode()), Ok(message), "what is read is written");
                }
                self.node.handle_control(from, bytes, now);
            }
            Step::Kv(from, bytes) => self.node.handle_control(from, &Message::Kv(bytes.to_vec()).encode(), now),
            Step::Record(from, bytes) => {
                // A delta of one record.
                let mut delta = vec![1, 2, 1];
                delta.extend(postcard::to_stdvec(&serde_bytes::Bytes::new(bytes)).expect("a vector takes any bytes"));
                self.node.handle_control(from, &delta, now);
            }
            Step::Decided(from, key, value) => {
                self.node.handle_control(from, &Message::Kv(kv::testing::decided(key, value)).encode(), now);
            }
            Step::Wait(ms) => {
                self.now += Duration::from_millis(ms.into());
                self.node.handle_timeout(self.now);
            }
            Step::Up(id) => self.node.handle_peer_up(id, endpoint(id), None, now),
            Step::Down(id, end) => self.node.handle_peer_down(id, end, now),
            Step::Ask(bytes) => {
                if let Some(request) = read::<Request>(bytes) {
                    self.asked_count += 1;
                    self.node.handle_kv_request(RequestId(self.asked_count), request, "a client", now);
                }
            }
            Step::Order(bytes) => {
                if let Some(order) = read::<Order>(bytes) {
                    drop(self.node.handle_switch(order, now));
                }
            }
        }
        self.turn();
    }

    /// What the daemon does behind each thing that happens.
    fn turn(&mut self) {
        if let Some(persisted) = self.node.poll_persist() {
            self.persisted = Some(persisted);
        }
        while let Some(batch) = self.node.poll_kv_persist() {
            self.rows.extend(batch);
            self.node.handle_kv_stored(self.now);
        }
        while let Some((to, bytes)) = self.node.poll_send() {
            assert!(to != ME && bytes.len() <= MAX_CONTROL_BYTES, "{} bytes to {to:?}", bytes.len());
            assert!(Message::decode(&bytes).is_ok(), "what is sent can be read");
            self.sent.push((to, bytes));
        }
        while self.node.poll_event().is_some() {}
        while self.node.poll_kv_answer().is_some() {}
        while self.node.poll_kv_changed().is_some() {}
        let status = self.node.status(self.now);
        assert!(status.members.iter().all(|member| member.id != ME), "nobody else is this node");
        let _ = (self.node.wanted(), self.node.view(), self.node.switch_state(SERVICE), self.node.poll_timeout());
    }

    /// Whatever others say, what was stored for it can be begun with.
    fn assert_starts_anew(&mut self) {
        let stored = serde_json::to_vec(&self.persisted).expect("a state is JSON");
        let stored: Option<Persisted> = serde_json::from_slice(&stored).expect("a stored state can be read");
        let rows: StoredRows =
            self.rows.iter().filter_map(|((table, key), value)| Some((*table, key.clone(), value.clone()?))).collect();
        let mut node = Node::new(self.config.clone(), stored, [2; 32], self.now, wall()).expect("it starts");
        node.restore_kv(&rows, self.now).expect("the rows can be read");
        node.handle_timeout(self.now + Duration::from_secs(3));
        assert_eq!(node.status(self.now).ipam.slice, self.node.status(self.now).ipam.slice, "it uses its addresses");
    }
}

fn instance(colour: &str) -> Instance {
    Instance {
        id: InstanceId(format!("{SERVICE}-{colour}")),
        service: SERVICE.into(),
        address: None,
        port: 80,
        tags: vec![colour.into()],
        meta: BTreeMap::new(),
        source: Source::Api,
        drain: Drain::Serving,
        checks: vec![],
    }
}

fn config(id: PeerId, start: Start) -> NodeConfig {
    NodeConfig {
        id,
        name: format!("h{}", id.0[0]),
        range: "10.32.0.0/16".parse().expect("a range"),
        slice_prefix: 24,
        zone: "weave.local".into(),
        guarded: vec!["guarded/".into()],
        listen_port: 6783,
        start,
        local_endpoints: vec![endpoint(id)],
    }
}

fn endpoint(id: PeerId) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, id.0[0]], 6783))
}

fn wall() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_hours(500_000)
}

fn read<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    serde_json::from_slice(bytes).ok()
}

#[cfg(test)]
mod tests;

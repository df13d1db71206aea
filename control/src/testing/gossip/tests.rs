//! The corpus: real conversations, written anew by `WEAVED_WRITE_CORPUS=1` when a format has changed, and what the fuzzer has
//! added.

use std::fs;

use super::*;
use crate::{
    kv::{Behaviour, Change, Rule, SessionSpec, Value},
    switch::{Care, What},
    testing::tests::{folder, replay},
};

impl Step<'_> {
    fn emit(self, into: &mut Vec<u8>) {
        let who = |id: PeerId| OTHERS.iter().position(|other| *other == id).expect("one of the others") as u8 * 16;
        let with = |into: &mut Vec<u8>, kind: u8, bytes: &[u8]| {
            into.push(kind);
            into.extend((bytes.len() as u16).to_le_bytes());
            into.extend(bytes);
        };
        match self {
            Self::Control(from, bytes) => with(into, who(from), bytes),
            Self::Kv(from, bytes) => with(into, who(from) + 1, bytes),
            Self::Record(from, bytes) => with(into, who(from) + 2, bytes),
            Self::Wait(ms) => into.extend([&[3], &ms.to_le_bytes()[..]].concat()),
            Self::Up(id) => into.push(who(id) + 4),
            Self::Down(id, end) => into.push(who(id) + if end == LinkEnd::PeerSaidGoodbye { 5 } else { 6 }),
            Self::Ask(bytes) => with(into, 7, bytes),
            Self::Order(bytes) => with(into, 8, bytes),
            Self::Decided(from, key, value) => {
                into.extend([
                    who(from) + 9,
                    KEYS.iter().position(|known| *known == key).expect("one of the keys") as u8,
                ]);
                into.extend((value.len() as u16).to_le_bytes());
                into.extend(value);
            }
        }
    }
}

/// A host and a member that it talks to, and the conversation as an input.
struct Talk {
    host: Host,
    other: Node,
    input: Vec<u8>,
    steps_count: usize,
}

impl Talk {
    fn new() -> Self {
        let host = Host::new(Start::Founder);
        let config = config(OTHERS[0], Start::Joiner);
        let mut other = Node::new(config, None, [3; 32], host.now, wall()).unwrap();
        other.handle_docker_use(DockerUse::Unused, host.now);
        other.handle_instances(Vec::new(), host.now);
        other.handle_peer_up(ME, endpoint(ME), None, host.now);
        Self { host, other, input: vec![0], steps_count: 0 }
    }

    fn step(&mut self, step: Step<'_>) {
        step.emit(&mut self.input);
        self.steps_count += 1;
        self.host.take(step);
    }

    fn ask(&mut self, request: &Request) {
        self.step(Step::Ask(&serde_json::to_vec(request).unwrap()));
    }

    fn until(&mut self, is_so: impl Fn(&Node) -> bool) {
        for _ in 0..100 {
            if is_so(&self.host.node) {
                return;
            }
            self.go_on(1);
        }
        panic!("it does not come to that");
    }

    /// Everything is carried for so many turns.
    fn go_on(&mut self, turns: usize) {
        for _ in 0..turns {
            self.step(Step::Wait(100));
            self.other.handle_timeout(self.host.now);
            for (to, bytes) in std::mem::take(&mut self.host.sent) {
                if to == OTHERS[0] {
                    self.other.handle_control(ME, &bytes, self.host.now);
                }
            }
            let _stored = self.other.poll_persist();
            while self.other.poll_kv_persist().is_some() {
                self.other.handle_kv_stored(self.host.now);
            }
            let sent: Vec<_> = std::iter::from_fn(|| self.other.poll_send()).collect();
            sent.iter().for_each(|(_, bytes)| self.step(Step::Control(OTHERS[0], bytes)));
        }
    }
}

fn put(key: &str, value: &str) -> Request {
    let change = Change::Put { value: Value::new(value.as_bytes()), flags: 7, rule: Rule::Always };
    Request::Write { key: key.into(), change }
}

fn session() -> Request {
    let (name, node_name, behaviour) = ("s".into(), "h1".into(), Behaviour::Release);
    Request::SessionCreate { spec: SessionSpec { name, node_name, ttl_us: None, lock_delay_us: 0, behaviour } }
}

fn order(service: &str, colour: &str) -> Order {
    Order {
        service: service.into(),
        what: What::To(colour.into()),
        min_healthy: 0,
        drain: None,
        timeout_ms: 2000,
        care: Care::Forced,
        key: None,
        colours: None,
        watch: None,
        at_index: None,
        by: "us".into(),
        source: "a test".into(),
    }
}

fn has_two_voters(node: &Node) -> bool {
    node.kv().electorate().is_some_and(|electorate| electorate.voters.len() == 2)
}

fn is_switched(node: &Node) -> bool {
    node.switch_record(SERVICE).is_some_and(|record| !record.live.is_empty())
}

/// Two hosts meet, keep keys and sessions together, and switch a service.
fn together() -> Talk {
    let mut talk = Talk::new();
    talk.until(has_two_voters);
    talk.ask(&put("plain", "1"));
    talk.ask(&session());
    talk.until(|node| !node.kv().sessions(None).sessions.is_empty());
    talk.step(Step::Order(&serde_json::to_vec(&order(SERVICE, "blue")).unwrap()));
    talk.until(is_switched);
    talk.go_on(3);
    talk
}

fn inputs() -> Vec<(&'static str, Vec<u8>)> {
    let talk = together();
    let record = serde_json::to_vec(talk.host.node.switch_record(SERVICE).expect("it is switched")).unwrap();
    let session = talk.host.node.kv().sessions(None).sessions.remove(0).session.to_value();
    let mut decided = vec![0];
    for (key, value) in [(KEYS[0], &record[..]), (KEYS[1], b"{}"), (KEYS[2], b"blue"), (KEYS[3], session.as_bytes())] {
        Step::Decided(OTHERS[0], key, value).emit(&mut decided);
        Step::Wait(500).emit(&mut decided);
    }
    let mut garbage = vec![1];
    for bytes in [&[][..], &[1], &[9, 1, 2], &[1, 0, 1, 0], &[1, 4, 1, 0]] {
        Step::Control(OTHERS[0], bytes).emit(&mut garbage);
        Step::Kv(OTHERS[1], bytes).emit(&mut garbage);
        Step::Record(OTHERS[2], bytes).emit(&mut garbage);
        Step::Down(OTHERS[1], LinkEnd::PeerSaidGoodbye).emit(&mut garbage);
        Step::Up(OTHERS[1]).emit(&mut garbage);
    }
    vec![("together", talk.input), ("decided", decided), ("garbage", garbage)]
}

#[test]
fn two_hosts_get_as_far_as_a_session_and_a_switch() {
    let talk = together();
    assert!(talk.steps_count <= MAX_STEPS, "{} steps", talk.steps_count);
    let again = converse(&talk.input);
    for host in [&talk.host, &again] {
        assert_eq!(host.node.kv().sessions(None).sessions.len(), 1);
        assert!(is_switched(&host.node) && has_two_voters(&host.node));
    }
}

/// Every step of an input is read as it was written.
#[test]
fn a_step_is_read_as_it_was_written() {
    let steps = [
        Step::Control(OTHERS[1], b"abc"),
        Step::Kv(OTHERS[0], b""),
        Step::Record(OTHERS[2], b"x"),
        Step::Wait(300),
        Step::Up(OTHERS[1]),
        Step::Down(OTHERS[2], LinkEnd::PeerSaidGoodbye),
        Step::Down(OTHERS[0], LinkEnd::Silent),
        Step::Ask(b"q"),
        Step::Order(b"o"),
        Step::Decided(OTHERS[1], KEYS[2], b"v"),
    ];
    let mut bytes = Vec::new();
    steps.iter().for_each(|step| step.emit(&mut bytes));
    let mut rest = &bytes[..];
    let read: Vec<_> = std::iter::from_fn(|| Step::read(&mut rest)).collect();
    assert_eq!(read, steps);
}

#[test]
fn every_conversation_of_the_corpus_is_borne() {
    for (name, input) in inputs() {
        let path = folder("gossip").join(name);
        if std::env::var("WEAVED_WRITE_CORPUS").is_ok() {
            fs::create_dir_all(folder("gossip")).unwrap();
            fs::write(&path, &input).unwrap();
        }
        assert!(path.exists(), "{} is missing: run with WEAVED_WRITE_CORPUS=1", path.display());
    }
    replay("gossip", 64, fuzz_gossip);
}

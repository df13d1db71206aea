//! A single node, or two that talk directly: what it does with what it is told.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant, SystemTime},
};

use proptest::prelude::*;
use weaved::{
    catalogue::{CatalogueMessage, Drain, Head, Instance, InstanceId, Source},
    cluster::{Message, Presence, Record, Version, pack},
    ipam::Overlay,
    node::{Container, DockerUse, MemberState, Node, NodeConfig, NodeError, NodeEvent, Persisted, SliceState, Start},
};
use weaved_api::{LinkEnd, MacAddr, PeerId};

const A: PeerId = PeerId([0x0a; 32]);
const B: PeerId = PeerId([0x0b; 32]);

fn endpoint(id: PeerId) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, id.0[0]], 6783))
}

fn config(id: PeerId, start: Start) -> NodeConfig {
    NodeConfig {
        id,
        name: format!("h{}", id.short()),
        range: "10.32.0.0/12".parse().expect("a range"),
        slice_prefix: 24,
        zone: "weave.local".into(),
        guarded: vec![],
        listen_port: 6783,
        start,
        local_endpoints: vec![endpoint(id)],
    }
}

fn node(id: PeerId, start: Start, now: Instant) -> Node {
    Node::new(config(id, start), None, id.0, now, SystemTime::UNIX_EPOCH + Duration::from_hours(500_000))
        .expect("it starts")
}

/// Stores and takes what goes out.
fn turn(node: &mut Node) -> Vec<(PeerId, Vec<u8>)> {
    let _stored = node.poll_persist();
    std::iter::from_fn(|| node.poll_send()).collect()
}

fn events(node: &mut Node) -> Vec<NodeEvent> {
    std::iter::from_fn(|| node.poll_event()).collect()
}

/// Connects two nodes and carries everything between them for a while.
fn converse(a: &mut Node, b: &mut Node, from: Instant, time: Duration) -> Instant {
    a.handle_peer_up(B, endpoint(B), Some(endpoint(B)), from);
    b.handle_peer_up(A, endpoint(A), None, from);
    let mut now = from;
    while now < from + time {
        a.handle_timeout(now);
        b.handle_timeout(now);
        for (_, bytes) in turn(a) {
            b.handle_control(A, &bytes, now);
        }
        for (_, bytes) in turn(b) {
            a.handle_control(B, &bytes, now);
        }
        now += Duration::from_millis(10);
    }
    now
}

fn container(number: u8) -> Container {
    Container {
        id: "0123456789abcdef".into(),
        name: format!("web-{number}"),
        mac: MacAddr([2, 0x42, 0, 0, 0, number]),
        ips: vec!["10.32.5.2".parse().expect("an address")],
    }
}

fn instance(number: u16) -> Instance {
    Instance {
        id: InstanceId(format!("h:web-{number}:80")),
        service: "web".into(),
        address: None,
        port: 8000 + number,
        tags: vec!["blue".into()],
        meta: BTreeMap::new(),
        source: Source::Api,
        drain: Drain::Serving,
        checks: vec![],
    }
}

#[test]
fn a_founder_has_its_slice_before_it_knows_anybody() {
    let mut node = node(A, Start::Founder, Instant::now());
    let status = node.status(Instant::now());
    assert_eq!(status.ipam.state, SliceState::Ready);
    let slice = status.ipam.slice.expect("a slice");
    let gateway = node.wanted().gateway.expect("a gateway");
    assert_eq!(gateway.prefix_len(), 12, "all containers of the cluster are on-link");
    assert!(slice.contains(&match gateway.addr() {
        std::net::IpAddr::V4(addr) => addr,
        std::net::IpAddr::V6(addr) => panic!("{addr}"),
    }));
    assert_eq!(events(&mut node), vec![NodeEvent::SliceAssigned(slice)]);
}

#[test]
fn two_nodes_know_each_others_names_slices_and_containers() {
    let now = Instant::now();
    let (mut a, mut b) = (node(A, Start::Founder, now), node(B, Start::Joiner, now));
    let now = converse(&mut a, &mut b, now, Duration::from_secs(1));
    a.handle_containers(vec![container(1)], now);
    let now = converse(&mut a, &mut b, now, Duration::from_millis(200));
    let status = b.status(now);
    let member = &status.members[0];
    assert_eq!((member.name.as_str(), member.state), ("h0a0a0a0a0a", MemberState::Up));
    assert_eq!(member.slice, a.status(now).ipam.slice);
    assert_eq!(member.containers[0].id, "0123456789ab", "ids travel in Docker's short form");
    assert_eq!(b.wanted().neighbours[0].mac, container(1).mac);
    assert!(a.wanted().neighbours.is_empty(), "our own containers are nobody's neighbours here");
    assert!(events(&mut b).contains(&NodeEvent::MemberUp { id: A, name: "h0a0a0a0a0a".into() }));
}

#[test]
fn the_wanted_state_keeps_its_version_while_nothing_changes() {
    let now = Instant::now();
    let (mut a, mut b) = (node(A, Start::Founder, now), node(B, Start::Joiner, now));
    let now = converse(&mut a, &mut b, now, Duration::from_secs(3));
    let version = a.wanted_version();
    let now = converse(&mut a, &mut b, now, Duration::from_secs(10));
    assert_eq!(a.wanted_version(), version);
    a.handle_targets(vec![endpoint(B)], now);
    assert_eq!(a.wanted_version(), version + 1);
}

#[test]
fn an_idle_pair_stores_nothing() {
    let now = Instant::now();
    let (mut a, mut b) = (node(A, Start::Founder, now), node(B, Start::Joiner, now));
    let mut now = converse(&mut a, &mut b, now, Duration::from_secs(5));
    for _ in 0..20 {
        now = converse(&mut a, &mut b, now, Duration::from_millis(10));
        assert_eq!(a.poll_persist(), None);
        now += Duration::from_millis(200);
    }
}

#[test]
fn a_member_that_says_good_bye_is_away_at_once_and_up_again_when_it_is_back() {
    let now = Instant::now();
    let (mut a, mut b) = (node(A, Start::Founder, now), node(B, Start::Joiner, now));
    let now = converse(&mut a, &mut b, now, Duration::from_secs(2));
    b.handle_containers(vec![container(1)], now);
    let now = converse(&mut a, &mut b, now, Duration::from_secs(1));
    assert_eq!(a.wanted().neighbours.len(), 1);

    a.handle_peer_down(B, LinkEnd::PeerSaidGoodbye, now);
    a.handle_timeout(now + Duration::from_millis(20));
    assert_eq!(a.status(now).members[0].state, MemberState::Away);
    assert_eq!(a.wanted().neighbours, vec![], "its containers are out of reach");
    assert_eq!(a.wanted().peers[0].id, B, "it is not forgotten");
    assert!(events(&mut a).contains(&NodeEvent::MemberAway { id: B, name: "h0b0b0b0b0b".into() }));

    let now = converse(&mut a, &mut b, now, Duration::from_secs(1));
    assert_eq!(a.status(now).members[0].state, MemberState::Up);
    assert_eq!(a.wanted().neighbours.len(), 1);
}

#[test]
fn a_member_that_is_lost_in_silence_is_not_taken_for_away() {
    let now = Instant::now();
    let (mut a, mut b) = (node(A, Start::Founder, now), node(B, Start::Joiner, now));
    let now = converse(&mut a, &mut b, now, Duration::from_secs(2));
    a.handle_peer_down(B, LinkEnd::Silent, now);
    assert_eq!(a.status(now).members[0].state, MemberState::Up, "others may still reach it");
}

#[test]
fn a_newly_found_member_is_stored_soon_and_a_changed_address_with_the_repairs() {
    let now = Instant::now();
    let mut a = node(A, Start::Founder, now);
    turn(&mut a);
    a.handle_peer_up(B, endpoint(B), None, now);
    assert_eq!(a.poll_persist(), None, "others that come at the same time are stored with it");
    a.handle_timeout(now + Duration::from_millis(50));
    let stored = a.poll_persist().expect("somebody new");
    assert_eq!((stored.peers[0].id, &stored.peers[0].endpoints[..]), (B, &[endpoint(B)][..]));

    let elsewhere = SocketAddr::from(([198, 51, 100, 1], 6783));
    a.handle_peer_up(B, elsewhere, None, now + Duration::from_millis(60));
    a.handle_timeout(now + Duration::from_millis(500));
    assert_eq!(a.poll_persist(), None);
    a.handle_timeout(now + Duration::from_secs(3));
    assert_eq!(a.poll_persist().expect("a repair").peers[0].endpoints[0], elsewhere);
}

#[test]
fn an_orderly_end_stores_what_is_known_then() {
    let now = Instant::now();
    let mut a = node(A, Start::Founder, now);
    turn(&mut a);
    a.handle_peer_up(B, endpoint(B), None, now);
    a.prepare_to_end();
    assert_eq!(a.poll_persist().expect("somebody new").peers[0].id, B);
}

#[test]
fn a_member_that_has_left_is_not_looked_for_after_a_restart() {
    let now = Instant::now();
    let (mut a, mut b) = (node(A, Start::Founder, now), node(B, Start::Joiner, now));
    let now = converse(&mut a, &mut b, now, Duration::from_secs(5));
    b.leave(now);
    let mut stored = None;
    for step in 0..300 {
        let now = now + Duration::from_millis(10 * step);
        a.handle_timeout(now);
        b.handle_timeout(now);
        stored = a.poll_persist().or(stored);
        for (_, bytes) in turn(&mut a) {
            b.handle_control(A, &bytes, now);
        }
        for (_, bytes) in turn(&mut b) {
            a.handle_control(B, &bytes, now);
        }
    }
    assert_eq!(stored.expect("the news is stored").peers, vec![]);
}

#[test]
fn a_full_disk_holds_back_what_depends_on_it_and_nothing_else() {
    let now = Instant::now();
    let (mut a, mut b) = (node(A, Start::Founder, now), node(B, Start::Joiner, now));
    let mut now = now;
    a.handle_peer_up(B, endpoint(B), None, now);
    b.handle_peer_up(A, endpoint(A), None, now);
    for _ in 0..300 {
        now += Duration::from_millis(10);
        a.handle_timeout(now);
        b.handle_timeout(now);
        if a.poll_persist().is_some() {
            a.handle_persist_failed();
        }
        while let Some((_, bytes)) = a.poll_send() {
            b.handle_control(A, &bytes, now);
        }
        for (_, bytes) in turn(&mut b) {
            a.handle_control(B, &bytes, now);
        }
    }
    assert_eq!(b.status(now).members[0].state, MemberState::Up);
    assert_eq!(b.status(now).ipam.slice, None, "a grant that is not stored is not given");
    converse(&mut a, &mut b, now, Duration::from_secs(2));
    assert!(b.status(now).ipam.slice.is_some());
}

/// What others send must not be what a host cannot be started with.
#[test]
fn a_host_starts_again_whatever_versions_others_have_made_of_it() {
    let now = Instant::now();
    let record = Record {
        version: Version::MAX,
        presence: Presence::Member,
        name: "a".into(),
        zone: "weave.local".into(),
        overlay: Overlay::new("10.32.0.0/12".parse().unwrap(), 24).unwrap(),
        seed: None,
        slice: None,
        endpoints: vec![],
        observed: vec![],
        containers: vec![],
        instances_from: Version(0),
    };
    let heads = vec![(A, Head { latest: Version::MAX, floor: Version(0) })];
    let of_record = Message::Delta(pack([(A, &record)]).remove(0));
    let of_log = Message::Catalogue(CatalogueMessage::Heads { range: None, heads });
    for message in [of_record, of_log] {
        let mut a = node(A, Start::Founder, now);
        a.handle_instances(vec![instance(1)], now);
        let mut stored = None;
        for _ in 0..3 {
            a.handle_control(B, &message.encode(), now);
            stored = a.poll_persist().or(stored);
        }
        assert!(a.poll_persist().is_none(), "it comes to rest");
        for _ in 0..3 {
            let again = Node::new(config(A, Start::Founder), stored, [2; 32], now, SystemTime::UNIX_EPOCH);
            stored = again.expect("it starts").poll_persist();
        }
    }
}

#[test]
fn a_restart_goes_on_from_what_was_stored() {
    let now = Instant::now();
    let (mut a, mut b) = (node(A, Start::Founder, now), node(B, Start::Joiner, now));
    let now = converse(&mut a, &mut b, now, Duration::from_secs(5));
    b.handle_persist_failed();
    let stored: Persisted = b.poll_persist().expect("it is given again");
    let text = serde_json::to_string(&stored).expect("it can be stored");
    let stored: Persisted = serde_json::from_str(&text).expect("it can be read");
    // The clock has been set back to 1970 meanwhile.
    let again =
        Node::new(config(B, Start::Joiner), Some(stored), [9; 32], now, SystemTime::UNIX_EPOCH).expect("it starts");
    assert_eq!(again.status(now).ipam.slice, b.status(now).ipam.slice);
    assert_eq!(again.wanted().peers[0].endpoints, vec![endpoint(A)], "it knows where to look");

    let mut again = again;
    again.handle_containers(vec![container(7)], now);
    let now = converse(&mut a, &mut again, now, Duration::from_secs(2));
    assert_eq!(a.status(now).members[0].containers.len(), 1, "its new record wins over the old one");
}

#[test]
fn stored_state_of_another_network_or_node_is_refused() {
    let now = Instant::now();
    let stored = node(A, Start::Founder, now).poll_persist().expect("the first state");
    let start = |config, stored| Node::new(config, Some(stored), [0; 32], now, SystemTime::now()).err();
    let other_range = NodeConfig { range: "10.64.0.0/12".parse().expect("a range"), ..config(A, Start::Founder) };
    assert!(matches!(start(other_range, stored.clone()), Some(NodeError::OtherOverlay { .. })));
    assert!(matches!(start(config(B, Start::Founder), stored.clone()), Some(NodeError::OtherIdentity { .. })));
    let mut damaged = stored;
    damaged.ipam.ring = None;
    assert_eq!(start(config(A, Start::Founder), damaged), Some(NodeError::CorruptState));
}

#[test]
fn a_member_that_answers_names_in_another_zone_is_seen_and_kept() {
    let now = Instant::now();
    let mut a = node(A, Start::Founder, now);
    let other = NodeConfig { zone: "corp.example".into(), ..config(B, Start::Joiner) };
    let mut b = Node::new(other, None, B.0, now, SystemTime::now()).expect("it starts");
    let now = converse(&mut a, &mut b, now, Duration::from_secs(2));
    let (seen_by_a, seen_by_b) = (&a.status(now).members[0], &b.status(now).members[0]);
    assert_eq!((seen_by_a.zone.as_str(), seen_by_b.zone.as_str()), ("corp.example", "weave.local"));
    assert_eq!((seen_by_a.state, &seen_by_a.problem), (MemberState::Up, &None));
}

#[test]
fn a_clone_is_suspected_when_our_record_is_written_by_somebody_else_again_and_again() {
    let now = Instant::now();
    let (mut a, mut b) = (node(A, Start::Founder, now), node(B, Start::Joiner, now));
    let mut now = converse(&mut a, &mut b, now, Duration::from_secs(2));
    assert!(!events(&mut a).contains(&NodeEvent::CloneSuspected));
    // The clone runs on another machine with the same identity and talks to b as well.
    let mut clone = Node::new(config(A, Start::Founder), None, [7; 32], now, SystemTime::now()).expect("it starts");
    for number in 0..20 {
        clone.handle_containers(vec![container(number)], now);
        now = converse(&mut clone, &mut b, now, Duration::from_millis(300));
        now = converse(&mut a, &mut b, now, Duration::from_millis(300));
    }
    assert!(events(&mut a).contains(&NodeEvent::CloneSuspected));
}

#[test]
fn docker_use_is_unknown_until_it_is_told() {
    let now = Instant::now();
    let mut node = node(A, Start::Founder, now);
    assert_eq!(node.status(now).docker, DockerUse::Unknown);
    node.handle_docker_use(DockerUse::Used, now);
    assert_eq!(node.status(now).docker, DockerUse::Used);
}

/// Messages of a lively conversation, as material for damage.
fn real_messages() -> Vec<Vec<u8>> {
    let mut now = Instant::now();
    let (mut a, mut b) = (node(A, Start::Founder, now), node(B, Start::Joiner, now));
    a.handle_containers((0..50).map(container).collect(), now);
    a.handle_instances((0..50).map(instance).collect(), now);
    b.handle_instances(vec![], now);
    a.handle_peer_up(B, endpoint(B), None, now);
    b.handle_peer_up(A, endpoint(A), None, now);
    let mut messages = Vec::new();
    for _ in 0..100 {
        now += Duration::from_millis(20);
        a.handle_timeout(now);
        b.handle_timeout(now);
        for (_, bytes) in turn(&mut a) {
            b.handle_control(A, &bytes, now);
            messages.push(bytes);
        }
        for (_, bytes) in turn(&mut b) {
            a.handle_control(B, &bytes, now);
        }
    }
    messages
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn damaged_messages_never_panic_and_never_take_our_slice(
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<u8>()), 1..60),
    ) {
        let messages = real_messages();
        let mut now = Instant::now();
        let mut victim = node(B, Start::Founder, now);
        victim.handle_peer_up(A, endpoint(A), None, now);
        let slice = victim.status(now).ipam.slice;
        victim.handle_docker_use(DockerUse::Used, now);
        victim.handle_instances(vec![instance(7)], now);
        for (which, position, value) in damage {
            let mut bytes = which.get(&messages).clone();
            let position = position.index(bytes.len());
            bytes[position] ^= value;
            if value == 0 {
                bytes.truncate(position);
            }
            victim.handle_control(A, &bytes, now);
            now += Duration::from_millis(50);
            victim.handle_timeout(now);
            turn(&mut victim);
        }
        prop_assert_eq!(victim.status(now).ipam.slice, slice);
        victim.handle_timeout(now + Duration::from_secs(10));
        let own: Vec<_> = victim.view().nodes[&B].instances.iter().map(|listed| listed.instance.clone()).collect();
        prop_assert_eq!(own, vec![instance(7)]);
    }

    #[test]
    fn random_bytes_are_counted_as_garbage(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let now = Instant::now();
        let mut victim = node(B, Start::Founder, now);
        victim.handle_control(A, &bytes, now);
        let counters = victim.status(now).counters;
        prop_assert_eq!(counters.messages_received, 1);
        if bytes.first() != Some(&1) {
            prop_assert_eq!(counters.garbage + counters.other_version, 1);
        }
    }
}

//! Two routers: handshake, traffic, rekeying, roaming, restarts, path MTU, in virtual time.

use std::{net::SocketAddr, time::Duration};

use weaved_api::{Event, LinkEnd, Neighbour, TargetFailure};
use weaved_core::{
    forward::DropReason,
    noise::spec::{REJECT_AFTER, REKEY_AFTER},
    testing::{
        Conditions, Network,
        frames::{frame, mac, payload},
        seeds,
    },
    wire::header::MessageType,
};

const SECOND: Duration = Duration::from_secs(1);

/// Two connected nodes whose containers (number 1 on each) have heard of each other.
fn connected(seed: u64) -> Network {
    let mut network = Network::pair(Conditions::lan(), seed);
    assert!(network.run_until(5 * SECOND, Network::is_full_mesh), "seed {seed}");
    network.send(0, &[frame(mac(1, 1), weaved_api::MacAddr::BROADCAST, b"who is there")]);
    network.run(SECOND / 10);
    network.send(1, &[frame(mac(2, 1), mac(1, 1), b"I am")]);
    network.run(SECOND / 10);
    network.nodes.iter_mut().for_each(|node| node.delivered.clear());
    network
}

fn delivered_payloads(network: &Network, node: usize) -> Vec<Vec<u8>> {
    network.nodes[node].delivered.iter().map(|(_, frame)| payload(frame).to_vec()).collect()
}

#[test]
fn a_target_is_reached_and_both_sides_say_so() {
    let mut network = Network::pair(Conditions::lan(), 1);
    network.run(SECOND);
    let (first, second) = (network.nodes[0].id, network.nodes[1].id);
    let target = network.nodes[1].address;
    let expected = Event::PeerUp { id: second, endpoint: target, target: Some(target) };
    assert!(network.nodes[0].events.contains(&expected), "{:?}", network.nodes[0].events);
    let is_up = |event: &Event| matches!(event, Event::PeerUp { id, .. } if *id == first);
    assert!(network.nodes[1].events.iter().any(is_up));
}

#[test]
fn the_first_contact_is_challenged_and_a_reconnection_is_not() {
    let mut network = Network::mesh(2, Conditions::lan(), 1);
    network.nodes[1].desired.peers.clear();
    network.apply();
    network.run(SECOND);
    assert_eq!(network.wiretap.count(MessageType::Challenge), 1);
    network.restart(0);
    network.run(SECOND);
    assert!(network.is_full_mesh());
    assert_eq!(network.wiretap.count(MessageType::Challenge), 1, "a later timestamp of a known peer is enough");
}

#[test]
fn a_frame_arrives_once_and_unchanged_and_cannot_be_read_on_the_way() {
    let mut network = connected(1);
    let secret = b"the quick brown fox jumps over the lazy dog";
    network.send(0, &[frame(mac(1, 1), mac(2, 1), secret)]);
    network.run(SECOND);
    assert_eq!(delivered_payloads(&network, 1), [secret.to_vec()]);
    network.wiretap.assert_unreadable(&secret[..8]);
    network.wiretap.assert_no_nonce_reused();
}

#[test]
fn frames_of_every_size_pass_a_path_smaller_than_the_frame() {
    for max_datagram in [1232, 1372, 1472, 8972] {
        let mut network = connected(1);
        network.conditions.max_datagram = max_datagram;
        network.run(20 * SECOND);
        let sizes = [0, 1, 46, 1186, 1200, 1400, 1500, 4000, 9000, 60_000];
        let frames: Vec<_> = sizes.map(|size| frame(mac(1, 1), mac(2, 1), &vec![size as u8; size])).into();
        network.send(0, &frames);
        network.run(SECOND);
        let sizes_delivered: Vec<_> = delivered_payloads(&network, 1).iter().map(Vec::len).collect();
        assert_eq!(sizes_delivered, sizes, "path of {max_datagram}");
    }
}

#[test]
fn small_frames_of_one_burst_share_datagrams() {
    let mut network = connected(1);
    let before = network.wiretap.count(MessageType::Data);
    let frames: Vec<_> = (0..20u8).map(|number| frame(mac(1, 1), mac(2, 1), &[number; 46])).collect();
    network.send(0, &frames);
    assert_eq!(network.wiretap.count(MessageType::Data) - before, 1);
    network.run(SECOND / 10);
    assert_eq!(network.nodes[1].delivered.len(), 20);
}

#[test]
fn a_handshake_completes_under_thirty_percent_loss() {
    for seed in seeds(40) {
        let conditions = Conditions { loss: 0.3, ..Conditions::lan() };
        let mut network = Network::pair(conditions, seed);
        assert!(network.run_until(60 * SECOND, Network::is_full_mesh), "seed {seed}");
    }
}

#[test]
fn rekeying_under_load_loses_nothing() {
    for seed in seeds(5) {
        let mut network = connected(seed);
        let handshakes = network.wiretap.count(MessageType::Finish);
        let mut sent = 0u32;
        let end = network.now + REKEY_AFTER * 3 + SECOND;
        while network.now < end {
            network.send(0, &[frame(mac(1, 1), mac(2, 1), &sent.to_le_bytes())]);
            network.send(1, &[frame(mac(2, 1), mac(1, 1), &sent.to_le_bytes())]);
            sent += 1;
            network.run(Duration::from_millis(50));
        }
        network.run(SECOND);
        assert!(network.wiretap.count(MessageType::Finish) >= handshakes + 3, "seed {seed}: keys were changed");
        for node in 0..2 {
            let numbers: Vec<_> = delivered_payloads(&network, node);
            let expected: Vec<_> = (0..sent).map(|number| number.to_le_bytes().to_vec()).collect();
            assert_eq!(numbers, expected, "seed {seed}, node {node}");
        }
        network.wiretap.assert_no_nonce_reused();
    }
}

#[test]
fn a_replayed_or_damaged_datagram_is_dropped_and_counted() {
    let mut network = connected(1);
    network.wiretap.seen.clear();
    network.conditions.max_datagram = 0;
    network.send(0, &[frame(mac(1, 1), mac(2, 1), b"once")]);
    network.conditions.max_datagram = 1472;
    let observed = network.wiretap.seen[0].clone();
    let bit_count = observed.datagram.len() * 8;
    for bit in 0..bit_count {
        let mut damaged = observed.datagram.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        network.inject(observed.from, observed.to, damaged);
    }
    network.run(SECOND / 10);
    assert!(delivered_payloads(&network, 1).is_empty());
    let stats = network.nodes[1].stats.clone();
    assert!(stats.dropped(DropReason::Forged) as usize >= bit_count - 16 * 8);
    let replayed_before = stats.dropped(DropReason::Replayed);
    for _ in 0..3 {
        network.inject(observed.from, observed.to, observed.datagram.clone());
    }
    network.run(SECOND / 10);
    assert_eq!(delivered_payloads(&network, 1), [b"once".to_vec()]);
    assert_eq!(stats.dropped(DropReason::Replayed) - replayed_before, 2);
}

#[test]
fn a_replayed_initiation_costs_no_response() {
    let mut network = connected(1);
    let is_initiation = |datagram: &[u8]| datagram[0] & 0x0f == 1;
    let initiations: Vec<_> =
        network.wiretap.seen.iter().filter(|observed| is_initiation(&observed.datagram)).cloned().collect();
    let responses = network.wiretap.count(MessageType::Response);
    for _ in 0..2 {
        for observed in &initiations {
            network.inject(observed.from, observed.to, observed.datagram.clone());
        }
        network.run(SECOND);
        network.restart(1);
        network.nodes[0].desired.targets.clear();
        network.apply();
    }
    assert_eq!(network.wiretap.count(MessageType::Response), responses);
}

#[test]
fn a_wrong_secret_gets_nowhere_and_both_sides_are_told() {
    let mut network = Network::pair(Conditions::lan(), 1);
    network.nodes[0].desired.cluster_secret = weaved_api::ClusterSecret([1; 32]);
    network.apply();
    network.run(10 * SECOND);
    assert!(!network.is_full_mesh());
    let target = network.nodes[1].address;
    let failed = Event::TargetFailed { endpoint: target, failure: TargetFailure::OtherSecret };
    assert!(network.nodes[0].events.contains(&failed), "{:?}", network.nodes[0].events);
    let stranger = Event::StrangerRefused { endpoint: network.nodes[0].address };
    assert!(network.nodes[1].events.contains(&stranger), "{:?}", network.nodes[1].events);
    assert_eq!(network.wiretap.count(MessageType::Response), 0);
}

#[test]
fn a_target_that_is_ourselves_or_silent_is_told() {
    let mut network = Network::new(1, Conditions::lan(), 1);
    let own = network.nodes[0].address;
    let nobody = "192.168.99.99:6783".parse().unwrap();
    network.nodes[0].desired.targets = vec![own, nobody];
    network.apply();
    network.run(20 * SECOND);
    for (endpoint, failure) in [(own, TargetFailure::Ourselves), (nobody, TargetFailure::NoAnswer)] {
        let event = Event::TargetFailed { endpoint, failure };
        assert!(network.nodes[0].events.contains(&event), "{event:?} in {:?}", network.nodes[0].events);
    }
}

#[test]
fn a_quarantined_peer_keeps_its_session_and_exchanges_no_frames() {
    let mut network = connected(1);
    let peer = network.nodes[1].id;
    network.nodes[0].desired.quarantined = vec![peer];
    network.apply();
    network.run(SECOND / 10);
    network.send(0, &[frame(mac(1, 1), mac(2, 1), b"out"), frame(mac(1, 1), weaved_api::MacAddr::BROADCAST, b"all")]);
    network.send(1, &[frame(mac(2, 1), mac(1, 1), b"in")]);
    let first = network.nodes[0].id;
    network.nodes[1].router.handle_send_control(first, b"let us talk");
    network.run(SECOND / 10);
    assert!(network.nodes.iter().all(|node| node.delivered.is_empty()));
    assert_eq!(network.nodes[0].stats.dropped(DropReason::Quarantined), 1);
    let heard = Event::Control { from: peer, bytes: b"let us talk".to_vec() };
    assert!(network.nodes[0].events.contains(&heard));

    network.nodes[0].desired.quarantined.clear();
    network.apply();
    network.run(SECOND / 10);
    network.send(0, &[frame(mac(1, 1), mac(2, 1), b"again")]);
    network.run(SECOND / 10);
    assert_eq!(delivered_payloads(&network, 1), [b"again".to_vec()]);
}

#[test]
fn a_clone_is_told_and_an_old_initiation_of_our_own_is_not() {
    let mut network = connected(1);
    let own = network.wiretap.seen.iter().find(|observed| observed.datagram[0] & 0x0f == 1).unwrap().clone();
    let is_alarm = |event: &Event| matches!(event, Event::TargetFailed { failure: TargetFailure::ClonedIdentity, .. });
    network.inject(own.to, own.from, own.datagram);
    network.run(SECOND);
    assert!(!network.nodes[0].events.iter().any(is_alarm));

    let address = network.nodes[0].address;
    network.restart_as(1, 0);
    network.nodes[1].desired.targets = vec![address];
    network.apply();
    network.run(SECOND);
    assert!(network.nodes[0].events.iter().any(is_alarm), "{:?}", network.nodes[0].events);
}

#[test]
fn a_peer_that_restarts_is_back_within_a_few_round_trips() {
    let mut network = Network::mesh(2, Conditions::lan(), 1);
    assert!(network.run_until(5 * SECOND, Network::is_full_mesh));
    network.run(30 * SECOND);
    network.restart(0);
    assert!(network.run_until(SECOND / 20, Network::is_full_mesh));
    network.send(0, &[frame(mac(1, 1), weaved_api::MacAddr::BROADCAST, b"back")]);
    network.run(SECOND / 20);
    assert_eq!(delivered_payloads(&network, 1), [b"back".to_vec()]);
}

#[test]
fn a_peer_that_is_cut_off_goes_down_and_comes_back() {
    let mut network = Network::mesh(2, Conditions::lan(), 1);
    assert!(network.run_until(5 * SECOND, Network::is_full_mesh));
    network.cut.insert((0, 1));
    network.run(20 * SECOND);
    let down = Event::PeerDown { id: network.nodes[1].id, end: LinkEnd::Silent };
    assert!(network.nodes[0].events.contains(&down));
    network.cut.clear();
    assert!(network.run_until(15 * SECOND, Network::is_full_mesh));
}

#[test]
fn a_peer_that_has_left_is_given_up() {
    let mut network = Network::mesh(2, Conditions::lan(), 1);
    assert!(network.run_until(5 * SECOND, Network::is_full_mesh));
    network.run(60 * SECOND);
    network.nodes[0].desired.peers.clear();
    network.apply();
    network.cut.insert((0, 1));
    network.run(15 * SECOND);
    let left = network.nodes[1].id;
    assert!(!network.nodes[0].is_connected(left));
}

#[test]
fn an_old_session_ends_when_it_is_too_old() {
    let mut network = Network::mesh(2, Conditions::lan(), 1);
    assert!(network.run_until(5 * SECOND, Network::is_full_mesh));
    network.run(REKEY_AFTER + 30 * SECOND);
    assert!(network.nodes[0].table().inbound.len() >= 2, "the session before the rekey still opens");
    network.run(REJECT_AFTER.saturating_sub(REKEY_AFTER + 20 * SECOND));
    assert_eq!(network.nodes[0].table().inbound.len(), 1);
}

#[test]
fn a_peer_that_roams_is_followed_after_its_first_authentic_datagram() {
    let mut network = connected(1);
    let new_address = "203.0.113.7:4500".parse().unwrap();
    network.seen_as.insert(0, new_address);
    network.send(0, &[frame(mac(1, 1), mac(2, 1), b"from elsewhere")]);
    network.run(SECOND / 10);
    network.send(1, &[frame(mac(2, 1), mac(1, 1), b"found you")]);
    network.run(SECOND / 10);
    assert_eq!(delivered_payloads(&network, 0), [b"found you".to_vec()]);
    assert_eq!(network.nodes[1].table().peers[0].endpoint, new_address);
}

#[test]
fn a_peer_whose_address_changes_all_the_time_is_followed_once_a_second() {
    let mut network = connected(1);
    network.nodes[1].events.clear();
    let addresses = [7_u8, 8].map(|last| SocketAddr::from(([203, 0, 113, last], 4500)));
    for round in 0..100 {
        network.seen_as.insert(0, addresses[round % 2]);
        network.send(0, &[frame(mac(1, 1), mac(2, 1), b"from here and there")]);
        network.run(SECOND / 50);
    }
    let moves = network.nodes[1].events.iter().filter(|event| matches!(event, Event::PeerUp { .. })).count();
    assert!((2..=3).contains(&moves), "{moves} in two seconds");
    network.run(SECOND);
    network.seen_as.insert(0, addresses[0]);
    network.send(0, &[frame(mac(1, 1), mac(2, 1), b"here to stay")]);
    network.run(SECOND / 10);
    assert_eq!(network.nodes[1].table().peers[0].endpoint, addresses[0]);
    assert_eq!(delivered_payloads(&network, 1).len(), 101, "nothing is lost of what comes");
}

#[test]
fn a_path_that_shrinks_in_silence_is_noticed_under_load() {
    let mut network = connected(1);
    network.run(5 * SECOND);
    let big = frame(mac(1, 1), mac(2, 1), &[1; 1486]);
    let send_for = |network: &mut Network, time: Duration| {
        let end = network.now + time;
        while network.now < end {
            network.send(0, &vec![big.clone(); 10]);
            network.run(Duration::from_millis(100));
        }
    };
    send_for(&mut network, 8 * SECOND);
    network.conditions.max_datagram = 1300;
    send_for(&mut network, 8 * SECOND);
    network.nodes[1].delivered.clear();
    network.send(0, std::slice::from_ref(&big));
    network.run(SECOND);
    assert_eq!(network.nodes[1].delivered.len(), 1, "delivered over the smaller path");
    assert!(network.nodes[0].table().peers[0].datagram_len.bytes() <= 1300);
}

fn counter(network: &Network, node: usize, name: &str) -> u64 {
    let counters = network.nodes[node].router.stats(network.now).counters;
    counters.iter().find(|counter| counter.name == name).expect("all are listed").value
}

#[test]
fn control_bytes_that_are_refused_as_too_big_lower_the_path_at_once() {
    let mut network = connected(1);
    network.run(SECOND);
    assert_eq!(network.nodes[0].table().peers[0].datagram_len.bytes(), 1472);
    network.conditions.max_sent = 1400;
    let (from, to) = (network.nodes[0].id, network.nodes[1].id);
    network.nodes[0].router.handle_send_control(to, &vec![1; 20_000]);
    network.run(SECOND / 50);
    assert_eq!(network.nodes[0].table().peers[0].datagram_len.bytes(), 1392);
    assert_eq!(counter(&network, 0, DropReason::UnderlayTooBig.name()), 20_000 / 1472 + 1);
    network.nodes[0].router.handle_send_control(to, &vec![2; 20_000]);
    network.run(SECOND / 50);
    assert!(network.nodes[1].events.contains(&Event::Control { from, bytes: vec![2; 20_000] }));
}

#[test]
fn probes_for_a_longer_path_that_are_refused_are_no_drops() {
    let mut network = Network::pair(Conditions { max_sent: 1472, ..Conditions::lan() }, 1);
    network.run(60 * SECOND);
    assert_eq!(network.nodes[0].table().peers[0].datagram_len.bytes(), 1472);
    assert_eq!(counter(&network, 0, DropReason::UnderlayTooBig.name()), 0);
    let refused = counter(&network, 0, "path_probes_refused");
    assert_eq!(refused, 3 * 4, "each longer rung in each round of one search");
}

#[test]
fn a_known_neighbour_is_answered_for_and_not_asked() {
    let mut network = connected(1);
    let peer = network.nodes[1].id;
    let ip = [10, 32, 2, 2];
    network.nodes[0].want_neighbour(Neighbour { mac: mac(2, 9), ips: vec![ip.into()], peer });
    network.apply();
    network.run(SECOND / 10);
    let mut request = frame(mac(1, 1), weaved_api::MacAddr::BROADCAST, &[]);
    request[12..14].copy_from_slice(&[0x08, 0x06]);
    request.extend([0, 1, 8, 0, 6, 4, 0, 1]);
    request.extend(mac(1, 1).0);
    request.extend([10, 32, 1, 2]);
    request.extend([0; 6]);
    request.extend(ip);
    network.send(0, &[request]);
    network.run(SECOND / 10);
    assert!(network.nodes[1].delivered.is_empty(), "the question stayed at home");
    let (_, answer) = &network.nodes[0].delivered[0];
    assert_eq!(answer[..6], mac(1, 1).0);
    assert_eq!(answer[22..28], mac(2, 9).0, "sender hardware address");
    assert_eq!(answer[28..32], ip);
}

#[test]
fn the_same_seed_gives_the_same_datagrams() {
    let run = || {
        let mut network = Network::pair(Conditions::rough(), 42);
        network.run(10 * SECOND);
        network.wiretap.seen.into_iter().map(|observed| observed.datagram).collect::<Vec<_>>()
    };
    assert!(run() == run());
}

//! Networks of several nodes against the reference model, with many seeds: what holds whatever the underlay does, and
//! what a clean underlay makes sure of besides. `WEAVED_SEED` runs one seed.

use std::time::Duration;

use weaved_api::{MacAddr, Neighbour, PeerId};
use weaved_core::{
    fib::FibPort,
    forward::{DropReason, Punt, Short, SlowRecord},
    limits::{BUM_BURST, BUM_FREE_COPIES, BUM_SOURCE_PART, MAX_LEARNED_OF_PORT},
    noise::spec::REKEY_AFTER,
    rng::Rng,
    testing::{
        Conditions, Network, Reach, Reference,
        frames::{frame, mac},
        reference::{MARKER, below},
        seeds,
    },
    wire::header::MessageType,
};

const SECOND: Duration = Duration::from_secs(1);

fn test_rng(seed: u64) -> Rng {
    let mut key = [0x11; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    Rng::new(key)
}

/// A mesh in which everybody is connected with everybody.
fn connected(count: u16, seed: u64) -> Network {
    let mut network = Network::mesh(count, Conditions::lan(), seed);
    assert!(network.run_until(10 * SECOND, Network::is_full_mesh), "seed {seed}");
    network
}

/// The same, and every host has learned where every container is.
fn learned(count: u16, containers: u16, seed: u64) -> (Network, Reference) {
    let mut network = connected(count, seed);
    let mut reference = Reference::new(&network, containers);
    reference.announce(&mut network);
    network.run(SECOND / 10);
    (network, reference)
}

fn some_len(rng: &mut Rng) -> usize {
    [22, 60, 300, 1400, 1514, 9014, 65_000][below(rng, 7)]
}

/// Random frames in bursts over some time. Unicast frames go to exactly one host.
fn talk(network: &mut Network, reference: &mut Reference, rng: &mut Rng, rounds: usize) {
    for _ in 0..rounds {
        let from = reference.any_container(rng);
        let host = reference.place(from);
        let burst: Vec<_> = (0..=below(rng, 6))
            .filter_map(|_| {
                let to = reference.any_container(rng);
                let there = reference.place(to);
                match below(rng, 6) {
                    0 => Some(reference.frame(from, MacAddr::BROADCAST, some_len(rng), Reach::Everybody)),
                    _ if there == host => None,
                    _ => Some(reference.frame(from, to, some_len(rng), Reach::Host(there))),
                }
            })
            .collect();
        network.send(host, &burst);
        network.run(Duration::from_micros(below(rng, 3000) as u64));
    }
}

#[test]
fn on_a_clean_network_every_frame_arrives_exactly_where_it_should() {
    for (count, seed_count) in [(3, 8), (8, 3), (20, 1)] {
        for seed in seeds(seed_count) {
            let (mut network, mut reference) = learned(count, 2, seed);
            talk(&mut network, &mut reference, &mut test_rng(seed), 150);
            network.run(SECOND);
            let foreign = reference.collect(&mut network);
            assert!(foreign.is_empty(), "frames from nowhere");
            reference.assert_complete(&network, &format!("{count} nodes, seed {seed}"));
            network.wiretap.assert_unreadable(MARKER);
            network.wiretap.assert_no_nonce_reused();
        }
    }
}

/// Anything that may happen to hosts, paths and containers while frames flow.
fn disturb(network: &mut Network, reference: &mut Reference, rng: &mut Rng) {
    let count = network.nodes.len();
    let (one, other) = (below(rng, count), below(rng, count));
    match below(rng, 8) {
        0 => {
            // What the TAP was given before the restart still counts.
            reference.collect(network);
            network.restart(one);
        }
        1 if one != other => drop(network.cut.insert((one.min(other), one.max(other)))),
        2 => network.cut.clear(),
        3 => {
            let address = ([203, 0, 113, one as u8], 1024 + below(rng, 60_000) as u16).into();
            network.seen_as.insert(one, address);
        }
        4 => {
            let container = reference.any_container(rng);
            reference.move_container(container, other);
        }
        5 => network.conditions.loss = f64::from(below(rng, 20) as u32) / 100.0,
        6 => network.conditions.max_datagram = [1232, 1300, 1372, 1472][below(rng, 4)],
        _ => {}
    }
}

/// Frames to anybody, sent whether or not anybody can be reached.
fn talk_blindly(network: &mut Network, reference: &mut Reference, rng: &mut Rng) {
    for _ in 0..8 {
        let (from, to) = (reference.any_container(rng), reference.any_container(rng));
        let to = if below(rng, 4) == 0 { MacAddr::BROADCAST } else { to };
        reference.send(network, from, to, some_len(rng), Reach::Everybody);
        network.run(Duration::from_millis(below(rng, 20) as u64));
    }
}

#[test]
fn whatever_happens_no_frame_arrives_twice_or_changed_or_where_it_came_from() {
    for (count, seed_count) in [(3, 12), (8, 3)] {
        for seed in seeds(seed_count) {
            let mut network = Network::mesh(count, Conditions::rough(), seed);
            let mut reference = Reference::new(&network, 2);
            let mut rng = test_rng(seed);
            for _ in 0..40 {
                disturb(&mut network, &mut reference, &mut rng);
                talk_blindly(&mut network, &mut reference, &mut rng);
                network.run(Duration::from_millis(below(&mut rng, 3000) as u64));
                reference.collect(&mut network);
            }
            network.wiretap.assert_no_nonce_reused();
            network.wiretap.assert_unreadable(MARKER);
            heals(&mut network, &mut reference, &mut rng, &format!("{count} nodes, seed {seed}"));
        }
    }
}

/// Once the underlay is clean, everything works again without anybody's help.
fn heals(network: &mut Network, reference: &mut Reference, rng: &mut Rng, context: &str) {
    network.conditions = Conditions::lan();
    network.cut.clear();
    assert!(network.run_until(60 * SECOND, Network::is_full_mesh), "{context}: connected again");
    // Sessions with what a host was before it restarted are given up meanwhile.
    network.run(30 * SECOND);
    assert!(network.is_full_mesh(), "{context}: stays connected");
    reference.collect(network);
    reference.excuse_missing();
    reference.announce(network);
    network.run(SECOND);
    talk(network, reference, rng, 100);
    network.run(SECOND);
    reference.collect(network);
    reference.assert_complete(network, context);
}

#[test]
fn all_pairs_of_a_mesh_shake_hands_under_thirty_percent_loss() {
    for seed in seeds(6) {
        let conditions = Conditions { loss: 0.3, ..Conditions::rough() };
        let mut network = Network::mesh(8, conditions, seed);
        assert!(network.run_until(90 * SECOND, Network::is_full_mesh), "seed {seed}");
    }
}

/// Both ends dial at the same instant, with the same delay: each answers the other before it is answered.
#[test]
fn simultaneous_dialling_ends_in_sessions_that_work_both_ways() {
    for seed in seeds(20) {
        let jitter = Duration::from_micros(seed * 37 % 200);
        let mut network = Network::mesh(2, Conditions { jitter, ..Conditions::lan() }, seed);
        assert!(network.run_until(2 * SECOND, Network::is_full_mesh), "seed {seed}");
        network.run(SECOND);
        let mut reference = Reference::new(&network, 1);
        reference.announce(&mut network);
        network.run(SECOND);
        reference.collect(&mut network);
        reference.assert_complete(&network, &format!("seed {seed}"));
        let ends = [0, 1].map(|node| network.nodes[node].table().peers[0].session.clone());
        assert_eq!(ends[0].local(), ends[1].remote(), "seed {seed}: both ends settle on one session");
    }
}

/// Frames are always in flight, so keys that go too early lose some.
#[test]
fn rekeying_loses_nothing_when_both_ends_dial_and_the_path_is_long() {
    for seed in seeds(6) {
        let delay = Duration::from_millis(10 + seed * 7);
        let mut network = Network::mesh(2, Conditions { delay, ..Conditions::lan() }, seed);
        assert!(network.run_until(10 * SECOND, Network::is_full_mesh), "seed {seed}");
        let mut reference = Reference::new(&network, 1);
        reference.announce(&mut network);
        network.run(SECOND);
        let handshakes = network.wiretap.count(MessageType::Finish);
        let end = network.now + REKEY_AFTER * 2 + 5 * SECOND;
        while network.now < end {
            for (from, to) in [(1, 2), (2, 1)] {
                reference.send(&mut network, mac(from, 1), mac(to, 1), 60, Reach::Host(usize::from(to) - 1));
            }
            network.run(Duration::from_millis(9));
        }
        network.run(SECOND);
        assert!(network.wiretap.count(MessageType::Finish) >= handshakes + 2, "seed {seed}: keys were changed");
        reference.collect(&mut network);
        reference.assert_complete(&network, &format!("seed {seed}"));
    }
}

#[test]
fn a_flood_reaches_every_other_host_once_and_nobody_passes_it_on() {
    let (mut network, mut reference) = learned(8, 1, 1);
    reference.collect(&mut network);
    network.wiretap.seen.clear();
    let multicast = MacAddr([0x33, 0x33, 0, 0, 0, 1]);
    let unknown = MacAddr([2, 9, 9, 9, 9, 9]);
    for to in [MacAddr::BROADCAST, multicast, unknown] {
        reference.send(&mut network, mac(1, 1), to, 100, Reach::Everybody);
    }
    network.run(Duration::from_millis(50));
    reference.collect(&mut network);
    reference.assert_complete(&network, "floods");
    let origin = network.nodes[0].address;
    // Frames travel on the workers' lane; the router's own messages are probes.
    let senders = network.wiretap.seen.iter().filter(|observed| observed.datagram[2] == 1).map(|seen| seen.from);
    let senders: Vec<_> = senders.collect();
    assert_eq!(senders, vec![origin; 3 * 7], "one copy for each peer, all of them by the sender");
}

#[test]
fn a_container_that_moves_to_another_host_is_followed() {
    for seed in seeds(10) {
        let (mut network, mut reference) = learned(5, 2, seed);
        let mut rng = test_rng(seed);
        for _ in 0..10 {
            let container = reference.any_container(&mut rng);
            reference.move_container(container, below(&mut rng, 5));
            // Docker and the kernel announce an address that has come up.
            reference.send(&mut network, container, MacAddr::BROADCAST, 60, Reach::Everybody);
            network.run(SECOND / 10);
            talk(&mut network, &mut reference, &mut rng, 20);
        }
        network.run(SECOND);
        reference.collect(&mut network);
        reference.assert_complete(&network, &format!("seed {seed}"));
        assert!((0..5).any(|host| counter(&network, host, "mac_moves") > 0), "seed {seed}");
    }
}

/// A counter of a node, over all its threads.
fn counter(network: &Network, node: usize, name: &str) -> u64 {
    let stats = network.nodes[node].router.stats(network.now);
    stats.counters.iter().find(|counter| counter.name == name).expect("the counter exists").value
}

/// Every drop of a node, with its reason.
fn drops(network: &Network, node: usize) -> Vec<(String, u64)> {
    let stats = network.nodes[node].router.stats(network.now);
    let drops = stats.counters.into_iter().filter(|counter| counter.name.starts_with("drop_") && counter.value > 0);
    drops.map(|counter| (counter.name, counter.value)).collect()
}

/// Host `host` knows the container `mac(peer + 1, number)` from control.
fn tell(network: &mut Network, host: usize, peer: usize, number: u16, ip: [u8; 4]) {
    let id = network.nodes[peer].id;
    let neighbour = Neighbour { mac: mac(peer as u16 + 1, number), ips: vec![ip.into()], peer: id };
    network.nodes[host].want_neighbour(neighbour);
}

#[test]
fn a_static_address_is_not_taken_over_by_a_peer_that_claims_it() {
    let (mut network, _) = learned(3, 1, 1);
    tell(&mut network, 0, 1, 9, [10, 32, 2, 9]);
    network.apply();
    network.run(SECOND);
    network.nodes.iter_mut().for_each(|node| node.delivered.clear());
    let before = drops(&network, 0).len();
    // Host 2 pretends to have the container of host 1.
    for _ in 0..5 {
        network.send(2, &[frame(mac(2, 9), mac(1, 1), b"I am another")]);
        network.run(SECOND / 10);
    }
    assert!(network.nodes[0].delivered.is_empty(), "nothing of it is delivered");
    assert_eq!(drops(&network, 0).len(), before + 1, "{:?}", drops(&network, 0));
    assert_eq!(counter(&network, 0, DropReason::SourceMismatch.name()), 5);
    network.send(0, &[frame(mac(1, 1), mac(2, 9), b"still yours")]);
    network.run(SECOND / 10);
    assert_eq!(network.nodes[1].delivered.len(), 1, "frames for it still go to its host");
    assert!(network.nodes[2].delivered.is_empty());
}

#[test]
fn static_addresses_need_no_learning_and_survive_a_restart() {
    let mut network = connected(4, 1);
    for host in 0..4 {
        (0..4).filter(|peer| *peer != host).for_each(|peer| tell(&mut network, host, peer, 1, [10, 32, peer as u8, 2]));
    }
    network.apply();
    network.run(SECOND);
    let mut reference = Reference::new(&network, 1);
    for _ in 0..2 {
        for (from, to) in [(1, 2), (2, 3), (3, 4), (4, 1), (4, 2)] {
            reference.send(&mut network, mac(from, 1), mac(to, 1), 100, Reach::Host(usize::from(to) - 1));
        }
        network.run(SECOND);
        assert_eq!(counter(&network, 0, "frames_flooded"), 0);
        reference.collect(&mut network);
        network.restart(0);
        assert!(network.run_until(5 * SECOND, Network::is_full_mesh));
    }
    reference.assert_complete(&network, "static addresses");
}

#[test]
fn a_frame_for_a_host_that_is_away_is_dropped_and_counted_not_flooded() {
    let mut network = connected(3, 1);
    tell(&mut network, 0, 1, 1, [10, 32, 2, 2]);
    network.apply();
    network.cut.extend([(0, 1)]);
    network.run(20 * SECOND);
    network.send(0, &[frame(mac(1, 1), mac(2, 1), b"anybody there")]);
    network.run(SECOND);
    assert_eq!(counter(&network, 0, DropReason::NoSession.name()), 1);
    assert!(network.nodes[2].delivered.is_empty());
}

#[test]
fn floods_above_the_rate_are_dropped_and_counted() {
    let (mut network, _) = learned(2, 1, 1);
    network.run(SECOND);
    network.nodes[1].delivered.clear();
    let flood = frame(mac(1, 1), MacAddr::BROADCAST, &[0; 46]);
    let share = (BUM_BURST / BUM_SOURCE_PART) as usize;
    let burst = vec![flood; share + 500];
    network.send(0, &burst);
    network.run(SECOND / 10);
    assert_eq!(network.nodes[1].delivered.len(), share);
    assert_eq!(counter(&network, 0, DropReason::BumLimited.name()), 500);
    network.run(SECOND);
    network.nodes[1].delivered.clear();
    let known = frame(mac(1, 1), mac(2, 1), &[0; 46]);
    network.send(0, &burst);
    network.send(0, &[known]);
    network.run(SECOND / 10);
    assert_eq!(network.nodes[1].delivered.len(), share + 1, "unicast to a known address is not limited");
}

/// Of a flood to eight hosts twice as many copies are made as of one to four.
#[test]
fn the_more_hosts_a_flood_goes_to_the_fewer_frames_of_it_may() {
    let (mut network, _) = learned(9, 1, 1);
    network.run(SECOND);
    network.nodes[1].delivered.clear();
    let share = (BUM_BURST / BUM_SOURCE_PART * BUM_FREE_COPIES / 8) as usize;
    network.send(0, &vec![frame(mac(1, 1), MacAddr::BROADCAST, &[0; 46]); share + 500]);
    network.run(SECOND / 10);
    assert_eq!(network.nodes[1].delivered.len(), share);
    assert_eq!(counter(&network, 0, DropReason::BumLimited.name()), 500);
}

#[test]
fn datagrams_that_are_nobodys_are_dropped_and_counted() {
    let (mut network, _) = learned(2, 1, 1);
    let (from, to) = (network.nodes[1].address, network.nodes[0].address);
    let mut unknown_session = network.wiretap.seen.iter().rfind(|seen| seen.to == to).expect("seen").datagram.clone();
    unknown_session[4] ^= 1;
    let other_version = [0x71, 0, 0, 0, 0, 0];
    for (datagram, reason) in [
        (unknown_session, DropReason::UnknownSession),
        (vec![], DropReason::DatagramMalformed),
        (vec![0xff; 65_507], DropReason::OtherVersion),
        (other_version.to_vec(), DropReason::OtherVersion),
    ] {
        let before = counter(&network, 0, reason.name());
        network.inject(from, to, datagram);
        network.run(Duration::from_millis(10));
        assert_eq!(counter(&network, 0, reason.name()), before + 1, "{reason:?}");
    }
}

#[test]
fn what_meets_a_peer_or_a_container_that_has_just_gone_is_counted() {
    let mut network = connected(2, 1);
    let (from, now) = (PeerId([9; 32]), network.now);
    let question = Short::new(&arp_request(mac(1, 1), [10, 32, 2, 2])).expect("it is short");
    let late = [
        (Punt::Record { from, record: SlowRecord::Control(b"late".to_vec()) }, DropReason::UnknownSession),
        (Punt::Question(question), DropReason::NeighbourGone),
    ];
    for (punt, reason) in late {
        let before = counter(&network, 0, reason.name());
        network.nodes[0].router.handle_punt(punt, now);
        assert_eq!(counter(&network, 0, reason.name()), before + 1, "{reason:?}");
    }
}

#[test]
fn what_was_seen_of_a_peer_that_has_gone_is_not_learned_any_more() {
    let mut network = connected(2, 1);
    let (gone, now) = (FibPort::Peer(PeerId([9; 32])), network.now);
    network.nodes[0].router.handle_punt(Punt::Sighted { mac: mac(9, 1), port: gone }, now);
    network.run(SECOND);
    network.send(0, &[frame(mac(1, 1), mac(9, 1), b"wherever you are")]);
    let counted = ["frames_flooded", DropReason::NoSession.name()].map(|name| counter(&network, 0, name));
    assert_eq!(counted, [1, 0], "it may be anywhere now");
}

/// Every frame that was read from a TAP is delivered, answered, or in the count of one drop reason.
#[test]
fn on_a_clean_network_the_counters_account_for_every_frame() {
    for seed in seeds(10) {
        let (mut network, mut reference) = learned(4, 2, seed);
        let mut rng = test_rng(seed);
        tell(&mut network, 0, 1, 7, [10, 32, 2, 7]);
        network.apply();
        network.run(SECOND);
        for round in 0..60 {
            talk(&mut network, &mut reference, &mut rng, 1);
            let host = round / 6 % 4;
            let own = mac(host as u16 + 1, 1);
            let odd = match round % 6 {
                0 => vec![1; below(&mut rng, 14)],
                1 => frame(MacAddr::BROADCAST, own, b"from a group"),
                2 => frame(own, mac(host as u16 + 1, 2), b"to a neighbour on the same bridge"),
                3 => frame(mac(2, 7), MacAddr::BROADCAST, b"from where it is not"),
                4 => arp_request(own, [10, 32, 2, 7]),
                _ => frame(own, MacAddr([2, 8, 8, 8, 8, 8]), b"to nobody"),
            };
            network.send(host, &[odd]);
            network.run(Duration::from_millis(5));
        }
        network.run(SECOND);
        let total = |name: &str| (0..4).map(|node| counter(&network, node, name)).sum::<u64>();
        let refused_on_the_way_in = [
            DropReason::FrameTooShort,
            DropReason::SourceGroup,
            DropReason::Hairpin,
            DropReason::NoSession,
            DropReason::BumLimited,
        ];
        let refused: u64 = refused_on_the_way_in.iter().map(|reason| total(reason.name())).sum();
        let floods = total("frames_flooded");
        let unicast = total("tap_frames_in") - refused - total("neighbours_answered") - floods;
        let stopped = total(DropReason::SourceMismatch.name());
        assert_eq!(unicast + 3 * floods, total("tap_frames_out") + stopped, "seed {seed}");
        assert!(floods > 0 && unicast > 0 && refused > 0 && stopped > 0 && total("neighbours_answered") > 0);
    }
}

fn arp_request(from: MacAddr, ip: [u8; 4]) -> Vec<u8> {
    let mut request = frame(from, MacAddr::BROADCAST, &[]);
    request[12..14].copy_from_slice(&[0x08, 0x06]);
    request.extend([0, 1, 8, 0, 6, 4, 0, 1]);
    request.extend(from.0);
    request.extend([10, 32, 1, 2]);
    request.extend([0; 6]);
    request.extend(ip);
    request
}

#[test]
fn a_known_address_is_answered_for_at_home_and_an_unknown_one_is_asked_for() {
    let mut network = connected(3, 1);
    tell(&mut network, 0, 1, 1, [10, 32, 2, 2]);
    network.apply();
    network.run(SECOND);
    network.send(0, &[arp_request(mac(1, 1), [10, 32, 2, 2])]);
    network.run(SECOND);
    assert_eq!(network.nodes.iter().map(|node| node.delivered.len()).collect::<Vec<_>>(), [1, 0, 0]);
    assert_eq!(counter(&network, 0, "neighbours_answered"), 1);
    network.send(0, &[arp_request(mac(1, 1), [10, 32, 2, 3])]);
    network.run(SECOND);
    assert_eq!(network.nodes.iter().map(|node| node.delivered.len()).collect::<Vec<_>>(), [1, 1, 1]);
}

/// A container with VLANs of its own: their addresses are not those that control tells of.
#[test]
fn a_question_with_a_vlan_tag_is_carried_and_not_answered_from_the_plan_without_tags() {
    let mut network = connected(3, 1);
    tell(&mut network, 0, 1, 1, [10, 32, 2, 2]);
    network.apply();
    network.run(SECOND);
    for tags in [&[0x81, 0, 0, 7][..], &[0x88, 0xa8, 0, 7, 0x81, 0, 0, 9]] {
        network.nodes.iter_mut().for_each(|node| node.delivered.clear());
        let mut tagged = arp_request(mac(1, 1), [10, 32, 2, 2]);
        tagged.splice(12..12, tags.iter().copied());
        network.send(0, &[tagged]);
        network.run(SECOND / 10);
        assert_eq!(network.nodes.iter().map(|node| node.delivered.len()).collect::<Vec<_>>(), [0, 1, 1]);
    }
    assert_eq!(counter(&network, 0, "neighbours_answered"), 0);
}

#[test]
fn questions_above_the_rate_are_not_the_routers_to_answer() {
    let mut network = connected(2, 1);
    tell(&mut network, 0, 1, 1, [10, 32, 2, 2]);
    network.apply();
    network.run(SECOND);
    let share = (BUM_BURST / BUM_SOURCE_PART) as usize;
    network.send(0, &vec![arp_request(mac(1, 1), [10, 32, 2, 2]); share + 500]);
    network.run(SECOND / 10);
    assert_eq!(counter(&network, 0, "neighbours_answered"), share as u64);
    assert_eq!(counter(&network, 0, DropReason::BumLimited.name()), 500);
}

#[test]
fn a_container_that_claims_the_address_of_one_elsewhere_is_heard_nowhere() {
    let (mut network, _) = learned(3, 1, 1);
    tell(&mut network, 0, 1, 9, [10, 32, 2, 9]);
    network.apply();
    network.run(SECOND);
    network.nodes.iter_mut().for_each(|node| node.delivered.clear());
    let to_its_host = frame(mac(2, 9), mac(2, 1), b"I am your neighbour");
    network.send(0, &[to_its_host, frame(mac(2, 9), MacAddr::BROADCAST, b"I am here")]);
    network.run(SECOND / 10);
    assert!(network.nodes.iter().all(|node| node.delivered.is_empty()));
    assert_eq!(counter(&network, 0, DropReason::SourceMismatch.name()), 2);
}

#[test]
fn a_container_that_invents_addresses_fills_the_part_of_its_own_host_only() {
    let (mut network, _) = learned(3, 1, 1);
    let known = network.nodes[1].table().macs.len();
    let invented = |number: usize| MacAddr([6, 0, 0, (number >> 16) as u8, (number >> 8) as u8, number as u8]);
    for number in 0..MAX_LEARNED_OF_PORT + 100 {
        network.send(0, &[frame(invented(number), mac(2, 1), b"one of many")]);
    }
    network.run(SECOND);
    // One of the part is the container's own address.
    for node in [0, 1] {
        assert_eq!(counter(&network, node, DropReason::MacTableFull.name()), 101, "host {node}");
        assert_eq!(network.nodes[node].table().macs.len(), known + MAX_LEARNED_OF_PORT - 1);
    }
    // Everybody else is learned as before.
    network.send(2, &[frame(mac(3, 7), MacAddr::BROADCAST, b"I am new here")]);
    network.run(SECOND);
    for node in [0, 1, 2] {
        assert!(network.nodes[node].table().mac(mac(3, 7)).is_some(), "host {node}");
    }
}

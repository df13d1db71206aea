//! Many peers: what a node costs when it knows a thousand of them, and that one node serves hundreds.

use std::time::Duration;

use weaved_api::{MacAddr, PeerId};
use weaved_core::{
    testing::{Conditions, Network, frames::frame, frames::mac},
    wire::handshake::INITIATION_LEN,
};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

#[test]
fn a_thousand_peers_that_do_not_answer_cost_a_bounded_trickle() {
    let mut network = Network::new(1, Conditions::lan(), 1);
    for number in 0..1000_u16 {
        let [high, low] = number.to_be_bytes();
        let mut id = [0x77; 32];
        id[..2].copy_from_slice(&[high, low]);
        network.nodes[0].want_peer(PeerId(id), ([10, 99, high, low], 6783).into());
    }
    network.apply();
    let mut per_minute = Vec::new();
    for _ in 0..5 {
        network.wiretap.seen.clear();
        network.run(MINUTE);
        per_minute.push(network.wiretap.seen.len());
        let largest = network.wiretap.seen.iter().map(|seen| seen.datagram.len()).max();
        assert_eq!(largest, Some(INITIATION_LEN));
    }
    // The first minute: one after 0.3 s, one after 0.6 s, then every 2 s and every 5 s. In the end four a minute each.
    assert!(per_minute[0] <= 24_000, "{per_minute:?}");
    assert!(per_minute.is_sorted_by(|earlier, later| earlier >= later), "{per_minute:?}");
    assert!(per_minute[4] <= 4_000 + 1_000, "{per_minute:?}");
    let table = network.nodes[0].table();
    assert!(table.peers.is_empty() && table.inbound.is_empty() && table.macs.is_empty());
    // Each failure is told once, not with every attempt.
    assert_eq!(network.nodes[0].events.len(), 1000, "{:?}", network.nodes[0].events.first());
}

#[test]
fn one_node_meshes_with_two_hundred_that_all_come_at_once() {
    let mut network = Network::new(200, Conditions::lan(), 1);
    let hub = (network.nodes[0].id, network.nodes[0].address);
    for at in 1..200 {
        let (id, address) = (network.nodes[at].id, network.nodes[at].address);
        network.nodes[0].want_peer(id, address);
        network.nodes[at].want_peer(hub.0, hub.1);
    }
    network.apply();
    let is_up = |network: &Network| {
        network.nodes[0].table().peers.len() == 199
            && network.nodes[1..].iter().all(|node| node.table().peers.len() == 1)
    };
    assert!(network.run_until(10 * SECOND, is_up), "{} peers", network.nodes[0].table().peers.len());
    network.send(0, &[frame(mac(1, 1), MacAddr::BROADCAST, b"to all")]);
    network.run(SECOND);
    assert!(network.nodes[1..].iter().all(|node| node.delivered.len() == 1));
    for at in 1..200 {
        network.send(at, &[frame(mac(at as u16 + 1, 1), mac(1, 1), &[at as u8; 1000])]);
    }
    network.run(SECOND);
    assert_eq!(network.nodes[0].delivered.len(), 199);
}

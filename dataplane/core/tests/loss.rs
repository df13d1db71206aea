//! What a node learns of the loss on its paths, and how it packs frames because of it. Simulated, with seeds.

use std::time::Duration;

use weaved_api::{MacAddr, PackingStatus, SessionStatus};
use weaved_core::{
    forward::{DropReason, Packing},
    testing::{
        Conditions, Network,
        frames::{mac, tcp_superframe},
        seeds,
    },
};

fn connect(seed: u64) -> Network {
    let mut network = Network::mesh(2, Conditions::lan(), seed);
    assert!(network.run_until(Duration::from_secs(10), Network::is_full_mesh), "seed {seed}");
    network.run(Duration::from_secs(5));
    network
}

/// Bulk traffic from the first node to the second, and what acknowledges it.
fn transfer(network: &mut Network, seconds: u64) {
    for _ in 0..seconds * 100 {
        network.send_offloaded(0, &[tcp_superframe(mac(1, 1), MacAddr([2, 9, 9, 9, 9, 9]), 60_000, 1448)]);
        network.send_offloaded(1, &[tcp_superframe(mac(2, 1), MacAddr([2, 9, 9, 9, 9, 8]), 3000, 1448)]);
        network.run(Duration::from_millis(10));
    }
}

fn packing(network: &Network, node: usize) -> Packing {
    network.nodes[node].table().peers[0].packing
}

fn status(network: &Network, node: usize) -> SessionStatus {
    let stats = network.nodes[node].router.stats(network.now);
    stats.peers[0].session.clone().expect("they are connected")
}

#[test]
fn a_sender_learns_what_its_path_loses_and_packs_accordingly() {
    for seed in seeds(8) {
        let mut network = connect(seed);
        transfer(&mut network, 4);
        assert_eq!((packing(&network, 0), status(&network, 0).loss_ppm), (Packing::Trains, Some(0)), "seed {seed}");
        network.conditions.loss = 0.01;
        transfer(&mut network, 5);
        assert_eq!(packing(&network, 0), Packing::Singles, "seed {seed}");
        let SessionStatus { loss_ppm, packing: shown, .. } = status(&network, 0);
        assert!((4000..20_000).contains(&loss_ppm.expect("there was a window")), "seed {seed}: {loss_ppm:?}");
        assert_eq!(shown, PackingStatus::Singles);
        network.conditions.loss = 0.0;
        transfer(&mut network, 6);
        assert_eq!((packing(&network, 0), status(&network, 0).loss_ppm), (Packing::Trains, Some(0)), "seed {seed}");
    }
}

#[test]
fn what_the_receivers_own_socket_loses_is_no_loss_of_the_path() {
    for seed in seeds(4) {
        let mut network = connect(seed);
        transfer(&mut network, 2);
        network.conditions.loss = 0.05;
        for _ in 0..10 {
            network.nodes[1].stats.count_drop(DropReason::UdpOverflow);
            transfer(&mut network, 1);
        }
        assert_eq!(packing(&network, 0), Packing::Trains, "seed {seed}");
        transfer(&mut network, 6);
        assert_eq!(packing(&network, 0), Packing::Singles, "seed {seed}: the same without a word of the socket");
    }
}

#[test]
fn what_has_not_left_the_senders_host_is_no_loss_of_the_path() {
    for (seed, full) in seeds(3).flat_map(|seed| [(seed, 0.02), (seed, 0.1), (seed, 0.5)]) {
        let mut network = connect(seed);
        // Its own link refuses probes for a longer path, which are not the path's loss either.
        let delay = Duration::from_millis(20);
        network.conditions = Conditions { full, delay, max_sent: 1472, ..Conditions::lan() };
        transfer(&mut network, 15);
        assert_eq!(packing(&network, 0), Packing::Trains, "seed {seed}, {full}");
        assert_eq!(status(&network, 0).loss_ppm, Some(0), "seed {seed}, {full}");
        assert!(network.nodes[0].router.poll_gso_news().is_none(), "seed {seed}, {full}");
        network.conditions.loss = 0.02;
        // Where half of the probes and answers do not leave either, reports are rare.
        let is_seen = (0..30).position(|_| {
            transfer(&mut network, 1);
            packing(&network, 0) == Packing::Singles
        });
        assert!(is_seen.is_some(), "seed {seed}, {full}: what is lost besides is still seen");
    }
}

#[test]
fn what_is_lost_rarely_or_comes_late_changes_nothing() {
    for (loss, jitter) in [(0.0005, 0), (0.0, 3)] {
        for seed in seeds(4) {
            let mut network = connect(seed);
            network.conditions = Conditions { loss, jitter: Duration::from_millis(jitter), ..Conditions::lan() };
            transfer(&mut network, 8);
            assert_eq!(packing(&network, 0), Packing::Trains, "seed {seed}, {loss}, {jitter} ms");
        }
    }
}

#[test]
fn an_idle_path_that_was_lossy_stays_so_until_traffic_says_otherwise() {
    let mut network = connect(1);
    network.conditions.loss = 0.02;
    transfer(&mut network, 5);
    network.conditions.loss = 0.0;
    network.run(Duration::from_secs(60));
    assert_eq!(packing(&network, 0), Packing::Singles);
}

#[test]
fn what_is_known_of_a_path_outlives_its_keys() {
    let mut network = connect(2);
    network.conditions.loss = 0.02;
    for _ in 0..13 {
        transfer(&mut network, 1);
        network.run(Duration::from_secs(10));
    }
    assert!(status(&network, 0).keys_age_ms < 30_000, "the keys are new");
    assert_eq!(packing(&network, 0), Packing::Singles);
    network.conditions.loss = 0.0;
    transfer(&mut network, 6);
    assert_eq!(packing(&network, 0), Packing::Trains, "the new session is reported");
}

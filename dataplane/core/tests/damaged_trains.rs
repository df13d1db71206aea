//! Paths that damage what leaves in one send, and paths that only look like it. Simulated, with seeds.

use std::time::Duration;

use weaved_api::{MacAddr, SendsStatus, Switch};
use weaved_core::{
    forward::{Sends, Tally},
    peer::GsoNews,
    testing::{
        Conditions, Network, World,
        frames::{TCP_HEADERS_LEN, mac, tcp_superframe},
        seeds,
    },
};

const SECOND: Duration = Duration::from_secs(1);

/// Super-frames a second, and bytes of payload in each.
const RATE: u64 = 20;
const PAYLOAD_LEN: usize = 20_000;

fn connect(switch: Switch, seed: u64) -> Network {
    let mut network = Network::new(2, Conditions::lan(), seed);
    let known: Vec<_> = network.nodes.iter().map(|node| (node.id, node.address)).collect();
    for (node, (id, address)) in network.nodes.iter_mut().zip(known.into_iter().rev()) {
        node.want_peer(id, address);
        node.desired.offload.udp_gso = switch;
    }
    network.apply();
    assert!(network.run_until(10 * SECOND, Network::is_full_mesh), "seed {seed}");
    network.run(5 * SECOND);
    network
}

/// Bulk traffic from the first node to the second. Gives how many bytes of a thousand have arrived.
fn transfer(network: &mut Network, seconds: u64) -> u64 {
    network.nodes[1].delivered.clear();
    for _ in 0..seconds * RATE {
        network.send_offloaded(0, &[tcp_superframe(mac(1, 1), MacAddr([2, 9, 9, 9, 9, 9]), PAYLOAD_LEN, 1448)]);
        network.run(SECOND / RATE as u32);
        network.wiretap.seen.clear();
    }
    let delivered: usize = network.nodes[1].delivered.iter().map(|(_, frame)| frame.len() - TCP_HEADERS_LEN).sum();
    delivered as u64 * 1000 / (seconds * RATE * PAYLOAD_LEN as u64)
}

fn sends(network: &Network) -> Sends {
    network.nodes[0].table().peers[0].sends
}

fn status(network: &Network) -> SendsStatus {
    network.nodes[0].router.stats(network.now).peers[0].session.clone().expect("they are connected").sends
}

fn counter(network: &Network, tally: Tally) -> u64 {
    let counters = network.nodes[0].router.stats(network.now).counters;
    counters.iter().find(|counter| counter.name == tally.describe().0).expect("all are listed").value
}

/// What was found out since the last call, in order.
fn news(network: &mut Network) -> Vec<GsoNews> {
    std::iter::from_fn(|| network.nodes[0].router.poll_gso_news()).map(|(_, news)| news).collect()
}

#[test]
fn bulk_traffic_recovers_on_a_path_that_damages_trains() {
    for seed in seeds(8) {
        let mut network = connect(Switch::Auto, seed);
        assert!(transfer(&mut network, 5) >= 999, "seed {seed}: a clean path");
        network.conditions.joined_loss = 0.9;
        assert!(transfer(&mut network, 2) < 200, "seed {seed}: nearly nothing arrives");
        transfer(&mut network, 12);
        assert_eq!((sends(&network), status(&network)), (Sends::Apart, SendsStatus::Apart), "seed {seed}");
        assert_eq!(network.nodes[0].router.gso_given_up().len(), 1);
        assert!(transfer(&mut network, 5) >= 999, "seed {seed}: all arrives");
        assert!(matches!(news(&mut network)[..], [GsoNews::Tried, GsoNews::GivenUp(..)]), "seed {seed}");
        assert_eq!((counter(&network, Tally::GsoTrials), counter(&network, Tally::GsoGivenUp)), (1, 1));
    }
}

#[test]
fn looks_at_a_damaged_path_cost_little_and_a_path_that_is_mended_is_found_out() {
    let mut network = connect(Switch::Auto, 1);
    network.conditions.joined_loss = 0.9;
    transfer(&mut network, 20);
    // Keys change seven times meanwhile.
    let arrived = transfer(&mut network, 900);
    assert!(arrived > 980, "{arrived}");
    let looks = news(&mut network).into_iter().filter(|news| *news == GsoNews::StillLost).count();
    assert!((2..=4).contains(&looks), "{looks}");
    network.conditions.joined_loss = 0.0;
    assert!(transfer(&mut network, 1000) >= 999);
    assert_eq!((sends(&network), status(&network)), (Sends::Joined, SendsStatus::Joined));
    assert_eq!(news(&mut network), [GsoNews::LookedAgain, GsoNews::TakenUp]);
    assert_eq!(counter(&network, Tally::GsoTakenUp), 1);
}

#[test]
fn loss_that_has_nothing_to_do_with_trains_changes_nothing_for_long() {
    for (seed, loss) in seeds(2).flat_map(|seed| [(seed, 0.15), (seed, 0.3), (seed, 0.6)]) {
        let mut network = connect(Switch::Auto, seed);
        network.conditions.loss = loss;
        let mut apart = 0;
        for _ in 0..300 {
            transfer(&mut network, 1);
            apart += u32::from(sends(&network) == Sends::Apart);
        }
        assert_eq!(sends(&network), Sends::Joined, "seed {seed}, {loss}");
        let news = news(&mut network);
        let in_vain = news.iter().filter(|news| **news == GsoNews::NotToBlame).count();
        assert!((1..=3).contains(&in_vain) && news.len() == 2 * in_vain, "seed {seed}, {loss}: {news:?}");
        assert!(apart <= 30, "seed {seed}, {loss}: {apart} s of 300 for trials");
    }
}

#[test]
fn a_switch_in_another_position_is_obeyed_whatever_is_lost() {
    for switch in [Switch::On, Switch::Off] {
        let mut network = connect(switch, 3);
        network.conditions.joined_loss = 0.9;
        transfer(&mut network, 30);
        // Off is the shell's: it never makes one send of several.
        assert_eq!((sends(&network), news(&mut network)), (Sends::Joined, vec![]), "{switch}");
    }
    let mut network = connect(Switch::Auto, 3);
    network.conditions.joined_loss = 0.9;
    transfer(&mut network, 20);
    assert_eq!(sends(&network), Sends::Apart);
    network.nodes[0].desired.offload.udp_gso = Switch::On;
    network.apply();
    network.run(SECOND);
    assert_eq!(sends(&network), Sends::Joined, "what was found out before counts no more");
}

#[test]
fn a_peer_that_restarts_is_served_as_before_or_soon_again() {
    let mut network = connect(Switch::Auto, 4);
    network.conditions.joined_loss = 0.9;
    transfer(&mut network, 20);
    network.restart(1);
    transfer(&mut network, 40);
    assert_eq!(sends(&network), Sends::Apart);
    assert!(transfer(&mut network, 5) >= 999);
}

/// Time that a container takes to send `len` bytes by TCP to one on another host; `None` after two hours.
fn tcp_transfer(switch: Switch, mtu: usize, len: usize, seed: u64) -> Option<Duration> {
    let mut network = connect(switch, seed);
    network.conditions = Conditions { joined_loss: 0.9, delay: Duration::from_millis(5), ..Conditions::lan() };
    let mut world = World::new(network, 1, mtu);
    let sink = world.container((1, 0)).run_sink(5000);
    let to = world.container((1, 0)).addresses[0];
    world.container((0, 0)).run_source(to, 5000, vec![7; len]);
    let start = world.network.now;
    let is_done = world.run_until(7200 * SECOND, |world| world.container((1, 0)).received(sink).len() >= len);
    is_done.then(|| world.network.now - start)
}

#[test]
fn a_lone_connection_recovers_although_it_sends_hardly_anything() {
    for (mtu, seed) in [(1400, 1), (1400, 2), (1500, 1), (1500, 2)] {
        let took = tcp_transfer(Switch::Auto, mtu, 4 << 20, seed).expect("it ends");
        let forced = tcp_transfer(Switch::On, mtu, 4 << 20, seed);
        assert!(forced.is_none_or(|forced| forced > 10 * took), "{mtu}, seed {seed}: {took:?}, {forced:?}");
    }
}

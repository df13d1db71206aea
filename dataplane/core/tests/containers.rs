//! Real TCP/IP stacks talk over the simulated overlay: bad paths, small MTUs, rekeying, a data plane that restarts.

use std::time::Duration;

use weaved_core::{
    noise::spec::REKEY_AFTER,
    testing::{Conditions, Network, Place, ProgramId, World},
};

const SECOND: Duration = Duration::from_secs(1);
const MEGABYTE: usize = 1 << 20;
const PORT: u16 = 5000;

/// A connected mesh with two containers of MTU 1500 on every host.
fn world(hosts: u16, conditions: &Conditions, seed: u64) -> World {
    let mut network = Network::mesh(hosts, Conditions { loss: 0.0, ..conditions.clone() }, seed);
    assert!(network.run_until(10 * SECOND, Network::is_full_mesh), "seed {seed}");
    network.run(5 * SECOND);
    network.conditions = conditions.clone();
    World::new(network, 2, 1500)
}

fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at as u8).wrapping_mul(31) ^ (at >> 8) as u8 ^ (at >> 16) as u8).collect()
}

/// Starts to send `len` bytes by TCP over IPv4 (0) or IPv6 (1). Returns the sink.
fn start_transfer(world: &mut World, from: Place, to: Place, version: usize, len: usize) -> ProgramId {
    let sink = world.container(to).run_sink(PORT);
    let address = world.container(to).addresses[version];
    world.container(from).run_source(address, PORT, bytes(len));
    sink
}

/// Runs until everything has arrived. Returns how long it took.
fn finish_transfer(world: &mut World, to: Place, sink: ProgramId, len: usize, context: &str) -> Duration {
    let start = world.network.now;
    // Without selective acknowledgements a lossy path costs minutes of waiting; they are virtual.
    let is_done = world.run_until(3600 * SECOND, |world| world.container(to).received(sink).len() >= len);
    assert!(is_done, "{context}: {} of {len} bytes arrived", world.container(to).received(sink).len());
    assert!(world.container(to).received(sink) == bytes(len), "{context}: what arrived is not what was sent");
    world.network.now - start
}

fn transfer(world: &mut World, from: Place, to: Place, version: usize, len: usize, context: &str) -> Duration {
    let sink = start_transfer(world, from, to, version, len);
    finish_transfer(world, to, sink, len, context)
}

#[test]
fn tcp_passes_paths_of_every_mtu_with_and_without_loss() {
    for mtu in [1280, 1400, 1500] {
        for loss in [0.0, 0.01, 0.05] {
            let conditions = Conditions { loss, max_datagram: mtu - 28, ..Conditions::lan() };
            let mut world = world(2, &conditions, 1);
            transfer(&mut world, (0, 0), (1, 1), 0, MEGABYTE, &format!("mtu {mtu}, loss {loss}"));
        }
    }
}

#[test]
fn tcp_over_ipv6_passes() {
    let mut world = world(3, &Conditions::lan(), 1);
    transfer(&mut world, (2, 0), (1, 1), 1, MEGABYTE, "IPv6");
}

#[test]
fn tcp_passes_a_path_that_reorders_duplicates_and_damages() {
    let conditions = Conditions {
        loss: 0.01,
        duplicate: 0.02,
        damage: 0.01,
        delay: Duration::from_millis(5),
        jitter: Duration::from_millis(1),
        max_datagram: 1372,
        ..Conditions::lan()
    };
    let mut world = world(2, &conditions, 3);
    transfer(&mut world, (0, 0), (1, 0), 0, MEGABYTE, "a rough path");
}

#[test]
fn tcp_does_not_notice_a_rekey() {
    let conditions = Conditions { delay: Duration::from_millis(5), ..Conditions::lan() };
    let mut world = world(2, &conditions, 1);
    let before = world.network.nodes[0].table().peers[0].session.local();
    world.run(REKEY_AFTER.saturating_sub(6 * SECOND));
    let sink = start_transfer(&mut world, (0, 0), (1, 0), 0, 8 * MEGABYTE);
    let took = finish_transfer(&mut world, (1, 0), sink, 8 * MEGABYTE, "through a rekey");
    assert_ne!(world.network.nodes[0].table().peers[0].session.local(), before, "keys were changed in {took:?}");
}

#[test]
fn tcp_survives_a_restart_of_either_data_plane() {
    for node in 0..2 {
        let conditions = Conditions { delay: Duration::from_millis(1), ..Conditions::lan() };
        let mut world = world(2, &conditions, 1);
        let sink = start_transfer(&mut world, (0, 0), (1, 0), 0, MEGABYTE);
        let is_half = world.run_until(60 * SECOND, |world| world.container((1, 0)).received(sink).len() > MEGABYTE / 2);
        assert!(is_half && world.container((1, 0)).received(sink).len() < MEGABYTE);
        world.network.restart(node);
        finish_transfer(&mut world, (1, 0), sink, MEGABYTE, &format!("restart of {node}"));
    }
}

#[test]
fn containers_of_one_host_and_of_several_talk_at_the_same_time() {
    let mut world = world(3, &Conditions::lan(), 1);
    let pairs: [(Place, Place); 3] = [((0, 0), (1, 0)), ((1, 1), (2, 0)), ((2, 1), (0, 1))];
    let sinks = pairs.map(|(from, to)| (to, start_transfer(&mut world, from, to, 0, MEGABYTE / 4)));
    let local = start_transfer(&mut world, (1, 1), (1, 0), 1, 1000);
    for (to, sink) in sinks {
        finish_transfer(&mut world, to, sink, MEGABYTE / 4, "three at once");
    }
    finish_transfer(&mut world, (1, 0), local, 1000, "on one bridge");
}

#[test]
fn udp_of_every_length_comes_back_unchanged() {
    for mtu in [1280, 1500] {
        let conditions = Conditions { max_datagram: mtu - 28, ..Conditions::lan() };
        let mut world = world(2, &conditions, 1);
        world.container((1, 0)).run_echo(7);
        let to = world.container((1, 0)).addresses[0];
        let inbox = world.container((0, 0)).run_inbox(9000);
        for len in 1..=1472 {
            world.container((0, 0)).send_datagram(inbox, to, 7, &bytes(len));
            let came = |world: &mut World| world.container((0, 0)).datagrams(inbox).len() == len;
            assert!(world.run_until(SECOND, came), "mtu {mtu}, {len} bytes");
        }
        let lens_and_bytes = world.container((0, 0)).datagrams(inbox).iter().enumerate();
        assert!(lens_and_bytes.fold(true, |all, (at, got)| all && *got == bytes(at + 1)), "mtu {mtu}");
    }
}

#[test]
fn ping_is_answered_with_its_data_by_containers_of_every_host() {
    let mut world = world(3, &Conditions::lan(), 1);
    for to in [(0, 1), (1, 0), (2, 1)] {
        for len in [0, 56, 1400] {
            let address = world.container(to).addresses[0];
            // A stack asks for one address a second at most.
            let ping = world.container((0, 0)).run_ping(address, &bytes(len));
            assert!(
                world.run_until(5 * SECOND, |world| !world.container((0, 0)).replies(ping).is_empty()),
                "{to:?} {len}"
            );
            assert_eq!(world.container((0, 0)).replies(ping), [bytes(len)]);
        }
    }
}

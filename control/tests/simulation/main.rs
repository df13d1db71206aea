//! Clusters of nodes in virtual time: what must hold at every step, and what must have come about after a while.
//!
//! Each test runs a few seeds; a failure prints the seed, and `WEAVED_SEED=n` runs that one alone. `WEAVED_SEEDS=n` runs so many.

mod churn;
mod docker;
mod services;
mod world;

use std::{collections::BTreeSet, time::Duration};

use weaved::node::{ClusterStatus, MemberState, NodeEvent, RangeStatus, SliceState, Start};
use weaved_api::PeerId;
use world::{Faults, World};

const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

/// The seeds of a test: those given, or the one or as many as the environment wants.
fn each_seed(seeds: std::ops::Range<u64>, mut test: impl FnMut(u64)) {
    let wanted = |name| std::env::var(name).ok().map(|number| number.parse().expect("seeds are numbers"));
    match (wanted("WEAVED_SEED"), wanted("WEAVED_SEEDS")) {
        (Some(seed), _) => test(seed),
        (None, Some(count)) => (0..count).for_each(test),
        (None, None) => seeds.for_each(test),
    }
}

/// Who owns what. Names are left out: that of a node that has left is not known to all.
fn owners(status: &ClusterStatus) -> Vec<(PeerId, &[RangeStatus])> {
    status.ipam.owners.iter().map(|owner| (owner.id, owner.ranges.as_slice())).collect()
}

/// Everyone that runs is up, connected and known to everyone, with the right slice and containers; all rings are equal.
fn converged(world: &World) -> Result<(), String> {
    let running = world.running();
    let statuses: Vec<_> = running.iter().map(|&index| world.status(index)).collect();
    for status in &statuses {
        let name = &status.name;
        if status.ipam.state != SliceState::Ready {
            return Err(format!("{name} is {:?}", status.ipam.state));
        }
        if owners(status) != owners(&statuses[0]) {
            return Err(format!("{name} sees other owners than {}", statuses[0].name));
        }
        for other in statuses.iter().filter(|other| other.id != status.id) {
            let Some(member) = status.members.iter().find(|member| member.id == other.id) else {
                return Err(format!("{name} does not know {}", other.name));
            };
            if member.state != MemberState::Up || member.endpoint.is_none() {
                return Err(format!("{name} sees {} {:?} at {:?}", other.name, member.state, member.endpoint));
            }
            if (&member.name, member.slice, &member.containers) != (&other.name, other.ipam.slice, &other.containers) {
                return Err(format!("{name} has an old record of {}", other.name));
            }
        }
    }
    let slices: BTreeSet<_> = statuses.iter().map(|status| status.ipam.slice).collect();
    if slices.len() == statuses.len() { Ok(()) } else { Err("two have one slice".into()) }
}

#[test]
fn joiners_that_know_one_member_get_to_know_all_and_have_a_slice_each() {
    each_seed(0..6, |seed| {
        for count in [2, 3, 10] {
            let mut world = World::star(seed, Faults::LAN, count);
            let took = world.run_until(secs(5), converged);
            assert!(took < secs(5), "{count} nodes took {took:?}");
        }
    });
}

#[test]
fn fifty_nodes_converge_on_a_bad_network() {
    each_seed(0..1, |seed| {
        let mut world = World::star(seed, Faults::BAD, 50);
        world.run_until(secs(30), converged);
    });
}

#[test]
fn containers_are_everybodys_neighbours_and_those_of_a_dead_host_nobodys() {
    each_seed(0..4, |seed| {
        let mut world = World::star(seed, Faults::LAN, 5);
        world.run_until(secs(5), converged);
        world.run_containers(2, 20);
        world.run_until(secs(2), converged);
        let neighbours = |world: &World, index: usize| {
            world.hosts[index].node.as_ref().map_or(0, |node| node.wanted().neighbours.len())
        };
        assert!((0..5).all(|index| neighbours(&world, index) == if index == 2 { 0 } else { 20 }));

        world.crash(2);
        world.run_until(secs(7), |world| {
            let wrong = world.running().into_iter().find(|&index| neighbours(world, index) > 0);
            wrong.map_or(Ok(()), |index| Err(format!("h{index} still has neighbours on h2")))
        });
        let member = world.status(0).members.into_iter().find(|member| member.name == "h2").unwrap();
        assert_eq!(member.state, MemberState::Down);
        assert!(
            world.hosts[0]
                .events
                .iter()
                .any(|event| matches!(event, NodeEvent::MemberDown { name, .. } if name == "h2"))
        );
    });
}

#[test]
fn a_host_that_comes_back_has_the_slice_that_it_had() {
    each_seed(0..6, |seed| {
        let mut world = World::star(seed, Faults::BAD, 4);
        world.run_until(secs(20), converged);
        let slices: Vec<_> = (0..4).map(|index| world.status(index).ipam.slice).collect();
        for index in [1, 0, 3] {
            world.crash(index);
            world.run_for(secs(20));
            world.start(index);
            assert_eq!(world.status(index).ipam.slice, slices[index]);
        }
        world.run_until(secs(20), converged);
    });
}

#[test]
fn members_join_and_leave_on_both_sides_of_a_partition_and_are_one_cluster_after_it() {
    each_seed(0..6, |seed| {
        let mut world = World::star(seed, Faults::BAD, 6);
        world.run_until(secs(20), converged);
        world.cut(&[0, 1, 2]);
        world.run_for(secs(15));
        let on_this_side = world.add_host(Start::Joiner, &[1]);
        let on_that_side = world.add_host(Start::Joiner, &[4]);
        world.cut(&[0, 1, 2, on_this_side]);
        world.start(on_this_side);
        world.start(on_that_side);
        world.run_for(secs(15));
        for index in [on_this_side, on_that_side] {
            assert_eq!(
                world.status(index).ipam.state,
                SliceState::Ready,
                "WEAVED_SEED={seed}: a partition hinders nobody"
            );
        }
        world.heal();
        world.run_until(secs(30), converged);
    });
}

#[test]
fn a_joiner_says_what_it_waits_for() {
    let mut world = World::new(1, Faults::LAN);
    let (founder, joiner) = (world.add_host(Start::Founder, &[]), world.add_host(Start::Joiner, &[0]));
    world.start(joiner);
    world.run_for(secs(3));
    assert_eq!(world.status(joiner).ipam.state, SliceState::Waiting("waiting for a connection to a member".into()));
    world.start(founder);
    world.run_until(secs(3), converged);
}

#[test]
fn a_full_range_is_named_as_the_reason() {
    each_seed(0..3, |seed| {
        let mut world = World::new(seed, Faults::LAN);
        for index in 0..6 {
            let start = if index == 0 { Start::Founder } else { Start::Joiner };
            let host = world.add_host(start, if index == 0 { &[] } else { &[0] });
            world.hosts[host].config.range = "10.0.0.0/22".parse().unwrap();
            world.start(host);
        }
        world.run_for(secs(10));
        let states: Vec<_> = (0..6).map(|index| world.status(index).ipam.state).collect();
        let full = "waiting for a free slice: all 4 of 10.0.0.0/22 are taken; use a larger range";
        assert_eq!(states.iter().filter(|state| **state == SliceState::Ready).count(), 4, "{states:?}");
        assert_eq!(states.iter().filter(|state| **state == SliceState::Waiting(full.into())).count(), 2, "{states:?}");
    });
}

#[test]
fn nodes_that_are_all_started_with_each_others_addresses_make_one_ring() {
    each_seed(0..6, |seed| {
        let mut world = World::new(seed, Faults::BAD);
        for _ in 0..4 {
            world.add_host(Start::Either, &[0, 1, 2, 3]);
        }
        (0..4).for_each(|index| world.start(index));
        world.run_until(secs(40), converged);
    });
}

/// Two founders, each with a joiner, that are brought together after a while. `h0` is the older one.
fn two_clusters(seed: u64, prepare: impl Fn(&mut World)) -> World {
    let mut world = World::new(seed, Faults::BAD);
    for (start, targets) in
        [(Start::Founder, &[][..]), (Start::Founder, &[]), (Start::Joiner, &[0]), (Start::Joiner, &[1])]
    {
        world.add_host(start, targets);
    }
    prepare(&mut world);
    for index in 0..4 {
        world.start(index);
        world.run_for(Duration::from_millis(10));
    }
    world.run_for(secs(15));
    world
}

fn introduce(world: &mut World, from: usize, to: usize) {
    let targets = vec![world::address(to)];
    let now = world.now;
    world.hosts[from].targets.clone_from(&targets);
    if let Some(node) = &mut world.hosts[from].node {
        node.handle_targets(targets, now);
    }
}

/// Gives two hosts the same favourite place in the range.
fn same_place(world: &mut World, a: usize, b: usize) {
    let PeerId(place) = world.hosts[a].config.id;
    world.hosts[b].config.id.0[..4].copy_from_slice(&place[..4]);
}

#[test]
fn two_clusters_that_meet_keep_all_slices_when_none_collide() {
    each_seed(0..6, |seed| {
        let mut world = two_clusters(seed, |_| ());
        (0..4).for_each(|index| world.run_containers(index, 3));
        let before: Vec<_> = (0..4).map(|index| world.status(index).ipam.slice).collect();
        introduce(&mut world, 1, 0);
        world.run_until(secs(30), converged);
        let after: Vec<_> = (0..4).map(|index| world.status(index).ipam.slice).collect();
        assert_eq!(before, after);
        assert_eq!(world.status(3).ipam.ring, world.status(0).ipam.ring);
    });
}

#[test]
fn an_unused_slice_that_collides_is_given_up() {
    each_seed(0..6, |seed| {
        let mut world = two_clusters(seed, |world| same_place(world, 0, 1));
        assert_eq!(world.status(0).ipam.slice, world.status(1).ipam.slice, "they do not know each other yet");
        world.run_containers(0, 3);
        let kept = world.status(0).ipam.slice;
        introduce(&mut world, 1, 0);
        world.run_until(secs(30), converged);
        assert_eq!(world.status(0).ipam.slice, kept);
        assert!(world.hosts[1].events.iter().any(|event| matches!(event, NodeEvent::SliceGivenUp { .. })));
    });
}

#[test]
fn a_used_slice_that_collides_is_refused_with_the_reason_until_the_host_is_reset() {
    each_seed(0..6, |seed| {
        let mut world = two_clusters(seed, |world| same_place(world, 0, 1));
        world.run_containers(0, 3);
        world.run_containers(1, 3);
        introduce(&mut world, 1, 0);
        world.run_until(secs(30), |world| match world.status(1).ipam.state {
            SliceState::Refused(conflict) if conflict.holder_name == "h0" => Ok(()),
            other => Err(format!("h1 is {other:?}")),
        });
        world.run_until(secs(10), |world| {
            let peers_quarantine = [0, 2, 3].into_iter().all(|index| {
                let wanted = world.hosts[index].node.as_ref().unwrap().wanted();
                wanted.quarantined == [world.hosts[1].config.id]
                    && wanted.neighbours.iter().all(|neighbour| neighbour.peer != world.hosts[1].config.id)
            });
            let refuser = world.hosts[1].node.as_ref().unwrap().wanted();
            let is_apart = refuser.neighbours.is_empty() && refuser.quarantined.len() == 3;
            if peers_quarantine && is_apart { Ok(()) } else { Err("h1 is not quarantined".into()) }
        });
        world.run_until(secs(10), |world| {
            let affected = [0, 2, 3].into_iter().find(|&index| world.status(index).ipam.state != SliceState::Ready);
            affected.map_or(Ok(()), |index| Err(format!("h{index} is affected")))
        });

        world.stop_containers(1);
        world.run_until(secs(20), converged);
    });
}

#[test]
fn another_range_is_named_on_both_sides_and_not_merged() {
    let mut world = World::new(1, Faults::LAN);
    world.add_host(Start::Founder, &[]);
    world.add_host(Start::Founder, &[0]);
    world.hosts[1].config.range = "10.64.0.0/12".parse().unwrap();
    (0..2).for_each(|index| world.start(index));
    world.run_for(secs(5));
    for index in 0..2 {
        let told =
            world.hosts[index].events.iter().filter(|event| matches!(event, NodeEvent::OverlayMismatch { .. })).count();
        assert_eq!(told, 1, "h{index}: {:?}", world.hosts[index].events);
        assert!(world.status(index).members[0].problem.as_ref().unwrap().contains("10.64.0.0/12"));
        assert_eq!(world.hosts[index].node.as_ref().unwrap().wanted().quarantined.len(), 1);
    }
}

#[test]
fn a_node_that_leaves_hands_its_addresses_over_and_is_forgotten() {
    each_seed(0..6, |seed| {
        let mut world = World::star(seed, Faults::BAD, 4);
        world.run_until(secs(20), converged);
        let leaver = world.hosts[0].config.id;
        world.leave(0);
        world.run_until(secs(3), |world| if world.has_left(0) { Ok(()) } else { Err("h0 has not left".into()) });
        world.run_for(Duration::from_millis(500));
        world.crash(0);
        world.run_until(secs(20), |world| {
            let left = |index: &usize| {
                let status = world.status(*index);
                status.ipam.owners.iter().all(|owner| owner.id != leaver)
                    && status.members.iter().all(|member| member.id != leaver)
            };
            if world.running().iter().all(left) { Ok(()) } else { Err("h0 is not forgotten".into()) }
        });
        world.run_until(secs(10), converged);
        let total: u32 =
            world.status(1).ipam.owners.iter().flat_map(|owner| &owner.ranges).map(|range| range.slice_count).sum();
        assert_eq!(total, 4096, "WEAVED_SEED={seed}: no address is lost");
    });
}

/// One random thing.
fn disturb(world: &mut World) {
    let host = world.random(world.hosts.len());
    let is_running = world.hosts[host].node.is_some();
    match world.random(13) {
        0 | 1 if is_running => world.crash(host),
        2 => {
            let other = world.random(world.hosts.len());
            world.cut(&[host, other]);
        }
        3 | 4 => world.heal(),
        5 if world.hosts.len() < 12 => {
            let start = [Start::Joiner, Start::Either, Start::Founder][world.random(3)];
            let joiner = world.add_host(start, &[host]);
            if world.random(2) == 0 {
                same_place(world, host, joiner);
            }
            world.start(joiner);
        }
        6 | 7 => world.run_containers(host, 2),
        8 => world.stop_containers(host),
        9 if is_running => {
            let leaver = world.hosts[host].config.id;
            world.leave(host);
            let pause = Duration::from_millis(world.random(4000) as u64);
            world.run_for(pause);
            // Addresses that nobody has taken over would be lost with the identity; then it comes back as it was.
            let others = world.running().into_iter().filter(|&index| index != host);
            let is_gone = others
                .map(|index| world.status(index))
                .all(|status| owners(&status).iter().all(|(id, _)| *id != leaver));
            if is_gone { world.reset(host) } else { world.crash(host) }
        }
        10 => world.hosts[host].disk_is_full = true,
        11 => world.hosts[host].disk_is_full = false,
        _ => {}
    }
    if world.random(2) == 0 {
        start_stopped(world);
    }
    let pause = Duration::from_millis(world.random(4000) as u64);
    world.run_for(pause);
}

fn start_stopped(world: &mut World) {
    for host in 0..world.hosts.len() {
        if world.hosts[host].node.is_none() {
            world.start(host);
        }
    }
}

#[test]
fn whatever_happens_no_slice_has_two_owners_and_all_is_well_afterwards() {
    each_seed(0..12, |seed| {
        let mut world = World::star(seed, Faults { crash_permille: 2, ..Faults::BAD }, 5);
        world.add_host(Start::Founder, &[0]);
        world.start(5);
        for _ in 0..25 {
            disturb(&mut world);
        }
        world.faults.crash_permille = 0;
        world.heal();
        for host in &mut world.hosts {
            host.disk_is_full = false;
            host.targets = (0..3).map(world::address).collect();
        }
        for host in 0..world.hosts.len() {
            world.crash(host);
            world.start(host);
        }
        world.run_for(secs(30));
        // What only the operator can settle: containers in the way of a slice that another one has, or whose owner in
        // the older ring is gone for good.
        for host in 0..world.hosts.len() {
            let needs_operator = match world.status(host).ipam.state {
                SliceState::Ready => false,
                SliceState::Waiting(reason) => reason.ends_with("in the older network that we met: not connected"),
                SliceState::Refused(_) => true,
            };
            if needs_operator {
                world.stop_containers(host);
            }
        }
        world.run_until(secs(60), converged);
    });
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let run = |seed| {
        let mut world = World::star(seed, Faults::BAD, 8);
        world.run_for(secs(5));
        world.crash(3);
        world.run_for(secs(10));
        world.fingerprint()
    };
    assert_eq!(run(7), run(7));
    assert_ne!(run(7), run(8));
}

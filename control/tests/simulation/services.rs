//! The catalogue in virtual time: who sees which services when, and that only owners write.

use std::{collections::BTreeMap, time::Duration};

use weaved::{
    catalogue::{Drain, Instance, InstanceId, Readiness, Source, View},
    node::NodeEvent,
};

use super::{
    each_seed, secs,
    world::{Faults, World},
};

fn instance(host: usize, number: usize) -> Instance {
    Instance {
        id: InstanceId(format!("h{host}:web-{number}:80")),
        service: "web".into(),
        address: None,
        port: 8000 + number as u16,
        tags: vec!["blue".into()],
        meta: BTreeMap::from([("owner".into(), format!("h{host}"))]),
        source: Source::Docker(format!("{host:032}{number:032}")),
        drain: Drain::Serving,
        checks: vec![],
    }
}

impl World {
    /// Containers with services start, and control sees it.
    fn serve(&mut self, host: usize, count: usize) {
        self.hosts[host].instances = (0..count).map(|number| instance(host, number)).collect();
        self.scan(host);
    }

    /// Control looks what runs there.
    pub(crate) fn scan(&mut self, host: usize) {
        let (now, instances) = (self.now, self.hosts[host].instances.clone());
        if let Some(node) = &mut self.hosts[host].node {
            node.handle_instances(instances, now);
            self.drain(host);
        }
    }

    pub(crate) fn view(&self, host: usize) -> &View {
        self.hosts[host].node.as_ref().expect("the host runs").view()
    }

    /// How many instances of `web` a host would send requests to, of those that run on another one.
    fn passing(&self, host: usize, on: usize) -> usize {
        let (view, id) = (self.view(host), self.hosts[on].config.id);
        view.service("web").map_or(0, |web| web.passing().filter(|listed| listed.node.id == id).count())
    }

    /// Every running host sees of every running host what runs there, and nothing passing of the others.
    fn services_are_right(&self) -> Result<(), String> {
        for us in self.running() {
            if self.view(us).readiness != Readiness::Ready {
                return Err(format!("h{us} is not ready"));
            }
            for (them, host) in self.hosts.iter().enumerate() {
                let expected = if host.node.is_some() { host.instances.len() } else { 0 };
                let seen = self.passing(us, them);
                if seen != expected {
                    return Err(format!("h{us} sees {seen} of {expected} instances on h{them}"));
                }
                if host.node.is_some() {
                    let listed = self.view(us).nodes.get(&host.config.id).into_iter().flat_map(|node| &node.instances);
                    let mut listed: Vec<_> = listed.map(|listed| listed.instance.clone()).collect();
                    let mut truth = host.instances.clone();
                    listed.sort_unstable();
                    truth.sort_unstable();
                    if listed != truth {
                        return Err(format!("h{us} has an old state of h{them}"));
                    }
                }
            }
        }
        Ok(())
    }
}

#[test]
fn services_are_seen_by_all_and_those_of_a_dead_host_by_none() {
    each_seed(0..4, |seed| {
        let mut world = World::star(seed, Faults::LAN, 5);
        (0..5).for_each(|host| world.serve(host, 3));
        world.run_until(secs(10), World::services_are_right);
        world.crash(2);
        world.run_until(secs(7), World::services_are_right);
        let listed = world.view(0).instances().filter(|listed| listed.node.name == "h2").count();
        assert_eq!(listed, 3, "they are listed as critical");
    });
}

/// One random change of what runs somewhere.
fn churn(world: &mut World) {
    let host = world.random(world.hosts.len());
    let count = world.random(8);
    match world.random(4) {
        0 => world.serve(host, count),
        1 => {
            world.hosts[host].instances.iter_mut().for_each(|instance| instance.port += 1);
            world.scan(host);
        }
        2 => {
            world.hosts[host].instances.retain(|instance| instance.port % 2 == 0);
            world.scan(host);
        }
        _ => world.scan(host),
    }
}

#[test]
fn after_partitions_crashes_and_churn_all_see_what_runs_and_no_index_went_back() {
    each_seed(0..8, |seed| {
        let mut world = World::star(seed, Faults { crash_permille: 1, ..Faults::BAD }, 6);
        (0..6).for_each(|host| world.serve(host, 2));
        for round in 0..60 {
            churn(&mut world);
            let host = world.random(6);
            match world.random(8) {
                0 => world.crash(host),
                1 => world.cut(&[host, (host + 1) % 6]),
                2 | 3 => world.heal(),
                4 => world.hosts[host].disk_is_full = round % 2 == 0,
                _ => {}
            }
            for stopped in 0..6 {
                if world.hosts[stopped].node.is_none() && world.random(2) == 0 {
                    world.start(stopped);
                }
            }
            let pause = Duration::from_millis(world.random(3000) as u64);
            world.run_for(pause);
        }
        world.faults.crash_permille = 0;
        world.heal();
        for host in 0..6 {
            world.hosts[host].disk_is_full = false;
            if world.hosts[host].node.is_none() {
                world.start(host);
            }
            world.scan(host);
        }
        world.run_until(secs(60), World::services_are_right);
    });
}

#[test]
fn a_restart_that_is_not_noticed_changes_nothing_for_anybody() {
    each_seed(0..6, |seed| {
        let mut world = World::star(seed, Faults::LAN, 4);
        (0..4).for_each(|host| world.serve(host, 3));
        world.run_until(secs(10), World::services_are_right);
        world.run_for(secs(10));
        let before: Vec<_> = (0..4).map(|host| world.view(host).service_index("web")).collect();
        world.crash(2);
        world.start(2);
        world.run_for(secs(3));
        assert_eq!(
            world.view(2).readiness,
            Readiness::Starting,
            "WEAVED_SEED={seed}: it does not know what runs there"
        );
        world.scan(2);
        world.run_until(secs(10), World::services_are_right);
        world.run_for(secs(5));
        for host in [0, 1, 3] {
            assert_eq!(world.view(host).service_index("web"), before[host], "WEAVED_SEED={seed}: h{host} was woken");
        }
        for (index, view) in world.hosts[2].shown.range(before[2]..) {
            let passing = view.service("web").map_or(0, |web| web.passing().count());
            assert_eq!(passing, 12, "WEAVED_SEED={seed}: h2 itself showed a gap at {index:?}");
        }
    });
}

#[test]
fn a_host_that_was_dead_is_believed_again_when_it_has_said_what_runs_there() {
    each_seed(0..6, |seed| {
        let mut world = World::star(seed, Faults::LAN, 4);
        (0..4).for_each(|host| world.serve(host, 3));
        world.run_until(secs(10), World::services_are_right);
        world.crash(2);
        world.run_for(secs(20));
        let shown_before = *world.hosts[0].shown.last_key_value().expect("it shows").0;
        world.start(2);
        world.run_for(secs(8));
        let ghosts = |world: &World| {
            world.hosts[0].shown.range(shown_before..).any(|(_, view)| {
                let web = view.service("web").expect("others serve it");
                web.passing().any(|listed| listed.node.name == "h2" && listed.instance.port != 8000)
            })
        };
        assert!(!ghosts(&world), "WEAVED_SEED={seed}: containers of before the crash were believed to be there");
        world.serve(2, 1);
        world.run_until(secs(5), World::services_are_right);
        assert!(!ghosts(&world), "WEAVED_SEED={seed}: containers of before the crash came back");
    });
}

#[test]
fn a_host_that_was_cut_off_is_right_again_by_itself() {
    each_seed(0..6, |seed| {
        let mut world = World::star(seed, Faults::LAN, 5);
        (0..5).for_each(|host| world.serve(host, 3));
        world.run_until(secs(10), World::services_are_right);
        world.cut(&[1]);
        world.run_for(secs(20));
        assert_eq!(world.passing(0, 1), 0);
        assert_eq!(world.passing(1, 1), 3, "what runs here is believed");
        world.serve(1, 2);
        world.serve(3, 5);
        world.heal();
        world.run_until(secs(5), World::services_are_right);
    });
}

#[test]
fn thousands_of_instances_reach_a_joiner_over_a_bad_network() {
    each_seed(0..2, |seed| {
        let mut world = World::star(seed, Faults::BAD, 3);
        world.serve(0, 2000);
        world.serve(1, 10);
        world.scan(2);
        world.run_until(secs(60), World::services_are_right);
    });
}

/// When each of the others saw what the condition asks for, in milliseconds of virtual time, sorted.
fn spread(world: &mut World, but: usize, condition: impl Fn(&World, usize) -> bool) -> Vec<u64> {
    let begin = world.now;
    let mut waiting: Vec<_> = world.running().into_iter().filter(|&host| host != but).collect();
    let mut times = Vec::new();
    while !waiting.is_empty() && world.now - begin < secs(20) {
        world.run_for(Duration::from_millis(5));
        let count = waiting.len();
        waiting.retain(|&host| !condition(world, host));
        times.extend(std::iter::repeat_n((world.now - begin).as_millis() as u64, count - waiting.len()));
    }
    times.extend(std::iter::repeat_n(u64::MAX, waiting.len()));
    times
}

#[test]
fn of_fifty_hosts_all_see_a_new_service_soon_and_a_dead_host_is_gone_everywhere() {
    let (mut seen, mut gone) = (Vec::new(), Vec::new());
    each_seed(0..1, |seed| {
        let mut world = World::star(seed, Faults::LAN, 50);
        (0..50).for_each(|host| world.serve(host, 2));
        world.run_until(secs(40), World::services_are_right);
        for host in [7, 19, 33] {
            world.serve(host, 3);
            seen.extend(spread(&mut world, host, |world, us| world.passing(us, host) == 3));
            world.run_for(secs(1));
        }
        for host in [11, 28, 40] {
            world.crash(host);
            let times = spread(&mut world, host, |world, us| world.passing(us, host) == 0);
            println!("seed {seed}: h{host} is gone after {} to {} ms", times[0], times[times.len() - 1]);
            gone.push(times[times.len() - 1]);
            world.run_for(secs(1));
        }
        let others = world.hosts[0].events.iter().filter(|event| matches!(event, NodeEvent::MemberDown { .. })).count();
        assert_eq!(others, 3, "WEAVED_SEED={seed}: somebody was held for dead who was not");
    });
    seen.sort_unstable();
    gone.sort_unstable();
    let (p50, p99, most) = (seen[seen.len() / 2], seen[seen.len() * 99 / 100], seen[seen.len() - 1]);
    println!("a new service is seen after p50 {p50} ms, p99 {p99} ms, at most {most} ms");
    println!(
        "a dead host is gone everywhere after p50 {} ms, at most {} ms",
        gone[gone.len() / 2],
        gone[gone.len() - 1]
    );
    assert!(p50 < 500 && p99 < 2000, "{seen:?}");
    assert!(gone.iter().all(|time| *time < 6000), "{gone:?}");
}

#[test]
fn nobody_is_held_for_dead_who_is_slow_or_hard_to_hear() {
    each_seed(0..3, |seed| {
        let faults = Faults { loss: 10, repeat: 1, crash_permille: 0, max_delay: Duration::from_millis(60) };
        let mut world = World::star(seed, faults, 20);
        world.run_for(secs(20));
        world.hosts.iter_mut().for_each(|host| host.events.clear());
        for _ in 0..60 {
            // Less than what is suspected at all plus the time to refute.
            let (host, pause) = (world.random(20), Duration::from_millis(500 + world.random(1000) as u64));
            world.stall(host, pause);
            world.run_for(secs(2));
        }
        for (index, host) in world.hosts.iter().enumerate() {
            let dead = host.events.iter().find(|event| matches!(event, NodeEvent::MemberDown { .. }));
            assert!(dead.is_none(), "WEAVED_SEED={seed}: h{index} says {dead:?}");
        }
    });
}

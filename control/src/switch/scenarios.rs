//! Many nodes switch services in virtual time, on a bad network, with wrong clocks, while hosts crash: what must hold always,
//! and what must have come about in the end.
//!
//! The register of each service is simulated as what `kv::guard` promises: changes are decided one after the other, where a
//! majority can be reached, and sometimes the proposer does not learn how. Its own simulation is in `kv/scenarios.rs`.
//! Everything random comes from one seed; a failure prints it, `WEAVED_SEED=n` runs that one alone, `WEAVED_SEEDS=n` so many.

mod beaten;
mod canary;
mod keys;
mod world;

use std::time::Duration;

use self::world::{Broken, Faults, World};
use super::{
    order::{Care, Order, Outcome, What},
    refusal::Refusal,
};

fn each_seed(seeds: std::ops::Range<u64>, test: impl Fn(u64)) {
    let number = |name| std::env::var(name).ok().map(|text| text.parse().expect("a seed is a number"));
    match (number("WEAVED_SEED"), number("WEAVED_SEEDS")) {
        (Some(seed), _) => test(seed),
        (None, Some(count)) => (0..count).for_each(test),
        (None, None) => seeds.for_each(test),
    }
}

const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

fn to(colour: &str) -> Order {
    Order::new("web", What::To(colour.into()), "ada", "a test")
}

#[test]
fn fifty_balancers_go_over_within_a_moment_whatever_their_clocks_say() {
    let mut spreads = Vec::new();
    for seed in 0..12 {
        let mut world = World::new(seed, 50, Faults::LAN);
        world.run_for(secs(8));
        for round in 0..8 {
            let colour = if round % 2 == 0 { "blue" } else { "green" };
            let host = world.random(50);
            let outcome = world.switch(host, to(colour));
            let Outcome::Switched { figures, .. } = &outcome else { panic!("seed {seed}, round {round}: {outcome:?}") };
            assert_eq!((figures.hosts as usize, &figures.missing), (world.balancer_count(), &vec![]));
            spreads.push(world.true_spread());
        }
        world.assert_agreed();
    }
    spreads.sort_unstable();
    let p99 = spreads[spreads.len() * 99 / 100];
    println!(
        "{} switches: median {:?}, p99 {p99:?}, max {:?}",
        spreads.len(),
        spreads[spreads.len() / 2],
        spreads.last()
    );
    assert!(p99 < Duration::from_millis(100), "p99 of the spread is {p99:?}");
}

#[test]
fn whatever_breaks_meanwhile_history_is_a_chain_and_the_next_switch_succeeds() {
    each_seed(0..60, |seed| {
        let count = if seed % 20 == 19 { 50 } else { [3, 5, 9, 20][seed as usize % 4] };
        let mut world = World::new(seed, count, Faults::BAD);
        world.run_for(secs(8));
        for _ in 0..25 {
            let (host, colour) = (world.random(count), ["blue", "green"][world.random(2)]);
            let other = world.random(count);
            match world.random(7) {
                0 => world.crash(host),
                1 => world.start(host),
                2 => world.cut_off(host),
                3 => world.cut_one_way(host, other),
                4 => world.heal(),
                _ => {}
            }
            world.order(host, to(colour));
            if world.random(3) == 0 {
                world.order(other, to("blue"));
            }
            let pause = world.random(4000) as u64;
            world.run_for(Duration::from_millis(pause));
        }
        world.heal();
        world.faults = Faults::LAN;
        (0..count).for_each(|host| world.start(host));
        world.run_for(secs(25));
        for colour in ["blue", "green"] {
            let host = world.random(count);
            let outcome = world.switch(host, to(colour));
            let is_done = matches!(outcome, Outcome::Switched { .. } | Outcome::Nothing(_));
            assert!(is_done, "WEAVED_SEED={seed}: stuck: {outcome:?}");
        }
        world.run_for(secs(5));
        world.assert_agreed();
        world.assert_refused_ones_left_nothing();
    });
}

/// The coordinator dies at every moment of a switch.
#[test]
fn a_coordinator_that_dies_in_any_phase_leaves_one_colour_and_nobody_stuck() {
    for at_ms in (0..420).step_by(7) {
        let mut world = World::new(at_ms, 5, Faults::LAN);
        world.run_for(secs(8));
        world.switch(0, to("blue"));
        world.order(0, to("green"));
        world.run_for(Duration::from_millis(at_ms));
        world.crash(0);
        world.run_for(secs(15));
        world.assert_agreed();
        let pending = world.record().and_then(|record| record.pending);
        assert_eq!(pending, None, "after {at_ms} ms: what nobody carries out is taken away");
        let outcome = world.switch(1, to("green"));
        assert!(matches!(outcome, Outcome::Switched { .. } | Outcome::Nothing(_)), "after {at_ms} ms: {outcome:?}");
        world.start(0);
        world.run_for(secs(8));
        world.assert_agreed();
    }
}

#[test]
fn of_two_orders_at_once_one_is_carried_out_and_the_other_is_told_whose() {
    each_seed(0..40, |seed| {
        let mut world = World::new(seed, 5, Faults::LAN);
        world.run_for(secs(8));
        world.switch(0, to("blue"));
        let (first, second) = (world.order(1, to("green")), world.order(2, to("green")));
        world.run_for(secs(12));
        let outcomes = [first, second].map(|order| world.outcome(order).expect("it has ended"));
        let won = outcomes.iter().filter(|outcome| matches!(outcome, Outcome::Switched { .. })).count();
        assert_eq!(won, 1, "WEAVED_SEED={seed}: {outcomes:?}");
        assert!(
            outcomes
                .iter()
                .any(|outcome| matches!(outcome, Outcome::Refused(Refusal::UnderWay { .. }) | Outcome::Nothing(_))),
            "WEAVED_SEED={seed}: {outcomes:?}"
        );
        world.assert_agreed();
    });
}

#[test]
fn a_colour_that_does_not_get_ready_leaves_everything_as_it_was() {
    each_seed(0..20, |seed| {
        let mut world = World::new(seed, 5, Faults::LAN);
        world.run_for(secs(8));
        world.switch(0, to("blue"));
        world.make_balancers_sick();
        let outcome = world.switch(3, Order { timeout_ms: 1500, ..to("green") });
        assert!(matches!(outcome, Outcome::Refused(Refusal::NotReady { .. })), "{outcome:?}");
        world.run_for(secs(3));
        assert_eq!(world.live_colours(), ["blue"]);
        world.assert_refused_ones_left_nothing();
        let forced = world.switch(3, Order { timeout_ms: 1500, care: Care::Forced, ..to("green") });
        assert!(matches!(forced, Outcome::Switched { .. }), "{forced:?}");
        assert_eq!(world.live_colours(), ["green"]);
    });
}

#[test]
fn instances_that_die_between_preparation_and_decision_end_the_switch_or_die_too_late_for_it() {
    let (mut refused, mut switched) = (0, 0);
    for at_ms in 0..60 {
        let mut world = World::new(at_ms, 5, Faults::LAN);
        world.run_for(secs(8));
        world.switch(0, to("blue"));
        let order = world.order(3, Order { timeout_ms: 1500, ..to("green") });
        world.run_for(Duration::from_millis(at_ms));
        world.kill_instances();
        world.run_for(secs(12));
        let outcome = world.outcome(order).expect("it has ended");
        let live = match outcome {
            Outcome::Refused(Refusal::NotReady { .. }) => "blue",
            Outcome::Switched { .. } => "green",
            other => panic!("after {at_ms} ms: {other:?}"),
        };
        *if live == "blue" { &mut refused } else { &mut switched } += 1;
        assert_eq!(world.live_colours(), [live], "after {at_ms} ms");
        world.assert_agreed();
        world.assert_refused_ones_left_nothing();
    }
    assert!(refused > 0 && switched > 0, "{refused} {switched}");
}

/// What was ready is not taken for ready when it says that it is no more.
#[test]
fn instances_that_die_while_another_host_is_waited_for_end_the_switch_at_once() {
    each_seed(0..20, |seed| {
        let mut world = World::new(seed, 5, Faults::LAN);
        world.run_for(secs(8));
        world.switch(0, to("blue"));
        world.cut_one_way(2, 3);
        let order = world.order(3, Order { timeout_ms: 1500, ..to("green") });
        world.run_for(Duration::from_millis(300));
        assert_eq!(world.outcome(order), None, "WEAVED_SEED={seed}: host 2 is waited for");
        world.kill_instances();
        world.run_for(Duration::from_millis(100));
        let outcome = world.outcome(order);
        let Some(Outcome::Refused(Refusal::NotReady { reasons })) = &outcome else {
            panic!("WEAVED_SEED={seed}: {outcome:?}")
        };
        assert!(reasons.iter().all(|reason| reason.contains("could connect to 0")), "WEAVED_SEED={seed}: {reasons:?}");
        world.heal();
        world.run_for(secs(8));
        assert_eq!(world.live_colours(), ["blue"], "WEAVED_SEED={seed}");
        world.assert_agreed();
        world.assert_refused_ones_left_nothing();
    });
}

/// Checks of a wrong port, or none at all: only a connection tells.
#[test]
fn a_colour_that_one_balancer_cannot_connect_to_is_refused_whatever_its_checks_say() {
    let mut world = World::new(1, 5, Faults::LAN);
    world.run_for(secs(8));
    world.switch(0, to("blue"));
    world.cut_a_balancer_off_from_instances();
    match world.switch(3, to("green")) {
        Outcome::Refused(Refusal::NotReady { reasons }) => {
            assert!(reasons[0].contains("3 healthy instances and could connect to 0"), "{reasons:?}");
        }
        other => panic!("{other:?}"),
    }
    world.run_for(secs(3));
    assert_eq!(world.live_colours(), ["blue"]);
    world.assert_refused_ones_left_nothing();
    let forced = world.switch(3, Order { care: Care::Forced, ..to("green") });
    assert!(matches!(forced, Outcome::Switched { .. }), "{forced:?}");
}

#[test]
fn a_host_without_a_majority_is_refused_and_takes_over_what_was_decided_when_it_is_back() {
    each_seed(0..20, |seed| {
        let mut world = World::new(seed, 5, Faults::LAN);
        world.run_for(secs(8));
        world.switch(0, to("blue"));
        world.cut_off(4);
        world.run_for(secs(6));
        let outcome = world.switch(4, to("green"));
        assert!(matches!(outcome, Outcome::Refused(Refusal::Keys(_))), "{outcome:?}");
        assert!(matches!(world.switch(1, to("green")), Outcome::Switched { .. }));
        world.crash(4);
        world.heal();
        world.start(4);
        world.run_for(secs(8));
        assert_eq!(world.live_colours(), ["green"]);
        world.assert_agreed();
    });
}

#[test]
fn the_key_shows_the_live_colour_also_when_the_coordinator_died_before_it_wrote_it() {
    for at_ms in [60, 80, 100, 150, 200, 300] {
        let mut world = World::new(at_ms, 5, Faults::LAN);
        world.run_for(secs(8));
        world.switch(0, to("blue"));
        world.order(0, to("green"));
        world.run_for(Duration::from_millis(at_ms));
        world.crash(0);
        world.run_for(secs(15));
        assert_eq!(world.live_colours(), [world.mirror()]);
    }
}

// The checks fail when the protocol is broken on purpose.

#[test]
#[should_panic(expected = "chain")]
fn a_register_that_forgets_its_conditions_is_noticed() {
    for seed in 0..20 {
        let mut world = World::new(seed, 5, Faults::LAN);
        world.broken = Some(Broken::Conditions);
        world.run_for(secs(8));
        for host in 0..5 {
            world.order(host, to(["blue", "green"][host % 2]));
        }
        world.run_for(secs(15));
    }
}

#[test]
#[should_panic(expected = "serves")]
fn hosts_that_acknowledge_and_do_not_go_over_are_noticed() {
    let mut world = World::new(3, 5, Faults::LAN);
    world.run_for(secs(8));
    world.switch(0, to("blue"));
    world.broken = Some(Broken::Balancers);
    world.switch(0, to("green"));
}

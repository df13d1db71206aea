//! Orders that reach the register behind another one: what was judged on a record that is no more is not done to the next one.

use super::{
    super::{canary::CanaryPlan, order::WatchOrder, verdict::Limits},
    *,
};

/// How long a step lasts here.
const STEP: Duration = Duration::from_secs(4);

fn of(what: What) -> Order {
    Order { what, ..to("") }
}

/// To this colour, and it is watched.
fn watched(colour: &str) -> Order {
    Order { watch: Some(WatchOrder { limits: Limits::default(), length_ms: 60_000 }), ..to(colour) }
}

fn sent_out(seed: u64) -> World {
    let mut world = World::new(seed, 5, Faults::LAN);
    world.run_for(secs(8));
    world.switch(0, to("blue"));
    let plan = CanaryPlan { steps: vec![10, 50, 90], step_ms: STEP.as_millis() as u64, paused: false };
    assert!(matches!(world.switch(1, of(What::Canary("green".into(), plan))), Outcome::Switched { .. }));
    // Everybody hears how it went, which stands in the record.
    world.run_for(secs(1));
    world
}

/// Green is live and watched, blue was before; then another host orders this, while host 2 hears nothing of it.
fn missed_by_one(seed: u64, order: Order) -> World {
    let mut world = World::new(seed, 5, Faults::LAN);
    world.run_for(secs(8));
    world.switch(0, to("blue"));
    world.switch(0, watched("green"));
    world.run_for(secs(3));
    world.cut_off(2);
    let outcome = world.switch(1, order);
    assert!(matches!(outcome, Outcome::Switched { .. }), "WEAVED_SEED={seed}: {outcome:?}");
    world.heal();
    world
}

#[test]
fn two_hosts_that_take_the_next_step_of_a_canary_at_once_take_one() {
    each_seed(0..40, |seed| {
        let mut world = sent_out(seed);
        let orders = [world.order(1, of(What::Step)), world.order(2, of(What::Step))];
        world.run_for(secs(2));
        assert_eq!(world.live_in_words(), "blue 50 %, green 50 %", "WEAVED_SEED={seed}");
        let outcomes = orders.map(|order| world.outcome(order).expect("it has ended"));
        assert!(outcomes.contains(&Outcome::Refused(Refusal::Overtaken)), "WEAVED_SEED={seed}: {outcomes:?}");
        world.assert_agreed();
    });
}

#[test]
fn no_step_is_shorter_than_it_should_be_however_hosts_disagree_about_who_is_there() {
    each_seed(0..60, |seed| {
        let mut world = sent_out(seed);
        for (one, other) in (0..5).flat_map(|one| (0..one).map(move |other| (one, other))) {
            if world.random(3) == 0 {
                world.cut_one_way(one, other);
            }
        }
        world.run_for(secs(20));
        world.heal();
        world.run_for(secs(20));
        assert_eq!(world.live_in_words(), "green", "WEAVED_SEED={seed}");
        let record = world.record().expect("there was a switch");
        for entry in record.history.iter().filter(|entry| entry.source == "canary") {
            let lasted = world.decided_at[&entry.revision] - world.decided_at[&(entry.revision - 1)];
            assert!(lasted >= STEP, "WEAVED_SEED={seed}: the step before {} lasted {lasted:?}", entry.revision);
        }
        world.assert_agreed();
    });
}

#[test]
fn a_canary_stays_where_it_is_said_to_be_paused_when_its_next_step_was_on_the_way() {
    each_seed(0..40, |seed| {
        let mut world = sent_out(seed);
        let (_, pause) = (world.order(1, of(What::Step)), world.order(2, of(What::Pause)));
        world.run_for(STEP * 4);
        let Some(Outcome::Nothing(words)) = world.outcome(pause) else { panic!("WEAVED_SEED={seed}") };
        let live = world.live_in_words();
        assert_eq!(words, format!("the canary paused at {live}"), "WEAVED_SEED={seed}");
    });
}

#[test]
fn an_automatic_rollback_that_comes_behind_another_switch_leaves_that_one_alone() {
    each_seed(0..20, |seed| {
        let mut world = missed_by_one(seed, watched("red"));
        let outcome = world.switch(2, of(What::Rescue("green is ill".into())));
        assert_eq!(outcome, Outcome::Refused(Refusal::Overtaken), "WEAVED_SEED={seed}");
        world.run_for(secs(8));
        assert_eq!(world.live_in_words(), "red", "WEAVED_SEED={seed}");
        world.assert_agreed();
    });
}

#[test]
fn a_rollback_that_comes_behind_another_one_leaves_it_at_that() {
    for first in [What::Back, What::Rescue("green is ill".into())] {
        each_seed(0..20, |seed| {
            let mut world = missed_by_one(seed, of(first.clone()));
            let outcome = world.switch(2, of(What::Back));
            assert_eq!(outcome, Outcome::Nothing("blue of web is live already".into()), "WEAVED_SEED={seed}");
            world.run_for(secs(8));
            assert_eq!(world.live_in_words(), "blue", "WEAVED_SEED={seed}");
            world.assert_agreed();
        });
    }
}

#[test]
fn a_rollback_and_an_automatic_one_at_once_lead_to_the_colour_before() {
    each_seed(0..40, |seed| {
        let mut world = World::new(seed, 5, Faults::LAN);
        world.run_for(secs(8));
        world.switch(0, to("blue"));
        world.switch(0, watched("green"));
        world.order(1, of(What::Back));
        world.order(3, of(What::Rescue("green is ill".into())));
        world.run_for(secs(12));
        assert_eq!(world.live_in_words(), "blue", "WEAVED_SEED={seed}");
        world.assert_agreed();
    });
}

#[test]
fn a_rollback_that_comes_behind_a_switch_to_a_third_colour_leaves_that_one_alone() {
    each_seed(0..20, |seed| {
        let mut world = missed_by_one(seed, to("red"));
        let outcome = world.switch(2, of(What::Back));
        assert_eq!(outcome, Outcome::Refused(Refusal::Overtaken), "WEAVED_SEED={seed}");
        assert_eq!(world.live_in_words(), "red", "WEAVED_SEED={seed}");
    });
}

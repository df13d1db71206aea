//! Canaries: step by step, held, taken up again, given up, and taken back when the new colour does worse.

use super::{
    super::{
        canary::CanaryPlan,
        order::WatchOrder,
        verdict::{Counts, Limits},
    },
    *,
};

/// Below it the balancers' counts prove nothing.
const MIN_REQUESTS: u64 = 100;

/// Five hosts that serve blue, and green that is sent out in steps of three seconds.
fn sent_out(seed: u64, steps: &[u32], watch: Option<Limits>) -> World {
    let mut world = World::new(seed, 5, Faults::LAN);
    world.run_for(secs(8));
    world.switch(0, to("blue"));
    let plan = CanaryPlan { steps: steps.to_vec(), step_ms: 3000, paused: false };
    let watch = watch.map(|limits| WatchOrder { limits, length_ms: 60_000 });
    let order = Order { what: What::Canary("green".into(), plan), watch, ..to("green") };
    assert!(matches!(world.switch(1, order), Outcome::Switched { .. }));
    world
}

fn say(world: &mut World, host: usize, what: What) -> Outcome {
    world.switch(host, Order { what, ..to("") })
}

/// So many requests that all took less than so many milliseconds.
fn answered(requests: u64, below_ms: u64) -> Counts {
    let bucket = below_ms.ilog2() as usize;
    let latency = (0..=bucket).map(|at| if at == bucket { requests } else { 0 }).collect();
    Counts { requests, failures: 0, latency }
}

#[test]
fn it_goes_step_by_step_by_itself_and_the_key_shows_the_old_colour_until_the_end() {
    let mut world = sent_out(1, &[1, 10, 50], None);
    let mut seen = Vec::new();
    for _ in 0..200 {
        let live = world.live_in_words();
        assert_eq!(world.mirror(), if live == "green" { "green" } else { "blue" }, "while {live} is live");
        if seen.last() != Some(&live) {
            seen.push(live);
            // Written behind the decision.
            world.run_for(secs(1));
        }
        world.run_for(Duration::from_millis(100));
    }
    assert_eq!(seen, ["blue 99 %, green 1 %", "blue 90 %, green 10 %", "blue 50 %, green 50 %", "green"]);
    world.assert_agreed();
}

#[test]
fn one_that_is_paused_stays_where_it_is_until_somebody_says_that_it_goes_on() {
    let mut world = sent_out(2, &[10, 50], None);
    assert!(matches!(say(&mut world, 2, What::Pause), Outcome::Nothing(words) if words.contains("paused")));
    world.run_for(secs(30));
    assert_eq!(world.live_in_words(), "blue 90 %, green 10 %");
    assert!(matches!(say(&mut world, 3, What::Resume), Outcome::Nothing(words) if words.contains("goes on")));
    world.run_for(secs(12));
    assert_eq!(world.live_in_words(), "green");
    world.assert_agreed();
}

#[test]
fn one_that_is_paused_from_the_beginning_is_a_steady_weight_also_when_every_host_was_restarted() {
    let mut world = World::new(7, 5, Faults::LAN);
    world.run_for(secs(8));
    world.switch(0, to("blue"));
    let plan = CanaryPlan { steps: vec![10], step_ms: 1000, paused: true };
    let outcome = say(&mut world, 1, What::Canary("green".into(), plan));
    assert!(matches!(outcome, Outcome::Switched { .. }), "{outcome:?}");
    for host in 0..5 {
        world.run_for(secs(20));
        world.crash(host);
        world.run_for(secs(5));
        world.start(host);
    }
    (0..5).for_each(|host| world.crash(host));
    (0..5).for_each(|host| world.start(host));
    world.run_for(secs(60));
    assert_eq!((world.live_in_words().as_str(), world.mirror().as_str()), ("blue 90 %, green 10 %", "blue"));
    world.assert_agreed();
    assert!(matches!(say(&mut world, 3, What::Abort), Outcome::Switched { .. }));
    assert_eq!(world.live_in_words(), "blue");
}

#[test]
fn one_that_is_aborted_gives_everything_back_also_while_it_is_paused() {
    for is_paused in [false, true] {
        let mut world = sent_out(3, &[10, 50], None);
        if is_paused {
            say(&mut world, 2, What::Pause);
        }
        assert!(matches!(say(&mut world, 4, What::Abort), Outcome::Switched { .. }));
        world.run_for(secs(20));
        assert_eq!((world.live_in_words().as_str(), world.last_reason().as_str()), ("blue", "canary aborted"));
        world.assert_agreed();
        for what in [What::Pause, What::Resume, What::Abort] {
            let outcome = say(&mut world, 0, what);
            assert!(matches!(outcome, Outcome::Refused(Refusal::NoCanary { .. })), "{outcome:?}");
        }
    }
}

#[test]
fn whichever_host_dies_the_others_go_on_with_it() {
    for host in 0..5 {
        let mut world = sent_out(4, &[10, 50], None);
        world.crash(host);
        world.run_for(secs(20));
        assert_eq!(world.live_in_words(), "green", "without host {host}");
        world.assert_agreed();
    }
}

#[test]
fn one_whose_step_nobody_could_answer_is_held_with_one_note_until_somebody_can() {
    let mut world = sent_out(13, &[10, 50], None);
    let held = |world: &World| world.record().and_then(|record| record.canary).and_then(|canary| canary.held);
    world.let_pass("green", 0);
    world.run_for(secs(5));
    let (begun, written) = (world.attempt_count(), world.register_index());
    world.run_for(secs(25));
    assert_eq!(world.live_in_words(), "blue 90 %, green 10 %");
    assert!(held(&world).is_some_and(|reason| reason.contains("only 0 of 3 instances")), "{:?}", held(&world));
    assert_eq!((world.attempt_count(), world.register_index()), (begun, written), "it is not tried again and again");
    let notes = world.notes.iter().filter(|note| note.starts_with("the canary of web waits: only 0 of 3"));
    assert_eq!(notes.count(), 1, "{:?}", world.notes);
    world.let_pass("green", 1);
    world.run_for(secs(2));
    assert_eq!((world.live_in_words().as_str(), held(&world)), ("blue 50 %, green 50 %", None));
    world.run_for(secs(5));
    assert_eq!(world.live_in_words(), "green");
    world.assert_agreed();
}

#[test]
fn one_that_fails_its_clients_comes_back() {
    let mut world = sent_out(5, &[10, 50], None);
    world.serve("green", &Counts { failures: 30, ..answered(200, 8) });
    world.run_for(secs(6));
    assert_eq!(world.live_in_words(), "blue");
    assert!(world.last_reason().contains("requests failed"), "{}", world.last_reason());
    world.assert_agreed();
}

#[test]
fn one_that_is_slower_than_it_may_be_comes_back_and_one_that_is_not_goes_on() {
    let limits = Limits { errors_permille: None, p99_percent: Some(200), min_requests: MIN_REQUESTS };
    for (green_ms, expected) in [(8, "green"), (16, "green"), (32, "blue")] {
        let mut world = sent_out(6, &[10, 50], Some(limits));
        world.serve("blue", &answered(5000, 8));
        world.serve("green", &answered(MIN_REQUESTS, green_ms));
        world.run_for(secs(15));
        assert_eq!(world.live_in_words(), expected, "less than {green_ms} ms where blue takes less than 8 ms");
        if expected == "blue" {
            assert!(world.last_reason().contains("32 ms, of the old colour 8 ms"), "{}", world.last_reason());
        }
        world.assert_agreed();
    }
}

/// Green is live and watched; blue was before, whose answers took less than so many milliseconds.
fn watched(seed: u64, blue_ms: u64) -> World {
    let mut world = World::new(seed, 5, Faults::LAN);
    world.run_for(secs(8));
    world.switch(0, to("blue"));
    world.serve("blue", &answered(5000, blue_ms));
    let watch = Some(WatchOrder { limits: Limits::default(), length_ms: 60_000 });
    assert!(matches!(world.switch(1, Order { watch, ..to("green") }), Outcome::Switched { .. }));
    world
}

#[test]
fn a_colour_that_takes_requests_and_answers_none_is_taken_back_while_they_wait() {
    let mut world = watched(9, 8);
    world.let_wait("green", MIN_REQUESTS);
    world.run_for(secs(4));
    assert_eq!(world.live_in_words(), "blue");
    assert!(world.last_reason().contains("requests failed"), "{}", world.last_reason());
    world.assert_agreed();
}

#[test]
fn where_waiting_is_usual_or_nothing_is_known_it_is_not_held_against_the_new_colour() {
    let mut usual = watched(10, 16_384);
    let mut unknown = watched(11, 8);
    unknown.serve("blue", &Counts::default());
    for world in [&mut usual, &mut unknown] {
        world.let_wait("green", 200);
        world.run_for(secs(30));
        assert_eq!(world.live_in_words(), "green");
        // When they are given up they have failed there, too.
        world.let_wait("green", 0);
        world.serve("green", &Counts { failures: 200, ..answered(200, 65_536) });
        world.run_for(secs(4));
        assert_eq!(world.live_in_words(), "blue");
    }
}

#[test]
fn a_request_that_waits_and_fails_is_one_failure() {
    let mut world = watched(12, 8);
    // 1000 requests, of which 40 fail: 30 of each thousand wait for it, and are given up by and by.
    for (waiting, failures) in [(0, 10), (30, 10), (15, 25), (0, 40), (0, 40)] {
        world.let_wait("green", waiting);
        world.serve("green", &Counts { failures, ..answered(1000 - waiting, 8) });
        world.run_for(secs(4));
        assert_eq!(world.live_in_words(), "green", "{waiting} wait, {failures} have failed");
    }
    world.serve("green", &Counts { failures: 60, ..answered(1000, 8) });
    world.run_for(secs(4));
    assert_eq!(world.live_in_words(), "blue");
}

#[test]
fn where_nobody_is_left_to_go_back_to_it_is_told_once_and_made_up_for_when_somebody_is() {
    let mut world = watched(14, 8);
    world.let_pass("blue", 0);
    world.serve("green", &Counts { failures: 200, ..answered(200, 8) });
    world.run_for(secs(20));
    assert_eq!(world.live_in_words(), "green");
    let told: Vec<_> = world.notes.iter().filter(|note| note.contains("only 0 of 3 instances")).collect();
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].starts_with("the automatic rollback of web waits: "), "{told:?}");
    world.let_pass("blue", 3);
    world.run_for(secs(4));
    assert_eq!(world.live_in_words(), "blue");
}

/// What the balancers have counted is older than control's knowledge of it.
#[test]
fn what_a_colour_did_before_it_was_live_is_not_held_against_it_when_control_is_started_anew() {
    let failed = |failures, requests| Counts { failures, ..answered(requests, 8) };
    let mut world = World::new(8, 5, Faults::LAN);
    world.run_for(secs(8));
    world.switch(0, to("blue"));
    world.serve("green", &failed(200, 200));
    let watch = Some(WatchOrder { limits: Limits::default(), length_ms: 600_000 });
    assert!(matches!(world.switch(1, Order { watch, ..to("green") }), Outcome::Switched { .. }));
    for host in 0..5 {
        world.kill_control(host);
        world.run_for(secs(5));
        world.start(host);
        world.run_for(secs(8));
    }
    world.serve("green", &failed(200, 400));
    world.run_for(secs(6));
    assert_eq!(world.live_in_words(), "green");
    world.serve("green", &failed(400, 600));
    world.run_for(secs(6));
    assert_eq!(world.live_in_words(), "blue", "what fails from then on counts");
}

/// Before the switch, after it, and when the gateways are back: of each the requests to green and how many of them failed.
#[test]
fn a_gateway_that_is_restarted_within_a_watch_counts_from_nothing() {
    for (before, after, again, expected) in [
        // As many as before, which are all new.
        ((1000, 500), (1010, 500), [(5, 0), (1010, 510)], "blue"),
        // More than before when it is heard again.
        ((300, 300), (5000, 400), [(310, 310), (315, 315)], "blue"),
        // Few failures, though all of those beyond the requests from before.
        ((1000, 0), (1010, 0), [(5, 0), (1100, 30)], "green"),
    ] {
        let counts = |(requests, failures): (u64, u64)| Counts { failures, ..answered(requests, 8) };
        let mut world = World::new(15, 5, Faults::LAN);
        world.run_for(secs(8));
        world.switch(0, to("blue"));
        world.serve("green", &counts(before));
        let watch = Some(WatchOrder { limits: Limits::default(), length_ms: 60_000 });
        assert!(matches!(world.switch(1, Order { watch, ..to("green") }), Outcome::Switched { .. }));
        world.serve("green", &counts(after));
        world.restart_gateways();
        world.run_for(secs(2));
        assert_eq!(world.live_in_words(), "green");
        for counted in again {
            world.serve("green", &counts(counted));
            world.run_for(secs(4));
        }
        assert_eq!(world.live_in_words(), expected, "{before:?} {after:?} {again:?}");
    }
}

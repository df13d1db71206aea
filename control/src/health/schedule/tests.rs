//! The scheduler in virtual time.

use super::*;

fn key(id: &str) -> CheckKey {
    CheckKey { instance: Some(InstanceId(id.into())), check: CheckId(format!("service:{id}")) }
}

fn spec(probe: Probe) -> CheckSpec {
    CheckSpec::new(CheckId("service:a".into()), probe)
}

fn tcp() -> CheckSpec {
    spec(Probe::Tcp("127.0.0.1:1".into()))
}

fn good() -> Outcome {
    Outcome { health: Health::Passing, output: "good".into() }
}

fn bad() -> Outcome {
    Outcome { health: Health::Critical, output: "bad".into() }
}

fn letter(health: Health) -> char {
    match health {
        Health::Passing => 'P',
        Health::Warning => 'W',
        Health::Critical => 'C',
    }
}

struct World {
    scheduler: Scheduler,
    now: Instant,
}

impl World {
    fn new(checks: &[(&str, CheckSpec)]) -> Self {
        let mut world = Self { scheduler: Scheduler::new([7; 32], BTreeMap::new()), now: Instant::now() };
        world.set(checks);
        world
    }

    fn set(&mut self, checks: &[(&str, CheckSpec)]) {
        let wanted = checks.iter().map(|(id, spec)| (key(id), spec.clone())).collect();
        self.scheduler.set_checks(wanted, self.now);
    }

    /// Time goes on to the next timer, and its run begins.
    fn next_run(&mut self) -> Run {
        loop {
            self.now = self.scheduler.poll_timeout().expect("there is a timer").max(self.now);
            if let Some(run) = self.scheduler.poll_start(self.now) {
                return run;
            }
        }
    }

    /// The next run ends so at once.
    #[expect(clippy::needless_pass_by_value, reason = "outcomes are made where they are used")]
    fn step(&mut self, outcome: Outcome) -> Health {
        let run = self.next_run();
        self.scheduler.handle_outcome(&run.key, run.number, &outcome, self.now);
        self.scheduler.check(&run.key).unwrap().health
    }
}

#[test]
fn a_check_begins_soon_and_comes_again_after_its_interval() {
    let mut world = World::new(&[("a", tcp())]);
    let start = world.now;
    world.step(good());
    assert!(world.now - start <= FIRST_SPREAD);
    let mut times = vec![];
    for _ in 0..100 {
        let before = world.now;
        world.step(good());
        times.push(world.now - before);
    }
    let (least, most) = (times.iter().min().unwrap(), times.iter().max().unwrap());
    assert!(*least >= Duration::from_secs(9) && *most <= Duration::from_secs(11), "{least:?} {most:?}");
    assert!(*most > *least + Duration::from_secs(1), "there is jitter");
}

#[test]
fn thresholds_must_be_reached_in_a_row() {
    let mut world = World::new(&[("a", CheckSpec { rise: 2, fall: 3, ..tcp() })]);
    let outcomes = [good(), bad(), good(), good(), bad(), bad(), good(), bad(), bad(), bad(), good(), good()];
    let states: String = outcomes.into_iter().map(|outcome| letter(world.step(outcome))).collect();
    assert_eq!(states, "CCCPPPPPPCCP");
}

#[test]
fn a_warning_needs_no_threshold_from_passing_and_is_good() {
    let mut world = World::new(&[("a", CheckSpec { rise: 2, ..tcp() })]);
    let warning = || Outcome { health: Health::Warning, output: "slow".into() };
    assert_eq!(world.step(warning()), Health::Critical);
    assert_eq!(world.step(good()), Health::Passing);
    assert_eq!(world.step(warning()), Health::Warning);
}

#[test]
fn failures_of_the_start_period_do_not_count_until_it_has_passed_once() {
    let patient = CheckSpec { start_period: Duration::from_mins(1), initial: Health::Warning, ..tcp() };
    let mut world = World::new(&[("a", patient)]);
    assert_eq!(world.step(bad()), Health::Warning);
    assert_eq!(world.step(bad()), Health::Warning);
    assert_eq!(world.step(good()), Health::Passing);
    assert_eq!(world.step(bad()), Health::Critical);
    let patient = CheckSpec { start_period: Duration::from_secs(15), ..tcp() };
    let mut world = World::new(&[("a", CheckSpec { initial: Health::Passing, ..patient })]);
    let states: Vec<Health> = (0..4).map(|_| world.step(bad())).collect();
    assert_eq!(states.last(), Some(&Health::Critical));
    assert_eq!(states[0], Health::Passing);
}

#[test]
fn never_more_than_the_bound_run_and_none_twice_at_once() {
    let ids: Vec<String> = (0..100).map(|index| format!("i{index}")).collect();
    let checks: Vec<(&str, CheckSpec)> = ids.iter().map(|id| (id.as_str(), tcp())).collect();
    let mut world = World::new(&checks);
    world.now += Duration::from_hours(1);
    let mut runs: Vec<Run> = std::iter::from_fn(|| world.scheduler.poll_start(world.now)).collect();
    assert_eq!(runs.len(), MAX_RUNNING);
    assert_eq!(world.scheduler.poll_timeout(), None);
    let run = runs.pop().unwrap();
    world.scheduler.handle_outcome(&run.key, run.number, &good(), world.now);
    let next = world.scheduler.poll_start(world.now).unwrap();
    assert!(runs.iter().all(|run| run.key != next.key));
    assert_eq!(world.scheduler.poll_start(world.now), None);
}

fn slow() -> CheckSpec {
    CheckSpec { timeout: MAX_TIMEOUT, interval: Duration::from_secs(1), ..tcp() }
}

#[test]
fn those_that_may_hang_for_long_leave_places_to_the_others() {
    let ids: Vec<String> = (0..100).flat_map(|index| [format!("slow{index}"), format!("x{index}")]).collect();
    let spec_of = |id: &str| if id.starts_with("slow") { slow() } else { tcp() };
    let checks: Vec<(&str, CheckSpec)> = ids.iter().map(|id| (id.as_str(), spec_of(id))).collect();
    let mut world = World::new(&checks);
    world.now += Duration::from_hours(1);
    let runs: Vec<Run> = std::iter::from_fn(|| world.scheduler.poll_start(world.now)).collect();
    let (hanging, others): (Vec<Run>, Vec<Run>) = runs.into_iter().partition(|run| run.timeout == MAX_TIMEOUT);
    assert_eq!((hanging.len(), others.len()), (MAX_SLOW, MAX_RUNNING - MAX_SLOW));
    for run in &others {
        world.scheduler.handle_outcome(&run.key, run.number, &good(), world.now);
    }
    for _ in 0..1000 {
        let run = world.next_run();
        assert!(run.timeout <= DEFAULT_TIMEOUT, "{run:?}");
        world.scheduler.handle_outcome(&run.key, run.number, &good(), world.now);
    }
    let run = &hanging[0];
    world.scheduler.handle_outcome(&run.key, run.number, &bad(), world.now);
    let next = std::iter::from_fn(|| world.scheduler.poll_start(world.now)).find(|run| run.timeout == MAX_TIMEOUT);
    assert!(next.is_some_and(|next| next.key != run.key), "the next of its kind has the place");
}

#[test]
fn slow_ones_that_wait_for_a_place_wake_nobody() {
    let ids: Vec<String> = (0..=MAX_SLOW).map(|index| format!("slow{index}")).collect();
    let checks: Vec<(&str, CheckSpec)> = ids.iter().map(|id| (id.as_str(), slow())).collect();
    let mut world = World::new(&checks);
    world.now += FIRST_SPREAD;
    assert_eq!(std::iter::from_fn(|| world.scheduler.poll_start(world.now)).count(), MAX_SLOW);
    assert_eq!(world.scheduler.poll_timeout(), None);
}

#[test]
fn a_check_that_is_defined_anew_while_it_runs_begins_when_that_has_ended() {
    let other = || spec(Probe::Tcp("127.0.0.1:2".into()));
    let mut world = World::new(&[("a", slow())]);
    let run = world.next_run();
    // Anew, away, and there again.
    for checks in [&[("a", other())][..], &[], &[("a", other())]] {
        world.set(checks);
        world.now += Duration::from_secs(2);
        assert_eq!((world.scheduler.poll_start(world.now), world.scheduler.poll_timeout()), (None, None));
    }
    world.scheduler.handle_outcome(&run.key, run.number, &good(), world.now);
    assert_eq!(world.scheduler.check(&run.key).unwrap().health, Health::Critical, "it said nothing of this one");
    let next = world.scheduler.poll_start(world.now).unwrap();
    assert_eq!(next.probe, other().probe);
    world.scheduler.handle_outcome(&next.key, next.number, &good(), world.now);
    assert_eq!(world.scheduler.check(&run.key).unwrap().health, Health::Passing);
}

#[test]
fn an_outcome_for_an_earlier_definition_is_dropped() {
    let mut world = World::new(&[("a", tcp())]);
    let run = world.next_run();
    world.set(&[("a", CheckSpec { fall: 2, ..tcp() })]);
    world.scheduler.handle_outcome(&run.key, run.number, &good(), world.now);
    assert_eq!(world.scheduler.check(&run.key).unwrap().health, Health::Critical);
    assert_eq!(world.step(good()), Health::Passing);
    // What stays as it was keeps its result.
    world.set(&[("a", CheckSpec { fall: 2, ..tcp() }), ("b", tcp())]);
    assert_eq!(world.scheduler.check(&key("a")).unwrap().health, Health::Passing);
    world.set(&[]);
    assert_eq!((world.scheduler.check(&key("a")), world.scheduler.poll_timeout()), (None, None));
}

#[test]
fn a_check_that_only_comes_more_often_keeps_its_result() {
    let mut world = World::new(&[("a", tcp())]);
    world.step(good());
    world.set(&[("a", CheckSpec { interval: Duration::from_secs(5), ..tcp() })]);
    assert_eq!(world.scheduler.check(&key("a")).unwrap().health, Health::Passing);
    assert_eq!(world.step(bad()), Health::Critical, "it goes on");
    world.step(good());
    world.set(&[("a", spec(Probe::Tcp("127.0.0.1:2".into())))]);
    assert_eq!(world.scheduler.check(&key("a")).unwrap().health, Health::Critical, "it asks somebody else");
}

#[test]
fn a_ttl_must_be_renewed() {
    let mut world = World::new(&[("a", spec(Probe::Ttl(Duration::from_secs(5))))]);
    let id = key("a").check;
    assert!(world.scheduler.handle_report(&id, &good(), world.now));
    assert!(!world.scheduler.handle_report(&CheckId("other".into()), &good(), world.now));
    let health = |world: &mut World, after: u64| {
        world.now += Duration::from_secs(after);
        assert_eq!(world.scheduler.poll_start(world.now), None);
        world.scheduler.check(&key("a")).unwrap()
    };
    assert_eq!(health(&mut world, 4).health, Health::Passing);
    assert!(world.scheduler.handle_report(&id, &good(), world.now));
    assert_eq!(health(&mut world, 4).health, Health::Passing);
    let expired = health(&mut world, 1);
    assert_eq!((expired.health, expired.output.as_str()), (Health::Critical, "no report within 5 s"));
    assert!(world.scheduler.handle_report(&id, &good(), world.now));
    assert_eq!(health(&mut world, 0).health, Health::Passing);
}

#[test]
fn a_ttl_that_is_silent_for_good_becomes_critical_whatever_it_takes() {
    let ttl = || spec(Probe::Ttl(Duration::from_secs(5)));
    for patient in [CheckSpec { fall: 3, ..ttl() }, CheckSpec { start_period: Duration::from_secs(12), ..ttl() }] {
        let mut world = World::new(&[("a", CheckSpec { initial: Health::Passing, ..patient })]);
        let states: String = (0..4)
            .map(|_| {
                world.now += Duration::from_secs(5);
                assert_eq!(world.scheduler.poll_start(world.now), None);
                letter(world.scheduler.check(&key("a")).unwrap().health)
            })
            .collect();
        assert_eq!((states.as_str(), world.scheduler.poll_timeout()), ("PPCC", None), "and is looked at no more");
    }
}

#[test]
fn a_ttl_ends_while_runs_hold_all_places() {
    let ids: Vec<String> = (0..MAX_RUNNING).map(|index| format!("slow{index}")).collect();
    let mut checks: Vec<(&str, CheckSpec)> = ids.iter().map(|id| (id.as_str(), tcp())).collect();
    // One that waits for a place is due before the TTL.
    checks.push(("waits", tcp()));
    checks.push(("a", CheckSpec { initial: Health::Passing, ..spec(Probe::Ttl(Duration::from_secs(30))) }));
    let mut world = World::new(&checks);
    let end = world.now + Duration::from_secs(30);
    world.now += FIRST_SPREAD;
    let runs: Vec<Run> = std::iter::from_fn(|| world.scheduler.poll_start(world.now)).collect();
    assert_eq!((runs.len(), world.scheduler.poll_timeout()), (MAX_RUNNING, Some(end)), "it wakes for the TTL");
    world.now = end;
    assert_eq!(world.scheduler.poll_start(world.now), None);
    assert_eq!(world.scheduler.check(&key("a")).unwrap().health, Health::Critical);
    assert_eq!(world.scheduler.poll_timeout(), None, "and once");
}

#[test]
fn no_run_takes_longer_than_the_bound() {
    let mut world = World::new(&[("a", CheckSpec { timeout: Duration::from_hours(24), ..tcp() })]);
    assert_eq!(world.next_run().timeout, MAX_TIMEOUT);
}

#[test]
fn words_alone_change_nothing_for_a_while() {
    let mut world = World::new(&[("a", tcp())]);
    world.step(good());
    assert!(world.scheduler.take_change());
    let start = world.now;
    let mut change_count = 0;
    for count in 0..60 {
        world.step(Outcome { output: format!("answer {count}"), ..good() });
        change_count += usize::from(world.scheduler.take_change());
    }
    let minutes = (world.now - start).as_secs() / 60;
    assert!((1..=minutes as usize / 5).contains(&change_count), "{change_count} in {minutes} minutes");
    world.step(bad());
    assert!(world.scheduler.take_change());
}

#[test]
fn what_is_critical_for_too_long_expires() {
    let mortal = CheckSpec { deregister_after: Some(Duration::from_mins(1)), ..tcp() };
    let mut world = World::new(&[("a", mortal), ("b", tcp())]);
    assert_eq!(world.scheduler.expired(world.now), []);
    world.now += Duration::from_mins(1);
    assert_eq!(world.scheduler.expired(world.now), [InstanceId("a".into())]);
}

#[test]
fn giant_output_is_cut_at_a_character() {
    let mut world = World::new(&[("a", tcp())]);
    world.step(Outcome { output: "ä".repeat(1 << 20), ..bad() });
    let output = world.scheduler.check(&key("a")).unwrap().output;
    assert!(output.len() <= limits::MAX_CHECK_OUTPUT_BYTES && output.starts_with('ä'));
}

#[test]
fn a_restart_of_ours_is_no_event_for_what_we_check() {
    let mut before = World::new(&[("a", tcp())]);
    before.step(good());
    let mut scheduler = Scheduler::new([8; 32], before.scheduler.states());
    scheduler.set_checks([(key("a"), tcp()), (key("b"), tcp())].into(), before.now);
    let health = |id: &str| scheduler.check(&key(id)).unwrap().health;
    assert_eq!((health("a"), health("b")), (Health::Passing, Health::Critical));
}

//! The keys that show what is live: one service each, whoever wants what at the same time.

use std::{collections::BTreeSet, time::Instant};

use rand::{SeedableRng as _, rngs::StdRng};
use weaved_api::PeerId;

use super::{
    super::{
        ServiceFacts,
        around::{Around, Effect},
        machine::Switches,
        record::{Record, record_key},
        testing::{instances, view},
    },
    *,
};
use crate::{
    hlc::Hlc,
    kv::{Author, Change, Decision, Entry, RequestId, Rule, Value, decide},
};

fn shown_in(key: &str, service: &str, colour: &str) -> Order {
    Order { service: service.into(), key: Some(key.into()), ..to(colour) }
}

#[test]
fn a_key_that_shows_the_live_colour_of_a_service_is_refused_to_another_one() {
    let mut world = World::new(1, 5, Faults::LAN);
    world.run_for(secs(8));
    world.switch(0, shown_in("live", "web", "blue"));
    world.run_for(secs(3));
    // One that was chosen, and the usual one of a service about which nothing is decided.
    for (key, service, colour, by) in [("live", "api", "green", "web"), ("backend/api", "web", "green", "api")] {
        match world.switch(1, shown_in(key, service, colour)) {
            Outcome::Refused(refusal) => {
                let words = format!("the key `{key}` shows the live colour of {by} already");
                assert!(refusal.to_string().starts_with(&words), "{refusal}");
            }
            other => panic!("{other:?}"),
        }
    }
    let own = world.switch(1, shown_in("live", "web", "green"));
    assert!(matches!(own, Outcome::Switched { .. }), "{own:?}");
    let other = world.switch(2, shown_in("other", "api", "green"));
    assert!(matches!(other, Outcome::Switched { .. }), "{other:?}");
}

#[test]
fn what_cannot_be_a_key_that_clients_read_is_refused() {
    let mut world = World::new(3, 3, Faults::LAN);
    world.run_for(secs(8));
    for key in ["", "weaved/switch/web", "a\0b", &"k".repeat(5000)] {
        let outcome = world.switch(0, shown_in(key, "web", "blue"));
        assert!(matches!(outcome, Outcome::Refused(Refusal::Senseless(_))), "{key:?}: {outcome:?}");
    }
}

#[test]
fn two_services_that_are_given_one_key_at_once_do_not_take_turns_in_it() {
    each_seed(0..20, |seed| {
        let mut world = World::new(seed, 5, Faults::LAN);
        world.run_for(secs(8));
        for (host, service, colour) in [(1, "web", "blue"), (2, "api", "green")] {
            let order = world.order(host, shown_in("live", service, colour));
            assert_eq!(world.outcome(order), None, "WEAVED_SEED={seed}: no host knows of the other's");
        }
        world.run_for(secs(15));
        let settled = world.shown("live").expect("it was written");
        assert_eq!(settled.1, "green", "WEAVED_SEED={seed}: that of the first by name");
        world.run_for(secs(30));
        assert_eq!(world.shown("live"), Some(settled), "WEAVED_SEED={seed}");
    });
}

#[test]
fn a_host_that_has_missed_what_was_set_changes_none_of_it() {
    let mut world = World::new(2, 5, Faults::LAN);
    world.run_for(secs(8));
    world.cut_off(4);
    assert!(matches!(world.switch(0, shown_in("live", "web", "blue")), Outcome::Switched { .. }));
    world.heal();
    assert!(matches!(world.switch(4, to("green")), Outcome::Switched { .. }));
    let record = world.record().expect("there was a switch");
    assert_eq!((record.key.as_str(), record.revision), ("live", 2));
}

#[test]
fn a_put_with_flags_is_refused_and_not_stripped_of_them() {
    let (me, now) = (PeerId([1; 32]), Instant::now());
    let (live, catalogue) = (BTreeSet::from([me]), view(&[("web", instances("green", 1, 1))]));
    let around =
        Around { me, view: &catalogue, live: &live, name: &|_| "alpha".into(), key: &|_| None, now, wall_us: 1 };
    let mut switches = Switches::new(StdRng::seed_from_u64(1), now);
    let mut put = |id, flags| {
        let change = Change::Put { value: Value::new(b"green"), flags, rule: Rule::Always };
        switches.handle_write(RequestId(id), "web", &change, "a test", &around);
        switches.poll_answer().map(|(_, answer)| answer.unwrap_err().to_string())
    };
    let refused = put(1, 42).expect("it is answered at once");
    assert!(refused.starts_with("the key cannot have flags: this key shows which colour of web is live"), "{refused}");
    assert_eq!(put(2, 0), None, "a majority is asked");
}

fn entry(record: &Record) -> Entry {
    let change = Change::Put { value: record.to_value(), flags: 0, rule: Rule::Always };
    match decide(None, &change, Author { writer: PeerId([1; 32]), now: Hlc(1) }) {
        Decision::Changed(entry) => entry,
        _ => panic!("it is new"),
    }
}

#[test]
fn a_file_that_claims_the_key_of_another_service_is_not_taken_up_and_the_operator_is_told_once() {
    let (me, now) = (PeerId([1; 32]), Instant::now());
    let live = BTreeSet::from([me]);
    let catalogue = view(&[]);
    let around =
        |now| Around { me, view: &catalogue, live: &live, name: &|_| "alpha".into(), key: &|_| None, now, wall_us: 1 };
    let mut switches = Switches::new(StdRng::seed_from_u64(1), now);
    let record = Record { key: "live".into(), ..Record::new("web") };
    switches.handle_entry(&record_key("web"), &entry(&record), &around(now));
    let facts = |name: &str, key: &str| ServiceFacts { name: name.into(), key: Some(key.into()), colour: None };
    switches.handle_balanced_services(vec![facts("api", "live"), facts("db", "data")]);
    let (mut decided, mut notes) = (Vec::new(), Vec::new());
    for round in 0..4 {
        switches.handle_timeout(&around(now + secs(round)));
        while let Some(effect) = switches.poll_effect() {
            match effect {
                Effect::Decide(_, key, _) => decided.push(key.as_str().to_owned()),
                Effect::Note(note) => notes.push(note),
                Effect::Send(..) => {}
            }
        }
    }
    assert_eq!(decided, [record_key("db")]);
    assert!(matches!(notes.as_slice(), [note] if note.contains("`live`") && note.contains("web already")), "{notes:?}");
    assert_eq!(switches.mirrored_by("live", &catalogue).as_deref(), Some("web"));
}

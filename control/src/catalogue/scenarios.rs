//! Catalogues and indexes in small scenes.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use proptest::prelude::*;
use weaved_api::PeerId;

use super::{
    Catalogue, CatalogueMessage, Check, CheckId, Head, Health, Index, Indexer, Instance, InstanceId, NodeFacts,
    Readiness, Standing, Taken, View, instance::tests::instance, limits,
};
use crate::{
    cluster::{IdRange, Message, Version},
    hlc::Hlc,
    node::MemberState,
};

const A: PeerId = PeerId([1; 32]);
const B: PeerId = PeerId([2; 32]);

fn catalogue(me: PeerId, instances: &[&str]) -> Catalogue {
    let mut catalogue = Catalogue::new(me, Version(1000));
    assert_eq!(catalogue.write_own(instances.iter().map(|id| instance(id, "web")).collect()), 0);
    catalogue
}

fn ids(catalogue: &Catalogue, owner: PeerId) -> Vec<String> {
    catalogue.instances(owner).map(|instance| instance.id.0.clone()).collect()
}

/// Carries all that `to` lacks of `from`'s log.
fn carry(from: &Catalogue, to: &mut Catalogue, owner: PeerId) -> Vec<Taken> {
    let deltas: Vec<_> = from.deltas(&[(owner, to.head(owner))]).collect();
    deltas.into_iter().map(|delta| to.take(delta, Instant::now())).collect()
}

#[test]
fn nothing_is_announced_before_it_is_known_what_runs_here() {
    let mut catalogue = Catalogue::new(A, Version(1000));
    assert!(catalogue.heads(IdRange::ALL).is_empty() && !catalogue.has_news());
    catalogue.write_own(vec![]);
    assert!(catalogue.has_news(), "that nothing runs here is news for those who know an earlier life");
    assert_eq!(catalogue.heads(IdRange::ALL)[0].0, A);
}

#[test]
fn writing_the_same_again_says_nothing() {
    let mut catalogue = catalogue(A, &["a", "b"]);
    let _told = catalogue.take_news();
    let version = catalogue.own_version();
    catalogue.write_own(vec![instance("b", "web"), instance("a", "web")]);
    assert!(!catalogue.has_news());
    assert_eq!(catalogue.own_version(), version);
}

#[test]
fn a_new_life_replaces_the_old_log_at_once_and_whole() {
    let mut b = catalogue(B, &[]);
    let names: Vec<_> = (0..500).map(|number| format!("x{number}")).collect();
    let old = catalogue(A, &names.iter().map(String::as_str).collect::<Vec<_>>());
    carry(&old, &mut b, A);
    let mut new = Catalogue::new(A, Version(50_000));
    new.write_own(names[1..].iter().map(|id| instance(id, "web")).collect());
    let deltas: Vec<_> = new.deltas(&[(A, b.head(A))]).collect();
    let count = deltas.len();
    assert!(count > 3);
    for (number, delta) in deltas.into_iter().enumerate() {
        assert!(matches!(b.take(delta, Instant::now()), Taken::In(_)));
        let expected = if number + 1 < count { 500 } else { 499 };
        assert_eq!(ids(&b, A).len(), expected, "after part {number}");
    }
    assert_eq!(ids(&b, A), ids(&new, A));
}

#[test]
fn parts_that_overtake_each_other_are_kept_until_they_fit() {
    let mut a = catalogue(A, &[]);
    a.write_own((0..100).map(|number| instance(&format!("x{number}"), "web")).collect());
    let mut b = catalogue(B, &[]);
    let mut deltas: Vec<_> = a.deltas(&[(A, Head::default())]).collect();
    deltas.reverse();
    let taken: Vec<_> = deltas.into_iter().map(|delta| b.take(delta, Instant::now())).collect();
    let (last, others) = taken.split_last().unwrap();
    assert!(matches!(last, Taken::In(_)) && others.iter().all(|taken| matches!(taken, Taken::Gap(_))), "{taken:?}");
    assert_eq!(others.iter().filter(|taken| matches!(taken, Taken::Gap(Some(_)))).count(), 1, "one question is enough");
    assert_eq!(ids(&b, A), ids(&a, A));
}

#[test]
fn what_somebody_else_wrote_as_us_is_overruled_by_what_runs_here() {
    let mut forger = Catalogue::new(A, Version(900_000));
    forger.write_own(vec![instance("forged", "web")]);
    let mut a = catalogue(A, &["real"]);
    let mut b = catalogue(B, &[]);
    carry(&forger, &mut b, A);
    assert_eq!(ids(&b, A), ["forged"]);
    let comparison = a.compare(None, &b.heads(IdRange::ALL), Instant::now());
    assert!(comparison.foreign_own);
    assert_eq!(ids(&a, A), ["real"]);
    carry(&a, &mut b, A);
    assert_eq!(ids(&b, A), ["real"]);
    assert!(!a.compare(None, &b.heads(IdRange::ALL), Instant::now()).foreign_own, "an echo of ours is no news");
}

#[test]
fn both_sides_of_a_comparison_learn_what_they_lack() {
    let (mut a, mut b) = (catalogue(A, &["x"]), catalogue(B, &["y"]));
    let comparison = b.compare(Some(IdRange::ALL), &a.heads(IdRange::ALL), Instant::now());
    assert_eq!(comparison.asks, [(A, Head::default())]);
    assert_eq!(comparison.answers.iter().map(|(owner, _)| *owner).collect::<Vec<_>>(), [B]);
    assert_eq!(a.compare(None, &comparison.answers, Instant::now()).asks, [(B, Head::default())]);
    let again = b.compare(Some(IdRange::ALL), &a.heads(IdRange::ALL), Instant::now());
    assert!(again.asks.is_empty(), "the answer is under way");
    let later = Instant::now() + Duration::from_secs(1);
    assert_eq!(b.compare(Some(IdRange::ALL), &a.heads(IdRange::ALL), later).asks.len(), 1, "or it was lost");
}

#[test]
fn the_log_of_a_stranger_is_forgotten_and_not_passed_on() {
    let a = catalogue(A, &["x"]);
    let mut b = catalogue(B, &[]);
    carry(&a, &mut b, A);
    b.prune(|_| false);
    assert_eq!(b.heads(IdRange::ALL).len(), 1, "only its own");
    b.prune(|_| false);
    assert!(ids(&b, A).is_empty());
}

#[test]
fn instances_beyond_the_limits_are_left_out_and_counted() {
    let mut a = Catalogue::new(A, Version(1000));
    let long = Instance { service: "x".repeat(limits::MAX_NAME_BYTES + 1), ..instance("long", "web") };
    let twice = Instance { port: 81, ..instance("a", "web") };
    assert_eq!(a.write_own(vec![instance("a", "web"), long, twice, instance("", "web")]), 3);
    assert_eq!(ids(&a, A), ["a"]);
    let many = (0..limits::MAX_INSTANCES + 5).map(|number| instance(&number.to_string(), "web")).collect();
    assert_eq!(a.write_own(many), 5);
}

#[test]
fn a_long_check_output_is_cut_and_the_longest_instance_fits_a_message() {
    let check = |number: usize| Check {
        id: CheckId(format!("{number}{}", "c".repeat(250))),
        name: "n".repeat(255),
        kind: "http".into(),
        health: Health::Passing,
        output: "ü".repeat(5000),
    };
    let long = Instance {
        tags: vec!["t".repeat(limits::MAX_TAG_BYTES); limits::MAX_TAGS],
        meta: (0..limits::MAX_META)
            .map(|number| (format!("{number}"), "m".repeat(limits::MAX_META_VALUE_BYTES)))
            .collect(),
        checks: (0..limits::MAX_CHECKS).map(check).collect(),
        ..instance("long", "web")
    };
    let mut a = Catalogue::new(A, Version(1000));
    assert_eq!(a.write_own(vec![instance("a", "web"), long, instance("z", "web")]), 0);
    let messages: Vec<_> = a.deltas(&[(A, Head::default())]).map(CatalogueMessage::Delta).collect();
    assert_eq!(messages.len(), 3);
    // Encoding asserts the limit.
    assert!(messages.into_iter().all(|message| !Message::Catalogue(message).encode().is_empty()));
}

/// An index with what it is made of.
struct Scene {
    indexer: Indexer,
    catalogue: Catalogue,
    facts: Vec<NodeFacts>,
    wall_us: u64,
}

impl Scene {
    fn new() -> Self {
        let indexer = Indexer::new(A, Hlc(100), 50);
        Self { indexer, catalogue: Catalogue::new(A, Version(1)), facts: vec![facts(A, "alpha")], wall_us: 0 }
    }

    fn run(&mut self, instances: Vec<Instance>) -> bool {
        self.catalogue.write_own(instances);
        self.rebuild()
    }

    fn rebuild(&mut self) -> bool {
        let changed: BTreeSet<_> = self.catalogue.take_changed();
        let catalogue = &self.catalogue;
        let instances = |owner| catalogue.instances(owner);
        self.indexer.rebuild(Readiness::Ready, self.facts.clone(), &changed, instances, self.wall_us)
    }

    fn view(&self) -> &View {
        self.indexer.view()
    }
}

fn facts(id: PeerId, name: &str) -> NodeFacts {
    NodeFacts {
        id,
        name: name.into(),
        address: Some("192.0.2.1".parse().unwrap()),
        gateway: Some("10.32.5.1".parse().unwrap()),
        state: MemberState::Up,
        standing: Standing::Trusted,
        meta: BTreeMap::new(),
    }
}

#[test]
fn a_change_of_one_service_moves_its_index_and_no_others() {
    let mut scene = Scene::new();
    scene.run(vec![instance("a", "web"), instance("b", "db")]);
    let before = scene.view().clone();
    assert!(scene.run(vec![Instance { port: 81, ..instance("a", "web") }, instance("b", "db")]));
    let after = scene.view();
    assert!(after.index > before.index && after.service_index("web") > before.service_index("web"));
    assert_eq!(after.service_index("db"), before.service_index("db"));
    assert_eq!(after.service_index("never"), before.service_index("never"));
    assert_eq!((after.names_index, after.nodes_index), (before.names_index, before.nodes_index));
    let web = &after.service("web").unwrap().instances[0];
    assert!(web.modified > web.created);
    assert_eq!(web.address, Some("10.32.5.1".parse().unwrap()), "the node's address on the overlay");
}

#[test]
fn a_service_that_vanishes_keeps_its_index_and_comes_back_with_a_greater_one() {
    let mut scene = Scene::new();
    scene.run(vec![instance("a", "web")]);
    let there = scene.view().service_index("web");
    scene.run(vec![]);
    let gone = scene.view().service_index("web");
    assert!(scene.view().service("web").is_none() && gone > there);
    scene.run(vec![instance("b", "db")]);
    assert_eq!(scene.view().service_index("web"), gone);
    scene.run(vec![instance("a", "web")]);
    assert!(scene.view().service_index("web") > gone);
}

#[test]
fn forgotten_names_never_slide_back() {
    let mut scene = Scene::new();
    scene.run((0..2000).map(|number| instance(&number.to_string(), &format!("old{number}"))).collect());
    scene.run((0..4000).map(|number| instance(&number.to_string(), &format!("new{number}"))).collect());
    let before: Vec<_> = (0..2000).map(|number| scene.view().service_index(&format!("old{number}"))).collect();
    scene.run(vec![]);
    for (number, before) in before.iter().enumerate() {
        assert!(scene.view().service_index(&format!("old{number}")) >= *before);
    }
    assert!(scene.view().vanished.len() <= limits::MAX_VANISHED);
}

#[test]
fn nothing_new_is_no_new_view() {
    let mut scene = Scene::new();
    scene.run(vec![instance("a", "web")]);
    let index = scene.view().index;
    assert!(!scene.run(vec![instance("a", "web")]));
    scene.catalogue.write_own(vec![]);
    assert!(!scene.run(vec![instance("a", "web")]), "gone and back between two looks");
    assert_eq!(scene.view().index, index);
}

#[test]
fn the_state_of_a_node_is_part_of_the_state_of_its_instances() {
    let mut scene = Scene::new();
    scene.run(vec![instance("a", "web")]);
    let before = scene.view().index;
    scene.facts[0].standing = Standing::Suspended;
    scene.rebuild();
    let web = scene.view().service("web").unwrap();
    assert_eq!((web.instances[0].health, web.passing().count()), (Health::Critical, 0));
    assert!(web.index > before);
    scene.facts[0].standing = Standing::Expired;
    scene.rebuild();
    assert!(scene.view().service("web").is_none());
    assert!(scene.view().nodes.contains_key(&A), "the node itself is listed on");
}

#[test]
fn a_run_begins_above_the_indexes_of_the_one_before_also_when_the_clock_went_back() {
    let mut first = Scene::new();
    first.run(vec![instance("a", "web")]);
    let floor = Hlc(first.view().index.0 + 10);
    let second = Indexer::new(A, floor, 3);
    assert!(second.view().index > first.view().index && second.view().service_index("x") > first.view().index);
    assert!(second.view().index > Index(0));
}

fn any_bytes() -> impl Strategy<Value = Vec<u8>> {
    let deltas: Vec<_> = catalogue(A, &["a", "b", "c"]).deltas(&[(A, Head::default())]).collect();
    let delta = Message::Catalogue(CatalogueMessage::Delta(deltas[0].clone())).encode();
    let heads = CatalogueMessage::heads_of(IdRange::ALL, &[(A, Head { latest: Version(7), floor: Version(3) })]);
    let heads = Message::Catalogue(heads[0].clone()).encode();
    let damage = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6);
    (prop::sample::select(vec![delta, heads]), damage).prop_map(|(mut bytes, damage)| {
        for (place, value) in damage {
            let place = place.index(bytes.len());
            bytes[place] = value;
        }
        bytes
    })
}

proptest! {
    #[test]
    fn damaged_messages_change_nobodys_log_but_their_owners(bytes in any_bytes()) {
        let mut b = catalogue(B, &["mine"]);
        let now = Instant::now();
        match Message::decode(&bytes) {
            Ok(Message::Catalogue(CatalogueMessage::Delta(delta))) => drop(b.take(delta, now)),
            Ok(Message::Catalogue(CatalogueMessage::Heads { range, heads })) => drop(b.compare(range, &heads, now)),
            Ok(Message::Catalogue(CatalogueMessage::Ask(heads))) => drop(b.deltas(&heads).count()),
            _ => {}
        }
        prop_assert_eq!(ids(&b, B), vec!["mine".to_owned()]);
        prop_assert!(b.own_version() <= Version(Version::MAX.0 + 3));
    }

    #[test]
    fn whatever_is_lost_or_reordered_a_copy_ends_equal(
        writes in prop::collection::vec((0..6u8, any::<bool>(), 0..3u16), 1..40),
        order in prop::collection::vec((any::<bool>(), any::<prop::sample::Index>()), 40),
    ) {
        let (mut a, mut b) = (catalogue(A, &[]), catalogue(B, &[]));
        let mut running: BTreeMap<InstanceId, Instance> = BTreeMap::new();
        let mut wire = Vec::new();
        let now = Instant::now();
        for ((id, is_there, port), (is_lost, pick)) in writes.into_iter().zip(order) {
            let one = Instance { port, ..instance(&id.to_string(), "web") };
            if is_there { running.insert(one.id.clone(), one); } else { running.remove(&one.id); }
            a.write_own(running.values().cloned().collect());
            let news = a.take_news();
            let deltas: Vec<_> = a.deltas(news.own.as_slice()).collect();
            wire.extend(deltas.into_iter().filter(|_| !is_lost));
            if !wire.is_empty() {
                let delta = wire.swap_remove(pick.index(wire.len()));
                b.take(delta, now);
            }
        }
        carry(&a, &mut b, A);
        let (ours, theirs): (Vec<_>, Vec<_>) = (a.instances(A).collect(), b.instances(A).collect());
        prop_assert_eq!(ours, theirs);
    }
}

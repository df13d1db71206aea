//! Tests of two or three allocators that talk to each other directly.

use std::time::{Duration, Instant};

use weaved_api::PeerId;

use super::{
    Allocator, Effect, IpamEvent, IpamMessage, Neighbour, Neighbours, Overlay, Refusal, Settled, SliceIndex, StoredIpam,
};
use crate::node::{DockerUse, Start};

const A: PeerId = PeerId([0x0a; 32]);
const B: PeerId = PeerId([0x0b; 32]);
const C: PeerId = PeerId([0x0c; 32]);

fn overlay() -> Overlay {
    Overlay::new("10.0.0.0/16".parse().unwrap(), 22).unwrap()
}

fn begun(id: PeerId, start: Start, wall_us: u64) -> Allocator {
    let mut allocator = Allocator::new(id, overlay(), start);
    assert!(allocator.begin(None, wall_us));
    allocator.handle_use(DockerUse::Unused, false);
    allocator
}

/// Everybody connected, alive and well known.
fn neighbours(others: &[&Allocator]) -> Neighbours {
    let of = |other: &Allocator| Neighbour {
        is_connected: true,
        is_live: true,
        seed: other.seed(),
        slice: other.slice(),
        is_compatible: true,
    };
    others.iter().map(|other| (other.me, of(other))).collect()
}

fn effects(allocator: &mut Allocator) -> Vec<Effect> {
    std::iter::from_fn(|| allocator.poll_effect()).collect()
}

fn messages_to(allocator: &mut Allocator, to: PeerId) -> Vec<IpamMessage> {
    let effects = effects(allocator).into_iter();
    effects
        .filter_map(
            |effect| if let Effect::Send(whom, message) = effect { (whom == to).then_some(message) } else { None },
        )
        .collect()
}

/// Tells one all that the other knows of its ring.
fn show_ring(from: &Allocator, to: &mut Allocator) {
    let ring = from.ring().unwrap();
    for part in Allocator::parts(ring, &(0..overlay().slice_count())) {
        to.handle_message(from.me, IpamMessage::Part(part));
    }
}

/// Lets `asker` do its next thing and carries the question to `owner` and the answer back.
fn converse(asker: &mut Allocator, owner: &mut Allocator, now: Instant) -> Vec<IpamMessage> {
    asker.pursue(&neighbours(&[owner]), now, 0);
    let questions = messages_to(asker, owner.me);
    for message in &questions {
        owner.handle_message(asker.me, message.clone());
    }
    let answers = messages_to(owner, asker.me);
    for message in &answers {
        asker.handle_message(owner.me, message.clone());
    }
    asker.pursue(&neighbours(&[owner]), now, 0);
    answers
}

#[test]
fn a_joiner_gets_the_half_of_what_is_free_and_uses_one_slice_of_it() {
    let (mut a, mut b, now) = (begun(A, Start::Founder, 1), begun(B, Start::Joiner, 1), Instant::now());
    show_ring(&a, &mut b);
    converse(&mut b, &mut a, now);
    let shares = b.ring().unwrap().shares();
    assert!((16..32).contains(&shares[&B]), "{shares:?}: half of the larger side of the founder's own slice");
    assert_eq!(b.ring().unwrap().at(b.slice().unwrap()).unwrap().owner, B);
    assert_eq!(b.settled(&neighbours(&[&a]), |id| id.to_string()), Settled::Yes);
}

#[test]
fn a_repeated_request_gets_the_same_answer_and_changes_nothing() {
    let mut a = begun(A, Start::Founder, 1);
    let request = IpamMessage::Request { seed: a.seed().unwrap() };
    a.handle_message(B, request.clone());
    assert!(a.take_needs_storing());
    let first = messages_to(&mut a, B);
    a.handle_message(B, request);
    assert!(!a.take_needs_storing());
    assert_eq!(messages_to(&mut a, B), first);
}

#[test]
fn a_slice_in_use_is_given_to_nobody() {
    let mut a = begun(A, Start::Founder, 1);
    let (own, seed) = (a.slice().unwrap(), a.seed().unwrap());
    for asker in 0..200 {
        a.handle_message(PeerId([asker; 32]), IpamMessage::Request { seed });
    }
    assert_eq!(a.ring().unwrap().owned_by(A), vec![own.0..own.0 + 1]);
    effects(&mut a);
    a.handle_message(B, IpamMessage::Claim { seed, slice: own });
    let refused = |slice, refusal| IpamMessage::Refused { seed, slice, refusal };
    assert_eq!(messages_to(&mut a, B), vec![refused(Some(own), Refusal::InUse)]);
    a.handle_message(PeerId([250; 32]), IpamMessage::Request { seed });
    assert_eq!(messages_to(&mut a, PeerId([250; 32])), vec![refused(None, Refusal::NothingFree)]);
    assert_eq!((a.slice(), a.ring().unwrap().at(own).unwrap().owner), (Some(own), A));
}

#[test]
fn refusals_do_not_chase_requests() {
    let (mut b, now) = (begun(B, Start::Joiner, 1), Instant::now());
    let a = begun(A, Start::Founder, 1);
    show_ring(&a, &mut b);
    let others = neighbours(&[&a]);
    let mut asked_count = 0;
    for _ in 0..10 {
        b.pursue(&others, now, 0);
        asked_count += messages_to(&mut b, A).len();
        b.handle_message(
            A,
            IpamMessage::Refused { seed: a.seed().unwrap(), slice: None, refusal: Refusal::NothingFree },
        );
    }
    assert_eq!(asked_count, 2, "once, once more after the first refusal, then after a pause");
    b.pursue(&others, now + Duration::from_secs(1), 0);
    assert_eq!(messages_to(&mut b, A).len(), 1);
}

#[test]
fn what_is_stored_is_what_the_next_run_begins_with() {
    let mut a = begun(A, Start::Founder, 1);
    a.handle_message(B, IpamMessage::Request { seed: a.seed().unwrap() });
    let stored = a.stored();
    let mut again = Allocator::new(A, overlay(), Start::Founder);
    assert!(again.begin(Some(&stored), 999));
    assert_eq!((again.ring(), again.slice()), (a.ring(), a.slice()));
}

#[test]
fn stored_state_that_contradicts_itself_is_refused() {
    let stored = begun(A, Start::Founder, 1).stored();
    let mut next = Allocator::new(A, overlay(), Start::Founder);
    assert!(!next.begin(Some(&StoredIpam { slice: Some(SliceIndex(64)), ..stored.clone() }), 1));
    assert!(!next.begin(Some(&StoredIpam { ring: None, ..stored }), 1));
    assert!(next.slice().is_none());
}

#[test]
fn a_slice_that_is_free_in_the_older_ring_is_claimed_and_kept() {
    let (mut old, mut young, now) = (begun(A, Start::Founder, 1), begun(B, Start::Founder, 2), Instant::now());
    let slice = young.slice();
    assert_ne!(old.slice(), slice);
    show_ring(&old, &mut young);
    young.handle_use(DockerUse::Used, true);
    converse(&mut young, &mut old, now);
    assert_eq!((young.slice(), young.seed()), (slice, old.seed()));
    assert!(young.rival_ring().is_none());
    assert_eq!(young.ring().unwrap().at(slice.unwrap()).unwrap().owner, B);
}

#[test]
fn the_older_ring_is_not_changed_by_the_younger_one() {
    let (mut old, young) = (begun(A, Start::Founder, 1), begun(B, Start::Founder, 2));
    let before = old.stored();
    show_ring(&young, &mut old);
    assert!(old.rival_ring().is_none());
    assert_eq!(old.stored(), before);
}

#[test]
fn a_node_on_its_way_to_an_older_ring_gives_nothing_away() {
    let (old, mut young) = (begun(A, Start::Founder, 1), begun(B, Start::Founder, 2));
    show_ring(&old, &mut young);
    let seed = young.seed().unwrap();
    young.handle_message(C, IpamMessage::Request { seed });
    young.handle_message(C, IpamMessage::Claim { seed, slice: SliceIndex(1) });
    assert!(!young.take_needs_storing() || young.ring().unwrap().owned_by(C).is_empty());
    let answers = messages_to(&mut young, C);
    assert_eq!(answers.len(), 2);
    assert!(answers.iter().all(|answer| matches!(answer, IpamMessage::Refused { refusal: Refusal::OtherRing, .. })));
}

/// Two founders with one slice: A's ring is the older one.
fn collided() -> (Allocator, Allocator) {
    let (old, mut young) = (begun(A, Start::Founder, 1), begun(B, Start::Founder, 2));
    young.slice = old.slice();
    (old, young)
}

#[test]
fn an_unused_slice_that_collides_gives_way_at_once() {
    let ((mut old, mut young), now) = (collided(), Instant::now());
    let slice = young.slice().unwrap();
    show_ring(&old, &mut young);
    young.pursue(&neighbours(&[&old]), now, 0);
    assert!(effects(&mut young).contains(&Effect::Event(IpamEvent::GivenUp(slice, A))));
    converse(&mut young, &mut old, now + Duration::from_secs(1));
    assert_ne!(young.slice(), old.slice());
    assert!(young.slice().is_some());
}

#[test]
fn a_slice_that_may_be_used_is_refused_once_and_gives_way_when_it_is_not() {
    let ((old, mut young), now) = (collided(), Instant::now());
    let slice = young.slice().unwrap();
    show_ring(&old, &mut young);
    young.handle_use(DockerUse::Unknown, false);
    for _ in 0..3 {
        young.pursue(&neighbours(&[&old]), now, 0);
    }
    let refusals =
        effects(&mut young).into_iter().filter(|effect| matches!(effect, Effect::Event(IpamEvent::Refused(..))));
    assert_eq!(refusals.count(), 1);
    assert_eq!(young.settled(&neighbours(&[&old]), |id| id.to_string()), Settled::Refused(A));
    assert_eq!(young.next_timeout(), Some(now + Duration::from_secs(5)), "the other one is asked now and then");
    young.handle_use(DockerUse::Unused, false);
    young.pursue(&neighbours(&[&old]), now, 0);
    assert!(effects(&mut young).contains(&Effect::Event(IpamEvent::GivenUp(slice, A))));
}

#[test]
fn a_used_slice_that_collides_is_ceded_by_the_older_ring_if_it_is_unused_there_and_kept_if_not() {
    for (docker, cedes) in [(DockerUse::Unused, true), (DockerUse::Used, false), (DockerUse::Unknown, false)] {
        let ((mut old, mut young), now) = (collided(), Instant::now());
        let slice = young.slice();
        show_ring(&old, &mut young);
        young.handle_use(DockerUse::Used, true);
        old.handle_use(docker, false);
        converse(&mut young, &mut old, now);
        old.pursue(&neighbours(&[&young]), now, 0);
        assert_eq!(young.slice(), slice, "where Docker uses it, it stays");
        assert_eq!(
            (old.slice() != slice, young.seed() == old.seed(), young.conflict().is_none()),
            (cedes, cedes, cedes)
        );
        for node in [&old, &young] {
            assert_eq!(node.ring().unwrap().at(node.slice().unwrap()).unwrap().owner, node.me);
        }
    }
}

#[test]
fn a_slice_is_not_ceded_by_one_that_has_no_other() {
    let (mut old, young) = collided();
    let (slice, seed) = (old.slice().unwrap(), old.seed().unwrap());
    for asker in 0..200 {
        old.handle_message(PeerId([asker; 32]), IpamMessage::Request { seed });
    }
    old.handle_message(young.me, IpamMessage::Plea { seed, slice });
    assert_eq!(old.slice(), Some(slice));
}

#[test]
fn an_unused_slice_whose_owner_is_silent_is_given_up_after_a_while_and_a_used_one_is_not() {
    for (docker, keeps) in [(DockerUse::Unused, false), (DockerUse::Used, true)] {
        let (old, mut young, now) = (begun(A, Start::Founder, 1), begun(B, Start::Founder, 2), Instant::now());
        show_ring(&old, &mut young);
        young.handle_use(docker, false);
        young.pursue(&neighbours(&[&old]), now, 0);
        assert!(young.slice().is_some());
        young.pursue(&neighbours(&[&old]), now + Duration::from_secs(6), 0);
        assert_eq!(young.slice().is_some(), keeps);
    }
}

#[test]
fn only_the_smallest_of_those_that_wait_for_each_other_founds() {
    let (mut a, mut b, now) = (begun(A, Start::Either, 1), begun(B, Start::Either, 1), Instant::now());
    for after in [0, 2, 4, 6] {
        let (to_a, to_b) = (neighbours(&[&b]), neighbours(&[&a]));
        a.pursue(&to_a, now + Duration::from_secs(after), 7);
        b.pursue(&to_b, now + Duration::from_secs(after), 7);
    }
    assert!(a.ring().is_some());
    assert!(b.ring().is_none());
}

#[test]
fn an_heir_owns_what_the_leaver_owned() {
    let (mut a, mut b, now) = (begun(A, Start::Founder, 1), begun(B, Start::Joiner, 1), Instant::now());
    show_ring(&a, &mut b);
    converse(&mut b, &mut a, now);
    a.hand_over(B);
    b.handle_message(A, IpamMessage::Handover { seed: a.seed().unwrap() });
    assert!(effects(&mut b).contains(&Effect::SendDigest(A)), "it has not heard of its inheritance");
    show_ring(&a, &mut b);
    b.handle_message(A, IpamMessage::Handover { seed: a.seed().unwrap() });
    assert!(messages_to(&mut b, A).contains(&IpamMessage::HandoverSeen));
    assert_eq!(b.ring().unwrap().shares().keys().collect::<Vec<_>>(), vec![&B]);
}

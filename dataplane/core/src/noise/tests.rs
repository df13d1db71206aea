//! The handshake as a whole: what succeeds, what must not, and what an attacker gets out of it.

use std::net::SocketAddr;

use aws_lc_rs::digest;
use proptest::prelude::*;
use weaved_api::PeerId;

use super::{
    resolver::counting::public_key_work,
    testing::{Node, half_way, origin, shake_hands},
    *,
};
use crate::{
    limits::MAX_LANES,
    rng::Rng,
    wire::{
        data::{DATA_OVERHEAD, DataHeader, Lane, ReceiverIndex},
        handshake::{FINISH_LEN, INITIATION_LEN, RESPONSE_LEN},
    },
};

fn nodes() -> (Node, Node) {
    let now = origin();
    (Node::new(1, 9, now), Node::new(2, 9, now))
}

fn here() -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 1], 6783))
}

/// Every message with one bit flipped, each bit once.
fn bit_flips(message: &[u8]) -> impl Iterator<Item = (usize, Vec<u8>)> {
    (0..message.len() * 8).map(|bit| {
        let mut flipped = message.to_vec();
        flipped[bit / 8] ^= 1 << (bit % 8);
        (bit, flipped)
    })
}

/// Prefixes of a message, and the message with more behind it.
fn other_lengths(message: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    let prefixes = (0..message.len()).map(|len| message[..len].to_vec());
    let longer = [1, 16, 65_000].map(|more| [message, &vec![0; more]].concat());
    prefixes.chain(longer)
}

fn carries_traffic(from: &Session, to: &Session) -> bool {
    let counter = from.reserve(Lane(1), 1).unwrap();
    let header = DataHeader { lane: Lane(1), chunk_index: 0, is_last: true, receiver: from.remote(), counter };
    let (mut datagram, mut chunk) = ([0; 5 + DATA_OVERHEAD], [0; 5]);
    from.seal(&header, b"hello", &mut datagram);
    to.open(&header, &datagram, &mut chunk) == Ok(5) && &chunk == b"hello"
}

#[test]
fn a_handshake_gives_both_ends_mirrored_sessions_and_proved_ids() {
    for (fastest_a, fastest_b) in Cipher::ALL.into_iter().flat_map(|a| Cipher::ALL.map(|b| (a, b))) {
        let (mut a, mut b) = nodes();
        (a.announcement.ciphers, b.announcement.ciphers) = (fastest_a.and_slower(), fastest_b.and_slower());
        let (at_a, at_b) = shake_hands(&mut a, &mut b, here());
        assert_eq!((at_a.peer, at_b.peer), (b.keys.id(), a.keys.id()));
        assert_eq!((at_a.version, at_b.version), (1, 1));
        let expected = Cipher::ALL.into_iter().rev().find(|cipher| [fastest_a, fastest_b].contains(cipher)).unwrap();
        assert_eq!((at_a.session.cipher(), at_b.session.cipher()), (expected, expected));
        assert!(carries_traffic(&at_a.session, &at_b.session) && carries_traffic(&at_b.session, &at_a.session));
    }
}

#[test]
fn sessions_of_two_handshakes_do_not_open_each_others_datagrams() {
    let (mut a, mut b) = nodes();
    let (first, _) = shake_hands(&mut a, &mut b, here());
    let (_, second) = shake_hands(&mut a, &mut b, here());
    assert!(!carries_traffic(&first.session, &second.session));
}

#[test]
fn the_number_of_lanes_is_each_ends_own() {
    let (mut a, mut b) = nodes();
    (a.announcement.lane_count, b.announcement.lane_count) = (1, MAX_LANES as u8);
    let (at_a, at_b) = shake_hands(&mut a, &mut b, here());
    assert!(at_a.session.reserve(Lane(0), 1).is_ok() && at_a.session.reserve(Lane(1), 1).is_err());
    assert!(at_b.session.reserve(Lane(MAX_LANES as u8 - 1), 1).is_ok());
    assert!(carries_traffic(&at_b.session, &at_a.session));
}

#[test]
fn more_lanes_than_we_do_and_no_lanes_are_refused_on_both_sides() {
    for lane_count in [0, MAX_LANES as u8 + 1, 255] {
        let (mut a, mut b) = nodes();
        a.announcement.lane_count = lane_count;
        let (_, initiation) = a.initiate(&b, None);
        assert_eq!(b.admit(&initiation, here()).err(), Some(InitiationError::OtherVersion));

        let (mut a, mut b) = nodes();
        b.announcement.lane_count = lane_count;
        let (mut initiator, _, response) = half_way(&mut a, &mut b, here());
        assert_eq!(initiator.handle_response(&response).err(), Some(HandshakeError::OtherVersion));
        assert_eq!(initiator.handle_response(&response).err(), Some(HandshakeError::Over));
    }
}

#[test]
fn without_a_common_version_both_sides_say_so() {
    let newer = VersionRange { min: 2, max: 9 };
    let (mut a, mut b) = nodes();
    a.announcement.versions = newer;
    let (_, initiation) = a.initiate(&b, None);
    let error = b.admit(&initiation, here()).err().unwrap();
    assert_eq!(error.refusal(), Some(RefusalReason::OtherVersion));

    let (mut a, mut b) = nodes();
    b.announcement.versions = newer;
    let (mut initiator, _, response) = half_way(&mut a, &mut b, here());
    assert_eq!(initiator.handle_response(&response).err(), Some(HandshakeError::OtherVersion));
}

#[test]
fn a_stranger_gets_a_refusal_and_costs_no_public_key_work() {
    let (_, mut b) = nodes();
    let mut stranger = Node::new(3, 8, b.now);
    let (initiator, initiation) = stranger.initiate(&b, None);
    let before = public_key_work();
    let error = b.admit(&initiation, here()).err().unwrap();
    let refusal = b.gate.refuse(&initiation, error.refusal().unwrap(), here(), b.now).unwrap();
    assert_eq!(public_key_work(), before);
    assert_eq!(error, InitiationError::Stranger);
    assert_eq!(initiator.handle_refusal(&refusal), Ok(RefusalReason::OtherSecret));
}

#[test]
fn a_replay_costs_no_public_key_work_and_a_fresh_initiation_does() {
    let (mut a, mut b) = nodes();
    shake_hands(&mut a, &mut b, here());
    let (_, initiation) = a.initiate(&b, None);
    let before = public_key_work();
    let Admission::Accept(admitted) = b.admit(&initiation, here()).unwrap() else { panic!("a is known") };
    assert_eq!(public_key_work(), before, "admission itself is free");
    admitted.respond(ReceiverIndex(1), b.announcement).unwrap();
    let after = public_key_work();
    assert_eq!(after, before + 3, "one key made, two agreements");
    assert!(!matches!(b.admit(&initiation, here()), Ok(Admission::Accept(_))));
    assert_eq!(public_key_work(), after);
}

#[test]
fn a_refusal_made_by_one_who_has_not_seen_the_initiation_is_not_believed() {
    let (mut a, mut b) = nodes();
    let (initiator, initiation) = a.initiate(&b, None);
    let refusal = b.gate.refuse(&initiation, RefusalReason::OtherSecret, here(), b.now).unwrap();
    for (bit, flipped) in bit_flips(&refusal) {
        // Only the reason can be changed, and it is a hint.
        let is_reason = (8..16).contains(&bit);
        assert!(is_reason || initiator.handle_refusal(&flipped).is_err(), "bit {bit}");
    }
}

#[test]
fn no_flipped_bit_in_an_initiation_gets_past_the_gate() {
    let (mut a, mut b) = nodes();
    shake_hands(&mut a, &mut b, here());
    let (_, initiation) = a.initiate(&b, None);
    for (bit, flipped) in bit_flips(&initiation) {
        let error = b.admit(&flipped, here()).err();
        assert!(matches!(error, Some(InitiationError::Malformed | InitiationError::Stranger)), "bit {bit}: {error:?}");
    }
    assert!(matches!(b.admit(&initiation, here()), Ok(Admission::Accept(_))));
}

#[test]
fn no_flipped_bit_in_a_response_or_finish_succeeds_or_spoils_the_handshake() {
    let (mut a, mut b) = nodes();
    let (mut initiator, mut awaiting, response) = half_way(&mut a, &mut b, here());
    let before = public_key_work();
    for (bit, flipped) in bit_flips(&response) {
        let error = initiator.handle_response(&flipped).err();
        assert!(error.is_some_and(HandshakeError::is_survived), "bit {bit}: {error:?}");
    }
    assert_eq!(public_key_work(), before, "forgeries cost a hash");
    let (finish, at_a) = initiator.handle_response(&response).unwrap();
    let before = public_key_work();
    for (bit, flipped) in bit_flips(&finish) {
        let error = awaiting.handle_finish(&flipped).err();
        assert!(error.is_some_and(HandshakeError::is_survived), "bit {bit}: {error:?}");
    }
    assert_eq!(public_key_work(), before, "forgeries cost a hash");
    let at_b = awaiting.handle_finish(&finish).unwrap();
    assert!(carries_traffic(&at_a.session, &at_b.session));
}

/// A member of the cluster can compute the MAC. It still cannot succeed; and a response it has spoiled does no harm.
#[test]
fn a_member_that_damages_messages_on_the_path_does_not_succeed() {
    let (mut a, mut b) = nodes();
    let (mut initiator, mut awaiting, response) = half_way(&mut a, &mut b, here());
    let ephemeral = initiator.ephemeral.0;
    for byte in 8..RESPONSE_LEN - 16 {
        let mut bad = response.clone();
        bad[byte] ^= 1;
        a.keys.mac.stamp(&mut bad, &ephemeral);
        assert_eq!(initiator.handle_response(&bad).err(), Some(HandshakeError::Forged), "byte {byte}");
    }
    let (finish, _) = initiator.handle_response(&response).unwrap();
    let mut bad_static = finish.clone();
    bad_static[8] ^= 1;
    a.keys.mac.stamp(&mut bad_static, &[]);
    assert_eq!(awaiting.handle_finish(&bad_static).err(), Some(HandshakeError::Forged));
    assert!(awaiting.handle_finish(&finish).is_ok(), "the first half of the finish is not authentic: no harm");

    let (mut initiator, mut awaiting, response) = half_way(&mut a, &mut b, here());
    let (finish, _) = initiator.handle_response(&response).unwrap();
    let mut bad_payload = finish.clone();
    bad_payload[FINISH_LEN - 17] ^= 1;
    a.keys.mac.stamp(&mut bad_payload, &[]);
    assert_eq!(awaiting.handle_finish(&bad_payload).err(), Some(HandshakeError::Over), "and this says so");
    assert_eq!(awaiting.handle_finish(&finish).err(), Some(HandshakeError::Over));
}

#[test]
fn no_flipped_bit_in_a_challenge_is_answered() {
    let (mut a, mut b) = nodes();
    let (initiator, initiation) = a.initiate(&b, None);
    let Admission::Challenge(challenge) = b.admit(&initiation, here()).unwrap() else { panic!("a is unknown") };
    for (bit, flipped) in bit_flips(&challenge) {
        assert!(initiator.handle_challenge(&flipped).is_err(), "bit {bit}");
    }
    let (other, _) = a.initiate(&b, None);
    assert!(other.handle_challenge(&challenge).is_err(), "a challenge belongs to its initiation");
    assert!(initiator.handle_challenge(&challenge).is_ok());
}

#[test]
fn messages_of_other_lengths_are_malformed_and_spoil_nothing() {
    let (mut a, mut b) = nodes();
    let (_, initiation) = a.initiate(&b, None);
    for other in other_lengths(&initiation) {
        assert_eq!(b.admit(&other, here()).err(), Some(InitiationError::Malformed), "{}", other.len());
    }
    let (mut initiator, mut awaiting, response) = half_way(&mut a, &mut b, here());
    for other in other_lengths(&response) {
        assert_eq!(initiator.handle_response(&other).err(), Some(HandshakeError::Malformed), "{}", other.len());
        assert!(initiator.handle_challenge(&other).is_err() && initiator.handle_refusal(&other).is_err());
    }
    let (finish, _) = initiator.handle_response(&response).unwrap();
    for other in other_lengths(&finish) {
        assert_eq!(awaiting.handle_finish(&other).err(), Some(HandshakeError::Malformed), "{}", other.len());
    }
    assert!(awaiting.handle_finish(&finish).is_ok());
}

#[test]
fn messages_of_another_handshake_spoil_nothing() {
    let (mut a, mut b) = nodes();
    let (mut one, mut awaiting_one, response_one) = half_way(&mut a, &mut b, here());
    let (mut two, mut awaiting_two, response_two) = half_way(&mut a, &mut b, here());
    assert!(one.handle_response(&response_two).err().is_some_and(HandshakeError::is_survived));
    let (finish_one, _) = one.handle_response(&response_one).unwrap();
    let (finish_two, _) = two.handle_response(&response_two).unwrap();
    assert!(awaiting_one.handle_finish(&finish_two).err().is_some_and(HandshakeError::is_survived));
    assert!(awaiting_one.handle_finish(&finish_one).is_ok() && awaiting_two.handle_finish(&finish_two).is_ok());
}

#[test]
fn a_handshake_succeeds_once() {
    let (mut a, mut b) = nodes();
    let (mut initiator, mut awaiting, response) = half_way(&mut a, &mut b, here());
    let (finish, _) = initiator.handle_response(&response).unwrap();
    assert_eq!(initiator.handle_response(&response).err(), Some(HandshakeError::Over));
    let at_b = awaiting.handle_finish(&finish).unwrap();
    assert_eq!(awaiting.handle_finish(&finish).err(), Some(HandshakeError::Over));
    assert_eq!(repeated_finish(&b.keys, &finish), Some(at_b.session.local()));
    let stranger = Node::new(3, 8, b.now);
    assert_eq!(repeated_finish(&stranger.keys, &finish), None);
}

/// Runs a handshake up to the response, in which `member` names `claimed` in its first message.
fn half_way_as(claimed: PeerId, member: &mut Node, b: &mut Node) -> (Initiator, AwaitingFinish, Vec<u8>) {
    let mut answer = None;
    loop {
        member.clock.0 += 1;
        let attempt = Attempt {
            index: member.rng.receiver_index(),
            to: None,
            timestamp: member.clock,
            announcement: member.announcement,
            answer,
        };
        let (initiator, initiation) = Initiator::start_as(claimed, &member.keys, &attempt, &mut member.rng);
        match b.admit(&initiation, here()).unwrap() {
            Admission::Challenge(challenge) => answer = Some(initiator.handle_challenge(&challenge).unwrap()),
            Admission::Silent(_) => panic!("one challenge is within the limit"),
            Admission::Accept(admitted) => {
                let (awaiting, response) = admitted.respond(ReceiverIndex(9), b.announcement).unwrap();
                assert_eq!(awaiting.claimed(), claimed);
                return (initiator, awaiting, response);
            }
        }
    }
}

#[test]
fn a_member_that_claims_another_id_gets_no_session() {
    let (a, mut b) = nodes();
    let mut thief = Node::new(3, 9, b.now);
    let mut impersonate = |thief: &mut Node| {
        let (mut initiator, mut awaiting, response) = half_way_as(a.keys.id(), thief, &mut b);
        let (finish, _) = initiator.handle_response(&response).unwrap();
        awaiting.handle_finish(&finish).err()
    };
    assert_eq!(impersonate(&mut thief), Some(HandshakeError::OtherIdentity), "it proves its own key");
    thief.keys.id = a.keys.id();
    assert_eq!(impersonate(&mut thief), Some(HandshakeError::Over), "it shows the claimed key and cannot prove it");
}

#[test]
fn a_member_that_answers_for_the_peer_that_we_mean_gets_no_session() {
    let (mut a, b) = nodes();
    let mut impostor = Node::new(3, 9, b.now);
    // It takes the initiation for its own by believing that it is b, and proves its own key.
    let honest = std::mem::replace(&mut impostor.keys.id, b.keys.id());
    let (mut initiator, _, response) = half_way(&mut a, &mut impostor, here());
    assert_eq!(initiator.handle_response(&response).err(), Some(HandshakeError::Forged), "it cannot prove b's key");
    impostor.keys.id = honest;
    let (mut initiator, _, response) = half_way_as(a.keys.id(), &mut a, &mut impostor);
    initiator.attempt.to = Some(b.keys.id());
    assert_eq!(initiator.handle_response(&response).err(), Some(HandshakeError::OtherIdentity));
}

#[test]
fn a_response_of_our_own_identity_gives_no_session() {
    let (mut a, b) = nodes();
    let mut clone = Node::new(1, 9, b.now);
    clone.rng = Rng::new([77; 32]);
    let (mut initiator, _, response) = half_way_as(b.keys.id(), &mut a, &mut clone);
    assert_eq!(initiator.handle_response(&response).err(), Some(HandshakeError::SameIdentity));
}

#[test]
fn an_initiation_of_our_own_id_is_told_apart() {
    let (mut a, b) = nodes();
    let (initiator, initiation) = a.initiate(&b, None);
    let error = a.admit(&initiation, here()).err().unwrap();
    let InitiationError::SameIdentity { ephemeral, timestamp } = error else { panic!("{error}") };
    assert!(initiator.is_author_of(ephemeral), "we have reached ourselves");
    assert_eq!(timestamp, a.clock);
    assert_eq!(error.refusal(), Some(RefusalReason::SameIdentity));

    let mut clone = Node::new(1, 9, b.now);
    clone.rng = Rng::new([77; 32]);
    let (_, initiation) = clone.initiate(&b, None);
    let Some(InitiationError::SameIdentity { ephemeral, .. }) = a.admit(&initiation, here()).err() else {
        panic!("a clone has our identity");
    };
    assert!(!initiator.is_author_of(ephemeral), "it is not ours");
}

#[test]
fn an_initiation_for_another_peer_is_refused() {
    let (mut a, b) = nodes();
    let mut c = Node::new(3, 9, b.now);
    let (_, initiation) = a.initiate(&b, None);
    assert_eq!(c.admit(&initiation, here()).err(), Some(InitiationError::OtherIdentity));
}

#[test]
fn the_same_seeds_give_the_same_messages() {
    let run = || {
        let (mut a, mut b) = nodes();
        let (mut initiator, _, response) = half_way(&mut a, &mut b, here());
        (response.clone(), initiator.handle_response(&response).unwrap().0)
    };
    assert_eq!(run(), run());
}

#[test]
fn two_initiations_share_no_ephemeral_key_and_show_no_id() {
    let (mut a, b) = nodes();
    let (one, two) = (a.initiate(&b, None).1, a.initiate(&b, None).1);
    assert_ne!(one[12..44], two[12..44]);
    for id in [a.keys.id(), b.keys.id()] {
        assert!(!one.windows(8).any(|window| window == &id.0[..8]), "ids are sealed");
    }
}

fn fingerprint(bytes: &[u8]) -> String {
    let digest = digest::digest(&digest::SHA256, bytes);
    PeerId(digest.as_ref().try_into().unwrap()).short().to_string()
}

/// Everything that both ends must compute alike. When this fails, programs before and after do not understand each
/// other: the protocol version has to change.
#[test]
fn the_protocol_is_the_one_that_others_speak() {
    let expected = [
        (
            Cipher::Aegis256X4,
            Cipher::Aegis256X4,
            ["b47e248347", "71fc1f915c", "cbf1d2229e", "39d51bfbab", "7b9f439c93"],
        ),
        (Cipher::Aegis256, Cipher::Aegis256, ["8bf108e988", "71fc1f915c", "9701637bce", "956872e3f6", "56a800e4f9"]),
        (Cipher::Aes256Gcm, Cipher::Aes256Gcm, ["03b692e9a5", "71fc1f915c", "b96e52b1dc", "1dec7105d4", "dbacc89002"]),
        (
            Cipher::ChaCha20Poly1305,
            Cipher::Aes256Gcm,
            ["9927f5617d", "71fc1f915c", "d70575f14d", "247c3cf128", "82712bd464"],
        ),
    ];
    for (fastest_a, fastest_b, expected) in expected {
        let (mut a, mut b) = nodes();
        (a.announcement.ciphers, b.announcement.ciphers) = (fastest_a.and_slower(), fastest_b.and_slower());
        let (_, initiation) = a.initiate(&b, None);
        let Admission::Challenge(challenge) = b.admit(&initiation, here()).unwrap() else { panic!("unknown") };
        let (mut initiator, mut awaiting, response) = half_way(&mut a, &mut b, here());
        let (finish, at_a) = initiator.handle_response(&response).unwrap();
        awaiting.handle_finish(&finish).unwrap();
        let counter = at_a.session.reserve(Lane(1), 1).unwrap();
        let header =
            DataHeader { lane: Lane(1), chunk_index: 0, is_last: true, receiver: at_a.session.remote(), counter };
        let mut datagram = [0; 5 + DATA_OVERHEAD];
        at_a.session.seal(&header, b"hello", &mut datagram);
        let messages = [&initiation, &challenge, &response, &finish, &datagram.to_vec()];
        assert_eq!(messages.map(|message| fingerprint(message)), expected);
    }
}

proptest! {
    #[test]
    fn no_bytes_make_the_handshake_panic_or_succeed(
        noise in prop::collection::vec(any::<u8>(), 0..300),
        at in any::<prop::sample::Index>(),
        kind in 1u8..6,
    ) {
        let (mut a, mut b) = nodes();
        let (mut initiator, mut awaiting, response) = half_way(&mut a, &mut b, here());
        let mut wild = noise.clone();
        wild.splice(0..wild.len().min(1), [0x10 | kind]);
        // A real message with a piece of it replaced.
        let mut patched = response.clone();
        let start = at.index(patched.len());
        let len = noise.len().min(patched.len() - start);
        patched[start..start + len].copy_from_slice(&noise[..len]);
        for datagram in [&wild, &noise, &patched] {
            if *datagram == response {
                continue;
            }
            prop_assert!(b.admit(datagram, here()).is_err());
            prop_assert!(awaiting.handle_finish(datagram).is_err());
            prop_assert!(initiator.handle_response(datagram).is_err());
            prop_assert!(initiator.handle_challenge(datagram).is_err());
            prop_assert!(initiator.handle_refusal(datagram).is_err());
        }
        let (finish, _) = initiator.handle_response(&response).unwrap();
        prop_assert!(awaiting.handle_finish(&finish).is_ok());
    }
}

const _: () = assert!(INITIATION_LEN < crate::limits::MIN_DATAGRAM_LEN);

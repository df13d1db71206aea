//! Handshakes with anybody: arbitrary datagrams and changed real ones, to both ends and to a whole router.

use std::{
    net::SocketAddr,
    time::{Duration, Instant, SystemTime},
};

use weaved_api::{ClusterSecret, SecretKey};

use super::Choices;
use crate::{
    forward::{Punt, Short},
    noise::{
        Admission, Announcement, Cipher, OUR_VERSIONS, OpenedInitiation,
        testing::{Node, half_way, origin},
    },
    router::{Router, RouterConfig},
};

/// First byte: which message; the rest changes it, or is a datagram of its own.
pub fn handshake(data: &[u8]) {
    let mut choices = Choices(data);
    let from = SocketAddr::from(([192, 0, 2, 1], 6783));
    let now = origin();
    match choices.byte() % 6 {
        0 => initiation(&mut choices, from, now),
        1 => response(&mut choices, from, now),
        2 => finish(&mut choices, from, now),
        3 => answers(&mut choices, from, now),
        4 => changed_to_router(&mut choices, from, now),
        _ => router(choices.0, from, now),
    }
}

fn nodes(now: Instant) -> (Node, Node) {
    (Node::new(1, 9, now), Node::new(2, 9, now))
}

fn initiation(choices: &mut Choices<'_>, from: SocketAddr, now: Instant) {
    let (mut a, mut b) = nodes(now);
    let (_, mut initiation) = a.initiate(&b, None);
    let is_changed = choices.mutate(&mut initiation);
    let opened = OpenedInitiation::open(&b.keys, &initiation, &mut b.rng);
    assert!(opened.is_ok() != is_changed, "an initiation is accepted if and only if nobody has touched it");
    if let Ok(opened) = opened {
        let is_challenged = matches!(b.gate.admit(opened, from, now), Admission::Challenge(_));
        assert!(is_challenged, "a first contact proves nothing");
    }
}

fn response(choices: &mut Choices<'_>, from: SocketAddr, now: Instant) {
    let (mut a, mut b) = nodes(now);
    let (mut initiator, _, real) = half_way(&mut a, &mut b, from);
    let mut changed = real.clone();
    if choices.mutate(&mut changed) {
        assert!(initiator.handle_response(&changed).is_err(), "a changed response is refused");
    }
    assert!(initiator.handle_response(&real).is_ok(), "a forged response does not end the handshake");
}

fn finish(choices: &mut Choices<'_>, from: SocketAddr, now: Instant) {
    let (mut a, mut b) = nodes(now);
    let (mut initiator, mut awaiting, response) = half_way(&mut a, &mut b, from);
    let (real, _) = initiator.handle_response(&response).expect("the response is authentic");
    let mut changed = real.clone();
    if choices.mutate(&mut changed) {
        assert!(awaiting.handle_finish(&changed).is_err(), "a changed finish is refused");
    }
    assert!(awaiting.handle_finish(&real).is_ok(), "a forged finish does not end the handshake");
}

/// Challenges and refusals: anything, then real ones changed.
fn answers(choices: &mut Choices<'_>, from: SocketAddr, now: Instant) {
    let (mut a, mut b) = nodes(now);
    let (initiator, initiation) = a.initiate(&b, None);
    let _ = (initiator.handle_challenge(choices.0), initiator.handle_refusal(choices.0));
    let Ok(Admission::Challenge(mut challenge)) = b.admit(&initiation, from) else {
        panic!("a first contact is challenged")
    };
    let is_changed = choices.mutate(&mut challenge);
    assert!(initiator.handle_challenge(&challenge).is_ok() != is_changed);
}

/// A real initiation, changed, to a router: it costs at most one answer, no larger than the question.
fn changed_to_router(choices: &mut Choices<'_>, from: SocketAddr, now: Instant) {
    let (mut a, b) = nodes(now);
    let (_, mut initiation) = a.initiate(&b, None);
    choices.mutate(&mut initiation);
    router(&initiation, from, now);
}

fn router(datagram: &[u8], from: SocketAddr, now: Instant) {
    let config = RouterConfig {
        identity: SecretKey([2; 32]),
        cluster_secret: ClusterSecret([9; 32]),
        announcement: Announcement { ciphers: Cipher::Aegis256X4.and_slower(), lane_count: 2, versions: OUR_VERSIONS },
        seed: [3; 32],
        wall_clock: SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000),
        started_at: now,
    };
    let mut router = Router::new(&config, Vec::new());
    let Some(short) = Short::new(datagram) else { return };
    router.handle_punt(Punt::Handshake { from, asked_at: None, datagram: short }, now);
    let sent: usize = std::iter::from_fn(|| router.poll_transmit()).map(|transmit| transmit.datagrams.len()).sum();
    assert!(sent <= datagram.len(), "{} bytes were answered by {sent}", datagram.len());
    assert!(router.poll_table(now).is_some_and(|table| table.inbound.is_empty()), "nobody has got in");
}

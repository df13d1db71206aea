//! Two ends of a handshake without a network, for the tests of everything above.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use weaved_api::{ClusterSecret, SecretKey};

use super::{
    Admission, Announcement, Attempt, AwaitingFinish, ChallengeAnswer, Cipher, Established, Gate, InitiationError,
    Initiator, OUR_VERSIONS, OpenedInitiation, Session, StaticKeys, UnixMicros,
};
use crate::rng::Rng;

/// Some instant to begin with. Only differences from it matter, so runs stay the same.
#[expect(clippy::disallowed_methods, reason = "an Instant can be had from the clock alone")]
pub fn origin() -> Instant {
    Instant::now()
}

/// One node: keys, randomness, gate and a clock.
pub struct Node {
    /// Its identity and secret.
    pub keys: StaticKeys,
    /// Its randomness.
    pub rng: Rng,
    /// Its gate.
    pub gate: Gate,
    /// What it tells about itself.
    pub announcement: Announcement,
    /// Its wall clock, one tick for each attempt.
    pub clock: UnixMicros,
    /// Its monotonic clock.
    pub now: Instant,
}

impl Node {
    /// Node number `number` of a cluster; the same numbers give the same node.
    pub fn new(number: u8, cluster: u8, now: Instant) -> Self {
        let mut rng = Rng::new([number; 32]);
        Self {
            keys: StaticKeys::new(&SecretKey([number; 32]), &ClusterSecret([cluster; 32])),
            gate: Gate::new(&mut rng, now),
            rng,
            announcement: Announcement {
                ciphers: Cipher::Aegis256X4.and_slower(),
                lane_count: 2,
                versions: OUR_VERSIONS,
            },
            clock: UnixMicros(1_000_000),
            now,
        }
    }

    /// Starts a handshake with `other`, whose id is known.
    pub fn initiate(&mut self, other: &Self, answer: Option<ChallengeAnswer>) -> (Initiator, Vec<u8>) {
        let index = self.rng.receiver_index();
        self.clock.0 += 1;
        let to = Some(other.keys.id());
        let attempt = Attempt { index, to, timestamp: self.clock, announcement: self.announcement, answer };
        Initiator::start(&self.keys, &attempt, &mut self.rng)
    }

    /// Opens an initiation and shows it to the gate.
    pub fn admit(&mut self, initiation: &[u8], from: SocketAddr) -> Result<Admission, InitiationError> {
        self.now += Duration::from_secs(1);
        let opened = OpenedInitiation::open(&self.keys, initiation, &mut self.rng)?;
        Ok(self.gate.admit(opened, from, self.now))
    }
}

/// The states in which both ends wait: the response is on its way.
///
/// # Panics
/// When the handshake does not get so far.
pub fn half_way(a: &mut Node, b: &mut Node, from: SocketAddr) -> (Initiator, AwaitingFinish, Vec<u8>) {
    let mut answer = None;
    for _ in 0..2 {
        let (initiator, initiation) = a.initiate(b, answer);
        match b.admit(&initiation, from).expect("the nodes share a secret") {
            Admission::Accept(admitted) => {
                let index = b.rng.receiver_index();
                let (awaiting, response) = admitted.respond(index, b.announcement).expect("the initiator is honest");
                return (initiator, awaiting, response);
            }
            Admission::Challenge(challenge) => answer = initiator.handle_challenge(&challenge).ok(),
            Admission::Silent(_) => break,
        }
    }
    panic!("a challenge that is answered lets pass")
}

/// Runs a whole handshake.
///
/// # Panics
/// When it does not succeed.
pub fn shake_hands(a: &mut Node, b: &mut Node, from: SocketAddr) -> (Established, Established) {
    let (mut initiator, mut awaiting, response) = half_way(a, b, from);
    let (finish, at_a) = initiator.handle_response(&response).expect("the response is authentic");
    (at_a, awaiting.handle_finish(&finish).expect("the finish is authentic"))
}

/// Two ends of one session: initiator, responder.
///
/// # Panics
/// Never: the nodes agree.
pub fn session_pair(announcement: Announcement, now: Instant) -> (Session, Session) {
    let (mut a, mut b) = (Node::new(1, 9, now), Node::new(2, 9, now));
    (a.announcement, b.announcement) = (announcement, announcement);
    let (at_a, at_b) = shake_hands(&mut a, &mut b, SocketAddr::from(([127, 0, 0, 1], 6783)));
    (at_a.session, at_b.session)
}

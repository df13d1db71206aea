//! Sealing and opening take no memory: counted by the allocator of this test program, for the thread under test.
//!
//! NOTE: what the AEAD's C code might take is not seen here.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{net::SocketAddr, time::Instant};

use weaved_api::{ClusterSecret, SecretKey};
use weaved_core::{
    noise::{
        Admission, Announcement, Attempt, ChallengeAnswer, Cipher, Gate, Initiator, OUR_VERSIONS, OpenError,
        OpenedInitiation, Session, StaticKeys, UnixMicros,
    },
    rng::Rng,
    testing::allocations::{self, Counting},
    wire::data::{Counter, DATA_OVERHEAD, DataHeader, Lane, ReceiverIndex},
};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Two ends of a session, by a whole handshake.
fn sessions(cipher: Cipher) -> (Session, Session) {
    #[expect(clippy::disallowed_methods, reason = "an Instant can be had from the clock alone")]
    let now = Instant::now();
    let from = SocketAddr::from(([127, 0, 0, 1], 6783));
    let cluster = ClusterSecret([9; 32]);
    let (a, b) = (StaticKeys::new(&SecretKey([1; 32]), &cluster), StaticKeys::new(&SecretKey([2; 32]), &cluster));
    let mut rng = Rng::new([3; 32]);
    let mut gate = Gate::new(&mut rng, now);
    let announcement = Announcement { ciphers: cipher.and_slower(), lane_count: 2, versions: OUR_VERSIONS };
    let mut answer: Option<ChallengeAnswer> = None;
    loop {
        let timestamp = UnixMicros(rng.public_u64());
        let attempt = Attempt { index: rng.receiver_index(), to: Some(b.id()), timestamp, announcement, answer };
        let (mut initiator, initiation) = Initiator::start(&a, &attempt, &mut rng);
        let opened = OpenedInitiation::open(&b, &initiation, &mut rng).unwrap();
        match gate.admit(opened, from, now) {
            Admission::Challenge(challenge) => answer = Some(initiator.handle_challenge(&challenge).unwrap()),
            Admission::Silent(_) => panic!("one challenge is within the limit"),
            Admission::Accept(admitted) => {
                let (mut awaiting, response) = admitted.respond(ReceiverIndex(7), announcement).unwrap();
                let (finish, at_a) = initiator.handle_response(&response).unwrap();
                return (at_a.session, awaiting.handle_finish(&finish).unwrap().session);
            }
        }
    }
}

#[test]
fn sealing_opening_and_refusing_take_no_memory() {
    for cipher in Cipher::ALL {
        let (a, b) = sessions(cipher);
        let chunk = [7; 1400];
        let (mut datagram, mut out) = ([0; 1400 + DATA_OVERHEAD], [0; 1400]);
        let before = allocations::count();
        assert!(before > 0, "the handshake has been counted");
        for _ in 0..100 {
            let counter = a.reserve(Lane(1), 1).unwrap();
            let header = DataHeader { lane: Lane(1), chunk_index: 0, is_last: true, receiver: a.remote(), counter };
            a.seal(&header, &chunk, &mut datagram);
            assert_eq!(b.open(&header, &datagram, &mut out), Ok(1400));
            assert_eq!(b.open(&header, &datagram, &mut out), Err(OpenError::Replayed));
            let forged = DataHeader { counter: Counter(counter.0 + 1), ..header };
            assert_eq!(b.open(&forged, &datagram, &mut out), Err(OpenError::Forged));
        }
        assert_eq!(allocations::count(), before, "{cipher:?}");
        assert_eq!((a.sealed_count(), b.opened_count()), (100, 100));
        assert_eq!(out, [0; 1400], "a forgery leaves zeros");
    }
}

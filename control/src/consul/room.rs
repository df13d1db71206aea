//! Room for what is under way at once: connections, bodies of requests, answers that their clients have not taken.
//!
//! Bytes are counted in KiB, in [`Shares`] of each kind. A part of them lies beside its bytes and goes with the last that holds
//! them, so that it is given back neither too early nor never: the HTTP library lets go of a body long before it is sent.
//!
//! INVARIANT: a query that waits holds nothing but the place of its connection: it has no body, and its answer is not made.
//! INVARIANT: nothing waits for room. What finds none is refused, and counted: by waiting it would hold what is lacking.

use std::sync::Arc;

use hyper::{StatusCode, body::Bytes};
use tokio::sync::Semaphore;
use weaved_gateway::share::{Client, Lack, Limit, Part, Shares};

use super::{answer::Answer, counters::Counters};
use crate::kv::limits::MAX_TOTAL_BYTES;

/// The longest body: a value of the key-value store, within a transaction's encoding.
pub const MAX_BODY_BYTES: usize = 2 << 20;
/// Bodies of all requests that are being read or answered.
const MAX_BODIES_BYTES: usize = 64 << 20;
/// Answers that have been made and not been taken yet.
const MAX_ANSWERS_BYTES: usize = 256 << 20;
/// A shorter answer is not counted: the kernel's buffers take it from us at once.
const SMALL_ANSWER_BYTES: usize = 16 << 10;
/// What a body takes at first; twice as much each time it grows.
const FIRST_PIECE_BYTES: usize = 4 << 10;
/// Clients that are told at once why there is no place for them; a further one finds its connection closed.
const MAX_TURNED_AWAY: usize = 64;

const _: () = {
    assert!(MAX_BODY_BYTES.is_power_of_two(), "a body never takes more than the longest one");
    // Base64 grows by a third; what stands around a value is counted by the store, too.
    assert!(MAX_TOTAL_BYTES / 3 * 4 < MAX_ANSWERS_BYTES / 2, "a client may read the whole store");
    assert!(MAX_TOTAL_BYTES / 3 * 4 < MAX_ANSWERS_BYTES / 4 * 3 / 2, "two of them at once");
};

/// How much there is of each.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Clients at once.
    pub connections: Limit,
    /// Bodies of requests, in KiB.
    pub bodies: Limit,
    /// Answers that are on their way, in KiB.
    pub answers: Limit,
}

/// What is left of it.
#[derive(Debug)]
pub struct Room {
    connections: Arc<Shares>,
    bodies: Arc<Shares>,
    answers: Arc<Shares>,
    pub(super) turned_away: Semaphore,
    /// What is refused for lack of it, and all else that the API counts.
    pub counters: Counters,
}

impl Limits {
    /// What a node has, for so many connections.
    pub fn of_node(connections: usize) -> Self {
        Self {
            connections: Limit::of(connections, 4),
            bodies: Limit::of(MAX_BODIES_BYTES >> 10, 4),
            answers: Limit::of(MAX_ANSWERS_BYTES >> 10, 2),
        }
    }
}

impl Room {
    /// All of it is free.
    pub fn new(limits: Limits) -> Self {
        Self {
            connections: Shares::new(limits.connections),
            bodies: Shares::new(limits.bodies),
            answers: Shares::new(limits.answers),
            turned_away: Semaphore::new(MAX_TURNED_AWAY),
            counters: Counters::default(),
        }
    }

    /// Clients at this moment.
    pub fn open(&self) -> usize {
        self.connections.count()
    }

    /// A place for a connection, or what its client is told.
    pub(super) fn connection(&self, client: Client) -> Result<Part, Answer> {
        self.connections.take(client, 1).map_err(|lack| {
            self.counters.connections_refused.add();
            match lack {
                Lack::Room => busy("all connections that this node has room for are taken: try again".into()),
                Lack::Share => share("connections to this node; close some, and ask again"),
            }
        })
    }

    /// A body of which nothing has come yet.
    pub(super) fn body(&self, client: Client) -> Coming<'_> {
        Coming { held: Held { bytes: Vec::new(), part: self.bodies.none(client) }, counters: &self.counters }
    }

    /// An answer, on its way until its bytes are gone.
    pub(super) fn answer(&self, client: Client, mut bytes: Vec<u8>) -> Result<Bytes, Answer> {
        if bytes.len() <= SMALL_ANSWER_BYTES {
            return Ok(bytes.into());
        }
        let part = self.answers.take(client, in_kib(bytes.len())).map_err(|lack| {
            self.counters.answers_refused.add();
            no_room_for_answer(lack, bytes.len())
        })?;
        bytes.shrink_to_fit();
        Ok(Bytes::from_owner(Held { bytes, part }))
    }

    /// KiB that bodies and answers may still take.
    #[cfg(test)]
    pub(super) fn free_kib(&self) -> (usize, usize) {
        (self.bodies.free(), self.answers.free())
    }
}

/// A body while it comes. What was only announced takes no room.
#[derive(Debug)]
pub(super) struct Coming<'a> {
    held: Held,
    counters: &'a Counters,
}

impl Coming<'_> {
    pub(super) fn len(&self) -> usize {
        self.held.bytes.len()
    }

    /// The next piece. It is copied: a piece may keep a buffer that is many times its size.
    pub(super) fn extend(&mut self, piece: &[u8]) -> Result<(), Answer> {
        let needed = self.len() + piece.len();
        if needed > self.held.bytes.capacity() {
            self.grow(needed.next_power_of_two().max(FIRST_PIECE_BYTES))?;
        }
        self.held.bytes.extend_from_slice(piece);
        Ok(())
    }

    /// All has come.
    pub(super) fn whole(self) -> Bytes {
        if self.held.bytes.is_empty() { Bytes::new() } else { Bytes::from_owner(self.held) }
    }

    fn grow(&mut self, capacity: usize) -> Result<(), Answer> {
        let more = in_kib(capacity).saturating_sub(self.held.part.count());
        self.held.part.grow(more).map_err(|lack| {
            self.counters.bodies_refused.add();
            no_room_for_body(lack)
        })?;
        self.held.bytes.reserve_exact(capacity - self.held.bytes.len());
        Ok(())
    }
}

/// Bytes, and the room that they take.
#[derive(Debug)]
struct Held {
    bytes: Vec<u8>,
    part: Part,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

fn in_kib(len_bytes: usize) -> usize {
    len_bytes.div_ceil(1 << 10)
}

fn no_room_for_body(lack: Lack) -> Answer {
    match lack {
        Lack::Room => {
            busy("the bodies of requests that are being answered leave no room for this one: ask again".into())
        }
        Lack::Share => share("bodies of requests under way: ask again"),
    }
}

fn no_room_for_answer(lack: Lack, len_bytes: usize) -> Answer {
    let mib = len_bytes.div_ceil(1 << 20);
    match lack {
        Lack::Room => busy(format!(
            "answers that their clients have not taken leave no room for one of {mib} MiB: ask again, or for less"
        )),
        Lack::Share => share(&format!(
            "answers that it has not taken, and this one has {mib} MiB more: take them first, or ask for less"
        )),
    }
}

fn busy(reason: String) -> Answer {
    tracing::debug!(reason, "a client of the API is refused");
    Answer::refused(StatusCode::SERVICE_UNAVAILABLE, reason).because("busy")
}

/// Of what this client has enough.
fn share(of_what: &str) -> Answer {
    let reason = format!("this address has as much as one may have of {of_what}");
    tracing::debug!(reason, "a client of the API is refused");
    Answer::refused(StatusCode::TOO_MANY_REQUESTS, reason).because("share-taken")
}

#[cfg(test)]
mod tests {
    use weaved_gateway::stats::Count;

    use super::*;

    const HOST: Client = Client::Host;

    fn room() -> Room {
        let limits =
            Limits { connections: Limit::of(4, 4), bodies: Limit::of(64, 4), answers: Limit { all: 64, share: 32 } };
        Room::new(limits)
    }

    fn told(refused: &Answer) -> (u16, &str) {
        (refused.status.as_u16(), refused.refusal.unwrap_or_default())
    }

    #[test]
    fn a_body_takes_room_as_it_comes_and_as_long_as_somebody_has_it() {
        let room = room();
        let mut body = room.body(HOST);
        assert_eq!(room.free_kib().0, 64, "nothing has come");
        body.extend(&[1; 100]).unwrap();
        assert_eq!(room.free_kib().0, 60);
        body.extend(&vec![2; 30 << 10]).unwrap();
        assert_eq!(room.free_kib().0, 32);
        let whole = body.whole();
        assert_eq!((whole.len(), whole[99], whole[100]), ((30 << 10) + 100, 1, 2));
        let copy = whole.slice(7..8);
        drop(whole);
        assert_eq!(room.free_kib().0, 32, "the rest of it is not free either");
        drop(copy);
        assert_eq!(room.free_kib().0, 64);
    }

    #[test]
    fn what_finds_no_room_is_refused_and_takes_none() {
        let room = room();
        let (mut first, mut second) = (room.body(HOST), room.body(HOST));
        first.extend(&vec![0; 33 << 10]).unwrap();
        let refused = second.extend(&[0]).unwrap_err();
        assert_eq!((refused.status, refused.refusal), (StatusCode::SERVICE_UNAVAILABLE, Some("busy")));
        drop(first.whole());
        second.extend(&[0]).unwrap();
    }

    #[test]
    fn answers_take_room_but_for_small_ones() {
        let room = room();
        let small: Vec<_> = (0..10).map(|_| room.answer(HOST, vec![0; SMALL_ANSWER_BYTES]).unwrap()).collect();
        let large = room.answer(HOST, vec![0; 40 << 10]).unwrap();
        assert_eq!((small.len(), room.free_kib().1), (10, 24));
        assert!(room.answer(HOST, vec![0; 25 << 10]).is_err());
        drop(large);
        assert!(room.answer(HOST, vec![0; 64 << 10]).is_ok());
    }

    #[test]
    fn one_client_is_refused_when_it_has_its_share_and_another_is_not() {
        let room = room();
        let [one, another] = [5, 6].map(|last| Client::Other([10, 32, 0, last].into()));
        let mut first = room.body(one);
        first.extend(&vec![0; 16 << 10]).unwrap();
        assert_eq!(told(&room.body(one).extend(&[0]).unwrap_err()), (429, "share-taken"));
        room.body(another).extend(&[0]).unwrap();
        let answer = room.answer(one, vec![0; 32 << 10]).unwrap();
        assert_eq!(told(&room.answer(one, vec![0; 17 << 10]).unwrap_err()), (429, "share-taken"));
        room.answer(one, vec![0; SMALL_ANSWER_BYTES]).unwrap();
        drop((answer, room.answer(another, vec![0; 16 << 10]).unwrap()));
        let place = room.connection(one).unwrap();
        assert_eq!(told(&room.connection(one).unwrap_err()), (429, "share-taken"));
        let Counters { connections_refused, bodies_refused, answers_refused, .. } = &room.counters;
        assert_eq!([connections_refused, bodies_refused, answers_refused].map(Count::value), [1, 1, 1]);
        assert_eq!(room.open(), 1);
        drop((first, place));
        assert_eq!((room.open(), room.free_kib()), (0, (64, 64)));
    }

    #[test]
    fn where_all_places_are_taken_a_client_is_told_to_try_again() {
        let room = room();
        let places: Vec<_> = (0..3).map(|last| room.connection(Client::Other([10, 32, 0, last].into()))).collect();
        assert!(places.iter().all(Result::is_ok));
        assert_eq!(told(&room.connection(Client::Other([10, 32, 0, 9].into())).unwrap_err()), (503, "busy"));
        let _host = room.connection(HOST).unwrap();
        assert_eq!(told(&room.connection(HOST).unwrap_err()), (503, "busy"));
    }
}

//! Room for what is under way at once: connections, bodies of requests, answers that their clients have not taken.
//!
//! Bytes are counted in KiB by a semaphore of each kind. A permit lies beside its bytes and goes with the last that holds
//! them, so that it is given back neither too early nor never: the HTTP library lets go of a body long before it is sent.
//!
//! INVARIANT: a query that waits holds nothing but the place of its connection: it has no body, and its answer is not made.
//! INVARIANT: nothing waits for room but connections. What finds none is refused: by waiting it would hold what is lacking.

use std::sync::Arc;

use hyper::{StatusCode, body::Bytes};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::answer::Answer;
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

const _: () = {
    assert!(MAX_BODY_BYTES.is_power_of_two(), "a body never takes more than the longest one");
    // Base64 grows by a third; what stands around a value is counted by the store, too.
    assert!(MAX_TOTAL_BYTES / 3 * 4 < MAX_ANSWERS_BYTES / 2, "two clients at once may read the whole store");
};

/// How much there is of each.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Clients at once.
    pub connections: usize,
    /// Bodies of requests, in sum.
    pub bodies_bytes: usize,
    /// Answers that are on their way, in sum.
    pub answers_bytes: usize,
}

/// What is left of it.
#[derive(Debug)]
pub struct Room {
    /// One for each client.
    pub(super) connections: Arc<Semaphore>,
    bodies: Arc<Semaphore>,
    answers: Arc<Semaphore>,
}

impl Limits {
    /// What a node has, for so many clients.
    pub fn of_node(connections: usize) -> Self {
        Self { connections, bodies_bytes: MAX_BODIES_BYTES, answers_bytes: MAX_ANSWERS_BYTES }
    }
}

impl Room {
    /// All of it is free.
    pub fn new(limits: Limits) -> Self {
        let semaphore = |count| Arc::new(Semaphore::new(count));
        Self {
            connections: semaphore(limits.connections),
            bodies: semaphore(limits.bodies_bytes >> 10),
            answers: semaphore(limits.answers_bytes >> 10),
        }
    }

    /// A body of which nothing has come yet.
    pub(super) fn body(&self) -> Coming {
        let permit = take(&self.bodies, 0).expect("nothing finds room everywhere");
        Coming { held: Held { bytes: Vec::new(), permit }, room: Arc::clone(&self.bodies) }
    }

    /// An answer, on its way until its bytes are gone.
    pub(super) fn answer(&self, mut bytes: Vec<u8>) -> Result<Bytes, Answer> {
        if bytes.len() <= SMALL_ANSWER_BYTES {
            return Ok(bytes.into());
        }
        let Some(permit) = take(&self.answers, bytes.len()) else { return Err(no_room_for_answer(bytes.len())) };
        bytes.shrink_to_fit();
        Ok(Bytes::from_owner(Held { bytes, permit }))
    }

    /// KiB that bodies and answers may still take.
    #[cfg(test)]
    pub(super) fn free_kib(&self) -> (usize, usize) {
        (self.bodies.available_permits(), self.answers.available_permits())
    }
}

/// A body while it comes. What was only announced takes no room.
#[derive(Debug)]
pub(super) struct Coming {
    held: Held,
    room: Arc<Semaphore>,
}

impl Coming {
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
        let has_bytes = self.held.permit.num_permits() << 10;
        let more = take(&self.room, capacity.saturating_sub(has_bytes)).ok_or_else(no_room_for_body)?;
        self.held.permit.merge(more);
        self.held.bytes.reserve_exact(capacity - self.held.bytes.len());
        Ok(())
    }
}

/// Bytes, and the room that they take.
#[derive(Debug)]
struct Held {
    bytes: Vec<u8>,
    permit: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

fn take(room: &Arc<Semaphore>, len_bytes: usize) -> Option<OwnedSemaphorePermit> {
    let kib = u32::try_from(len_bytes.div_ceil(1 << 10)).ok()?;
    Arc::clone(room).try_acquire_many_owned(kib).ok()
}

fn no_room_for_body() -> Answer {
    busy("the bodies of requests that are being answered leave no room for this one: ask again".into())
}

fn no_room_for_answer(len_bytes: usize) -> Answer {
    let mib = len_bytes.div_ceil(1 << 20);
    busy(format!(
        "answers that their clients have not taken leave no room for one of {mib} MiB: ask again, or for less"
    ))
}

fn busy(reason: String) -> Answer {
    tracing::debug!(reason, "a request of the API is refused");
    Answer::refused(StatusCode::SERVICE_UNAVAILABLE, reason).because("busy")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room() -> Room {
        Room::new(Limits { connections: 1, bodies_bytes: 64 << 10, answers_bytes: 64 << 10 })
    }

    #[test]
    fn a_body_takes_room_as_it_comes_and_as_long_as_somebody_has_it() {
        let room = room();
        let mut body = room.body();
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
        let (mut first, mut second) = (room.body(), room.body());
        first.extend(&vec![0; 33 << 10]).unwrap();
        let refused = second.extend(&[0]).unwrap_err();
        assert_eq!((refused.status, refused.refusal), (StatusCode::SERVICE_UNAVAILABLE, Some("busy")));
        drop(first.whole());
        second.extend(&[0]).unwrap();
    }

    #[test]
    fn answers_take_room_but_for_small_ones() {
        let room = room();
        let small: Vec<_> = (0..10).map(|_| room.answer(vec![0; SMALL_ANSWER_BYTES]).unwrap()).collect();
        let large = room.answer(vec![0; 40 << 10]).unwrap();
        assert_eq!((small.len(), room.free_kib().1), (10, 24));
        assert!(room.answer(vec![0; 25 << 10]).is_err());
        drop(large);
        assert!(room.answer(vec![0; 64 << 10]).is_ok());
    }
}

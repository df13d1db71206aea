//! Trains of one chunk, waiting to be delivered.
//!
//! One `UDP_GRO` receive may bring dozens of them: small frames sent one by one. They need no assembly, only a place
//! until the caller polls, one behind the other in a buffer that holds what one receive can give.
//!
//! INVARIANT: places are handed out in order and begin anew only when every train has been taken out.

use std::ops::Range;

use crate::{
    limits::{MAX_DATAGRAM_LEN, MAX_SHELVED_TRAINS},
    wire::{data::ReceiverIndex, ecn::Ecn},
};

/// The most that one receive gives, and one datagram.
const SHELF_LEN: usize = (1 << 16) + MAX_DATAGRAM_LEN;

#[derive(Debug)]
pub(super) struct Shelf {
    buffer: Box<[u8]>,
    trains: Box<[Shelved]>,
    /// The trains that wait.
    waiting: Range<usize>,
}

/// One train, whole.
#[derive(Clone, Debug)]
pub(super) struct Shelved {
    pub(super) receiver: ReceiverIndex,
    /// When it began, among all trains.
    pub(super) born: u64,
    /// Its place.
    pub(super) range: Range<usize>,
    /// What its datagram said.
    pub(super) ecn: Ecn,
}

impl Shelf {
    pub(super) fn new() -> Self {
        let unused = Shelved { receiver: ReceiverIndex(0), born: 0, range: 0..0, ecn: Ecn::NotEct };
        Self {
            buffer: vec![0; SHELF_LEN].into_boxed_slice(),
            trains: vec![unused; MAX_SHELVED_TRAINS].into_boxed_slice(),
            waiting: 0..0,
        }
    }

    /// Where a train of this length would be put; `None` when there is no room.
    pub(super) fn place(&self, len: usize) -> Option<usize> {
        let start = if self.waiting.end == 0 { 0 } else { self.trains[self.waiting.end - 1].range.end };
        (self.waiting.end < self.trains.len() && start + len <= self.buffer.len()).then_some(start)
    }

    /// Takes in the train that lies at the place that was handed out for it.
    pub(super) fn push(&mut self, train: Shelved) {
        self.trains[self.waiting.end] = train;
        self.waiting.end += 1;
    }

    /// The train that has waited longest.
    pub(super) fn first(&self) -> Option<&Shelved> {
        self.trains[self.waiting.clone()].first()
    }

    /// Takes that train out.
    pub(super) fn pop(&mut self) {
        self.waiting.start += 1;
        if self.waiting.is_empty() {
            self.waiting = 0..0;
        }
    }

    pub(super) fn bytes(&mut self, range: Range<usize>) -> &mut [u8] {
        &mut self.buffer[range]
    }
}

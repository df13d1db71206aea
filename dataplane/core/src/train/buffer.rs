//! One train while it is put together: which chunks of it are there, and what is to become of it.

use super::{
    chunk::{Chunk, Known, LastChunk, PARKING, Place, TrainKey},
    lanes::{Lanes, Missing},
    outcome::{ChunkRefusal, Losses},
    salvage::Arrived,
};
use crate::wire::{
    data::{Counter, Lane, ReceiverIndex},
    ecn::Ecn,
};

/// How often the socket may be empty before what is there of a train is delivered, though nothing of it is known to be
/// lost. A train that is sent in several goes is often met half way; a slow path is met again and again.
pub(super) const MAX_EMPTY_SOCKETS: u8 = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Free,
    Filling,
    Ready,
}

/// One train. Everything but `state` has a meaning only when it is not free.
#[derive(Debug)]
pub(super) struct Assembly {
    pub(super) state: State,
    pub(super) key: TrainKey,
    /// Grows with each train that begins: the oldest has the smallest.
    pub(super) born: u64,
    /// What is there is to be delivered though something is missing.
    pub(super) is_ripe: bool,
    /// How often the socket may be empty before what is there is delivered.
    pub(super) patience: u8,
    pub(super) arrived: Arrived,
    pub(super) last: Option<LastChunk>,
}

impl Assembly {
    pub(super) fn new() -> Self {
        Self {
            state: State::Free,
            key: TrainKey { receiver: ReceiverIndex(0), lane: Lane(0), train: Counter(0) },
            born: 0,
            is_ripe: false,
            patience: 0,
            arrived: Arrived::default(),
            last: None,
        }
    }

    pub(super) fn begin(&mut self, key: TrainKey, born: u64) {
        self.state = State::Filling;
        self.key = key;
        self.born = born;
        self.is_ripe = false;
        self.patience = MAX_EMPTY_SOCKETS;
        self.arrived = Arrived::default();
        self.last = None;
    }

    /// Incomplete, with something that could be delivered.
    pub(super) fn waits_with_news(&self) -> bool {
        self.state == State::Filling && self.arrived.has_news()
    }

    pub(super) fn is_deliverable(&self) -> bool {
        self.state == State::Ready || self.is_ripe && self.state == State::Filling
    }

    /// What has become of the first chunk that has not come.
    pub(super) fn judge(&self, lanes: &Lanes) -> Missing {
        let missing = Counter(self.key.train.0 + u64::from(self.arrived.present.trailing_ones()));
        lanes.judge(self.key.receiver, self.key.lane, missing)
    }

    /// These chunks have been delivered as far as they can be.
    pub(super) fn on_walked(&mut self, seen: u128) {
        self.arrived.walked = seen;
        self.is_ripe = false;
        self.patience = MAX_EMPTY_SOCKETS;
        if self.state == State::Ready && !self.arrived.has_news() {
            self.state = State::Free;
        }
    }

    pub(super) fn give_up(&mut self, losses: &mut Losses) {
        self.state = State::Ready;
        losses.incomplete_trains += 1;
    }

    pub(super) fn place(&self, chunk: &Chunk) -> Result<Place, ChunkRefusal> {
        Known { arrived: self.arrived, last: self.last }.place(chunk)
    }

    /// Takes in a chunk that lies where [`Known::place`] said in the train's `buffer`.
    pub(super) fn take(&mut self, chunk: &Chunk, ecn: Ecn, buffer: &mut [u8]) {
        if ecn == Ecn::Ce {
            self.arrived.marked |= 1 << chunk.index;
        }
        if chunk.is_last {
            self.last = Some(LastChunk { index: chunk.index, len: chunk.len });
        } else {
            self.arrived.present |= 1 << chunk.index;
            self.unpark(chunk.len, buffer);
            self.arrived.chunk_len = chunk.len;
        }
        let Some(last) = self.last else { return };
        if self.arrived.chunk_len == 0 {
            return;
        }
        let before = usize::from(last.index) * self.arrived.chunk_len;
        self.arrived.present |= 1 << last.index;
        self.arrived.train_len = Some(before + last.len);
        if self.arrived.present == u128::MAX >> (127 - last.index) {
            self.state = State::Ready;
        }
    }

    /// Moves a parked last chunk to its place when the length of the chunks becomes known.
    fn unpark(&self, chunk_len: usize, buffer: &mut [u8]) {
        if let Some(last) = self.last
            && self.arrived.chunk_len == 0
        {
            buffer.copy_within(PARKING..PARKING + last.len, usize::from(last.index) * chunk_len);
        }
    }
}

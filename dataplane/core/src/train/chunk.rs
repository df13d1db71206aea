//! Where a chunk lies in its train, as far as chunks that are authentic have said anything about that.
//!
//! The length of the chunks is known from any but the last. A last chunk that comes first is parked behind the train's
//! room and moved later.
//!
//! INVARIANT: an unauthenticated chunk gets a place where no committed one lies.

use super::{outcome::ChunkRefusal, salvage::Arrived};
use crate::{
    limits::{MAX_DATAGRAM_LEN, MAX_TRAIN_BYTES},
    wire::data::{Counter, Lane, ReceiverIndex},
};

/// A last chunk waits here until its place is known.
pub(super) const PARKING: usize = MAX_TRAIN_BYTES;
pub(super) const BUFFER_LEN: usize = PARKING + MAX_DATAGRAM_LEN;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TrainKey {
    pub(super) receiver: ReceiverIndex,
    pub(super) lane: Lane,
    pub(super) train: Counter,
}

impl TrainKey {
    pub(super) fn is_of_lane(&self, other: &Self) -> bool {
        (self.receiver, self.lane) == (other.receiver, other.lane)
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Chunk {
    pub(super) key: TrainKey,
    pub(super) index: u8,
    pub(super) is_last: bool,
    pub(super) len: usize,
}

impl Chunk {
    pub(super) fn counter(&self) -> Counter {
        Counter(self.key.train.0 + u64::from(self.index))
    }
}

/// Where an unauthenticated chunk goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Here in the buffer of its assembly.
    At(usize),
    /// Here on the shelf: it is a whole train.
    Shelf(usize),
    /// To scratch: if it is authentic, its train is not consistent.
    Contradiction,
}

/// The end of a train, perhaps still parked.
#[derive(Clone, Copy, Debug)]
pub(super) struct LastChunk {
    pub(super) index: u8,
    pub(super) len: usize,
}

/// What authenticated chunks say about a train.
#[derive(Default)]
pub(super) struct Known {
    pub(super) arrived: Arrived,
    pub(super) last: Option<LastChunk>,
}

impl Known {
    /// Where a chunk goes that claims to be part of this train.
    pub(super) fn place(&self, chunk: &Chunk) -> Result<Place, ChunkRefusal> {
        let is_parked = self.last.is_some_and(|last| last.index == chunk.index);
        if self.arrived.present >> chunk.index & 1 == 1 || is_parked {
            return Err(ChunkRefusal::Duplicate);
        }
        let chunk_len = match (self.arrived.chunk_len, chunk.is_last) {
            (0, true) => return Ok(self.park()),
            (0, false) => chunk.len,
            (known, _) => known,
        };
        let offset = usize::from(chunk.index) * chunk_len;
        if self.contradicts(chunk, chunk_len) {
            Ok(Place::Contradiction)
        } else if offset + chunk.len > MAX_TRAIN_BYTES {
            Err(ChunkRefusal::Malformed)
        } else {
            Ok(Place::At(offset))
        }
    }

    /// The place of a last chunk while no other is there.
    pub(super) fn park(&self) -> Place {
        if self.last.is_some() { Place::Contradiction } else { Place::At(PARKING) }
    }

    /// Whether the train would not be one with this chunk, if its chunks have `chunk_len` bytes.
    pub(super) fn contradicts(&self, chunk: &Chunk, chunk_len: usize) -> bool {
        if chunk.is_last {
            let is_overtaken = u32::from(chunk.index) < 128 - self.arrived.present.leading_zeros();
            return self.last.is_some() || is_overtaken || chunk.len > chunk_len;
        }
        let end_contradicts = self.last.is_some_and(|last| {
            let train_len = usize::from(last.index) * chunk_len + last.len;
            chunk.index > last.index || last.len > chunk_len || train_len > MAX_TRAIN_BYTES
        });
        chunk.len != chunk_len || end_contradicts
    }
}

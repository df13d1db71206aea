//! Seals a train: chunk by chunk, send by send.
//!
//! INVARIANT: the counters of all chunks are reserved before the first is sealed, so the chunks of a train are
//! consecutive; nobody else gets them.

use crate::{
    limits::MAX_SEND_BYTES,
    noise::{SealError, Session},
    train::cut::Cut,
    wire::data::{Counter, DataHeader, Lane},
};

/// A train on its way into datagrams.
pub(super) struct TrainSealer {
    lane: Lane,
    first: Counter,
    cut: Cut,
    send_count: usize,
}

/// One send: datagrams of one length, the last may be shorter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SealedSend {
    /// Bytes of all datagrams.
    pub(super) len: usize,
    /// Length of each but the last.
    pub(super) segment_len: usize,
    /// How many.
    pub(super) datagram_count: u64,
}

impl TrainSealer {
    /// Cuts `train_len` bytes of records for a path whose datagrams hold `max_chunk_len` and reserves the counters.
    pub(super) fn new(
        session: &Session,
        lane: Lane,
        train_len: usize,
        max_chunk_len: usize,
    ) -> Result<Self, SealError> {
        let cut = Cut::new(train_len, max_chunk_len);
        let first = session.reserve(lane, cut.chunk_count() as u32)?;
        Ok(Self { lane, first, cut, send_count: 0 })
    }

    /// Seals the next send of the train into `wire`; `None` after the last one.
    pub(super) fn seal_next(&mut self, session: &Session, records: &[u8], wire: &mut [u8]) -> Option<SealedSend> {
        let send = self.cut.sends().nth(self.send_count)?;
        self.send_count += 1;
        let mut len = 0;
        for chunk in self.cut.chunks().skip(send.start).take(send.len()) {
            let header = DataHeader {
                lane: self.lane,
                chunk_index: chunk.index,
                is_last: chunk.is_last,
                receiver: session.remote(),
                counter: Counter(self.first.0 + u64::from(chunk.index)),
            };
            len += session.seal(&header, &records[chunk.range], &mut wire[len..]);
        }
        let segment_len = if send.len() == 1 { len } else { self.cut.datagram_len() };
        Some(SealedSend { len, segment_len, datagram_count: send.len() as u64 })
    }
}

/// Seals a whole train and hands each send to `emit` with its segment length. For the slow path: it allocates.
/// Returns the number of datagrams.
pub fn seal_train(
    session: &Session,
    lane: Lane,
    records: &[u8],
    max_chunk_len: usize,
    mut emit: impl FnMut(&[u8], usize),
) -> Result<u64, SealError> {
    let mut sealer = TrainSealer::new(session, lane, records.len(), max_chunk_len)?;
    let mut wire = vec![0; MAX_SEND_BYTES];
    let mut count = 0;
    while let Some(send) = sealer.seal_next(session, records, &mut wire) {
        count += send.datagram_count;
        emit(&wire[..send.len], send.segment_len);
    }
    Ok(count)
}

//! What an assembler says: what it delivers, refuses, loses and waits for.

use crate::{
    offload::vnet_hdr::VnetHeader,
    wire::{
        data::ReceiverIndex,
        ecn::Ecn,
        record::{Farewell, LossReport, ProbeAck, ProbeId},
    },
};

/// Something to deliver.
#[derive(Debug, PartialEq, Eq)]
pub struct Delivery<'a> {
    /// The session that it came on.
    pub receiver: ReceiverIndex,
    /// What it is.
    pub item: Item<'a>,
}

/// What a record brought.
#[derive(Debug, PartialEq, Eq)]
pub enum Item<'a> {
    /// A frame for the TAP.
    Frame {
        /// Made here from the frame; ours to believe.
        vnet: VnetHeader,
        /// The frame. It may be changed, it will not be looked at again.
        frame: &'a mut [u8],
        /// [`Ecn::Ce`] when one of the datagrams that it came in was marked, else [`Ecn::NotEct`].
        outer: Ecn,
    },
    /// Bytes for the control half.
    Control(&'a [u8]),
    /// A probe to be answered.
    Probe {
        /// Its name.
        id: ProbeId,
        /// Bytes of its body.
        len: u32,
    },
    /// The answer to a probe of ours.
    ProbeAck(ProbeAck),
    /// The peer ends the session.
    Farewell(Farewell),
    /// What the peer has got of this session.
    LossReport(LossReport),
}
/// What could not be delivered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Losses {
    /// Trains given up with chunks missing; their complete frames were delivered.
    pub incomplete_trains: u64,
    /// Trains whose authentic chunks contradict each other; dropped whole.
    pub inconsistent_trains: u64,
    /// Authentic records that are no records, or not what they say.
    pub malformed_records: u64,
}

/// Why a chunk is not worth opening.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChunkRefusal {
    /// It is there already.
    #[error("the chunk has been received before")]
    Duplicate,
    /// Empty, too long, or beyond the end of any train.
    #[error("the chunk has an impossible length or place")]
    Malformed,
    /// All buffers hold trains that nobody polled.
    #[error("finished trains were not taken out")]
    Undelivered,
}

/// Whether there is something to poll.
#[must_use = "trains that are ready must be polled"]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Nothing is ready.
    Incomplete,
    /// At least one train is complete or given up.
    Ready,
}

/// What incomplete trains wait for: how long the shell may sleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// There are none.
    ForNothing,
    /// For chunks that complete what could be delivered in part: after a moment of silence it should be, by
    /// [`Assembler::deliver_partial`].
    ToDeliver,
    /// The same, but the path is known to reorder: some more silence is worth a super-frame in one piece.
    ToDeliverLate,
    /// For chunks that are late: after long silence they will not come, and [`Assembler::flush_stale`] is due.
    ForLateChunks,
}

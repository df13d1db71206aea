//! The sending half of a worker: TAP → core → UDP.
//!
//! ```text
//!  begin batch ─▶ next queue ─▶ read frame ─▶ push ─▶ send what is closed ─┐        ─▶ end batch ─▶ send the rest
//!                     ▲             ▲─────────── up to a share ───────────┤
//!                     └──────────────────────── up to the cap ────────────┘
//! ```
//!
//! The batch ends when the queues are empty or at the cap, never by a timer: a lone frame waits for nobody. Queues take
//! turns, each with a share, so that one that is always full delays the others by a share and no more.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Instant,
};

use anyhow::Context;
use weaved_core::{
    forward::{DropReason, Encapsulator, Outgoing, Punt},
    offload::vnet_hdr::VnetHeader,
    wire::{data::Lane, ecn::Ecn},
};

use crate::{
    backlog::Backlog,
    patience::Patience,
    tap::VNET_HEADER_LEN,
    udp::{SendError, Sending, Unsent},
    worker::ready::ReadyQueues,
    workers::{FULL_PATIENCE, Meanwhile, Shared, WorkerContext},
};

/// Frames per batch, so that the table in use is never old.
const MAX_BATCH_FRAMES: usize = 64;
/// Bytes of frames per batch.
const MAX_BATCH_BYTES: usize = 256 << 10;

/// Frames that one queue may give before it is the next one's turn.
const SHARE_FRAMES: usize = 16;
/// Bytes of frames likewise: a super-frame, or little more than one.
const SHARE_BYTES: usize = 64 << 10;

/// The state of the sending half.
pub(super) struct Tx {
    shared: Arc<Shared>,
    context: WorkerContext,
    encapsulator: Encapsulator,
    /// Of each queue.
    backlogs: Vec<Backlog>,
    /// Of this batch: a flood to many hosts would hold up the others for as often as there are hosts.
    patience: Patience,
}

/// What has been read in one batch.
#[derive(Clone, Copy, Debug, Default)]
struct Taken {
    frames: usize,
    bytes: usize,
}

/// What one queue gave.
struct Share {
    taken: Taken,
    /// There is nothing more.
    is_last: bool,
}

impl Taken {
    /// Whether the batch may go on.
    fn has_room(self) -> bool {
        self.frames < MAX_BATCH_FRAMES && self.bytes < MAX_BATCH_BYTES
    }
}

impl Tx {
    pub(super) fn new(shared: Arc<Shared>, lane: Lane, context: WorkerContext) -> Self {
        let now = Instant::now();
        let encapsulator = Encapsulator::new(lane, context.stats.clone(), now);
        let backlogs = shared.queues.iter().map(|_| Backlog::new(now)).collect();
        Self { shared, context, encapsulator, backlogs, patience: Patience::new(FULL_PATIENCE) }
    }

    /// Sends what the ready queues have, up to the cap; tells whether they had anything. `meanwhile` goes on while the socket is
    /// full. A batch that has had to wait ends: who has sent less is to have its turn.
    pub(super) fn batch(
        &mut self,
        ready: &mut ReadyQueues,
        now: Instant,
        meanwhile: &mut impl Meanwhile,
    ) -> anyhow::Result<bool> {
        if !ready.has_frames() {
            return Ok(false);
        }
        let mut taken = Taken::default();
        self.patience = Patience::new(FULL_PATIENCE);
        self.encapsulator.begin_batch(&self.shared.table.load(), now);
        while taken.has_room()
            && !self.patience.has_begun()
            && let Some(queue) = ready.next()
        {
            self.backlogs[queue].begin_batch(now);
            let share = self.take_share(queue, meanwhile)?;
            if share.is_last {
                ready.on_empty(queue);
                self.backlogs[queue].on_empty();
            }
            taken.frames += share.taken.frames;
            taken.bytes += share.taken.bytes;
        }
        self.encapsulator.end_batch();
        self.send_closed(meanwhile)?;
        Ok(taken.frames > 0)
    }

    /// Reads from one queue until it is empty or has given its share.
    fn take_share(&mut self, queue: usize, meanwhile: &mut impl Meanwhile) -> anyhow::Result<Share> {
        let mut taken = Taken::default();
        while taken.frames < SHARE_FRAMES && taken.bytes < SHARE_BYTES && !self.patience.has_begun() {
            let mut vnet = [0; VNET_HEADER_LEN];
            let tap = &self.shared.queues[queue];
            let read = tap.read_frame(&mut vnet, self.encapsulator.frame_buffer());
            let Some(len) = read.with_context(|| format!("the TAP device {} is gone", tap.name()))? else {
                return Ok(Share { taken, is_last: true });
            };
            self.take_frame(queue, &vnet, len, meanwhile)?;
            taken.frames += 1;
            taken.bytes += len;
        }
        Ok(Share { taken, is_last: false })
    }

    fn take_frame(
        &mut self,
        queue: usize,
        vnet: &[u8; VNET_HEADER_LEN],
        len: usize,
        meanwhile: &mut impl Meanwhile,
    ) -> anyhow::Result<()> {
        let Ok(vnet) = VnetHeader::parse(vnet) else {
            self.context.stats.count_drop(DropReason::FrameMalformed);
            return Ok(());
        };
        let backlog = &mut self.backlogs[queue];
        if backlog.wants_mark() && Ecn::mark(&mut self.encapsulator.frame_buffer()[..len]).is_ok() {
            backlog.on_marked();
            self.shared.io_stats.backlog_marked.fetch_add(1, Relaxed);
        }
        if let Some(punt) = self.encapsulator.push(vnet, len) {
            self.context.punts.punt(punt);
        }
        self.send_closed(meanwhile)
    }

    /// Sends all that is sealed.
    fn send_closed(&mut self, meanwhile: &mut impl Meanwhile) -> anyhow::Result<()> {
        while let Some(outgoing) = self.encapsulator.poll_outgoing() {
            let Outgoing { slot, to, source, sends, datagrams, segment_len, ecn } = outgoing;
            let len = datagrams.len();
            let sending = Sending { to, source, sends, datagrams, segment_len, ecn };
            let sent = self.shared.send(sending, &mut self.patience, meanwhile)?;
            let Err(Unsent { error, sent_len }) = sent else { continue };
            let unsent_count = (len - sent_len).div_ceil(segment_len) as u64;
            let peer = self.encapsulator.table().peer(slot);
            peer.session.on_unsent(unsent_count);
            if error == SendError::TooBig {
                self.context.punts.punt(Punt::TooBig { peer: peer.id, datagram_len: segment_len.min(len) });
            }
            self.context.stats.count_drops(error.drop_reason(), unsent_count);
        }
        Ok(())
    }
}

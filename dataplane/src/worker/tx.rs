//! The sending half of a worker: TAP → core → UDP.
//!
//! ```text
//!  begin batch ─▶ read frame ─▶ push ─▶ send what is closed ─┐        ─▶ end batch ─▶ send the rest
//!                     ▲─────────── up to the cap ────────────┘
//! ```
//!
//! The batch ends when the TAP is empty or at the cap, never by a timer: a lone frame waits for nobody.

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
    tap::VNET_HEADER_LEN,
    udp::{SendError, Sending, Unsent},
    workers::{Meanwhile, Shared, WorkerContext},
};

/// Frames per batch, so that the table in use is never old.
const MAX_BATCH_FRAMES: usize = 64;
/// Bytes of frames per batch.
const MAX_BATCH_BYTES: usize = 256 << 10;

/// The state of the sending half.
pub(super) struct Tx {
    shared: Arc<Shared>,
    context: WorkerContext,
    encapsulator: Encapsulator,
    backlog: Backlog,
}

impl Tx {
    pub(super) fn new(shared: Arc<Shared>, lane: Lane, context: WorkerContext) -> Self {
        let now = Instant::now();
        let encapsulator = Encapsulator::new(lane, context.stats.clone(), now);
        Self { shared, context, encapsulator, backlog: Backlog::new(now) }
    }

    /// Sends what the TAP has, up to the cap; tells whether it had anything. While the socket is full, `meanwhile` is
    /// called whenever datagrams have arrived.
    pub(super) fn batch(&mut self, now: Instant, mut meanwhile: impl Meanwhile) -> anyhow::Result<bool> {
        let mut byte_count = 0;
        self.encapsulator.begin_batch(&self.shared.table.load(), now);
        self.backlog.begin_batch(now);
        for _ in 0..MAX_BATCH_FRAMES {
            let mut vnet = [0; VNET_HEADER_LEN];
            let tap = &self.shared.tap;
            let read = tap.read_frame(&mut vnet, self.encapsulator.frame_buffer());
            let Some(len) = read.with_context(|| format!("the TAP device {} is gone", tap.name()))? else {
                self.backlog.on_empty();
                break;
            };
            self.take_frame(&vnet, len, &mut meanwhile)?;
            byte_count += len;
            if byte_count >= MAX_BATCH_BYTES {
                break;
            }
        }
        self.encapsulator.end_batch();
        self.send_closed(&mut meanwhile)?;
        Ok(byte_count > 0)
    }

    fn take_frame(
        &mut self,
        vnet: &[u8; VNET_HEADER_LEN],
        len: usize,
        meanwhile: &mut impl Meanwhile,
    ) -> anyhow::Result<()> {
        let Ok(vnet) = VnetHeader::parse(vnet) else {
            self.context.stats.count_drop(DropReason::FrameMalformed);
            return Ok(());
        };
        if self.backlog.wants_mark() && Ecn::mark(&mut self.encapsulator.frame_buffer()[..len]).is_ok() {
            self.backlog.on_marked();
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
            let Outgoing { slot, to, source, datagrams, segment_len, ecn } = outgoing;
            let len = datagrams.len();
            let sending = Sending { to, source, datagrams, segment_len, ecn };
            let Err(Unsent { error, sent_len }) = self.shared.send(sending, meanwhile)? else { continue };
            if error == SendError::TooBig {
                let peer = self.encapsulator.table().peer(slot).id;
                self.context.punts.punt(Punt::TooBig { peer, datagram_len: segment_len.min(len) });
            }
            self.context.stats.count_drops(error.drop_reason(), (len - sent_len).div_ceil(segment_len) as u64);
        }
        Ok(())
    }
}

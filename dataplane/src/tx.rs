//! The sending worker: TAP → core → UDP.
//!
//! ```text
//!  poll ─▶ begin batch ─▶ read frame ─▶ push ─▶ send what is closed ─┐        ─▶ end batch ─▶ send the rest ─▶ poll
//!                              ▲─────────── up to the cap ───────────┘
//! ```
//!
//! The batch ends when the TAP is empty or at the cap, never by a timer: a lone frame waits for nobody.
//!
//! INVARIANT: no lock and no allocation per frame; one clock read per batch.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use anyhow::Context;
use rustix::event::{PollFd, PollFlags, poll};
use weaved_core::{
    forward::{DropReason, Encapsulator, Outgoing, Punt},
    offload::vnet_hdr::VnetHeader,
    wire::{data::Lane, ecn::Ecn},
};

use crate::{
    backlog::Backlog,
    tap::VNET_HEADER_LEN,
    udp::{SendError, Sending, Unsent},
    workers::{Shared, WorkerContext},
};

/// Frames per batch, so that the table in use is never old.
const MAX_BATCH_FRAMES: usize = 64;
/// Bytes of frames per batch.
const MAX_BATCH_BYTES: usize = 256 << 10;

/// How long a full socket is waited for before its datagrams are dropped. Meanwhile the TAP's queue fills and drops,
/// which is where senders are to feel it.
const FULL_PATIENCE: Duration = Duration::from_millis(10);

/// The lane of the first sending worker; the router has lane 0.
const FIRST_TX_LANE: Lane = Lane(1);

/// The state of the sending thread.
pub(crate) struct Tx {
    shared: Arc<Shared>,
    context: WorkerContext,
    encapsulator: Encapsulator,
    backlog: Backlog,
}

impl Tx {
    pub(crate) fn new(shared: Arc<Shared>, context: WorkerContext) -> Self {
        let now = Instant::now();
        let encapsulator = Encapsulator::new(FIRST_TX_LANE, context.stats.clone(), now);
        Self { shared, context, encapsulator, backlog: Backlog::new(now) }
    }

    /// Works until the stop flag is raised. Fails when the TAP is gone.
    pub(crate) fn run(mut self) -> anyhow::Result<()> {
        let shared = self.shared.clone();
        let mut fds = [PollFd::new(&shared.stop, PollFlags::IN), PollFd::new(&*shared.tap, PollFlags::IN)];
        loop {
            match poll(&mut fds, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error).context("cannot wait for frames"),
            }
            if !fds[0].revents().is_empty() {
                return Ok(());
            }
            self.batch()?;
        }
    }

    /// One batch of frames.
    fn batch(&mut self) -> anyhow::Result<()> {
        self.shared.io_stats.tx_batches.fetch_add(1, Relaxed);
        let now = Instant::now();
        self.encapsulator.begin_batch(&self.shared.table.load(), now);
        self.backlog.begin_batch(now);
        let mut byte_count = 0;
        for _ in 0..MAX_BATCH_FRAMES {
            let mut vnet = [0; VNET_HEADER_LEN];
            let tap = &self.shared.tap;
            let read = tap.read_frame(&mut vnet, self.encapsulator.frame_buffer());
            let Some(len) = read.with_context(|| format!("the TAP device {} is gone", tap.name()))? else {
                self.backlog.on_empty();
                break;
            };
            self.take_frame(&vnet, len);
            byte_count += len;
            if byte_count >= MAX_BATCH_BYTES {
                break;
            }
        }
        self.encapsulator.end_batch();
        self.send_closed();
        Ok(())
    }

    fn take_frame(&mut self, vnet: &[u8; VNET_HEADER_LEN], len: usize) {
        let Ok(vnet) = VnetHeader::parse(vnet) else {
            self.context.stats.count_drop(DropReason::FrameMalformed);
            return;
        };
        if self.backlog.wants_mark() && Ecn::mark(&mut self.encapsulator.frame_buffer()[..len]).is_ok() {
            self.backlog.on_marked();
            self.shared.io_stats.backlog_marked.fetch_add(1, Relaxed);
        }
        if let Some(punt) = self.encapsulator.push(vnet, len) {
            self.context.punts.punt(punt);
        }
        self.send_closed();
    }

    /// Sends all that is sealed.
    fn send_closed(&mut self) {
        while let Some(outgoing) = self.encapsulator.poll_outgoing() {
            let Outgoing { slot, to, datagrams, segment_len, ecn } = outgoing;
            let len = datagrams.len();
            let sending = Sending { to, datagrams, segment_len, ecn };
            let Err(Unsent { error, sent_len }) = self.shared.send(sending, FULL_PATIENCE) else { continue };
            if error == SendError::TooBig {
                let peer = self.encapsulator.table().peer(slot).id;
                self.context.punts.punt(Punt::TooBig { peer, datagram_len: segment_len.min(len) });
            }
            self.context.stats.count_drops(error.drop_reason(), (len - sent_len).div_ceil(segment_len) as u64);
        }
    }
}

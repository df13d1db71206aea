//! The receiving half of a worker: UDP → core → TAP.
//!
//! ```text
//!  begin batch ─▶ receive ─▶ handle ─▶ write what is complete ─┐
//!                    ▲─────────── up to the cap ───────────────┘
//! ```
//!
//! The core is told when the socket is empty and when it stays so for as long as the core has patience: then it delivers
//! what is there of trains that have lost a chunk.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use anyhow::Context;
use weaved_core::forward::{Datagrams, Decapsulator, DropReason, Outcome};

use crate::{
    frame_writer::FrameWriter,
    udp::{RECEIVE_BYTES, Received},
    workers::{Shared, WorkerContext},
};

/// Receives per batch, so that the table in use is never old.
const MAX_BATCH_RECEIVES: usize = 16;

/// The state of the receiving half.
pub(super) struct Rx {
    shared: Arc<Shared>,
    context: WorkerContext,
    decapsulator: Decapsulator,
    writer: FrameWriter,
    buffer: Box<[u8]>,
    /// The socket's count of lost datagrams when it was last told.
    overflow_count: u32,
}

impl Rx {
    pub(super) fn new(shared: Arc<Shared>, context: WorkerContext) -> Self {
        let decapsulator = Decapsulator::new(context.stats.clone());
        let buffer = vec![0; RECEIVE_BYTES].into();
        Self { shared, context, decapsulator, writer: FrameWriter::default(), buffer, overflow_count: 0 }
    }

    /// How long the socket may be silent before [`Self::on_silence`] is due; none while no train waits for anything.
    pub(super) fn patience(&self) -> Option<Duration> {
        self.decapsulator.patience()
    }

    /// The socket was silent for so long.
    pub(super) fn on_silence(&mut self) {
        self.decapsulator.on_silence();
        self.deliver();
    }

    /// Takes in what has arrived, up to the cap; tells whether anything had.
    pub(super) fn batch(&mut self) -> anyhow::Result<bool> {
        let mut has_received = false;
        for _ in 0..MAX_BATCH_RECEIVES {
            let received = self.shared.socket.receive(&mut self.buffer);
            let received = received.context("cannot receive datagrams")?;
            // After the receive: a peer uses new keys only when it knows that our table has them.
            self.decapsulator.begin_batch(&self.shared.table.load());
            let Some(received) = received else {
                self.decapsulator.on_socket_empty();
                self.deliver();
                break;
            };
            self.handle(received);
            self.deliver();
            has_received = true;
        }
        Ok(has_received)
    }

    fn handle(&mut self, received: Received) {
        self.count_losses(received);
        if received.is_truncated {
            return;
        }
        let bytes = &self.buffer[..received.len];
        let datagrams = Datagrams { from: received.from, bytes, segment_len: received.segment_len, ecn: received.ecn };
        self.decapsulator.handle(datagrams, |punt| self.context.punts.punt(punt.received_at(received.to)));
    }

    /// Writes the frames of complete trains, and passes on what is for the router.
    fn deliver(&mut self) {
        while let Some(outcome) = self.decapsulator.poll() {
            match outcome {
                Outcome::Deliver(delivery) => {
                    let written =
                        self.writer.write(&*self.shared.tap, &self.shared.io_stats, delivery.vnet, delivery.frame);
                    if written.is_err() {
                        self.context.stats.count_drop(DropReason::TapRefused);
                    }
                    delivery.sighting.into_iter().for_each(|punt| self.context.punts.punt(punt));
                }
                Outcome::Punt(punt) => self.context.punts.punt(punt),
                Outcome::Dropped => {}
            }
        }
    }

    fn count_losses(&mut self, received: Received) {
        if let Some(overflow_count) = received.overflow_count {
            let lost = overflow_count.wrapping_sub(self.overflow_count);
            self.overflow_count = overflow_count;
            self.shared.io_stats.udp_overflow.fetch_add(lost.into(), Relaxed);
        }
        self.shared.io_stats.udp_truncated.fetch_add(received.is_truncated.into(), Relaxed);
    }
}

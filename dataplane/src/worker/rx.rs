//! The receiving half of a worker: UDP → core → TAP.
//!
//! ```text
//!  begin batch ─▶ receive ─▶ handle ─▶ write what is complete ─┐
//!                    ▲─────────── up to the cap ───────────────┘
//! ```
//!
//! A lone datagram after a sleep ends the batch: a container often answers at once, and its answer is to leave before it is asked
//! whether there is more.
//!
//! The core is told when the socket is empty and when it stays so for as long as the core has patience: then it delivers
//! what is there of trains that have lost a chunk.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use anyhow::Context;
use weaved_core::forward::{Datagrams, Decapsulator, DropReason, Outcome};

use super::fair_share::FairShare;
use crate::{
    frame_writer::FrameWriter,
    udp::{RECEIVE_BYTES, Received},
    workers::{Meanwhile, Shared, WorkerContext},
};

/// Receives per batch, so that the table in use is never old.
const MAX_BATCH_RECEIVES: usize = 16;

/// Frames per batch, so that what containers send waits no longer for a flood. The last receive may exceed it.
const MAX_BATCH_FRAMES: usize = 64;

/// The state of the receiving half.
pub(super) struct Rx {
    shared: Arc<Shared>,
    context: WorkerContext,
    decapsulator: Decapsulator,
    writer: FrameWriter,
    buffer: Box<[u8]>,
    fair_share: FairShare,
    /// Frames of this batch so far.
    frame_count: usize,
    /// The socket was empty when it was read last.
    is_drained: bool,
    /// When datagrams were received last, or a silence was dealt with.
    silent_since: Instant,
}

impl Rx {
    pub(super) fn new(shared: Arc<Shared>, context: WorkerContext) -> Self {
        let decapsulator = Decapsulator::new(context.stats.clone());
        let (buffer, now) = (vec![0; RECEIVE_BYTES].into(), Instant::now());
        let (writer, fair_share) = (FrameWriter::default(), FairShare::new(now));
        Self {
            shared,
            context,
            decapsulator,
            writer,
            buffer,
            fair_share,
            frame_count: 0,
            is_drained: true,
            silent_since: now,
        }
    }

    /// Tells the core of a silence that it waits for, once it is long enough.
    pub(super) fn watch_silence(&mut self, has_received: bool, now: Instant) {
        if has_received {
            self.silent_since = now;
        } else if self.silence_left(now) == Some(Duration::ZERO) {
            self.decapsulator.on_silence();
            self.deliver();
            self.silent_since = now;
        }
    }

    /// How much longer the socket has to be silent for the core; none while no train waits for anything.
    pub(super) fn silence_left(&self, now: Instant) -> Option<Duration> {
        let silent_for = now.saturating_duration_since(self.silent_since);
        self.decapsulator.patience().map(|patience| patience.saturating_sub(silent_for))
    }

    /// Takes in what has arrived, up to the cap; tells whether anything had.
    pub(super) fn batch(&mut self, now: Instant, has_slept: bool) -> anyhow::Result<bool> {
        let mut receive_count = 0;
        self.frame_count = 0;
        if has_slept {
            self.fair_share.on_slept(now);
        }
        let is_hasty = loop {
            let received = self.shared.socket.receive(&mut self.buffer);
            let received = received.context("cannot receive datagrams")?;
            self.is_drained = received.is_none();
            // After the receive: a peer uses new keys only when it knows that our table has them.
            self.decapsulator.begin_batch(&self.shared.table.load());
            let Some(received) = received else {
                self.on_empty();
                break false;
            };
            receive_count += 1;
            self.fair_share.on_read(received.len);
            self.handle(received);
            self.deliver();
            if has_slept && receive_count == 1 && received.len <= received.segment_len {
                break true;
            }
            if receive_count == MAX_BATCH_RECEIVES || self.frame_count >= MAX_BATCH_FRAMES {
                break false;
            }
        };
        if receive_count > 0 && !is_hasty && self.fair_share.is_due(now) {
            let waiting = if self.is_drained { 0 } else { self.shared.socket.waiting_bytes() };
            self.fair_share.tick(waiting, now);
        }
        Ok(receive_count > 0)
    }

    /// The socket is empty, as somebody else has found out.
    pub(super) fn on_nothing(&mut self) {
        if !self.is_drained {
            self.is_drained = true;
            self.on_empty();
        }
    }

    fn on_empty(&mut self) {
        self.decapsulator.on_socket_empty();
        self.deliver();
        self.fair_share.on_empty();
    }

    fn handle(&mut self, received: Received) {
        self.count_losses(received);
        if received.is_truncated {
            self.shared.io_stats.udp_truncated.fetch_add(1, Relaxed);
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
                    self.frame_count += 1;
                    if self.fair_share.admits(source(delivery.frame), delivery.frame.len()) {
                        let written =
                            self.writer.write(self.shared.tap(), &self.shared.io_stats, delivery.vnet, delivery.frame);
                        if written.is_err() {
                            self.context.stats.count_drop(DropReason::TapRefused);
                        }
                    } else {
                        self.context.stats.count_drop(DropReason::UnfairShare);
                    }
                    delivery.sighting.into_iter().for_each(|punt| self.context.punts.punt(punt));
                }
                Outcome::Punt(punt) => self.context.punts.punt(punt),
                Outcome::Dropped => {}
            }
        }
    }

    fn count_losses(&self, received: Received) {
        if let Some(overflow_count) = received.overflow_count {
            let lost = self.shared.socket.newly_lost(overflow_count);
            if lost > 0 {
                self.context.stats.count_drops(DropReason::UdpOverflow, lost.into());
            }
        }
    }
}

impl Meanwhile for Rx {
    fn look(&mut self) -> anyhow::Result<()> {
        let now = Instant::now();
        let has_received = self.batch(now, false)?;
        self.watch_silence(has_received, now);
        Ok(())
    }

    fn time_left(&self) -> Option<Duration> {
        self.silence_left(Instant::now())
    }
}

/// The source address of a frame; what is delivered has one.
fn source(frame: &[u8]) -> [u8; 6] {
    frame.get(6..).and_then(|rest| rest.first_chunk()).copied().unwrap_or_default()
}

//! The receiving half of a worker: UDP → core → TAP.
//!
//! ```text
//!  begin batch ─▶ receive ─▶ handle ─▶ write what is complete ─┐
//!                    ▲─────────── up to the cap ───────────────┘
//! ```
//!
//! A lone datagram after a sleep ends the batch: a container often answers at once, and its answer is to leave before it is asked
//! whether there is more. Not so while a train waits for a chunk: then the core has to be told that the socket is empty.
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
        if self.is_drained || has_slept && self.has_caught_up(now) {
            self.fair_share.on_idle(now);
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
            let is_lone = receive_count == 1 && received.len <= received.segment_len;
            if has_slept && is_lone && self.decapsulator.patience().is_none() {
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

    /// After a sleep hardly anything waits, unless it was none but a core that others had.
    fn has_caught_up(&self, now: Instant) -> bool {
        self.fair_share.is_due(now) && self.shared.socket.waiting_bytes() <= 2 * RECEIVE_BYTES
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

#[cfg(test)]
mod tests {
    use std::net::UdpSocket as Sender;

    use arc_swap::ArcSwap;
    use weaved_api::{MacAddr, OffloadSwitches, Switch};
    use weaved_core::{
        offload::vnet_hdr::VnetHeader,
        testing::{
            Conditions, Network,
            frames::{frame, mac},
        },
    };

    use super::*;
    use crate::{
        inputs,
        shutdown::Flag,
        tap::Tap,
        testing::{await_readable, in_namespace_with_loopback},
        udp::UdpSocket,
    };

    const FRAME_COUNT: usize = 40;

    /// The datagrams of one train with so many frames, and the receiving half of a worker that can open them.
    fn train_and_receiver() -> (Vec<Vec<u8>>, Rx) {
        let mut network = Network::pair(Conditions::lan(), 1);
        assert!(network.run_until(Duration::from_secs(10), Network::is_full_mesh));
        let now = network.now;
        let [from, to] = &mut network.nodes[..] else { panic!("a pair has two nodes") };
        let frames = vec![(VnetHeader::default(), frame(mac(1, 1), MacAddr::BROADCAST, &[7; 1400])); FRAME_COUNT];
        let sends = from.send_frames(&frames, now);
        assert_eq!(sends.len(), 1, "it is one train");
        let datagrams = sends[0].datagrams.chunks(sends[0].segment_len).map(<[u8]>::to_vec).collect();

        let socket = UdpSocket::open(0, OffloadSwitches::default(), Arc::default()).unwrap();
        let socket = Arc::new(socket);
        let shared = Arc::new(Shared {
            queues: Tap::open("weave-tap", Switch::Auto).unwrap().queues().to_vec(),
            sender: socket.clone(),
            socket,
            table: Arc::new(ArcSwap::from_pointee(to.table().clone())),
            io_stats: Arc::default(),
            stop: Arc::new(Flag::new().unwrap()),
        });
        let stats = Arc::<weaved_core::forward::WorkerStats>::default();
        // Whoever would read the punts is gone.
        let punts = inputs::queue().0.for_worker(stats.clone());
        (datagrams, Rx::new(shared, WorkerContext { stats, punts }))
    }

    /// A datagram comes, alone.
    fn take_one(rx: &mut Rx, datagram: &[u8], has_slept: bool) {
        let socket = &*rx.shared.socket;
        Sender::bind("127.0.0.1:0").unwrap().send_to(datagram, ("127.0.0.1", socket.port())).unwrap();
        await_readable(socket);
        rx.batch(Instant::now(), has_slept).unwrap();
    }

    #[test]
    fn a_train_that_comes_slowly_is_delivered_as_it_comes_although_the_worker_sleeps_between_its_chunks() {
        in_namespace_with_loopback(|| {
            let (datagrams, mut rx) = train_and_receiver();
            let mut take = |datagram: &Vec<u8>| {
                take_one(&mut rx, datagram, true);
                rx.frame_count
            };
            let delivered: Vec<usize> = datagrams.iter().map(&mut take).collect();
            assert!(delivered[..20].iter().any(|count| *count > 0), "{delivered:?}");
            assert_eq!(delivered.iter().sum::<usize>(), FRAME_COUNT);
        });
    }

    #[test]
    fn a_lone_datagram_after_a_sleep_ends_the_batch() {
        in_namespace_with_loopback(|| {
            let (_, mut rx) = train_and_receiver();
            for is_drained in [false, true] {
                take_one(&mut rx, b"one", !is_drained);
                assert_eq!(rx.is_drained, is_drained);
            }
        });
    }
}

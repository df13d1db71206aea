//! A worker: one thread that carries frames both ways between its queues of the TAP and one UDP socket.
//!
//! ```text
//!  ask what is there, or sleep until something is ─▶ receive a batch (UDP → TAP) ─▶ send a batch (TAP → UDP)
//!        ▲                                                                                    │
//!        └────────────────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! Asking and sleeping is one system call: it waits only if nothing is there. What is written to the TAP often makes
//! the kernel queue an answer there at once (an ACK, an echo), which the next turn then sends without anybody having been woken
//! up. A wake-up costs more than carrying a frame, on virtual machines many times more; that is also why a worker whose work
//! comes in short intervals asks again for a moment before it sleeps ([`Eagerness`]).
//!
//! INVARIANT: no lock and no allocation per frame; the clock is read twice per turn at most, and for what is received while a send
//! waits.

mod eagerness;
mod fair_share;
mod ready;
mod rx;
mod tx;

use std::{
    io,
    sync::{Arc, atomic::Ordering::Relaxed},
    thread,
    time::Instant,
};

use anyhow::Context;

use self::{eagerness::Eagerness, ready::ReadyQueues, rx::Rx, tx::Tx};
use weaved_core::wire::data::Lane;

use crate::workers::{Shared, WorkerContext};

/// The state of a worker's thread.
pub(crate) struct Worker {
    shared: Arc<Shared>,
    tx: Tx,
    rx: Rx,
    ready: ReadyQueues,
    eagerness: Eagerness,
}

impl Worker {
    /// A worker that seals on this lane, with counters for each direction.
    pub(crate) fn new(shared: Arc<Shared>, lane: Lane, tx: WorkerContext, rx: WorkerContext) -> io::Result<Self> {
        let ready = ReadyQueues::new(&shared)?;
        let (tx, rx) = (Tx::new(shared.clone(), lane, tx), Rx::new(shared.clone(), rx));
        Ok(Self { shared, tx, rx, ready, eagerness: Eagerness::default() })
    }

    /// Works until the stop flag is raised. Fails when the TAP or the socket does.
    pub(crate) fn run(mut self) -> anyhow::Result<()> {
        let (mut now, mut has_moved) = (Instant::now(), false);
        while !self.shared.stop.is_raised() {
            let has_slept = self.wait(has_moved, &mut now).context("cannot wait for frames and datagrams")?;
            has_moved = self.turn(now, has_slept)?;
            now = Instant::now();
        }
        Ok(())
    }

    /// Finds out what is there; tells whether it has slept until then.
    fn wait(&mut self, has_moved: bool, now: &mut Instant) -> io::Result<bool> {
        if has_moved {
            self.eagerness.on_work();
        }
        if self.eagerness.looks_again(*now) {
            if !has_moved {
                // Whoever else wants this core has it first: looking again must not delay those who make the work.
                thread::yield_now();
            }
            self.ready.look()?;
            return Ok(false);
        }
        self.ready.sleep(self.rx.silence_left(*now))?;
        let woken_at = Instant::now();
        let has_slept = self.eagerness.on_woken(woken_at.saturating_duration_since(*now));
        if has_slept {
            self.shared.io_stats.sleeps.fetch_add(1, Relaxed);
        }
        *now = woken_at;
        Ok(has_slept)
    }

    /// Both directions once. Tells whether anything moved.
    fn turn(&mut self, now: Instant, has_slept: bool) -> anyhow::Result<bool> {
        let has_received = if self.ready.has_datagrams() {
            self.rx.batch(now, has_slept)?
        } else {
            self.rx.on_nothing();
            false
        };
        self.rx.watch_silence(has_received, now);
        let has_sent = self.tx.batch(&mut self.ready, now, &mut self.rx)?;
        let has_moved = has_received || has_sent;
        if has_moved {
            self.shared.io_stats.turns.fetch_add(1, Relaxed);
        }
        Ok(has_moved)
    }
}

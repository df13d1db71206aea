//! The pair of workers on one TAP and one socket: what they share, how they start and end.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    thread::JoinHandle,
    time::Duration,
};

use arc_swap::ArcSwap;
use weaved_core::forward::{DropReason, ForwardingTable, WorkerStats};

use crate::{
    inputs::{InputSender, PuntSender},
    privileges,
    rx::Rx,
    shutdown::{Flag, Watch},
    stats::IoStats,
    tap::Tap,
    tx::Tx,
    udp::{SendError, Sending, UdpSocket, Unsent},
};

/// What both workers use.
pub(crate) struct Shared {
    pub(crate) tap: Arc<Tap>,
    pub(crate) socket: Arc<UdpSocket>,
    /// The newest table; a worker loads it once per batch.
    pub(crate) table: Arc<ArcSwap<ForwardingTable>>,
    pub(crate) io_stats: Arc<IoStats>,
    /// Raised when the workers are to end.
    pub(crate) stop: Flag,
}

/// What each worker has for itself.
pub(crate) struct WorkerContext {
    pub(crate) stats: Arc<WorkerStats>,
    pub(crate) punts: PuntSender,
}

/// Counters of the workers. They outlive the workers, so that counters only grow.
#[derive(Clone, Debug, Default)]
pub(crate) struct AllStats {
    pub(crate) tx: Arc<WorkerStats>,
    pub(crate) rx: Arc<WorkerStats>,
    pub(crate) io: Arc<IoStats>,
}

/// Running workers.
pub(crate) struct Workers {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Workers {
    /// Starts both threads, without any capability.
    pub(crate) fn start(
        tap: Arc<Tap>,
        socket: Arc<UdpSocket>,
        table: Arc<ArcSwap<ForwardingTable>>,
        stats: &AllStats,
        inputs: &InputSender,
        watch: &Watch,
    ) -> std::io::Result<Self> {
        let shared = Arc::new(Shared { tap, socket, table, io_stats: stats.io.clone(), stop: Flag::new()? });
        let context =
            |stats: &Arc<WorkerStats>| WorkerContext { stats: stats.clone(), punts: inputs.for_worker(stats.clone()) };
        let tx = Tx::new(shared.clone(), context(&stats.tx));
        let rx = Rx::new(shared.clone(), context(&stats.rx));
        let mut workers = Self { shared, threads: Vec::new() };
        workers.threads.push(watch.spawn("tx", || privileges::drop_all().map_err(Into::into).and_then(|()| tx.run()))?);
        workers.threads.push(watch.spawn("rx", || privileges::drop_all().map_err(Into::into).and_then(|()| rx.run()))?);
        Ok(workers)
    }
}

impl Drop for Workers {
    /// Ends both threads and waits for them: afterwards nobody else holds the TAP and the socket.
    fn drop(&mut self) {
        self.shared.stop.raise();
        for thread in self.threads.drain(..) {
            // A panic in it has been reported by its watch.
            let _ = thread.join();
        }
    }
}

impl Shared {
    /// Sends a run of datagrams, waiting once when the socket is full.
    pub(crate) fn send(&self, sending: Sending<'_>, patience: Duration) -> Result<(), Unsent> {
        match self.socket.send(sending) {
            Err(Unsent { error: SendError::Full, sent_len }) => {
                self.io_stats.udp_waits.fetch_add(1, Relaxed);
                self.socket.wait_writable(patience);
                let again = self.socket.send(Sending { datagrams: &sending.datagrams[sent_len..], ..sending });
                again.map_err(|unsent| Unsent { sent_len: sent_len + unsent.sent_len, ..unsent })
            }
            outcome => outcome,
        }
    }
}

impl SendError {
    /// The counter for datagrams lost to this error.
    pub(crate) fn drop_reason(self) -> DropReason {
        match self {
            Self::TooBig => DropReason::UnderlayTooBig,
            Self::Full => DropReason::UnderlayFull,
            Self::Unreachable | Self::Refused => DropReason::UnderlayUnreachable,
        }
    }
}

//! The worker on the TAP and the socket: what it works on, how it starts and ends.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use weaved_core::forward::{DropReason, ForwardingTable, WorkerStats};

use crate::{
    inputs::{InputSender, PuntSender},
    privileges,
    shutdown::{Flag, Watch},
    stats::IoStats,
    tap::Tap,
    udp::{SendError, Sending, UdpSocket, Unsent, Waited},
    worker::Worker,
};

/// What a worker works on.
pub(crate) struct Shared {
    pub(crate) tap: Arc<Tap>,
    pub(crate) socket: Arc<UdpSocket>,
    /// The newest table; a worker loads it once per batch.
    pub(crate) table: Arc<ArcSwap<ForwardingTable>>,
    pub(crate) io_stats: Arc<IoStats>,
    /// Raised when the workers are to end.
    pub(crate) stop: Flag,
}

/// How long a full socket is waited for before its datagrams are dropped. Meanwhile the TAP's queue fills and drops,
/// which is where senders are to feel it.
const FULL_PATIENCE: Duration = Duration::from_millis(10);

/// What is done while the socket is full, whenever datagrams have arrived; tells whether there were any.
pub(crate) trait Meanwhile: FnMut() -> anyhow::Result<bool> {}

impl<T: FnMut() -> anyhow::Result<bool>> Meanwhile for T {}

/// What each direction of a worker has for itself.
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
    /// Starts the thread, without any capability.
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
        let worker = Worker::new(shared.clone(), context(&stats.tx), context(&stats.rx));
        let mut workers = Self { shared, threads: Vec::new() };
        let run = || privileges::drop_all().map_err(Into::into).and_then(|()| worker.run());
        workers.threads.push(watch.spawn("worker", run)?);
        Ok(workers)
    }
}

impl Drop for Workers {
    /// Ends the thread and waits for it: afterwards nobody else holds the TAP and the socket.
    fn drop(&mut self) {
        self.shared.stop.raise();
        for thread in self.threads.drain(..) {
            // A panic in it has been reported by its watch.
            let _ = thread.join();
        }
    }
}

impl Shared {
    /// Sends a run of datagrams. Waits when the socket is full, and does `meanwhile` whenever datagrams have arrived,
    /// so that a slow way out does not hold up what comes in.
    pub(crate) fn send(
        &self,
        mut sending: Sending<'_>,
        meanwhile: &mut impl Meanwhile,
    ) -> anyhow::Result<Result<(), Unsent>> {
        let mut sent_len = 0;
        let mut deadline = None;
        loop {
            let unsent = match self.socket.send(sending) {
                Ok(()) => return Ok(Ok(())),
                Err(unsent) => unsent,
            };
            sent_len += unsent.sent_len;
            sending.datagrams = &sending.datagrams[unsent.sent_len..];
            let deadline = *deadline.get_or_insert_with(|| Instant::now() + FULL_PATIENCE);
            if unsent.error != SendError::Full || !self.wait_for_room(deadline, meanwhile)? {
                return Ok(Err(Unsent { sent_len, ..unsent }));
            }
        }
    }

    /// Waits until the socket has room; false when it has none in time.
    fn wait_for_room(&self, deadline: Instant, meanwhile: &mut impl Meanwhile) -> anyhow::Result<bool> {
        self.io_stats.udp_waits.fetch_add(1, Relaxed);
        loop {
            match self.socket.wait_for_room(deadline.saturating_duration_since(Instant::now())) {
                Waited::Room => return Ok(true),
                Waited::Datagrams => meanwhile()?,
                Waited::Nothing => return Ok(false),
            };
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

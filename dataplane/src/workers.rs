//! The workers on TAP and port: what each works on, how they start and end.
//!
//! ```text
//! worker i ── its queues of the TAP, socket i of the port, lane i + 1, counters of its own
//! ```
//!
//! INVARIANT: what one worker writes, no other reads or writes on its way of a frame. They share the table, the facts about
//! the TAP and the sessions, in which each lane is written by one of them.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use weaved_api::MAX_WORKERS;
use weaved_core::{
    forward::{DropReason, ForwardingTable, WorkerStats},
    limits::MAX_LANES,
    wire::data::Lane,
};

use crate::{
    cores,
    inputs::{InputSender, PuntSender},
    patience::Patience,
    privileges,
    shutdown::{Flag, Watch},
    stats::IoStats,
    tap::{Tap, TapQueue},
    udp::{SendError, Sending, UdpSocket, Unsent, Waited},
    worker::Worker,
};

const _: () = assert!(lane_count(MAX_WORKERS) as usize == MAX_LANES, "each worker has a lane, and each lane a worker");

/// What both halves of a worker work on.
pub(crate) struct Shared {
    /// At least one. Frames are read from all of them and written to the first.
    pub(crate) queues: Vec<Arc<TapQueue>>,
    /// Receives, and sends unless there is another one for that.
    pub(crate) socket: Arc<UdpSocket>,
    pub(crate) sender: Arc<UdpSocket>,
    /// The newest table; a worker loads it once per batch.
    pub(crate) table: Arc<ArcSwap<ForwardingTable>>,
    pub(crate) io_stats: Arc<IoStats>,
    /// Raised when the workers are to end.
    pub(crate) stop: Arc<Flag>,
}

/// How long a batch waits for a full socket before its datagrams are dropped. Meanwhile the queues of the TAP fill, where a sender
/// fills its own and feels it: what is dropped here is anybody's. The kernel speaks of room when half of the buffer
/// is free, which takes that long at 8 Mbit/s.
pub(crate) const FULL_PATIENCE: Duration = Duration::from_millis(500);

/// What goes on while the socket is full, so that a slow way out does not hold up what comes in.
pub(crate) trait Meanwhile {
    /// Datagrams have arrived, or nothing has for the time that was asked for.
    fn look(&mut self) -> anyhow::Result<()>;

    /// When to look even if nothing arrives; none when there is no need.
    fn time_left(&self) -> Option<Duration>;
}

/// What each direction of a worker has for itself.
pub(crate) struct WorkerContext {
    pub(crate) stats: Arc<WorkerStats>,
    pub(crate) punts: PuntSender,
}

/// Counters of one worker.
#[derive(Clone, Debug)]
pub(crate) struct WorkerCounters {
    pub(crate) tx: Arc<WorkerStats>,
    pub(crate) rx: Arc<WorkerStats>,
    pub(crate) io: Arc<IoStats>,
}

/// Counters of all workers that there can be. They outlive the workers, so that counters only grow.
#[derive(Clone, Debug)]
pub(crate) struct AllStats(Arc<[WorkerCounters; MAX_WORKERS]>);

/// What workers are started with.
pub(crate) struct Equipment<'a> {
    /// With queues for as many workers as there are sockets.
    pub(crate) tap: &'a Tap,
    pub(crate) sockets: &'a [Arc<UdpSocket>],
    /// Those that only send: of the second worker, and the ones after it. The others send by what they receive by.
    pub(crate) senders: &'a [Arc<UdpSocket>],
    pub(crate) table: &'a Arc<ArcSwap<ForwardingTable>>,
    pub(crate) stats: &'a AllStats,
    pub(crate) inputs: &'a InputSender,
    /// The processor of each; none when they run wherever there is room.
    pub(crate) places: Vec<usize>,
}

/// Running workers.
pub(crate) struct Workers {
    stop: Arc<Flag>,
    threads: Vec<JoinHandle<()>>,
}

/// Lanes of a node with so many workers: the router has the first.
pub(crate) const fn lane_count(workers: usize) -> u8 {
    workers as u8 + 1
}

/// The lane that a worker seals on.
const fn lane(worker: usize) -> Lane {
    Lane(worker as u8 + 1)
}

impl Default for AllStats {
    fn default() -> Self {
        let counters = |worker| WorkerCounters {
            tx: Arc::new(WorkerStats::of_worker(worker)),
            rx: Arc::new(WorkerStats::of_worker(worker)),
            io: Arc::default(),
        };
        Self(Arc::new(std::array::from_fn(counters)))
    }
}

impl AllStats {
    /// Those of one worker.
    pub(crate) fn of(&self, worker: usize) -> &WorkerCounters {
        &self.0[worker]
    }

    /// What the core counts, of all workers.
    pub(crate) fn core(&self) -> impl Iterator<Item = Arc<WorkerStats>> {
        self.0.iter().flat_map(|worker| [worker.tx.clone(), worker.rx.clone()])
    }

    /// What the shell counts, of all workers.
    pub(crate) fn io(&self) -> impl Iterator<Item = &IoStats> + Clone {
        self.0.iter().map(|worker| &*worker.io)
    }
}

impl Workers {
    /// Starts a thread for each socket, without any capability.
    pub(crate) fn start(equipment: &Equipment<'_>, watch: &Watch) -> std::io::Result<Self> {
        let Equipment { tap, sockets, senders, table, stats, inputs, places } = equipment;
        debug_assert_eq!(tap.layout().worker_count, sockets.len(), "each worker has both");
        let mut workers = Self { stop: Arc::new(Flag::new()?), threads: Vec::new() };
        for (at, (queues, socket)) in tap.queues_of_workers().zip(*sockets).enumerate() {
            let WorkerCounters { tx, rx, io } = stats.of(at);
            let shared = Arc::new(Shared {
                queues: queues.to_vec(),
                socket: socket.clone(),
                sender: at.checked_sub(1).and_then(|at| senders.get(at)).unwrap_or(socket).clone(),
                table: Arc::clone(table),
                io_stats: io.clone(),
                stop: workers.stop.clone(),
            });
            let context = |stats: &Arc<WorkerStats>| WorkerContext {
                stats: stats.clone(),
                punts: inputs.for_worker(stats.clone()),
            };
            let worker = Worker::new(shared, lane(at), context(tx), context(rx))?;
            let core = places.get(at).copied();
            let run = move || {
                core.into_iter().for_each(cores::run_on);
                privileges::drop_all()?;
                worker.run()
            };
            workers.threads.push(watch.spawn(&format!("worker-{at}"), run)?);
        }
        Ok(workers)
    }
}

impl Drop for Workers {
    /// Ends the threads and waits for them: afterwards nobody else holds the TAP and the sockets.
    fn drop(&mut self) {
        self.stop.raise();
        for thread in self.threads.drain(..) {
            // A panic in it has been reported by its watch.
            let _ = thread.join();
        }
    }
}

impl Shared {
    /// The queue that frames are written to.
    pub(crate) fn tap(&self) -> &TapQueue {
        &self.queues[0]
    }

    /// Sends a run of datagrams. Waits when the socket is full, and looks at what comes in meanwhile.
    pub(crate) fn send(
        &self,
        sending: Sending<'_>,
        patience: &mut Patience,
        meanwhile: &mut impl Meanwhile,
    ) -> anyhow::Result<Result<(), Unsent>> {
        self.sender.send_and_retry(sending, || {
            let Some(deadline) = patience.begin(Instant::now()).filter(|_| !self.stop.is_raised()) else {
                return Ok(false);
            };
            self.io_stats.udp_waits.fetch_add(1, Relaxed);
            let wait = |left| self.sender.wait_for_room(&self.socket, &self.stop, left);
            wait_until(deadline, wait, meanwhile)?;
            // Once more also when the time is over: there may be some room although it is not spoken of.
            Ok(true)
        })
    }
}

/// Waits for room until the deadline, whatever else comes in; false when there is none in time, or the worker is to end.
fn wait_until(
    deadline: Instant,
    mut wait: impl FnMut(Duration) -> Waited,
    meanwhile: &mut impl Meanwhile,
) -> anyhow::Result<bool> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        match wait(meanwhile.time_left().map_or(left, |other| other.min(left))) {
            Waited::Room => return Ok(true),
            Waited::Stopped => return Ok(false),
            Waited::Datagrams | Waited::Nothing => meanwhile.look()?,
        }
    }
}

impl SendError {
    /// The counter for datagrams lost to this error.
    pub(crate) fn drop_reason(self) -> DropReason {
        match self {
            Self::TooBig => DropReason::UnderlayTooBig,
            Self::Full | Self::NoMemory => DropReason::UnderlayFull,
            Self::Unreachable | Self::Refused => DropReason::UnderlayUnreachable,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// What comes in: counts the looks, and wants one after a time.
    #[derive(Default)]
    struct Looks {
        count: u32,
        every: Option<Duration>,
    }

    impl Meanwhile for Looks {
        fn look(&mut self) -> anyhow::Result<()> {
            self.count += 1;
            anyhow::ensure!(self.count < 1_000_000, "it is not given up");
            Ok(())
        }

        fn time_left(&self) -> Option<Duration> {
            self.every
        }
    }

    #[test]
    fn a_socket_that_stays_full_is_given_up_in_time_whatever_comes_in() {
        for says in [Waited::Datagrams, Waited::Nothing] {
            let deadline = Instant::now() + Duration::from_millis(1);
            assert!(!wait_until(deadline, |_| says, &mut Looks::default()).unwrap());
        }
        assert!(!wait_until(Instant::now(), |_| Waited::Room, &mut Looks::default()).unwrap());
    }

    #[test]
    fn who_is_to_end_waits_for_no_room() {
        let mut looks = Looks::default();
        assert!(!wait_until(Instant::now() + FULL_PATIENCE, |_| Waited::Stopped, &mut looks).unwrap());
        assert_eq!(looks.count, 0);
    }

    #[test]
    fn who_waits_for_room_looks_at_a_silence_in_time() {
        const SILENCE: Duration = Duration::from_millis(2);
        let mut looks = Looks { every: Some(SILENCE), ..Looks::default() };
        let mut waits = Vec::new();
        let mut wait = |time| {
            waits.push(time);
            if waits.len() < 4 { Waited::Nothing } else { Waited::Room }
        };
        assert!(wait_until(Instant::now() + FULL_PATIENCE, &mut wait, &mut looks).unwrap());
        assert_eq!((waits, looks.count), (vec![SILENCE; 4], 3));
    }

    #[test]
    fn only_the_router_and_the_first_worker_say_where_a_node_is() {
        let lanes = (0..MAX_WORKERS).map(lane);
        assert!(lanes.enumerate().all(|(worker, lane)| lane.tells_endpoint() == (worker == 0)));
    }

    #[test]
    fn no_two_workers_nor_the_router_have_a_lane_in_common() {
        const ROUTER: Lane = Lane(0);
        for workers in 1..=MAX_WORKERS {
            let lanes: BTreeSet<Lane> = (0..workers).map(lane).chain([ROUTER]).collect();
            assert_eq!(lanes.len(), workers + 1);
            assert!(lanes.iter().all(|lane| lane.0 < lane_count(workers)), "sessions have all of them");
        }
    }
}

//! Counters of the data plane.
//!
//! Each thread has its own [`WorkerStats`], so that an increment never bounces a cache line; the router adds them up
//! when somebody asks.
//!
//! INVARIANT: a [`WorkerStats`], and the share of a [`PeerCounters`] that belongs to it, is written by one thread at a time.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::DropReason;
use crate::limits::MAX_LANES;

/// Events other than drops, counted per thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tally {
    /// Frames read from the TAP.
    TapFramesIn,
    /// Frames opened that are for the TAP.
    TapFramesOut,
    /// Frames flooded to all peers.
    Flooded,
    /// Trains sealed.
    TrainsOut,
    /// Datagrams sealed.
    DatagramsOut,
    /// Datagrams sealed that stand alone, for a lossy path.
    SinglesOut,
    /// Datagrams opened.
    DatagramsIn,
    /// ARP and ND questions answered here.
    NeighboursAnswered,
    /// Handshakes completed.
    Handshakes,
    /// Probes for a longer path MTU that this host's own link does not take.
    ProbesRefused,
    /// Addresses that moved from one port to another.
    MacMoves,
    /// Trials of sends of one datagram, because much was lost.
    GsoTrials,
    /// Peers that get datagram by datagram since then, because what leaves in one send is lost.
    GsoGivenUp,
    /// Peers that get trains in one send again, because they arrive.
    GsoTakenUp,
}

impl Tally {
    /// Every tally, in the order of the counters.
    pub const ALL: &'static [Self] = &[
        Self::TapFramesIn,
        Self::TapFramesOut,
        Self::Flooded,
        Self::TrainsOut,
        Self::DatagramsOut,
        Self::SinglesOut,
        Self::DatagramsIn,
        Self::NeighboursAnswered,
        Self::Handshakes,
        Self::ProbesRefused,
        Self::MacMoves,
        Self::GsoTrials,
        Self::GsoGivenUp,
        Self::GsoTakenUp,
    ];

    /// Stable name and one sentence.
    pub fn describe(self) -> (&'static str, &'static str) {
        match self {
            Self::TapFramesIn => ("tap_frames_in", "Frames read from the TAP (a super-frame counts once)."),
            Self::TapFramesOut => (
                "tap_frames_out",
                "Frames for the TAP (a super-frame counts once); drop_unfair_share and drop_tap_refused count which of them were not written.",
            ),
            Self::Flooded => ("frames_flooded", "Broadcast, unknown and multicast frames sent to all peers."),
            Self::TrainsOut => ("trains_out", "Trains of records sent."),
            Self::DatagramsOut => ("datagrams_out", "Sealed datagrams sent."),
            Self::SinglesOut => {
                ("singles_out", "Sealed datagrams sent that stand alone, for peers behind a lossy path.")
            }
            Self::DatagramsIn => ("datagrams_in", "Sealed datagrams received and authenticated."),
            Self::NeighboursAnswered => ("neighbours_answered", "ARP and ND questions answered locally."),
            Self::Handshakes => ("handshakes", "Handshakes completed."),
            Self::ProbesRefused => (
                "path_probes_refused",
                "Datagrams by which a longer path MTU was tried and that this host's own link does not take.",
            ),
            Self::MacMoves => ("mac_moves", "Learned addresses that appeared behind another port."),
            Self::GsoTrials => (
                "udp_gso_trials",
                "Times much was lost to a host and trains left datagram by datagram, to see if that is better.",
            ),
            Self::GsoGivenUp => (
                "udp_gso_given_up",
                "Times it was: trains to a host leave datagram by datagram, because they are lost otherwise.",
            ),
            Self::GsoTakenUp => {
                ("udp_gso_taken_up", "Times trains to such a host arrived again when they left in one send.")
            }
        }
    }
}

/// A number that one thread adds to and others read.
///
/// NOTE(perf): a load and a store. An addition that is atomic as a whole locks the line, which costs more than counting all
/// of a frame does this way.
#[derive(Debug, Default)]
struct Count(AtomicU64);

impl Count {
    fn add(&self, count: u64) {
        self.0.store(self.get().wrapping_add(count), Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Counters of one thread.
///
/// NOTE(perf): cache lines of their own, because each thread writes its own.
#[derive(Debug)]
#[repr(align(64))]
pub struct WorkerStats {
    /// Which share of the counters of a peer this thread writes.
    share: usize,
    drops: [Count; DropReason::ALL.len()],
    tallies: [Count; Tally::ALL.len()],
}

impl Default for WorkerStats {
    fn default() -> Self {
        Self::of_worker(0)
    }
}

impl WorkerStats {
    /// Those of one direction of the worker with this number.
    pub fn of_worker(worker: usize) -> Self {
        let share = worker % PEER_SHARES;
        Self {
            share,
            drops: std::array::from_fn(|_| Count::default()),
            tallies: std::array::from_fn(|_| Count::default()),
        }
    }

    /// Counts one drop.
    pub fn count_drop(&self, reason: DropReason) {
        self.count_drops(reason, 1);
    }

    /// Counts several drops for one reason.
    pub fn count_drops(&self, reason: DropReason, count: u64) {
        self.drops[reason as usize].add(count);
    }

    /// Counts events.
    pub fn tally(&self, tally: Tally, count: u64) {
        self.tallies[tally as usize].add(count);
    }

    /// How often something was dropped for this reason.
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.drops[reason as usize].get()
    }

    /// How often this happened.
    pub fn tallied(&self, tally: Tally) -> u64 {
        self.tallies[tally as usize].get()
    }
}

/// All counters, added up over the threads, in a fixed order.
pub fn sum<'a>(threads: &(impl Iterator<Item = &'a WorkerStats> + Clone)) -> Vec<weaved_api::Counter> {
    let tallies = Tally::ALL.iter().map(|tally| {
        let (name, help) = tally.describe();
        counter(name, help, threads.clone().map(|stats| stats.tallied(*tally)).sum())
    });
    let drops = DropReason::ALL
        .iter()
        .map(|reason| counter(reason.name(), reason.help(), threads.clone().map(|stats| stats.dropped(*reason)).sum()));
    tallies.chain(drops).collect()
}

fn counter(name: &str, help: &str, value: u64) -> weaved_api::Counter {
    weaved_api::Counter { name: name.to_owned(), help: help.to_owned(), value }
}

/// Shares of the counters of a peer: one for each worker that there can be.
const PEER_SHARES: usize = MAX_LANES - 1;

/// Frames and bytes to and from one peer; written by workers, read by the router.
#[derive(Debug, Default)]
pub struct PeerCounters([PeerShare; PEER_SHARES]);

/// What one worker has counted of a peer.
///
/// NOTE(perf): a cache line of its own, because workers count frames of one peer at the same time.
#[derive(Debug, Default)]
#[repr(align(64))]
struct PeerShare {
    tx_frame_count: Count,
    tx_bytes: Count,
    /// Datagrams that left in runs of several.
    tx_run_count: Count,
    rx_frame_count: Count,
    rx_bytes: Count,
}

/// Frames and bytes, of all workers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerTotals {
    /// Frames sent.
    pub tx_frame_count: u64,
    /// Bytes of those frames.
    pub tx_bytes: u64,
    /// Frames received.
    pub rx_frame_count: u64,
    /// Bytes of those frames.
    pub rx_bytes: u64,
}

impl PeerCounters {
    /// A thread counts a frame on its way to the peer.
    pub fn sent(&self, thread: &WorkerStats, frame_len: usize) {
        let share = &self.0[thread.share];
        share.tx_frame_count.add(1);
        share.tx_bytes.add(frame_len as u64);
    }

    /// A thread counts datagrams on their way to the peer, in one send or one by one: a run of several.
    pub fn sent_run(&self, thread: &WorkerStats, datagram_count: u64) {
        self.0[thread.share].tx_run_count.add(datagram_count);
    }

    /// Datagrams that have left in runs of several, of all workers.
    pub fn run_count(&self) -> u64 {
        self.0.iter().map(|share| share.tx_run_count.get()).sum()
    }

    /// A thread counts a frame from the peer.
    pub fn received(&self, thread: &WorkerStats, frame_len: usize) {
        let share = &self.0[thread.share];
        share.rx_frame_count.add(1);
        share.rx_bytes.add(frame_len as u64);
    }

    /// What all of them have counted.
    pub fn totals(&self) -> PeerTotals {
        let sum = |counter: fn(&PeerShare) -> &Count| self.0.iter().map(|share| counter(share).get()).sum();
        PeerTotals {
            tx_frame_count: sum(|share| &share.tx_frame_count),
            tx_bytes: sum(|share| &share.tx_bytes),
            rx_frame_count: sum(|share| &share.rx_frame_count),
            rx_bytes: sum(|share| &share.rx_bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tallies_are_listed_in_the_order_of_their_counters() {
        for (at, tally) in Tally::ALL.iter().enumerate() {
            assert_eq!(*tally as usize, at);
        }
    }

    #[test]
    fn counters_of_all_threads_are_added_up() {
        let threads = [WorkerStats::default(), WorkerStats::default()];
        threads[0].count_drop(DropReason::Forged);
        threads[1].count_drops(DropReason::Forged, 2);
        let counters = sum(&threads.iter());
        assert_eq!(counters.iter().find(|counter| counter.name == "drop_forged").unwrap().value, 3);
    }

    #[test]
    fn frames_of_a_peer_are_added_up_over_the_workers() {
        let counters = PeerCounters::default();
        for worker in [0, 1, PEER_SHARES - 1] {
            let thread = WorkerStats::of_worker(worker);
            counters.sent(&thread, 100);
            counters.received(&thread, 10);
        }
        let expected = PeerTotals { tx_frame_count: 3, tx_bytes: 300, rx_frame_count: 3, rx_bytes: 30 };
        assert_eq!(counters.totals(), expected);
    }
}

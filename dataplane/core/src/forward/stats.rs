//! Counters of the data plane.
//!
//! Each thread has its own [`WorkerStats`], so that an increment never bounces a cache line; the router adds them up
//! when somebody asks.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::DropReason;

/// Events other than drops, counted per thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tally {
    /// Frames read from the TAP.
    TapFramesIn,
    /// Frames written to the TAP.
    TapFramesOut,
    /// Frames flooded to all peers.
    Flooded,
    /// Trains sealed.
    TrainsOut,
    /// Trains received whole.
    TrainsIn,
    /// Datagrams sealed.
    DatagramsOut,
    /// Datagrams opened.
    DatagramsIn,
    /// ARP and ND questions answered here.
    NeighboursAnswered,
    /// Handshakes completed.
    Handshakes,
    /// Addresses that moved from one port to another.
    MacMoves,
}

impl Tally {
    /// Every tally, in the order of the counters.
    pub const ALL: &'static [Self] = &[
        Self::TapFramesIn,
        Self::TapFramesOut,
        Self::Flooded,
        Self::TrainsOut,
        Self::TrainsIn,
        Self::DatagramsOut,
        Self::DatagramsIn,
        Self::NeighboursAnswered,
        Self::Handshakes,
        Self::MacMoves,
    ];

    /// Stable name and one sentence.
    pub fn describe(self) -> (&'static str, &'static str) {
        match self {
            Self::TapFramesIn => ("tap_frames_in", "Frames read from the TAP (a super-frame counts once)."),
            Self::TapFramesOut => ("tap_frames_out", "Frames written to the TAP (a super-frame counts once)."),
            Self::Flooded => ("frames_flooded", "Broadcast, unknown and multicast frames sent to all peers."),
            Self::TrainsOut => ("trains_out", "Trains of records sent."),
            Self::TrainsIn => ("trains_in", "Trains of records received whole."),
            Self::DatagramsOut => ("datagrams_out", "Sealed datagrams sent."),
            Self::DatagramsIn => ("datagrams_in", "Sealed datagrams received and authenticated."),
            Self::NeighboursAnswered => ("neighbours_answered", "ARP and ND questions answered locally."),
            Self::Handshakes => ("handshakes", "Handshakes completed."),
            Self::MacMoves => ("mac_moves", "Learned addresses that appeared behind another port."),
        }
    }
}

/// Counters of one thread.
#[derive(Debug)]
pub struct WorkerStats {
    drops: [AtomicU64; DropReason::ALL.len()],
    tallies: [AtomicU64; Tally::ALL.len()],
}

impl Default for WorkerStats {
    fn default() -> Self {
        Self { drops: std::array::from_fn(|_| AtomicU64::new(0)), tallies: std::array::from_fn(|_| AtomicU64::new(0)) }
    }
}

impl WorkerStats {
    /// Counts one drop.
    pub fn count_drop(&self, reason: DropReason) {
        self.count_drops(reason, 1);
    }

    /// Counts several drops for one reason.
    pub fn count_drops(&self, reason: DropReason, count: u64) {
        self.drops[reason as usize].fetch_add(count, Relaxed);
    }

    /// Counts events.
    pub fn tally(&self, tally: Tally, count: u64) {
        self.tallies[tally as usize].fetch_add(count, Relaxed);
    }

    /// How often something was dropped for this reason.
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.drops[reason as usize].load(Relaxed)
    }

    /// How often this happened.
    pub fn tallied(&self, tally: Tally) -> u64 {
        self.tallies[tally as usize].load(Relaxed)
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

/// Frames and bytes to and from one peer; written by workers, read by the router.
#[derive(Debug, Default)]
pub struct PeerCounters {
    /// Frames sent.
    pub tx_frame_count: AtomicU64,
    /// Bytes of those frames.
    pub tx_bytes: AtomicU64,
    /// Frames received.
    pub rx_frame_count: AtomicU64,
    /// Bytes of those frames.
    pub rx_bytes: AtomicU64,
}

impl PeerCounters {
    /// Counts a frame on its way to the peer.
    pub fn sent(&self, frame_len: usize) {
        self.tx_frame_count.fetch_add(1, Relaxed);
        self.tx_bytes.fetch_add(frame_len as u64, Relaxed);
    }

    /// Counts a frame from the peer.
    pub fn received(&self, frame_len: usize) {
        self.rx_frame_count.fetch_add(1, Relaxed);
        self.rx_bytes.fetch_add(frame_len as u64, Relaxed);
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
}

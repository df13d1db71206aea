//! What the shell counts besides the core's counters: the events of the kernel's interfaces.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use weaved_api::Counter;

/// Counters of the shell for one worker.
///
/// NOTE(perf): cache lines of its own, because each worker writes its own.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(crate) struct IoStats {
    /// Turns of the worker that moved something.
    pub(crate) turns: AtomicU64,
    /// Times the worker went to sleep.
    pub(crate) sleeps: AtomicU64,
    /// Receives that did not fit the buffer.
    pub(crate) udp_truncated: AtomicU64,
    /// Frames that were marked as congested because many waited behind them.
    pub(crate) backlog_marked: AtomicU64,
    /// Frames that the kernel dropped because the TAP's queue was full.
    pub(crate) tap_queue_full: AtomicU64,
    /// Times the TAP began to refuse super-frames, and to take them again.
    pub(crate) tap_gso_refused: AtomicU64,
    pub(crate) tap_gso_returned: AtomicU64,
    /// Super-frames that were segmented here.
    pub(crate) tap_segmented: AtomicU64,
    /// Times a destination began to refuse trains, and to take them again.
    pub(crate) udp_gso_refused: AtomicU64,
    pub(crate) udp_gso_returned: AtomicU64,
    /// Times the kernel began to refuse long trains, and to take them again.
    pub(crate) udp_gso_shrunk: AtomicU64,
    pub(crate) udp_gso_grown: AtomicU64,
    /// Trains that left datagram by datagram.
    pub(crate) udp_unsegmented: AtomicU64,
    /// Sends that had to wait for room.
    pub(crate) udp_waits: AtomicU64,
}

impl IoStats {
    /// All of them, added up over the workers, in a fixed order.
    pub(crate) fn sum<'a>(workers: &(impl Iterator<Item = &'a Self> + Clone)) -> Vec<Counter> {
        let counter = |name: &str, help: &str, value: fn(&Self) -> &AtomicU64| Counter {
            name: name.to_owned(),
            help: help.to_owned(),
            value: workers.clone().map(|stats| value(stats).load(Relaxed)).sum(),
        };
        vec![
            counter("worker_turns", "Turns of the workers that moved frames.", |stats| &stats.turns),
            counter("worker_sleeps", "Times a worker had nothing to do and slept.", |stats| &stats.sleeps),
            counter("udp_waits", "Sends that had to wait for room in the socket.", |stats| &stats.udp_waits),
            counter(
                "backlog_marked",
                "Frames of containers marked as congested, because they came faster than they could be sent for a while.",
                |stats| &stats.backlog_marked,
            ),
            counter(
                "drop_tap_queue_full",
                "Frames of containers that the kernel dropped because they came faster than they were read.",
                |stats| &stats.tap_queue_full,
            ),
            counter("tap_gso_refused", "Times the TAP began to refuse super-frames.", |stats| &stats.tap_gso_refused),
            counter("tap_gso_returned", "Times the TAP took super-frames again.", |stats| &stats.tap_gso_returned),
            counter("tap_segmented", "Super-frames cut into segments before they were written.", |stats| {
                &stats.tap_segmented
            }),
            counter("udp_gso_refused", "Times a host could not be sent trains in one send.", |stats| {
                &stats.udp_gso_refused
            }),
            counter("udp_gso_returned", "Times a host could be sent trains in one send again.", |stats| {
                &stats.udp_gso_returned
            }),
            counter("udp_gso_shrunk", "Times the kernel began to refuse long trains.", |stats| &stats.udp_gso_shrunk),
            counter("udp_gso_grown", "Times the kernel took long trains again.", |stats| &stats.udp_gso_grown),
            counter("udp_unsegmented", "Trains sent datagram by datagram.", |stats| &stats.udp_unsegmented),
            counter("drop_udp_truncated", "Datagrams longer than any we send.", |stats| &stats.udp_truncated),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_of_all_workers_are_added_up() {
        let workers = [IoStats::default(), IoStats::default()];
        workers[0].sleeps.fetch_add(2, Relaxed);
        workers[1].sleeps.fetch_add(3, Relaxed);
        let counters = IoStats::sum(&workers.iter());
        assert_eq!(counters.iter().find(|counter| counter.name == "worker_sleeps").unwrap().value, 5);
    }
}

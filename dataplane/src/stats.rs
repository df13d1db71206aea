//! What the shell counts besides the core's counters: the events of the kernel's interfaces.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use weaved_api::Counter;

/// Counters of the shell; any thread adds to them.
#[derive(Debug, Default)]
pub(crate) struct IoStats {
    /// Turns of the worker that moved something.
    pub(crate) turns: AtomicU64,
    /// Times the worker went to sleep.
    pub(crate) sleeps: AtomicU64,
    /// Receives that did not fit the buffer.
    pub(crate) udp_truncated: AtomicU64,
    /// Datagrams that the kernel dropped because the socket was full.
    pub(crate) udp_overflow: AtomicU64,
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
    /// All of them, in a fixed order.
    pub(crate) fn counters(&self) -> Vec<Counter> {
        let counter = |name: &str, help: &str, value: &AtomicU64| Counter {
            name: name.to_owned(),
            help: help.to_owned(),
            value: value.load(Relaxed),
        };
        vec![
            counter("worker_turns", "Turns of the worker that moved frames.", &self.turns),
            counter("worker_sleeps", "Times the worker had nothing to do and slept.", &self.sleeps),
            counter("udp_waits", "Sends that had to wait for room in the socket.", &self.udp_waits),
            counter(
                "backlog_marked",
                "Frames of containers marked as congested, because they came faster than they could be sent for a while.",
                &self.backlog_marked,
            ),
            counter(
                "drop_tap_queue_full",
                "Frames of containers that the kernel dropped because they came faster than they were read.",
                &self.tap_queue_full,
            ),
            counter("tap_gso_refused", "Times the TAP began to refuse super-frames.", &self.tap_gso_refused),
            counter("tap_gso_returned", "Times the TAP took super-frames again.", &self.tap_gso_returned),
            counter("tap_segmented", "Super-frames cut into segments before they were written.", &self.tap_segmented),
            counter("udp_gso_refused", "Times a host could not be sent trains in one send.", &self.udp_gso_refused),
            counter("udp_gso_returned", "Times a host could be sent trains in one send again.", &self.udp_gso_returned),
            counter("udp_gso_shrunk", "Times the kernel began to refuse long trains.", &self.udp_gso_shrunk),
            counter("udp_gso_grown", "Times the kernel took long trains again.", &self.udp_gso_grown),
            counter("udp_unsegmented", "Trains sent datagram by datagram.", &self.udp_unsegmented),
            counter("drop_udp_truncated", "Datagrams longer than any we send.", &self.udp_truncated),
            counter(
                "drop_udp_overflow",
                "Datagrams lost because they came faster than they were read.",
                &self.udp_overflow,
            ),
        ]
    }
}

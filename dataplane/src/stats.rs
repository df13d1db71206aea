//! What the shell counts besides the core's counters: the events of the kernel's interfaces.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use weaved_api::Counter;

/// Counters of the shell; any thread adds to them.
#[derive(Debug, Default)]
pub(crate) struct IoStats {
    /// Wake-ups of the sending thread.
    pub(crate) tx_batches: AtomicU64,
    /// Wake-ups of the receiving thread.
    pub(crate) rx_batches: AtomicU64,
    /// Receives that did not fit the buffer.
    pub(crate) udp_truncated: AtomicU64,
    /// Datagrams that the kernel dropped because the socket was full.
    pub(crate) udp_overflow: AtomicU64,
    /// Super-frames that the TAP refused.
    pub(crate) tap_gso_refused: AtomicU64,
    /// Super-frames that were segmented here.
    pub(crate) tap_segmented: AtomicU64,
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
            counter("tx_batches", "Times the sending thread woke up.", &self.tx_batches),
            counter("rx_batches", "Times the receiving thread woke up.", &self.rx_batches),
            counter("udp_waits", "Sends that had to wait for room in the socket.", &self.udp_waits),
            counter("tap_gso_refused", "Super-frames that the kernel refused to take whole.", &self.tap_gso_refused),
            counter("tap_segmented", "Super-frames cut into segments before they were written.", &self.tap_segmented),
            counter("drop_udp_truncated", "Datagrams longer than any we send.", &self.udp_truncated),
            counter(
                "drop_udp_overflow",
                "Datagrams lost because they came faster than they were read.",
                &self.udp_overflow,
            ),
        ]
    }
}

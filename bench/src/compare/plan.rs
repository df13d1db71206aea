//! How long and how often things are measured.

use std::time::Duration;

/// Durations and counts of a run, after `--smoke` has had its say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    /// Turns of each side.
    pub(super) pair_count: u32,
    /// One TCP or HTTP measurement, or one flood.
    pub(super) time: Duration,
    /// End of a TCP measurement other than by time.
    pub(super) tcp_end: TcpEnd,
    /// One try of a datagram rate.
    pub(super) probe_time: Duration,
    pub(super) ping_count: u32,
    /// Keep-alive connections of the HTTP client.
    pub(super) connection_count: u32,
    pub(super) kill_count: u32,
    /// Silent peers of the data plane whose memory is measured.
    pub(super) silent_peer_count: u32,
    /// Connected peers of the data plane whose idle CPU time is measured.
    pub(super) idle_peer_count: u8,
    /// How long a data plane is left alone before it is looked at.
    pub(super) settle_time: Duration,
    /// How long its CPU time is looked at.
    pub(super) idle_time: Duration,
}

/// When a TCP measurement is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TcpEnd {
    /// After its time, and a second more that does not count.
    Time,
    /// When a few bytes have been sent. Measures nothing.
    Soon,
}

impl Plan {
    /// The usual one.
    pub(super) fn new(pair_count: u32, time: Duration) -> Self {
        Self {
            pair_count,
            time,
            tcp_end: TcpEnd::Time,
            probe_time: Duration::from_millis(300),
            ping_count: 1000,
            connection_count: 16,
            kill_count: 5,
            silent_peer_count: 1000,
            idle_peer_count: 50,
            settle_time: Duration::from_secs(20),
            idle_time: Duration::from_secs(30),
        }
    }

    /// Everything once and short: figures of it mean nothing.
    pub(super) fn smoke() -> Self {
        Self {
            tcp_end: TcpEnd::Soon,
            probe_time: Duration::from_millis(20),
            ping_count: 50,
            connection_count: 2,
            kill_count: 1,
            silent_peer_count: 50,
            idle_peer_count: 2,
            settle_time: Duration::from_millis(500),
            idle_time: Duration::from_millis(500),
            ..Self::new(1, Duration::from_millis(200))
        }
    }
}

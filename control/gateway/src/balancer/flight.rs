//! One request in flight at one backend: counted from the attempt to the last byte of the answer, written down at its end.

use std::{sync::Arc, time::Instant};

use super::{
    access_log::{Entry, LogQueue},
    backend::Backend,
    connection::Active,
    counters::BalancerCounters,
    group::{ColourCounts, Group},
    pool::{Pool, Upstream},
};

/// What is held while it flies.
#[derive(Debug)]
pub(super) struct Flight {
    place: Place,
    pool: Arc<Pool>,
    /// None when it was given back or is of no use.
    upstream: Option<Upstream>,
    log: Option<Log>,
    /// The client's connection is not idle.
    _active: Active,
}

/// A place at a backend, counted there and with its colour.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) backend: Arc<Backend>,
    counts: Arc<ColourCounts>,
}

/// A line that is written when all is over.
#[derive(Debug)]
pub(super) struct Log {
    pub(super) queue: Arc<LogQueue>,
    pub(super) entry: Box<Entry>,
    pub(super) counters: Arc<BalancerCounters>,
}

impl Place {
    pub(super) fn take(group: &Group, backend: &Arc<Backend>) -> Self {
        backend.begin();
        group.counts.in_flight.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Self { backend: Arc::clone(backend), counts: Arc::clone(&group.counts) }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.backend.end();
        self.counts.in_flight.fetch_sub(1, std::sync::atomic::Ordering::Relaxed);
    }
}

impl Log {
    pub(super) fn write(mut self, started: Instant) {
        self.entry.took = started.elapsed();
        if !self.queue.write(*self.entry) {
            self.counters.log_dropped.add();
        }
    }
}

impl Flight {
    pub(super) fn new(place: Place, pool: Arc<Pool>, upstream: Upstream, log: Option<Log>, active: Active) -> Self {
        Self { place, pool, upstream: Some(upstream), log, _active: active }
    }

    pub(super) fn on_bytes(&mut self, count: usize) {
        if let Some(log) = &mut self.log {
            log.entry.bytes += count as u64;
        }
    }

    /// The answer has ended as it should.
    pub(super) fn finish(&mut self) {
        if let Some(upstream) = self.upstream.take() {
            self.pool.give_back(&self.place.backend, upstream, Instant::now());
        }
    }

    /// The backend has stopped in the middle.
    pub(super) fn on_broken(&mut self) {
        self.upstream = None;
        if let Some(log) = &mut self.log {
            log.entry.is_broken = true;
        }
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        if let Some(log) = self.log.take() {
            let started = log.entry.started;
            log.write(started);
        }
    }
}

//! One request in flight at one backend: counted from the attempt to the last byte of the answer, written down at its end.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};

use hyper::HeaderMap;

use super::{
    access_log::{Entry, LogQueue},
    backend::Backend,
    connection::{Active, Client},
    counters::BalancerCounters,
    group::{ColourCounts, Group},
    headers::is_grpc_failure,
    line::Flow,
    pool::Upstream,
};

/// The status in the log when there is no answer because the client has left. No answer has it; other servers write the same.
const CLIENT_LEFT: u16 = 499;

/// What is held while it flies.
#[derive(Debug)]
pub(super) struct Flight {
    place: Place,
    client: Arc<Client>,
    /// None when it was given back or is of no use.
    upstream: Option<Upstream>,
    /// As long as the answer comes.
    flow: Option<Flow>,
    log: Option<Log>,
    /// True when it is counted as a failure of its colour.
    has_failed: bool,
    /// The client's connection is not idle.
    _active: Active,
}

/// A place at a backend, counted there and with its colour: there among its requests, or among its streams.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) backend: Arc<Backend>,
    pub(super) counts: Arc<ColourCounts>,
    is_stream: bool,
    waits_long: bool,
}

/// A line that is written when all is over, which is when this is dropped.
#[derive(Debug)]
pub(super) struct Log {
    queue: Arc<LogQueue>,
    /// There until then.
    entry: Option<Box<Entry>>,
    counters: Arc<BalancerCounters>,
}

impl Place {
    /// For a request, until [`Self::becomes_stream`].
    pub(super) fn take(group: &Group, backend: &Arc<Backend>) -> Self {
        backend.begin();
        group.counts.in_flight.fetch_add(1, Relaxed);
        Self { backend: Arc::clone(backend), counts: Arc::clone(&group.counts), is_stream: false, waits_long: false }
    }

    /// Its request has waited for long for an answer, and is counted so until [`Self::waits_no_longer`].
    pub(super) fn waits_long(&mut self) {
        if !std::mem::replace(&mut self.waits_long, true) {
            self.counts.waiting.fetch_add(1, Relaxed);
        }
    }

    /// It is answered, given up, or is not waited for any more.
    pub(super) fn waits_no_longer(&mut self) {
        if std::mem::replace(&mut self.waits_long, false) {
            self.counts.waiting.fetch_sub(1, Relaxed);
        }
    }

    /// What it is held for is a stream from now on. It is never counted in neither.
    pub(super) fn becomes_stream(&mut self) {
        if !self.is_stream {
            self.counts.streams.fetch_add(1, Relaxed);
            self.counts.in_flight.fetch_sub(1, Relaxed);
            self.is_stream = true;
        }
    }

    fn counter(&self) -> &AtomicU64 {
        if self.is_stream { &self.counts.streams } else { &self.counts.in_flight }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.backend.end();
        self.waits_no_longer();
        self.counter().fetch_sub(1, Relaxed);
    }
}

impl Log {
    pub(super) fn new(queue: Arc<LogQueue>, entry: Entry, counters: Arc<BalancerCounters>) -> Self {
        Self { queue, entry: Some(Box::new(entry)), counters }
    }

    pub(super) fn entry(&mut self) -> &mut Entry {
        self.entry.as_mut().expect("it is taken when this is dropped")
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        let Some(mut entry) = self.entry.take() else { return };
        if entry.status == 0 {
            entry.status = CLIENT_LEFT;
        }
        entry.took = entry.started.elapsed();
        if !self.queue.write(*entry) {
            self.counters.log_dropped.add();
        }
    }
}

impl Flight {
    pub(super) fn new(
        place: Place,
        client: Arc<Client>,
        upstream: Upstream,
        log: Option<Log>,
        has_failed: bool,
        active: Active,
    ) -> Self {
        let flow = Some(upstream.flow());
        Self { place, client, upstream: Some(upstream), flow, log, has_failed, _active: active }
    }

    pub(super) fn on_bytes(&mut self, count: usize) {
        if let Some(log) = &mut self.log {
            log.entry().bytes += count as u64;
        }
    }

    /// The answer has ended as it should.
    pub(super) fn finish(&mut self) {
        self.flow = None;
        if let Some(upstream) = self.upstream.take() {
            self.client.worker.pool.give_back(&self.place.backend, upstream, Instant::now());
        }
    }

    /// What comes behind the body says that it has failed.
    pub(super) fn on_trailers(&mut self, trailers: &HeaderMap) {
        if is_grpc_failure(trailers) {
            self.fail();
        }
    }

    fn fail(&mut self) {
        if !std::mem::replace(&mut self.has_failed, true) {
            self.place.counts.on_late_failure();
        }
    }

    /// The backend does not go on with its answer, and is not waited for any more.
    pub(super) fn on_stalled(&mut self) {
        self.client.worker.counters.answers_stalled.add();
        if let Some(upstream) = &self.upstream {
            upstream.doubt();
        }
        self.on_broken();
    }

    /// The backend has stopped in the middle.
    pub(super) fn on_broken(&mut self) {
        self.upstream = None;
        self.fail();
    }
}

impl Drop for Flight {
    /// Whoever has ended it, its backend or its client: without its end it is broken.
    fn drop(&mut self) {
        if self.flow.is_some()
            && let Some(log) = &mut self.log
        {
            log.entry().is_broken = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balancer::backend::sample;

    #[test]
    fn a_request_that_becomes_a_stream_is_counted_there_and_no_longer_among_requests() {
        let backend = sample(1);
        let group = Group::new(Arc::default(), vec![(Arc::clone(&backend), 1)]);
        let counted = || {
            let report = group.counts.report(1);
            (report.in_flight, report.streams, backend.in_flight())
        };
        let request = Place::take(&group, &backend);
        let mut stream = Place::take(&group, &backend);
        assert_eq!(counted(), (2, 0, 2));
        stream.becomes_stream();
        assert_eq!(counted(), (1, 1, 2));
        drop(request);
        assert_eq!(counted(), (0, 1, 1));
        drop(stream);
        assert_eq!(counted(), (0, 0, 0));
    }
}

//! One instance of a service as the balancer sees it: what it has to do, and whether its clients are served.
//!
//! Active checks are the catalogue's and decide who is a backend at all. What is decided here is passive: one that fails so many
//! requests in a row is left out for a while ([`Ejection`]), twice as long each time, and tried again.
//!
//! A drain ends requests without an answer first; answers that flow by then are ended like streams.
//!
//! INVARIANT: a backend keeps its counts for as long as control names it under the same address, whatever else changes.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};

use tokio::task::AbortHandle;
use weaved_api::balancer::{Ejection, ProxyVersion};

use super::{clock::Until, limits::OWN_FOR, line::Line};

/// How much longer than the first time a backend may be left out.
const MAX_EJECTION_FACTOR: u32 = 10;

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// What makes a backend another one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct BackendKey {
    pub(super) service: String,
    pub(super) host: String,
    pub(super) instance: String,
    pub(super) address: SocketAddr,
    pub(super) is_http2: bool,
    pub(super) send_proxy: Option<ProxyVersion>,
}

/// One instance.
#[derive(Debug)]
pub(super) struct Backend {
    /// Unique in this process.
    pub(super) id: u64,
    pub(super) key: BackendKey,
    /// What a client's cookie names it by: the same on each host and after a restart.
    pub(super) mark: u64,
    in_flight: AtomicU32,
    failures: AtomicU32,
    /// In a row: a request that succeeds ends the row.
    ejections: AtomicU32,
    ejected_until: Until,
    keeps_idle: AtomicBool,
    is_down: AtomicBool,
    is_gone: AtomicBool,
    own_until: Until,
    connections: Mutex<Tasks>,
    streams: Mutex<Tasks>,
}

type Tasks = HashMap<u64, Task>;

/// Carries a connection with requests, or a stream.
#[derive(Debug)]
struct Task {
    since: Instant,
    handle: AbortHandle,
    /// None for a stream.
    line: Option<Arc<Line>>,
}

impl Task {
    fn new(handle: AbortHandle, line: Option<Arc<Line>>) -> Self {
        Self { since: Instant::now(), handle, line }
    }

    fn end(&self) {
        self.handle.abort();
        if let Some(line) = &self.line {
            line.end();
        }
    }
}

impl Backend {
    pub(super) fn new(key: BackendKey) -> Self {
        let mark = mark(&key);
        Self {
            id: NEXT_ID.fetch_add(1, Relaxed),
            key,
            mark,
            in_flight: AtomicU32::new(0),
            failures: AtomicU32::new(0),
            ejections: AtomicU32::new(0),
            ejected_until: Until::default(),
            keeps_idle: AtomicBool::new(true),
            is_down: AtomicBool::new(false),
            is_gone: AtomicBool::new(false),
            own_until: Until::default(),
            connections: Mutex::default(),
            streams: Mutex::default(),
        }
    }

    pub(super) fn in_flight(&self) -> u32 {
        self.in_flight.load(Relaxed)
    }

    pub(super) fn begin(&self) {
        self.in_flight.fetch_add(1, Relaxed);
    }

    pub(super) fn end(&self) {
        self.in_flight.fetch_sub(1, Relaxed);
    }

    pub(super) fn is_ejected(&self, now: Instant) -> bool {
        self.ejected_until.is_ahead(now)
    }

    pub(super) fn on_success(&self) {
        // A store each time would move the cache line between the cores.
        if self.failures.load(Relaxed) != 0 {
            self.failures.store(0, Relaxed);
            self.ejections.store(0, Relaxed);
        }
    }

    /// True if it should be left out: it has failed too often in a row.
    pub(super) fn on_failure(&self, rule: Ejection) -> bool {
        let failures = self.failures.fetch_add(1, Relaxed).saturating_add(1);
        rule.failures != 0 && failures.is_multiple_of(rule.failures)
    }

    /// Leaves it out from now on.
    pub(super) fn eject(&self, rule: Ejection, now: Instant) {
        let times = self.ejections.fetch_add(1, Relaxed).min(MAX_EJECTION_FACTOR);
        let factor = 2_u32.saturating_pow(times).min(MAX_EJECTION_FACTOR);
        let until = now + rule.duration.saturating_mul(factor);
        self.ejected_until.set(until);
    }

    /// Whether connections to it are kept when they have nothing to do.
    pub(super) fn keeps_idle(&self) -> bool {
        self.keeps_idle.load(Relaxed)
    }

    pub(super) fn set_keeps_idle(&self, keeps_idle: bool) {
        self.keeps_idle.store(keeps_idle, Relaxed);
    }

    /// True if a connection to it has come out at a listener of this very balancer a short time ago.
    pub(super) fn is_own(&self, now: Instant) -> bool {
        self.own_until.is_ahead(now)
    }

    /// A connection to it has come out at a listener of this very balancer.
    pub(super) fn on_own(&self, now: Instant) {
        self.own_until.set(now + OWN_FOR);
    }

    /// True while its host is down: an answer is hardly to be expected.
    pub(super) fn is_down(&self) -> bool {
        self.is_down.load(Relaxed)
    }

    /// Takes notice of whether its host is down. True if it has gone down: then what is there is to be ended, as soon as all that are down
    /// are known to be.
    pub(super) fn set_down(&self, is_down: bool) -> bool {
        !self.is_down.swap(is_down, Relaxed) && is_down
    }

    /// Ends all connections with requests. How many there were.
    pub(super) fn end_connections(&self) -> usize {
        cut(&self.connections, None)
    }

    /// Takes notice of whether its host is gone for certain. When it is, the streams there end. How many there were.
    pub(super) fn set_gone(&self, is_gone: bool) -> usize {
        let was_gone = self.is_gone.swap(is_gone, Relaxed);
        if is_gone && !was_gone { cut(&self.streams, None) } else { 0 }
    }

    /// Remembers a task that carries a connection with requests, so that it can be ended.
    pub(super) fn on_connection(&self, id: u64, task: AbortHandle, line: Arc<Line>) {
        remember(&self.connections, &self.is_down, id, Task::new(task, Some(line)));
    }

    pub(super) fn on_connection_end(&self, id: u64) {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
    }

    /// The same for a stream.
    pub(super) fn on_stream(&self, id: u64, task: AbortHandle) {
        remember(&self.streams, &self.is_gone, id, Task::new(task, None));
    }

    pub(super) fn on_stream_end(&self, id: u64) {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
    }

    /// Ends the requests without an answer on connections that were there at this time; also the connections, unless other answers
    /// flow there. How many connections have ended.
    pub(super) fn cut_requests(&self, at: Instant) -> usize {
        let mut connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        let due = |task: &Task| task.since <= at;
        for line in connections.values().filter(|task| due(task)).filter_map(|task| task.line.as_ref()) {
            line.cut();
        }
        let is_flowing = |task: &Task| task.line.as_ref().is_some_and(|line| line.is_flowing());
        let ended = connections.extract_if(|_, task| due(task) && !is_flowing(task));
        ended.map(|(_, task)| task.end()).count()
    }

    /// Ends the connections that were there at this time, whatever flows there. How many there were.
    pub(super) fn cut_answers(&self, at: Instant) -> usize {
        cut(&self.connections, Some(at))
    }

    /// The same for streams.
    pub(super) fn cut_streams(&self, at: Instant) -> usize {
        cut(&self.streams, Some(at))
    }
}

fn remember(tasks: &Mutex<Tasks>, must_end: &AtomicBool, id: u64, task: Task) {
    let mut tasks = tasks.lock().unwrap_or_else(PoisonError::into_inner);
    // Looked at under the lock: one that comes late is not missed by who raises the flag and then ends what is remembered.
    if must_end.load(Relaxed) {
        task.end();
    } else {
        tasks.insert(id, task);
    }
}

/// Those from before a time, or all.
fn cut(tasks: &Mutex<Tasks>, before: Option<Instant>) -> usize {
    let mut tasks = tasks.lock().unwrap_or_else(PoisonError::into_inner);
    let cut = tasks.extract_if(|_, task| before.is_none_or(|before| task.since <= before));
    cut.map(|(_, task)| task.end()).count()
}

/// FNV-1a: small, and the same everywhere, which the standard library's hash does not promise.
pub(super) fn hash(bytes: impl IntoIterator<Item = u8>) -> u64 {
    bytes.into_iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

fn mark(key: &BackendKey) -> u64 {
    let address = key.address.to_string();
    let parts = [&key.service, "\0", &key.host, "\0", &key.instance, "\0", &address];
    hash(parts.iter().flat_map(|part| part.bytes()))
}

/// One of many, for tests: number 1 is `web1` at 10.32.0.1.
#[cfg(test)]
pub(super) fn sample(number: u8) -> Arc<Backend> {
    Arc::new(Backend::new(BackendKey {
        service: "web".into(),
        host: "a".into(),
        instance: format!("web{number}"),
        address: std::net::SocketAddr::from(([10, 32, 0, number], 80)),
        is_http2: false,
        send_proxy: None,
    }))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn backend() -> Arc<Backend> {
        sample(2)
    }

    const RULE: Ejection = Ejection { failures: 2, duration: Duration::from_secs(1), max_percent: 50 };

    #[test]
    fn failures_in_a_row_eject_and_a_success_between_them_does_not() {
        let backend = backend();
        assert!(!backend.on_failure(RULE));
        backend.on_success();
        assert!(!backend.on_failure(RULE));
        assert!(backend.on_failure(RULE));
        assert!(!backend.on_failure(Ejection { failures: 0, ..RULE }));
    }

    #[test]
    fn each_ejection_is_twice_as_long_as_the_one_before_up_to_a_limit() {
        let (backend, now) = (backend(), Instant::now());
        for seconds in [1, 2, 4, 8, 10, 10] {
            backend.eject(RULE, now);
            assert!(backend.is_ejected(now + Duration::from_millis(seconds * 1000 - 10)), "{seconds}");
            assert!(!backend.is_ejected(now + Duration::from_millis(seconds * 1000 + 10)), "{seconds}");
        }
        backend.on_failure(RULE);
        backend.on_success();
        backend.eject(RULE, now);
        assert!(!backend.is_ejected(now + Duration::from_millis(1010)));
    }
}

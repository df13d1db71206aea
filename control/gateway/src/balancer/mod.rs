//! The balancer of a host: HTTP and TCP from listeners of the operator's choice to instances of services on any host.
//!
//! ```text
//!             ┌─ worker 0 ─ listeners ─ connections ─ pool ─┐
//!   clients ──┤                                             ├──▶ instances, this host's and others'
//!             └─ worker 1 ─ listeners ─ connections ─ pool ─┘
//!                   ▲ Slot: rules, swapped         ▲ Service: colours and the moment of a switch, shared
//!   GatewayState ──▶ Balancer (the gateway's loop) ──▶ BalancerReport
//! ```
//!
//! A state is made into immutable [`service::Service`]s and [`rules::Rules`] which the threads take for each request; what has to
//! outlive a state (backends with their counts, the moment of a switch, listening sockets) is handed from one to the next.
//!
//! INVARIANT: a new state never closes a connection, unless it says that the host of its instance is down or gone: what is in flight ends by
//! the rules that it began with.

mod access_log;
mod alive;
mod asker;
mod backend;
mod body;
mod clock;
mod connection;
mod counters;
mod flight;
mod forward;
mod group;
mod guard;
mod head;
mod headers;
mod limits;
mod line;
mod listeners;
mod pool;
mod prepare;
pub mod proxy_protocol;
mod rate;
mod refusal;
mod rules;
mod service;
mod services;
mod stream;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod tls;
mod wait;
mod worker;

use std::{
    io,
    os::fd::OwnedFd,
    sync::{Arc, atomic::AtomicUsize},
    thread,
    time::{Duration, Instant},
};

use tokio::sync::{Notify, watch};
use weaved_api::{
    Problem,
    balancer::{BalancedServiceReport, BalancerReport, BalancerStatus},
    gateway::GatewayState,
};

use self::{
    counters::BalancerCounters,
    limits::{END_PATIENCE, HOUSEKEEPING, MAX_THREADS},
    listeners::Listeners,
    pool::Pool,
    services::Services,
    worker::{Command, Handle, Worker},
};
use crate::handover::Inherited;

/// When there is nothing to do.
const REST: Duration = Duration::from_secs(3600);

/// All of it, but for the threads that carry traffic.
#[derive(Debug)]
pub struct Balancer {
    workers: Arc<[Handle]>,
    counters: Arc<BalancerCounters>,
    news: Arc<Notify>,
    services: Services,
    listeners: Listeners,
    report: watch::Sender<BalancerReport>,
    reported: Instant,
    looked: Instant,
}

impl Balancer {
    /// Starts the threads; as many as there are processors when `threads` is None.
    pub fn start(threads: Option<usize>) -> io::Result<Self> {
        let count = threads.unwrap_or_else(|| thread::available_parallelism().map_or(1, usize::from));
        let (counters, news) = (Arc::new(BalancerCounters::default()), Arc::new(Notify::new()));
        let worker = |number| {
            let (pool, counters, news) = (Arc::new(Pool::default()), Arc::clone(&counters), Arc::clone(&news));
            Handle::start(Worker { number, pool, counters, news, held: AtomicUsize::new(0) })
        };
        let workers: Arc<[Handle]> =
            (0..count.clamp(1, MAX_THREADS) as u32).map(worker).collect::<io::Result<Vec<_>>>()?.into();
        let now = Instant::now();
        Ok(Self {
            listeners: Listeners::new(Arc::clone(&workers)),
            workers,
            counters,
            news,
            services: Services::default(),
            report: watch::Sender::default(),
            reported: now,
            looked: now,
        })
    }

    /// Takes over the listening sockets of a predecessor, as far as states will want them.
    pub fn inherit(&mut self, inherited: Inherited) {
        self.listeners.inherit(inherited);
    }

    /// Handles on its listening sockets, for a successor.
    pub fn sockets(&self) -> Vec<OwnedFd> {
        self.listeners.sockets()
    }

    /// Leaves new clients to a successor: connections end after the request that they are at, or when they are idle; streams go on.
    /// States may still be applied.
    pub async fn retire(&mut self) {
        self.listeners.retire().await;
    }

    /// True when no client is connected any more.
    pub fn is_idle(&self) -> bool {
        self.workers.iter().all(Handle::is_idle)
    }

    /// Does as the state says. Returns when new requests follow it.
    pub async fn apply(&mut self, state: &GatewayState, now: Instant) {
        let cut = self.services.rebuild(state, clock::wall_us());
        (0..cut.connections).for_each(|_| self.counters.host_lost.add());
        (0..cut.streams).for_each(|_| self.counters.host_gone_cut.add());
        let services = &self.services;
        self.listeners.set(&state.balancer.listeners, |name| services.find(name));
        self.listeners.reconcile(now).await;
        self.prepare();
        self.tell();
        self.workers.iter().for_each(|worker| worker.tell(Command::Sweep));
    }

    /// What it says of itself.
    pub fn reports(&self) -> watch::Receiver<BalancerReport> {
        self.report.subscribe()
    }

    /// Until [`Self::poll`] should be called. May be dropped at any time.
    pub async fn wait(&self) {
        let due = tokio::time::Instant::from_std(self.due(Instant::now()));
        tokio::select! {
            () = tokio::time::sleep_until(due) => {}
            () = self.news.notified() => {}
        }
    }

    fn due(&self, now: Instant) -> Instant {
        let housekeeping = if self.services.is_empty() { REST } else { HOUSEKEEPING };
        let mut due = (self.reported + housekeeping).min(self.listeners.due(now));
        if let Some(at_us) = self.services.next_moment_us() {
            due = due.min(now + Duration::from_micros(at_us.saturating_sub(clock::wall_us())));
        }
        due
    }

    /// Does what is due.
    pub async fn poll(&mut self, now: Instant) {
        if self.services.on_moments() {
            self.workers.iter().for_each(|worker| worker.tell(Command::Sweep));
        }
        let cut = self.services.drain(now);
        (0..cut).for_each(|_| self.counters.drain_cut.add());
        if now.saturating_duration_since(self.looked) >= HOUSEKEEPING || self.listeners.due(now) <= now {
            self.looked = now;
            self.listeners.reconcile(now).await;
        }
        self.tell();
    }

    /// Preparations that threads have not begun.
    fn prepare(&self) {
        for service in self.services.all() {
            let Some(preparation) = &service.preparation else { continue };
            for worker in self.workers.iter() {
                worker.tell(Command::Warm {
                    preparation: Arc::clone(preparation),
                    patience: service.rule.timeouts.connect,
                    is_stream: self.listeners.is_stream(&service.rule.name),
                });
            }
        }
    }

    /// A switch or a preparation at once, figures each second.
    fn tell(&mut self) {
        let report = BalancerReport {
            services: self.services.all().map(|service| service.report()).collect(),
            problems: self.listeners.problems(),
        };
        let now = Instant::now();
        let is_due = now.saturating_duration_since(self.reported) >= HOUSEKEEPING;
        let is_news = is_due || !is_essentially(&report, &self.report.borrow());
        if is_due {
            self.reported = now;
        }
        self.report.send_if_modified(|told| {
            let is_new = is_news && *told != report;
            if is_new {
                *told = report;
            }
            is_new
        });
    }

    /// What somebody should look at.
    pub fn problems(&self) -> Vec<Problem> {
        self.listeners.problems().into_iter().map(|message| Problem { message }).collect()
    }

    /// Everything, for people.
    pub fn status(&self) -> BalancerStatus {
        BalancerStatus {
            listeners: self.listeners.status(),
            services: self.services.all().map(|service| services::status(service, Instant::now())).collect(),
            problems: self.listeners.problems(),
            counters: self.counters.report(),
        }
    }

    /// Stops listening, and waits a little for what is in flight.
    pub async fn end(&mut self) {
        self.listeners.close_all().await;
        let deadline = Instant::now() + END_PATIENCE;
        while self.services.all().any(|service| service.is_busy()) && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// True if what is told at once is the same.
fn is_essentially(new: &BalancerReport, told: &BalancerReport) -> bool {
    fn essence(service: &BalancedServiceReport) -> impl PartialEq {
        let healthy: Vec<(&str, u32)> =
            service.colours.iter().map(|colour| (colour.colour.as_str(), colour.healthy)).collect();
        (service.service.as_str(), service.revision, service.switched_at_us, &service.prepared, healthy)
    }
    new.problems == told.problems && new.services.iter().map(essence).eq(told.services.iter().map(essence))
}

//! The process `weaved gateway`, put together here from top to bottom.
//!
//! One thread for names: a loop that owns the listeners and the state; a task for each socket and each question that waits for
//! another resolver. Threads of the balancer's own carry traffic.
//!
//! A life has three stages: in the first it may take over from a predecessor, in the last it has left everything but what is in flight to
//! a successor ([`handover`]).
//!
//! INVARIANT: rights are given up before the runtime, so that every thread it starts has none of them.

use std::{
    os::fd::OwnedFd,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, oneshot, watch},
};
use weaved_api::{
    Counter, Generation, Problem,
    balancer::BalancerState,
    gateway::{GatewayEvent, GatewayRequest, GatewayState, GatewayStats},
};

use crate::{
    balancer::Balancer,
    dns::{
        Zone, explain,
        forward::Forwarder,
        listen::{Listeners, Server},
        no_names,
    },
    handover::{self, Ask, Inherited, Predecessor},
    last_state::LastState,
    limits::{FOLLOW_INTERVAL, MAX_ABSENCE, MAX_LINKS, TOUCH_INTERVAL},
    link::{self, Call, Told},
    obstacle::RETRY_INTERVAL,
    privileges,
    stats::Counters,
};

/// Counters of [`GatewayStats`] whose names begin so are the balancer's; the others are those of names.
pub const BALANCER_COUNTERS: &str = "balancer_";

/// That this process is the gateway of its node; one at a time is.
pub trait Office: std::fmt::Debug {
    /// It is, from now on. Fails with a sentence while another one is.
    fn take(&mut self) -> Result<(), String>;
    /// It is no more, though it goes on for a while.
    fn leave(&mut self) -> Result<(), String>;
}

/// How the process is set up.
#[derive(Debug)]
pub struct Config {
    /// Where its socket and its last state are.
    pub run_dir: PathBuf,
    /// Where the resolvers of the host are named: `/etc/resolv.conf`.
    pub resolv_conf: PathBuf,
    /// What it takes before it serves.
    pub office: Box<dyn Office>,
    /// True if another one runs that it takes over from.
    pub takes_over: bool,
}

/// Runs until `SIGTERM` or `SIGINT`. Fails with one line.
pub fn run(config: Config) -> anyhow::Result<()> {
    privileges::keep_binding_only()?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start the gateway")?;
    let outcome = runtime.block_on(serve(config));
    runtime.shutdown_background();
    outcome
}

async fn serve(mut config: Config) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for signals")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for signals")?;
    let (predecessor, inherited) = if config.takes_over {
        let (predecessor, inherited) = Predecessor::find(&config.run_dir).await.context("nobody to take over from")?;
        (Some(predecessor), inherited)
    } else {
        config.office.take().map_err(anyhow::Error::msg)?;
        (None, Inherited::default())
    };
    let run_dir = config.run_dir.clone();
    let (mut gateway, told) = Gateway::new(config, predecessor, inherited)?;
    // Before anybody may ask what it answers from.
    gateway.load().await;
    let (call_sender, calls) = mpsc::channel(MAX_LINKS);
    let cannot = || format!("cannot serve in the run directory {}", run_dir.display());
    let socket = link::bind(&run_dir).with_context(cannot)?;
    let link = tokio::spawn(link::serve(socket, told, call_sender));
    tracing::info!(run_dir = %run_dir.display(), "the gateway is running");
    let life = async {
        let successor = gateway.run(calls).await?;
        link.abort();
        gateway.retire(successor).await
    };
    let outcome = tokio::select! {
        outcome = life => outcome,
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
    };
    gateway.balancer.end().await;
    tracing::info!("the gateway has ended");
    outcome
}

struct Gateway {
    run_dir: PathBuf,
    office: Box<dyn Office>,
    /// Serves until we know what to serve.
    predecessor: Option<Predecessor>,
    inherited: Inherited,
    successors: Successors,
    server: Arc<Server>,
    listeners: Listeners,
    balancer: Balancer,
    last_state: LastState,
    generation: watch::Sender<Option<Generation>>,
    problems: watch::Sender<Vec<Problem>>,
    /// Why the last state could not be kept.
    file_problem: Option<Problem>,
    started: Instant,
    touched: Instant,
}

/// Whoever takes over from us asks here.
struct Successors {
    asks: mpsc::Receiver<Ask>,
    /// For the door, which is opened when we are in office.
    sender: mpsc::Sender<Ask>,
}

/// One that waits for us to leave.
type Successor = oneshot::Sender<()>;

impl Gateway {
    fn new(config: Config, predecessor: Option<Predecessor>, inherited: Inherited) -> anyhow::Result<(Self, Told)> {
        raise_file_limit();
        let counters = Arc::new(Counters::default());
        let forwarder = Forwarder::new(config.resolv_conf, Arc::clone(&counters));
        let server = Arc::new(Server::new(forwarder, counters));
        let last_state = LastState::new(&config.run_dir);
        // Names are answered, though not by us yet: control need not hurry to tell what it does not know itself.
        let (generation, generations) = watch::channel(predecessor.as_ref().map(|_| Generation::default()));
        let (problems, told_problems) = watch::channel(Vec::new());
        let listeners = Listeners::new(Arc::clone(&server), inherited.clone());
        let mut balancer = Balancer::start(None).context("cannot start the balancer")?;
        balancer.inherit(inherited.clone());
        let told = Told { generation: generations, problems: told_problems, balancer: balancer.reports() };
        let file_problem = None;
        let started = Instant::now();
        let (sender, asks) = mpsc::channel(1);
        let gateway = Self {
            run_dir: config.run_dir,
            office: config.office,
            predecessor,
            inherited,
            successors: Successors { asks, sender },
            server,
            listeners,
            balancer,
            last_state,
            generation,
            problems,
            file_problem,
            started,
            touched: started,
        };
        Ok((gateway, told))
    }

    async fn load(&mut self) {
        let absence = self.last_state.age();
        let Some(mut state) = self.last_state.load() else { return };
        tracing::info!(generation = state.generation.0, "answering with the names from before");
        if absence > MAX_ABSENCE {
            tracing::info!(?absence, "control has to say first what is balanced now");
            state.balancer = BalancerState::default();
        }
        self.adopt(state).await;
    }

    /// Until a successor takes over.
    async fn run(&mut self, mut calls: mpsc::Receiver<Call>) -> anyhow::Result<Successor> {
        self.reconcile().await;
        if self.predecessor.is_none() {
            self.open_door()?;
        }
        loop {
            self.relieve().await?;
            let retry = if self.listeners.has_failed() { RETRY_INTERVAL } else { Duration::from_hours(1) };
            tokio::select! {
                call = calls.recv() => match call {
                    Some((request, reply)) => self.handle(request, reply).await,
                    None => anyhow::bail!("nobody can talk to the gateway any more"),
                },
                Some(ask) = self.successors.asks.recv() => match ask {
                    Ask::Sockets(reply) => drop(reply.send(self.sockets())),
                    Ask::Leave(reply) => return Ok(reply),
                },
                () = ended(self.predecessor.as_ref()) => anyhow::bail!("the gateway to take over from has ended"),
                () = tokio::time::sleep(retry) => self.reconcile().await,
                () = self.balancer.wait() => {
                    let now = Instant::now();
                    self.balancer.poll(now).await;
                    self.tell_problems();
                    if now.saturating_duration_since(self.touched) >= TOUCH_INTERVAL {
                        self.touched = now;
                        self.last_state.touch();
                    }
                }
            }
        }
    }

    /// Takes over, as soon as it knows what to serve.
    async fn relieve(&mut self) -> anyhow::Result<()> {
        if self.server.zone.load().is_none() {
            return Ok(());
        }
        let Some(predecessor) = self.predecessor.take() else { return Ok(()) };
        self.inherited.close();
        predecessor.relieve().await.context("the gateway to take over from does not leave")?;
        self.office.take().map_err(anyhow::Error::msg)?;
        self.open_door()?;
        tracing::info!("the gateway has taken over");
        Ok(())
    }

    fn open_door(&self) -> anyhow::Result<()> {
        let door = handover::bind(&self.run_dir);
        let door = door.with_context(|| format!("cannot serve in the run directory {}", self.run_dir.display()))?;
        tokio::spawn(handover::serve(door, self.successors.sender.clone()));
        Ok(())
    }

    fn sockets(&self) -> Vec<OwnedFd> {
        self.listeners.sockets().into_iter().chain(self.balancer.sockets()).collect()
    }

    /// Leaves everything to the successor but what is in flight, and returns when that has ended. What the successor is told holds for
    /// it as well.
    async fn retire(&mut self, successor: Successor) -> anyhow::Result<()> {
        self.listeners.close_all();
        self.balancer.retire().await;
        self.office.leave().map_err(anyhow::Error::msg)?;
        // One that is gone by now is started anew.
        let _is_there = successor.send(()).is_ok();
        tracing::info!("another gateway has taken over; what is in flight goes on");
        let mut look = tokio::time::interval(FOLLOW_INTERVAL);
        while !self.balancer.is_idle() {
            tokio::select! {
                _ = look.tick() => if let Some(state) = self.last_state.load_newer() {
                    self.balancer.apply(&state, Instant::now()).await;
                },
                () = self.balancer.wait() => self.balancer.poll(Instant::now()).await,
            }
        }
        Ok(())
    }

    async fn handle(&mut self, request: GatewayRequest, reply: oneshot::Sender<GatewayEvent>) {
        let event = match request {
            GatewayRequest::Apply(state) => self.apply(*state).await,
            GatewayRequest::QueryStats => GatewayEvent::Stats(Box::new(self.stats())),
            GatewayRequest::QueryBalancer => GatewayEvent::BalancerStatus(Box::new(self.balancer.status())),
            GatewayRequest::Lookup { name, kind } => {
                // It may wait for other resolvers; nothing else does.
                let server = Arc::clone(&self.server);
                tokio::spawn(async move {
                    let report = match server.zone.load_full() {
                        Some(zone) => explain(&zone, &server.forwarder, &name, kind).await,
                        None => no_names(&name),
                    };
                    drop(reply.send(GatewayEvent::Found(Box::new(report))));
                });
                return;
            }
            GatewayRequest::Hello(version) => {
                tracing::debug!(version, "a second hello");
                return;
            }
        };
        // Whoever asked may have gone away.
        drop(reply.send(event));
    }

    async fn apply(&mut self, state: GatewayState) -> GatewayEvent {
        let generation = state.generation;
        self.file_problem = match self.last_state.save(&state) {
            Ok(()) => None,
            Err(error) => {
                tracing::warn!(%error, "cannot keep the names for a restart");
                Some(Problem { message: format!("the gateway cannot keep its names for a restart: {error}") })
            }
        };
        self.adopt(state).await;
        self.reconcile().await;
        GatewayEvent::Applied { generation }
    }

    async fn adopt(&mut self, state: GatewayState) {
        let generation = state.generation;
        self.balancer.apply(&state, Instant::now()).await;
        self.server.zone.store(Some(Arc::new(Zone::new(state))));
        self.generation.send_replace(Some(generation));
    }

    async fn reconcile(&mut self) {
        let bridge = self.server.zone.load().as_ref().and_then(|zone| zone.state().listen);
        self.listeners.reconcile(bridge, Instant::now()).await;
        self.tell_problems();
    }

    fn tell_problems(&self) {
        let problems = self.listed_problems();
        self.problems.send_if_modified(|told| {
            let is_new = *told != problems;
            *told = problems;
            is_new
        });
    }

    fn listed_problems(&self) -> Vec<Problem> {
        let problems = self.listeners.problems().into_iter().chain(self.balancer.problems());
        problems.chain(self.file_problem.clone()).collect()
    }

    fn stats(&self) -> GatewayStats {
        let zone = self.server.zone.load();
        GatewayStats {
            uptime_ms: self.started.elapsed().as_millis() as u64,
            generation: zone.as_ref().map(|zone| zone.state().generation),
            listening: self.listeners.listening(),
            upstreams: self.server.forwarder.upstreams().into_iter().map(|upstream| upstream.ip()).collect(),
            name_count: zone.as_ref().map_or(0, |zone| zone.name_count() as u64),
            cached_count: self.server.forwarder.cached_count() as u64,
            problems: self.listed_problems(),
            counters: counters(self.server.counters.report(), self.balancer.status().counters),
        }
    }
}

/// Those of names as they are called there, those of the balancer with [`BALANCER_COUNTERS`] in front.
fn counters(names: Vec<Counter>, balancer: Vec<Counter>) -> Vec<Counter> {
    let prefixed = |counter: Counter| Counter { name: format!("{BALANCER_COUNTERS}{}", counter.name), ..counter };
    names.into_iter().chain(balancer.into_iter().map(prefixed)).collect()
}

async fn ended(predecessor: Option<&Predecessor>) {
    match predecessor {
        Some(predecessor) => predecessor.ended().await,
        None => std::future::pending().await,
    }
}

/// Each connection that is carried takes two descriptors, and the usual limit is 1024.
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, limit = limit.current, "cannot raise the limit of open files");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Desk;

    impl Office for Desk {
        fn take(&mut self) -> Result<(), String> {
            Ok(())
        }

        fn leave(&mut self) -> Result<(), String> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn who_asks_for_counters_is_told_those_of_names_and_all_of_the_balancer() {
        let dir = tempfile::tempdir().unwrap();
        let config = Config {
            run_dir: dir.path().to_owned(),
            resolv_conf: dir.path().join("resolv.conf"),
            office: Box::new(Desk),
            takes_over: false,
        };
        let (mut gateway, _told) = Gateway::new(config, None, Inherited::default()).unwrap();
        let counters = gateway.stats().counters;
        let has = |name: &str| counters.iter().any(|counter| counter.name == name && !counter.help.is_empty());
        assert!(has("queries_udp") && has("balancer_no_backend"));
        for own in gateway.balancer.status().counters {
            assert!(has(&format!("{BALANCER_COUNTERS}{}", own.name)), "{}", own.name);
        }
        gateway.balancer.end().await;
    }
}

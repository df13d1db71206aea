//! The process `weaved gateway`, put together here from top to bottom.
//!
//! One thread for names: a loop that owns the listeners and the state; a task for each socket and each question that waits for
//! another resolver. Threads of the balancer's own carry traffic.
//!
//! INVARIANT: rights are given up before the runtime, so that every thread it starts has none of them.

use std::{
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
    Generation, Problem,
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
    last_state::LastState,
    limits::{BIND_RETRY, MAX_LINKS},
    link::{self, Call, Told},
    privileges,
    stats::Counters,
};

/// How the process is set up.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where its socket and its last state are.
    pub run_dir: PathBuf,
    /// Where the resolvers of the host are named: `/etc/resolv.conf`.
    pub resolv_conf: PathBuf,
}

/// Runs until `SIGTERM` or `SIGINT`. Fails with one line.
pub fn run(config: &Config) -> anyhow::Result<()> {
    privileges::keep_binding_only()?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start the gateway")?;
    let outcome = runtime.block_on(serve(config));
    runtime.shutdown_background();
    outcome
}

async fn serve(config: &Config) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for signals")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for signals")?;
    let (mut gateway, told) = Gateway::new(config)?;
    // Before anybody may ask what it answers from.
    gateway.load().await;
    let (call_sender, calls) = mpsc::channel(MAX_LINKS);
    let socket = link::bind(&config.run_dir)
        .with_context(|| format!("cannot serve in the run directory {}", config.run_dir.display()))?;
    tokio::spawn(link::serve(socket, told, call_sender));
    tracing::info!(run_dir = %config.run_dir.display(), "the gateway is running");
    tokio::select! {
        () = gateway.run(calls) => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    gateway.balancer.end().await;
    tracing::info!("the gateway has ended");
    Ok(())
}

struct Gateway {
    server: Arc<Server>,
    listeners: Listeners,
    balancer: Balancer,
    last_state: LastState,
    generation: watch::Sender<Option<Generation>>,
    problems: watch::Sender<Vec<Problem>>,
    /// Why the last state could not be kept.
    file_problem: Option<Problem>,
    started: Instant,
}

impl Gateway {
    fn new(config: &Config) -> anyhow::Result<(Self, Told)> {
        raise_file_limit();
        let counters = Arc::new(Counters::default());
        let forwarder = Forwarder::new(config.resolv_conf.clone(), Arc::clone(&counters));
        let server = Arc::new(Server::new(forwarder, counters));
        let last_state = LastState::new(&config.run_dir);
        let (generation, generations) = watch::channel(None);
        let (problems, told_problems) = watch::channel(Vec::new());
        let listeners = Listeners::new(Arc::clone(&server));
        let balancer = Balancer::start(None).context("cannot start the balancer")?;
        let told = Told { generation: generations, problems: told_problems, balancer: balancer.reports() };
        let file_problem = None;
        let started = Instant::now();
        let gateway = Self { server, listeners, balancer, last_state, generation, problems, file_problem, started };
        Ok((gateway, told))
    }

    async fn load(&mut self) {
        if let Some(state) = self.last_state.load() {
            tracing::info!(generation = state.generation.0, "answering with the names from before");
            self.adopt(state).await;
        }
    }

    async fn run(&mut self, mut calls: mpsc::Receiver<Call>) {
        self.reconcile().await;
        loop {
            let retry = if self.listeners.has_failed() { BIND_RETRY } else { Duration::from_hours(1) };
            tokio::select! {
                call = calls.recv() => match call {
                    Some((request, reply)) => self.handle(request, reply).await,
                    None => return,
                },
                () = tokio::time::sleep(retry) => self.reconcile().await,
                () = self.balancer.wait() => {
                    self.balancer.poll(Instant::now()).await;
                    self.tell_problems();
                }
            }
        }
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
            counters: self.server.counters.report(),
        }
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

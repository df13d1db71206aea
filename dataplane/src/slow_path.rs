//! The router thread: gives the core time, requests and punts, and does what it asks for.
//!
//! One turn, in this order:
//!
//! 1. timeouts: the core's, another try at devices that are not as wanted, and the redirect's;
//! 2. inputs: as many as are waiting, up to a bound;
//! 3. the table, because a session must be able to receive before its peer learns of it;
//! 4. frames for the TAP, 5. datagrams, which may have to wait for room, 6. events for control.
//!
//! INVARIANT: this is the only thread that changes devices, sockets and workers, and the only one with the right to.
//! With no control connected it goes on with the last desired state for ever.

use std::{
    convert::Infallible,
    ops::ControlFlow,
    sync::{Arc, mpsc::RecvTimeoutError},
    thread,
    time::{Duration, Instant, SystemTime},
};

use weaved_api::{DesiredState, Event, Problem, Request, Stats};
use weaved_core::{
    forward::{DropReason, WorkerStats},
    noise::{Announcement, OUR_VERSIONS},
    router::{Router, RouterConfig, Transmit},
    wire::ecn::Ecn,
};

use crate::{
    ciphers,
    clients::Clients,
    inputs::{Input, InputSender, Inputs},
    kernel::{Kernel, KernelConfig},
    patience::Patience,
    redirect::{Programs, Redirect, Unavailable},
    server::{ApiInput, ConnectionId},
    shutdown::{Ending, Watch},
    stats::IoStats,
    tables::Tables,
    tap::{Steering, Unsteered, VNET_HEADER_LEN},
    transitions::{self, Transitions},
    udp::{SendError, Sending, UdpSocket, Unsent},
    workers::{self, AllStats},
};

/// Inputs per turn, so that what the core has to say is not held back by a flood.
const MAX_INPUTS_PER_TURN: usize = 256;

/// The longest wait; there is always a timeout of the core before it.
const MAX_WAIT: Duration = Duration::from_secs(60);

/// Pause before devices that are not as wanted are tried again; doubles up to the maximum.
const MIN_RETRY_PAUSE: Duration = Duration::from_millis(100);
const MAX_RETRY_PAUSE: Duration = Duration::from_secs(30);

/// How long what the router sends waits for a socket that containers keep full, and how often it is tried: the first of the workers'
/// datagrams that leaves makes room, long before the kernel speaks of it, and it takes 26 ms at 20 Mbit/s.
const FULL_PATIENCE: Duration = Duration::from_millis(50);
const FULL_PAUSE: Duration = Duration::from_millis(1);

/// The state of the router thread.
pub(crate) struct SlowPath {
    inputs: Inputs,
    watch: Watch,
    started_at: Instant,
    kernel: Kernel,
    redirect: Redirect,
    clients: Clients,
    /// None until the first desired state, which says who we are.
    router: Option<Router>,
    desired: Option<Box<DesiredState>>,
    retry: Option<Retry>,
    tables: Tables,
    all_stats: AllStats,
    /// Counts what this thread drops.
    stats: Arc<WorkerStats>,
    transitions: Transitions,
}

/// Devices or sockets are not as wanted.
struct Retry {
    at: Instant,
    pause: Duration,
    problems: Vec<Problem>,
}

impl SlowPath {
    pub(crate) fn new(
        inputs: Inputs,
        sender: InputSender,
        watch: Watch,
        programs: Result<Programs, Unavailable>,
        steering: Result<Steering, Unsteered>,
    ) -> anyhow::Result<Self> {
        let started_at = Instant::now();
        let redirect = Redirect::new(programs, sender.clone(), watch.clone(), started_at);
        let tables = Tables::default();
        let all_stats = AllStats::default();
        let (table, stats) = (tables.newest().clone(), all_stats.clone());
        let config = KernelConfig { table, stats, inputs: sender, watch: watch.clone() };
        let kernel = Kernel::open(config, steering)?;
        Ok(Self {
            inputs,
            watch,
            started_at,
            kernel,
            redirect,
            clients: Clients::default(),
            router: None,
            desired: None,
            retry: None,
            tables,
            all_stats,
            stats: Arc::default(),
            transitions: Transitions::default(),
        })
    }

    /// Works until it is told to stop.
    pub(crate) fn run(mut self) -> anyhow::Result<()> {
        loop {
            let mut input = match self.inputs.wait(self.wait_time(Instant::now())) {
                Ok(input) => Some(input),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            };
            let now = Instant::now();
            self.handle_timeouts(now);
            for _ in 0..MAX_INPUTS_PER_TURN {
                let Some(next) = input.take().or_else(|| self.inputs.poll().ok()) else { break };
                if self.handle_input(next, now).is_break() {
                    return Ok(());
                }
            }
            self.drain(now);
            self.transitions.log(&self.all_stats.io(), now);
        }
    }

    fn wait_time(&self, now: Instant) -> Duration {
        let router = self.router.as_ref().map(Router::poll_timeout);
        let retry = self.retry.as_ref().map(|retry| retry.at);
        let next = router.into_iter().chain(retry).chain(self.redirect.poll_timeout()).min();
        next.map_or(MAX_WAIT, |next| next.saturating_duration_since(now).min(MAX_WAIT))
    }

    fn handle_timeouts(&mut self, now: Instant) {
        if let Some(router) = &mut self.router
            && router.poll_timeout() <= now
        {
            router.handle_timeout(now);
        }
        if self.retry.as_ref().is_some_and(|retry| retry.at <= now) {
            self.reconcile(now);
        }
        self.redirect.handle_timeout(&self.tables.newest().load(), now);
    }

    fn handle_input(&mut self, input: Input, now: Instant) -> ControlFlow<()> {
        match input {
            Input::Punt(punt) => {
                if let Some(router) = &mut self.router {
                    router.handle_punt(punt, now);
                }
            }
            Input::Api(ApiInput::Opened(id, outbox)) => self.clients.on_opened(id, outbox),
            Input::Api(ApiInput::Closed(id)) => self.clients.on_closed(id),
            Input::Api(ApiInput::Request(id, request)) => return self.handle_request(id, request, now),
            Input::BridgeChanged => self.redirect.on_bridge_changed(now),
            Input::Reload(desired) => self.apply(desired, now),
            Input::Stop => {
                self.say_goodbye();
                return ControlFlow::Break(());
            }
        }
        ControlFlow::Continue(())
    }

    fn handle_request(&mut self, id: ConnectionId, request: Request, now: Instant) -> ControlFlow<()> {
        match request {
            Request::Apply(desired) => {
                self.clients.follow(id);
                self.apply(desired, now);
            }
            Request::SendControl { to, bytes } => match &mut self.router {
                Some(router) => router.handle_send_control(to, &bytes),
                None => self.stats.count_drop(DropReason::ControlNoSession),
            },
            Request::QueryStats => {
                let stats = Box::new(self.snapshot(now));
                self.clients.answer(id, &Event::Stats(stats));
            }
            Request::Teardown => {
                self.say_goodbye();
                self.teardown();
                return ControlFlow::Break(());
            }
            // The server keeps it to itself.
            Request::Hello(_) => {}
        }
        ControlFlow::Continue(())
    }

    /// Makes everything as desired and says so.
    fn apply(&mut self, desired: Box<DesiredState>, now: Instant) {
        // Also with other lanes and ciphers it is another node, because a session is made for them.
        let is_other_node = self.desired.as_ref().is_some_and(|before| {
            before.identity != desired.identity || before.workers != desired.workers || before.cipher != desired.cipher
        });
        if is_other_node {
            self.clients.publish_all_down();
            self.router = None;
        }
        let lane_count = workers::lane_count(self.kernel.worker_count(desired.workers));
        let router = self.router.get_or_insert_with(|| {
            let threads = self.all_stats.core().chain([self.stats.clone()]).collect();
            Router::new(&router_config(&desired, lane_count, now), threads)
        });
        router.handle_desired_state(&desired, now);
        self.desired = Some(desired);
        self.retry = None;
        // A fresh session table must be there before its first datagram.
        self.publish_table(now);
        self.reconcile(now);
        if let Some(desired) = &self.desired {
            self.redirect.set_wanted(desired, now);
        }
        if self.retry.is_none() {
            self.acknowledge(Vec::new());
        }
    }

    /// Makes devices, socket and workers as desired; what fails is tried again after a pause.
    fn reconcile(&mut self, now: Instant) {
        let Some(desired) = &self.desired else { return };
        let problems = self.kernel.apply(desired);
        let before = self.retry.take();
        if problems.is_empty() {
            if before.is_some() {
                tracing::info!("devices and socket are as wanted");
                self.acknowledge(problems);
            }
            return;
        }
        let pause = before.as_ref().map_or(MIN_RETRY_PAUSE, |before| (before.pause * 2).min(MAX_RETRY_PAUSE));
        self.retry = Some(Retry { at: now + pause, pause, problems: problems.clone() });
        if before.is_none_or(|before| before.problems != problems) {
            problems.iter().for_each(|problem| tracing::warn!("{}", problem.message));
            self.acknowledge(problems);
        }
    }

    /// Tells control what is in force.
    fn acknowledge(&mut self, problems: Vec<Problem>) {
        if let Some(desired) = &self.desired {
            let generation = desired.generation;
            self.clients.publish(Event::Applied { generation, problems });
        }
    }

    /// Does what the core asks for.
    fn drain(&mut self, now: Instant) {
        self.tables.free_replaced();
        self.publish_table(now);
        let Some(router) = &mut self.router else { return };
        while let Some(frame) = router.poll_frame() {
            let written = self.kernel.tap().map(|tap| tap.first().write_frame(&[0; VNET_HEADER_LEN], &frame));
            if written != Some(Ok(())) {
                self.stats.count_drop(DropReason::TapRefused);
            }
        }
        let mut patience = Patience::new(FULL_PATIENCE);
        while let Some(transmit) = router.poll_transmit() {
            let Transmit { to, source, sends, ref datagrams, segment_len, .. } = transmit;
            let sending = Sending { to, source, sends, datagrams, segment_len, ecn: Ecn::NotEct };
            let no_socket = Unsent { error: SendError::Unreachable, sent_len: 0 };
            let sent = self.kernel.socket().map_or(Err(no_socket), |socket| send(socket, sending, &mut patience));
            if let Err(Unsent { error, sent_len }) = sent {
                let count = (datagrams.len() - sent_len).div_ceil(segment_len);
                router.handle_unsent(&transmit, count as u64, error.drop_reason(), now);
            }
        }
        while let Some(event) = router.poll_event() {
            self.clients.publish(event);
        }
        while let Some((peer, news)) = router.poll_gso_news() {
            transitions::log_gso_news(&peer, news);
        }
        if let Some(generation) = self.redirect.poll_question() {
            self.clients.publish(Event::RulesChanged { generation });
        }
    }

    fn publish_table(&mut self, now: Instant) {
        if let Some(table) = self.router.as_mut().and_then(|router| router.poll_table(now)) {
            self.tables.publish(table);
            self.redirect.on_table(now);
        }
    }

    fn snapshot(&mut self, now: Instant) -> Stats {
        self.kernel.update_counters();
        let mut stats = self.router.as_ref().map(|router| router.stats(now)).unwrap_or_default();
        stats.uptime_ms = now.saturating_duration_since(self.started_at).as_millis() as u64;
        stats.counters.extend(IoStats::sum(&self.all_stats.io()));
        stats.counters.extend(self.redirect.counters());
        let lossy = self.router.as_ref().map(Router::gso_given_up).unwrap_or_default();
        stats.device = self.kernel.status(&lossy, self.redirect.status());
        stats
    }

    /// Tells the peers that this node ends. Takes as long as the core wants to repeat it: less than 200 ms, and no time
    /// when nobody is connected.
    fn say_goodbye(&mut self) {
        let mut now = Instant::now();
        if let Some(router) = &mut self.router {
            router.handle_end(now);
        }
        self.drain(now);
        while let Some(router) = self.router.as_mut().filter(|router| !router.has_ended()) {
            thread::sleep(router.poll_timeout().saturating_duration_since(now));
            now = Instant::now();
            router.handle_timeout(now);
            self.drain(now);
        }
    }

    /// Removes the devices and ends the process.
    fn teardown(&mut self) {
        let ending = match self.kernel.delete_devices() {
            Ok(()) => Ending::Orderly,
            Err(error) => Ending::Failed(format!("cannot remove the devices: {error}")),
        };
        self.watch.end(ending);
    }
}

/// Sends a run of datagrams. Waits when the socket is full.
fn send(socket: &UdpSocket, sending: Sending<'_>, patience: &mut Patience) -> Result<(), Unsent> {
    let Ok(sent) = socket.send_and_retry(sending, || {
        let may_wait = patience.begin(Instant::now()).is_some();
        if may_wait {
            thread::sleep(FULL_PAUSE);
        }
        Ok::<_, Infallible>(may_wait)
    });
    sent
}

fn router_config(desired: &DesiredState, lane_count: u8, now: Instant) -> RouterConfig {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).expect("the kernel has random numbers from its boot on");
    RouterConfig {
        identity: desired.identity.clone(),
        cluster_secret: desired.cluster_secret.clone(),
        announcement: Announcement { ciphers: ciphers::offered(desired.cipher), lane_count, versions: OUR_VERSIONS },
        seed,
        wall_clock: SystemTime::now(),
        started_at: now,
    }
}

//! The listening addresses: which are wanted, which are open on all threads, what stands in the way of the others.
//!
//! INVARIANT: an address that stays wanted keeps its sockets and its connections, whatever else of it changes.

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    os::fd::OwnedFd,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Instant,
};

use tokio::sync::oneshot;
use tokio_rustls::rustls::ServerConfig;
use weaved_api::balancer::{Listener, ListenerProtocol, ListenerStatus};

use super::{
    access_log::LogQueue,
    limits::CERTIFICATES_INTERVAL,
    rules::{Rules, Slot},
    service::Service,
    tls::{self, Certificates},
    worker::{Command, Handle},
};
use crate::{handover::Inherited, obstacle::Obstacle};

/// All listeners, in the order of the state.
#[derive(Debug)]
pub(super) struct Listeners {
    workers: Arc<[Handle]>,
    inherited: Inherited,
    wanted: Vec<SocketAddr>,
    known: BTreeMap<SocketAddr, Known>,
    /// Nothing is opened any more.
    has_retired: bool,
}

#[derive(Debug)]
struct Known {
    slot: Arc<Slot>,
    is_open: bool,
    /// Second handles on its sockets, for a successor.
    sockets: Vec<OwnedFd>,
    obstacle: Option<Obstacle>,
    certificates: Option<Certificates>,
    log_problem: Option<String>,
}

impl Listeners {
    pub(super) fn new(workers: Arc<[Handle]>) -> Self {
        let (wanted, known) = (Vec::new(), BTreeMap::new());
        Self { workers, inherited: Inherited::default(), wanted, known, has_retired: false }
    }

    /// Takes over the sockets of a predecessor, as far as they are wanted.
    pub(super) fn inherit(&mut self, inherited: Inherited) {
        self.inherited = inherited;
    }

    /// Handles on the open sockets.
    pub(super) fn sockets(&self) -> Vec<OwnedFd> {
        self.known.values().flat_map(|known| &known.sockets).filter_map(|socket| socket.try_clone().ok()).collect()
    }

    /// Leaves listening to a successor. What is open goes on, by rules that may still change.
    pub(super) async fn retire(&mut self) {
        self.has_retired = true;
        self.close_all().await;
    }

    /// Takes new rules, which hold at once where something is open.
    pub(super) fn set(&mut self, wanted: &[Listener], service: impl Fn(&str) -> Option<Arc<Service>>) {
        self.wanted = wanted.iter().map(|listener| listener.address).collect();
        for listener in wanted {
            let rules = Rules::new(listener.clone(), &service);
            match self.known.get(&listener.address) {
                Some(known) => known.slot.rules.store(Arc::new(rules)),
                None if self.has_retired => {}
                None => drop(self.known.insert(listener.address, Known::new(rules))),
            }
        }
    }

    /// Opens what is wanted, closes what is not.
    pub(super) async fn reconcile(&mut self, now: Instant) {
        if self.has_retired {
            return;
        }
        let unwanted: Vec<SocketAddr> =
            self.known.keys().filter(|address| !self.wanted.contains(address)).copied().collect();
        for address in unwanted {
            self.close(address).await;
            self.known.remove(&address);
            tracing::info!(%address, "no longer balancing");
        }
        let workers = &self.workers;
        for (address, known) in &mut self.known {
            known.follow_files();
            let is_due = known.obstacle.as_ref().is_none_or(|obstacle| now >= obstacle.retry_at());
            if known.is_open || !is_due {
                continue;
            }
            match open(workers, &known.slot, &self.inherited).await {
                Ok(sockets) => {
                    known.sockets = sockets;
                    known.is_open = true;
                    known.obstacle = None;
                    tracing::info!(%address, "balancing");
                }
                Err(error) => {
                    close(workers, *address).await;
                    known.on_failed(&error, now);
                }
            }
        }
    }

    async fn close(&mut self, address: SocketAddr) {
        if let Some(known) = self.known.get_mut(&address) {
            known.slot.close();
            known.is_open = false;
            known.sockets.clear();
            close(&self.workers, address).await;
        }
    }

    pub(super) async fn close_all(&mut self) {
        let addresses: Vec<SocketAddr> = self.known.keys().copied().collect();
        for address in addresses {
            self.close(address).await;
        }
    }

    /// When [`Self::reconcile`] should be called.
    pub(super) fn due(&self, now: Instant) -> Instant {
        let retries = self.known.values().filter_map(|known| Some(known.obstacle.as_ref()?.retry_at()));
        let files = self.known.values().any(|known| known.certificates.is_some());
        let idle = if files { CERTIFICATES_INTERVAL } else { std::time::Duration::from_secs(3600) };
        retries.fold(now + idle, Instant::min)
    }

    /// True if the service is only reached by TCP.
    pub(super) fn is_stream(&self, service: &str) -> bool {
        let speaks = |protocol| {
            self.known.values().any(|known| {
                let rules = known.slot.rules.load();
                rules.listener.protocol == protocol && rules.services().any(|known| known.rule.name == service)
            })
        };
        speaks(ListenerProtocol::Tcp) && !speaks(ListenerProtocol::Http)
    }

    /// In sentences.
    pub(super) fn problems(&self) -> Vec<String> {
        self.wanted.iter().filter_map(|address| self.known.get(address)).flat_map(Known::problems).collect()
    }

    pub(super) fn status(&self) -> Vec<ListenerStatus> {
        let known = self.wanted.iter().filter_map(|address| self.known.get(address));
        let status = known.map(|known| {
            let rules = known.slot.rules.load();
            ListenerStatus {
                name: rules.listener.name.clone(),
                address: known.slot.address,
                protocol: rules.listener.protocol,
                is_open: known.is_open,
                connections: known.slot.connections.load(Relaxed),
            }
        });
        status.collect()
    }
}

impl Known {
    fn new(rules: Rules) -> Self {
        let slot = Arc::new(Slot::new(rules));
        Self { slot, is_open: false, sockets: Vec::new(), obstacle: None, certificates: None, log_problem: None }
    }

    /// Certificates and the access log, as the rules name them.
    fn follow_files(&mut self) {
        let rules = self.slot.rules.load_full();
        match &rules.listener.tls {
            None => {
                self.certificates = None;
                self.slot.tls.store(None);
            }
            Some(dir) => {
                if self.certificates.as_ref().is_none_or(|known| known.dir() != dir) {
                    self.certificates = Some(Certificates::new(dir));
                }
                let read = self.certificates.as_mut().and_then(Certificates::look);
                self.offer(read, tls::alpn(rules.listener.protocol));
            }
        }
        let open = self.slot.log.load_full();
        if open.as_ref().map(|open| open.rule()) == rules.listener.access_log.as_ref() {
            return;
        }
        let log = rules.listener.access_log.clone().map(|rule| {
            let path = rule.path.display().to_string();
            LogQueue::start(rule).map_err(|error| format!("the access log {path} cannot be written: {error}"))
        });
        match log.transpose() {
            Ok(log) => {
                self.log_problem = None;
                self.slot.log.store(log.map(Arc::new));
            }
            Err(problem) => self.log_problem = Some(problem),
        }
    }

    /// Takes certificates that were read, or those in force for a listener that speaks something else.
    fn offer(&self, read: Option<ServerConfig>, alpn: Vec<Vec<u8>>) {
        let in_force = || self.slot.tls.load_full().filter(|config| config.alpn_protocols != alpn);
        if let Some(mut config) = read.or_else(|| Some((*in_force()?).clone())) {
            config.alpn_protocols = alpn;
            self.slot.tls.store(Some(Arc::new(config)));
        }
    }

    fn on_failed(&mut self, error: &io::Error, now: Instant) {
        let obstacle = self.obstacle.get_or_insert_with(|| Obstacle::new(now));
        if let Some(reason) = obstacle.on_failed(error, now) {
            tracing::warn!(address = %self.slot.address, reason, "cannot balance there; trying again");
        }
    }

    fn problems(&self) -> Vec<String> {
        let address = self.slot.address;
        let obstacle = self.obstacle.as_ref().and_then(Obstacle::problem);
        let obstacle = obstacle.map(|reason| format!("nothing is balanced at {address}: {reason}; it is tried again"));
        let certificates = self.certificates.as_ref().and_then(|certificates| certificates.problem.clone());
        let certificates = certificates.map(|problem| format!("certificates for {address}: {problem}"));
        obstacle.into_iter().chain(certificates).chain(self.log_problem.clone()).collect()
    }
}

/// On each thread, or on none.
async fn open(workers: &[Handle], slot: &Arc<Slot>, inherited: &Inherited) -> io::Result<Vec<OwnedFd>> {
    // All of them are taken, however many threads the predecessor had.
    let mut shares: Vec<Vec<_>> = workers.iter().map(|_| Vec::new()).collect();
    for (number, socket) in inherited.tcp(slot.address).into_iter().enumerate() {
        shares[number % workers.len()].push(socket);
    }
    let mut sockets = Vec::new();
    for (worker, inherited) in workers.iter().zip(shares) {
        let (reply, answer) = oneshot::channel();
        worker.tell(Command::Open { slot: Arc::clone(slot), inherited, reply });
        sockets.extend(answer.await.unwrap_or_else(|_| Err(io::Error::other("a thread has ended")))?);
    }
    Ok(sockets)
}

async fn close(workers: &[Handle], address: SocketAddr) {
    for worker in workers {
        let (reply, answer) = oneshot::channel();
        worker.tell(Command::Close { address, reply });
        drop(answer.await);
    }
}

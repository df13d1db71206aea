//! The sockets: which are wanted, which are open, what stands in the way of the others.
//!
//! | where                | for                                | other names |
//! |----------------------|------------------------------------|-------------|
//! | bridge address, 53   | containers                         | looked up   |
//! | bridge address, 8600 | containers that know Consul        | refused     |
//! | 127.0.0.1, 8600      | the host, its own resolver         | refused     |
//!
//! INVARIANT: a port that somebody else has costs one line in the log and one in `status`; it is tried again, and
//! everything else goes on.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
    time::Instant,
};

use arc_swap::ArcSwapOption;
use tokio::{
    net::{TcpListener, UdpSocket},
    sync::Semaphore,
    task::AbortHandle,
};
use weaved_api::Problem;

use super::{
    forward::Forwarder,
    respond::{Recursion, Request, Step, Transport, respond},
    tcp,
    zone::Zone,
};
use crate::{
    handover::Inherited,
    limits::{MAX_FORWARDED, MAX_QUERY_BYTES, TCP_CONNECTIONS, UDP_BATCH},
    obstacle::Obstacle,
    share::{Client, Part, Shares},
    stats::Counters,
};

/// Where containers ask.
const DNS_PORT: u16 = 53;
/// Where Consul answers.
const CONSUL_PORT: u16 = 8600;

/// What all listeners share.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) zone: ArcSwapOption<Zone>,
    pub(crate) forwarder: Forwarder,
    pub(crate) counters: Arc<Counters>,
    tcp_places: Arc<Shares>,
    /// Answers over UDP that wait for other resolvers, joined ones included.
    waiting: Arc<Semaphore>,
}

/// One socket. In the order of ports, so that containers' comes first in lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Endpoint {
    address: SocketAddr,
    is_tcp: bool,
}

/// The open ones, and the others.
#[derive(Debug)]
pub(crate) struct Listeners {
    server: Arc<Server>,
    inherited: Inherited,
    open: BTreeMap<Endpoint, Open>,
    failed: BTreeMap<Endpoint, Obstacle>,
}

#[derive(Debug)]
struct Open {
    task: AbortHandle,
    /// A second handle on its socket, for a successor.
    socket: OwnedFd,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    pub(crate) fn new(forwarder: Forwarder, counters: Arc<Counters>) -> Self {
        Self {
            zone: ArcSwapOption::empty(),
            forwarder,
            counters,
            tcp_places: Shares::new(TCP_CONNECTIONS),
            waiting: Arc::new(Semaphore::new(4 * MAX_FORWARDED)),
        }
    }

    /// A place for a connection over TCP, as long as it is held. None where all are taken, or this client has its share.
    pub(super) fn tcp_place(&self, client: Client) -> Option<Part> {
        let place = self.tcp_places.take(client, 1).ok();
        if place.is_none() {
            self.counters.tcp_refused.add();
        }
        place
    }

    pub(super) fn step(&self, bytes: &[u8], transport: Transport, offered: Recursion, source: IpAddr) -> Step {
        let zone = self.zone.load();
        let recursion = if is_near(source, zone.as_deref()) { offered } else { Recursion::Refused };
        respond(bytes, transport, recursion, zone.as_deref(), &self.counters, &mut rand::rng())
    }

    pub(super) async fn forward(&self, request: &Request) -> Vec<u8> {
        let outcome = self.forwarder.resolve_with(request.query(), request.wants_dnssec()).await;
        request.finish(outcome.ok().as_deref(), &self.counters)
    }
}

impl Listeners {
    pub(crate) fn new(server: Arc<Server>, inherited: Inherited) -> Self {
        Self { server, inherited, open: BTreeMap::new(), failed: BTreeMap::new() }
    }

    /// Handles on the open sockets.
    pub(crate) fn sockets(&self) -> Vec<OwnedFd> {
        self.open.values().filter_map(|open| open.socket.try_clone().ok()).collect()
    }

    /// Answers no further question.
    pub(crate) fn close_all(&mut self) {
        self.open.clear();
    }

    /// Opens what is wanted and not open, closes what is not wanted. True when something has changed.
    pub(crate) async fn reconcile(&mut self, bridge: Option<IpAddr>, now: Instant) -> bool {
        let wanted = wanted(bridge);
        let unwanted = |endpoint: &Endpoint| !wanted.contains(endpoint);
        let mut changed = false;
        for (endpoint, _) in self.open.extract_if(.., |endpoint, _| unwanted(endpoint)) {
            tracing::info!(%endpoint, "no longer answering");
            changed = true;
        }
        changed |= self.failed.extract_if(.., |endpoint, _| unwanted(endpoint)).count() > 0;
        let own = wanted.iter().map(|endpoint| endpoint.address.ip()).filter(|address| Some(*address) == bridge);
        self.server.forwarder.set_own(own.collect());
        for endpoint in wanted {
            if !self.open.contains_key(&endpoint) {
                changed |= self.open(endpoint, now).await;
            }
        }
        changed
    }

    /// True while something that is wanted is not open.
    pub(crate) fn has_failed(&self) -> bool {
        !self.failed.is_empty()
    }

    /// What is open.
    pub(crate) fn listening(&self) -> Vec<String> {
        self.open.keys().map(ToString::to_string).collect()
    }

    /// What is not, and why.
    pub(crate) fn problems(&self) -> Vec<Problem> {
        let problems = self.failed.iter().filter_map(|(endpoint, obstacle)| Some((endpoint, obstacle.problem()?)));
        problems
            .map(|(endpoint, reason)| Problem {
                message: format!("names are not answered at {endpoint}: {reason}; it is tried again"),
            })
            .collect()
    }

    async fn open(&mut self, endpoint: Endpoint, now: Instant) -> bool {
        let offered = if endpoint.address.port() == DNS_PORT { Recursion::Offered } else { Recursion::Refused };
        match start(endpoint, offered, &self.server, &self.inherited).await {
            Ok(open) => {
                self.open.insert(endpoint, open);
                self.failed.remove(&endpoint);
                tracing::info!(%endpoint, "answering");
                true
            }
            Err(error) => {
                let obstacle = self.failed.entry(endpoint).or_insert_with(|| Obstacle::new(now));
                let news = obstacle.on_failed(&error, now);
                if let Some(reason) = news {
                    tracing::warn!(%endpoint, reason, "cannot answer there; trying again");
                }
                news.is_some()
            }
        }
    }
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.address, if self.is_tcp { "tcp" } else { "udp" })
    }
}

fn wanted(bridge: Option<IpAddr>) -> Vec<Endpoint> {
    let local = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), CONSUL_PORT);
    let bridge =
        bridge.into_iter().flat_map(|address| [DNS_PORT, CONSUL_PORT].map(|port| SocketAddr::new(address, port)));
    let addresses = bridge.chain([local]);
    addresses.flat_map(|address| [false, true].map(|is_tcp| Endpoint { address, is_tcp })).collect()
}

async fn start(
    endpoint: Endpoint,
    offered: Recursion,
    server: &Arc<Server>,
    inherited: &Inherited,
) -> io::Result<Open> {
    let server = Arc::clone(server);
    let (task, socket) = if endpoint.is_tcp {
        let listener = match inherited.tcp(endpoint.address).pop() {
            Some(listener) => TcpListener::from_std(listener)?,
            None => TcpListener::bind(endpoint.address).await?,
        };
        let socket = listener.as_fd().try_clone_to_owned()?;
        (tokio::spawn(tcp::serve(listener, offered, server)), socket)
    } else {
        let socket = match inherited.udp(endpoint.address) {
            Some(socket) => UdpSocket::from_std(socket)?,
            None => UdpSocket::bind(endpoint.address).await?,
        };
        let second = socket.as_fd().try_clone_to_owned()?;
        (tokio::spawn(serve_udp(socket, offered, server)), second)
    };
    Ok(Open { task: task.abort_handle(), socket })
}

/// Other names are looked up for those who may reach us in the usual way: this host, its containers, private networks. The address
/// of the bridge may be reachable from elsewhere, and an open resolver is a weapon.
fn is_near(source: IpAddr, zone: Option<&Zone>) -> bool {
    match source.to_canonical() {
        IpAddr::V4(address) => {
            let [first, second, ..] = address.octets();
            // 100.64.0.0/10 is shared address space (RFC 6598).
            let is_shared = first == 100 && second & 0xc0 == 64;
            let is_container = zone.is_some_and(|zone| zone.state().range.contains(&address));
            is_container || is_shared || address.is_private() || address.is_loopback() || address.is_link_local()
        }
        IpAddr::V6(address) => address.is_loopback() || address.is_unique_local() || address.is_unicast_link_local(),
    }
}

async fn serve_udp(socket: UdpSocket, offered: Recursion, server: Arc<Server>) {
    let socket = Arc::new(socket);
    // One byte more than a question may have: a longer one is seen as such.
    let mut buffer = vec![0; MAX_QUERY_BYTES + 1];
    loop {
        if socket.readable().await.is_err() {
            tokio::task::yield_now().await;
        }
        for _ in 0..UDP_BATCH {
            match socket.try_recv_from(&mut buffer) {
                Ok((len, source)) => handle(&socket, &buffer[..len], source, offered, &server),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // An ICMP error for an earlier answer.
                Err(_) => {}
            }
        }
        tokio::task::yield_now().await;
    }
}

fn handle(socket: &Arc<UdpSocket>, bytes: &[u8], source: SocketAddr, offered: Recursion, server: &Arc<Server>) {
    server.counters.queries_udp.add();
    match server.step(bytes, Transport::Udp, offered, source.ip()) {
        Step::Drop => {}
        Step::Reply(reply) => send(socket, &reply, source, server),
        Step::Forward(request) => {
            let Ok(place) = Arc::clone(&server.waiting).try_acquire_owned() else {
                server.counters.overloaded.add();
                return send(socket, &request.finish(None, &server.counters), source, server);
            };
            let (socket, server) = (Arc::clone(socket), Arc::clone(server));
            tokio::spawn(async move {
                let reply = server.forward(&request).await;
                send(&socket, &reply, source, &server);
                drop(place);
            });
        }
    }
}

/// A full send buffer loses the answer, as a full queue on the way would; the client asks again.
fn send(socket: &UdpSocket, reply: &[u8], to: SocketAddr, server: &Server) {
    if socket.try_send_to(reply, to).is_err() {
        server.counters.send_failed.add();
    }
}

//! A balancer on loopback, backends behind it, clients in front of it.

use std::{
    convert::Infallible,
    net::SocketAddr,
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::{
    Request, Response, StatusCode, Version,
    body::{Bytes, Frame, Incoming},
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
};
use weaved_api::{
    balancer::{
        BalancedService, BalancerReport, BalancerState, BalancerStatus, ClientLimits, ColourShare, Listener,
        ListenerProtocol, Route, Trust,
    },
    gateway::{GatewayState, NamedInstance},
    testing::{gateway_state, named_host, named_instance},
};
use weaved_gateway::{balancer::Balancer, handover::Inherited};

/// Longer than anything here takes on a machine that is busy.
pub(crate) const SOON: Duration = Duration::from_secs(20);

enum Order {
    Apply(Box<GatewayState>, oneshot::Sender<()>),
    Status(oneshot::Sender<BalancerStatus>),
    Sockets(oneshot::Sender<Vec<OwnedFd>>),
    Retire(oneshot::Sender<()>),
    IsIdle(oneshot::Sender<bool>),
}

/// A balancer that runs.
pub(crate) struct Lab {
    pub(crate) state: GatewayState,
    orders: mpsc::Sender<Order>,
    pub(crate) reports: watch::Receiver<BalancerReport>,
}

impl Lab {
    /// With one listener for the service `web`, which has these instances.
    pub(crate) async fn start(backends: &[(&Backend, &str)]) -> Self {
        let mut state = state();
        state.balancer.listeners.push(listener(ListenerProtocol::Http));
        state.instances = backends.iter().map(|(backend, colour)| instance(backend, colour)).collect();
        let mut lab = Self::of(Balancer::start(Some(2)).unwrap(), state);
        lab.apply().await;
        lab
    }

    fn of(mut balancer: Balancer, state: GatewayState) -> Self {
        let (orders, mut received) = mpsc::channel(1);
        let reports = balancer.reports();
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    order = received.recv() => match order {
                        None => return,
                        Some(Order::Apply(state, done)) => {
                            balancer.apply(&state, Instant::now()).await;
                            done.send(()).unwrap();
                        }
                        Some(Order::Status(reply)) => reply.send(balancer.status()).unwrap(),
                        Some(Order::Sockets(reply)) => reply.send(balancer.sockets()).unwrap(),
                        Some(Order::Retire(done)) => {
                            balancer.retire().await;
                            done.send(()).unwrap();
                        }
                        Some(Order::IsIdle(reply)) => reply.send(balancer.is_idle()).unwrap(),
                    },
                    () = balancer.wait() => balancer.poll(Instant::now()).await,
                }
            }
        });
        Self { state, orders, reports }
    }

    /// Another one with the same state, which listens with the same sockets.
    pub(crate) async fn successor(&self) -> Self {
        let mut balancer = Balancer::start(Some(3)).unwrap();
        let sockets = self.ask(Order::Sockets).await;
        assert_eq!(sockets.len(), 2, "one for each thread");
        balancer.inherit(Inherited::sort(sockets).unwrap());
        let mut lab = Self::of(balancer, self.state.clone());
        lab.apply().await;
        lab
    }

    pub(crate) async fn retire(&self) {
        self.ask(Order::Retire).await;
    }

    pub(crate) async fn is_idle(&self) -> bool {
        self.ask(Order::IsIdle).await
    }

    async fn ask<T>(&self, order: impl FnOnce(oneshot::Sender<T>) -> Order) -> T {
        let (reply, answer) = oneshot::channel();
        self.orders.send(order(reply)).await.ok().unwrap();
        answer.await.unwrap()
    }

    /// Makes the balancer do as the state says.
    pub(crate) async fn apply(&mut self) {
        self.state.generation.0 += 1;
        let (done, is_done) = oneshot::channel();
        self.orders.send(Order::Apply(Box::new(self.state.clone()), done)).await.ok().unwrap();
        is_done.await.unwrap();
    }

    pub(crate) async fn status(&self) -> BalancerStatus {
        self.ask(Order::Status).await
    }

    pub(crate) async fn counter(&self, name: &str) -> u64 {
        let status = self.status().await;
        status.counters.iter().find(|counter| counter.name == name).unwrap_or_else(|| panic!("no {name}")).value
    }

    /// Requests of a colour until now, and how many of them failed.
    pub(crate) async fn counts(&self, colour: &str) -> (u64, u64) {
        let status = self.status().await;
        let counted = status.services[0].colours.iter().find(|counted| counted.colour == colour);
        counted.map_or((0, 0), |counted| (counted.requests, counted.failures))
    }

    pub(crate) async fn wait_for_counter(&self, name: &str, least: u64) {
        wait_for(name, async || self.counter(name).await >= least).await;
    }

    /// Waits for a report that is as wanted.
    pub(crate) async fn wait_for_report(&mut self, wanted: impl FnMut(&BalancerReport) -> bool) -> BalancerReport {
        tokio::time::timeout(SOON, self.reports.wait_for(wanted)).await.expect("a report in time").unwrap().clone()
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.state.balancer.listeners[0].address
    }

    pub(crate) fn listener(&mut self) -> &mut Listener {
        &mut self.state.balancer.listeners[0]
    }

    pub(crate) fn service(&mut self) -> &mut BalancedService {
        &mut self.state.balancer.services[0]
    }

    /// The body of an answer to GET.
    pub(crate) async fn get(&self, path: &str) -> String {
        Client::connect(self.address()).await.get(path).await.body
    }
}

/// Until it is so.
pub(crate) async fn wait_for(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + SOON;
    while !is_so().await {
        assert!(Instant::now() < deadline, "{what} in time");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A port that nobody has.
pub(crate) fn free_address() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}

pub(crate) fn listener(protocol: ListenerProtocol) -> Listener {
    Listener {
        name: "test".into(),
        address: free_address(),
        protocol,
        tls: None,
        accept_proxy: Trust::Nobody,
        trust_forwarded: Trust::Nobody,
        routes: vec![route("web")],
        limits: ClientLimits::default(),
        access_log: None,
    }
}

pub(crate) fn route(service: &str) -> Route {
    Route { host: None, path: None, header: None, service: service.into(), colour: None, colour_header: None }
}

pub(crate) fn service(name: &str) -> BalancedService {
    BalancedService::plain(name)
}

pub(crate) fn share(colour: &str, weight: u32) -> ColourShare {
    ColourShare { colour: colour.into(), weight }
}

pub(crate) fn instance(backend: &Backend, colour: &str) -> NamedInstance {
    NamedInstance {
        tags: vec![colour.into()],
        colours: vec![colour.into()],
        address: Some(backend.address.ip()),
        port: backend.address.port(),
        ..named_instance("web", backend.name)
    }
}

fn state() -> GatewayState {
    GatewayState {
        hosts: vec![named_host("a")],
        balancer: BalancerState { listeners: vec![], services: vec![service("web")] },
        ..gateway_state()
    }
}

type Body = BoxBody<Bytes, Infallible>;

/// An instance that answers with its name, and does as the path says.
pub(crate) struct Backend {
    pub(crate) name: &'static str,
    pub(crate) address: SocketAddr,
    pub(crate) connections: Arc<AtomicUsize>,
    pub(crate) requests: Arc<AtomicUsize>,
    open: Arc<AtomicUsize>,
    tasks: JoinSet<()>,
}

impl Backend {
    pub(crate) async fn http1(name: &'static str) -> Self {
        Self::start(name, free_address(), Version::HTTP_11).await
    }

    pub(crate) async fn http2(name: &'static str) -> Self {
        Self::start(name, free_address(), Version::HTTP_2).await
    }

    pub(crate) async fn start(name: &'static str, address: SocketAddr, version: Version) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let (connections, requests) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (connection_count, request_count) = (Arc::clone(&connections), Arc::clone(&requests));
        let open = Arc::<AtomicUsize>::default();
        let open_count = Arc::clone(&open);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut carried = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connection_count.fetch_add(1, Ordering::Relaxed);
                let (request_count, open_count) = (Arc::clone(&request_count), Arc::clone(&open_count));
                open_count.fetch_add(1, Ordering::Relaxed);
                let service = service_fn(move |request| {
                    request_count.fetch_add(1, Ordering::Relaxed);
                    answer(name, request)
                });
                carried.spawn(async move {
                    let io = TokioIo::new(stream);
                    if version == Version::HTTP_2 {
                        drop(http2::Builder::new(TokioExecutor::new()).serve_connection(io, service).await);
                    } else {
                        drop(http1::Builder::new().serve_connection(io, service).with_upgrades().await);
                    }
                    open_count.fetch_sub(1, Ordering::Relaxed);
                });
            }
        });
        Self { name, address, connections, requests, open, tasks }
    }

    /// Nobody listens there any more, and what is open breaks.
    pub(crate) async fn kill(&mut self) {
        self.tasks.shutdown().await;
    }

    pub(crate) fn connection_count(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Of them, those that are open.
    pub(crate) fn open_count(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    pub(crate) fn request_count(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }
}

fn text(text: impl Into<Bytes>) -> Body {
    Full::new(text.into()).boxed()
}

async fn answer(name: &'static str, mut request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let path = request.uri().path().to_owned();
    let mut words = path.trim_start_matches('/').split('/');
    let (verb, word) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    Ok(match verb {
        "echo" => match request.into_body().collect().await {
            Ok(body) => Response::new(text(body.to_bytes())),
            Err(_) => Response::new(text("broken")),
        },
        "head" => {
            let mut lines = vec![format!("{} {} {:?}", request.method(), request.uri(), request.version())];
            lines.extend(request.headers().iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())));
            Response::new(text(lines.join("\n")))
        }
        "slow" => {
            tokio::time::sleep(Duration::from_millis(word.parse().unwrap())).await;
            Response::new(text(name))
        }
        "status" => {
            let mut response = Response::new(text(name));
            *response.status_mut() = StatusCode::from_u16(word.parse().unwrap()).unwrap();
            response
        }
        "big" => Response::new(text(vec![b'x'; word.parse().unwrap()])),
        "late" => late(word),
        "trailers" => {
            let frames = [Ok(Frame::data(Bytes::from_static(b"message"))), {
                let mut trailers = hyper::HeaderMap::new();
                let status = if word.is_empty() { "0" } else { word };
                trailers.insert("grpc-status", status.parse().unwrap());
                Ok(Frame::trailers(trailers))
            }];
            Response::new(StreamBody::new(futures_util::stream::iter(frames)).boxed())
        }
        "refused" => {
            let mut response = Response::new(text(""));
            response.headers_mut().insert("grpc-status", word.parse().unwrap());
            response
        }
        "events" => {
            let events = futures_util::stream::unfold(0, |number| async move {
                tokio::time::sleep(Duration::from_millis(20)).await;
                Some((Ok(Frame::data(Bytes::from(format!("data: {number}\n\n")))), number + 1))
            });
            let mut response = Response::new(StreamBody::new(events).boxed());
            let kind = if word == "plain" { "text/plain" } else { "text/event-stream" };
            response.headers_mut().insert("content-type", kind.parse().unwrap());
            response
        }
        "upgrade" => {
            let upgrade = hyper::upgrade::on(&mut request);
            drop(request.into_body().collect().await);
            tokio::spawn(async move {
                let mut stream = TokioIo::new(upgrade.await.unwrap());
                let mut buffer = [0; 1024];
                while let Ok(len @ 1..) = stream.read(&mut buffer).await {
                    stream.write_all(&buffer[..len]).await.unwrap();
                }
            });
            let mut response = Response::new(text(""));
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            response.headers_mut().insert("connection", "upgrade".parse().unwrap());
            response.headers_mut().insert("upgrade", "echo".parse().unwrap());
            response
        }
        _ => Response::new(text(name)),
    })
}

/// All that was announced, and the end a moment later.
fn late(word: &str) -> Response<Body> {
    let frames = futures_util::stream::unfold(Some(word.to_owned()), |word| async {
        if let Some(word) = word {
            return Some((Ok(Frame::data(Bytes::from(word))), None));
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
        None
    });
    let mut response = Response::new(StreamBody::new(frames).boxed());
    response.headers_mut().insert("content-length", word.len().into());
    response
}

/// Bytes both ways.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> Stream for T {}

/// A client that writes what it likes.
pub(crate) struct Client {
    pub(crate) stream: TcpStream,
    buffer: Vec<u8>,
}

/// What it got.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.into_iter().find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }
}

impl Client {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        Self { stream: TcpStream::connect(address).await.unwrap(), buffer: Vec::new() }
    }

    pub(crate) async fn send(&mut self, text: impl AsRef<[u8]>) {
        self.stream.write_all(text.as_ref()).await.unwrap();
    }

    pub(crate) async fn get(&mut self, path: &str) -> Answer {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: web\r\n\r\n")).await;
        self.answer().await.expect("an answer")
    }

    /// The next answer; None when the connection ends first.
    pub(crate) async fn answer(&mut self) -> Option<Answer> {
        tokio::time::timeout(SOON, self.read_answer()).await.expect("an answer or the end in time")
    }

    async fn read_answer(&mut self) -> Option<Answer> {
        let end = loop {
            if let Some(end) = self.buffer.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                break end + 4;
            }
            self.fill().await?;
        };
        let head = String::from_utf8(self.buffer.drain(..end).collect()).unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let mut answer = Answer { status, head, body: String::new() };
        if status == 101 {
            return Some(answer);
        }
        if answer.header("transfer-encoding").is_some() {
            while !self.buffer.ends_with(b"0\r\n\r\n") {
                self.fill().await?;
            }
            answer.body = String::from_utf8_lossy(&std::mem::take(&mut self.buffer)).into_owned();
            return Some(answer);
        }
        let len: usize = answer.header("content-length").unwrap_or("0").parse().unwrap();
        while self.buffer.len() < len {
            self.fill().await?;
        }
        answer.body = String::from_utf8(self.buffer.drain(..len).collect()).unwrap();
        Some(answer)
    }

    /// Some bytes more; None at the end.
    async fn fill(&mut self) -> Option<()> {
        let mut bytes = vec![0; 16 * 1024];
        let len = self.stream.read(&mut bytes).await.unwrap_or(0);
        self.buffer.extend_from_slice(&bytes[..len]);
        (len > 0).then_some(())
    }

    /// So many raw bytes.
    pub(crate) async fn read(&mut self, len: usize) -> Vec<u8> {
        while self.buffer.len() < len {
            tokio::time::timeout(SOON, self.fill()).await.expect("bytes in time").expect("more bytes");
        }
        self.buffer.drain(..len).collect()
    }

    /// Waits for these bytes, and forgets all that came until then.
    pub(crate) async fn wait_for_text(&mut self, text: &str) {
        let place = |buffer: &[u8]| buffer.windows(text.len()).position(|bytes| bytes == text.as_bytes());
        while place(&self.buffer).is_none() {
            tokio::time::timeout(SOON, self.fill()).await.expect("bytes in time").expect("more bytes");
        }
        self.buffer.drain(..place(&self.buffer).unwrap_or(0) + text.len());
    }

    /// Forgets all that is there.
    pub(crate) fn forget(&mut self) {
        self.buffer.clear();
        let mut bytes = vec![0; 16 * 1024];
        while self.stream.try_read(&mut bytes).is_ok_and(|len| len > 0) {}
    }

    /// Waits until the other end has closed, whatever comes before.
    pub(crate) async fn wait_for_end(&mut self) {
        let end = async { while self.fill().await.is_some() {} };
        tokio::time::timeout(SOON, end).await.expect("the end in time");
    }

    /// True when the other end has closed without another byte.
    pub(crate) async fn is_closed(&mut self) -> bool {
        self.buffer.is_empty() && tokio::time::timeout(SOON, self.fill()).await.expect("the end in time").is_none()
    }
}

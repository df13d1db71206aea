//! One connection of a client: who it is, what it speaks, and its requests.
//!
//! ```text
//! accept ─▶ [PROXY header] ─▶ [TLS] ─▶ HTTP/1 or HTTP/2 by ALPN or by the first bytes ─▶ forward
//!                                  └─▶ TCP: stream
//! ```
//!
//! INVARIANT: nothing is waited for without a limit before the first request is complete.
//!
//! NOTE(perf): a task is as large as the largest of what it may wait for, for as long as it lives; so what few connections need, or need only
//! while they work, is boxed.

use std::{
    convert::Infallible,
    future::poll_fn,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    task::Poll,
    time::{Duration, Instant},
};

use hyper::{
    Request, Response, StatusCode,
    body::Incoming,
    header::HeaderValue,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, rustls::ServerConfig};
use weaved_api::balancer::{ClientLimits, ListenerProtocol};

use super::{
    access_log::Entry,
    body::AnswerBody,
    clock,
    flight::Log,
    forward,
    guard::Guarded,
    headers::Forwarded,
    limits::{H2_PING, MAX_H2_RESET_STREAMS, MAX_H2_STREAMS, MAX_PROXY_HEADER_BYTES},
    pool::Ends,
    proxy_protocol::{self, Header},
    rules::{Rules, Slot},
    stream,
    worker::{Held, Worker},
};

/// How every HTTP/2 connection begins (RFC 9113 §3.4). `PRI` is no method of HTTP/1.
const H2_BEGIN: &[u8] = b"PRI ";
/// Between the first two looks at bytes that are not complete yet.
const PEEK_PAUSE: Duration = Duration::from_millis(2);
/// Between two looks at bytes that have not been complete for long.
const MAX_PEEK_PAUSE: Duration = Duration::from_millis(250);

/// What its requests share.
#[derive(Debug)]
pub(super) struct Client {
    /// By the PROXY header, if the listener believes it.
    pub(super) address: SocketAddr,
    local: SocketAddr,
    pub(super) is_tls: bool,
    forwarded: Forwarded,
    pub(super) accepted: Instant,
    pub(super) slot: Arc<Slot>,
    pub(super) worker: Arc<Worker>,
    pub(super) activity: Arc<Activity>,
}

/// Requests and streams of one connection that are under way: while there are some, silence is no idleness.
#[derive(Debug, Default)]
pub(super) struct Activity {
    count: AtomicU32,
    /// When the latest has ended, in [`clock::millis`].
    ended: AtomicU64,
    is_upgraded: AtomicBool,
    is_resting: AtomicBool,
}

/// One of them.
#[derive(Debug)]
pub(super) struct Active(Arc<Activity>);

impl Activity {
    pub(super) fn begin(self: &Arc<Self>) -> Active {
        self.count.fetch_add(1, Relaxed);
        Active(Arc::clone(self))
    }

    pub(super) fn is_idle(&self) -> bool {
        self.count.load(Relaxed) == 0
    }

    /// Returns when nothing was under way for so long, whatever else has moved. May be dropped at any time.
    async fn until_idle_for(&self, patience: Duration, since: Instant) {
        loop {
            let ended = self.ended.load(Relaxed).max(clock::millis(since));
            let idle = Duration::from_millis(clock::millis(Instant::now()).saturating_sub(ended));
            let left = if self.is_idle() { patience.saturating_sub(idle) } else { patience };
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left).await;
        }
    }

    /// What comes from now on is no HTTP.
    pub(super) fn upgrade(&self) {
        self.is_upgraded.store(true, Relaxed);
    }

    pub(super) fn is_upgraded(&self) -> bool {
        self.is_upgraded.load(Relaxed)
    }

    /// Nothing is needed until the client sends.
    pub(super) fn rest(&self) {
        self.is_resting.store(true, Relaxed);
    }

    pub(super) fn wake(&self) {
        self.is_resting.store(false, Relaxed);
    }

    fn is_resting(&self) -> bool {
        self.is_resting.load(Relaxed)
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.0.ended.store(clock::millis(Instant::now()), Relaxed);
        self.0.count.fetch_sub(1, Relaxed);
    }
}

impl Client {
    pub(super) fn ends(&self) -> Ends {
        Ends { client: self.address, local: self.local }
    }

    pub(super) fn forwarded(&self) -> &Forwarded {
        &self.forwarded
    }

    /// Writes down a head that has not become a request. Nobody knows whom a proxy has sent it for.
    pub(super) fn log_refused(&self, status: StatusCode, started: Instant) {
        let Some(queue) = self.slot.log.load_full() else { return };
        let client = self.address.ip().to_canonical();
        let entry = Entry { status: status.as_u16(), ..Entry::new(client, started) };
        drop(Log::new(queue, entry, Arc::clone(&self.worker.counters)));
    }
}

/// A connection that the listener counts.
struct Counted {
    slot: Arc<Slot>,
    _held: Held,
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.slot.connections.fetch_sub(1, Relaxed);
    }
}

/// Serves it until it ends.
pub(super) async fn serve(stream: TcpStream, peer: SocketAddr, slot: Arc<Slot>, worker: Arc<Worker>) {
    let rules = slot.rules.load_full();
    worker.counters.connections.add();
    let before = slot.connections.fetch_add(1, Relaxed);
    let counted = Counted { slot: Arc::clone(&slot), _held: Held::new(&worker) };
    if before >= rules.listener.limits.connections {
        return worker.counters.connections_refused.add();
    }
    if let Err(error) = converse(stream, peer, &slot, &worker, &rules).await {
        tracing::debug!(%peer, %error, "a connection has ended");
    }
    drop(counted);
}

async fn converse(
    mut stream: TcpStream,
    peer: SocketAddr,
    slot: &Arc<Slot>,
    worker: &Arc<Worker>,
    rules: &Rules,
) -> io::Result<()> {
    let accepted = Instant::now();
    stream.set_nodelay(true)?;
    let (listener, local) = (&rules.listener, stream.local_addr()?);
    let patience = listener.limits.head_timeout;
    let mut address = peer;
    if listener.accept_proxy.covers(peer.ip()) {
        let Ok(Ok(client)) = timeout(patience, Box::pin(read_proxy_header(&mut stream))).await else {
            worker.counters.proxy_header_refused.add();
            return Err(io::Error::new(io::ErrorKind::InvalidData, "no PROXY header"));
        };
        address = client.unwrap_or(peer);
    }
    let client = |is_tls: bool| {
        let text = address.ip().to_canonical().to_string();
        let forwarded = Forwarded {
            address: HeaderValue::try_from(text).expect("an address is a header value"),
            proto: HeaderValue::from_static(if is_tls { "https" } else { "http" }),
            is_trusted: listener.trust_forwarded.covers(address.ip()),
        };
        let (slot, worker, activity) = (Arc::clone(slot), Arc::clone(worker), Arc::default());
        Arc::new(Client { address, local, is_tls, forwarded, accepted, slot, worker, activity })
    };
    if listener.tls.is_none() {
        let client = client(false);
        if listener.protocol == ListenerProtocol::Tcp {
            Box::pin(stream::carry(&client, rules, stream)).await;
            return Ok(());
        }
        let Ok(begins) = timeout(patience, begins_with_h2(&stream)).await else {
            worker.counters.client_timeouts.add();
            return Err(io::ErrorKind::TimedOut.into());
        };
        return serve_http(stream, begins?, client, rules).await;
    }
    let Some(config) = slot.tls.load_full() else {
        worker.counters.tls_failed.add();
        return Err(io::Error::other("there is no certificate"));
    };
    Box::pin(serve_tls(stream, config, client(true), rules)).await
}

async fn serve_tls(stream: TcpStream, config: Arc<ServerConfig>, client: Arc<Client>, rules: &Rules) -> io::Result<()> {
    let patience = rules.listener.limits.head_timeout;
    let Ok(Ok(stream)) = timeout(patience, TlsAcceptor::from(config).accept(stream)).await else {
        client.worker.counters.tls_failed.add();
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the TLS handshake failed"));
    };
    if rules.listener.protocol == ListenerProtocol::Tcp {
        stream::carry(&client, rules, stream).await;
        return Ok(());
    }
    let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    serve_http(stream, is_http2, client, rules).await
}

async fn serve_http(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    is_http2: bool,
    client: Arc<Client>,
    rules: &Rules,
) -> io::Result<()> {
    let limits = rules.listener.limits;
    let io = Guarded::new(stream, is_http2, limits, &client);
    if !is_http2 {
        return serve_http1(io, client, limits).await;
    }
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_H2_STREAMS)
        .max_pending_accept_reset_streams(MAX_H2_RESET_STREAMS)
        .max_local_error_reset_streams(MAX_H2_RESET_STREAMS)
        .max_header_list_size(limits.head_bytes)
        .keep_alive_interval(H2_PING)
        .keep_alive_timeout(H2_PING)
        .adaptive_window(true);
    let (slot, activity, accepted) = (Arc::clone(&client.slot), Arc::clone(&client.activity), client.accepted);
    let service = service_fn(move |request| answer(Arc::clone(&client), request));
    let mut serving = Box::pin(builder.serve_connection(TokioIo::new(io), service));
    // Answers to our PING move something, so the guard sees no idleness.
    let idle = Box::pin(activity.until_idle_for(limits.idle_timeout, accepted));
    tokio::select! {
        outcome = &mut serving => return outcome.map_err(io::Error::other),
        () = slot.closed() => {}
        () = idle => {}
    }
    serving.as_mut().graceful_shutdown();
    serving.await.map_err(io::Error::other)
}

async fn serve_http1(
    mut io: Guarded<impl AsyncRead + AsyncWrite + Unpin + Send + 'static>,
    client: Arc<Client>,
    limits: ClientLimits,
) -> io::Result<()> {
    while let Some(resting) = serve_until_rest(io, &client, limits).await? {
        client.worker.counters.rests.add();
        io = resting;
        io.rest().await?;
    }
    Ok(())
}

/// None when the connection has ended or is no HTTP any more. Nothing of the library outlives this.
async fn serve_until_rest<T: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    io: Guarded<T>,
    client: &Arc<Client>,
    limits: ClientLimits,
) -> io::Result<Option<Guarded<T>>> {
    let asked = Arc::clone(client);
    let service = service_fn(move |request| answer(Arc::clone(&asked), request));
    let mut serving = Box::new(http1_builder(limits).serve_connection(TokioIo::new(io), service).with_upgrades());
    let served = poll_fn(|cx| match Pin::new(&mut *serving).poll(cx) {
        Poll::Pending if client.activity.is_resting() => Poll::Ready(None),
        outcome => outcome.map(Some),
    });
    if let Some(outcome) = served.await {
        let outcome = outcome.inspect_err(|error| log_bad_head(client, error));
        return outcome.map(|()| None).map_err(io::Error::other);
    }
    match serving.into_parts() {
        Some(parts) if !parts.read_buf.is_empty() => Err(io::Error::other("put to rest with a request")),
        parts => Ok(parts.map(|parts| parts.io.into_inner())),
    }
}

/// A head that nobody can read, or that is too long, is answered by the library itself. (Also with 414, for a target of more than 64 KiB, which it
/// does not tell apart afterwards.)
fn log_bad_head(client: &Client, error: &hyper::Error) {
    if error.is_parse() {
        let is_too_long = error.is_parse_too_large();
        let status = if is_too_long { StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE } else { StatusCode::BAD_REQUEST };
        client.log_refused(status, Instant::now());
    }
}

/// How the library serves a connection.
pub(super) fn http1_builder(limits: ClientLimits) -> http1::Builder {
    // NOTE(perf): the number of headers is left at the library's 100, here and in the pool. With a number that is set it takes 8 KB from the
    // heap for each head that it reads.
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(None).max_buf_size((limits.head_bytes as usize).max(8192));
    builder
}

fn answer(
    client: Arc<Client>,
    request: Request<Incoming>,
) -> impl Future<Output = Result<Response<AnswerBody>, Infallible>> {
    // From the call on, and not only when it is first polled: the request is no longer where the guard looks.
    let active = client.activity.begin();
    async move {
        let answer = forward::handle(client, request).await;
        drop(active);
        Ok(answer)
    }
}

/// Whether a connection without TLS speaks HTTP/2 from its first byte on.
async fn begins_with_h2(stream: &TcpStream) -> io::Result<bool> {
    let mut first = [0; H2_BEGIN.len()];
    let mut looks = 0;
    loop {
        let len = stream.peek(&mut first).await?;
        if len == 0 || first[..len] != H2_BEGIN[..len] {
            return Ok(false);
        }
        if len == first.len() {
            return Ok(true);
        }
        tokio::time::sleep(peek_pause(looks)).await;
        looks += 1;
    }
}

/// Until the next look at bytes that are still the same after so many: whoever sends the rest at once is served at once, and who never does costs
/// a few looks a second.
fn peek_pause(looks: u32) -> Duration {
    PEEK_PAUSE.saturating_mul(1_u32.checked_shl(looks).unwrap_or(u32::MAX)).min(MAX_PEEK_PAUSE)
}

/// Takes exactly the header from the stream.
async fn read_proxy_header(stream: &mut TcpStream) -> io::Result<Option<SocketAddr>> {
    let mut bytes = vec![0; MAX_PROXY_HEADER_BYTES];
    let (mut seen, mut looks) = (0, 0);
    loop {
        let len = stream.peek(&mut bytes).await?;
        match proxy_protocol::parse(&bytes[..len]) {
            Header::Complete { len, client } => {
                stream.read_exact(&mut bytes[..len]).await?;
                return Ok(client);
            }
            Header::Incomplete if len > 0 => {
                // The end of the stream shows as no more bytes than before, for ever; the caller's limit ends that.
                looks = if len == seen { looks + 1 } else { 0 };
                seen = len;
                tokio::time::sleep(peek_pause(looks)).await;
            }
            Header::Incomplete | Header::Invalid => return Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

/// One of many, for tests.
#[cfg(any(test, feature = "testing"))]
pub(super) fn sample() -> Arc<Client> {
    use weaved_api::balancer::{Listener, Trust};

    use super::pool::Pool;

    let address = SocketAddr::from(([192, 0, 2, 1], 1024));
    let listener = Listener {
        name: "web".into(),
        address,
        protocol: ListenerProtocol::Http,
        tls: None,
        accept_proxy: Trust::Nobody,
        trust_forwarded: Trust::Nobody,
        routes: vec![],
        limits: ClientLimits::default(),
        access_log: None,
    };
    let worker = Worker {
        number: 0,
        pool: Arc::new(Pool::default()),
        counters: Arc::default(),
        news: Arc::default(),
        held: std::sync::atomic::AtomicUsize::default(),
    };
    Arc::new(Client {
        address,
        local: address,
        is_tls: false,
        forwarded: Forwarded {
            address: HeaderValue::from_static("192.0.2.1"),
            proto: HeaderValue::from_static("http"),
            is_trusted: false,
        },
        accepted: Instant::now(),
        slot: Arc::new(Slot::new(Rules::new(listener, |_| None))),
        worker: Arc::new(worker),
        activity: Arc::default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn future_len<A, B, C, D, F>(_: impl Fn(A, B, C, D) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn the_pause_between_two_looks_doubles_to_a_quarter_of_a_second() {
        let pauses = [0, 1, 2, 6, 7, 31, 32, u32::MAX].map(|looks| peek_pause(looks).as_millis());
        assert_eq!(pauses, [2, 4, 8, 128, 250, 250, 250, 250]);
    }

    #[test]
    fn a_task_that_waits_for_its_client_is_small() {
        assert!(future_len(serve) <= 2048, "{}", future_len(serve));
    }
}

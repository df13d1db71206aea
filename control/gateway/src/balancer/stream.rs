//! Bytes both ways: TCP streams, and connections that were upgraded.
//!
//! INVARIANT: a stream is counted with its backend and its colour for as long as it lives, and can be cut by its backend.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional_with_sizes},
    net::TcpStream,
};
use tokio_rustls::server::TlsStream;
use weaved_api::balancer::Sticky;

use super::{
    backend::{self, Backend},
    clock,
    connection::Client,
    flight::{Log, Place},
    group::Wish,
    limits::{MAX_ATTEMPTS, STREAM_BUFFER_BYTES},
    rules::Rules,
    service::{NoGroup, Service},
    worker::{Held, Worker},
};

static NEXT_STREAM: AtomicU64 = AtomicU64::new(1);

/// A client's connection, whatever is in front of its bytes.
pub(super) trait ClientEnd: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    fn socket(&self) -> &TcpStream;
}

impl ClientEnd for TcpStream {
    fn socket(&self) -> &TcpStream {
        self
    }
}

impl ClientEnd for TlsStream<TcpStream> {
    fn socket(&self) -> &TcpStream {
        self.get_ref().0
    }
}

/// A client's connection that is reset unless its stream has come to an end: what was cut, or has failed, must not look complete.
struct ResetWhenCut<T: ClientEnd> {
    client: T,
    has_ended: bool,
}

impl<T: ClientEnd> ResetWhenCut<T> {
    fn end(mut self) {
        self.has_ended = true;
    }
}

impl<T: ClientEnd> Drop for ResetWhenCut<T> {
    fn drop(&mut self) {
        if !self.has_ended {
            // One that is closed already needs no reset.
            drop(self.client.socket().set_zero_linger());
        }
    }
}

/// A stream that is counted.
struct Open {
    place: Place,
    id: u64,
    _held: Held,
}

impl Open {
    fn new(mut place: Place, worker: &Arc<Worker>) -> Self {
        place.becomes_stream();
        Self { place, id: NEXT_STREAM.fetch_add(1, Relaxed), _held: Held::new(worker) }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.place.backend.on_stream_end(self.id);
    }
}

/// Carries an upgraded connection as soon as both ends have changed the protocol.
pub(super) fn upgrade(
    client: &Client,
    place: Place,
    idle: Option<Duration>,
    on_client: OnUpgrade,
    on_backend: OnUpgrade,
    log: Option<Log>,
) {
    client.worker.counters.streams.add();
    let open = Open::new(place, &client.worker);
    let (backend, id) = (Arc::clone(&open.place.backend), open.id);
    let alive = client.activity.begin();
    client.activity.upgrade();
    let task = tokio::spawn(async move {
        let carried = match tokio::try_join!(on_client, on_backend) {
            Ok((client, backend)) => copy(TokioIo::new(client), TokioIo::new(backend), idle).await,
            Err(_) => Carried::default(),
        };
        if let Some(mut log) = log {
            log.entry().bytes = carried.to_client;
        }
        drop((open, alive));
    });
    backend.on_stream(id, task.abort_handle());
}

/// Carries a stream from a TCP listener to a backend, and back.
pub(super) async fn carry(client: &Client, rules: &Rules, stream: impl ClientEnd) {
    let Some((service, asked)) = rules.first() else { return client.worker.counters.no_route.add() };
    let Some((open, upstream)) = connect(client, service, asked).await else { return };
    client.worker.counters.streams.add();
    let idle = service.rule.timeouts.idle;
    let (backend, id) = (Arc::clone(&open.place.backend), open.id);
    let started = Instant::now();
    open.place.counts.on_answer(false, started.saturating_duration_since(client.accepted));
    let mut stream = ResetWhenCut { client: stream, has_ended: false };
    let task = tokio::spawn(async move {
        if copy(&mut stream.client, upstream, idle).await.is_whole {
            stream.end();
        }
        drop(open);
    });
    backend.on_stream(id, task.abort_handle());
    // The listener counts the connection until then.
    drop(task.await);
}

async fn connect(client: &Client, service: &Arc<Service>, asked: Option<&str>) -> Option<(Open, TcpStream)> {
    let (counters, rule) = (&client.worker.counters, &service.rule);
    let hash = matches!(rule.sticky, Some(Sticky::Address)).then(|| {
        let text = client.address.ip().to_canonical().to_string();
        backend::hash(text.bytes())
    });
    let mut tried = Vec::new();
    while tried.len() <= (rule.retries as usize).min(MAX_ATTEMPTS) {
        // What was switched while the client was greeted, or another backend tried, is followed.
        let newest = client.slot.rules.load().newest(service);
        let service = newest.as_ref().unwrap_or(service);
        let group = match service.group(asked, hash.unwrap_or_else(rand::random)) {
            Ok(group) => group,
            Err(NoGroup::Empty(colour)) => {
                counters.no_backend.add();
                // A preview says nothing of what is live.
                if let Some(counts) = service.counts.get(&colour).filter(|_| asked.is_none()) {
                    counts.on_answer(true, client.accepted.elapsed());
                }
                return None;
            }
        };
        let wish = Wish { policy: rule.policy, hash, mark: None, tried: &tried };
        let Some(backend) = group.pick(wish, Instant::now()) else { break };
        let place = Place::take(group, backend);
        match reach(client, backend, rule.timeouts.connect).await {
            Ok(stream) => {
                backend.on_success();
                return Some((Open::new(place, &client.worker), stream));
            }
            Err(error) => {
                tracing::debug!(backend = backend.key.instance, %error, "cannot be reached");
                tried.push(backend.id);
                if group.on_failure(backend, rule.ejection, Instant::now()) {
                    counters.ejections.add();
                }
                group.counts.on_answer(true, client.accepted.elapsed());
            }
        }
    }
    counters.backend_failed.add();
    None
}

async fn reach(client: &Client, backend: &Backend, patience: Duration) -> io::Result<TcpStream> {
    client.worker.counters.backend_connections.add();
    let opened = tokio::time::timeout(patience, client.worker.pool.open(backend, Some(client.ends()))).await;
    opened.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// How a copy has ended.
#[derive(Debug, Default)]
struct Carried {
    /// Bytes. Not known when it has failed.
    to_client: u64,
    /// The client has all that the backend had to say, with its end.
    is_whole: bool,
}

/// Until both directions have ended, one has failed, or nothing has moved for `idle`.
async fn copy(
    client: impl AsyncRead + AsyncWrite + Unpin,
    backend: impl AsyncRead + AsyncWrite + Unpin,
    idle: Option<Duration>,
) -> Carried {
    let last = AtomicU64::new(clock::millis(Instant::now()));
    let (mut client, mut backend) = (Watched::new(client, &last), Watched::new(backend, &last));
    let copying = copy_bidirectional_with_sizes(&mut client, &mut backend, STREAM_BUFFER_BYTES, STREAM_BUFFER_BYTES);
    let outcome = match idle {
        None => copying.await,
        Some(idle) => tokio::select! {
            outcome = copying => outcome,
            () = silence(&last, idle) => Err(io::ErrorKind::TimedOut.into()),
        },
    };
    Carried { to_client: outcome.map_or(0, |(_, to_client)| to_client), is_whole: client.has_end }
}

async fn silence(last: &AtomicU64, idle: Duration) {
    loop {
        let silent = clock::millis(Instant::now()).saturating_sub(last.load(Relaxed));
        let left = idle.saturating_sub(Duration::from_millis(silent));
        if left.is_zero() {
            return;
        }
        tokio::time::sleep(left).await;
    }
}

/// Remembers when something moved, and whether its end was told that no more will come.
struct Watched<'a, T> {
    inner: T,
    last: &'a AtomicU64,
    has_end: bool,
}

impl<'a, T> Watched<'a, T> {
    fn new(inner: T, last: &'a AtomicU64) -> Self {
        Self { inner, last, has_end: false }
    }

    fn note<U>(&self, outcome: Poll<U>) -> Poll<U> {
        if outcome.is_ready() {
            self.last.store(clock::millis(Instant::now()), Relaxed);
        }
        outcome
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Watched<'_, T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.inner).poll_read(cx, buffer);
        self.note(outcome)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Watched<'_, T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.inner).poll_write(cx, bytes);
        self.note(outcome)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.inner).poll_shutdown(cx);
        self.has_end |= matches!(outcome, Poll::Ready(Ok(())));
        outcome
    }
}

//! Connections to backends: made, kept while idle, used again. One pool for each thread, so that a connection stays where its
//! client's is.
//!
//! INVARIANT: a connection that carried an answer whose end was not seen is never used again.

use std::{
    collections::HashMap,
    future::poll_fn,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use hyper::{
    Request, Response,
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{io::AsyncWriteExt, net::TcpStream};

use super::{
    alive,
    backend::Backend,
    body::RequestBody,
    limits::{BACKEND_IDLE, MAX_BACKEND_HEAD_BYTES, MAX_IDLE_PER_BACKEND, WARM_IDLE},
    line::{Flow, Line, LineExecutor, Share},
    proxy_protocol,
};

static NEXT_CONNECTION: AtomicU64 = AtomicU64::new(1);

/// Idle connections of one thread.
#[derive(Debug, Default)]
pub(super) struct Pool {
    idle: Mutex<HashMap<u64, Kept>>,
    open: Mutex<HashMap<u64, Open>>,
    /// Where this balancer listens itself.
    listening: Mutex<Vec<SocketAddr>>,
}

/// Idle connections to one backend.
#[derive(Debug)]
struct Kept {
    backend: Arc<Backend>,
    idle: Vec<Idle>,
}

/// Connections to one backend that carry many requests at once each.
#[derive(Debug)]
struct Open {
    backend: Arc<Backend>,
    shared: Vec<Shared>,
}

#[derive(Debug)]
struct Shared {
    sender: http2::SendRequest<RequestBody>,
    line: Arc<Line>,
}

impl Shared {
    fn is_of_use(&self) -> bool {
        !self.sender.is_closed() && !self.line.is_cut() && !self.line.is_doubtful()
    }
}

#[derive(Debug)]
struct Idle {
    sender: http1::SendRequest<RequestBody>,
    line: Arc<Line>,
    until: Instant,
}

/// A connection that takes a request.
#[derive(Debug)]
pub(super) struct Upstream {
    sender: Sender,
    line: Arc<Line>,
}

#[derive(Debug)]
enum Sender {
    Http1(http1::SendRequest<RequestBody>),
    Http2 { sender: http2::SendRequest<RequestBody>, _share: Share },
}

/// Who asks, for backends that get PROXY headers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ends {
    pub(super) client: SocketAddr,
    pub(super) local: SocketAddr,
}

impl Upstream {
    fn sharing(sender: &http2::SendRequest<RequestBody>, line: &Arc<Line>) -> Self {
        Self { sender: Sender::Http2 { sender: sender.clone(), _share: line.share() }, line: Arc::clone(line) }
    }

    /// The head of the answer. Fails with the request if nothing of it was sent.
    pub(super) async fn send(
        &mut self,
        request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, Option<Request<RequestBody>>> {
        match &mut self.sender {
            Sender::Http1(sender) => sender.try_send_request(request).await.map_err(|mut error| error.take_message()),
            Sender::Http2 { sender, .. } => tokio::select! {
                biased;
                answer = sender.try_send_request(request) => answer.map_err(|mut error| error.take_message()),
                () = self.line.until_cut() => Err(None),
            },
        }
    }

    /// An answer was waited for in vain. It may be the connection and not the backend, so others ask over another one.
    pub(super) fn doubt(&self) {
        self.line.doubt();
    }

    /// An answer begins to come over it.
    pub(super) fn flow(&self) -> Flow {
        self.line.begin()
    }
}

impl Pool {
    /// An idle connection, the one that was used last first.
    pub(super) fn take(&self, backend: &Backend, now: Instant) -> Option<Upstream> {
        if backend.key.send_proxy.is_some() {
            return None;
        }
        if backend.key.is_http2 {
            let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
            let shared = &mut open.get_mut(&backend.id)?.shared;
            shared.retain(Shared::is_of_use);
            let free = shared.iter().find(|shared| shared.line.has_room())?;
            return Some(Upstream::sharing(&free.sender, &free.line));
        }
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let idle = &mut idle.get_mut(&backend.id)?.idle;
        while let Some(last) = idle.pop() {
            if last.sender.is_ready() && last.until > now {
                return Some(Upstream { sender: Sender::Http1(last.sender), line: last.line });
            }
        }
        None
    }

    /// It has nothing to do any more.
    pub(super) fn give_back(&self, backend: &Arc<Backend>, upstream: Upstream, now: Instant) {
        self.keep(backend, upstream, now + BACKEND_IDLE);
    }

    fn keep(&self, backend: &Arc<Backend>, upstream: Upstream, until: Instant) {
        let Upstream { sender: Sender::Http1(sender), line } = upstream else { return };
        if sender.is_closed() || !backend.keeps_idle() || backend.key.send_proxy.is_some() {
            return;
        }
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = idle.entry(backend.id).or_insert_with(|| Kept { backend: Arc::clone(backend), idle: Vec::new() });
        let idle = &mut kept.idle;
        if idle.len() < MAX_IDLE_PER_BACKEND {
            idle.push(Idle { sender, line, until });
        }
    }

    /// A new one. Fails also when that takes longer than `patience`.
    pub(super) async fn connect(
        &self,
        backend: &Arc<Backend>,
        ends: Option<Ends>,
        patience: Duration,
    ) -> io::Result<Upstream> {
        let made = tokio::time::timeout(patience, self.make(backend, ends)).await;
        made.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    async fn make(&self, backend: &Arc<Backend>, ends: Option<Ends>) -> io::Result<Upstream> {
        let stream = self.open(backend, ends).await?;
        let (backend, id) = (Arc::clone(backend), NEXT_CONNECTION.fetch_add(1, Relaxed));
        let line = Arc::new(Line::default());
        if backend.key.is_http2 {
            let mut builder = http2::Builder::new(LineExecutor(Arc::clone(&line)));
            builder.timer(TokioTimer::new()).adaptive_window(true).max_concurrent_reset_streams(100);
            let (sender, mut connection) = builder.handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
            let (known, own_line) = (Arc::clone(&backend), Arc::clone(&line));
            let task = tokio::spawn(async move {
                let carried = poll_fn(|cx| {
                    own_line.set_room(connection.current_max_send_streams());
                    Pin::new(&mut connection).poll(cx)
                });
                drop(carried.await);
                backend.on_connection_end(id);
            });
            known.on_connection(id, task.abort_handle(), Arc::clone(&line));
            let upstream = Upstream::sharing(&sender, &line);
            let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
            let open = open.entry(known.id).or_insert_with(|| Open { backend: known, shared: Vec::new() });
            open.shared.push(Shared { sender, line });
            return Ok(upstream);
        }
        let mut builder = http1::Builder::new();
        builder.max_buf_size(MAX_BACKEND_HEAD_BYTES.max(64 * 1024));
        let (sender, connection) = builder.handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        let known = Arc::clone(&backend);
        let task = tokio::spawn(async move {
            drop(connection.with_upgrades().await);
            backend.on_connection_end(id);
        });
        known.on_connection(id, task.abort_handle(), Arc::clone(&line));
        Ok(Upstream { sender: Sender::Http1(sender), line })
    }

    /// Bytes to a backend, with a PROXY header in front where it wants one.
    pub(super) async fn open(&self, backend: &Backend, ends: Option<Ends>) -> io::Result<TcpStream> {
        // The far end would connect to the next one before this one is known to be its own.
        let itself = || io::Error::other("a listener of this balancer has its address");
        if backend.is_own(Instant::now()) {
            return Err(itself());
        }
        let mut stream = TcpStream::connect(backend.key.address).await?;
        if self.is_own(&stream, backend.key.address)? {
            backend.on_own(Instant::now());
            return Err(itself());
        }
        stream.set_nodelay(true)?;
        alive::probe(&stream)?;
        if let Some(version) = backend.key.send_proxy {
            let header = match ends {
                Some(ends) => proxy_protocol::emit(version, ends.client, ends.local),
                None => proxy_protocol::emit_local(version),
            };
            stream.write_all(&header).await?;
        }
        Ok(stream)
    }

    /// Whether the connection goes to this host, and there to a listener of ours: bytes would go round until nothing is left of the host.
    fn is_own(&self, stream: &TcpStream, address: SocketAddr) -> io::Result<bool> {
        let listening = self.listening.lock().unwrap_or_else(PoisonError::into_inner);
        let covers = |listener: &SocketAddr| {
            listener.port() == address.port() && (listener.ip() == address.ip() || listener.ip().is_unspecified())
        };
        // Between two ends on one host the kernel takes one address for both.
        Ok(listening.iter().any(covers) && (address.ip().is_loopback() || stream.local_addr()?.ip() == address.ip()))
    }

    /// A listener of this thread, which is like those of the others, is open; or no more.
    pub(super) fn set_listening(&self, address: SocketAddr, is_open: bool) {
        let mut listening = self.listening.lock().unwrap_or_else(PoisonError::into_inner);
        listening.retain(|known| *known != address);
        if is_open {
            listening.push(address);
        }
    }

    /// Connects ahead of the first request. True when it worked.
    pub(super) async fn warm(&self, backend: &Arc<Backend>, patience: Duration) -> bool {
        match self.connect(backend, None, patience).await {
            Ok(upstream) => {
                self.keep(backend, upstream, Instant::now() + WARM_IDLE);
                true
            }
            Err(error) => {
                tracing::debug!(backend = backend.key.instance, %error, "cannot be made ready");
                false
            }
        }
    }

    /// Closes what was idle for long enough, and what goes to a backend that gets no new requests.
    pub(super) fn sweep(&self, now: Instant) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|_, kept| {
            kept.idle.retain(|idle| idle.until > now && !idle.sender.is_closed());
            !kept.idle.is_empty() && kept.backend.keeps_idle()
        });
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|_, open| {
            // One that nothing goes over is enough.
            let mut has_spare = false;
            open.shared.retain(|shared| {
                shared.is_of_use() && (shared.line.is_shared() || !std::mem::replace(&mut has_spare, true))
            });
            !open.shared.is_empty() && open.backend.keeps_idle()
        });
    }
}

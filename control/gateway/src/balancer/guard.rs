//! Between a client's bytes and the HTTP library: stops what [`Scanner`] finds, and whoever is too slow.
//!
//! A message that is stopped is made unreadable from there on, so that the library itself answers 400 in its turn and closes.
//!
//! | while                                  | the client has                                      |
//! |----------------------------------------|-----------------------------------------------------|
//! | a head is coming, or the first one is due | `head_timeout` from its first byte, or from accepting |
//! | nothing is under way                   | `idle_timeout`                                      |
//! | a body is coming                       | `idle_timeout` between two reads                    |
//! | an answer is under way                 | for ever                                            |
//!
//! NOTE(perf): one timer for each connection, moved when it fires and not with each request.

use std::{
    io,
    pin::Pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep_until},
};
use weaved_api::balancer::ClientLimits;

use super::{
    connection::Client,
    head::{Fault, Scanner},
};

/// A client's bytes.
pub(super) struct Guarded<T> {
    inner: T,
    /// None for what is not HTTP/1.
    scanner: Option<Scanner>,
    limits: ClientLimits,
    client: Arc<Client>,
    /// When something moved last.
    moved: Instant,
    /// When the head that is coming began.
    head_since: Option<Instant>,
    timer: Pin<Box<Sleep>>,
}

impl<T> Guarded<T> {
    pub(super) fn new(inner: T, is_http2: bool, limits: ClientLimits, client: &Arc<Client>) -> Self {
        let now = Instant::now();
        Self {
            inner,
            scanner: (!is_http2).then(|| Scanner::new(limits.head_bytes as usize)),
            limits,
            client: Arc::clone(client),
            moved: now,
            head_since: Some(client.accepted),
            timer: Box::pin(sleep_until((client.accepted + limits.head_timeout).into())),
        }
    }

    fn on_bytes(&mut self, bytes: &mut [u8]) {
        self.moved = Instant::now();
        let Some(scanner) = &mut self.scanner else {
            self.head_since = None;
            return;
        };
        if scanner.is_upgrading() && self.client.activity.is_upgraded() {
            self.scanner = None;
            return;
        }
        if let Err((at, fault)) = scanner.scan(bytes) {
            self.stop(fault);
            bytes[at..].fill(0);
            return;
        }
        if scanner.is_in_head() {
            self.head_since.get_or_insert(self.moved);
        } else {
            self.head_since = None;
        }
    }

    fn stop(&mut self, fault: Fault) {
        tracing::debug!(client = %self.client.address, fault, "a request is stopped");
        self.client.worker.counters.ambiguous.add();
        // What comes behind is not looked at: the library has given up.
        self.scanner = None;
    }

    /// When the client's time is over, as things are.
    fn deadline(&self, now: Instant) -> Instant {
        if let Some(since) = self.head_since {
            return since + self.limits.head_timeout;
        }
        let is_waiting = self.client.activity.is_idle() || self.scanner.as_ref().is_some_and(Scanner::is_in_body);
        let closes_early = self.client.slot.is_closing.load(Relaxed);
        match is_waiting {
            true if closes_early && self.client.activity.is_idle() => self.moved,
            true => self.moved + self.limits.idle_timeout,
            false => now + self.limits.idle_timeout,
        }
    }

    /// Pending while there is time.
    fn poll_time(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.timer.as_mut().poll(cx));
            let now = Instant::now();
            let deadline = self.deadline(now);
            if deadline <= now {
                let is_idle = self.head_since.is_none() && self.client.activity.is_idle();
                if !is_idle {
                    self.client.worker.counters.client_timeouts.add();
                }
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            // A listener that goes away is noticed in time.
            self.timer.as_mut().reset(deadline.min(now + Duration::from_secs(5)).into());
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Guarded<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buffer.filled().len();
        match Pin::new(&mut this.inner).poll_read(cx, buffer) {
            Poll::Ready(Ok(())) => {
                let bytes = &mut buffer.filled_mut()[before..];
                if !bytes.is_empty() {
                    this.on_bytes(bytes);
                }
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => this.poll_time(cx),
        }
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Guarded<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.inner).poll_write(cx, bytes));
        self.moved = Instant::now();
        Poll::Ready(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.inner).poll_write_vectored(cx, bytes));
        self.moved = Instant::now();
        Poll::Ready(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

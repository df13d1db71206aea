//! Between a client's bytes and the HTTP library: stops what [`Scanner`] finds, and whoever is too slow.
//!
//! A message that is stopped is made unreadable from there on, so that the library itself answers 400 in its turn and closes. Behind that
//! the client's bytes are at their end: the library may have read on in the place where the fault is. The access log has a line for it from whoever
//! has it: of a body the request, of a head the connection, when the library has answered; of a head that takes too long, which nobody answers, this.
//!
//! | while                                  | the client has                                      |
//! |----------------------------------------|-----------------------------------------------------|
//! | a head is coming, or the first one is due | `head_timeout` from its first byte, or from accepting |
//! | nothing is under way                   | `idle_timeout`                                      |
//! | nothing, and nobody listens there any more | [`CLOSING_IDLE`]                                |
//! | a body is coming                       | `idle_timeout` between two reads                    |
//! | an answer is under way                 | for ever                                            |
//! | what was written does not leave        | `idle_timeout`, also while an answer is under way   |
//! | it is no HTTP any more                 | for ever: the stream has a limit of its own         |
//!
//! Something leaves when the socket takes a byte. The kernel holds some of what it has taken, and says only when about a third of that is gone
//! that it takes more; so a client is seen to be slow in steps of that.
//!
//! A client that is silent for [`REST_AFTER`] between two requests is put to rest: the library is taken away with its buffers, which are
//! most of what a connection costs, and comes back with the next byte.
//!
//! INVARIANT: only what is between two messages rests: all that was read has been answered, and the answer has left.
//!
//! INVARIANT: nothing is handed on that the scanner has not seen, except for what is no HTTP/1.
//!
//! NOTE(perf): one timer for each connection, moved when it fires and not with each request.

use std::{
    future::poll_fn,
    io,
    mem::MaybeUninit,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use hyper::StatusCode;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep_until},
};
use weaved_api::balancer::ClientLimits;

use super::{
    connection::Client,
    head::{Fault, Scanner},
    limits::{CLOSING_IDLE, REST_AFTER},
};

/// Between two looks at a connection that is not idle: a listener that goes away is noticed in time.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);
/// Read at once when a client comes back from its rest. The usual head fits.
const WAKE_BYTES: usize = 1024;

/// A client's bytes.
pub(super) struct Guarded<T> {
    inner: T,
    /// None for what is not HTTP/1, or no longer.
    scanner: Option<Scanner>,
    /// A fault was found, or a head has not come to its end in time: nothing behind it is read.
    is_stopped: bool,
    limits: ClientLimits,
    client: Arc<Client>,
    /// When something moved last.
    moved: Instant,
    /// When the head that is coming began.
    head_since: Option<Instant>,
    /// All that was written has left.
    is_flushed: bool,
    /// Since when nothing of it leaves.
    stuck_since: Option<Instant>,
    /// Bytes that have ended a rest, for the next reads.
    held: Vec<u8>,
    timer: Pin<Box<Sleep>>,
}

impl<T> Guarded<T> {
    pub(super) fn new(inner: T, is_http2: bool, limits: ClientLimits, client: &Arc<Client>) -> Self {
        let now = Instant::now();
        Self {
            inner,
            scanner: (!is_http2).then(|| Scanner::new(limits.head_bytes as usize)),
            is_stopped: false,
            limits,
            client: Arc::clone(client),
            moved: now,
            head_since: Some(client.accepted),
            is_flushed: true,
            stuck_since: None,
            held: Vec::new(),
            timer: Box::pin(sleep_until((client.accepted + limits.head_timeout.min(REST_AFTER)).into())),
        }
    }

    fn on_bytes(&mut self, bytes: &mut [u8]) {
        self.moved = Instant::now();
        self.look_for_upgrade();
        let Some(scanner) = &mut self.scanner else {
            self.head_since = None;
            return;
        };
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

    /// What comes behind a request that has changed the protocol is no HTTP, however long the request was.
    fn look_for_upgrade(&mut self) {
        if self.scanner.is_some() && self.client.activity.is_upgraded() {
            self.scanner = None;
            self.head_since = None;
        }
    }

    fn stop(&mut self, fault: Fault) {
        tracing::debug!(client = %self.client.address, fault, "a request is stopped");
        self.client.worker.counters.ambiguous.add();
        self.is_stopped = true;
        self.scanner = None;
        self.head_since = None;
    }

    /// When something was written, or could not be.
    fn on_written<U>(&mut self, cx: &mut Context<'_>, outcome: Poll<io::Result<U>>) -> Poll<io::Result<U>> {
        if outcome.is_ready() {
            self.stuck_since = None;
            return outcome;
        }
        self.is_flushed = false;
        if self.stuck_since.is_none() {
            let now = Instant::now();
            self.stuck_since = Some(now);
            let latest = tokio::time::Instant::from(now + self.limits.idle_timeout);
            if self.timer.deadline() > latest {
                self.timer.as_mut().reset(latest);
            }
        }
        self.poll_time(cx).map(Err)
    }

    /// When the client's time is over, as things are.
    fn deadline(&self, now: Instant) -> Instant {
        let idle_timeout = self.limits.idle_timeout;
        if self.client.activity.is_upgraded() {
            return now + idle_timeout;
        }
        let stuck = self.stuck_since.map(|since| since + idle_timeout);
        let deadline = match self.head_since {
            Some(since) => since + self.limits.head_timeout,
            None => self.deadline_without_head(now),
        };
        stuck.map_or(deadline, |stuck| stuck.min(deadline))
    }

    fn deadline_without_head(&self, now: Instant) -> Instant {
        let is_idle = self.client.activity.is_idle();
        let closes_early = is_idle && self.is_flushed && self.client.slot.is_closing();
        let is_waiting = is_idle || self.scanner.as_ref().is_some_and(Scanner::is_in_body);
        match is_waiting {
            true if closes_early => self.moved + CLOSING_IDLE.min(self.limits.idle_timeout),
            true => self.moved + self.limits.idle_timeout,
            false => now + self.limits.idle_timeout,
        }
    }

    /// Pending while there is time.
    fn poll_time(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        loop {
            ready!(self.timer.as_mut().poll(cx));
            let now = Instant::now();
            self.look_for_upgrade();
            let deadline = self.deadline(now);
            if deadline <= now {
                let is_idle = self.head_since.is_none() && self.stuck_since.is_none() && self.client.activity.is_idle();
                if !is_idle {
                    self.client.worker.counters.client_timeouts.add();
                }
                self.log_late_head();
                return Poll::Ready(io::ErrorKind::TimedOut.into());
            }
            let mut look_at = deadline.min(now + LOOK_INTERVAL);
            if self.may_rest() {
                let rest_at = self.moved + REST_AFTER;
                if rest_at <= now {
                    self.client.activity.rest();
                } else {
                    look_at = look_at.min(rest_at);
                }
            }
            self.timer.as_mut().reset(look_at.into());
        }
    }

    /// Who has not said a word has asked for nothing, and what has become a request has a line of its own.
    fn log_late_head(&mut self) {
        let since = self.head_since.filter(|_| self.scanner.as_ref().is_some_and(Scanner::is_in_head));
        if let Some(since) = since.filter(|_| !self.is_stopped) {
            self.is_stopped = true;
            self.client.log_refused(StatusCode::REQUEST_TIMEOUT, since);
        }
    }

    fn may_rest(&self) -> bool {
        self.is_flushed && self.client.activity.is_idle() && self.scanner.as_ref().is_some_and(Scanner::is_between)
    }

    /// Waits for the next byte, or for the end, with nothing held for it.
    pub(super) async fn rest(&mut self) -> io::Result<()>
    where
        T: AsyncRead + Unpin,
    {
        poll_fn(|cx| self.poll_wake(cx)).await?;
        self.client.activity.wake();
        Ok(())
    }

    fn poll_wake(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>
    where
        T: AsyncRead + Unpin,
    {
        let mut bytes = [MaybeUninit::uninit(); WAKE_BYTES];
        let mut buffer = ReadBuf::uninit(&mut bytes);
        match Pin::new(&mut self.inner).poll_read(cx, &mut buffer)? {
            Poll::Ready(()) => {
                self.held = buffer.filled().to_vec();
                Poll::Ready(Ok(()))
            }
            Poll::Pending => self.poll_time(cx).map(Err),
        }
    }

    /// From what has ended the rest, or from the client.
    fn poll_bytes(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>>
    where
        T: AsyncRead + Unpin,
    {
        if self.held.is_empty() {
            return Pin::new(&mut self.inner).poll_read(cx, buffer);
        }
        let len = self.held.len().min(buffer.remaining());
        buffer.put_slice(&self.held[..len]);
        self.held.drain(..len);
        if self.held.is_empty() {
            self.held = Vec::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Guarded<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.is_stopped {
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        match this.poll_bytes(cx, buffer) {
            Poll::Ready(Ok(())) => {
                let bytes = &mut buffer.filled_mut()[before..];
                if !bytes.is_empty() {
                    this.on_bytes(bytes);
                }
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => this.poll_time(cx).map(Err),
        }
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Guarded<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.is_flushed = false;
        let written = Pin::new(&mut self.inner).poll_write(cx, bytes);
        let written = ready!(self.on_written(cx, written));
        self.moved = Instant::now();
        Poll::Ready(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.is_flushed = false;
        let written = Pin::new(&mut self.inner).poll_write_vectored(cx, bytes);
        let written = ready!(self.on_written(cx, written));
        self.moved = Instant::now();
        Poll::Ready(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.inner).poll_flush(cx);
        ready!(self.on_written(cx, flushed))?;
        self.is_flushed = true;
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let ended = Pin::new(&mut self.inner).poll_shutdown(cx);
        self.on_written(cx, ended)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;
    use crate::balancer::connection;

    #[tokio::test]
    async fn only_what_is_between_two_messages_may_rest() {
        let client = connection::sample();
        let (mut far, near) = duplex(64);
        let mut guarded = Guarded::new(near, false, ClientLimits::default(), &client);
        for (piece, may_rest) in
            [("POST / HTTP/1.1\r\nHost: a\r\n", false), ("Content-Length: 4\r\n\r\nab", false), ("cd", true)]
        {
            far.write_all(piece.as_bytes()).await.unwrap();
            guarded.read_exact(&mut vec![0; piece.len()]).await.unwrap();
            assert_eq!(guarded.may_rest(), may_rest, "{piece:?}");
        }
        let active = client.activity.begin();
        assert!(!guarded.may_rest(), "an answer is under way");
        guarded.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
        drop(active);
        assert!(!guarded.may_rest(), "it has not left");
        guarded.flush().await.unwrap();
        assert!(guarded.may_rest());
    }

    #[tokio::test]
    async fn what_comes_behind_an_upgrade_is_not_looked_at_though_the_request_had_a_length() {
        let client = connection::sample();
        let limits = ClientLimits { head_timeout: Duration::from_millis(50), ..ClientLimits::default() };
        let (mut far, near) = duplex(256);
        let mut guarded = Guarded::new(near, false, limits, &client);
        let head = b"POST /exec HTTP/1.1\r\nHost: a\r\nUpgrade: SPDY/3.1\r\nContent-Length: 0\r\n\r\n";
        far.write_all(head).await.unwrap();
        guarded.read_exact(&mut vec![0; head.len()]).await.unwrap();
        let _stream = client.activity.begin();
        client.activity.upgrade();
        let bytes = b"\x80\x03\n no head";
        far.write_all(bytes).await.unwrap();
        let mut passed = vec![0; bytes.len()];
        guarded.read_exact(&mut passed).await.unwrap();
        assert_eq!(passed, bytes);
        assert_eq!(client.worker.counters.ambiguous.value(), 0);
        tokio::time::timeout(Duration::from_millis(200), guarded.read_u8()).await.expect_err("no head is waited for");
    }

    #[tokio::test]
    async fn nothing_behind_a_fault_is_read_not_even_in_later_pieces() {
        let client = connection::sample();
        let (mut far, near) = duplex(1024);
        let mut guarded = Guarded::new(near, false, ClientLimits::default(), &client);
        let mut passed = Vec::new();
        for piece in [
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;a",
            "\n",
            "\r\nhello\r\n0\r\n\r\nGET / HTTP/1.1\nHost: a\n\n",
        ] {
            far.write_all(piece.as_bytes()).await.unwrap();
            guarded.read_buf(&mut passed).await.unwrap();
        }
        assert!(passed.ends_with(b"\r\n\r\n5;a\0"), "{passed:?}");
        assert_eq!(guarded.read_buf(&mut passed).await.unwrap(), 0, "it looks like the end");
        assert_eq!(client.worker.counters.ambiguous.value(), 1);
    }

    #[tokio::test]
    async fn a_client_that_takes_nothing_for_the_idle_time_is_ended_and_a_slow_one_is_not() {
        let client = connection::sample();
        let _answer = client.activity.begin();
        let limits = ClientLimits { idle_timeout: Duration::from_millis(400), ..ClientLimits::default() };
        let (mut far, near) = duplex(64);
        let mut guarded = Guarded::new(near, false, limits, &client);
        far.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        guarded.read_exact(&mut [0; 27]).await.unwrap();
        let slow = async {
            for _ in 0..6 {
                tokio::time::sleep(Duration::from_millis(100)).await;
                far.read_exact(&mut [0; 64]).await.unwrap();
            }
        };
        let (sent, ()) = tokio::join!(guarded.write_all(&[b'x'; 7 * 64]), slow);
        sent.unwrap();
        assert_eq!(client.worker.counters.client_timeouts.value(), 0);
        let sent = tokio::time::timeout(Duration::from_secs(20), guarded.write_all(b"x")).await;
        assert_eq!(sent.expect("an end").unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(client.worker.counters.client_timeouts.value(), 1);
        drop(far);
    }

    #[tokio::test]
    async fn a_listener_that_goes_away_waits_for_what_has_not_left() {
        let client = connection::sample();
        let (mut far, near) = duplex(64);
        let mut guarded = Guarded::new(near, false, ClientLimits::default(), &client);
        far.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        guarded.read_exact(&mut [0; 27]).await.unwrap();
        client.slot.close();
        let closes_early = |guarded: &Guarded<_>| guarded.deadline(guarded.moved) <= guarded.moved + CLOSING_IDLE;
        assert!(closes_early(&guarded));
        let sent = tokio::time::timeout(Duration::from_millis(20), guarded.write_all(&[0; 65])).await;
        assert!(sent.is_err() && !closes_early(&guarded));
    }

    #[tokio::test]
    async fn what_ends_a_rest_is_read_and_looked_at_piece_by_piece() {
        let client = connection::sample();
        let (mut far, near) = duplex(256);
        let mut guarded = Guarded::new(near, false, ClientLimits::default(), &client);
        let head = b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET";
        far.write_all(head).await.unwrap();
        guarded.rest().await.unwrap();
        for byte in head {
            assert_eq!(guarded.read_u8().await.unwrap(), *byte);
        }
        assert!(!guarded.may_rest(), "the next head has begun");
        far.write_all(b" / HTTP/9.9\r\n\r\n").await.unwrap();
        guarded.read_exact(&mut [0; 15]).await.unwrap();
        assert_eq!(client.worker.counters.ambiguous.value(), 1);
    }
}

//! Bodies on their way through: nothing is copied, everything is accounted for.
//!
//! A request's body is cut off where it gets too long. An answer's body holds its [`Flight`]: as long as somebody reads, the
//! request is in flight; when the end has passed, the connection to the backend is free for the next request. It is broken off when its backend
//! does not go on with it ([`Patience`]); a client that takes nothing of it is the guard's matter.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use tokio::time::{Sleep, sleep};

use super::{flight::Flight, headers, refusal::Refusal};

type Error = Box<dyn std::error::Error + Send + Sync>;

/// The body of a request.
#[derive(Debug)]
pub(super) struct RequestBody {
    /// None for none: the only one that can be sent twice.
    inner: Option<Incoming>,
    left: u64,
    progress: Option<Arc<Progress>>,
}

/// How far a request's body is, for who waits for the answer.
#[derive(Debug, Default)]
pub(super) struct Progress {
    pub(super) bytes: AtomicU64,
    pub(super) is_over: AtomicBool,
    /// It is the client that has to go on: what has come was taken.
    pub(super) is_awaited: AtomicBool,
    is_too_long: AtomicBool,
    is_broken: AtomicBool,
}

impl Progress {
    /// What the client is told if it is its own fault that the body has not come to its end.
    pub(super) fn refusal(&self) -> Option<Refusal> {
        if self.is_too_long.load(Relaxed) {
            return Some(Refusal::BodyTooLong);
        }
        self.is_broken.load(Relaxed).then_some(Refusal::BodyBroken)
    }
}

/// The body of an answer.
#[derive(Debug)]
pub(super) enum AnswerBody {
    Own(Option<Bytes>),
    Passed { inner: Incoming, flight: Flight, patience: Option<Patience> },
}

/// How long a backend may take for the next piece of an answer.
#[derive(Debug)]
pub(super) struct Patience {
    limit: Duration,
    /// Since when one is waited for.
    since: Option<Instant>,
    /// NOTE(perf): made when something is waited for, which is not with most answers, and moved when it fires and not with each piece.
    timer: Option<Pin<Box<Sleep>>>,
}

impl Patience {
    /// Ready when it is over. Asked as long as no piece comes.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let (limit, since) = (self.limit, *self.since.get_or_insert_with(Instant::now));
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(limit)));
        loop {
            ready!(timer.as_mut().poll(cx));
            let left = limit.saturating_sub(since.elapsed());
            if left.is_zero() {
                return Poll::Ready(());
            }
            timer.set(sleep(left));
        }
    }
}

impl RequestBody {
    pub(super) fn none() -> Self {
        Self { inner: None, left: 0, progress: None }
    }

    /// At most `limit` bytes of it.
    pub(super) fn new(inner: Incoming, limit: u64) -> Self {
        if inner.is_end_stream() {
            return Self::none();
        }
        Self { inner: Some(inner), left: limit, progress: Some(Arc::default()) }
    }

    /// None without a body.
    pub(super) fn progress(&self) -> Option<Arc<Progress>> {
        self.progress.clone()
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = &mut *self;
        let Some(inner) = &mut this.inner else { return Poll::Ready(None) };
        let frame = Pin::new(&mut *inner).poll_frame(cx);
        let Some(progress) = &this.progress else { return frame.map_err(Into::into) };
        progress.is_awaited.store(frame.is_pending(), Relaxed);
        match ready!(frame) {
            Some(Ok(mut frame)) => {
                if let Some(trailers) = frame.trailers_mut() {
                    headers::clean_trailers(trailers);
                }
                let len = frame.data_ref().map_or(0, Bytes::len) as u64;
                if len > this.left {
                    progress.is_too_long.store(true, Relaxed);
                    return Poll::Ready(Some(Err("the body is longer than the listener takes".into())));
                }
                this.left -= len;
                progress.bytes.fetch_add(len, Relaxed);
                // Nobody asks again when nothing more can come.
                progress.is_over.store(inner.is_end_stream(), Relaxed);
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(error)) => {
                progress.is_broken.store(true, Relaxed);
                Poll::Ready(Some(Err(error.into())))
            }
            None => {
                progress.is_over.store(true, Relaxed);
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

impl AnswerBody {
    /// A sentence of ours.
    pub(super) fn text(text: String) -> Self {
        Self::Own(Some(text.into()))
    }

    pub(super) fn empty() -> Self {
        Self::Own(None)
    }

    /// A backend's. `limit` is how long it may take for each piece; None for ever.
    pub(super) fn passed(inner: Incoming, mut flight: Flight, limit: Option<Duration>) -> Self {
        if inner.is_end_stream() {
            flight.finish();
        }
        let patience = limit.map(|limit| Patience { limit, since: None, timer: None });
        Self::Passed { inner, flight, patience }
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        match self.get_mut() {
            Self::Own(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Passed { inner, flight, patience } => {
                let Poll::Ready(frame) = Pin::new(&mut *inner).poll_frame(cx) else {
                    let Some(patience) = patience else { return Poll::Pending };
                    ready!(patience.poll_end(cx));
                    flight.on_stalled();
                    return Poll::Ready(Some(Err("the backend does not go on with its answer".into())));
                };
                if let Some(patience) = patience {
                    patience.since = None;
                }
                match &frame {
                    Some(Ok(frame)) => {
                        flight.on_bytes(frame.data_ref().map_or(0, Bytes::len));
                        if let Some(trailers) = frame.trailers_ref() {
                            flight.on_trailers(trailers);
                        }
                        // Nobody asks again when nothing more can come, or when all has come that was announced: of HTTP/2 the end may be a
                        // frame of its own.
                        if inner.is_end_stream() || inner.size_hint().exact() == Some(0) {
                            flight.finish();
                        }
                    }
                    Some(Err(_)) => flight.on_broken(),
                    None => flight.finish(),
                }
                Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Own(bytes) => bytes.is_none(),
            Self::Passed { inner, .. } => inner.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Own(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64),
            Self::Passed { inner, .. } => inner.size_hint(),
        }
    }
}

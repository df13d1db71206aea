//! One connection to a backend as a drain sees it.
//!
//! Over a connection of HTTP/2 some requests may have their answers and others not, so it cannot be ended with those that have none: they are
//! told, and leave it to the others. And the library spreads such a connection over several tasks, so whoever ends it has to tell each of them.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
};

use hyper::rt::Executor;
use tokio::sync::Notify;

/// What a backend takes at once, as long as it has not said.
const USUAL_ROOM: u32 = 100;

/// One of them.
#[derive(Debug, Default)]
pub(super) struct Line {
    flows: AtomicU32,
    /// Requests that go over it.
    shares: AtomicU32,
    /// How many may at once; 0 as long as the backend has not said.
    room: AtomicU32,
    is_doubtful: AtomicBool,
    is_cut: AtomicBool,
    is_ended: AtomicBool,
    news: Notify,
}

/// Spawns tasks that end with their line.
#[derive(Clone, Debug)]
pub(super) struct LineExecutor(pub(super) Arc<Line>);

/// An answer that has begun and not ended.
#[derive(Debug)]
pub(super) struct Flow(Arc<Line>);

/// A request that goes over it, from before it is sent until its answer has ended.
#[derive(Debug)]
pub(super) struct Share(Arc<Line>);

impl Line {
    /// One more request goes over it.
    pub(super) fn share(self: &Arc<Self>) -> Share {
        self.shares.fetch_add(1, Relaxed);
        Share(Arc::clone(self))
    }

    /// True while requests go over it.
    pub(super) fn is_shared(&self) -> bool {
        self.shares.load(Relaxed) > 0
    }

    /// The backend takes so many at once. One that takes none is not asked over connection after connection.
    pub(super) fn set_room(&self, count: usize) {
        self.room.store(u32::try_from(count).unwrap_or(u32::MAX).max(1), Relaxed);
    }

    /// Whether one more would be taken.
    pub(super) fn has_room(&self) -> bool {
        let room = match self.room.load(Relaxed) {
            0 => USUAL_ROOM,
            told => told,
        };
        self.shares.load(Relaxed) < room
    }

    /// No new request goes over it; what does goes on.
    pub(super) fn doubt(&self) {
        self.is_doubtful.store(true, Relaxed);
    }

    pub(super) fn is_doubtful(&self) -> bool {
        self.is_doubtful.load(Relaxed)
    }

    /// An answer begins.
    pub(super) fn begin(self: &Arc<Self>) -> Flow {
        self.flows.fetch_add(1, Relaxed);
        Flow(Arc::clone(self))
    }

    /// True while answers come over it.
    pub(super) fn is_flowing(&self) -> bool {
        self.flows.load(Relaxed) > 0
    }

    /// Nobody waits there for an answer any more.
    pub(super) fn cut(&self) {
        self.is_cut.store(true, Relaxed);
        self.news.notify_waiters();
    }

    /// Nothing goes over it any more.
    pub(super) fn end(&self) {
        self.is_ended.store(true, Relaxed);
        self.cut();
    }

    pub(super) fn is_cut(&self) -> bool {
        self.is_cut.load(Relaxed)
    }

    /// Returns when it is cut. May be dropped at any time.
    pub(super) async fn until_cut(&self) {
        self.until(&self.is_cut).await;
    }

    async fn until(&self, is_so: &AtomicBool) {
        loop {
            let news = self.news.notified();
            if is_so.load(Relaxed) {
                return;
            }
            news.await;
        }
    }
}

impl<F: Future<Output: Send> + Send + 'static> Executor<F> for LineExecutor {
    fn execute(&self, task: F) {
        let line = Arc::clone(&self.0);
        tokio::spawn(async move {
            tokio::select! {
                biased;
                () = line.until(&line.is_ended) => {}
                _ = task => {}
            }
        });
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.0.shares.fetch_sub(1, Relaxed);
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        self.0.flows.fetch_sub(1, Relaxed);
    }
}

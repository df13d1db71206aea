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

/// One of them.
#[derive(Debug, Default)]
pub(super) struct Line {
    flows: AtomicU32,
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

impl Line {
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

impl Drop for Flow {
    fn drop(&mut self) {
        self.0.flows.fetch_sub(1, Relaxed);
    }
}

//! Names that are not ours: from the cache, or from the resolvers of the host, one after the other.
//!
//! The same question is under way once: whoever asks it meanwhile waits for the same answer. That also ends a loop, if a resolver of the
//! host sends our question back to us: it joins itself and fails after [`FORWARD_PATIENCE`].
//!
//! INVARIANT: at most [`MAX_FORWARDED`] questions are under way.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use hickory_proto::op::{Message, Query, ResponseCode};
use tokio::sync::{Semaphore, watch};

use super::{
    cache::{Cache, Key},
    names::lower_text,
    resolv_conf::ResolvConf,
    upstream,
};
use crate::{
    limits::{FORWARD_PATIENCE, MAX_FORWARDED, UPSTREAM_PATIENCE},
    stats::Counters,
};

/// No answer, for this reason. The client gets SERVFAIL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ForwardError {
    #[error("/etc/resolv.conf names no resolver that is not weaved itself")]
    NoUpstream,
    #[error("none of the resolvers in /etc/resolv.conf gives an answer")]
    Failed,
    #[error("too many questions wait for the resolvers in /etc/resolv.conf")]
    Overloaded,
}

type Outcome = Result<Arc<Message>, ForwardError>;

/// Asks for us.
#[derive(Debug)]
pub(crate) struct Forwarder {
    counters: Arc<Counters>,
    permits: Semaphore,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    cache: Cache,
    resolv_conf: ResolvConf,
    /// Addresses where we listen.
    own: Vec<IpAddr>,
    under_way: HashMap<Key, watch::Receiver<Option<Outcome>>>,
}

/// Takes a question out of those under way, also when whoever asked it has gone away.
struct UnderWay<'a> {
    forwarder: &'a Forwarder,
    key: Key,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.forwarder.lock().under_way.remove(&self.key);
    }
}

impl Forwarder {
    pub(crate) fn new(resolv_conf: PathBuf, counters: Arc<Counters>) -> Self {
        let inner = Inner {
            cache: Cache::default(),
            resolv_conf: ResolvConf::new(resolv_conf),
            own: Vec::new(),
            under_way: HashMap::new(),
        };
        Self { counters, permits: Semaphore::new(MAX_FORWARDED), inner: Mutex::new(inner) }
    }

    /// Says where we listen.
    pub(crate) fn set_own(&self, own: Vec<IpAddr>) {
        self.lock().own = own;
    }

    /// Whom it would ask.
    pub(crate) fn upstreams(&self) -> Vec<SocketAddr> {
        let inner = &mut *self.lock();
        inner.resolv_conf.upstreams(&inner.own, Instant::now())
    }

    /// How many answers are kept.
    pub(crate) fn cached_count(&self) -> usize {
        self.lock().cache.len()
    }

    /// The answer to a question, without signatures.
    pub(crate) async fn resolve(&self, query: &Query) -> Outcome {
        self.resolve_with(query, false).await
    }

    /// The answer to a question.
    pub(crate) async fn resolve_with(&self, query: &Query, dnssec: bool) -> Outcome {
        let key = Key { name: lower_text(query.name()), kind: query.query_type(), dnssec };
        let sender = {
            let mut inner = self.lock();
            if let Some(message) = inner.cache.find(&key, Instant::now()) {
                self.counters.cache_hits.add();
                return Ok(message);
            }
            if let Some(receiver) = inner.under_way.get(&key).cloned() {
                Err(receiver)
            } else {
                let (sender, receiver) = watch::channel(None);
                inner.under_way.insert(key.clone(), receiver);
                Ok(sender)
            }
        };
        match sender {
            Err(receiver) => self.join(receiver).await,
            Ok(sender) => {
                let under_way = UnderWay { forwarder: self, key: key.clone() };
                let outcome = self.ask(query, dnssec, key).await;
                sender.send_replace(Some(outcome.clone()));
                drop(under_way);
                outcome
            }
        }
    }

    async fn join(&self, mut receiver: watch::Receiver<Option<Outcome>>) -> Outcome {
        self.counters.joined.add();
        // Whoever asked may have gone away: then there is no answer.
        let outcome = tokio::time::timeout(FORWARD_PATIENCE, receiver.wait_for(Option::is_some)).await;
        let found = outcome.ok().and_then(Result::ok).and_then(|outcome| outcome.clone());
        found.unwrap_or(Err(ForwardError::Failed)).inspect_err(|_| self.counters.upstream_failed.add())
    }

    async fn ask(&self, query: &Query, dnssec: bool, key: Key) -> Outcome {
        let Ok(_permit) = self.permits.try_acquire() else {
            self.counters.overloaded.add();
            return Err(ForwardError::Overloaded);
        };
        let upstreams = self.upstreams();
        if upstreams.is_empty() {
            self.counters.no_upstream.add();
            return Err(ForwardError::NoUpstream);
        }
        let attempts = self.ask_in_turn(&upstreams, query, dnssec);
        let Ok(Some(message)) = tokio::time::timeout(FORWARD_PATIENCE, attempts).await else {
            self.counters.upstream_failed.add();
            return Err(ForwardError::Failed);
        };
        let message = Arc::new(message);
        self.lock().cache.insert(key, &message, Instant::now());
        Ok(message)
    }

    /// Each twice: a datagram may have been lost.
    async fn ask_in_turn(&self, upstreams: &[SocketAddr], query: &Query, dnssec: bool) -> Option<Message> {
        for upstream in upstreams.iter().chain(upstreams) {
            match upstream::ask(*upstream, query, dnssec, UPSTREAM_PATIENCE, &self.counters).await {
                Ok(message) if is_answer(message.metadata.response_code) => return Some(message),
                Ok(_) => self.counters.upstream_attempts_failed.add(),
                Err(error) => {
                    self.counters.upstream_attempts_failed.add();
                    tracing::debug!(%upstream, %error, "a resolver gives no answer");
                }
            }
        }
        None
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing that holds the lock can leave half a change.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Other codes say that this resolver cannot or will not, which the next one may.
fn is_answer(code: ResponseCode) -> bool {
    matches!(code, ResponseCode::NoError | ResponseCode::NXDomain)
}

#[cfg(test)]
mod tests;

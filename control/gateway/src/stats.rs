//! What is counted.

use std::sync::atomic::{AtomicU64, Ordering};

/// Declares what is counted somewhere: a struct of [`stats::Count`]s, each with a sentence without its full stop as comment.
#[macro_export]
macro_rules! counters {
    ($vis:vis $group:ident: $($(#[doc = $doc:literal])+ $name:ident,)*) => {
        /// Counts since the start.
        #[derive(Debug, Default)]
        $vis struct $group { $($(#[doc = $doc])+ $vis $name: $crate::stats::Count,)* }

        impl $group {
            /// All of them, with a sentence each.
            $vis fn report(&self) -> Vec<weaved_api::Counter> {
                vec![$(weaved_api::Counter {
                    name: stringify!($name).into(),
                    help: concat!($($doc),+).trim().into(),
                    value: self.$name.value(),
                },)*]
            }
        }
    };
}

counters! { pub(crate) Counters:
    /// Questions over UDP
    queries_udp,
    /// Questions over TCP
    queries_tcp,
    /// Answers with records of the cluster
    answered,
    /// Answers that a name of the cluster is there but has no such record
    no_data,
    /// Answers that there is no such name in the cluster
    no_name,
    /// Questions for other names
    foreign,
    /// Of those, answered from memory
    cache_hits,
    /// Of those, joined to the same question that was under way
    joined,
    /// Of those, answered SERVFAIL: no resolver of the host gave an answer
    upstream_failed,
    /// Of those, answered SERVFAIL: /etc/resolv.conf names no resolver that is not ourselves
    no_upstream,
    /// Of those, answered SERVFAIL: too many were under way
    overloaded,
    /// Resolvers of the host that did not answer in time or answered wrongly
    upstream_attempts_failed,
    /// Datagrams from resolvers that did not belong to the question: late or forged
    upstream_mismatched,
    /// Answers that were cut, so that the client asks again over TCP
    truncated,
    /// Questions refused: zone transfers, other classes, foreign names where they are not served
    refused,
    /// Operations other than questions
    not_implemented,
    /// Messages that are no DNS
    malformed,
    /// Messages that are answers, dropped
    unasked,
    /// Questions answered SERVFAIL because control has told no names yet
    no_state,
    /// TCP connections closed because there were too many, of all clients or of one address
    tcp_refused,
    /// Answers that could not be sent
    send_failed,
}

/// One counter.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// One more.
    pub fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// How many.
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

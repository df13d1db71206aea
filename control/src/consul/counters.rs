//! What the API counts: clients, requests, and what it refuses before anybody else sees it.

use std::sync::atomic::{AtomicU64, Ordering};

use weaved_api::Counter;

/// Why a client is refused by the API itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No room for its connection.
    Connection,
    /// No room for its body.
    Body,
    /// No room for its answer.
    Answer,
    /// Not understood.
    BadRequest,
    /// Without the operator's token.
    Token,
    /// A body beyond the limit.
    BodyTooLong,
    /// A body that did not come, or broke off.
    BodyUnfinished,
    /// Too slow with its head, or with taking its answer.
    Timeout,
}

impl Refusal {
    /// All of them.
    const ALL: [Self; 8] = [
        Self::Connection,
        Self::Body,
        Self::Answer,
        Self::BadRequest,
        Self::Token,
        Self::BodyTooLong,
        Self::BodyUnfinished,
        Self::Timeout,
    ];

    /// A word for programs, the balancer's where it means the same, and a sentence.
    const fn told(self) -> (&'static str, &'static str) {
        match self {
            Self::Connection => {
                ("connections_refused", "Connections that found no room, or whose address had its share")
            }
            Self::Body => ("bodies_refused", "Requests whose bodies found no room, or whose address had its share"),
            Self::Answer => ("answers_refused", "Requests whose answers found no room, or whose address had its share"),
            Self::BadRequest => {
                ("bad_requests", "Requests that were not understood, or by a method that the path has not")
            }
            Self::Token => ("token_refused", "Requests without the operator's token"),
            Self::BodyTooLong => ("body_too_long", "Requests with a body beyond the limit"),
            Self::BodyUnfinished => ("body_unfinished", "Requests whose bodies broke off, or did not come in time"),
            Self::Timeout => {
                ("client_timeouts", "Connections closed because the client was slow with a head or an answer")
            }
        }
    }
}

/// All of it, for everybody who serves clients.
#[derive(Debug, Default)]
pub struct Counters {
    connections: AtomicU64,
    closed: AtomicU64,
    requests: AtomicU64,
    refusals: [AtomicU64; Refusal::ALL.len()],
}

impl Counters {
    /// A client has found room.
    pub(super) fn on_connection(&self) {
        self.connections.fetch_add(1, Ordering::Relaxed);
    }

    /// One of these has gone.
    pub(super) fn on_closed(&self) {
        self.closed.fetch_add(1, Ordering::Relaxed);
    }

    /// A request has come.
    pub(super) fn on_request(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    /// Somebody was refused.
    pub(super) fn on_refused(&self, why: Refusal) {
        self.refusals[why as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// How many were refused for this.
    #[cfg(test)]
    pub(super) fn refused(&self, why: Refusal) -> u64 {
        self.refusals[why as usize].load(Ordering::Relaxed)
    }

    /// Clients at this moment.
    pub fn open(&self) -> u64 {
        // In this order: one that goes meanwhile is counted, and not as less than none.
        let closed = self.closed.load(Ordering::Relaxed);
        self.connections.load(Ordering::Relaxed).saturating_sub(closed)
    }

    /// What only grows.
    pub fn all(&self) -> Vec<Counter> {
        let counter = |name: &str, help: &str, value: &AtomicU64| Counter {
            name: name.into(),
            help: help.into(),
            value: value.load(Ordering::Relaxed),
        };
        let refusals = Refusal::ALL.into_iter().zip(&self.refusals).map(|(why, value)| {
            let (name, help) = why.told();
            counter(name, help, value)
        });
        [
            counter("connections", "Connections of clients", &self.connections),
            counter("requests", "Requests of clients", &self.requests),
        ]
        .into_iter()
        .chain(refusals)
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_is_counted_under_its_own_name() {
        for (at, why) in Refusal::ALL.into_iter().enumerate() {
            let counters = Counters::default();
            counters.on_refused(why);
            let told = counters.all();
            let grown: Vec<_> =
                told.iter().filter(|counter| counter.value == 1).map(|counter| &*counter.name).collect();
            assert_eq!((why as usize, grown), (at, vec![why.told().0]));
        }
    }

    #[test]
    fn clients_that_have_gone_are_not_open() {
        let counters = Counters::default();
        counters.on_connection();
        counters.on_connection();
        counters.on_closed();
        assert_eq!(counters.open(), 1);
    }
}

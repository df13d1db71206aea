//! Which path is answered by whom.

use std::time::Instant;

use hyper::{Method, StatusCode};
use tokio::sync::watch;

use super::{
    agent,
    answer::{Answer, Standing},
    catalog,
    kv::{self, Keys, Turns},
    methods, not_allowed, not_here,
    request::Ask,
    server::Handler,
    session, txn,
};
use crate::{
    daemon::Views,
    kv::{Contact, Reach},
    registration::agent::AgentHandle,
};

/// Everything that routes need to answer.
pub struct Routes<K> {
    /// What runs where.
    pub views: Views,
    /// Whether this node is with the others.
    pub contact: watch::Receiver<Contact>,
    /// The key-value store.
    pub keys: K,
    /// Who reads a large part of the store.
    pub turns: Turns,
    /// Registrations of this node.
    pub agent: AgentHandle,
    /// What a client must know; None for an open door.
    pub token: Option<String>,
}

impl<K: Keys + 'static> Handler for Routes<K> {
    async fn answer(&self, ask: Ask) -> Answer {
        match self.routed(&ask).await {
            Ok(answer) | Err(answer) => answer,
        }
    }

    fn standing(&self) -> Standing {
        Standing { index: self.views.borrow().index.0, reach: self.reach() }
    }

    fn admits(&self, token: Option<&str>) -> bool {
        match &self.token {
            None => true,
            Some(own) => token.is_some_and(|given| is_same(own.as_bytes(), given.as_bytes())),
        }
    }
}

impl<K: Keys> Routes<K> {
    async fn routed(&self, ask: &Ask) -> Result<Answer, Answer> {
        catalog::refuse_foreign(&ask.query)?;
        if let Some(methods) = methods::of(&ask.path) {
            if ask.method == Method::OPTIONS {
                return Ok(Answer::done().allowing(methods));
            }
            if !methods.have(&ask.method) {
                return Err(not_allowed(&ask.method, methods));
            }
        }
        self.demand_consistency(ask)?;
        let answer = self.route(ask).await?.ok_or_else(|| {
            Answer::refused(StatusCode::NOT_FOUND, format!("there is no /v1/{} for {}", ask.path, ask.method))
        })?;
        // It may have waited for long.
        self.demand_consistency(ask)?;
        Ok(answer)
    }

    fn reach(&self) -> Reach {
        self.contact.borrow().reach(Instant::now())
    }

    /// Who asks for `consistent` wants no answer from a node that is cut off. What the agent says is of this node alone.
    fn demand_consistency(&self, ask: &Ask) -> Result<(), Answer> {
        let is_of_cluster = ["kv", "catalog", "health", "session"].iter().any(|area| ask.behind(area).is_some());
        if !(ask.is_get() && is_of_cluster && ask.query.has("consistent")) {
            return Ok(());
        }
        match self.reach() {
            Reach { lost_for_ms: None, .. } => Ok(()),
            Reach { answering, voters, .. } => {
                let reason = format!(
                    "No cluster leader: {answering} of {voters} voters are alive, which is no majority; without `consistent` this \
                     node answers with what it has"
                );
                Err(Answer::refused(StatusCode::INTERNAL_SERVER_ERROR, reason).because("no-majority"))
            }
        }
    }

    async fn route(&self, ask: &Ask) -> Result<Option<Answer>, Answer> {
        if let Some(key) = ask.behind("kv") {
            return kv::answer(ask, key, &self.keys, &self.turns).await.map(Some);
        }
        let (area, rest) = ask.path.split_once('/').unwrap_or((&ask.path, ""));
        match (area, rest) {
            ("catalog", "register") if ask.is_put() => {
                agent::catalog_register(ask, &self.agent, &self.views).await.map(Some)
            }
            ("catalog", "deregister") if ask.is_put() => {
                agent::catalog_deregister(ask, &self.agent, &self.views).await.map(Some)
            }
            ("catalog", rest) => catalog::catalog(ask, rest, &self.views).await,
            ("health", rest) => catalog::health(ask, rest, &self.views).await,
            ("agent", rest) => agent::answer(ask, rest, &self.agent, &self.views).await,
            ("session", rest) => session::answer(ask, rest, &self.keys, &self.turns, &self.views).await,
            ("txn", "") if ask.is_put() => txn::answer(ask, &self.keys).await.map(Some),
            ("status", rest) => Ok(catalog::status(rest, &self.views.borrow())),
            (
                "event" | "query" | "coordinate" | "snapshot" | "operator" | "acl" | "connect" | "config"
                | "discovery-chain",
                _,
            ) => Err(not_here("weaved has no such thing; services, keys, sessions and checks are what it answers for")),
            _ => Ok(None),
        }
    }
}

/// Takes as long for a wrong token as for a right one of its length.
fn is_same(own: &[u8], given: &[u8]) -> bool {
    own.len() == given.len() && own.iter().zip(given).fold(0, |differences, (a, b)| differences | (a ^ b)) == 0
}

#[cfg(test)]
mod tests;

//! Which path is answered by whom.

use hyper::{Method, StatusCode};

use super::{
    agent,
    answer::{Answer, Standing},
    catalog,
    kv::{self, Keys, Turns},
    not_allowed, not_here,
    request::Ask,
    server::Handler,
    session, txn,
};
use crate::{daemon::Views, node::MemberState, registration::agent::AgentHandle};

/// Everything that routes need to answer.
pub struct Routes<K> {
    /// What runs where.
    pub views: Views,
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
        match self.route(&ask).await {
            Ok(Some(answer)) | Err(answer) => answer,
            Ok(None) => unknown(&ask),
        }
    }

    fn standing(&self) -> Standing {
        let view = self.views.borrow();
        let up_count = view.nodes.values().filter(|node| node.facts.state == MemberState::Up).count();
        Standing { index: view.index.0, has_majority: up_count * 2 > view.nodes.len() }
    }

    fn admits(&self, token: Option<&str>) -> bool {
        match &self.token {
            None => true,
            Some(own) => token.is_some_and(|given| is_same(own.as_bytes(), given.as_bytes())),
        }
    }
}

impl<K: Keys> Routes<K> {
    async fn route(&self, ask: &Ask) -> Result<Option<Answer>, Answer> {
        catalog::refuse_foreign(&ask.query)?;
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
            ("session", rest) => session::answer(ask, rest, &self.keys, &self.views).await,
            ("txn", "") if ask.is_put() => txn::answer(ask, &self.keys).await.map(Some),
            ("status", rest) if ask.method == Method::GET => Ok(catalog::status(rest, &self.views.borrow())),
            (
                "event" | "query" | "coordinate" | "snapshot" | "operator" | "acl" | "connect" | "config"
                | "discovery-chain",
                _,
            ) => Err(not_here("weaved has no such thing; services, keys, sessions and checks are what it answers for")),
            _ => Ok(None),
        }
    }
}

/// A path that there is for another method, or is not at all.
fn unknown(ask: &Ask) -> Answer {
    const AREAS: [&str; 6] = ["catalog", "health", "agent", "session", "txn", "status"];
    let is_known_area = AREAS.contains(&ask.path.split('/').next().unwrap_or_default());
    if is_known_area && ask.method != Method::GET && !ask.is_put() {
        return not_allowed(&ask.method);
    }
    Answer::refused(StatusCode::NOT_FOUND, format!("there is no /v1/{} for {}", ask.path, ask.method))
}

/// Takes as long for a wrong token as for a right one of its length.
fn is_same(own: &[u8], given: &[u8]) -> bool {
    own.len() == given.len() && own.iter().zip(given).fold(0, |differences, (a, b)| differences | (a ^ b)) == 0
}

//! What the data plane and the resolver have told, kept for `status` and for the node's targets.
//!
//! INVARIANT: bounded: sessions by the data plane's own limit, failures by [`MAX_FAILURES`].

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use weaved_api::{Generation, PeerId, Problem, Stats, TargetFailure};

use crate::{
    serve::report::{TargetReport, TargetState},
    targets::Resolved,
};

/// Endpoints whose last failure is remembered; then the memory is begun anew.
const MAX_FAILURES: usize = 4096;
/// A stranger that was not heard again for so long is no longer a problem.
const STRANGER_MEMORY: Duration = Duration::from_mins(1);

/// Facts about connections.
#[derive(Debug, Default)]
pub(super) struct Links {
    connected: bool,
    lost_reason: String,
    applied: Option<Generation>,
    problems: Vec<Problem>,
    stats: Option<Stats>,
    sessions: BTreeMap<PeerId, Session>,
    failures: BTreeMap<SocketAddr, TargetFailure>,
    stranger: Option<(SocketAddr, Instant)>,
    addresses: BTreeMap<String, Vec<SocketAddr>>,
    unresolved: BTreeMap<String, String>,
}

#[derive(Debug)]
struct Session {
    endpoint: SocketAddr,
    target: Option<SocketAddr>,
}

impl Links {
    pub(super) fn is_connected(&self) -> bool {
        self.connected
    }

    pub(super) fn applied(&self) -> Option<Generation> {
        self.applied
    }

    pub(super) fn stats(&self) -> Option<&Stats> {
        self.stats.as_ref()
    }

    /// What the data plane could not do, or why it does not answer.
    pub(super) fn problems(&self) -> Vec<String> {
        if self.connected {
            self.problems.iter().map(|problem| problem.message.clone()).collect()
        } else {
            vec![format!("the data plane does not answer: {}", self.lost_reason)]
        }
    }

    pub(super) fn on_connected(&mut self) {
        self.connected = true;
    }

    /// All sessions are void; returns whose.
    pub(super) fn on_lost(&mut self, reason: String) -> Vec<PeerId> {
        self.connected = false;
        self.lost_reason = reason;
        self.applied = None;
        self.stats = None;
        self.failures.clear();
        std::mem::take(&mut self.sessions).into_keys().collect()
    }

    pub(super) fn on_applied(&mut self, generation: Generation, problems: Vec<Problem>) {
        self.applied = Some(generation);
        self.problems = problems;
    }

    pub(super) fn on_stats(&mut self, stats: Stats) {
        self.stats = Some(stats);
    }

    pub(super) fn on_peer_up(&mut self, id: PeerId, endpoint: SocketAddr, target: Option<SocketAddr>) {
        // A later report of the same session need not know the target that once led to it.
        let target = target.or_else(|| self.sessions.get(&id).and_then(|session| session.target));
        self.failures.remove(&endpoint);
        if let Some(target) = target {
            self.failures.remove(&target);
        }
        self.sessions.insert(id, Session { endpoint, target });
    }

    pub(super) fn on_peer_down(&mut self, id: PeerId) {
        self.sessions.remove(&id);
    }

    pub(super) fn on_failure(&mut self, endpoint: SocketAddr, failure: TargetFailure) {
        if self.failures.len() >= MAX_FAILURES {
            self.failures.clear();
        }
        if self.failures.insert(endpoint, failure) != Some(failure) {
            tracing::info!(%endpoint, ?failure, "not connected");
        }
    }

    pub(super) fn on_stranger(&mut self, endpoint: SocketAddr, now: Instant) {
        if self.stranger(now) != Some(endpoint) {
            tracing::warn!(%endpoint, "refused somebody who does not share our secret");
        }
        self.stranger = Some((endpoint, now));
    }

    /// Who was refused lately.
    pub(super) fn stranger(&self, now: Instant) -> Option<SocketAddr> {
        let (endpoint, at) = self.stranger?;
        (now.saturating_duration_since(at) < STRANGER_MEMORY).then_some(endpoint)
    }

    pub(super) fn on_resolved(&mut self, resolved: Resolved) {
        self.addresses.retain(|target, _| resolved.contains_key(target));
        self.unresolved.clear();
        for (target, outcome) in resolved {
            match outcome {
                Ok(addresses) => drop(self.addresses.insert(target, addresses)),
                Err(reason) => drop(self.unresolved.insert(target, reason)),
            }
        }
    }

    /// The addresses of these targets, in their order, each once.
    pub(super) fn addresses_of(&self, targets: &[String]) -> Vec<SocketAddr> {
        let mut all = Vec::new();
        for address in targets.iter().filter_map(|target| self.addresses.get(target)).flatten() {
            if !all.contains(address) {
                all.push(*address);
            }
        }
        all
    }

    pub(super) fn report(&self, targets: &[String]) -> Vec<TargetReport> {
        targets.iter().map(|target| self.report_one(target)).collect()
    }

    fn report_one(&self, target: &str) -> TargetReport {
        let addresses = self.addresses.get(target).cloned().unwrap_or_default();
        let state = match self.unresolved.get(target) {
            _ if let Some(id) = self.peer_at(&addresses) => TargetState::Connected(id),
            Some(reason) => TargetState::Unresolved(reason.clone()),
            None if addresses.is_empty() => TargetState::Resolving,
            None => match addresses.iter().find_map(|address| self.failures.get(address)) {
                Some(failure) => TargetState::Failed(*failure),
                None => TargetState::Connecting,
            },
        };
        TargetReport { target: target.to_owned(), addresses, state }
    }

    fn peer_at(&self, addresses: &[SocketAddr]) -> Option<PeerId> {
        let leads_there = |session: &Session| {
            addresses.contains(&session.endpoint) || session.target.is_some_and(|target| addresses.contains(&target))
        };
        self.sessions.iter().find(|(_, session)| leads_there(session)).map(|(id, _)| *id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: PeerId = PeerId([7; 32]);

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn links() -> Links {
        let mut links = Links::default();
        links.on_resolved(Resolved::from([(
            "b".into(),
            Ok(vec![address("192.0.2.1:6783"), address("192.0.2.2:6783")]),
        )]));
        links
    }

    fn state_of_b(links: &Links) -> TargetState {
        links.report(&["b".into()]).remove(0).state
    }

    #[test]
    fn a_target_goes_from_connecting_over_failed_to_connected() {
        let mut links = links();
        assert_eq!(state_of_b(&links), TargetState::Connecting);
        links.on_failure(address("192.0.2.2:6783"), TargetFailure::NoAnswer);
        assert_eq!(state_of_b(&links), TargetState::Failed(TargetFailure::NoAnswer));
        links.on_peer_up(ID, address("198.51.100.9:6783"), Some(address("192.0.2.2:6783")));
        assert_eq!(state_of_b(&links), TargetState::Connected(ID));
        links.on_peer_up(ID, address("198.51.100.10:6783"), None);
        assert_eq!(state_of_b(&links), TargetState::Connected(ID));
        assert_eq!(links.on_lost("gone".into()), [ID]);
        assert_eq!(state_of_b(&links), TargetState::Connecting);
    }

    #[test]
    fn a_name_that_stops_resolving_keeps_its_addresses_and_says_why() {
        let mut links = links();
        links.on_resolved(Resolved::from([("b".into(), Err("no such host".into()))]));
        assert_eq!(links.addresses_of(&["b".into()]).len(), 2);
        assert_eq!(state_of_b(&links), TargetState::Unresolved("no such host".into()));
        links.on_resolved(Resolved::new());
        assert!(links.addresses_of(&["b".into()]).is_empty());
    }

    #[test]
    fn failures_do_not_fill_the_memory() {
        let mut links = links();
        for port in 1..=u16::MAX {
            links.on_failure(SocketAddr::from(([192, 0, 2, 9], port)), TargetFailure::NoAnswer);
        }
        assert!(links.failures.len() <= MAX_FAILURES);
    }

    #[test]
    fn a_stranger_is_a_problem_for_a_while() {
        let (mut links, now) = (links(), Instant::now());
        links.on_stranger(address("192.0.2.66:1"), now);
        assert!(links.stranger(now).is_some());
        assert!(links.stranger(now + STRANGER_MEMORY).is_none());
    }
}

//! From what the node wants to the document that the data plane gets.
//!
//! Changes are gathered for [`defaults::GATHER`], so that a burst of them is one document. The first is sent at once:
//! after a start, frames wait for it.

use std::time::Instant;

use weaved_api::{DesiredState, Generation, Overlay, RulesVerdict};

use super::Memory;
use crate::{defaults, node::Node};

/// When the next document is due.
#[derive(Debug, Default)]
pub(super) struct DesiredSender {
    generation: Generation,
    seen_version: Option<u64>,
    due: Option<Instant>,
}

impl DesiredSender {
    /// Takes notice of what the node wants now.
    pub(super) fn update(&mut self, node: &Node, now: Instant) {
        self.on_version(node.wanted_version(), now);
    }

    /// When [`Self::poll`] has something.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Number of the newest document.
    pub(super) fn generation(&self) -> Generation {
        self.generation
    }

    /// The next document, when it is due.
    pub(super) fn poll(
        &mut self,
        node: &Node,
        memory: &Memory,
        rules: Option<&RulesVerdict>,
        now: Instant,
    ) -> Option<DesiredState> {
        self.due.take_if(|due| *due <= now)?;
        self.generation = Generation(self.generation.0 + 1);
        Some(document(self.generation, node, memory, rules))
    }

    /// Something else than the node's wishes has changed.
    pub(super) fn gather(&mut self, now: Instant) {
        self.due = self.due.or(Some(now + defaults::GATHER));
    }

    fn on_version(&mut self, version: u64, now: Instant) {
        let pause = match self.seen_version {
            Some(seen) if seen == version => return,
            Some(_) => defaults::GATHER,
            None => std::time::Duration::ZERO,
        };
        self.seen_version = Some(version);
        self.due = self.due.or(Some(now + pause));
    }
}

fn document(generation: Generation, node: &Node, memory: &Memory, rules: Option<&RulesVerdict>) -> DesiredState {
    let wanted = node.wanted();
    DesiredState {
        generation,
        identity: memory.identity.key.clone(),
        cluster_secret: memory.secret.clone(),
        listen_port: memory.settings.port,
        overlay: Overlay {
            bridge: memory.settings.bridge.clone(),
            tap: memory.settings.tap(),
            mtu: memory.settings.mtu,
            gateway: wanted.gateway,
        },
        peers: wanted.peers.clone(),
        targets: wanted.targets.clone(),
        neighbours: wanted.neighbours.clone(),
        quarantined: wanted.quarantined.clone(),
        offload: memory.settings.offload,
        cipher: memory.settings.cipher,
        workers: memory.settings.workers,
        source_ports: memory.settings.source_ports,
        bridge_rules: rules.cloned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_document_is_due_at_once_and_later_changes_are_gathered() {
        let start = Instant::now();
        let mut sender = DesiredSender::default();
        sender.on_version(1, start);
        assert_eq!(sender.due.take(), Some(start));
        sender.on_version(1, start);
        assert_eq!(sender.due(), None);
        sender.on_version(2, start);
        sender.on_version(3, start + defaults::GATHER / 2);
        assert_eq!(sender.due(), Some(start + defaults::GATHER));
    }
}

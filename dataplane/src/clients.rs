//! Who hears what: the connections of the Unix socket as the router thread sees them.
//!
//! State that a fresh connection needs is replayed to it: every peer that is connected. Answers go to who asked,
//! control bytes to the connection that is followed (the one that applied a desired state last), news to all.
//!
//! INVARIANT: at most one [`Event::PeerUp`] is kept per connected peer, so the memory is bounded by the peers.

use std::collections::BTreeMap;

use weaved_api::{Event, LinkEnd, PeerId};

use crate::server::{ConnectionId, Outbox};

/// The open connections.
#[derive(Debug, Default)]
pub(crate) struct Clients {
    open: BTreeMap<ConnectionId, Outbox>,
    followed: Option<ConnectionId>,
    /// The last [`Event::PeerUp`] of each connected peer.
    connected: BTreeMap<PeerId, Event>,
}

impl Clients {
    /// Somebody new: hears who is connected.
    pub(crate) fn on_opened(&mut self, id: ConnectionId, outbox: Outbox) {
        self.connected.values().for_each(|event| outbox.push(event));
        self.open.insert(id, outbox);
    }

    /// Somebody has gone.
    pub(crate) fn on_closed(&mut self, id: ConnectionId) {
        self.open.remove(&id);
        if self.followed == Some(id) {
            self.followed = None;
        }
    }

    /// This connection tells what is to be done from here on.
    pub(crate) fn follow(&mut self, id: ConnectionId) {
        self.followed = Some(id);
    }

    /// Sends an answer to the one who asked.
    pub(crate) fn answer(&self, id: ConnectionId, event: &Event) {
        if let Some(outbox) = self.open.get(&id) {
            outbox.push(event);
        }
    }

    /// Sends an event to whom it concerns.
    pub(crate) fn publish(&mut self, event: Event) {
        let event = self.remember(event);
        match &event {
            Event::Control { .. } | Event::Applied { .. } => {
                if let Some(followed) = self.followed {
                    self.answer(followed, &event);
                }
            }
            _ => self.open.values().for_each(|outbox| outbox.push(&event)),
        }
    }

    /// Tells everybody that no peer is connected any more, by our own doing.
    pub(crate) fn publish_all_down(&mut self) {
        let connected: Vec<PeerId> = self.connected.keys().copied().collect();
        connected.into_iter().for_each(|id| self.publish(Event::PeerDown { id, end: LinkEnd::Dismissed }));
    }

    /// Keeps what will have to be replayed. A peer that moves keeps the target that once led to it.
    fn remember(&mut self, event: Event) -> Event {
        match event {
            Event::PeerUp { id, endpoint, target } => {
                let earlier = match self.connected.get(&id) {
                    Some(Event::PeerUp { target, .. }) => *target,
                    _ => None,
                };
                let event = Event::PeerUp { id, endpoint, target: target.or(earlier) };
                self.connected.insert(id, event.clone());
                event
            }
            Event::PeerDown { id, .. } => {
                self.connected.remove(&id);
                event
            }
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: PeerId = PeerId([1; 32]);
    const B: PeerId = PeerId([2; 32]);

    fn up(id: PeerId, target: Option<&str>) -> Event {
        let endpoint = "192.0.2.1:6783".parse().unwrap();
        Event::PeerUp { id, endpoint, target: target.map(|target| target.parse().unwrap()) }
    }

    fn control() -> Event {
        Event::Control { from: A, bytes: vec![1, 2, 3] }
    }

    /// A connection with this number, and what it is sent.
    fn client(clients: &mut Clients, number: u64) -> (ConnectionId, Outbox) {
        let id = ConnectionId::for_test(number);
        let outbox = Outbox::for_test();
        clients.on_opened(id, outbox.clone());
        (id, outbox)
    }

    #[test]
    fn a_new_connection_hears_who_is_connected() {
        let mut clients = Clients::default();
        clients.publish(up(A, Some("198.51.100.1:6783")));
        clients.publish(up(B, None));
        clients.publish(up(A, None));
        clients.publish(Event::PeerDown { id: B, end: LinkEnd::Silent });
        let (_, outbox) = client(&mut clients, 1);
        assert_eq!(outbox.take_events(), vec![up(A, Some("198.51.100.1:6783"))]);
        clients.publish_all_down();
        assert_eq!(outbox.take_events(), vec![Event::PeerDown { id: A, end: LinkEnd::Dismissed }]);
        assert_eq!(client(&mut clients, 2).1.take_events(), vec![]);
    }

    #[test]
    fn control_bytes_go_to_the_followed_connection_and_news_to_all() {
        let mut clients = Clients::default();
        let (old, old_outbox) = client(&mut clients, 1);
        let (new, new_outbox) = client(&mut clients, 2);
        clients.publish(control());
        assert_eq!((old_outbox.take_events(), new_outbox.take_events()), (vec![], vec![]));
        clients.follow(old);
        clients.follow(new);
        clients.publish(control());
        assert_eq!((old_outbox.take_events(), new_outbox.take_events()), (vec![], vec![control()]));
        clients.publish(up(A, None));
        assert_eq!((old_outbox.take_events().len(), new_outbox.take_events().len()), (1, 1));
        clients.answer(old, &control());
        assert_eq!((old_outbox.take_events().len(), new_outbox.take_events().len()), (1, 0));
        clients.on_closed(new);
        clients.publish(control());
        assert_eq!((old_outbox.take_events(), new_outbox.take_events()), (vec![], vec![]));
    }
}

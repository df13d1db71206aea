//! Messages on their way out, in two queues.
//!
//! What speaks of the ring, of our record or of instances waits until the state that it was made from is stored; the
//! failure detector and digests do not wait, so that a node with a full disk stays a member, and switches do not, because
//! what they speak of is stored with a majority's keys before.
//!
//! INVARIANT: [`Outbox::pop`] gives nothing that must be stored first while there is something to store.

use std::collections::VecDeque;

use weaved_api::PeerId;

use crate::cluster::{Message, limits::MAX_SEND_QUEUE};

/// The two queues.
#[derive(Default)]
pub(super) struct Outbox {
    free: VecDeque<(PeerId, Vec<u8>)>,
    after_storing: VecDeque<(PeerId, Vec<u8>)>,
}

/// Whether there is state that is not stored yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Storing {
    /// Everything is on the disk.
    Done,
    /// `poll_persist` has something.
    Pending,
}

impl Outbox {
    /// Appends a message. Returns false, and drops it, when the queue is full.
    pub(super) fn push(&mut self, to: PeerId, message: &Message) -> bool {
        let queue = match message {
            Message::Membership(_) | Message::Digest(_) | Message::Switch(_) => &mut self.free,
            Message::Delta(_) | Message::Ipam(_) | Message::Catalogue(_) | Message::Kv(_) => &mut self.after_storing,
        };
        let has_room = queue.len() < MAX_SEND_QUEUE;
        if has_room {
            queue.push_back((to, message.encode()));
        }
        has_room
    }

    /// The next message that may go.
    pub(super) fn pop(&mut self, storing: Storing) -> Option<(PeerId, Vec<u8>)> {
        self.free.pop_front().or_else(|| match storing {
            Storing::Done => self.after_storing.pop_front(),
            Storing::Pending => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipam::IpamMessage;

    const PEER: PeerId = PeerId([1; 32]);

    #[test]
    fn what_depends_on_stored_state_waits_and_the_rest_does_not() {
        let mut outbox = Outbox::default();
        assert!(outbox.push(PEER, &Message::Ipam(IpamMessage::HandoverSeen)));
        assert!(outbox.push(PEER, &Message::Membership(vec![1])));
        let first = outbox.pop(Storing::Pending).unwrap().1;
        assert_eq!(Message::decode(&first), Ok(Message::Membership(vec![1])));
        assert_eq!(outbox.pop(Storing::Pending), None);
        assert!(outbox.pop(Storing::Done).is_some());
    }

    #[test]
    fn a_full_queue_drops_what_comes() {
        let mut outbox = Outbox::default();
        let pushed = (0..MAX_SEND_QUEUE + 5).filter(|_| outbox.push(PEER, &Message::Membership(vec![]))).count();
        assert_eq!(pushed, MAX_SEND_QUEUE);
    }
}

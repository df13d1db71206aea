//! Leaving for good: first our slices get a new owner, then everybody hears that we are gone.
//!
//! The heir must know of its inheritance before it forgets us, so the tombstone goes out when the heir has answered, or
//! when [`PATIENCE`] has passed.

use std::time::{Duration, Instant};

use weaved_api::PeerId;

use super::Node;
use crate::{
    cluster::Message,
    ipam::{IpamMessage, Ring},
};

/// How long the heir's answer is awaited.
const PATIENCE: Duration = Duration::from_millis(1500);
/// Interval of asking it.
const REPEAT: Duration = Duration::from_millis(200);

/// The state of a farewell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Farewell {
    heir: Option<PeerId>,
    deadline: Instant,
    repeat_at: Option<Instant>,
    is_done: bool,
}

impl Farewell {
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        self.repeat_at
    }
}

impl Node {
    /// Begins to leave the cluster for good: gives our slices to a live member and tells the others. Go on driving the
    /// node until [`Self::has_left`] and the messages are sent. It takes at most two seconds.
    pub fn leave(&mut self, now: Instant) {
        if self.farewell.is_some() {
            return;
        }
        let heir = self.heir();
        if let Some(heir) = heir {
            self.allocator.hand_over(heir);
        }
        self.farewell = Some(Farewell { heir, deadline: now + PATIENCE, repeat_at: Some(now), is_done: false });
        self.farewell_timeout(now);
        self.has_changed = true;
        self.refresh(now);
    }

    /// True when a member has taken over what we owned, or none could be reached.
    pub fn has_left(&self) -> bool {
        self.farewell.is_some_and(|farewell| farewell.is_done)
    }

    pub(super) fn farewell_timeout(&mut self, now: Instant) {
        let Some(farewell) = self.farewell.filter(|farewell| farewell.repeat_at.is_some_and(|at| at <= now)) else {
            return;
        };
        match farewell.heir.filter(|_| now < farewell.deadline) {
            None => self.finish_farewell(now),
            Some(heir) => {
                if let Some(seed) = self.allocator.ring().map(Ring::seed) {
                    self.send(heir, &Message::Ipam(IpamMessage::Handover { seed }));
                }
                self.farewell = Some(Farewell { repeat_at: Some(now + REPEAT), ..farewell });
            }
        }
    }

    pub(super) fn finish_farewell(&mut self, now: Instant) {
        let Some(farewell) = &mut self.farewell else { return };
        if std::mem::replace(&mut farewell.is_done, true) {
            return;
        }
        farewell.repeat_at = None;
        self.own_changed = self.replica.write_own(self.replica.own().tombstone());
        self.membership.leave(now);
        self.flush();
    }

    /// A member of our ring that is connected and alive.
    fn heir(&self) -> Option<PeerId> {
        let seed = self.allocator.ring().map(Ring::seed)?;
        let fits =
            |id, record_seed| self.sessions.contains_key(&id) && self.membership.is_up(id) && record_seed == Some(seed);
        self.replica.members().find(|(id, record)| fits(*id, record.seed)).map(|(id, _)| id)
    }
}

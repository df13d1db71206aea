//! When two rings meet: the side of a node whose ring is the newer one and which has a slice.
//!
//! See the module's head for the four ways. This node learns the older ring beside its own, and changes over as one
//! step when it may.
//!
//! INVARIANT: the rival ring is older than our own; it goes away when the node changes over.

use std::time::{Duration, Instant};

use weaved_api::PeerId;

use super::{
    Allocator, Effect, IpamEvent, IpamMessage, Neighbours, Refusal, Ring, RingPart, RingSeed, SliceIndex,
    allocator::RETRY_AFTER,
};
use crate::node::DockerUse;

/// How long claims may go unanswered before an unused slice is given up.
const CLAIM_PATIENCE: Duration = Duration::from_secs(5);

/// How often the owner of a slice that Docker uses here is asked to take another one.
const PLEA_INTERVAL: Duration = Duration::from_secs(5);

/// What a ring is to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// Our own.
    Same,
    /// Ours from here on: we have none, or nothing that ties us to the one we have.
    Adopted,
    /// Older than ours, and we have a slice.
    Rival,
}

/// An older ring that we have met.
pub(super) struct Rival {
    pub(super) ring: Ring,
    /// Who said that it uses our slice.
    in_use_by: Option<PeerId>,
    claiming_since: Option<Instant>,
    next_claim: Option<Instant>,
}

impl Rival {
    fn new(seed: RingSeed, part: &RingPart) -> Self {
        let ring = Ring::unknown(seed, part.overlay());
        Self { ring, in_use_by: None, claiming_since: None, next_claim: None }
    }

    pub(super) fn next_timeout(&self) -> Option<Instant> {
        self.next_claim
    }
}

impl Allocator {
    pub(super) fn learn_rival(&mut self, from: PeerId, part: &RingPart) {
        let known = self.rival.take().filter(|rival| rival.ring.seed() <= part.seed());
        let mut rival = known.unwrap_or_else(|| Rival::new(part.seed(), part));
        if rival.ring.seed() == part.seed() {
            let before = self.slice.and_then(|slice| rival.ring.at(slice));
            if rival.ring.merge(part).changed {
                self.effects.push_back(Effect::PassOn(from, part.clone()));
            }
            if self.slice.and_then(|slice| rival.ring.at(slice)) != before {
                (rival.in_use_by, rival.claiming_since, rival.next_claim) = (None, None, None);
            }
        }
        self.rival = Some(rival);
    }

    pub(super) fn on_claim_refused(&mut self, from: PeerId, seed: RingSeed, slice: SliceIndex, refusal: Refusal) {
        if let Some(rival) = self.rival.as_mut().filter(|rival| rival.ring.seed() == seed)
            && self.slice == Some(slice)
            && refusal == Refusal::InUse
            && rival.ring.at(slice).is_some_and(|token| token.owner == from)
        {
            rival.in_use_by = Some(from);
        }
    }

    /// Compares our slice with our own ring and with the older one, and acts on it.
    pub(super) fn settle_standing(&mut self, neighbours: &Neighbours, now: Instant) {
        let Some(slice) = self.slice else {
            return self.change_over_without_slice();
        };
        let Some(rival) = &self.rival else {
            let owner = self.ring.as_ref().and_then(|ring| ring.at(slice)).map(|token| token.owner);
            return match owner.filter(|&owner| owner != self.me) {
                // Only a node that went back in time sees this; see `ring.rs`.
                Some(owner) => self.yield_to(owner, slice, neighbours, now),
                None => self.clear_conflict(),
            };
        };
        match rival.ring.at(slice).map(|token| token.owner) {
            None => {}
            Some(owner) if owner == self.me => {
                self.change_over();
                self.clear_conflict();
            }
            Some(owner) => {
                let uses_it = rival.in_use_by == Some(owner)
                    || neighbours.get(&owner).is_some_and(|neighbour| {
                        neighbour.slice == Some(slice) && neighbour.seed == Some(rival.ring.seed())
                    });
                if uses_it {
                    self.yield_to(owner, slice, neighbours, now);
                } else {
                    self.clear_conflict();
                    self.claim(owner, slice, neighbours, now);
                }
            }
        }
    }

    pub(super) fn describe_rival(
        &self,
        rival: &Rival,
        neighbours: &Neighbours,
        name: impl Fn(PeerId) -> String,
    ) -> String {
        let owner = self.slice.and_then(|slice| rival.ring.at(slice)).map(|token| token.owner);
        match owner {
            None => "for news of who owns this host's slice in the older network that we met".into(),
            Some(owner) if neighbours.get(&owner).is_some_and(|neighbour| neighbour.is_connected) => {
                format!("for {} to confirm this host's slice in the older network that we met", name(owner))
            }
            Some(owner) => format!(
                "for {}, who owns this host's slice in the older network that we met: not connected",
                name(owner)
            ),
        }
    }

    fn claim(&mut self, owner: PeerId, slice: SliceIndex, neighbours: &Neighbours, now: Instant) {
        let may_give_way = self.may_give_way();
        let Some(rival) = &mut self.rival else { return };
        let since = *rival.claiming_since.get_or_insert(now);
        if may_give_way && now.saturating_duration_since(since) >= CLAIM_PATIENCE {
            return self.give_way(owner, slice);
        }
        if rival.next_claim.is_some_and(|at| now < at) {
            return;
        }
        let claim = IpamMessage::Claim { seed: rival.ring.seed(), slice };
        self.ask_owner(owner, claim, RETRY_AFTER, neighbours, now);
    }

    /// Our slice is somebody else's: give way if nothing depends on it, else refuse, and ask the other to give way.
    fn yield_to(&mut self, owner: PeerId, slice: SliceIndex, neighbours: &Neighbours, now: Instant) {
        if self.may_give_way() {
            return self.give_way(owner, slice);
        }
        if self.conflict != Some(owner) {
            self.conflict = Some(owner);
            self.forget_timer();
            self.effects.push_back(Effect::Event(IpamEvent::Refused(slice, owner)));
        }
        if let Some(rival) = self.rival.as_ref().filter(|rival| rival.next_claim.is_none_or(|at| at <= now)) {
            let plea = IpamMessage::Plea { seed: rival.ring.seed(), slice };
            self.ask_owner(owner, plea, PLEA_INTERVAL, neighbours, now);
        }
    }

    fn ask_owner(
        &mut self,
        owner: PeerId,
        question: IpamMessage,
        repeat_after: Duration,
        neighbours: &Neighbours,
        now: Instant,
    ) {
        if let Some(rival) = &mut self.rival {
            rival.next_claim = Some(now + repeat_after);
        }
        if neighbours.get(&owner).is_some_and(|neighbour| neighbour.is_connected) {
            self.effects.push_back(Effect::Send(owner, question));
        }
    }

    fn forget_timer(&mut self) {
        if let Some(rival) = &mut self.rival {
            rival.next_claim = None;
        }
    }

    pub(super) fn may_give_way(&self) -> bool {
        self.docker == DockerUse::Unused && !self.has_containers
    }

    fn give_way(&mut self, owner: PeerId, slice: SliceIndex) {
        self.slice = None;
        self.conflict = None;
        self.note_change();
        self.effects.push_back(Effect::Event(IpamEvent::GivenUp(slice, owner)));
        self.change_over_without_slice();
    }

    fn change_over_without_slice(&mut self) {
        if self.rival.is_some() {
            self.change_over();
        }
    }

    fn change_over(&mut self) {
        if let Some(rival) = self.rival.take() {
            debug_assert!(self.seed().is_none_or(|seed| rival.ring.seed() < seed), "INVARIANT: the rival is older");
            self.ring = Some(rival.ring);
            self.note_change();
        }
    }

    fn clear_conflict(&mut self) {
        if self.conflict.take().is_some() {
            self.forget_timer();
            self.effects.push_back(Effect::Event(IpamEvent::Resolved));
        }
    }
}

//! How a node spreads what it knows: pushes news at once, passes on what it has learned, repairs the rest.
//!
//! * Our own record and our own changes of the ring go to all connected peers (up to [`EAGER_PEERS`]).
//! * News from others goes on to [`RUMOUR_PEERS`] random peers, once, when it arrives: who knows it already stays silent.
//! * Every [`REPAIR_EVERY`], and whenever a session comes up, digests are exchanged, and what is missing is sent.

use std::time::{Duration, Instant};

use rand::{RngExt as _, seq::SliceRandom as _};
use weaved_api::PeerId;

use super::{Node, NodeEvent, outbox::Storing};
use crate::{
    cluster::{Applied, Delta, Digest, IdRange, Message, Presence, RingSummary, limits::MAX_MEMBERS, pack},
    ipam::{Allocator, Effect, IpamEvent, IpamMessage, Ring, RingPart},
};

/// How long changes are gathered before they are sent.
pub(super) const GATHER: Duration = Duration::from_millis(20);
/// Mean interval of repairs; the real one is drawn from three quarters to five quarters of it.
const REPAIR_EVERY: Duration = Duration::from_secs(2);
/// Peers that our own news are pushed to. The others get them as rumours.
pub(super) const EAGER_PEERS: usize = 64;
/// Peers that news from others go on to.
pub(super) const RUMOUR_PEERS: usize = 3;
/// Digests of one repair. A replica of more is compared in several repairs.
const REPAIR_DIGESTS: usize = 4;

impl Node {
    /// When the next repair after one at `now` is due.
    pub(super) fn next_repair(&mut self, now: Instant) -> Instant {
        let quarter = REPAIR_EVERY / 4;
        now + 3 * quarter + quarter.mul_f64(2.0 * self.rng.random::<f64>())
    }

    /// Compares with a random connected peer, and calls those that the failure detector misses.
    pub(super) fn repair(&mut self, now: Instant) {
        self.replica.handle_timeout(now);
        let missing: Vec<_> = self.sessions.keys().copied().filter(|&id| !self.membership.is_up(id)).collect();
        for id in missing.into_iter().take(EAGER_PEERS) {
            self.membership.announce(id, now);
        }
        let peer = self.random_peers(1, None).pop();
        self.repair_catalogue(peer, now);
        if let Some(peer) = peer {
            let digests = self.digests();
            let count = digests.len();
            let first = self.rng.random_range(0..count);
            for digest in digests.into_iter().cycle().skip(first).take(count.min(REPAIR_DIGESTS)) {
                self.send(peer, &Message::Digest(digest));
            }
        }
    }

    /// Tells a peer all that we have, in short.
    pub(super) fn send_digests(&mut self, to: PeerId) {
        for digest in self.digests() {
            self.send(to, &Message::Digest(digest));
        }
    }

    /// Sends what has changed since the last time.
    pub(super) fn flush(&mut self) {
        if std::mem::take(&mut self.own_changed) {
            let own = self.replica.own().clone();
            let deltas = pack([(self.config.id, &own)]);
            let peers = self.random_peers(EAGER_PEERS, None);
            self.send_each(&peers, deltas.into_iter().map(Message::Delta));
        }
        let rumours = std::mem::take(&mut self.rumours);
        if !rumours.is_empty() {
            let deltas = pack(rumours.iter().filter_map(|&owner| Some((owner, self.replica.record(owner)?))));
            let peers = self.random_peers(RUMOUR_PEERS, None);
            self.send_each(&peers, deltas.into_iter().map(Message::Delta));
        }
        self.flush_catalogue();
    }

    /// Sends what the sender of a digest lacks, and asks for what we lack.
    pub(super) fn on_digest(&mut self, from: PeerId, digest: &Digest) {
        let deltas = pack(digest.lacks(&self.replica));
        let parts = self.parts_lacking(digest);
        let has_news = digest.has_news_for(&self.replica) || self.has_ring_news(digest);
        self.send_each(&[from], deltas.into_iter().map(Message::Delta));
        self.send_each(&[from], parts.into_iter().map(|part| Message::Ipam(IpamMessage::Part(part))));
        if has_news && !digest.is_answer {
            for answer in Digest::of(&self.replica, digest.range, &self.ring_summaries()) {
                self.send(from, &Message::Digest(Digest { is_answer: true, ..answer }));
            }
        }
    }

    /// Takes in records.
    pub(super) fn on_delta(&mut self, delta: &Delta, now: Instant) {
        for result in delta.records() {
            let Ok((owner, record)) = result else {
                self.counters.garbage += 1;
                continue;
            };
            let (name, presence) = (record.name.clone(), record.presence);
            let was_member = self.replica.record(owner).is_some_and(|known| known.presence == Presence::Member);
            let is_known = self.known.contains_key(&owner);
            let (membership, sessions) = (&self.membership, &self.sessions);
            let expendable = |id| !membership.is_up(id) && !sessions.contains_key(&id);
            match self.replica.apply(owner, record, is_known, expendable, now) {
                Applied::New | Applied::Newer => {
                    self.consider_soon(now);
                    self.rumours.insert(owner);
                    self.on_news(owner, name, presence, was_member, now);
                }
                Applied::ForeignOwn => self.on_foreign_own(now),
                Applied::Refused => self.counters.members_refused += 1,
                Applied::Stale => {}
            }
        }
    }

    /// Does what the allocator wants to be done.
    pub(super) fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Send(to, message) => self.send(to, &Message::Ipam(message)),
            Effect::Announce(part) => {
                let peers = self.random_peers(EAGER_PEERS, None);
                self.send_each(&peers, [Message::Ipam(IpamMessage::Part(part))]);
            }
            Effect::PassOn(from, part) => {
                let peers = self.random_peers(RUMOUR_PEERS, Some(from));
                self.send_each(&peers, [Message::Ipam(IpamMessage::Part(part))]);
            }
            Effect::SendDigest(to) => self.send_digests(to),
            Effect::Event(event) => {
                let event = self.describe(event);
                self.emit(event);
            }
        }
    }

    pub(super) fn send(&mut self, to: PeerId, message: &Message) {
        if !self.outbox.push(to, message) {
            self.counters.queue_full += 1;
        }
    }

    pub(super) fn send_each(&mut self, peers: &[PeerId], messages: impl IntoIterator<Item = Message>) {
        for message in messages {
            for &peer in peers {
                self.send(peer, &message);
            }
        }
    }

    fn digests(&self) -> Vec<Digest> {
        Digest::of(&self.replica, IdRange::ALL, &self.ring_summaries())
    }

    fn rings(&self) -> impl Iterator<Item = &Ring> {
        self.allocator.ring().into_iter().chain(self.allocator.rival_ring())
    }

    fn ring_summaries(&self) -> Vec<RingSummary> {
        self.rings().map(RingSummary::of).collect()
    }

    /// The parts of our rings that the sender of a digest lacks: where its fingerprints differ, and all of a ring that is
    /// older than those that it knows.
    fn parts_lacking(&self, digest: &Digest) -> Vec<RingPart> {
        let oldest_known = digest.rings.iter().map(|summary| summary.seed).min();
        let mut parts = Vec::new();
        for ring in self.rings() {
            let ours = ring.fingerprints();
            let differs = |segment: usize| match digest.ring(ring.seed()) {
                Some(theirs) => theirs.fingerprints.get(segment) != ours.get(segment),
                None => oldest_known.is_none_or(|oldest| ring.seed() < oldest),
            };
            for segment in (0..ours.len()).filter(|&segment| differs(segment)) {
                parts.extend(Allocator::parts(ring, &ring.segment(segment as u32)));
            }
        }
        parts
    }

    /// True if the sender of a digest may know more about a ring that is ours or should be.
    fn has_ring_news(&self, digest: &Digest) -> bool {
        let oldest_known = self.rings().map(Ring::seed).min();
        digest.rings.iter().any(|theirs| match self.rings().find(|ring| ring.seed() == theirs.seed) {
            Some(ring) => ring.fingerprints() != theirs.fingerprints,
            None => oldest_known.is_none_or(|oldest| theirs.seed < oldest),
        })
    }

    fn on_news(&mut self, owner: PeerId, name: String, presence: Presence, was_member: bool, now: Instant) {
        if presence == Presence::Left {
            if self.known.remove(&owner).is_some() {
                self.storing = Storing::Pending;
            }
            self.mismatched.remove(&owner);
            self.services.catalogue.forget(owner);
            if was_member {
                self.emit(NodeEvent::MemberLeft { id: owner, name });
            }
            return;
        }
        let theirs = self.replica.record(owner).map(|record| record.overlay);
        match theirs.filter(|&theirs| theirs != self.overlay) {
            Some(theirs) if self.mismatched.len() < MAX_MEMBERS && self.mismatched.insert(owner) => {
                self.emit(NodeEvent::OverlayMismatch { id: owner, name, theirs, ours: self.overlay });
            }
            Some(_) => {}
            None => drop(self.mismatched.remove(&owner)),
        }
        if self.sessions.contains_key(&owner) && !self.membership.is_up(owner) {
            self.membership.announce(owner, now);
        }
    }

    /// Up to `count` connected peers, any of them, in any order.
    pub(super) fn random_peers(&mut self, count: usize, but: Option<PeerId>) -> Vec<PeerId> {
        let mut peers: Vec<_> = self.sessions.keys().copied().filter(|&id| Some(id) != but).collect();
        peers.partial_shuffle(&mut self.rng, count).0.to_vec()
    }

    fn describe(&self, event: IpamEvent) -> NodeEvent {
        match event {
            IpamEvent::Assigned(slice) => NodeEvent::SliceAssigned(self.overlay.slice(slice)),
            IpamEvent::GivenUp(slice, holder) => {
                NodeEvent::SliceGivenUp { slice: self.overlay.slice(slice), holder: self.name_of(holder) }
            }
            IpamEvent::Ceded(slice, user) => {
                NodeEvent::SliceCeded { slice: self.overlay.slice(slice), user: self.name_of(user) }
            }
            IpamEvent::Refused(slice, holder) => NodeEvent::SliceRefused(self.conflict_with(slice, holder)),
            IpamEvent::Resolved => NodeEvent::SliceResolved,
        }
    }
}

//! The way of one node to a slice of its own, and its answers to others on theirs.
//!
//! Level-triggered: [`Allocator::pursue`] looks at what is known and does the next thing; it may be called at any time
//! and any number of times. The module's head tells the protocol; `rival.rs` has the part about rings that meet.
//!
//! INVARIANT: the slice in use is owned by this node in its ring, or the node is refused. `needs_storing` is true after
//! each change of ring or slice until the caller has taken note; nothing in the effects may be sent before it is stored.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Range,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use weaved_api::PeerId;

use super::{
    IpamMessage, Overlay, Refusal, Ring, RingPart, RingSeed, SliceIndex,
    rival::{Rival, Standing},
};
use crate::node::{DockerUse, Start};

/// How long an answer to a request or a claim is awaited before the next owner is asked.
pub(super) const RETRY_AFTER: Duration = Duration::from_millis(400);

/// How long a node that was started together with others waits for one of them to have a ring.
const FOUND_AFTER: Duration = Duration::from_secs(5);

/// What a part of a ring is cut to.
const PART_BYTES: usize = 1100;

/// The state of address management of one node.
pub struct Allocator {
    pub(super) me: PeerId,
    pub(super) overlay: Overlay,
    start: Start,
    pub(super) ring: Option<Ring>,
    pub(super) slice: Option<SliceIndex>,
    pub(super) rival: Option<Rival>,
    /// Who has our slice as well.
    pub(super) conflict: Option<PeerId>,
    pub(super) docker: DockerUse,
    pub(super) has_containers: bool,
    asking: Asking,
    lonely_since: Option<Instant>,
    pub(super) effects: VecDeque<Effect>,
    needs_storing: bool,
    granted_count: u64,
    contradiction_count: u64,
}

/// The search for a donor.
#[derive(Default)]
struct Asking {
    attempt: usize,
    next_at: Option<Instant>,
    refused: BTreeMap<PeerId, Refusal>,
}

/// What must survive a crash.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredIpam {
    /// The ring as this node knows it.
    pub ring: Option<RingPart>,
    /// The slice in use.
    pub slice: Option<SliceIndex>,
}

/// What the allocator wants to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// A message for one node.
    Send(PeerId, IpamMessage),
    /// News for all connected nodes: we changed the ring.
    Announce(RingPart),
    /// News that came from this node and should go on to a few others.
    PassOn(PeerId, RingPart),
    /// This node should hear what we know.
    SendDigest(PeerId),
    /// Something for the operator.
    Event(IpamEvent),
}

/// Something for the operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IpamEvent {
    /// The node has a slice.
    Assigned(SliceIndex),
    /// The node has dropped its unused slice because of its owner in an older ring.
    GivenUp(SliceIndex, PeerId),
    /// The node has dropped its unused slice because Docker uses it on this other node.
    Ceded(SliceIndex, PeerId),
    /// The node keeps its used slice although another node has it too.
    Refused(SliceIndex, PeerId),
    /// The node and the cluster agree again.
    Resolved,
}

/// Another node, as far as address management cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// Its data plane has a session with ours: a message may arrive.
    pub is_connected: bool,
    /// The failure detector does not say that it is down.
    pub is_live: bool,
    /// The ring that it is in, by its record.
    pub seed: Option<RingSeed>,
    /// The slice that it uses, by its record.
    pub slice: Option<SliceIndex>,
    /// Its record has arrived and has our address plan.
    pub is_compatible: bool,
}

/// All other nodes.
pub type Neighbours = BTreeMap<PeerId, Neighbour>;

/// Where the node is on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Settled {
    /// It has a slice and the cluster agrees.
    Yes,
    /// What it waits for. Peers are named by the callback of [`Allocator::settled`].
    Waiting(String),
    /// This node has our slice as well.
    Refused(PeerId),
}

impl Allocator {
    /// Address management after a start. Nothing is founded before [`Self::begin`].
    pub fn new(me: PeerId, overlay: Overlay, start: Start) -> Self {
        Self {
            me,
            overlay,
            start,
            ring: None,
            slice: None,
            rival: None,
            conflict: None,
            docker: DockerUse::Unknown,
            has_containers: false,
            asking: Asking::default(),
            lonely_since: None,
            effects: VecDeque::new(),
            needs_storing: false,
            granted_count: 0,
            contradiction_count: 0,
        }
    }

    /// Goes on from what was stored, or founds a ring if this node is to. Returns false, with nothing changed, for
    /// stored state that contradicts itself.
    pub fn begin(&mut self, stored: Option<&StoredIpam>, wall_us: u64) -> bool {
        if let Some(stored) = stored {
            let in_range = stored.slice.is_none_or(|slice| slice.0 < self.overlay.slice_count());
            let ring =
                stored.ring.as_ref().map(|part| Ring::from_whole(part).filter(|_| part.overlay() == self.overlay));
            if !in_range || ring == Some(None) || (ring.is_none() && stored.slice.is_some()) {
                return false;
            }
            self.ring = ring.flatten();
            self.slice = stored.slice;
        }
        if self.ring.is_none() && self.start == Start::Founder {
            self.found(wall_us);
        }
        if let Some(slice) = self.slice {
            self.effects.push_back(Effect::Event(IpamEvent::Assigned(slice)));
        }
        true
    }

    /// What must be stored now.
    pub fn stored(&self) -> StoredIpam {
        StoredIpam { ring: self.ring.as_ref().map(Ring::whole), slice: self.slice }
    }

    /// True once after each change of what must be stored.
    pub fn take_needs_storing(&mut self) -> bool {
        std::mem::take(&mut self.needs_storing)
    }

    /// The next thing to do.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// The slice in use.
    pub fn slice(&self) -> Option<SliceIndex> {
        self.slice
    }

    /// The ring that this node is in.
    pub fn ring(&self) -> Option<&Ring> {
        self.ring.as_ref()
    }

    /// The older ring that this node has met, as far as it is known.
    pub fn rival_ring(&self) -> Option<&Ring> {
        self.rival.as_ref().map(|rival| &rival.ring)
    }

    /// Who has our slice as well.
    pub fn conflict(&self) -> Option<PeerId> {
        self.conflict
    }

    /// How many slices were given to others.
    pub fn granted_count(&self) -> u64 {
        self.granted_count
    }

    /// How many slices had two tokens of one version: signs of a node that went back in time.
    pub fn contradiction_count(&self) -> u64 {
        self.contradiction_count
    }

    /// Whether Docker has made use of the slice.
    pub fn handle_use(&mut self, docker: DockerUse, has_containers: bool) {
        (self.docker, self.has_containers) = (docker, has_containers);
    }

    /// A message from another node. Call [`Self::pursue`] afterwards.
    pub fn handle_message(&mut self, from: PeerId, message: IpamMessage) {
        match message {
            IpamMessage::Part(part) => self.learn(from, &part),
            IpamMessage::Request { seed } => self.answer_request(from, seed),
            IpamMessage::Claim { seed, slice } => self.answer_claim(from, seed, slice),
            IpamMessage::Plea { seed, slice } => self.answer_plea(from, seed, slice),
            IpamMessage::Refused { seed, slice: Some(slice), refusal } => {
                self.on_claim_refused(from, seed, slice, refusal);
            }
            IpamMessage::Refused { seed, slice: None, refusal } => {
                if self.seed() == Some(seed) {
                    // The next donor is asked at once, but only once each: refusals must not chase requests.
                    if self.asking.refused.insert(from, refusal).is_none() {
                        self.asking.next_at = None;
                    }
                }
            }
            IpamMessage::Handover { seed } => self.answer_handover(from, seed),
            IpamMessage::HandoverSeen => {}
        }
    }

    /// Does the next thing towards a slice. `wall_us` is the wall clock in microseconds.
    pub fn pursue(&mut self, neighbours: &Neighbours, now: Instant, wall_us: u64) {
        self.settle_standing(neighbours, now);
        self.found_together(neighbours, now, wall_us);
        self.take_slice(neighbours);
        self.ask_for_slices(neighbours, now);
    }

    /// When [`Self::pursue`] should be called again if nothing happens before.
    pub fn next_timeout(&self) -> Option<Instant> {
        let rival = self.rival.as_ref().and_then(Rival::next_timeout);
        let founding = self.lonely_since.map(|since| since + FOUND_AFTER);
        [rival, founding, self.asking.next_at].into_iter().flatten().min()
    }

    /// Where the node is on its way; `name` prints a peer.
    pub fn settled(&self, neighbours: &Neighbours, name: impl Fn(PeerId) -> String) -> Settled {
        if let Some(holder) = self.conflict {
            return Settled::Refused(holder);
        }
        match (&self.ring, self.slice, &self.rival) {
            (_, Some(_), Some(rival)) => Settled::Waiting(self.describe_rival(rival, neighbours, name)),
            (_, Some(_), None) => Settled::Yes,
            (None, None, _) if !neighbours.values().any(|neighbour| neighbour.is_connected) => {
                Settled::Waiting("for a connection to a member".into())
            }
            (None, None, _) => Settled::Waiting("for a connected member to have addresses".into()),
            (Some(ring), None, _) => Settled::Waiting(self.describe_donors(ring, neighbours, name)),
        }
    }

    /// Gives all that we own to another node, for good.
    pub fn hand_over(&mut self, heir: PeerId) {
        let Some(ring) = &mut self.ring else { return };
        for run in ring.owned_by(self.me) {
            ring.give(run.clone(), self.me, heir);
            let parts = ring.parts(&run, PART_BYTES);
            self.effects.extend(parts.into_iter().map(Effect::Announce));
        }
        self.slice = None;
        self.needs_storing = true;
    }

    /// What this node knows of its ring within these slices, in messages.
    pub fn parts(ring: &Ring, slices: &Range<u32>) -> Vec<RingPart> {
        ring.parts(slices, PART_BYTES)
    }

    pub(super) fn seed(&self) -> Option<RingSeed> {
        self.ring.as_ref().map(Ring::seed)
    }

    pub(super) fn note_change(&mut self) {
        self.needs_storing = true;
    }

    /// Our place in the range when nothing else decides: spread evenly, because identities are.
    fn favourite(&self) -> SliceIndex {
        let [a, b, c, d, ..] = self.me.0;
        SliceIndex(u32::from_le_bytes([a, b, c, d]) % self.overlay.slice_count())
    }

    fn found(&mut self, wall_us: u64) {
        let seed = RingSeed { made_at_us: wall_us, founder: self.me };
        self.ring = Some(Ring::found(seed, self.overlay));
        self.slice = Some(self.favourite());
        self.lonely_since = None;
        self.needs_storing = true;
    }

    /// Nodes that were all started as joiners of each other would wait for ever: after a while the one with the
    /// smallest id among the connected ones founds. If others do so elsewhere, the rings meet later.
    fn found_together(&mut self, neighbours: &Neighbours, now: Instant, wall_us: u64) {
        let live = || neighbours.iter().filter(|(_, neighbour)| neighbour.is_live);
        let may_found = self.start == Start::Either
            && self.ring.is_none()
            && live().any(|(_, neighbour)| neighbour.is_connected && neighbour.is_compatible)
            && live().all(|(id, neighbour)| neighbour.seed.is_none() && *id > self.me);
        if !may_found {
            self.lonely_since = None;
            return;
        }
        let since = *self.lonely_since.get_or_insert(now);
        if now.saturating_duration_since(since) >= FOUND_AFTER {
            self.found(wall_us);
            self.effects.extend(self.slice.map(|slice| Effect::Event(IpamEvent::Assigned(slice))));
            let whole = self.ring.iter().flat_map(|ring| ring.parts(&(0..self.overlay.slice_count()), PART_BYTES));
            self.effects.extend(whole.map(Effect::Announce).collect::<Vec<_>>());
        }
    }

    /// Takes the first slice that we own at or after our favourite place, if possible one that nobody says to use.
    fn take_slice(&mut self, neighbours: &Neighbours) {
        let Some(ring) = self.ring.as_ref().filter(|_| self.slice.is_none()) else { return };
        let from_favourite = |slice: &SliceIndex| {
            let taken = neighbours.values().any(|neighbour| neighbour.slice == Some(*slice));
            (taken, slice.0.wrapping_sub(self.favourite().0) % self.overlay.slice_count())
        };
        let owned = ring.owned_by(self.me).into_iter().flatten().map(SliceIndex);
        if let Some(slice) = owned.min_by_key(from_favourite) {
            self.slice = Some(slice);
            self.asking = Asking::default();
            self.needs_storing = true;
            self.effects.push_back(Effect::Event(IpamEvent::Assigned(slice)));
        }
    }

    fn ask_for_slices(&mut self, neighbours: &Neighbours, now: Instant) {
        let Some(ring) = self.ring.as_ref().filter(|_| self.slice.is_none()) else {
            self.asking.next_at = None;
            return;
        };
        if self.asking.next_at.is_some_and(|at| now < at) {
            return;
        }
        let mut donors: Vec<_> = donors(ring, neighbours).filter(|donor| donor.is_connected).collect();
        donors.sort_by_key(|donor| {
            (self.asking.refused.contains_key(&donor.id), !donor.is_live, std::cmp::Reverse(donor.free_count), donor.id)
        });
        if !donors.is_empty() {
            let donor = &donors[self.asking.attempt % donors.len()];
            self.effects.push_back(Effect::Send(donor.id, IpamMessage::Request { seed: ring.seed() }));
            self.asking.attempt += 1;
        }
        self.asking.next_at = Some(now + RETRY_AFTER);
    }

    fn learn(&mut self, from: PeerId, part: &RingPart) {
        if part.overlay() != self.overlay {
            return;
        }
        let standing = match &self.ring {
            None => Standing::Adopted,
            Some(ring) if part.seed() == ring.seed() => Standing::Same,
            Some(ring) if part.seed() > ring.seed() => return,
            Some(_) if self.slice.is_none() => Standing::Adopted,
            Some(_) => Standing::Rival,
        };
        if standing == Standing::Rival {
            return self.learn_rival(from, part);
        }
        if standing == Standing::Adopted {
            self.asking = Asking::default();
            self.ring = None;
        }
        let ring = self.ring.get_or_insert_with(|| Ring::unknown(part.seed(), part.overlay()));
        let merged = ring.merge(part);
        self.contradiction_count += u64::from(merged.contradictions);
        if merged.changed {
            self.needs_storing = true;
            self.effects.push_back(Effect::PassOn(from, part.clone()));
        }
    }

    fn answer_request(&mut self, from: PeerId, seed: RingSeed) {
        if self.seed() != Some(seed) || self.rival.is_some() {
            self.refuse(from, seed, None, Refusal::OtherRing);
            self.effects.push_back(Effect::SendDigest(from));
            return;
        }
        let ring = self.ring.as_mut().expect("its seed was just compared");
        let earlier = ring.owned_by(from);
        if !earlier.is_empty() {
            let parts = earlier.iter().flat_map(|run| ring.parts(run, PART_BYTES));
            self.effects.extend(parts.map(|part| Effect::Send(from, IpamMessage::Part(part))));
            return;
        }
        match donation(ring.owned_by(self.me), self.slice) {
            Some(run) => self.give(run, from),
            None => self.refuse(from, seed, None, Refusal::NothingFree),
        }
    }

    fn answer_claim(&mut self, from: PeerId, seed: RingSeed, slice: SliceIndex) {
        let is_ours = self.seed() == Some(seed) && self.rival.is_none() && slice.0 < self.overlay.slice_count();
        let Some(ring) = self.ring.as_ref().filter(|_| is_ours) else {
            self.refuse(from, seed, Some(slice), Refusal::OtherRing);
            self.effects.push_back(Effect::SendDigest(from));
            return;
        };
        let run = slice.0..slice.0 + 1;
        match ring.at(slice) {
            Some(token) if token.owner == self.me && self.slice == Some(slice) => {
                self.refuse(from, seed, Some(slice), Refusal::InUse);
            }
            Some(token) if token.owner == self.me => self.give(run, from),
            _ => {
                let parts = ring.parts(&run, PART_BYTES);
                self.effects.extend(parts.into_iter().map(|part| Effect::Send(from, IpamMessage::Part(part))));
            }
        }
    }

    /// Gives up the slice in use if nothing depends on it here and there is another one to take, which
    /// [`Self::pursue`] does.
    fn answer_plea(&mut self, from: PeerId, seed: RingSeed, slice: SliceIndex) {
        let is_asked = self.seed() == Some(seed) && self.rival.is_none() && self.slice == Some(slice);
        let owned = self.ring.as_ref().map(|ring| ring.owned_by(self.me)).unwrap_or_default();
        let has_another = owned.iter().any(|run| run.clone().any(|index| SliceIndex(index) != slice));
        if is_asked && has_another && self.may_give_way() {
            self.slice = None;
            self.note_change();
            self.effects.push_back(Effect::Event(IpamEvent::Ceded(slice, from)));
        }
        self.answer_claim(from, seed, slice);
    }

    fn answer_handover(&mut self, from: PeerId, seed: RingSeed) {
        let owns_still = self.ring.as_ref().is_some_and(|ring| ring.seed() == seed && !ring.owned_by(from).is_empty());
        self.effects.push_back(if owns_still {
            Effect::SendDigest(from)
        } else {
            Effect::Send(from, IpamMessage::HandoverSeen)
        });
    }

    fn give(&mut self, run: Range<u32>, to: PeerId) {
        let ring = self.ring.as_mut().expect("only what is in the ring is given");
        ring.give(run.clone(), self.me, to);
        self.granted_count += u64::from(run.end - run.start);
        self.needs_storing = true;
        for part in ring.parts(&run, PART_BYTES) {
            self.effects.push_back(Effect::Send(to, IpamMessage::Part(part.clone())));
            self.effects.push_back(Effect::Announce(part));
        }
    }

    fn refuse(&mut self, whom: PeerId, seed: RingSeed, slice: Option<SliceIndex>, refusal: Refusal) {
        self.effects.push_back(Effect::Send(whom, IpamMessage::Refused { seed, slice, refusal }));
    }

    fn describe_donors(&self, ring: &Ring, neighbours: &Neighbours, name: impl Fn(PeerId) -> String) -> String {
        let donors: Vec<_> = donors(ring, neighbours).filter(|donor| donor.id != self.me).collect();
        let unknown: u32 = ring.runs().filter(|(_, token)| token.is_none()).map(|(run, _)| run.end - run.start).sum();
        let (connected, away): (Vec<_>, Vec<_>) = donors.iter().partition(|donor| donor.is_connected);
        match (connected.first(), away.first()) {
            (Some(_), _) => format!("for a grant from {}: no answer yet", list(&connected, name)),
            (None, Some(_)) => format!("for a grant from {}: not connected", list(&away, name)),
            (None, None) if unknown > 0 => "for news of who owns which addresses".into(),
            (None, None) => format!(
                "for a free slice: all {} of {} are taken; use a larger range",
                self.overlay.slice_count(),
                self.overlay.range()
            ),
        }
    }
}

/// Somebody who has slices to spare, as far as we know.
struct Donor {
    id: PeerId,
    free_count: u32,
    is_connected: bool,
    is_live: bool,
}

fn donors<'a>(ring: &'a Ring, neighbours: &'a Neighbours) -> impl Iterator<Item = Donor> + 'a {
    ring.shares().into_iter().filter_map(move |(id, owned_count)| {
        let neighbour = neighbours.get(&id);
        let uses_one = neighbour.is_none_or(|neighbour| neighbour.slice.is_some());
        let free_count = owned_count - u32::from(uses_one);
        (free_count > 0).then_some(Donor {
            id,
            free_count,
            is_connected: neighbour.is_some_and(|neighbour| neighbour.is_connected),
            is_live: neighbour.is_some_and(|neighbour| neighbour.is_live),
        })
    })
}

fn list(donors: &[&Donor], name: impl Fn(PeerId) -> String) -> String {
    const SHOWN: usize = 3;
    let mut names: Vec<_> = donors.iter().take(SHOWN).map(|donor| name(donor.id)).collect();
    if donors.len() > SHOWN {
        names.push(format!("{} others", donors.len() - SHOWN));
    }
    names.join(", ")
}

/// The upper half of the largest run that is free; all of it if it is one slice.
fn donation(owned: Vec<Range<u32>>, in_use: Option<SliceIndex>) -> Option<Range<u32>> {
    let free = owned.into_iter().flat_map(|run| match in_use {
        Some(SliceIndex(used)) if run.contains(&used) => [run.start..used, used + 1..run.end],
        _ => [run.clone(), run.end..run.end],
    });
    let largest = free.max_by_key(|run| run.end - run.start).filter(|run| run.start < run.end)?;
    Some(largest.end - (largest.end - largest.start).div_ceil(2)..largest.end)
}

//! The ring: which node owns which slice of the overlay's range.
//!
//! Each slice is a register of a token `{owner, version}`; neighbouring slices with equal tokens are one *run*. Only the
//! owner of a slice may write its register, and it writes exactly once at each version: it hands the slice to somebody
//! with `version + 1` and is its owner no longer. A merge takes, slice by slice, the token with the higher version; it
//! is commutative, associative and idempotent, so any order, loss or repetition of messages leads to the same ring.
//!
//! # Why no slice has two owners at once
//!
//! Claim: for each slice and version there is at most one token in all rings of one [`RingSeed`], ever. By induction
//! over versions: version 1 is written once, by the founder, when it makes the ring. Version `n + 1` is written only by
//! the node that finds itself the owner at version `n`, which by the hypothesis is one node; [`Ring::give`] raises the
//! version of that node's own copy in the same step, and the copy is stored durably before anybody hears of the new
//! token, so the node never finds itself the owner at `n` again, also after a crash.
//!
//! Now suppose that two nodes think at one time that they own a slice, A by version `a` and B by version `b`. `a = b`
//! contradicts the claim. Let `a < b`: the tokens from `a + 1` to `b` exist, so somebody wrote `a + 1`; only A may have
//! done so, and its copy has been at `a + 1` or higher since. A contradiction, whatever messages were lost or delayed.
//!
//! What breaks the proof is a node that goes back in time (a state directory restored from a backup, a cloned machine).
//! Then two tokens of one version may meet: the smaller owner wins everywhere, and the contradiction is reported.
//!
//! INVARIANT: the runs cover all slices exactly once, and no two neighbouring runs have equal tokens.

use std::{collections::BTreeMap, ops::Range};

use serde::{Deserialize, Serialize};
use weaved_api::PeerId;

use super::{Overlay, RingPart, SliceIndex};

/// Parts that a ring is compared in.
pub const SEGMENTS: u32 = 16;

/// Which ring: made when, by whom. The older one, which is the smaller one, wins when two meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RingSeed {
    /// The founder's wall clock, in microseconds since 1970.
    pub made_at_us: u64,
    /// Who made it.
    pub founder: PeerId,
}

/// What the register of a slice holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Token {
    /// Who may use the slice and give it away.
    pub owner: PeerId,
    /// How many owners it has had.
    pub version: u32,
}

/// A replica of the ring, perhaps incomplete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ring {
    seed: RingSeed,
    overlay: Overlay,
    /// First slice of each run → its token; None where nothing is known.
    runs: BTreeMap<u32, Option<Token>>,
}

/// What a merge has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Merged {
    /// True if the ring is another one than before.
    pub changed: bool,
    /// Slices for which there were two tokens of one version: somebody has gone back in time.
    pub contradictions: u32,
}

impl Ring {
    /// A new ring that the founder owns wholly.
    pub fn found(seed: RingSeed, overlay: Overlay) -> Self {
        let token = Token { owner: seed.founder, version: 1 };
        Self { seed, overlay, runs: BTreeMap::from([(0, Some(token))]) }
    }

    /// A replica that knows nothing yet.
    pub fn unknown(seed: RingSeed, overlay: Overlay) -> Self {
        Self { seed, overlay, runs: BTreeMap::from([(0, None)]) }
    }

    /// Which ring this is a replica of.
    pub fn seed(&self) -> RingSeed {
        self.seed
    }

    /// The address plan.
    pub fn overlay(&self) -> Overlay {
        self.overlay
    }

    /// What is known of one slice.
    pub fn at(&self, slice: SliceIndex) -> Option<Token> {
        self.runs.range(..=slice.0).next_back().and_then(|(_, token)| *token)
    }

    /// All runs in order.
    pub fn runs(&self) -> impl Iterator<Item = (Range<u32>, Option<Token>)> {
        let ends = self.runs.keys().skip(1).copied().chain([self.overlay.slice_count()]);
        self.runs.iter().zip(ends).map(|((&start, &token), end)| (start..end, token))
    }

    /// The runs of one owner. Neighbouring runs of different versions are joined.
    pub fn owned_by(&self, owner: PeerId) -> Vec<Range<u32>> {
        let mut ranges: Vec<Range<u32>> = Vec::new();
        for (run, token) in self.runs() {
            if token.is_none_or(|token| token.owner != owner) {
                continue;
            }
            match ranges.last_mut() {
                Some(last) if last.end == run.start => last.end = run.end,
                _ => ranges.push(run),
            }
        }
        ranges
    }

    /// How many slices each owner has.
    pub fn shares(&self) -> BTreeMap<PeerId, u32> {
        let mut shares = BTreeMap::new();
        for (run, token) in self.runs() {
            if let Some(token) = token {
                *shares.entry(token.owner).or_default() += run.end - run.start;
            }
        }
        shares
    }

    /// Hands slices of ours to somebody. The result must be stored durably before anybody is told.
    ///
    /// Panics if one of them is not `from`'s: only the owner writes.
    pub fn give(&mut self, slices: Range<u32>, from: PeerId, to: PeerId) {
        for (run, token) in self.runs_within(&slices) {
            let token = token.filter(|token| token.owner == from);
            let token = token.expect("INVARIANT: only the owner of a slice gives it away");
            let version = token.version.checked_add(1).expect("a slice does not change hands four billion times");
            self.set(run, Some(Token { owner: to, version }));
        }
        self.assert_invariants();
    }

    /// Takes over what a part of another replica knows better.
    ///
    /// Panics if the part is of another ring.
    pub fn merge(&mut self, part: &RingPart) -> Merged {
        assert_eq!(part.seed(), self.seed, "INVARIANT: only replicas of one ring are merged");
        assert_eq!(part.overlay(), self.overlay, "INVARIANT: a ring has one address plan");
        let mut merged = Merged::default();
        for (theirs_run, theirs) in part.runs() {
            for (run, ours) in self.runs_within(&theirs_run) {
                if is_contradiction(theirs, ours) {
                    merged.contradictions += run.end - run.start;
                }
                if wins(theirs, ours) {
                    merged.changed = true;
                    self.set(run, theirs);
                }
            }
        }
        self.assert_invariants();
        merged
    }

    /// The whole ring as one part, for storing.
    pub fn whole(&self) -> RingPart {
        RingPart::new(self.seed, self.overlay, &self.runs().collect::<Vec<_>>())
    }

    /// The ring that [`Self::whole`] was made of. None if the part does not cover all slices.
    pub fn from_whole(part: &RingPart) -> Option<Self> {
        if part.slices() != (0..part.overlay().slice_count()) {
            return None;
        }
        let mut ring = Self::unknown(part.seed(), part.overlay());
        let _ = ring.merge(part);
        Some(ring)
    }

    /// What is known within these slices, in parts of at most `budget_len` bytes each. Unknown runs are left out.
    pub fn parts(&self, slices: &Range<u32>, budget_len: usize) -> Vec<RingPart> {
        let known: Vec<_> = self.runs_within(slices).into_iter().filter(|(_, token)| token.is_some()).collect();
        RingPart::pack(self.seed, self.overlay, &known, budget_len)
    }

    /// The slices of one of the [`SEGMENTS`]. Empty for some when there are fewer slices than segments.
    pub fn segment(&self, segment: u32) -> Range<u32> {
        let bound =
            |index: u32| (u64::from(index) * u64::from(self.overlay.slice_count()) / u64::from(SEGMENTS)) as u32;
        bound(segment)..bound(segment + 1)
    }

    /// A fingerprint of what is known within each segment. Equal rings have equal ones.
    pub fn fingerprints(&self) -> Vec<u32> {
        (0..SEGMENTS).map(|segment| self.fingerprint(&self.segment(segment))).collect()
    }

    fn fingerprint(&self, slices: &Range<u32>) -> u32 {
        let mut hash = Fnv::default();
        for (run, token) in self.runs_within(slices) {
            hash.write(&run.start.to_le_bytes());
            if let Some(token) = token {
                hash.write(&token.owner.0);
                hash.write(&token.version.to_le_bytes());
            }
        }
        hash.folded()
    }

    /// The runs, cut to these slices.
    fn runs_within(&self, slices: &Range<u32>) -> Vec<(Range<u32>, Option<Token>)> {
        let first = self.runs.range(..=slices.start).next_back().map_or(0, |(&start, _)| start);
        let mut within = Vec::new();
        let mut runs = self.runs.range(first..).peekable();
        while let Some((&start, &token)) = runs.next() {
            let end = runs.peek().map_or(self.overlay.slice_count(), |&(&next, _)| next);
            let cut = start.max(slices.start)..end.min(slices.end);
            if start >= slices.end {
                break;
            }
            if cut.start < cut.end {
                within.push((cut, token));
            }
        }
        within
    }

    /// Writes one run and joins it with equal neighbours.
    fn set(&mut self, run: Range<u32>, token: Option<Token>) {
        debug_assert!(run.start < run.end && run.end <= self.overlay.slice_count());
        let after = self.runs.range(..=run.end).next_back().and_then(|(_, token)| *token);
        let inside: Vec<u32> = self.runs.range(run.clone()).map(|(&start, _)| start).collect();
        for start in inside {
            self.runs.remove(&start);
        }
        if run.end < self.overlay.slice_count() {
            if after == token {
                self.runs.remove(&run.end);
            } else {
                self.runs.insert(run.end, after);
            }
        }
        let before = self.runs.range(..run.start).next_back().map(|(_, token)| *token);
        if before != Some(token) {
            self.runs.insert(run.start, token);
        }
    }

    fn assert_invariants(&self) {
        debug_assert!(self.runs.contains_key(&0), "INVARIANT: the runs begin at the first slice");
        debug_assert!(
            self.runs.keys().all(|&start| start < self.overlay.slice_count()),
            "INVARIANT: the runs end at the last slice"
        );
        debug_assert!(
            self.runs.values().zip(self.runs.values().skip(1)).all(|(a, b)| a != b),
            "INVARIANT: neighbouring runs differ"
        );
    }
}

fn wins(theirs: Option<Token>, ours: Option<Token>) -> bool {
    match (theirs, ours) {
        (Some(theirs), Some(ours)) if theirs.version == ours.version => theirs.owner < ours.owner,
        (Some(theirs), Some(ours)) => theirs.version > ours.version,
        (Some(_), None) => true,
        (None, _) => false,
    }
}

fn is_contradiction(theirs: Option<Token>, ours: Option<Token>) -> bool {
    matches!((theirs, ours), (Some(theirs), Some(ours)) if theirs.version == ours.version && theirs.owner != ours.owner)
}

/// FNV-1a, 64 bits. Not for adversaries: a collision delays a repair until the ring next changes.
struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Fnv {
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    fn folded(&self) -> u32 {
        (self.0 >> 32) as u32 ^ self.0 as u32
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const A: PeerId = PeerId([0xa; 32]);
    const B: PeerId = PeerId([0xb; 32]);
    const C: PeerId = PeerId([0xc; 32]);

    fn overlay() -> Overlay {
        Overlay::new("10.0.0.0/16".parse().unwrap(), 22).unwrap()
    }

    fn seed() -> RingSeed {
        RingSeed { made_at_us: 1, founder: A }
    }

    #[test]
    fn founder_owns_everything() {
        let ring = Ring::found(seed(), overlay());
        assert_eq!(ring.owned_by(A), vec![0..64]);
        assert_eq!(ring.at(SliceIndex(63)), Some(Token { owner: A, version: 1 }));
    }

    #[test]
    fn given_slices_change_owner_and_version() {
        let mut ring = Ring::found(seed(), overlay());
        ring.give(32..64, A, B);
        ring.give(48..50, B, C);
        assert_eq!(ring.owned_by(B), vec![32..48, 50..64]);
        assert_eq!(ring.at(SliceIndex(48)), Some(Token { owner: C, version: 3 }));
        assert_eq!(ring.shares(), BTreeMap::from([(A, 32), (B, 30), (C, 2)]));
    }

    #[test]
    #[should_panic(expected = "only the owner of a slice gives it away")]
    fn nobody_gives_what_he_does_not_own() {
        let mut ring = Ring::found(seed(), overlay());
        ring.give(0..8, A, B);
        ring.give(7..9, A, C);
    }

    #[test]
    fn runs_of_different_versions_are_one_range_of_their_owner() {
        let mut ring = Ring::found(seed(), overlay());
        ring.give(0..8, A, B);
        ring.give(0..8, B, A);
        assert_eq!(ring.owned_by(A), vec![0..64]);
        assert_eq!(ring.runs().count(), 2);
    }

    #[test]
    fn merge_takes_the_higher_version_of_each_slice() {
        let mut a = Ring::found(seed(), overlay());
        let mut b = a.clone();
        a.give(0..16, A, B);
        assert!(b.merge(&a.whole()).changed);
        b.give(8..16, B, C);
        assert!(!b.merge(&a.whole()).changed, "an older part changes nothing");
        assert!(a.merge(&b.whole()).changed);
        assert_eq!(a, b);
    }

    #[test]
    fn two_tokens_of_one_version_are_reported_and_settled_alike_everywhere() {
        let (mut a, mut b) = (Ring::found(seed(), overlay()), Ring::found(seed(), overlay()));
        a.give(0..4, A, B);
        b.give(2..4, A, C);
        let (whole_a, whole_b) = (a.whole(), b.whole());
        assert_eq!(a.merge(&whole_b).contradictions, 2);
        assert_eq!(b.merge(&whole_a).contradictions, 2);
        assert_eq!(a, b);
        assert_eq!(a.at(SliceIndex(3)).unwrap().owner, B);
    }

    #[test]
    fn equal_rings_have_equal_fingerprints_and_a_change_shows_in_its_segment_only() {
        let before = Ring::found(seed(), overlay());
        let mut after = before.clone();
        after.give(9..10, A, B);
        let differing: Vec<_> = (0..SEGMENTS as usize)
            .filter(|&segment| before.fingerprints()[segment] != after.fingerprints()[segment])
            .collect();
        assert_eq!(differing, vec![2], "slices 8..12 are the third of 16 segments");
    }

    /// What may happen to a group of nodes. Indices are taken modulo what there is.
    #[derive(Clone, Debug)]
    enum Step {
        /// A node gives a run of what it owns to another.
        Give { from: usize, to: usize, which: usize, len: u32 },
        /// A node's ring, as it was at some time, reaches another.
        Deliver { message: usize, to: usize },
        /// A node puts its ring on the wire; it may arrive later, often, or never.
        Send { from: usize },
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (any::<usize>(), any::<usize>(), any::<usize>(), 1..20u32).prop_map(|(from, to, which, len)| Step::Give {
                from,
                to,
                which,
                len
            }),
            (any::<usize>(), any::<usize>()).prop_map(|(message, to)| Step::Deliver { message, to }),
            any::<usize>().prop_map(|from| Step::Send { from }),
        ]
    }

    struct Group {
        ids: Vec<PeerId>,
        rings: Vec<Ring>,
        wire: Vec<RingPart>,
    }

    impl Group {
        fn new(node_count: u8) -> Self {
            let ids: Vec<_> = (0..node_count).map(|index| PeerId([index; 32])).collect();
            let seed = RingSeed { made_at_us: 1, founder: ids[0] };
            let mut rings = vec![Ring::unknown(seed, overlay()); ids.len()];
            rings[0] = Ring::found(seed, overlay());
            Self { ids, rings, wire: Vec::new() }
        }

        fn run(&mut self, step: &Step) {
            let count = self.ids.len();
            match *step {
                Step::Give { from, to, which, len } => {
                    let (from, to) = (from % count, to % count);
                    let owned = self.rings[from].owned_by(self.ids[from]);
                    if from != to && !owned.is_empty() {
                        let run = owned[which % owned.len()].clone();
                        let end = run.end.min(run.start + len);
                        self.rings[from].give(run.start..end, self.ids[from], self.ids[to]);
                    }
                }
                Step::Send { from } => {
                    let parts = self.rings[from % count].parts(&(0..64), 200);
                    self.wire.extend(parts);
                }
                Step::Deliver { message, to } => {
                    if !self.wire.is_empty() {
                        let part = &self.wire[message % self.wire.len()];
                        assert_eq!(self.rings[to % count].merge(part).contradictions, 0);
                    }
                }
            }
        }

        fn assert_no_slice_has_two_owners(&self) {
            let mut owned = [false; 64];
            for (id, ring) in self.ids.iter().zip(&self.rings) {
                for slice in ring.owned_by(*id).into_iter().flatten() {
                    assert!(!std::mem::replace(&mut owned[slice as usize], true), "slice {slice} has two owners");
                }
            }
        }
    }

    proptest! {
        #[test]
        fn what_nodes_think_they_own_is_disjoint_at_all_times(
            node_count in 2..6u8,
            steps in prop::collection::vec(step(), 1..200),
        ) {
            let mut group = Group::new(node_count);
            for step in &steps {
                group.run(step);
                group.assert_no_slice_has_two_owners();
            }
        }

        #[test]
        fn all_replicas_are_equal_once_all_messages_have_arrived(
            node_count in 2..6u8,
            steps in prop::collection::vec(step(), 1..100),
        ) {
            let mut group = Group::new(node_count);
            for step in &steps {
                group.run(step);
            }
            let wholes: Vec<_> = group.rings.iter().map(Ring::whole).collect();
            for ring in &mut group.rings {
                wholes.iter().rev().for_each(|whole| { let _ = ring.merge(whole); });
            }
            for pair in group.rings.windows(2) {
                prop_assert_eq!(&pair[0], &pair[1]);
                prop_assert_eq!(pair[0].fingerprints(), pair[1].fingerprints());
            }
            let owned: u32 = group.rings[0].shares().values().sum();
            prop_assert_eq!(owned, 64);
        }

        #[test]
        fn a_ring_survives_storing(steps in prop::collection::vec(step(), 1..60)) {
            let mut group = Group::new(3);
            for step in &steps {
                group.run(step);
            }
            for ring in &group.rings {
                prop_assert_eq!(&Ring::from_whole(&ring.whole()).unwrap(), ring);
            }
        }
    }
}

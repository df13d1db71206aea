//! A piece of a ring on its way: on the wire and in the state file.
//!
//! Owners are listed once and named by their place in the list, because a cluster has few owners and many runs.
//!
//! INVARIANT: a part describes a non-empty range of slices without gaps or overlaps; its address plan is valid. The
//! decoder is the only door and refuses everything else.

use std::ops::Range;

use serde::{Deserialize, Serialize, de};
use weaved_api::PeerId;

use super::{Overlay, RingSeed, Token};

/// A run of slices, as known by somebody.
type Run = (Range<u32>, Option<Token>);

/// Some neighbouring slices of a ring and their tokens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RingPart {
    seed: RingSeed,
    overlay: Overlay,
    first: u32,
    owners: Vec<PeerId>,
    runs: Vec<WireRun>,
}

/// A run as it travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct WireRun {
    /// Number of slices.
    len: u32,
    /// 0: nothing known. Else one more than the place in the list of owners.
    owner: u16,
    /// The token's version; 0 when nothing is known.
    version: u32,
}

/// The highest version that is believed. No slice changes hands so often; a higher one is garbage, which must not bring
/// an owner to the end of its numbers.
const MAX_TOKEN_VERSION: u32 = u32::MAX / 2;

/// Bytes of a part without owners and runs, at most: seed, address plan, first slice, two counts.
const HEADER_BYTES: usize = 10 + 32 + 6 + 5 + 6;
/// Bytes of one more owner.
const OWNER_BYTES: usize = 32;
/// Bytes of one more run, at most.
const RUN_BYTES: usize = 5 + 3 + 5;

impl RingPart {
    /// A part of neighbouring runs.
    ///
    /// Panics if there are none, or if they leave gaps.
    pub(super) fn new(seed: RingSeed, overlay: Overlay, runs: &[Run]) -> Self {
        let first = runs.first().expect("INVARIANT: a part is not empty").0.start;
        let mut part = Self { seed, overlay, first, owners: Vec::new(), runs: Vec::new() };
        let mut next = first;
        for (run, token) in runs {
            assert_eq!(run.start, next, "INVARIANT: a part has no gaps");
            next = run.end;
            let (owner, version) = token.map_or((0, 0), |token| (part.place_of(token.owner), token.version));
            part.runs.push(WireRun { len: run.end - run.start, owner, version });
        }
        part
    }

    /// Everybody who owns something of it.
    pub fn owners(&self) -> &[PeerId] {
        &self.owners
    }

    /// Runs, which may have gaps between them, in parts of at most `budget_len` bytes each.
    pub(super) fn pack(seed: RingSeed, overlay: Overlay, runs: &[Run], budget_len: usize) -> Vec<Self> {
        let mut parts = Vec::new();
        let mut begin = 0;
        let mut owners: Vec<PeerId> = Vec::new();
        for (index, (run, token)) in runs.iter().enumerate() {
            let has_gap = index > begin && runs[index - 1].0.end != run.start;
            let new_owner = token.map(|token| token.owner).filter(|owner| !owners.contains(owner));
            let len = HEADER_BYTES
                + (owners.len() + usize::from(new_owner.is_some())) * OWNER_BYTES
                + (index - begin + 1) * RUN_BYTES;
            if index > begin && (has_gap || len > budget_len) {
                parts.push(Self::new(seed, overlay, &runs[begin..index]));
                begin = index;
                owners.clear();
            }
            owners.extend(token.map(|token| token.owner).filter(|owner| !owners.contains(owner)));
        }
        if begin < runs.len() {
            parts.push(Self::new(seed, overlay, &runs[begin..]));
        }
        parts
    }

    /// Which ring it is of.
    pub fn seed(&self) -> RingSeed {
        self.seed
    }

    /// The address plan.
    pub fn overlay(&self) -> Overlay {
        self.overlay
    }

    /// What it describes.
    pub fn slices(&self) -> Range<u32> {
        let len: u32 = self.runs.iter().map(|run| run.len).sum();
        self.first..self.first + len
    }

    /// The runs in order.
    pub(super) fn runs(&self) -> impl Iterator<Item = Run> + '_ {
        let mut next = self.first;
        self.runs.iter().map(move |run| {
            let start = next;
            next += run.len;
            let owner = usize::from(run.owner).checked_sub(1).map(|place| self.owners[place]);
            (start..next, owner.map(|owner| Token { owner, version: run.version }))
        })
    }

    fn place_of(&mut self, owner: PeerId) -> u16 {
        let place = self.owners.iter().position(|&known| known == owner).unwrap_or_else(|| {
            self.owners.push(owner);
            self.owners.len() - 1
        });
        u16::try_from(place + 1).expect("there are at most 65,535 owners in one part")
    }

    fn is_valid(&self) -> bool {
        let len: u64 = self.runs.iter().map(|run| u64::from(run.len)).sum();
        self.overlay.is_valid()
            && !self.runs.is_empty()
            && self.runs.iter().all(|run| {
                run.len > 0
                    && usize::from(run.owner) <= self.owners.len()
                    && (run.owner == 0) == (run.version == 0)
                    && run.version <= MAX_TOKEN_VERSION
            })
            && u64::from(self.first) + len <= u64::from(self.overlay.slice_count())
    }
}

impl<'de> Deserialize<'de> for RingPart {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Unchecked {
            seed: RingSeed,
            overlay: Overlay,
            first: u32,
            owners: Vec<PeerId>,
            runs: Vec<WireRun>,
        }
        let Unchecked { seed, overlay, first, owners, runs } = Unchecked::deserialize(deserializer)?;
        let part = Self { seed, overlay, first, owners, runs };
        if part.is_valid() { Ok(part) } else { Err(de::Error::custom("not a part of a ring")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipam::Ring;

    fn ring_of(owner_count: u8) -> Ring {
        let founder = PeerId([0; 32]);
        let overlay = Overlay::new("10.32.0.0/12".parse().unwrap(), 24).unwrap();
        let mut ring = Ring::found(RingSeed { made_at_us: u64::MAX, founder }, overlay);
        for index in 1..owner_count {
            let first = u32::from(index) * 16;
            ring.give(first..first + 16, founder, PeerId([index; 32]));
        }
        ring
    }

    #[test]
    fn parts_keep_to_the_budget_and_rebuild_the_ring() {
        let ring = ring_of(200);
        let parts = ring.parts(&(0..4096), 1100);
        let mut rebuilt = Ring::unknown(ring.seed(), ring.overlay());
        for part in &parts {
            assert!(postcard::to_stdvec(part).unwrap().len() <= 1100);
            assert!(rebuilt.merge(part).changed, "no part is superfluous");
        }
        assert_eq!(rebuilt, ring);
    }

    #[test]
    fn unknown_slices_do_not_travel() {
        let ring = ring_of(10);
        let mut partial = Ring::unknown(ring.seed(), ring.overlay());
        for part in ring.parts(&(16..32), 1100).iter().chain(&ring.parts(&(64..80), 1100)) {
            let _ = partial.merge(part);
        }
        let parts = partial.parts(&(0..4096), 1100);
        assert_eq!(parts.iter().map(RingPart::slices).collect::<Vec<_>>(), vec![16..32, 64..80]);
    }

    #[test]
    fn a_part_survives_json() {
        let whole = ring_of(5).whole();
        assert_eq!(serde_json::from_str::<RingPart>(&serde_json::to_string(&whole).unwrap()).unwrap(), whole);
    }

    #[test]
    fn parts_that_break_the_invariant_are_refused() {
        let good = ring_of(3).whole();
        let broken = |change: &dyn Fn(&mut RingPart)| {
            let mut part = good.clone();
            change(&mut part);
            postcard::from_bytes::<RingPart>(&postcard::to_stdvec(&part).unwrap()).is_err()
        };
        assert!(!broken(&|_| ()));
        assert!(broken(&|part| part.runs.clear()));
        assert!(broken(&|part| part.runs[0].len = 0));
        assert!(broken(&|part| part.runs[0].len += 1), "beyond the last slice");
        assert!(broken(&|part| part.runs[0].len = u32::MAX), "sums do not wrap");
        assert!(broken(&|part| part.first = u32::MAX));
        assert!(broken(&|part| part.runs[0].owner = 4), "an owner that is not listed");
        assert!(broken(&|part| part.runs[0].version = 0), "an owner without a version");
        assert!(broken(&|part| part.runs[0].version = u32::MAX), "a version without a next one");
    }
}

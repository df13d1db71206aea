//! A digest: what a node has, in short. The receiver sends back what the sender lacks, and asks in its turn for what it
//! lacks itself.
//!
//! In large clusters a digest of all records is longer than a datagram, so each covers a range of ids; the ranges of one
//! replica follow each other without gaps.
//!
//! INVARIANT: a digest's entries are sorted and lie within its range.

use serde::{Deserialize, Serialize};
use weaved_api::PeerId;

use super::{Record, Replica, Version, limits::GOSSIP_BYTES};
use crate::ipam::{Ring, RingSeed};

/// Bytes around the entries of a digest, at most: version, range, two ring summaries.
const HEADER_BYTES: usize = 16 + 64 + 2 * (42 + 1 + 16 * 5);
/// Bytes of one entry, at most.
const ENTRY_BYTES: usize = 32 + 10;
/// Entries of one digest.
const MAX_ENTRIES: usize = (GOSSIP_BYTES - HEADER_BYTES) / ENTRY_BYTES;

/// Ids from the first to the last, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdRange {
    first: PeerId,
    last: PeerId,
}

/// What a node has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digest {
    /// Which records this is about.
    pub range: IdRange,
    /// The versions of the records that the sender has in the range.
    pub entries: Vec<(PeerId, Version)>,
    /// The rings that the sender knows: its own, and an older one that it has met.
    pub rings: Vec<RingSummary>,
    /// True for an answer, which is not answered with another digest.
    pub is_answer: bool,
}

/// What a node knows of a ring.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RingSummary {
    /// Which ring.
    pub seed: RingSeed,
    /// One fingerprint per segment of the ring.
    pub fingerprints: Vec<u32>,
}

impl IdRange {
    /// All ids.
    pub const ALL: Self = Self { first: PeerId([0; 32]), last: PeerId([0xff; 32]) };

    /// True for ids in the range.
    pub fn contains(&self, id: PeerId) -> bool {
        self.first <= id && id <= self.last
    }

    /// Only this id.
    pub fn only(id: PeerId) -> Self {
        Self { first: id, last: id }
    }

    /// Ranges that together cover this one, each with at most `count` of these ids, which are sorted.
    pub fn cut(self, ids: &[PeerId], count: usize) -> Vec<Self> {
        let starts = ids.chunks(count).skip(1).map(|chunk| chunk[0]);
        let ends = starts.clone().map(|next| before(next).expect("an id that follows another is not zero"));
        let firsts = std::iter::once(self.first).chain(starts);
        firsts.zip(ends.chain([self.last])).map(|(first, last)| Self { first, last }).collect()
    }
}

impl RingSummary {
    /// What is known of this ring.
    pub fn of(ring: &Ring) -> Self {
        Self { seed: ring.seed(), fingerprints: ring.fingerprints() }
    }
}

impl Digest {
    /// Digests that together cover a range of the replica.
    pub fn of(replica: &Replica, range: IdRange, rings: &[RingSummary]) -> Vec<Self> {
        let entries: Vec<_> = replica
            .records()
            .filter(|(owner, _)| range.contains(*owner))
            .map(|(owner, record)| (owner, record.version))
            .collect();
        let ids: Vec<_> = entries.iter().map(|(owner, _)| *owner).collect();
        let within =
            |range: IdRange| entries.iter().copied().filter(move |(owner, _)| range.contains(*owner)).collect();
        let ranges = range.cut(&ids, MAX_ENTRIES).into_iter();
        ranges.map(|range| Self { range, entries: within(range), rings: rings.to_vec(), is_answer: false }).collect()
    }

    /// The records of ours that the sender lacks.
    pub fn lacks<'a>(&'a self, replica: &'a Replica) -> impl Iterator<Item = (PeerId, &'a Record)> {
        let theirs = |owner| self.entries.iter().find(|(id, _)| *id == owner).map(|(_, version)| *version);
        replica
            .records()
            .filter(|(owner, _)| self.range.contains(*owner))
            .filter(move |(owner, record)| theirs(*owner).is_none_or(|version| version < record.version))
    }

    /// True if the sender has a record that we lack.
    pub fn has_news_for(&self, replica: &Replica) -> bool {
        self.entries.iter().any(|(owner, version)| {
            self.range.contains(*owner) && replica.record(*owner).is_none_or(|ours| ours.version < *version)
        })
    }

    /// What the sender knows of a ring.
    pub fn ring(&self, seed: RingSeed) -> Option<&RingSummary> {
        self.rings.iter().find(|summary| summary.seed == seed)
    }
}

/// The id before this one.
fn before(PeerId(mut octets): PeerId) -> Option<PeerId> {
    for octet in octets.iter_mut().rev() {
        let (less, borrows) = octet.overflowing_sub(1);
        *octet = less;
        if !borrows {
            return Some(PeerId(octets));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::{
        cluster::{Message, record::tests::record},
        ipam::Overlay,
    };

    fn id(index: u16) -> PeerId {
        let mut id = [0; 32];
        id[..2].copy_from_slice(&index.to_be_bytes());
        PeerId(id)
    }

    fn replica(ids: impl IntoIterator<Item = u16>, version: u64) -> Replica {
        let mut replica = Replica::new(id(0), record(1));
        for index in ids {
            let _ = replica.apply(id(index), record(version), false, |_| false, Instant::now());
        }
        replica
    }

    fn rings() -> Vec<RingSummary> {
        let overlay = Overlay::new("10.32.0.0/12".parse().unwrap(), 24).unwrap();
        let ring = Ring::found(RingSeed { made_at_us: u64::MAX, founder: id(0) }, overlay);
        vec![RingSummary::of(&ring); 2]
    }

    #[test]
    fn the_digests_of_a_large_replica_fit_datagrams_and_leave_no_gap() {
        let replica = replica(1..500, u64::MAX >> 2);
        let digests = Digest::of(&replica, IdRange::ALL, &rings());
        assert_eq!(digests.iter().map(|digest| digest.entries.len()).sum::<usize>(), 500);
        assert_eq!(digests[0].range.first, IdRange::ALL.first);
        assert_eq!(digests.last().unwrap().range.last, IdRange::ALL.last);
        for pair in digests.windows(2) {
            assert_eq!(before(pair[1].range.first), Some(pair[0].range.last));
        }
        for digest in digests {
            assert!(Message::Digest(digest).encode().len() <= GOSSIP_BYTES);
        }
    }

    #[test]
    fn the_digest_of_nothing_covers_everything() {
        let digests = Digest::of(&replica([], 1), IdRange { first: id(3), last: id(9) }, &[]);
        assert_eq!(digests.len(), 1);
        assert!(digests[0].entries.is_empty());
    }

    #[test]
    fn what_the_sender_lacks_is_the_newer_and_the_unknown() {
        let ours = replica([1, 2, 3], 7);
        let theirs = replica([2, 3], 7);
        let mut digest = Digest::of(&theirs, IdRange::ALL, &[]).remove(0);
        digest.entries[1].1 = Version(6);
        let lacking: Vec<_> = digest.lacks(&ours).map(|(owner, _)| owner).collect();
        assert_eq!(lacking, vec![id(1), id(2)]);
        assert!(!digest.has_news_for(&ours));
        assert!(Digest::of(&ours, IdRange::ALL, &[])[0].has_news_for(&theirs));
    }

    #[test]
    fn a_digest_says_nothing_about_ids_outside_its_range() {
        let ours = replica([1, 2, 3], 7);
        let digest = Digest::of(&replica([], 1), IdRange { first: id(2), last: id(2) }, &[]).remove(0);
        assert_eq!(digest.lacks(&ours).map(|(owner, _)| owner).collect::<Vec<_>>(), vec![id(2)]);
    }
}

//! The trains that are being filled: which one a frame goes into, and when one is closed.
//!
//! ```text
//!         ┌ in place ─────────────────────────────┐┌ beside: a place for each ┐
//! buffer: │ open train: record, record │ room for ││ train for │ train for │ … │
//!         │                            │ the next ││ another   │ a third   │   │
//!         └────────────────────────────┴──────────┘└───────────┴───────────┴───┘
//! ```
//!
//! 1. A frame is read directly behind the open train. One for the same destination stays where it lies, without a copy.
//! 2. A small one for somebody else is copied into a train beside it, so that frames for several peers in turns leave as one
//!    train for each. To copy it costs a fraction of what a send of its own does.
//! 3. A large one for somebody else closes the open train and begins the next. Any large one closes those beside, and a train that
//!    is full closes all: small frames do not wait behind super-frames, nor behind a flood. The shortest leave first, and what goes
//!    to all last.
//!
//! INVARIANT: a destination has at most one train that is not closed, and only trains that are closed together change their order,
//! so its frames leave in the order in which they came. Closed trains leave before the next frame is read. No train outlives its batch, because its peer slots belong to the
//! batch's table.

use std::{collections::VecDeque, ops::Range};

use super::PeerSlot;
use crate::{
    limits::{MAX_FRAME_LEN, MAX_TRAIN_BYTES},
    wire::{ecn::Ecn, record::RECORD_HEADER_LEN},
};

/// Room for the open train and for what is read behind it, several times: a train that is not full need not move.
const IN_PLACE_LEN: usize = 4 * MAX_TRAIN_BYTES;

/// Destinations that have a train beside the open one. At the bound a frame for yet another closes the open train.
const PLACES_BESIDE: usize = 15;

/// A train with less room than this leaves at once: a frame that still fits is not worth waiting for. Frames whose records
/// are longer are large.
const LITTLE_ROOM: usize = 4096;

/// Where a train goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Destination {
    One(PeerSlot),
    /// All connected peers: ingress replication.
    All,
}

/// Records for one destination, one behind the other.
pub(super) struct Train {
    /// Where they lie in the buffer.
    records: Range<usize>,
    pub(super) to: Destination,
    /// What all its frames say.
    pub(super) ecn: Ecn,
}

/// All trains of one encapsulator that have not left.
pub(super) struct OpenTrains {
    buffer: Box<[u8]>,
    open: Option<Train>,
    beside: [Option<Train>; PLACES_BESIDE],
    closed: VecDeque<Train>,
    /// Where the next record starts.
    end: usize,
}

impl Train {
    /// Bytes of its records.
    pub(super) fn len(&self) -> usize {
        self.records.len()
    }

    /// What makes others wait: its length, and copies for all more than anything for one.
    fn cost(&self) -> (bool, usize) {
        (self.to == Destination::All, self.len())
    }

    fn is_full(&self) -> bool {
        self.len() + LITTLE_ROOM > MAX_TRAIN_BYTES
    }

    fn add(&mut self, record_len: usize, ecn: Ecn) {
        self.records.end += record_len;
        self.ecn = self.ecn.agreed(ecn);
    }
}

impl OpenTrains {
    pub(super) fn new() -> Self {
        Self {
            buffer: vec![0; IN_PLACE_LEN + PLACES_BESIDE * MAX_TRAIN_BYTES].into(),
            open: None,
            beside: [const { None }; PLACES_BESIDE],
            closed: VecDeque::with_capacity(PLACES_BESIDE + 2),
            end: 0,
        }
    }

    /// Nothing is to leave.
    pub(super) fn is_empty(&self) -> bool {
        self.open.is_none() && self.beside.iter().all(Option::is_none) && self.closed.is_empty()
    }

    /// Where the next frame is to be read to, with its record header in front: room for the largest one.
    pub(super) fn record_buffer(&mut self) -> (&mut [u8; RECORD_HEADER_LEN], &mut [u8]) {
        debug_assert!(self.closed.is_empty(), "closed trains leave before the next frame comes");
        if self.open.is_none() {
            self.end = 0;
        }
        let (header, rest) = self.buffer[self.end..].split_first_chunk_mut().expect("a train leaves room for a frame");
        (header, &mut rest[..MAX_FRAME_LEN])
    }

    /// The record in [`Self::record_buffer`], with a frame of `frame_len` bytes, is complete: it goes into a train.
    pub(super) fn add(&mut self, to: Destination, frame_len: usize, ecn: Ecn) {
        let record = self.end..self.end + RECORD_HEADER_LEN + frame_len;
        let is_open_for = self.open.as_ref().is_some_and(|open| open.to == to);
        if record.len() > LITTLE_ROOM {
            self.close_beside();
        } else if !is_open_for && let Some(place) = self.place_beside(to) {
            return self.add_beside(place, to, record, ecn);
        }
        let fits = |open: &Train| open.to == to && record.end - open.records.start <= MAX_TRAIN_BYTES;
        if !self.open.as_ref().is_some_and(fits) {
            self.close_open();
        }
        self.end = record.end;
        match &mut self.open {
            Some(open) => open.add(record.len(), ecn),
            None => self.open = Some(Train { records: record, to, ecn }),
        }
        // NOTE(perf): a super-frame leaves before the next one is read, to the same place, which is in the cache then.
        let has_room = self.end + RECORD_HEADER_LEN + MAX_FRAME_LEN <= IN_PLACE_LEN;
        if !has_room || self.open.as_ref().is_some_and(Train::is_full) {
            self.close_all();
        }
    }

    /// All that is there leaves, what costs least first.
    pub(super) fn close_all(&mut self) {
        let closed_before = self.closed.len();
        self.close_open();
        self.close_beside();
        self.closed.make_contiguous()[closed_before..].sort_unstable_by_key(Train::cost);
    }

    /// The next train that leaves.
    pub(super) fn next_closed(&mut self) -> Option<Train> {
        self.closed.pop_front()
    }

    /// The records of a train, until the next frame is read.
    pub(super) fn records(&self, train: &Train) -> &[u8] {
        &self.buffer[train.records.clone()]
    }

    /// The place of the destination's train, or of a new one; none when the frame had better begin the open train.
    fn place_beside(&self, to: Destination) -> Option<usize> {
        let own = |place: &Option<Train>| place.as_ref().is_some_and(|train| train.to == to);
        let free = || self.open.as_ref().and_then(|_| self.beside.iter().position(Option::is_none));
        self.beside.iter().position(own).or_else(free)
    }

    fn add_beside(&mut self, place: usize, to: Destination, record: Range<usize>, ecn: Ecn) {
        let start = IN_PLACE_LEN + place * MAX_TRAIN_BYTES;
        let train = self.beside[place].get_or_insert(Train { records: start..start, to, ecn });
        self.buffer.copy_within(record.clone(), train.records.end);
        train.add(record.len(), ecn);
        if train.is_full() {
            self.close_all();
        }
    }

    fn close_open(&mut self) {
        self.closed.extend(self.open.take());
    }

    fn close_beside(&mut self) {
        self.closed.extend(self.beside.iter_mut().filter_map(Option::take));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const A: Destination = Destination::One(PeerSlot(1));
    const B: Destination = Destination::One(PeerSlot(2));
    const SMALL: usize = 64;
    const LARGE: usize = 20_000;

    /// What left: where to, and the frames, each as its number and length.
    type Left = Vec<(Destination, Vec<(u16, usize)>)>;

    /// Puts frames into trains as an encapsulator does: what is closed leaves before the next one is read.
    fn carry(frames: &[(Destination, usize)]) -> Left {
        let mut trains = OpenTrains::new();
        let mut left = Left::new();
        for (number, (to, len)) in frames.iter().enumerate() {
            let (header, frame) = trains.record_buffer();
            // Stands for a record header: its number, and how long the frame is.
            header[..2].copy_from_slice(&(number as u16).to_be_bytes());
            header[4..].copy_from_slice(&(*len as u32).to_be_bytes());
            frame[..*len].fill(number as u8);
            trains.add(*to, *len, Ecn::NotEct);
            leave(&mut trains, &mut left);
        }
        trains.close_all();
        leave(&mut trains, &mut left);
        assert!(trains.is_empty());
        left
    }

    fn leave(trains: &mut OpenTrains, left: &mut Left) {
        while let Some(train) = trains.next_closed() {
            let mut records = trains.records(&train);
            assert!(!records.is_empty() && records.len() <= MAX_TRAIN_BYTES);
            let mut frames = Vec::new();
            while let Some((header, rest)) = records.split_first_chunk::<RECORD_HEADER_LEN>() {
                let number = u16::from_be_bytes([header[0], header[1]]);
                let len = u32::from_be_bytes([header[4], header[5], header[6], header[7]]) as usize;
                let (frame, rest) = rest.split_at(len);
                assert!(frame.iter().all(|byte| *byte == number as u8), "frame {number} is as it was read");
                frames.push((number, len));
                records = rest;
            }
            left.push((train.to, frames));
        }
    }

    #[test]
    fn frames_for_peers_in_turns_leave_as_one_train_for_each() {
        let left = carry(&[(A, SMALL), (B, SMALL), (A, SMALL), (Destination::All, SMALL), (B, SMALL), (A, SMALL)]);
        let numbers = |at: usize| left[at].1.iter().map(|(number, _)| *number).collect::<Vec<_>>();
        assert_eq!(left.len(), 3);
        assert_eq!((left[0].0, numbers(0)), (B, vec![1, 4]));
        assert_eq!((left[1].0, numbers(1)), (A, vec![0, 2, 5]));
        assert_eq!((left[2].0, numbers(2)), (Destination::All, vec![3]));
    }

    #[test]
    fn small_frames_do_not_wait_behind_super_frames() {
        let mut trains = OpenTrains::new();
        trains.add(A, SMALL, Ecn::NotEct);
        trains.add(B, SMALL, Ecn::NotEct);
        assert!(trains.next_closed().is_none());
        trains.add(A, LARGE, Ecn::NotEct);
        assert!(trains.next_closed().is_some_and(|train| train.to == B));
        assert!(trains.next_closed().is_none(), "that for the same peer goes on");
    }

    #[test]
    fn a_super_frame_for_somebody_else_closes_the_open_train() {
        let left = carry(&[(A, LARGE), (A, LARGE), (B, LARGE), (A, SMALL), (B, SMALL)]);
        let shape: Vec<_> = left.iter().map(|(to, frames)| (*to, frames.len())).collect();
        assert_eq!(shape, [(A, 2), (A, 1), (B, 2)]);
    }

    #[test]
    fn a_full_train_leaves_at_once_wherever_it_lies() {
        for others in [0, 1] {
            let frames = vec![(A, 4000); 20];
            let left = carry(&[&vec![(B, SMALL); others], frames.as_slice()].concat());
            let lens: Vec<_> = left.iter().filter(|(to, _)| *to == A).map(|(_, frames)| frames.len()).collect();
            assert_eq!(lens, [16, 4], "with {others} before");
        }
    }

    #[test]
    fn small_frames_do_not_wait_behind_a_flood_of_small_ones() {
        let flood = vec![(A, 1400); 46];
        for first in [A, B] {
            let small = [(first, SMALL), (B, SMALL)];
            let left = carry(&[&small, flood.as_slice()].concat());
            let to: Vec<_> = left.iter().map(|(to, _)| *to).collect();
            assert_eq!(to[..2], [B, A], "whichever is open");
        }
    }

    #[test]
    fn more_peers_than_there_are_places_take_turns_in_the_open_train() {
        let everybody: Vec<_> = (0..40).map(|slot| (Destination::One(PeerSlot(slot)), SMALL)).collect();
        let left = carry(&everybody.repeat(2));
        assert_eq!(left.iter().map(|(_, frames)| frames.len()).sum::<usize>(), 80);
        let of_two = left.iter().filter(|(_, frames)| frames.len() == 2).count();
        assert!(of_two >= PLACES_BESIDE, "{of_two}");
    }

    #[test]
    fn what_all_frames_of_a_train_say_is_said_of_it() {
        let mut trains = OpenTrains::new();
        for (to, ecn) in [(A, Ecn::Ect0), (B, Ecn::Ect0), (A, Ecn::Ect0), (B, Ecn::NotEct)] {
            trains.add(to, SMALL, ecn);
        }
        trains.close_all();
        let said: Vec<_> = std::iter::from_fn(|| trains.next_closed()).map(|train| (train.to, train.ecn)).collect();
        assert_eq!(said, [(A, Ecn::Ect0), (B, Ecn::NotEct)]);
    }

    fn any_frames() -> impl Strategy<Value = Vec<(Destination, usize)>> {
        let to =
            (0..20u16).prop_map(|slot| if slot == 0 { Destination::All } else { Destination::One(PeerSlot(slot)) });
        let len = prop_oneof![4 => 14..1514usize, 1 => 3000..5000usize, 1 => 14..=MAX_FRAME_LEN];
        prop::collection::vec((to, len), 1..64)
    }

    proptest! {
        #[test]
        fn every_frame_leaves_once_to_its_destination_and_in_its_order(frames in any_frames()) {
            let left = carry(&frames);
            for to in (0..20).map(|slot| Destination::One(PeerSlot(slot))).chain([Destination::All]) {
                let sent: Vec<_> = left.iter().filter(|(train, _)| *train == to).flat_map(|(_, frames)| frames.clone()).collect();
                let given = frames.iter().enumerate().filter(|(_, frame)| frame.0 == to);
                let given: Vec<_> = given.map(|(number, frame)| (number as u16, frame.1)).collect();
                prop_assert_eq!(sent, given);
            }
        }
    }
}

//! How far each lane has come, and by how much its path reorders.
//!
//! A chunk that is missing is either lost or late. On a path that keeps the order it is lost as soon as a younger one of its
//! lane has come. On one that does not, the longest lateness that was seen says how much younger: as TCP does with its
//! threshold of duplicate acknowledgements (RFC 4653 has the idea; the number is learned as in Linux).
//!
//! The table is direct mapped: lanes that meet in one place forget each other, which costs them what they have learned.

use crate::{
    limits::MAX_REORDER_DATAGRAMS,
    wire::data::{Counter, Lane, ReceiverIndex},
};

/// Lanes that are remembered.
const PLACES: usize = 64;

/// Datagrams without a late one after which half of the tolerance is given up.
const CALM_DATAGRAMS: u32 = 4096;

#[derive(Debug)]
pub(super) struct Lanes {
    tracks: [Track; PLACES],
}

/// What is known of one lane.
#[derive(Clone, Copy, Debug)]
struct Track {
    receiver: ReceiverIndex,
    lane: Lane,
    highest: Counter,
    /// By how many datagrams others were late.
    tolerance: u64,
    calm: u32,
}

/// What the progress of a lane says about a chunk that is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Missing {
    /// Nothing younger has come: it is on its way.
    Due,
    /// Younger ones have come, but others have been as late before.
    Late,
    /// It is lost, as far as anybody can tell.
    Lost,
}

impl Default for Lanes {
    fn default() -> Self {
        let unused = Track { receiver: ReceiverIndex(0), lane: Lane(0), highest: Counter(0), tolerance: 0, calm: 0 };
        Self { tracks: [unused; PLACES] }
    }
}

impl Lanes {
    /// An authentic datagram has come.
    pub(super) fn note(&mut self, receiver: ReceiverIndex, lane: Lane, counter: Counter) {
        let track = &mut self.tracks[place(receiver, lane)];
        if (track.receiver, track.lane) != (receiver, lane) {
            *track = Track { receiver, lane, highest: counter, tolerance: 0, calm: 0 };
        } else if counter > track.highest {
            track.highest = counter;
            track.calm += 1;
            if track.calm >= CALM_DATAGRAMS {
                track.calm = 0;
                track.tolerance /= 2;
            }
        } else {
            let lateness = (track.highest.0 - counter.0 + 1).min(MAX_REORDER_DATAGRAMS);
            if 2 * lateness >= track.tolerance {
                track.calm = 0;
            }
            track.tolerance = track.tolerance.max(lateness);
        }
    }

    /// What has become of the datagram with this counter, which has not come.
    pub(super) fn judge(&self, receiver: ReceiverIndex, lane: Lane, counter: Counter) -> Missing {
        let track = &self.tracks[place(receiver, lane)];
        if (track.receiver, track.lane) != (receiver, lane) || track.highest < counter {
            Missing::Due
        } else if track.highest.0 - counter.0 < track.tolerance {
            Missing::Late
        } else {
            Missing::Lost
        }
    }
}

fn place(receiver: ReceiverIndex, lane: Lane) -> usize {
    (receiver.0 as usize ^ usize::from(lane.0)) % PLACES
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECEIVER: ReceiverIndex = ReceiverIndex(9);

    fn note(lanes: &mut Lanes, counters: impl IntoIterator<Item = u64>) {
        counters.into_iter().for_each(|counter| lanes.note(RECEIVER, Lane(1), Counter(counter)));
    }

    fn judge(lanes: &Lanes, counter: u64) -> Missing {
        lanes.judge(RECEIVER, Lane(1), Counter(counter))
    }

    #[test]
    fn on_a_path_that_keeps_the_order_what_a_younger_one_overtakes_is_lost() {
        let mut lanes = Lanes::default();
        assert_eq!(judge(&lanes, 0), Missing::Due);
        note(&mut lanes, [0, 1, 3]);
        assert_eq!((judge(&lanes, 2), judge(&lanes, 4)), (Missing::Lost, Missing::Due));
        assert_eq!(lanes.judge(RECEIVER, Lane(2), Counter(2)), Missing::Due, "another lane says nothing");
    }

    #[test]
    fn who_was_late_before_is_waited_for_until_it_has_been_calm_for_long() {
        let mut lanes = Lanes::default();
        note(&mut lanes, [0, 1, 3, 4, 5, 2, 6, 8]);
        assert_eq!(judge(&lanes, 7), Missing::Late);
        note(&mut lanes, [9, 10]);
        assert_eq!(judge(&lanes, 7), Missing::Late);
        note(&mut lanes, [11]);
        assert_eq!(judge(&lanes, 7), Missing::Lost);
        note(&mut lanes, 12..12 + 4 * u64::from(CALM_DATAGRAMS));
        let next = 12 + 4 * u64::from(CALM_DATAGRAMS);
        note(&mut lanes, [next + 1]);
        assert_eq!(judge(&lanes, next), Missing::Lost);
    }

    #[test]
    fn the_tolerance_has_a_bound() {
        let mut lanes = Lanes::default();
        note(&mut lanes, [5 * MAX_REORDER_DATAGRAMS, 1]);
        assert_eq!(judge(&lanes, 4 * MAX_REORDER_DATAGRAMS), Missing::Lost);
    }

    #[test]
    fn lanes_that_share_a_place_forget_each_other() {
        let mut lanes = Lanes::default();
        note(&mut lanes, [0, 2]);
        lanes.note(ReceiverIndex(RECEIVER.0 + PLACES as u32), Lane(1), Counter(7));
        assert_eq!(judge(&lanes, 1), Missing::Due);
    }
}

//! How far each lane has come, and by how much its path reorders.
//!
//! A chunk that is missing is either lost or late. On a path that keeps the order it is lost as soon as a younger one of its
//! lane has come. On one that does not, the longest lateness that was seen says how much younger: as TCP does with its
//! threshold of duplicate acknowledgements (RFC 4653 has the idea; the number is learned as in Linux).
//!
//! How much of a lane is lost is counted, too, in windows of [`LOSS_WINDOW`] counters. On a lossy lane super-frames are
//! delivered in pairs of segments: a receiver acknowledges each delivery, and where one acknowledgement stands for a whole
//! flight, its loss stops the sender until a timer ends, then for the 40 ms that the acknowledgement of a single probe is
//! delayed.
//!
//! The table is direct mapped: lanes that meet in one place and send at the same time make each other forgotten. Then nothing
//! is known to be lost, and what is complete of a torn train waits until it is old or the socket silent. So there are many more
//! places than lanes that one thread hears at a time.

use crate::{
    limits::{MAX_ASSEMBLIES, MAX_REORDER_DATAGRAMS},
    wire::data::{Counter, Lane, ReceiverIndex},
};

/// Lanes that are remembered. NOTE(perf): 24 KB; a lane in use touches its own 48 bytes of them, however many places there are.
const PLACES: usize = 512;

/// Datagrams without a late one after which half of the tolerance is given up.
const CALM_DATAGRAMS: u32 = 4096;

/// Counters over which loss is measured.
const LOSS_WINDOW: u64 = 2048;

/// A lane is lossy when it loses this many of a window (0.25 %)…
const LOSSY_COUNT: u64 = 5;
/// … and until it loses at most this many (0.05 %).
const CLEAN_COUNT: u64 = 1;

#[derive(Debug)]
pub(super) struct Lanes {
    /// As many as there are places.
    tracks: Box<[Track]>,
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
    /// Highest counter when the window of loss began, and what has come since.
    window_from: Counter,
    window_count: u64,
    is_lossy: bool,
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
        Self { tracks: vec![Track::new(ReceiverIndex(0), Lane(0), Counter(0)); PLACES].into() }
    }
}

impl Lanes {
    /// An authentic datagram has come.
    pub(super) fn note(&mut self, receiver: ReceiverIndex, lane: Lane, counter: Counter) {
        let track = &mut self.tracks[place(receiver, lane)];
        if (track.receiver, track.lane) != (receiver, lane) {
            *track = Track::new(receiver, lane, counter);
        } else if counter > track.highest {
            track.advance(counter);
        } else {
            track.on_late(counter);
        }
    }

    /// Whether enough of a lane is lost that acknowledgements should not be few.
    pub(super) fn is_lossy(&self, receiver: ReceiverIndex, lane: Lane) -> bool {
        let track = &self.tracks[place(receiver, lane)];
        track.is_lossy && (track.receiver, track.lane) == (receiver, lane)
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

impl Track {
    fn new(receiver: ReceiverIndex, lane: Lane, highest: Counter) -> Self {
        Self { receiver, lane, highest, tolerance: 0, calm: 0, window_from: highest, window_count: 0, is_lossy: false }
    }

    fn advance(&mut self, counter: Counter) {
        self.highest = counter;
        self.window_count += 1;
        self.calm += 1;
        if self.calm >= CALM_DATAGRAMS {
            self.calm = 0;
            self.tolerance /= 2;
        }
        let sent_count = counter.0 - self.window_from.0;
        if sent_count >= LOSS_WINDOW {
            // What is late may still come: a path that reorders has to lose more than it holds back.
            let lost_count = sent_count.saturating_sub(self.window_count + self.tolerance);
            self.is_lossy = lost_count >= LOSSY_COUNT || self.is_lossy && lost_count > CLEAN_COUNT;
            (self.window_from, self.window_count) = (counter, 0);
        }
    }

    fn on_late(&mut self, counter: Counter) {
        self.window_count += 1;
        let lateness = (self.highest.0 - counter.0 + 1).min(MAX_REORDER_DATAGRAMS);
        if 2 * lateness >= self.tolerance {
            self.calm = 0;
        }
        self.tolerance = self.tolerance.max(lateness);
    }
}

fn place(receiver: ReceiverIndex, lane: Lane) -> usize {
    (receiver.0 as usize ^ usize::from(lane.0)) % PLACES
}

const _: () = assert!(PLACES >= 4 * MAX_ASSEMBLIES, "lanes that send at once seldom meet");

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

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
    fn a_lane_that_loses_is_lossy_until_it_hardly_loses_any_more() {
        let mut lanes = Lanes::default();
        let mut next = 0;
        let mut pass = |lanes: &mut Lanes, one_lost_of: u64| {
            let until = next + 4 * LOSS_WINDOW;
            note(lanes, (next..until).filter(|counter| counter % one_lost_of != 1));
            next = until;
            lanes.is_lossy(RECEIVER, Lane(1))
        };
        assert!(!pass(&mut lanes, 10_000) && !pass(&mut lanes, 1000));
        assert!(pass(&mut lanes, 100) && pass(&mut lanes, 1000));
        assert!(!pass(&mut lanes, 100_000) && !pass(&mut lanes, 1000));
        assert!(pass(&mut lanes, 200) && !lanes.is_lossy(RECEIVER, Lane(2)));
    }

    #[test]
    fn lateness_is_no_loss() {
        let mut lanes = Lanes::default();
        for distance in [1, 31, 63] {
            note(&mut lanes, (0..4 * LOSS_WINDOW + 20).map(|counter| counter ^ distance));
            assert!(!lanes.is_lossy(RECEIVER, Lane(1)));
            lanes = Lanes::default();
        }
    }

    /// As many hosts as a thread puts trains together for, their datagrams in turns.
    #[test]
    fn of_hosts_that_all_send_at_once_most_are_known_for_what_they_lose() {
        let mut rng = Rng::new([3; 32]);
        let hosts: Vec<_> = (0..MAX_ASSEMBLIES).map(|_| ReceiverIndex(rng.public_u32())).collect();
        let mut lanes = Lanes::default();
        let next = 4 * LOSS_WINDOW;
        for counter in (0..next).filter(|counter| counter % 100 != 1) {
            hosts.iter().for_each(|host| lanes.note(*host, Lane(1), Counter(counter)));
        }
        hosts.iter().for_each(|host| lanes.note(*host, Lane(1), Counter(next + 1)));
        let known = |host: &&ReceiverIndex| {
            lanes.is_lossy(**host, Lane(1)) && lanes.judge(**host, Lane(1), Counter(next)) == Missing::Lost
        };
        let known_count = hosts.iter().filter(known).count();
        assert!(4 * known_count >= 3 * hosts.len(), "{known_count} of {}", hosts.len());
    }

    #[test]
    fn lanes_that_share_a_place_forget_each_other() {
        let mut lanes = Lanes::default();
        note(&mut lanes, [0, 2]);
        lanes.note(ReceiverIndex(RECEIVER.0 + PLACES as u32), Lane(1), Counter(7));
        assert_eq!(judge(&lanes, 1), Missing::Due);
    }
}

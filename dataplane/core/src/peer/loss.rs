//! What the path to a peer loses, by what the peer says, and how frames are packed because of it.
//!
//! Each answer to a probe brings how many datagrams were due at the peer and how many of them have come. From one window
//! of [`WINDOW_COUNT`] datagrams to the next the difference is the loss. Above [`LOSSY_PPM`] in two windows in a row each
//! datagram is to stand alone; three windows in a row at [`CLEAN_PPM`] or below end that. One window is not enough: a flow
//! that finds the end of its bandwidth loses many datagrams at once and then none.
//!
//! The other half is told how much of what it sends has come ([`Reception`]). What was lost at the end of the path, in a full
//! socket of our own, is no loss of the path: stretches in which that happened are left out of both numbers. Nor is what has not
//! left this host ([`OwnDrops`]).
//!
//! INVARIANT: a report is believed about nothing but the session that it came on; numbers that go back are ignored. Whoever
//! lies about loss changes how he himself is served.

use std::fmt;

use crate::{forward::Packing, wire::record::LossReport};

/// Datagrams that a rate is measured over, at least.
const WINDOW_COUNT: u64 = 2048;

/// A path is lossy from here on (0.25 %)…
const LOSSY_PPM: u32 = 2500;
/// … and clean again at this (0.05 %).
const CLEAN_PPM: u32 = 500;

/// Reports in which what has not left is missed at the latest. A datagram is due when enough later ones have come, so reports count in which
/// more was due than probes and signs of life.
const UNSENT_REPORTS: usize = 3;
const BUSY_COUNT: u64 = 64;

/// Windows in a row that make a path lossy, and clean.
const LOSSY_WINDOWS: u8 = 2;
const CLEAN_WINDOWS: u8 = 3;

/// Loss towards one peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PathLoss {
    /// What was reported when the window began.
    since: LossReport,
    rate: Option<LossRate>,
    packing: Packing,
    /// Windows in a row that say that the packing should change.
    contrary_count: u8,
}

/// Lost datagrams of a million.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LossRate(pub u32);

impl fmt::Display for LossRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:02} %", self.0 / 10_000, self.0 % 10_000 / 100)
    }
}

impl PathLoss {
    /// How frames are to be packed.
    pub fn packing(&self) -> Packing {
        self.packing
    }

    /// Loss over the last window; `None` until one is over.
    pub fn rate(&self) -> Option<LossRate> {
        self.rate
    }

    /// Another session counts from zero. What is known of the path stays.
    pub fn on_new_session(&mut self) {
        self.since = LossReport::default();
    }

    /// The peer is elsewhere: what is known of the way there is worth nothing.
    pub fn on_new_path(&mut self) {
        *self = Self { since: self.since, ..Self::default() };
    }

    /// The peer says what has come. Says whether the packing has changed.
    pub fn on_report(&mut self, report: LossReport) -> bool {
        let due = report.due_count.checked_sub(self.since.due_count);
        let opened = report.opened_count.checked_sub(self.since.opened_count);
        let (Some(due), Some(opened)) = (due, opened) else { return false };
        if due < WINDOW_COUNT {
            return false;
        }
        // Datagrams that were late make up for others.
        let lost = due.saturating_sub(opened);
        let rate = LossRate((u128::from(lost) * 1_000_000 / u128::from(due)) as u32);
        self.since = report;
        self.rate = Some(rate);
        self.judge(rate)
    }

    fn judge(&mut self, rate: LossRate) -> bool {
        let (is_contrary, enough, other) = match self.packing {
            Packing::Trains => (rate.0 >= LOSSY_PPM, LOSSY_WINDOWS, Packing::Singles),
            Packing::Singles => (rate.0 <= CLEAN_PPM, CLEAN_WINDOWS, Packing::Trains),
        };
        self.contrary_count = if is_contrary { self.contrary_count + 1 } else { 0 };
        let changes = self.contrary_count >= enough;
        if changes {
            self.packing = other;
            self.contrary_count = 0;
        }
        changes
    }
}

/// What was sealed on one session and has not left this host, in what the peer reports of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OwnDrops {
    /// The last report.
    before: LossReport,
    /// How many of what was missing then had not left.
    excused: u64,
    /// How many of the unsent are told of: they were missed, or have not been for so long that they will not be.
    settled: u64,
    /// How many had not left at each of the last reports, the oldest first.
    unsent: [u64; UNSENT_REPORTS],
}

impl OwnDrops {
    /// Another session counts from zero.
    pub fn on_new_session(&mut self) {
        *self = Self::default();
    }

    /// The peer says what has come; so far `unsent_count` datagrams have not left. Gives the report as if those had come, or nothing
    /// when numbers go back.
    ///
    /// Some have not left only since the peer has counted. They excuse what is newly missing and no more than that: so nothing is
    /// taken for lost because of them, now or later, and what the path loses is seen some reports later at most: what is not missed
    /// within [`UNSENT_REPORTS`] never is. It was the last of its lane, or the peer has left out that stretch.
    pub fn take_out(&mut self, report: LossReport, unsent_count: u64) -> Option<LossReport> {
        if report.due_count < self.before.due_count || report.opened_count < self.before.opened_count {
            return None;
        }
        let missing = |report: LossReport| report.due_count.saturating_sub(report.opened_count);
        let newly_missing = missing(report).saturating_sub(missing(self.before));
        // What was late and has come needs no excuse, and leaves it to others.
        let unneeded = self.excused.saturating_sub(missing(report));
        self.excused -= unneeded;
        self.settled = (self.settled - unneeded).max(self.unsent[0]);
        let newly_excused = newly_missing.min(unsent_count.saturating_sub(self.settled));
        self.excused += newly_excused;
        self.settled += newly_excused;
        if report.due_count - self.before.due_count >= BUSY_COUNT {
            self.unsent.rotate_left(1);
            self.unsent[UNSENT_REPORTS - 1] = unsent_count;
        }
        self.before = report;
        Some(LossReport { opened_count: report.opened_count + self.excused, ..report })
    }
}

/// What a peer is told of its datagrams on one session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reception {
    /// At the last report.
    before: LossReport,
    /// How often our own sockets had lost something then.
    own_losses: u64,
    /// What is left out.
    left_out: LossReport,
}

impl Reception {
    /// Another session counts from zero.
    pub fn on_new_session(&mut self) {
        *self = Self { own_losses: self.own_losses, ..Self::default() };
    }

    /// What to report: the session has counted so much, and our own sockets have lost so many packets, whoever sent them.
    pub fn report(&mut self, counted: LossReport, own_losses: u64) -> LossReport {
        if own_losses != self.own_losses {
            self.left_out.due_count += counted.due_count.saturating_sub(self.before.due_count);
            self.left_out.opened_count += counted.opened_count.saturating_sub(self.before.opened_count);
        }
        (self.before, self.own_losses) = (counted, own_losses);
        LossReport {
            due_count: counted.due_count.saturating_sub(self.left_out.due_count),
            opened_count: counted.opened_count.saturating_sub(self.left_out.opened_count),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stretch_in_which_our_own_socket_lost_something_is_left_out() {
        let mut reception = Reception::default();
        let counted = |due_count, opened_count| LossReport { due_count, opened_count };
        assert_eq!(reception.report(counted(1000, 990), 0), counted(1000, 990));
        assert_eq!(reception.report(counted(3000, 2000), 5), counted(1000, 990), "as if nothing had been sent");
        assert_eq!(reception.report(counted(4000, 2980), 5), counted(2000, 1970), "the path is heard of again");
        assert_eq!(reception.report(counted(5000, 3000), 6), counted(2000, 1970));
        reception.on_new_session();
        assert_eq!(reception.report(counted(10, 9), 6), counted(10, 9), "what was lost before is no news");
    }

    /// What is missing of every thousand, report after report, when so many are missing and have not left so far.
    fn taken_out(missing_and_unsent: &[(u64, u64)]) -> Vec<u64> {
        let mut own = OwnDrops::default();
        let mut due_count = 0;
        let mut take_out = |(missing, unsent)| {
            due_count += 1000;
            let report = own.take_out(LossReport { due_count, opened_count: due_count - missing }, unsent).unwrap();
            report.due_count - report.opened_count
        };
        missing_and_unsent.iter().map(|pair| take_out(*pair)).collect()
    }

    #[test]
    fn what_has_not_left_is_not_missing_and_what_is_lost_besides_is() {
        assert_eq!(taken_out(&[(100, 0), (170, 70), (170, 70)]), [100, 100, 100]);
        assert_eq!(taken_out(&[(100, 300), (310, 300), (320, 300)]), [0, 10, 20], "200 were not due yet");
        assert_eq!(taken_out(&[(50, 0), (50, 40), (90, 40), (90, 80), (130, 80)]), [50; 5], "old loss is no news");
        assert_eq!(taken_out(&[(5, 5), (0, 5), (5, 5)]), [0; 3], "the first five were late");
        assert_eq!(
            taken_out(&[(0, 500), (0, 500), (0, 500), (300, 500)]),
            [0, 0, 0, 300],
            "what was unsent long ago is over"
        );
        assert_eq!(taken_out(&[(0, 500), (0, 500), (300, 500), (600, 500)]), [0, 0, 0, 300]);
    }

    #[test]
    fn what_has_not_left_before_a_pause_is_still_known_after_it() {
        let mut own = OwnDrops::default();
        let report = |due_count, missing| LossReport { due_count, opened_count: due_count - missing };
        for probes in 0..10 {
            assert_eq!(own.take_out(report(5000 + probes, 0), 300), Some(report(5000 + probes, 0)));
        }
        assert_eq!(own.take_out(report(9000, 300), 300), Some(report(9000, 0)));
    }

    #[test]
    fn reports_that_go_back_are_ignored_with_and_without_own_drops() {
        let mut own = OwnDrops::default();
        let report = |due_count, opened_count| LossReport { due_count, opened_count };
        assert_eq!(own.take_out(report(1000, 900), 50), Some(report(1000, 950)));
        assert_eq!((own.take_out(report(999, 900), 50), own.take_out(report(1000, 899), 50)), (None, None));
        assert_eq!(own.take_out(report(1000, 1001), 50), Some(report(1000, 1001)), "nonsense stays what it is");
        let most = report(u64::MAX, u64::MAX - 1);
        assert_eq!(own.take_out(most, u64::MAX), Some(report(u64::MAX, u64::MAX)));
        own.on_new_session();
        assert_eq!(own.take_out(report(10, 9), 0), Some(report(10, 9)));
    }

    /// Reports window after window with so many lost of each 10,000.
    struct Reporter {
        loss: PathLoss,
        total: LossReport,
    }

    impl Reporter {
        fn new() -> Self {
            Self { loss: PathLoss::default(), total: LossReport::default() }
        }

        fn report(&mut self, lost_of_10_000: u64) -> bool {
            self.total.due_count += 10_000;
            self.total.opened_count += 10_000 - lost_of_10_000;
            self.loss.on_report(self.total)
        }
    }

    #[test]
    fn two_lossy_windows_in_a_row_change_the_packing_and_three_clean_ones_change_it_back() {
        let mut reporter = Reporter::new();
        assert!(!reporter.report(100) && !reporter.report(0) && !reporter.report(25));
        assert_eq!(reporter.loss.packing(), Packing::Trains);
        assert!(reporter.report(25));
        assert_eq!((reporter.loss.packing(), reporter.loss.rate()), (Packing::Singles, Some(LossRate(2500))));
        assert!(!reporter.report(5) && !reporter.report(0) && !reporter.report(6), "not clean yet");
        assert!(!reporter.report(5) && !reporter.report(0) && reporter.report(0));
        assert_eq!((reporter.loss.packing(), reporter.loss.rate()), (Packing::Trains, Some(LossRate(0))));
    }

    #[test]
    fn a_rate_between_the_two_thresholds_changes_nothing() {
        let mut reporter = Reporter::new();
        assert!((0..20).all(|_| !reporter.report(20)));
        assert!(!reporter.report(30) && reporter.report(30));
        assert!((0..20).all(|_| !reporter.report(20)));
        assert_eq!(reporter.loss.packing(), Packing::Singles);
    }

    #[test]
    fn a_few_datagrams_are_no_window() {
        let mut loss = PathLoss::default();
        let report = |due_count| LossReport { due_count, opened_count: due_count / 2 };
        assert!(!loss.on_report(report(WINDOW_COUNT - 1)));
        assert_eq!(loss.rate(), None);
        let _ = loss.on_report(report(WINDOW_COUNT));
        assert_eq!(loss.rate(), Some(LossRate(500_000)), "they wait for others");
    }

    #[test]
    fn numbers_that_go_back_or_say_nonsense_are_ignored() {
        let mut reporter = Reporter::new();
        let _ = reporter.report(100);
        let before = reporter.loss;
        assert!(!reporter.loss.on_report(LossReport { due_count: 9000, opened_count: 9000 }));
        assert!(!reporter.loss.on_report(LossReport { due_count: u64::MAX, opened_count: 0 }));
        assert_eq!(reporter.loss, before);
        let _ = reporter.loss.on_report(LossReport { due_count: 20_000, opened_count: u64::MAX });
        assert_eq!(reporter.loss.rate(), Some(LossRate(0)), "more than were due is no loss");
    }

    #[test]
    fn a_new_session_counts_from_zero_and_keeps_what_is_known() {
        let mut reporter = Reporter::new();
        let _ = reporter.report(50);
        reporter.loss.on_new_session();
        reporter.total = LossReport::default();
        assert!(reporter.report(50));
    }
}

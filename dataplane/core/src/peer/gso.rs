//! Whether sends of several datagrams are to blame for what the path to a peer loses (ADR 29).
//!
//! Some kernels and cards damage the datagrams that they cut from a `UDP_SEGMENT` send; the send itself goes well. It shows
//! only in the peer's loss reports, and there it looks like any other loss. So it is tried out:
//!
//! ```text
//!             heavy loss            as much is lost           pause is over
//!   joined ──────────────▶ trial ────────────────────▶ joined ─ ─ ─ ─ ─ ─ ─▶ (the next trial may come)
//!     ▲                  (apart) ─── much less is lost ──▶ apart ──────▶ recheck
//!     └───────────────────────────────── less is lost than before ──── (joined) ─── much is lost ──▶ apart
//! ```
//!
//! Time is divided into steps of a second or more, each from one report to another. Steps make a stretch, and a stretch is judged
//! as soon as it holds enough, however long that takes: where trains are damaged TCP nearly stands still. Steps in which no train
//! has left and nothing was lost say nothing and are left out.
//!
//! What is lost may depend on all datagrams or on those in runs of several; nobody says which. So a trial has to be better than
//! both would let expect: otherwise a change of the traffic alone could look like success.
//!
//! INVARIANT: a pause grows with each outcome, up to a bound, so that a path whose loss comes and goes is left alone.
//! INVARIANT: as with [`super::PathLoss`], whoever lies about loss changes how he himself is served.

use std::time::{Duration, Instant};

use super::LossRate;
use crate::{forward::Sends, wire::record::LossReport};

/// Least time from one report that counts to the next: a burst that finds the end of the bandwidth is over by then.
const STEP: Duration = Duration::from_secs(1);

/// After a change, what comes in the first moment was sent before it.
const SETTLE: Duration = Duration::from_secs(1);

/// What a stretch must hold to be judged: little, because a connection that gets nowhere sends a few datagrams and then waits.
const MIN_STEPS: u32 = 3;
const MIN_DUE: u64 = 32;
const MIN_RUN: u64 = 8;

/// Loss is heavy when so many are lost, in two steps or more…
const HEAVY_LOST: u64 = 8;
const HEAVY_STEPS: u32 = 2;
/// … and that is one of so many, of all or of those in runs. No connection is content with that, whatever the path is.
const HEAVY_PART: u64 = 10;

/// A trial is judged when so many would be lost if nothing had changed…
const EVIDENCE: u64 = 16;
/// … and it has helped when it was at most one of so many of them: chance does that once in two thousand trials.
const MUCH_LESS: u64 = 4;

/// Datagrams by which the loss without trains is kept up to date.
const REFRESH_DUE: u64 = 128;

/// The first pause; it doubles from one outcome to the next.
const MIN_PAUSE: Duration = Duration::from_secs(120);
/// The longest before trains are sent again for a look: that costs a second or two of what was damaged before.
const MAX_PAUSE: Duration = Duration::from_secs(3600);
/// The longest before the next trial. It costs nothing but calls.
const MAX_TRIAL_PAUSE: Duration = Duration::from_secs(600);

/// Sends to one peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathGso {
    phase: Phase,
    /// Where the step in hand has begun; none until a report says.
    mark: Option<Mark>,
    /// Until then reports are about what was sent before the last change.
    settled_at: Option<Instant>,
    stretch: Stretch,
    /// The next pause.
    pause: Duration,
    /// When the last outcome was.
    outcome_at: Option<Instant>,
}

/// What has been found out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GsoNews {
    /// Much is lost: datagrams leave one by one to see if that is better.
    Tried,
    /// It is not: trains leave in one send again.
    NotToBlame,
    /// It is: datagrams go on to leave one by one. The loss before and after.
    GivenUp(LossRate, LossRate),
    /// Trains leave in one send again, to see if they are still lost.
    LookedAgain,
    /// They are: datagrams leave one by one again.
    StillLost,
    /// They are not.
    TakenUp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// A train is one send. No trial before that time.
    Joined { not_before: Option<Instant> },
    /// Apart, to see if less is lost than `before`.
    Trial { before: Stretch },
    /// Apart, because less is lost.
    Apart { before: Stretch, after: Stretch, until: Instant },
    /// Joined, to see if as much is lost as `before` and more than apart.
    Recheck { before: Stretch, after: Stretch },
}

/// What was known at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mark {
    report: LossReport,
    run_count: u64,
    at: Instant,
}

/// What was counted over some steps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Stretch {
    due: u64,
    opened: u64,
    /// Datagrams that left in runs of several, in one send or apart.
    in_runs: u64,
    steps: u32,
    /// Steps in which something was lost.
    lossy_steps: u32,
}

impl Default for PathGso {
    fn default() -> Self {
        Self {
            phase: Phase::Joined { not_before: None },
            mark: None,
            settled_at: None,
            stretch: Stretch::default(),
            pause: MIN_PAUSE,
            outcome_at: None,
        }
    }
}

impl PathGso {
    /// How trains are to leave.
    pub fn sends(&self) -> Sends {
        match self.phase {
            Phase::Joined { .. } | Phase::Recheck { .. } => Sends::Joined,
            Phase::Trial { .. } | Phase::Apart { .. } => Sends::Apart,
        }
    }

    /// Whether [`Sends::Apart`] is on trial only.
    pub fn is_trial(&self) -> bool {
        matches!(self.phase, Phase::Trial { .. })
    }

    /// Another session counts from zero. What is known of the path stays.
    pub fn on_new_session(&mut self) {
        self.mark = None;
    }

    /// The peer is elsewhere: what is known of the way there is worth nothing.
    pub fn on_new_path(&mut self) {
        *self = Self::default();
    }

    /// The peer says what has come; so far `run_count` datagrams have left in runs of several. What follows from it, if anything.
    pub fn on_report(&mut self, report: LossReport, run_count: u64, now: Instant) -> Option<GsoNews> {
        if self.settled_at.is_some_and(|at| now < at) {
            return None;
        }
        let mark = Mark { report, run_count, at: now };
        let Some(before) = self.mark else {
            self.mark = Some(mark);
            return None;
        };
        // Numbers that go back are ignored.
        let step = mark.since(&before)?;
        if now.saturating_duration_since(before.at) < STEP {
            return None;
        }
        self.mark = Some(mark);
        if step.in_runs == 0 && step.lost() == 0 {
            return None;
        }
        self.stretch.add(&step);
        self.judge(now)
    }

    fn judge(&mut self, now: Instant) -> Option<GsoNews> {
        let stretch = self.stretch;
        match self.phase {
            Phase::Joined { not_before } if not_before.is_some_and(|at| now < at) => {
                self.stretch = Stretch::default();
                None
            }
            Phase::Joined { .. } if !stretch.is_enough() => None,
            Phase::Joined { .. } => {
                self.stretch = Stretch::default();
                (stretch.is_heavy() && stretch.lossy_steps >= HEAVY_STEPS).then(|| {
                    self.forget_old_outcomes(now);
                    self.enter(Phase::Trial { before: stretch }, Some(now + SETTLE));
                    GsoNews::Tried
                })
            }
            Phase::Trial { before } => {
                let expected = before.lost_in(&stretch);
                let is_enough = stretch.steps >= MIN_STEPS && expected >= EVIDENCE;
                is_enough.then(|| self.end_trial(&before, &stretch, expected, now))
            }
            Phase::Apart { before, after, until } => {
                if stretch.due >= REFRESH_DUE {
                    self.stretch = Stretch::default();
                    self.phase = Phase::Apart { before, after: stretch, until };
                }
                (now >= until).then(|| {
                    self.enter(Phase::Recheck { before, after }, None);
                    GsoNews::LookedAgain
                })
            }
            Phase::Recheck { before, after } => {
                if stretch.is_heavy() && stretch.lost() >= after.lost_of_all_in(&stretch).saturating_mul(MUCH_LESS) {
                    let until = now + self.take_pause(MAX_PAUSE, now);
                    self.enter(Phase::Apart { before, after, until }, Some(now + SETTLE));
                    return Some(GsoNews::StillLost);
                }
                (stretch.steps >= MIN_STEPS && before.lost_in(&stretch) >= EVIDENCE).then(|| {
                    self.outcome_at = Some(now);
                    self.enter(Phase::Joined { not_before: None }, None);
                    GsoNews::TakenUp
                })
            }
        }
    }

    fn end_trial(&mut self, before: &Stretch, after: &Stretch, expected: u64, now: Instant) -> GsoNews {
        if after.lost().saturating_mul(MUCH_LESS) <= expected {
            let until = now + self.take_pause(MAX_PAUSE, now);
            self.enter(Phase::Apart { before: *before, after: *after, until }, None);
            GsoNews::GivenUp(before.rate(), after.rate())
        } else {
            let not_before = now + self.take_pause(MAX_TRIAL_PAUSE, now);
            self.enter(Phase::Joined { not_before: Some(not_before) }, Some(now + SETTLE));
            GsoNews::NotToBlame
        }
    }

    fn enter(&mut self, phase: Phase, settled_at: Option<Instant>) {
        self.phase = phase;
        self.stretch = Stretch::default();
        self.settled_at = settled_at;
        if settled_at.is_some() {
            self.mark = None;
        }
    }

    /// The pause after an outcome, and twice as long the next time.
    fn take_pause(&mut self, most: Duration, now: Instant) -> Duration {
        self.outcome_at = Some(now);
        let pause = self.pause.min(most);
        self.pause = (self.pause * 2).min(MAX_PAUSE);
        pause
    }

    /// What was long ago makes no pause longer.
    fn forget_old_outcomes(&mut self, now: Instant) {
        if self.outcome_at.is_some_and(|at| now.saturating_duration_since(at) >= MAX_PAUSE) {
            self.pause = MIN_PAUSE;
        }
    }
}

impl Mark {
    /// The step from `before` to here; `None` when numbers have gone back.
    fn since(&self, before: &Self) -> Option<Stretch> {
        let due = self.report.due_count.checked_sub(before.report.due_count)?;
        let opened = self.report.opened_count.checked_sub(before.report.opened_count)?;
        let in_runs = self.run_count.saturating_sub(before.run_count);
        Some(Stretch { due, opened, in_runs, steps: 1, lossy_steps: u32::from(opened < due) })
    }
}

impl Stretch {
    fn add(&mut self, step: &Self) {
        self.due = self.due.saturating_add(step.due);
        self.opened = self.opened.saturating_add(step.opened);
        self.in_runs = self.in_runs.saturating_add(step.in_runs);
        self.steps = self.steps.saturating_add(step.steps);
        self.lossy_steps = self.lossy_steps.saturating_add(step.lossy_steps);
    }

    /// Datagrams that were late make up for others.
    fn lost(&self) -> u64 {
        self.due.saturating_sub(self.opened)
    }

    fn is_enough(&self) -> bool {
        self.steps >= MIN_STEPS && self.due >= MIN_DUE && self.in_runs >= MIN_RUN
    }

    fn is_heavy(&self) -> bool {
        let lost = self.lost();
        lost >= HEAVY_LOST && self.in_runs > 0 && lost.saturating_mul(HEAVY_PART) >= self.due.min(self.in_runs)
    }

    fn rate(&self) -> LossRate {
        LossRate(share(self.lost(), 1_000_000, self.due) as u32)
    }

    /// How many would be lost of another stretch if as many of all were as in this one.
    fn lost_of_all_in(&self, other: &Self) -> u64 {
        share(self.lost(), other.due, self.due)
    }

    /// The same, at least: of all, or if only those in runs were.
    fn lost_in(&self, other: &Self) -> u64 {
        let of_runs = share(self.lost().min(self.in_runs), other.in_runs, self.in_runs);
        of_runs.min(self.lost_of_all_in(other))
    }
}

/// `part / whole` of `of`.
fn share(part: u64, of: u64, whole: u64) -> u64 {
    let share = u128::from(part) * u128::from(of) / u128::from(whole.max(1));
    share.min(u128::from(u64::MAX)) as u64
}

#[cfg(test)]
#[path = "gso_tests.rs"]
mod tests;

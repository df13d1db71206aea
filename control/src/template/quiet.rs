//! Quiet time: a template is rendered when its data has been still for `min`, and at the latest `max` after the first change.
//!
//! A pure state machine; the caller has the clock.

use std::time::{Duration, Instant};

/// How long changes are gathered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait {
    /// Since the last change.
    pub min: Duration,
    /// Since the first change.
    pub max: Duration,
}

/// The changes of one template that are not rendered yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quiet {
    pending: Option<Pending>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Pending {
    due: Instant,
    latest: Instant,
}

impl Quiet {
    /// Something changed.
    pub fn on_change(&mut self, wait: Wait, now: Instant) {
        // A retry that waits for long does not hold up a change.
        let latest = self.pending.map_or(now + wait.max, |pending| pending.latest.min(now + wait.max));
        self.pending = Some(Pending { due: (now + wait.min).min(latest), latest });
    }

    /// Render as soon as possible.
    pub fn hurry(&mut self, now: Instant) {
        self.pending = Some(Pending { due: now, latest: now });
    }

    /// When [`Self::take_due`] has to be asked again; none while nothing has changed.
    pub fn due(&self) -> Option<Instant> {
        self.pending.map(|pending| pending.due)
    }

    /// Whether it is time to render; answers so once.
    pub fn take_due(&mut self, now: Instant) -> bool {
        self.pending.take_if(|pending| pending.due <= now).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAIT: Wait = Wait { min: Duration::from_secs(2), max: Duration::from_secs(5) };

    fn seconds(start: Instant, count: u64) -> Instant {
        start + Duration::from_secs(count)
    }

    #[test]
    fn one_change_is_rendered_once_after_the_quiet_time() {
        let start = Instant::now();
        let mut quiet = Quiet::default();
        assert_eq!(quiet.due(), None);
        quiet.on_change(WAIT, start);
        assert!(!quiet.take_due(seconds(start, 1)));
        assert!(quiet.take_due(seconds(start, 2)));
        assert!(!quiet.take_due(seconds(start, 9)));
    }

    #[test]
    fn what_is_put_off_for_long_holds_up_no_change() {
        let start = Instant::now();
        let mut quiet = Quiet::default();
        let minute = Duration::from_secs(60);
        quiet.on_change(Wait { min: minute, max: minute }, start);
        for second in 1..9 {
            quiet.on_change(WAIT, seconds(start, second));
        }
        assert_eq!(quiet.due(), Some(seconds(start, 6)));
    }

    #[test]
    fn changes_without_end_cannot_put_it_off_beyond_the_maximum() {
        let start = Instant::now();
        let mut quiet = Quiet::default();
        for second in 0..5 {
            quiet.on_change(WAIT, seconds(start, second));
            assert!(!quiet.take_due(seconds(start, second)));
        }
        assert_eq!(quiet.due(), Some(seconds(start, 5)));
        assert!(quiet.take_due(seconds(start, 5)));
        quiet.on_change(WAIT, seconds(start, 6));
        assert_eq!(quiet.due(), Some(seconds(start, 8)));
    }
}

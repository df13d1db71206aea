//! Whether the new colour is worse than the old one: from what the balancers of all hosts have counted.
//!
//! Little traffic proves nothing: below a number of requests there is no verdict. The new colour is judged by what it did
//! since the switch, the old one by all that its balancers remember of it.
//!
//! A request that waits for [`LONG_WAIT`] has failed for as long as it waits, so that a colour that hangs is noticed before its
//! requests are given up; but only where the old colour hardly ever takes that long. Elsewhere (long polls) it proves nothing: at the moment of
//! a switch all clients come anew and wait, at a colour that is well.

use serde::{Deserialize, Serialize};
use weaved_api::balancer::{ColourReport, LONG_WAIT};

/// What leads back by itself, and how long it is looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watch {
    /// The colour that is watched.
    pub colour: String,
    /// Where it leads back to.
    pub back_to: String,
    /// When.
    pub limits: Limits,
    /// For how long after the switch, in milliseconds. While a canary is out it does not count.
    pub length_ms: u64,
}

/// How bad the new colour may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Failures of a thousand requests.
    pub errors_permille: Option<u32>,
    /// The latency that 99 of 100 requests stay below, in percent of the old colour's.
    pub p99_percent: Option<u32>,
    /// With fewer requests to the new colour there is no verdict.
    pub min_requests: u64,
}

/// What balancers have counted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Requests that were answered or given up, or count as failed because they wait.
    pub requests: u64,
    /// Of them, those that failed.
    pub failures: u64,
    /// Requests that were answered or given up in less than 1, 2, 4, … milliseconds; the last one the rest.
    pub latency: Vec<u64>,
}

/// What is thought of the new colour.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Too few requests.
    TooEarly,
    /// No worse than it may be.
    Good,
    /// Worse, for this reason.
    Bad(String),
}

impl Default for Limits {
    fn default() -> Self {
        Self { errors_permille: Some(50), p99_percent: None, min_requests: 100 }
    }
}

impl Limits {
    /// From what an operator writes: `errors=5%,p99=2x`.
    pub fn parse(text: &str, min_requests: u64) -> Result<Self, String> {
        let mut limits = Self { errors_permille: None, p99_percent: None, min_requests };
        let bad = |part: &str| format!("`{part}` is no limit such as errors=5% or p99=2x");
        for part in text.split(',').map(str::trim) {
            let (name, value) = part.split_once('=').ok_or_else(|| bad(part))?;
            let number = |unit: &str, places: usize| fixed_point(value.strip_suffix(unit)?.trim(), places);
            match name {
                "errors" => limits.errors_permille = Some(number("%", 1).ok_or_else(|| bad(part))?),
                "p99" => limits.p99_percent = Some(number("x", 2).ok_or_else(|| bad(part))?),
                _ => return Err(bad(part)),
            }
        }
        Ok(limits)
    }

    /// The verdict.
    pub fn judge(&self, new: &Counts, old: &Counts) -> Verdict {
        if new.requests < self.min_requests.max(1) {
            return Verdict::TooEarly;
        }
        let is_worse = new.failures.saturating_mul(old.requests) > old.failures.saturating_mul(new.requests);
        if let Some(limit) = self.errors_permille
            && new.failures.saturating_mul(1000) > u64::from(limit).saturating_mul(new.requests)
            // A service that fails in both colours is not healed by going back.
            && (is_worse || old.requests == 0)
        {
            return Verdict::Bad(format!(
                "{} of {} requests failed, more than {}.{} %",
                new.failures,
                new.requests,
                limit / 10,
                limit % 10
            ));
        }
        if let Some(limit) = self.p99_percent
            && old.requests >= self.min_requests.max(1)
            && let (Some(ours), Some(theirs)) = (new.p99_ms(), old.p99_ms())
            && ours.saturating_mul(100) > theirs.saturating_mul(u64::from(limit))
        {
            return Verdict::Bad(format!(
                "99 % of requests took up to {ours} ms, of the old colour {theirs} ms: more than {}.{:02} times as long",
                limit / 100,
                limit % 100
            ));
        }
        Verdict::Good
    }
}

/// Of so many answers one may take long, and waiting is not usual. Polls of five minutes that are one of a thousand are 3 % of what is
/// asked in the first ten seconds behind a switch, when all come anew; were they one of a hundred, they would be 23 %.
const RARELY: u128 = 1000;

impl Counts {
    /// What a report says now, less what an earlier one of the same gateway said.
    pub fn since(now: &ColourReport, before: Option<&ColourReport>) -> Self {
        let Some(before) = before else { return Self::of(now) };
        let old = before.latency.iter().copied().chain(std::iter::repeat(0));
        Self {
            requests: now.requests.saturating_sub(before.requests),
            failures: now.failures.saturating_sub(before.failures),
            latency: now.latency.iter().zip(old).map(|(now, before)| now.saturating_sub(before)).collect(),
        }
    }

    /// All that a report says.
    pub fn of(report: &ColourReport) -> Self {
        Self { requests: report.requests, failures: report.failures, latency: report.latency.clone() }
    }

    /// With requests that wait for long, as failures. In a later report each is one that waits, one that was answered or has failed, or in none
    /// because its client has left.
    pub(super) fn with_waiting(self, report: Option<&ColourReport>) -> Self {
        let waiting = report.map_or(0, |report| report.waiting);
        let (requests, failures) = (self.requests.saturating_add(waiting), self.failures.saturating_add(waiting));
        Self { requests, failures, ..self }
    }

    /// Whether there were enough answers, and hardly one of them took as long as what counts as waiting.
    pub(super) fn is_prompt(&self, min_requests: u64) -> bool {
        // The bucket that the bound is in, and all behind it.
        let first_long = (u128::BITS - LONG_WAIT.as_millis().leading_zeros()) as usize;
        let long: u128 = self.latency.iter().skip(first_long).map(|count| u128::from(*count)).sum();
        let requests = u128::from(self.requests);
        requests >= u128::from(min_requests.max(1)) && long * RARELY <= requests
    }

    /// Together with another host's.
    pub fn add(&mut self, other: &Self) {
        self.requests = self.requests.saturating_add(other.requests);
        self.failures = self.failures.saturating_add(other.failures);
        if self.latency.len() < other.latency.len() {
            self.latency.resize(other.latency.len(), 0);
        }
        for (sum, count) in self.latency.iter_mut().zip(&other.latency) {
            *sum = sum.saturating_add(*count);
        }
    }

    /// The bound of the bucket that 99 of 100 requests do not exceed, in milliseconds.
    fn p99_ms(&self) -> Option<u64> {
        // Sums of what other hosts say.
        let counts = || self.latency.iter().map(|count| u128::from(*count));
        let total: u128 = counts().sum();
        let needed = (total * 99).div_ceil(100).max(1);
        let mut seen = 0;
        let place = counts().position(|count| {
            seen += count;
            seen >= needed
        });
        place.filter(|_| total > 0).map(|place| 1 << place.min(40))
    }
}

/// A number with at most so many digits behind its point, without the point: `0.5` with one is 5. Not zero.
fn fixed_point(text: &str, places: usize) -> Option<u32> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if fraction.len() > places || !whole.chars().chain(fraction.chars()).all(|c| c.is_ascii_digit()) {
        return None;
    }
    format!("{whole}{fraction:0<places$}").parse().ok().filter(|number| (1..=1_000_000).contains(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(requests: u64, failures: u64, fast: u64, slow: u64) -> Counts {
        Counts { requests, failures, latency: vec![fast, 0, 0, slow] }
    }

    #[test]
    fn limits_are_read_as_operators_write_them() {
        let limits = Limits::parse("errors=5%,p99=2x", 100).unwrap();
        assert_eq!((limits.errors_permille, limits.p99_percent), (Some(50), Some(200)));
        assert_eq!(Limits::parse("errors=0.5%", 1).unwrap().errors_permille, Some(5));
        for bad in ["", "errors", "errors=5", "p99=200%", "p50=2x", "errors=-1%", "errors=0%", "errors=0.05%"] {
            assert!(Limits::parse(bad, 1).unwrap_err().contains("errors=5%"), "{bad}");
        }
    }

    #[test]
    fn few_requests_prove_nothing_whatever_they_say() {
        let limits = Limits { min_requests: 100, ..Limits::default() };
        assert_eq!(limits.judge(&counts(99, 99, 0, 99), &counts(1000, 0, 1000, 0)), Verdict::TooEarly);
        assert!(matches!(limits.judge(&counts(100, 6, 100, 0), &counts(1000, 0, 1000, 0)), Verdict::Bad(_)));
        assert_eq!(limits.judge(&counts(100, 5, 100, 0), &counts(1000, 0, 1000, 0)), Verdict::Good);
    }

    #[test]
    fn what_fails_in_both_colours_is_no_reason_to_go_back() {
        let limits = Limits { min_requests: 10, ..Limits::default() };
        assert_eq!(limits.judge(&counts(100, 50, 100, 0), &counts(1000, 500, 1000, 0)), Verdict::Good);
        assert!(matches!(limits.judge(&counts(100, 51, 100, 0), &counts(1000, 500, 1000, 0)), Verdict::Bad(_)));
        assert!(matches!(limits.judge(&counts(100, 50, 100, 0), &Counts::default()), Verdict::Bad(_)));
    }

    #[test]
    fn latency_is_judged_against_the_old_colour() {
        let limits = Limits { errors_permille: None, p99_percent: Some(200), min_requests: 10 };
        let old = counts(1000, 0, 1000, 0);
        assert_eq!(limits.judge(&counts(1000, 0, 999, 1), &old), Verdict::Good, "one of a thousand");
        assert!(
            matches!(limits.judge(&counts(1000, 0, 980, 20), &old), Verdict::Bad(reason) if reason.contains("8 ms"))
        );
        let mut endless = counts(1000, 0, u64::MAX, u64::MAX);
        endless.add(&endless.clone());
        assert!(matches!(limits.judge(&endless, &old), Verdict::Bad(_)), "whatever a host says it has counted");
        assert_eq!(
            limits.judge(&counts(1000, 0, 980, 20), &counts(5, 0, 5, 0)),
            Verdict::Good,
            "too little to compare"
        );
    }

    #[test]
    fn who_waits_has_failed_only_where_answers_hardly_ever_take_that_long() {
        let answers = |quick, slow| {
            let mut latency = vec![0; 18];
            (latency[3], latency[14]) = (quick, slow);
            Counts { requests: quick + slow, failures: 0, latency }
        };
        assert!(answers(99_900, 100).is_prompt(100) && !answers(99_899, 101).is_prompt(100));
        assert!(answers(100, 0).is_prompt(100) && !answers(99, 0).is_prompt(100));
        assert!(!Counts::default().is_prompt(0), "nothing is known of it");
        let waiting = ColourReport { waiting: 7, ..ColourReport::default() };
        let counted = Counts { failures: 1, ..answers(10, 0) }.with_waiting(Some(&waiting));
        assert_eq!((counted.requests, counted.failures), (17, 8));
        assert_eq!(Counts::default().with_waiting(None), Counts::default());
    }
}

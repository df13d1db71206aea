//! What is printed of a case, and whether it is good.

use std::time::Duration;

use serde_json::Value;
use weaved_netns_tests::{
    Process,
    ledger::{Ledger, Request, Switched},
    shop::Shop,
};

/// So many examples of what went wrong are shown.
const EXAMPLES: usize = 10;

/// From when until when something was done to the service, in the time of the ledgers.
pub(crate) type Span = (u64, u64);

/// True if nothing failed and nothing was answered by a colour that was not live.
pub(crate) fn is_unnoticed(ledger: &Ledger, switches: &[Switched]) -> bool {
    let (failed, wrong) = (ledger.failed(), ledger.wrong(switches));
    println!(
        "  {} requests, failed: {}, answered by a colour that was not live: {}",
        ledger.requests.len(),
        failed.len(),
        wrong.len()
    );
    tell_examples(&failed);
    tell_examples(&wrong);
    failed.is_empty() && wrong.is_empty()
}

/// How many of these the clients of every host have asked before and behind.
pub(crate) fn count_under_load(ledgers: &[Ledger], spans: &[Span]) -> usize {
    let is_under_load = |(from, until): &&Span| ledgers.iter().all(|ledger| ledger.spans(*from, *until));
    spans.iter().filter(is_under_load).count()
}

/// True if all of them were; else what was done to an idle service counts for nothing, and that is said.
pub(crate) fn are_under_load(ledgers: &[Ledger], spans: &[Span]) -> bool {
    let count = count_under_load(ledgers, spans);
    if count < spans.len() {
        println!("  ONLY {count} of {} were wholly within the load", spans.len());
    }
    count == spans.len()
}

/// The first of them.
pub(crate) fn tell_examples(requests: &[&Request]) {
    requests.iter().take(EXAMPLES).for_each(|request| println!("    {request}"));
}

/// Percentiles of what the history says.
pub(crate) fn tell_figures(shop: &Shop) {
    let record = shop.record(0);
    let entries = record["history"].as_array().cloned().unwrap_or_default();
    for (name, field) in [("spread", "spread_us"), ("from the order to the last host", "duration_us")] {
        let mut micros: Vec<u64> =
            entries.iter().filter_map(|entry: &Value| entry["figures"][field].as_u64()).collect();
        micros.sort_unstable();
        let at = |percent: usize| {
            let micros = micros.get(micros.len().saturating_sub(1) * percent / 100).copied().unwrap_or(0);
            Duration::from_micros(micros)
        };
        println!("  {name}: p50 {:?}, p99 {:?} of {}", at(50), at(99), micros.len());
    }
}

/// True if all holders hold what they held, until now.
pub(crate) fn none_was_cut(holders: Vec<Process>) -> bool {
    let (mut cut, mut ended) = (0, 0);
    for mut holder in holders {
        ended += usize::from(!holder.is_running());
        cut += holder.kill().stderr.lines().filter(|line| line.contains("a held connection")).count();
    }
    println!("  held connections that were cut: {cut}");
    if ended > 0 {
        println!("  {ended} HOLDERS ENDED before the load did");
    }
    cut + ended == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_host_has_not_asked_around_is_not_under_load() {
        let request = |began_us, ended_us| Request { began_us, ended_us, colour: "blue".into(), status: "200".into() };
        let all_the_time = Ledger { requests: vec![request(10, 20), request(190, 200)] };
        let ends_early = Ledger { requests: vec![request(10, 20), request(90, 95)] };
        let spans = [(30, 40), (100, 110)];
        assert_eq!(count_under_load(std::slice::from_ref(&all_the_time), &spans), 2);
        assert_eq!(count_under_load(&[all_the_time, ends_early], &spans), 1);
    }
}

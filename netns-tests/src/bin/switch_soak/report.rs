//! What is printed of a case, and whether it is good.

use std::time::Duration;

use serde_json::Value;
use weaved_netns_tests::{
    Process,
    ledger::{Ledger, Switched},
    shop::Shop,
};

/// So many examples of what went wrong are shown.
const EXAMPLES: usize = 10;

/// True if nothing failed and nothing was answered by a colour that was not live.
pub(crate) fn is_unnoticed(ledger: &Ledger, switches: &[Switched]) -> bool {
    let (failed, wrong) = (ledger.failed(), ledger.wrong(switches));
    println!(
        "  {} requests, failed: {}, answered by a colour that was not live: {}",
        ledger.requests.len(),
        failed.len(),
        wrong.len()
    );
    for request in failed.iter().chain(&wrong).take(EXAMPLES) {
        println!("    {request}");
    }
    failed.is_empty() && wrong.is_empty()
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

/// How many of a holder's connections broke until now.
pub(crate) fn cut_count(holder: Process) -> usize {
    holder.kill().stderr.lines().filter(|line| line.contains("a held connection")).count()
}

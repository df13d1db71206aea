//! What Consul's HTTP API counts.

use std::fmt;

use super::page::{Page, number};
use crate::serve::report::HttpReport;

/// Counters that are one family, by reason: what the API refuses before it has looked what it is about.
pub(super) const REFUSALS: [&str; 8] = [
    "connections_refused",
    "bodies_refused",
    "answers_refused",
    "bad_requests",
    "token_refused",
    "body_too_long",
    "body_unfinished",
    "client_timeouts",
];

pub(super) fn write(page: &mut Page<'_>, report: &HttpReport) -> fmt::Result {
    page.gauge(
        "http_connections_open",
        "Connections to the HTTP API, those included whose queries wait",
        number(report.open),
    )?;
    let (refusals, others): (Vec<_>, Vec<_>) =
        report.counters.iter().partition(|counter| REFUSALS.contains(&counter.name.as_str()));
    page.counters(
        "http_refusals",
        "Connections and requests that the HTTP API refused, by reason",
        refusals.into_iter().map(|counter| (vec![("reason", counter.name.as_str())], counter.value)),
    )?;
    for counter in others {
        page.counters(&format!("http_{}", counter.name), &counter.help, [(vec![], counter.value)])?;
    }
    Ok(())
}

//! What the gateway counts: of names, and of the balancer as a whole.

use std::fmt;

use weaved_api::{Counter, gateway::GatewayStats};
use weaved_gateway::BALANCER_COUNTERS;

use super::page::{Page, number};

/// Counters of the balancer that are one family, by reason: what it answered itself or closed, and passed to no instance.
pub(super) const REFUSALS: [&str; 14] = [
    "connections_refused",
    "proxy_header_refused",
    "tls_failed",
    "client_timeouts",
    "ambiguous",
    "bad_requests",
    "no_route",
    "body_too_long",
    "body_unfinished",
    "rate_limited",
    "no_backend",
    "backend_failed",
    "loops",
    "backend_timeouts",
];

pub(super) fn write(page: &mut Page<'_>, stats: Option<&GatewayStats>) -> fmt::Result {
    let Some(stats) = stats else { return Ok(()) };
    page.gauge("gateway_names", "Names of the cluster that are answered", number(stats.name_count))?;
    page.gauge("gateway_cached_answers", "Answers kept of other resolvers", number(stats.cached_count))?;
    for counter in stats.counters.iter().filter(|counter| of_balancer(counter).is_none()) {
        page.counters(&format!("gateway_{}", counter.name), &counter.help, [(vec![], counter.value)])?;
    }
    write_balancer(page, &stats.counters)
}

fn write_balancer(page: &mut Page<'_>, counters: &[Counter]) -> fmt::Result {
    let named = || counters.iter().filter_map(|counter| Some((of_balancer(counter)?, counter)));
    page.counters(
        "balancer_refusals",
        "Connections closed and requests answered by the balancer itself, by reason",
        named()
            .filter(|(name, _)| REFUSALS.contains(name))
            .map(|(reason, counter)| (vec![("reason", reason)], counter.value)),
    )?;
    for (name, counter) in named().filter(|(name, _)| !REFUSALS.contains(name)) {
        page.counters(&format!("balancer_{name}"), &counter.help, [(vec![], counter.value)])?;
    }
    Ok(())
}

/// Its name there, if it is one of the balancer's.
fn of_balancer(counter: &Counter) -> Option<&str> {
    counter.name.strip_prefix(BALANCER_COUNTERS)
}

//! What the gateway counts of names.

use std::fmt;

use weaved_api::gateway::GatewayStats;

use super::page::{Page, number};

pub(super) fn write(page: &mut Page<'_>, stats: Option<&GatewayStats>) -> fmt::Result {
    let Some(stats) = stats else { return Ok(()) };
    page.gauge("gateway_names", "Names of the cluster that are answered", number(stats.name_count))?;
    page.gauge("gateway_cached_answers", "Answers kept of other resolvers", number(stats.cached_count))?;
    for counter in &stats.counters {
        page.counters(&format!("gateway_{}", counter.name), &counter.help, [(vec![], counter.value)])?;
    }
    Ok(())
}

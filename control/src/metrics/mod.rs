//! Everything that this node counts, for Prometheus: `GET /metrics` on a port of its own (docs/metrics.md).
//!
//! ```text
//!  Prometheus ──HTTP──▶ serve ──▶ status of the daemon's loop (and the data plane's counters in it)
//!                         ├─────▶ counters of the gateway, over its socket
//!                         ├─────▶ /proc of the four processes
//!                         └─────▶ render ──▶ text
//! ```
//!
//! Names follow the conventions of that ecosystem: `weaved_` in front, base units, `_total` behind counters.
//!
//! INVARIANT: names and labels are an API: `docs/metrics.md` lists them all, and a test compares.

mod balancer;
mod cluster;
mod dataplane;
mod gateway;
mod http;
mod page;
mod process;
pub mod serve;

use std::fmt;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, prometheus_text},
    registry::Registry,
};
use weaved_api::{balancer::BalancerReport, gateway::GatewayStats};

use self::page::Page;
pub use self::process::{Usage, usages};
use crate::serve::report::StatusReport;

/// What a page is made from, all of one moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// What control knows, the data plane's counters included.
    pub status: StatusReport,
    /// What the gateway counts; None while it does not answer.
    pub gateway: Option<GatewayStats>,
    /// What the balancer does; None before it has said so.
    pub balancer: Option<BalancerReport>,
    /// What the processes use.
    pub processes: Vec<Usage>,
}

/// The page, in Prometheus's text format 0.0.4.
pub fn render(snapshot: Snapshot) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("weaved");
    registry.register_collector(Box::new(snapshot));
    let mut text = String::with_capacity(16 << 10);
    prometheus_text::encode(&mut text, &registry)?;
    Ok(text)
}

impl Collector for Snapshot {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut page = Page::new(encoder);
        cluster::write(&mut page, &self.status)?;
        http::write(&mut page, &self.status.http)?;
        dataplane::write(&mut page, &self.status)?;
        gateway::write(&mut page, self.gateway.as_ref())?;
        balancer::write(&mut page, self.balancer.as_ref())?;
        process::write(&mut page, &self.processes)
    }
}

#[cfg(test)]
mod tests;

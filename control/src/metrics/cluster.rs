//! What control knows of the cluster.

use std::fmt;

use super::page::{Page, flag, number};
use crate::{node::MemberState, serve::report::StatusReport};

pub(super) fn write(page: &mut Page<'_>, status: &StatusReport) -> fmt::Result {
    page.gauges("build_info", "Always 1; the version is a label", [(vec![("version", status.version.as_str())], 1.0)])?;
    page.gauges(
        "up",
        "1 while the process answers and does what is wanted of it",
        [
            (vec![("process", "control")], 1.0),
            (vec![("process", "dataplane")], flag(status.is_up())),
            (vec![("process", "gateway")], flag(status.gateway.connected && status.gateway.problems.is_empty())),
        ],
    )?;
    let problems = number(status.problems.len() as u64);
    page.gauge("problems", "Lines that `weaved status` shows for somebody to look at", problems)?;
    let members = &status.cluster.members;
    let count = |state| number(members.iter().filter(|member| member.state == state).count() as u64);
    page.gauges(
        "cluster_members",
        "Other hosts of the cluster by what the failure detector says",
        [
            (vec![("state", "up")], count(MemberState::Up)),
            (vec![("state", "down")], count(MemberState::Down)),
            (vec![("state", "away")], count(MemberState::Away)),
            (vec![("state", "joining")], count(MemberState::Joining)),
        ],
    )?;
    page.gauge("containers", "Containers of this host on the overlay", number(status.cluster.containers.len() as u64))?;
    page.gauge("ipam_ready", "1 when this host has an agreed part of the address range", flag(status.has_slice()))?;
    let services = status.services;
    page.gauge("services", "Services of the cluster that have an instance", number(services.services as u64))?;
    page.gauges(
        "service_instances",
        "Instances of all services by whether they take new connections",
        [
            (vec![("state", "passing")], number(services.passing as u64)),
            (vec![("state", "not-passing")], number(services.instances.saturating_sub(services.passing) as u64)),
        ],
    )?;
    page.gauge("service_instances_here", "Instances that run on this host", number(services.here as u64))?;
    write_events(page, status)
}

/// The counters of the node by their names in the status.
fn write_events(page: &mut Page<'_>, status: &StatusReport) -> fmt::Result {
    let counters = serde_json::to_value(status.cluster.counters).unwrap_or_default();
    let counters = counters.as_object().cloned().unwrap_or_default();
    let samples: Vec<_> =
        counters.iter().filter_map(|(event, value)| Some((event.as_str(), value.as_u64()?))).collect();
    page.counters(
        "control_events",
        "What the control half has counted, by event",
        samples.into_iter().map(|(event, value)| (vec![("event", event)], value)),
    )
}

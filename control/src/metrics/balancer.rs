//! What the balancer does, by service and colour.

use std::fmt;

use weaved_api::balancer::{BalancedServiceReport, BalancerReport, ColourReport};

use super::page::{Labels, Page, number};

pub(super) fn write(page: &mut Page<'_>, report: Option<&BalancerReport>) -> fmt::Result {
    let Some(report) = report else { return Ok(()) };
    let services = &report.services;
    page.gauges(
        "balancer_switch_revision",
        "Number of the switch that new requests follow; 0 before the first",
        services.iter().map(|service| (vec![("service", service.service.as_str())], number(service.revision))),
    )?;
    let gauge =
        |value: fn(&ColourReport) -> f64| colours(services).map(move |(labels, colour)| (labels, value(colour)));
    page.gauges("balancer_backends_healthy", "Instances that take traffic", gauge(|colour| f64::from(colour.healthy)))?;
    page.gauges("balancer_requests_in_flight", "Requests in flight", gauge(|colour| number(colour.in_flight)))?;
    page.gauges(
        "balancer_requests_waiting",
        "Of them, those that have waited for an answer for 10 s or longer",
        gauge(|colour| number(colour.waiting)),
    )?;
    page.gauges(
        "balancer_streams_open",
        "Upgraded connections, TCP streams, and answers that are events or gRPC",
        gauge(|colour| number(colour.streams)),
    )?;
    let counter =
        |value: fn(&ColourReport) -> u64| colours(services).map(move |(labels, colour)| (labels, value(colour)));
    page.counters("balancer_requests", "Requests that were answered or given up", counter(|colour| colour.requests))?;
    page.counters(
        "balancer_request_failures",
        "Requests that were answered with 5xx or not at all",
        counter(|colour| colour.failures),
    )?;
    let answered = colours(services).filter(|(_, colour)| !colour.latency.is_empty());
    page.histograms(
        "balancer_request_duration_seconds",
        "Time until the head of the answer",
        answered.map(|(labels, colour)| (labels, buckets(&colour.latency), number(colour.latency_us) / 1e6)),
    )
}

/// The report's buckets end at 1, 2, 4, … milliseconds; the last one nowhere.
fn buckets(latency: &[u64]) -> Vec<(f64, u64)> {
    let last = latency.len() - 1;
    let bound = |at: usize| if at == last { f64::MAX } else { number(1 << at) / 1000.0 };
    latency.iter().enumerate().map(|(at, count)| (bound(at), *count)).collect()
}

fn colours(services: &[BalancedServiceReport]) -> impl Iterator<Item = (Labels<'_>, &ColourReport)> {
    services.iter().flat_map(|service| service.colours.iter().map(|colour| (of(service, colour), colour)))
}

fn of<'a>(service: &'a BalancedServiceReport, colour: &'a ColourReport) -> Labels<'a> {
    vec![("service", service.service.as_str()), ("colour", colour.colour.as_str())]
}

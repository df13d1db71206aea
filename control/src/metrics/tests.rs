//! What stands on the page, and that its names are an API.

use std::{collections::BTreeSet, time::Duration};

use weaved_api::{
    Counter, DeviceStatus, FeatureStatus, Force, LinkStatus, PackingStatus, PeerId, PeerStatus, SendsStatus,
    SessionStatus, Stats, Switch, WorkerCount, WorkersStatus,
    balancer::{BalancedServiceReport, ColourReport},
};

use super::{gateway::REFUSALS, *};
use crate::consul::counters::Counters;
use crate::daemon;

fn counter(name: &str, help: &str, value: u64) -> Counter {
    Counter { name: name.into(), help: help.into(), value }
}

fn feature(force: Force) -> FeatureStatus {
    FeatureStatus { switch: Switch::Auto, force, reason: "tested".into() }
}

fn peer(name: &str, tx_bytes: u64) -> PeerStatus {
    let session = SessionStatus {
        cipher: "AES-256-GCM".into(),
        connected_ms: 5,
        keys_age_ms: 5,
        path_mtu: 1500,
        rtt_us: Some(250),
        loss_ppm: Some(1000),
        packing: PackingStatus::Trains,
        sends: SendsStatus::Joined,
        heard_ms: 1,
    };
    PeerStatus {
        id: PeerId([7; 32]),
        name: name.into(),
        link: LinkStatus::Connected,
        ended: None,
        endpoint: None,
        session: Some(session),
        tx_frame_count: 2,
        tx_bytes,
        rx_frame_count: 3,
        rx_bytes: 300,
    }
}

fn stats() -> Stats {
    let device = DeviceStatus {
        bridge: "weave".into(),
        tap: "weave-tap".into(),
        listen_port: 6783,
        workers: WorkersStatus {
            wanted: WorkerCount::Auto,
            count: 1,
            source_port_count: 1,
            reason: "two processors".into(),
        },
        receive_buffer_bytes: 1,
        send_buffer_bytes: 1,
        tap_queue_frames: 1000,
        tap_queue_count: 16,
        tap_offload: feature(Force::On),
        udp_gso: feature(Force::Partly),
        udp_gro: feature(Force::On),
        bridge_redirect: feature(Force::Off),
        source_queues: feature(Force::On),
    };
    Stats {
        peers: vec![peer("beta", 900), peer("", 1)],
        counters: vec![
            counter("worker_turns", "Turns of the workers.", 40),
            counter("drop_replayed", "Sealed datagrams that had been received before.", 2),
        ],
        device: Some(device),
        mac_count: 4,
        uptime_ms: 10,
    }
}

fn balancer() -> BalancerReport {
    let green = ColourReport {
        colour: "green \"new\"\n".into(),
        healthy: 2,
        waiting: 5,
        requests: 4,
        latency: vec![1, 2, 1],
        latency_us: 6500,
        ..ColourReport::default()
    };
    let service =
        BalancedServiceReport { service: "web".into(), revision: 3, colours: vec![green], ..Default::default() };
    BalancerReport { services: vec![service], problems: vec![] }
}

/// All that there are, of a balancer as it runs in the gateway.
fn balancer_counters() -> Vec<Counter> {
    weaved_gateway::balancer::Balancer::start(Some(1)).unwrap().status().counters
}

/// To be called within a runtime.
fn page() -> String {
    let mut status = daemon::tests::status();
    status.dataplane.stats = Some(stats());
    let of_balancer =
        balancer_counters().into_iter().map(|own| counter(&format!("balancer_{}", own.name), &own.help, 3));
    let gateway = GatewayStats {
        name_count: 9,
        counters: [counter("queries_udp", "Questions over UDP", 5)].into_iter().chain(of_balancer).collect(),
        ..GatewayStats::default()
    };
    let usage =
        Usage { part: "control", cpu: Duration::from_millis(1500), resident_bytes: 4096, threads: 2, open_files: 9 };
    render(Snapshot { status, gateway: Some(gateway), balancer: Some(balancer()), processes: vec![usage] }).unwrap()
}

#[tokio::test]
async fn every_process_is_on_the_page_in_the_units_of_the_ecosystem() {
    let page = page();
    for line in [
        "weaved_up{process=\"control\"} 1.0",
        "weaved_up{process=\"dataplane\"} 0.0",
        "weaved_dataplane_drops_total{reason=\"replayed\"} 2",
        "weaved_dataplane_worker_turns_total 40",
        "weaved_dataplane_feature{feature=\"udp_gso\"} 0.5",
        "weaved_peer_transmit_bytes_total{peer=\"beta\"} 900",
        "weaved_peer_round_trip_seconds{peer=\"beta\"} 0.00025",
        "weaved_peer_loss_ratio{peer=\"beta\"} 0.001",
        "weaved_peer_gso{peer=\"beta\"} 1.0",
        "weaved_gateway_queries_udp_total 5",
        "weaved_process_cpu_seconds_total{process=\"control\"} 1.5",
        "weaved_balancer_switch_revision{service=\"web\"} 3.0",
    ] {
        assert!(page.lines().any(|there| there == line), "{line} is not in\n{page}");
    }
}

#[tokio::test]
async fn every_counter_of_the_balancer_is_on_the_page_and_refusals_are_one_family_that_is_documented() {
    let page = page();
    let counters = balancer_counters();
    for counter in &counters {
        let name = &counter.name;
        let line = if REFUSALS.contains(&name.as_str()) {
            format!("weaved_balancer_refusals_total{{reason=\"{name}\"}} 3")
        } else {
            format!("weaved_balancer_{name}_total 3")
        };
        assert!(page.lines().any(|there| there == line), "{line} is not in\n{page}");
    }
    let row = include_str!("../../../docs/metrics.md")
        .lines()
        .find(|line| line.starts_with("| `weaved_balancer_refusals_total`"));
    let row = row.expect("docs/metrics.md has a row of refusals");
    for reason in REFUSALS {
        assert!(counters.iter().any(|counter| counter.name == reason), "the balancer counts no {reason}");
        assert!(row.contains(&format!("`{reason}`")), "docs/metrics.md does not have {reason}");
    }
}

#[tokio::test]
async fn every_counter_of_the_http_api_is_on_the_page_and_its_refusals_are_one_family_that_is_documented() {
    let page = page();
    let counters = Counters::default().report();
    for name in counters.iter().map(|counter| &*counter.name) {
        let line = if http::REFUSALS.contains(&name) {
            format!("weaved_http_refusals_total{{reason=\"{name}\"}} 0")
        } else {
            assert!(!name.contains("refused"), "{name} is a refusal");
            format!("weaved_http_{name}_total 0")
        };
        assert!(page.lines().any(|there| there == line), "{line} is not in\n{page}");
    }
    let row = include_str!("../../../docs/metrics.md")
        .lines()
        .find(|line| line.starts_with("| `weaved_http_refusals_total`"));
    let row = row.expect("docs/metrics.md has a row of refusals");
    for reason in http::REFUSALS {
        assert!(counters.iter().any(|counter| counter.name == reason), "the API counts no {reason}");
        assert!(row.contains(&format!("`{reason}`")), "docs/metrics.md does not have {reason}");
    }
}

#[tokio::test]
async fn what_others_have_named_cannot_break_a_line() {
    let page = page();
    assert!(page.contains(r#"weaved_balancer_backends_healthy{service="web",colour="green \"new\"\n"} 2.0"#), "{page}");
    assert!(page.contains(r#"weaved_balancer_requests_waiting{service="web",colour="green \"new\"\n"} 5.0"#), "{page}");
}

#[tokio::test]
async fn a_histogram_adds_up() {
    let page = page();
    let samples: Vec<&str> = page.lines().filter(|line| line.starts_with("weaved_balancer_request_duration")).collect();
    let value = |word: &str| samples.iter().find(|line| line.contains(word)).and_then(|line| line.rsplit(' ').next());
    assert_eq!(value("le=\"0.001\""), Some("1"), "{samples:?}");
    assert_eq!(value("le=\"0.002\""), Some("3"));
    assert_eq!(value("le=\"+Inf\""), Some("4"));
    assert_eq!(value("seconds_count"), Some("4"));
    assert_eq!(value("seconds_sum"), Some("0.0065"));
}

/// Names in the first column of the table in `docs/metrics.md`. One with `…` stands for all that begin so.
fn documented() -> BTreeSet<String> {
    let rows = include_str!("../../../docs/metrics.md").lines().filter(|line| line.starts_with("| `weaved_"));
    let cells = rows.filter_map(|row| row.split('|').nth(1));
    cells.flat_map(|cell| cell.split('`').filter(|word| word.starts_with("weaved_")).map(str::to_owned)).collect()
}

#[tokio::test]
async fn every_metric_is_documented_and_nothing_is_documented_that_is_not_there() {
    let page = page();
    let families = page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
    let families: BTreeSet<&str> = families.collect();
    let documented = documented();
    let is_in = |family: &str, name: &str| match name.split_once('…') {
        Some((head, _)) => family.starts_with(head),
        None => family == name,
    };
    for family in &families {
        assert!(documented.iter().any(|name| is_in(family, name)), "docs/metrics.md does not have {family}");
    }
    for name in &documented {
        assert!(families.iter().any(|family| is_in(family, name)), "docs/metrics.md has {name}, which there is not");
    }
}

#[test]
fn the_dashboard_asks_for_metrics_that_there_are() {
    let dashboard = include_str!("../../../docs/examples/grafana.json");
    let is_name = |c: char| c.is_ascii_lowercase() || c == '_';
    let words = dashboard.split(|c: char| !is_name(c)).filter(|word| word.starts_with("weaved_"));
    let documented = documented();
    for word in words {
        let family = word.strip_suffix("_bucket").unwrap_or(word);
        let is_there = documented.iter().any(|name| match name.split_once('…') {
            Some((head, _)) => family.starts_with(head),
            None => family == name,
        });
        assert!(is_there, "{word}");
    }
}

//! Hosts whose data planes have several workers, each with a queue of the TAP and a socket of its own.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use serde_json::Value;
use weaved_netns_tests::{Host, Lab, Place, SOON, traffic, wait_until};

/// Of so many segments one may come out of order: what the scheduler and a full queue do, not the steering of flows.
const ORDERLY_SHARE: u64 = 100;

/// Where all hosts listen.
const PORT: u16 = 6783;

const OFF: [&str; 6] = ["--tap-offload", "off", "--udp-gso", "off", "--udp-gro", "off"];
const AUTO: [&str; 6] = ["--tap-offload", "auto", "--udp-gso", "auto", "--udp-gro", "auto"];

/// Restarts weaved with so many workers and waits until they work and the peers are there again.
fn relaunch(host: &Host, workers: &str, more: &[&str], peers: usize) {
    host.weaved().run(&["stop"]).ok();
    host.weaved().launch(&[&["--workers", workers], more].concat());
    wait_until(&format!("{workers} workers work"), SOON, || {
        let told = device(host)["workers"].clone();
        told["wanted"] == *workers && told["count"].as_u64() == workers.parse().ok()
    });
    host.weaved().wait_for_peers(peers);
}

fn device(host: &Host) -> Value {
    host.weaved().status().unwrap_or_default()["dataplane"]["stats"]["device"].clone()
}

/// A number of the kernel's network statistics, as seen from this place.
fn kernel_count(place: &dyn Place, file: &str, group: &str, name: &str) -> u64 {
    let text = place.run(&["cat", file]).ok().stdout;
    let mut lines = text.lines().filter(|line| line.starts_with(group));
    let (names, values) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    let mut columns = names.split_whitespace().zip(values.split_whitespace());
    let value = columns.find(|(column, _)| *column == name).and_then(|(_, value)| value.parse().ok());
    value.unwrap_or_else(|| panic!("no {name} in {file}"))
}

/// Segments that a place has received, and how many of them before their turn.
fn order(place: &dyn Place) -> [u64; 2] {
    [
        kernel_count(place, "/proc/net/snmp", "Tcp:", "InSegs"),
        kernel_count(place, "/proc/net/netstat", "TcpExt:", "TCPOFOQueue"),
    ]
}

#[test]
fn every_kind_of_traffic_passes_between_hosts_of_one_two_and_three_workers() {
    let Some(mut lab) = Lab::open_alone("queues") else { return };
    let hosts: [Arc<Host>; 3] = [lab.host("a"), lab.host("b"), lab.host("c")];
    let [a, b, c] = hosts.each_ref().map(AsRef::as_ref);
    lab.launch_cluster(&[a, b, c]);
    for (host, workers) in [(a, "2"), (b, "1"), (c, "3")] {
        relaunch(host, workers, &[], 2);
    }
    let [in_a, in_b, in_c] = [a, b, c].map(|host| host.overlay_guest(2, 1500));
    for (from, to, other) in [(&in_a, &in_b, &in_c), (&in_b, &in_c, &in_a), (&in_c, &in_a, &in_b)] {
        traffic::check_every_kind(from, to, to.address(), &[other]);
    }
    for host in [a, b, c] {
        for reason in ["drop_forged", "drop_replayed", "drop_session_exhausted"] {
            assert_eq!(host.weaved().counter(reason), 0, "{reason} of host {}", host.name());
        }
    }
    let screen = c.weaved().run(&["status", "dataplane"]).ok().stdout;
    let line = screen.lines().find(|line| line.starts_with("workers")).unwrap_or_default();
    assert!(line.contains("3 (wanted: 3): ") && line.contains("processor"), "{screen}");
}

#[test]
fn segments_of_a_flow_stay_in_order_with_several_workers_at_both_ends() {
    let Some(mut lab) = Lab::open_alone("order") else { return };
    let hosts: [Arc<Host>; 2] = [lab.host("a"), lab.host("b")];
    let [a, b] = hosts.each_ref().map(AsRef::as_ref);
    lab.launch_cluster(&[a, b]);
    relaunch(a, "2", &[], 1);
    relaunch(b, "3", &[], 1);
    let (in_a, in_b) = (a.overlay_guest(2, 1500), b.overlay_guest(2, 1500));
    traffic::wait_for_ping(&in_a, in_b.address());
    for (from, to) in [(&in_a, &in_b), (&in_b, &in_a)] {
        let before = order(to);
        for _ in 0..4 {
            traffic::check_tcp(from, to, &to.address().to_string(), 32 << 20);
        }
        let [segments, early] = std::array::from_fn(|at| order(to)[at] - before[at]);
        assert!(early * ORDERLY_SHARE <= segments, "{early} of {segments} segments came before their turn");
    }
}

#[test]
fn traffic_passes_with_several_workers_and_without_offloads_and_the_number_may_change() {
    let Some(mut lab) = Lab::open("queuesoff") else { return };
    let hosts: [Arc<Host>; 2] = [lab.host("a"), lab.host("b")];
    let [a, b] = hosts.each_ref().map(AsRef::as_ref);
    lab.launch_cluster(&[a, b]);
    let (in_a, in_b) = (a.overlay_guest(2, 1500), b.overlay_guest(2, 1500));
    for (of_a, of_b) in [(("2", OFF), ("3", OFF)), (("3", AUTO), ("2", OFF)), (("1", AUTO), ("2", AUTO))] {
        relaunch(a, of_a.0, &of_a.1, 1);
        relaunch(b, of_b.0, &of_b.1, 1);
        traffic::check_both_ways(&in_a, &in_b, 8 << 20);
    }
}

/// Source ports of the UDP datagrams over IPv4 to weaved's port in these Ethernet frames, where they come from `from`.
fn source_ports(frames: &[Vec<u8>], from: IpAddr) -> BTreeSet<u16> {
    let IpAddr::V4(from) = from else { return BTreeSet::new() };
    let number = |frame: &[u8], at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
    let is_ours = |frame: &&Vec<u8>| {
        let is_udp = frame.len() > 42 && number(frame, 12) == 0x0800 && frame[14] == 0x45 && frame[23] == 17;
        is_udp && frame[26..30] == from.octets() && number(frame, 36) == PORT
    };
    frames.iter().filter(is_ours).map(|frame| number(frame, 34)).collect()
}

#[test]
fn with_two_source_ports_flows_leave_by_both_and_the_peer_stays_where_it_is() {
    let Some(mut lab) = Lab::open_alone("ports") else { return };
    let hosts: [Arc<Host>; 2] = [lab.host("a"), lab.host("b")];
    let [a, b] = hosts.each_ref().map(AsRef::as_ref);
    lab.launch_cluster(&[a, b]);
    let (in_a, in_b) = (a.overlay_guest(2, 1500), b.overlay_guest(2, 1500));
    for (count, is_spread) in [("1", false), ("2", true)] {
        relaunch(a, "2", &["--source-ports", count], 1);
        traffic::wait_for_ping(&in_a, in_b.address());
        let capture = lab.capture(a, &format!("ports-{count}.pcap"));
        // The sender takes another port each time: some flows are the first worker's, some the second's.
        for _ in 0..12 {
            traffic::check_tcp(&in_a, &in_b, &in_b.address().to_string(), 1 << 14);
        }
        let mut ports = source_ports(&capture.finish(), a.ipv4());
        assert!(ports.remove(&PORT), "the first worker sends from the port of all");
        assert_eq!(ports.len(), usize::from(is_spread), "{ports:?}");
        let endpoint = b.weaved().connected_peers()[0]["endpoint"].to_string();
        assert!(endpoint.contains(&format!("{}:{PORT}", a.ipv4())), "{endpoint}");
    }
    let screen = a.weaved().run(&["status", "dataplane"]).ok().stdout;
    assert!(screen.contains("; sending from 2 ports"), "{screen}");
}

#[test]
fn a_number_of_workers_that_makes_no_sense_is_refused() {
    let Some(mut lab) = Lab::open("queuesbad") else { return };
    let a = lab.host("a");
    for bad in ["0", "9", "many"] {
        let refused = a.weaved().run(&["launch", "--workers", bad]);
        assert!(refused.stderr.contains("choose auto or a number from 1 to 8"), "{refused}");
    }
}

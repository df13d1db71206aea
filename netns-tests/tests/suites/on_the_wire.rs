//! What an eavesdropper sees, what a stranger gets, and what becomes of datagrams that were tampered with.

use std::{fs, time::Duration};

use weaved_netns_tests::{
    Capture, Direction, Guest, Impairment, Lab, Link, Place, SOON, Wiring, random::Random, traffic, wait_until,
};

fn octets(guest: &Guest) -> Vec<u8> {
    match guest.address() {
        std::net::IpAddr::V4(address) => address.octets().to_vec(),
        std::net::IpAddr::V6(address) => address.octets().to_vec(),
    }
}

#[test]
fn nothing_of_the_inner_traffic_is_readable() {
    let Some(mut lab) = Lab::open("read") else { return };
    let (a, b) = (lab.host("a"), lab.host("b"));
    let capture = lab.capture(&a, "underlay.pcap");
    lab.launch_cluster(&[&a, &b]);
    let (from, to) = (a.overlay_guest(2, 1500), b.overlay_guest(2, 1500));
    traffic::wait_for_ping(&from, to.address());
    let address = to.address().to_string();
    let secret = "plain-text-that-nobody-must-read";
    let listener = traffic::serve(&to, &["listen", "5300"]);
    let text = secret.repeat(40);
    for _ in 0..20 {
        from.run_labtool(SOON, &["send", &address, "5300", &text]).ok();
    }
    wait_until("the text has arrived", SOON, || listener.stdout().lines().filter(|line| *line == text).count() == 20);
    traffic::check_tcp(&from, &to, &address, 1 << 20);

    let frames = capture.finish();
    assert!(frames.len() > 50, "{} frames were captured", frames.len());
    let token = fs::read_to_string(a.weaved().token_file()).unwrap();
    let addresses = [octets(&from), octets(&to)].concat();
    let mut payload = [0; 32];
    Random::new(traffic::TCP_SEED).fill(&mut payload);
    let patterns: [(&str, &[u8]); 6] = [
        ("the text", secret.as_bytes()),
        ("the token", token.trim().as_bytes()),
        ("an IP header", &addresses),
        ("a MAC address", &from.mac()),
        ("a MAC address", &to.mac()),
        ("the TCP payload", &payload),
    ];
    for (what, pattern) in patterns {
        assert_eq!(Capture::count_with(&frames, pattern), 0, "{what} is in the capture");
    }
}

#[test]
fn a_wrong_secret_gets_nowhere_and_both_sides_say_so() {
    let Some(mut lab) = Lab::open("wrong") else { return };
    let (a, b) = (lab.host("a"), lab.host("b"));
    a.weaved().launch(&[]);
    let password = lab.file("password", "not the secret of that cluster");
    let peer = a.ipv4().to_string();
    let said = b.weaved().run(&["launch", "--password-file", &password, &peer]).refused(1);
    assert!(said.contains("does not share our secret") && said.contains(&peer), "{said}");
    b.weaved().wait_for_problem(&[&peer, "does not share our secret"]);
    a.weaved().wait_for_problem(&[&b.ipv4().to_string(), "secret"]);
    assert!(a.weaved().counter("drop_handshake_stranger") > 0);
    for host in [&a, &b] {
        assert!(host.weaved().connected_peers().is_empty());
    }
}

#[test]
fn replayed_duplicated_and_flipped_datagrams_are_dropped_and_counted() {
    let Some(mut lab) = Lab::open("tamper") else { return };
    let a = lab.host_on("a", Link { mtu: 1500, wiring: Wiring::Wire });
    let b = lab.host("b");
    lab.launch_cluster(&[&a, &b]);
    let (from, to) = (a.overlay_guest(2, 1500), b.overlay_guest(2, 1500));
    traffic::wait_for_ping(&from, to.address());
    let address = to.address().to_string();
    let tamper = Impairment { flip: 0.02, replay: 0.1, duplicate: 0.1, ..Impairment::default() };
    a.wire().impair(&tamper);
    let flood = traffic::Flood::start(&from, &to, &address);
    traffic::check_udp_sizes(&from, &to, &address, 3000);
    traffic::check_tcp(&from, &to, &address, 2 << 20);
    let report = flood.finish();
    assert_eq!(report.repeated, 0, "a copy was delivered: {report:?}");
    for (host, direction) in [(&b, Direction::FromHost), (&a, Direction::ToHost)] {
        let counts = a.wire().counts(direction);
        assert!(counts.flipped > 0 && counts.replayed > 0 && counts.duplicated > 0, "{counts:?}");
        let copies = || host.weaved().counter("drop_replayed") + host.weaved().counter("drop_too_old");
        wait_until("the copies are counted", SOON, || copies() > 0);
        wait_until("the forgeries are counted", SOON, || host.weaved().counter("drop_forged") > 0);
    }
}

#[test]
fn traffic_passes_a_path_that_loses_reorders_and_duplicates() {
    let impairment = Impairment {
        delay: Duration::from_millis(5),
        jitter: Duration::from_micros(500),
        loss: 0.05,
        reorder: 0.05,
        duplicate: 0.02,
        ..Impairment::default()
    };
    check_path("bad", &impairment, 500_000);
}

#[test]
fn frames_survive_a_path_where_most_datagrams_overtake_others() {
    let jitter = Duration::from_millis(5);
    check_path("jitter", &Impairment { delay: jitter, jitter, ..Impairment::default() }, 500_000);
}

/// A cluster that is formed over the impaired path, and a stream each way.
fn check_path(name: &str, impairment: &Impairment, bytes: u64) {
    let Some(mut lab) = Lab::open(name) else { return };
    let a = lab.host_on("a", Link { mtu: 1500, wiring: Wiring::Wire });
    let b = lab.host("b");
    a.wire().impair(impairment);
    lab.launch_cluster(&[&a, &b]);
    let (from, to) = (a.overlay_guest(2, 1500), b.overlay_guest(2, 1500));
    traffic::wait_for_ping(&from, to.address());
    if impairment.loss == 0.0 {
        assert_no_large_ping_is_lost(&from, &to);
    }
    traffic::check_tcp(&from, &to, &to.address().to_string(), bytes);
    traffic::check_tcp(&to, &from, &from.address().to_string(), bytes);
}

/// Packets of the full size, so far apart that none meets another: each is in more than one datagram.
fn assert_no_large_ping_is_lost(from: &Guest, to: &Guest) {
    let pings = ["ping", "-q", "-c", "40", "-i", "0.05", "-W", "3", "-s", "1472"];
    let output = from.run(&[&pings, [to.address().to_string().as_str()].as_slice()].concat());
    assert!(output.stdout.contains(" 0% packet loss"), "{output}");
}

#[test]
fn frames_survive_a_slow_link() {
    let Some(mut lab) = Lab::open("slow") else { return };
    let (a, b) = (lab.host("a"), lab.host("b"));
    // A full-size packet takes 6 ms, so that the pieces of one frame arrive far apart.
    let rate = ["tbf", "rate", "2mbit", "burst", "3kb", "latency", "300ms"];
    for host in [&a, &b] {
        host.run(&[["tc", "qdisc", "add", "dev", "eth0", "root"].as_slice(), &rate].concat()).ok();
    }
    lab.launch_cluster(&[&a, &b]);
    let (from, to) = (a.overlay_guest(2, 1500), b.overlay_guest(2, 1500));
    traffic::wait_for_ping(&from, to.address());
    let _server = traffic::serve(&to, &["tcp-serve", "5201"]);
    // The link needs two seconds for this.
    from.run_labtool(SOON, &["tcp-send", &to.address().to_string(), "5201", "500000", "7"]).ok();
}

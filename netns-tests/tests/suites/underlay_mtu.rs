//! Container MTU is nobody's problem: guests at usual and unusual MTUs over underlays of all sizes.

use weaved_netns_tests::{Direction, Guest, Host, Impairment, Lab, Link, Place, SOON, Wiring, traffic, wait_until};

/// Whole packets up to the guests' MTU that may not be fragmented, fragmented ones up to 60,000 bytes, and a stream.
fn check_all_sizes(from: &Guest, to: &Guest, mtu: u16) {
    traffic::wait_for_ping(from, to.address());
    let address = to.address().to_string();
    let largest = (mtu - 28).to_string();
    wait_until("the largest packet of the guests' MTU passes", SOON, || {
        from.run(&["ping", "-M", "do", "-c", "1", "-W", "1", "-s", &largest, &address]).success()
    });
    traffic::check_udp_sizes(from, to, &address, 60_000);
    traffic::check_tcp(from, to, &address, 8 << 20);
    traffic::check_tcp(to, from, &from.address().to_string(), 8 << 20);
}

fn path_mtu(host: &Host) -> u64 {
    let peers = host.weaved().connected_peers();
    peers.first().and_then(|peer| peer["session"]["path_mtu"].as_u64()).unwrap_or(0)
}

fn check_underlay(name: &str, links: [u16; 2], guest_mtu: u16) {
    let Some(mut lab) = Lab::open(name) else { return };
    let [a, b] = [("a", links[0]), ("b", links[1])]
        .map(|(name, mtu)| lab.host_on(name, Link { mtu, wiring: Wiring::PlainVeth }));
    lab.launch_cluster(&[&a, &b]);
    let (from, to) = (a.overlay_guest(2, guest_mtu), b.overlay_guest(2, guest_mtu));
    check_all_sizes(&from, &to, guest_mtu);
    let smallest = u64::from(links[0].min(links[1]));
    wait_until("the path MTU is found", SOON, || path_mtu(&a) == smallest && path_mtu(&b) == smallest);
}

#[test]
fn guests_at_1500_over_an_underlay_of_1500() {
    check_underlay("m1500", [1500, 1500], 1500);
}

#[test]
fn guests_at_1500_over_an_underlay_of_1400() {
    check_underlay("m1400", [1400, 1400], 1500);
}

#[test]
fn guests_at_1500_over_an_underlay_of_1280() {
    check_underlay("m1280", [1280, 1280], 1500);
}

#[test]
fn guests_at_9000_over_links_of_different_size_that_say_nothing() {
    check_underlay("mixed", [1500, 1280], 9000);
}

#[test]
fn a_jumbo_underlay_is_found_and_used_for_longer_datagrams() {
    let Some(mut lab) = Lab::open("jumbo") else { return };
    let [a, b] = ["a", "b"].map(|name| lab.host_on(name, Link { mtu: 9000, wiring: Wiring::Veth }));
    lab.launch_cluster(&[&a, &b]);
    let (from, to) = (a.overlay_guest(2, 1500), b.overlay_guest(2, 1500));
    traffic::wait_for_ping(&from, to.address());
    wait_until("the path MTU is found", SOON, || path_mtu(&a) == 9000 && path_mtu(&b) == 9000);
    let screen = a.weaved().run(&["status", "connections"]).ok().stdout;
    assert!(screen.contains(" 9000 "), "the path MTU is shown: {screen}");

    let bytes = 16 << 20;
    let before = a.weaved().counter("datagrams_out");
    traffic::check_tcp(&from, &to, &to.address().to_string(), bytes);
    let datagrams = a.weaved().counter("datagrams_out") - before;
    assert!(datagrams < bytes / 6000, "{datagrams} datagrams for {bytes} bytes");
    check_all_sizes(&from, &to, 1500);
}

#[test]
fn links_that_become_smaller_are_believed_at_once() {
    let Some(mut lab) = Lab::open("lower") else { return };
    let (a, b) = (lab.host("a"), lab.host("b"));
    lab.launch_cluster(&[&a, &b]);
    let (from, to) = (a.overlay_guest(2, 1500), b.overlay_guest(2, 1500));
    check_all_sizes(&from, &to, 1500);
    wait_until("the path MTU is found", SOON, || path_mtu(&a) == 1500);
    for host in [&a, &b] {
        host.ip(&["link", "set", "eth0", "mtu", "1400"]);
    }
    // The kernel refuses what is too long, so nothing has to be lost in silence first.
    check_all_sizes(&from, &to, 1500);
    wait_until("the lower path MTU is found", SOON, || path_mtu(&a) == 1400 && path_mtu(&b) == 1400);
    for host in [&a, &b] {
        assert!(host.weaved().counter("drop_underlay_too_big") > 0);
        assert_eq!(host.weaved().counter("udp_gso_refused"), 0, "trains go on");
    }
}

#[test]
fn a_path_that_shrinks_and_grows_while_in_use() {
    let Some(mut lab) = Lab::open("shrink") else { return };
    let a = lab.host_on("a", Link { mtu: 1500, wiring: Wiring::Wire });
    let b = lab.host("b");
    lab.launch_cluster(&[&a, &b]);
    let (from, to) = (a.overlay_guest(2, 1500), b.overlay_guest(2, 1500));
    check_all_sizes(&from, &to, 1500);
    let address = to.address().to_string();

    let server = traffic::serve(&to, &["tcp-serve", "5201"]);
    let transfer = from.spawn_labtool(&["tcp-send", &address, "5201", "100000000", "7"]);
    let passed = || a.wire().counts(Direction::FromHost).received;
    let begun = passed();
    wait_until("the transfer is under way", SOON, || passed() > begun + 2000);
    a.wire().impair(&Impairment { mtu: 1300, ..Impairment::default() });
    transfer.finish(6 * SOON).ok();
    drop(server);
    check_all_sizes(&from, &to, 1500);
    assert!(a.wire().counts(Direction::FromHost).too_large > 0, "the wire never had to drop anything");
    assert!(path_mtu(&a) <= 1300, "path MTU {}", path_mtu(&a));

    a.wire().impair(&Impairment::default());
    check_all_sizes(&from, &to, 1500);
}

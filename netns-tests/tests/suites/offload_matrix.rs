//! The same traffic with every offload switch in every position, the same on both hosts and opposite ones; and a tunnel that
//! no offload is for.

use std::sync::Arc;

use weaved_netns_tests::{Guest, Host, Lab, Place as _, SOON, traffic, wait_until};

const SWITCHES: [&str; 3] = ["tap-offload", "udp-gso", "udp-gro"];

/// One position of all switches: a bit for each, in their order.
#[derive(Clone, Copy)]
struct Position(u8);

impl Position {
    const COUNT: usize = 1 << SWITCHES.len();

    /// The second half are the opposites of the first.
    fn all() -> impl Iterator<Item = Self> {
        (0..Self::COUNT as u8).map(Self)
    }

    fn opposite(self) -> Self {
        Self(!self.0)
    }

    fn word(self, switch: usize) -> &'static str {
        if self.0 >> switch & 1 == 1 { "on" } else { "off" }
    }
}

/// Restarts weaved with these switches and waits until they are in force.
fn relaunch(host: &Host, position: Position) {
    let words: Vec<&str> = (0..SWITCHES.len()).map(|switch| position.word(switch)).collect();
    host.weaved().run(&["stop"]).ok();
    let [tap, gso, gro] = [words[0], words[1], words[2]];
    host.weaved().launch(&["--tap-offload", tap, "--udp-gso", gso, "--udp-gro", gro]);
    let what = format!("the switches {words:?} of {SWITCHES:?} are in force");
    wait_until(&what, SOON, || {
        let status = host.weaved().status().unwrap_or_default();
        let device = &status["dataplane"]["stats"]["device"];
        let in_force = |(switch, word): (&str, &&str)| {
            let feature = &device[switch.replace('-', "_")];
            feature["switch"] == **word && feature["force"] == **word
        };
        SWITCHES.into_iter().zip(&words).all(in_force)
    });
}

#[test]
fn every_kind_of_traffic_passes_with_every_switch_in_every_position() {
    let Some(mut lab) = Lab::open_alone("matrix") else { return };
    let hosts: [Arc<Host>; 2] = [lab.host("a"), lab.host("b")];
    let [a, b] = [&*hosts[0], &*hosts[1]];
    lab.launch_cluster(&[a, b]);
    let (in_a, in_b) = (a.overlay_guest(2, 1500), b.overlay_guest(2, 1500));
    // Traffic goes both ways, so opposite positions need to be met one way round only.
    for position in Position::all().take(Position::COUNT / 2) {
        std::thread::scope(|scope| {
            scope.spawn(|| relaunch(a, position));
            relaunch(b, position);
        });
        traffic::check_both_ways(&in_a, &in_b, 4 << 20);
        relaunch(b, position.opposite());
        traffic::check_both_ways(&in_a, &in_b, 4 << 20);
        relaunch(a, position.opposite());
        traffic::check_both_ways(&in_a, &in_b, 4 << 20);
    }
}

/// Restarts weaved with this switch and waits until it is in force.
fn switch_tap_offload(host: &Host, word: &str) {
    host.weaved().run(&["stop"]).ok();
    host.weaved().launch(&["--tap-offload", word]);
    wait_until(&format!("tap-offload of {} is {word}", host.name()), SOON, || {
        let status = host.weaved().status().unwrap_or_default();
        let feature = &status["dataplane"]["stats"]["device"]["tap_offload"];
        feature["switch"] == word && feature["force"] == if word == "off" { "off" } else { "on" }
    });
}

/// Packets whose checksum the kernel has found wrong in there: of ICMP, TCP, UDP, and of their relatives over IPv6.
fn wrong_checksums(guest: &Guest) -> u64 {
    let text = guest.run(&["nstat", "-asz"]).ok().stdout;
    let words = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let counts = words.filter(|words| words.first().is_some_and(|name| name.ends_with("InCsumErrors")));
    let counts: Vec<u64> = counts.map(|words| words[1].parse().expect("a counter is a number")).collect();
    assert!(counts.len() >= 5, "{text}");
    counts.iter().sum()
}

/// As with an overlay inside of containers: no TAP can be told of a super-frame in a tunnel, so the kernel segments it, and a
/// checksum that is unfinished inside is weaved's to finish.
#[test]
fn a_tunnel_between_two_containers_carries_large_segments_with_tap_offload_or_without() {
    let Some(mut lab) = Lab::open("tunnel") else { return };
    let (a, b) = (lab.host("a"), lab.host("b"));
    lab.launch_cluster(&[&a, &b]);
    let (from, to) = (a.overlay_guest(2, 1500), b.overlay_guest(2, 1500));
    for (on_a, on_b) in [("auto", "auto"), ("off", "auto"), ("off", "off")] {
        switch_tap_offload(&a, on_a);
        switch_tap_offload(&b, on_b);
        traffic::wait_for_ping(&from, to.address());
        for outer_checksum in ["noudpcsum", "udpcsum"] {
            for (guest, other, address) in [(&from, &to, "172.30.0.1/24"), (&to, &from, "172.30.0.2/24")] {
                let remote = other.address().to_string();
                let tunnel = ["type", "vxlan", "id", "7", "dstport", "4789", "remote", &remote, outer_checksum];
                guest.ip(&[&["link", "add", "vx0", "mtu", "1450"], tunnel.as_slice()].concat());
                guest.ip(&["addr", "add", address, "dev", "vx0"]);
                guest.ip(&["link", "set", "vx0", "up"]);
            }
            traffic::check_tcp(&from, &to, "172.30.0.2", 16 << 20);
            traffic::check_tcp(&to, &from, "172.30.0.1", 16 << 20);
            traffic::check_udp_sizes(&from, &to, "172.30.0.2", 60_000);
            for guest in [&from, &to] {
                let wrong = wrong_checksums(guest);
                assert_eq!(wrong, 0, "{} with tap-offload {on_a} and {on_b}, {outer_checksum}", guest.name());
                guest.ip(&["link", "del", "vx0"]);
            }
        }
    }
}

#[test]
fn trains_that_are_lost_in_silence_leave_datagram_by_datagram() {
    let Some(mut lab) = Lab::open("lost-trains") else { return };
    let (a, b) = (lab.host("a"), lab.host("b"));
    lab.launch_cluster(&[&a, &b]);
    let (from, to) = (a.overlay_guest(2, 1500), b.overlay_guest(2, 1500));
    traffic::wait_for_ping(&from, to.address());
    let address = to.address().to_string();
    traffic::check_tcp(&from, &to, &address, 8 << 20);
    // On a veth a send of several is one long packet: it vanishes, as if a card had damaged each datagram of it.
    let is_long = ["-m", "length", "--length", "2000:65535", "-j", "DROP"];
    b.run(&[&["iptables", "-t", "raw", "-A", "PREROUTING", "-p", "udp"], is_long.as_slice()].concat()).ok();
    // A transfer may end in the middle of the trial, which then waits for the next.
    wait_until("trains in one send are given up", 3 * SOON, || {
        traffic::check_tcp(&from, &to, &address, 32 << 20);
        a.weaved().counter("udp_gso_given_up") == 1
    });
    let screen = |name| a.weaved().run(&["status", name]).ok().stdout;
    assert!(screen("connections").contains(", no gso"), "{}", screen("connections"));
    let dataplane = screen("dataplane");
    let line = dataplane.lines().find(|line| line.starts_with("udp-gso")).unwrap_or_default();
    assert!(line.contains("partly on (switch: auto): lost on the way to b"), "{line}");
}

#[test]
fn switches_are_remembered_shown_and_told_when_they_change() {
    let Some(mut lab) = Lab::open("switches") else { return };
    let a = lab.host("a");
    a.weaved().launch(&["--udp-gso", "off"]);
    a.weaved().run(&["stop"]).ok();
    let said = a.weaved().launch(&["--tap-offload", "off"]).stdout;
    assert!(said.contains("tap-offload is off, was auto"), "{said}");
    wait_until("the data plane tells of its devices", SOON, || {
        let screen = a.weaved().run(&["status", "dataplane"]).ok().stdout;
        let line = |name: &str| screen.lines().find(|line| line.starts_with(name)).unwrap_or_default().to_owned();
        line("tap-offload").ends_with("off (switch: off): switched off")
            && line("udp-gso").ends_with("off (switch: off): switched off")
            && line("udp-gro").contains("on (switch: auto)")
    });
    let refused = a.weaved().run(&["launch", "--udp-gro", "maybe"]);
    assert!(refused.stderr.contains("choose auto, on or off"), "{refused}");
}

//! The same traffic with every offload switch in every position, the same on both hosts and opposite ones.

use std::sync::Arc;

use weaved_netns_tests::{Guest, Host, Lab, SOON, traffic, wait_until};

const SWITCHES: [&str; 3] = ["tap-offload", "udp-gso", "udp-gro"];

/// One position of all switches: a bit for each, in their order.
#[derive(Clone, Copy)]
struct Position(u8);

impl Position {
    fn all() -> impl Iterator<Item = Self> {
        (0..1 << SWITCHES.len()).map(Self)
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

/// Streams both ways, datagrams of all sizes, and one to all.
fn check_traffic(a: &Guest, b: &Guest) {
    traffic::wait_for_ping(a, b.address());
    for (from, to) in [(a, b), (b, a)] {
        let address = to.address().to_string();
        traffic::check_tcp(from, to, &address, 4 << 20);
        traffic::check_udp_sizes(from, to, &address, 60_000);
    }
    traffic::check_broadcast(a, &[b], "10.47.255.255");
}

#[test]
fn every_kind_of_traffic_passes_with_every_switch_in_every_position() {
    let Some(mut lab) = Lab::open("matrix") else { return };
    let hosts: [Arc<Host>; 2] = [lab.host("a"), lab.host("b")];
    let [a, b] = [&*hosts[0], &*hosts[1]];
    lab.launch_cluster(&[a, b]);
    let (in_a, in_b) = (a.overlay_guest(2, 1500), b.overlay_guest(2, 1500));
    for position in Position::all() {
        relaunch(a, position);
        for other in [position, position.opposite()] {
            relaunch(b, other);
            check_traffic(&in_a, &in_b);
        }
    }
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

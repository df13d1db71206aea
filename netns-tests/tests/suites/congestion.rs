//! Congestion marks (RFC 6040): what containers say reaches the underlay, and what the underlay says reaches them.

use std::collections::BTreeSet;

use weaved_netns_tests::{Guest, Host, Lab, Place, traffic};

/// The two bits of an IP header.
const NOT_CAPABLE: u8 = 0;
const CAPABLE_1: u8 = 1;
const CAPABLE_0: u8 = 2;
const CONGESTED: u8 = 3;

const IP: usize = 14;
const UDP: u8 = 17;
const WEAVED_PORT: u16 = 6783;
/// Only pings as long as these count: nothing else on the underlay is.
const PING_BYTES: usize = 700;

/// Marks of the IPv4 packets among the frames that `is_wanted` says yes to, by protocol and packet.
fn marks(frames: &[Vec<u8>], is_wanted: impl Fn(u8, &[u8]) -> bool) -> BTreeSet<u8> {
    let packets = frames.iter().filter(|frame| frame[12..14] == [8, 0] && frame[IP] == 0x45).map(|frame| &frame[IP..]);
    packets.filter(|packet| is_wanted(packet[9], packet)).map(|packet| packet[1] & 3).collect()
}

fn is_echo_request(protocol: u8, packet: &[u8]) -> bool {
    protocol == 1 && packet[20] == 8
}

fn is_sealed_ping(protocol: u8, packet: &[u8]) -> bool {
    protocol == UDP
        && packet[22..24] == WEAVED_PORT.to_be_bytes()
        && (PING_BYTES..PING_BYTES + 200).contains(&packet.len())
}

/// Pings with this mark; the packets that were answered.
fn ping(from: &Guest, to: &Guest, mark: u8) -> usize {
    let (mark, size, address) = (mark.to_string(), PING_BYTES.to_string(), to.address().to_string());
    let said = from.run(&["ping", "-Q", &mark, "-s", &size, "-c", "3", "-i", "0.1", "-W", "1", &address]).stdout;
    said.lines().filter(|line| line.contains("bytes from")).count()
}

/// Has the host mark everything that it sends to other hosts as a congested router does.
fn congest(host: &Host) {
    host.run(&["iptables", "-t", "mangle", "-A", "OUTPUT", "-p", "udp", "-j", "TOS", "--or-tos", "3"]).ok();
}

#[test]
fn the_mark_of_a_container_is_on_the_underlay_and_arrives() {
    let Some(mut lab) = Lab::open_alone("marks") else { return };
    let (a, b) = (lab.host("a"), lab.host("b"));
    lab.launch_cluster(&[&a, &b]);
    let (from, to) = (a.overlay_guest(2, 1500), b.overlay_guest(2, 1500));
    traffic::wait_for_ping(&from, to.address());
    for mark in [NOT_CAPABLE, CAPABLE_0, CAPABLE_1, CONGESTED] {
        let underlay = lab.capture(&a, &format!("underlay-{mark}.pcap"));
        let inside = to.capture(&lab.dir().join(format!("inside-{mark}.pcap")));
        assert!(ping(&from, &to, mark) > 0, "mark {mark}");
        // An answer has the mark of its question.
        assert_eq!(marks(&underlay.finish(), is_sealed_ping), [mark].into(), "on the underlay");
        assert_eq!(marks(&inside.finish(), is_echo_request), [mark].into(), "in the container");
    }
}

#[test]
fn a_mark_of_the_underlay_reaches_those_who_understand_it_and_drops_the_others() {
    let Some(mut lab) = Lab::open_alone("congested") else { return };
    let (a, b) = (lab.host("a"), lab.host("b"));
    lab.launch_cluster(&[&a, &b]);
    let (from, to) = (a.overlay_guest(2, 1500), b.overlay_guest(2, 1500));
    traffic::wait_for_ping(&from, to.address());
    congest(&a);
    for mark in [CAPABLE_0, CAPABLE_1, CONGESTED] {
        let inside = to.capture(&lab.dir().join(format!("inside-{mark}.pcap")));
        assert!(ping(&from, &to, mark) > 0, "mark {mark}");
        assert_eq!(marks(&inside.finish(), is_echo_request), [CONGESTED].into(), "sent with {mark}");
    }
    let dropped = || b.weaved().counter("drop_marked_not_capable");
    let before = dropped();
    assert_eq!(ping(&from, &to, NOT_CAPABLE), 0);
    assert!(dropped() >= before + 3);
    assert!(!b.weaved().connected_peers().is_empty(), "a mark ends no session");
}

//! The programs in the kernel: which frames skip the bridge, told by what the programs count.

use std::{fs::File, os::fd::OwnedFd};

use weaved_api::{MacAddr, Switch};
use weaved_core::wire::ethernet::ethertype::IPV4;

use super::programs::{Passage, Programs, Scope, Whereabouts, key};
use crate::{
    netlink::Netlink,
    tap::{Tap, VNET_HEADER_LEN},
    testing::{Namespace, in_namespace},
};

/// Behind the TAP.
const REMOTE: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
/// In a container at the end of a cable.
const LOCAL: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
/// At a port whose frames the test sends: another TAP.
const AT_PORT: MacAddr = MacAddr([2, 0, 0, 0, 0, 3]);
const STRANGER: MacAddr = MacAddr([2, 0, 0, 0, 0, 9]);

const MAX_FRAME_LEN: u32 = 1514;

#[test]
fn the_verifier_takes_the_programs() {
    let programs = Programs::load().unwrap_or_else(|error| panic!("{error}\n{}", Programs::complaint()));
    assert_eq!((programs.to_container_count(), programs.to_tap_count()), (0, 0));
}

/// A TAP and a port with the programs on them.
struct Stage {
    programs: Programs,
    tap: Tap,
    port: Tap,
    _links: [OwnedFd; 2],
}

impl Stage {
    fn set(container: &File, ipv6: Passage) -> Self {
        let programs = Programs::load().unwrap();
        let [tap, port] = ["tap", "port"].map(|name| Tap::open(name, Switch::Auto).unwrap());
        let mut netlink = Netlink::open().unwrap();
        netlink.create_cable("box", container).unwrap();
        let [tap_index, port_index, cable] = ["tap", "port", "box"].map(|name| {
            let index = netlink.link(name).unwrap().unwrap().index;
            netlink.set_up(index).unwrap();
            index
        });
        let range = "10.32.0.0/12".parse().unwrap();
        programs.set_scope(Scope { range, ipv6 }).unwrap();
        let at = |device, max_frame_len| Whereabouts { device, max_frame_len }.emit();
        programs.remote.insert(&key(REMOTE), &at(tap_index, 0)).unwrap();
        programs.local.insert(&key(LOCAL), &at(cable, MAX_FRAME_LEN)).unwrap();
        programs.local.insert(&key(AT_PORT), &at(port_index, MAX_FRAME_LEN)).unwrap();
        let links = [programs.attach_to_tap(tap_index).unwrap(), programs.attach_to_port(port_index).unwrap()];
        Self { programs, tap, port, _links: links }
    }

    /// Whether a frame that comes in by the TAP goes straight into the container.
    fn enters(&self, frame: &[u8]) -> bool {
        let before = self.programs.to_container_count();
        self.tap.first().write_frame(&[0; VNET_HEADER_LEN], frame).unwrap();
        self.programs.to_container_count() > before
    }

    /// Whether a frame that comes in by the port goes straight to the TAP.
    fn leaves(&self, frame: &[u8]) -> bool {
        let before = self.programs.to_tap_count();
        self.port.first().write_frame(&[0; VNET_HEADER_LEN], frame).unwrap();
        self.programs.to_tap_count() > before
    }
}

/// Runs a test on a stage, with a container in a namespace of its own.
fn on_stage(ipv6: Passage, test: impl FnOnce(&Stage) + Send + 'static) {
    let container = Namespace::new();
    let file = container.run(|| File::open("/proc/thread-self/ns/net").unwrap());
    // The far end has to be up, or there is nowhere to go.
    in_namespace(move || {
        let stage = Stage::set(&file, ipv6);
        container.run(|| {
            let mut netlink = Netlink::open().unwrap();
            let index = netlink.link("box").unwrap().unwrap().index;
            netlink.set_up(index).unwrap();
        });
        test(&stage);
    });
}

/// A frame with the beginning of an IPv4 packet between these two.
fn frame(to: MacAddr, from: MacAddr, [source, destination]: [[u8; 4]; 2], len: usize) -> Vec<u8> {
    let mut frame = [to.0, from.0].concat();
    frame.extend(IPV4.to_be_bytes());
    frame.extend([0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0]);
    frame.extend([source, destination].concat());
    frame.resize(len, 0);
    frame
}

const INSIDE: [[u8; 4]; 2] = [[10, 32, 0, 2], [10, 47, 255, 254]];

fn usual(to: MacAddr, from: MacAddr) -> Vec<u8> {
    frame(to, from, INSIDE, 64)
}

#[test]
fn a_frame_skips_the_bridge_only_if_both_addresses_are_where_they_are_known() {
    on_stage(Passage::Bridge, |stage| {
        assert!(stage.enters(&usual(LOCAL, REMOTE)));
        assert!(stage.leaves(&usual(REMOTE, AT_PORT)));
        // The bridge has to learn where the source is: it is new, or it has moved here.
        assert!(!stage.enters(&usual(LOCAL, STRANGER)));
        assert!(!stage.enters(&usual(LOCAL, AT_PORT)));
        assert!(!stage.leaves(&usual(REMOTE, STRANGER)));
        assert!(!stage.leaves(&usual(REMOTE, LOCAL)), "that one is known at another port");
        // It has to flood, or to find another way.
        assert!(!stage.enters(&usual(STRANGER, REMOTE)));
        assert!(!stage.enters(&usual(MacAddr([0xff; 6]), REMOTE)));
        assert!(!stage.leaves(&usual(LOCAL, AT_PORT)));
        assert!(!stage.leaves(&usual(MacAddr([0xff; 6]), AT_PORT)));
    });
}

#[test]
fn packets_that_the_rules_were_not_judged_for_pass_the_bridge() {
    on_stage(Passage::Bridge, |stage| {
        let [inside, other] = INSIDE;
        for packet in [[inside, [192, 0, 2, 1]], [[10, 48, 0, 1], other], [[10, 31, 255, 255], other]] {
            assert!(!stage.enters(&frame(LOCAL, REMOTE, packet, 64)), "{packet:?}");
            assert!(!stage.leaves(&frame(REMOTE, AT_PORT, packet, 64)), "{packet:?}");
        }
        // ARP, a VLAN tag, IPv6 where it may not.
        for ether_type in [0x0806_u16, 0x8100, 0x88a8, 0x86dd] {
            let mut odd = usual(LOCAL, REMOTE);
            odd[12..14].copy_from_slice(&ether_type.to_be_bytes());
            assert!(!stage.enters(&odd), "{ether_type:#x}");
        }
        assert!(!stage.enters(&usual(LOCAL, REMOTE)[..33]), "half a header");
    });
}

#[test]
fn ipv6_skips_the_bridge_where_it_may() {
    on_stage(Passage::Free, |stage| {
        let mut packet = usual(LOCAL, REMOTE);
        packet[12..14].copy_from_slice(&0x86dd_u16.to_be_bytes());
        assert!(stage.enters(&packet));
    });
}

#[test]
fn a_frame_too_long_for_the_container_is_for_the_bridge_to_drop() {
    on_stage(Passage::Bridge, |stage| {
        assert!(stage.enters(&frame(LOCAL, REMOTE, INSIDE, MAX_FRAME_LEN as usize)));
        assert!(!stage.enters(&frame(LOCAL, REMOTE, INSIDE, MAX_FRAME_LEN as usize + 1)));
    });
}

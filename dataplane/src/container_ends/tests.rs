//! The limits of containers' ends, set and taken back in namespaces with real bridges and pairs.

use std::{fs::File, thread, time::Duration};

use super::*;
use crate::{netlink::pair::GsoLimit, testing::Namespace};

const PATIENCE: Duration = Duration::from_secs(20);
/// What the kernel gives a new device.
const USUAL: GsoLimit = GsoLimit { any: 65_536, ipv4: Some(65_536) };

/// A host with a bridge of ours on it.
fn host() -> Namespace {
    let host = Namespace::new();
    host.run(|| {
        let mut netlink = Netlink::open().unwrap();
        netlink.create_bridge("weave", weaved_api::MacAddr([2, 0, 0, 0, 0, 1])).unwrap();
        let index = netlink.link("weave").unwrap().unwrap().index;
        netlink.set_alias(index, MARK).unwrap();
    });
    host
}

/// Plugs a namespace into the bridge, as a container is. Some other devices lie before its `eth0`, so that numbers differ.
fn plug(host: &Namespace, container: &Namespace, port: &'static str) {
    let end = container.run(|| {
        let mut netlink = Netlink::open().unwrap();
        netlink.create_bridge("other", weaved_api::MacAddr([2, 0, 0, 0, 0, 2])).unwrap();
        File::open("/proc/thread-self/ns/net").unwrap()
    });
    host.run(move || {
        let mut netlink = Netlink::open().unwrap();
        netlink.create_cable(port, &end).unwrap();
        let bridge = netlink.link("weave").unwrap().unwrap().index;
        let index = netlink.link(port).unwrap().unwrap().index;
        netlink.set_controller(index, bridge).unwrap();
    });
}

fn limit_of(namespace: &Namespace, device: &'static str) -> GsoLimit {
    namespace.run(move || {
        let mut netlink = Netlink::open().unwrap();
        let index = netlink.link(device).unwrap().unwrap().index;
        netlink.gso_limit(index, None).unwrap()
    })
}

fn set_limit(namespace: &Namespace, device: &'static str, limit: GsoLimit) {
    namespace.run(move || {
        let mut netlink = Netlink::open().unwrap();
        let index = netlink.link(device).unwrap().unwrap().index;
        netlink.set_gso_limit(index, limit).unwrap();
    });
}

fn start(host: &Namespace, switch: Switch) -> ContainerEnds {
    host.run(move || ContainerEnds::start(switch, "weave").unwrap())
}

#[track_caller]
fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

fn counts(ends: &ContainerEnds) -> [u64; 3] {
    let counters = ends.counters();
    [0, 1, 2].map(|at| counters[at].value)
}

#[test]
fn a_container_is_limited_when_it_comes_and_nothing_else_about_it_changes() {
    let (host, before, after) = (host(), Namespace::new(), Namespace::new());
    plug(&host, &before, "p1");
    let ends = start(&host, Switch::Auto);
    wait_until("the container that was there is limited", || limit_of(&before, "p1").any == LIMIT);
    plug(&host, &after, "p2");
    wait_until("the new container is limited", || limit_of(&after, "p2").any == LIMIT);
    wait_until("both are counted", || counts(&ends) == [2, 0, 0]);
    assert_eq!(limit_of(&after, "p2"), GsoLimit { any: LIMIT, ipv4: Some(LIMIT) });
    assert_eq!(limit_of(&after, "other"), USUAL, "other devices of a container are its own");
    assert_eq!(limit_of(&host, "p2"), USUAL, "the port does not make super-frames");
    assert_eq!(limit_of(&host, "weave").any, LIMIT, "the host itself does, through the bridge");
    let status = ends.status();
    assert_eq!(
        (status.force, status.reason.as_str()),
        (Force::On, "containers limited to 63600 bytes a frame: 2, below by themselves: 0")
    );
}

#[test]
fn a_smaller_limit_is_kept_and_a_later_one_is_the_last_word() {
    let (host, small, large) = (host(), Namespace::new(), Namespace::new());
    plug(&host, &small, "p1");
    let own = GsoLimit { any: 20_000, ipv4: Some(10_000) };
    set_limit(&small, "p1", own);
    let ends = start(&host, Switch::Auto);
    wait_until("it is counted as one that is kept", || counts(&ends) == [0, 1, 0]);
    plug(&host, &large, "p2");
    wait_until("the other one is limited", || counts(&ends) == [1, 1, 0]);
    set_limit(&large, "p2", USUAL);
    // A third container makes the thread look at all again.
    let third = Namespace::new();
    plug(&host, &third, "p3");
    wait_until("the third one is limited", || counts(&ends) == [2, 1, 0]);
    assert_eq!((limit_of(&small, "p1"), limit_of(&large, "p2")), (own, USUAL));
    assert!(ends.status().reason.ends_with(", below by themselves: 1"), "{:?}", ends.status());
}

#[test]
fn one_part_that_is_smaller_is_not_raised_when_the_other_is_lowered() {
    let (host, container) = (host(), Namespace::new());
    plug(&host, &container, "p1");
    set_limit(&container, "p1", GsoLimit { any: 65_536, ipv4: Some(10_000) });
    let ends = start(&host, Switch::Auto);
    wait_until("it is limited", || counts(&ends) == [1, 0, 0]);
    assert_eq!(limit_of(&container, "p1"), GsoLimit { any: LIMIT, ipv4: Some(10_000) });
}

#[test]
fn switched_off_it_does_nothing_and_a_bridge_of_others_is_left_alone() {
    let (host, container) = (host(), Namespace::new());
    plug(&host, &container, "p1");
    let off = start(&host, Switch::Off);
    assert_eq!((off.status().force, off.status().reason.as_str()), (Force::Off, "switched off"));
    host.run(|| {
        let mut netlink = Netlink::open().unwrap();
        let index = netlink.link("weave").unwrap().unwrap().index;
        netlink.set_alias(index, "somebody's").unwrap();
    });
    let ends = start(&host, Switch::Auto);
    wait_until("it has looked", || ends.status().reason == "there is no bridge yet");
    assert_eq!((limit_of(&container, "p1"), limit_of(&host, "weave")), (USUAL, USUAL));
    assert_eq!(counts(&ends), [0, 0, 0]);
}

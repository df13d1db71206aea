//! Three Docker hosts, the third of which is told of one of the others only.

use std::{collections::BTreeSet, sync::Arc};

use weaved_netns_tests::{Container, Host, Lab, SOON, start_dockers, traffic, wait_until};

/// Three connected hosts; `c` has been told of `b` only.
fn introduced_by_b(lab: &mut Lab) -> [Arc<Host>; 3] {
    let hosts = [lab.host("a"), lab.host("b"), lab.host("c")];
    let [a, b, c] = &hosts;
    a.weaved().launch(&[]);
    b.weaved().join(a.weaved(), a.ipv4());
    c.weaved().join(a.weaved(), b.ipv4());
    for host in &hosts {
        host.weaved().wait_for_peers(2);
    }
    hosts
}

#[test]
fn third_host_is_learned_by_gossip_and_its_traffic_is_direct() {
    let Some(mut lab) = Lab::open("three") else { return };
    let hosts = introduced_by_b(&mut lab);
    let [_, b, _] = &hosts;
    let dockerds = start_dockers(hosts.each_ref().map(|host| &**host));
    let containers: Vec<Container> =
        dockerds.iter().flat_map(|docker| [docker.idle_container("one"), docker.idle_container("two")]).collect();
    let addresses: BTreeSet<_> = containers.iter().map(Container::address).collect();
    assert_eq!(addresses.len(), 6, "addresses are unique: {addresses:?}");

    for from in containers.iter().step_by(2) {
        for to in &containers {
            traffic::wait_for_ping(from, to.address());
        }
    }
    let (from, to) = (&containers[0], &containers[4]);
    let bystander = lab.capture(b, "bystander.pcap");
    traffic::check_tcp(from, to, &to.address().to_string(), 64 << 20);
    let passed: usize = bystander.finish().iter().map(Vec::len).sum();
    assert!(passed < 4 << 20, "{passed} bytes of a transfer between a and c have passed b");

    let everybody =
        [&containers[1], &containers[2], &containers[5]].map(|place| place as &dyn weaved_netns_tests::Place);
    traffic::check_broadcast(from, &everybody, "10.47.255.255");
    traffic::check_multicast(from, &everybody, "239.9.9.9");
}

#[test]
fn hosts_that_know_each_other_meet_again_without_the_one_that_introduced_them() {
    let Some(mut lab) = Lab::open("again") else { return };
    let hosts = introduced_by_b(&mut lab);
    let [a, b, c] = &hosts;
    b.weaved().run(&["stop"]).ok();
    c.weaved().run(&["stop"]).ok();
    wait_until("a has no peer left", SOON, || a.weaved().connected_peers().is_empty());
    c.weaved().launch(&[]);
    c.weaved().wait_for_peers(1);
    let (from, to) = (a.overlay_guest(2, 1500), c.overlay_guest(2, 1500));
    traffic::wait_for_ping(&from, to.address());
}

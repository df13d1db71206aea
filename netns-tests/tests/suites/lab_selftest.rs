//! The lab proves itself with plain tools: what fails here is not the product's fault.

use std::{collections::BTreeSet, fs, time::Duration};

use weaved_netns_tests::{Capture, Direction, Host, Impairment, Lab, Link, Place, Wiring, traffic, wait_until};

/// A bridge `weave` per host, joined by VXLAN; guests 10.32.<host>.2.
fn vxlan_guests(lab: &Lab, hosts: &[&Host]) -> Vec<weaved_netns_tests::Guest> {
    lab.plain_vxlan(hosts, 1500);
    hosts.iter().enumerate().map(|(index, host)| host.guest(&format!("10.32.{index}.2/12"), 1450)).collect()
}

#[test]
fn hosts_reach_each_other_by_both_address_families_unless_one_is_cut_off() {
    let Some(mut lab) = Lab::open("hosts") else { return };
    let (a, b, c) = (lab.host("a"), lab.host("b"), lab.host("c"));
    assert!(traffic::can_ping(&*a, b.ipv4()));
    assert!(traffic::can_ping(&*a, b.ipv6()));
    lab.cut_off(&b);
    assert!(!traffic::can_ping(&*a, b.ipv4()) && traffic::can_ping(&*a, c.ipv4()));
    lab.heal();
    assert!(traffic::can_ping(&*a, b.ipv4()));
}

#[test]
fn guests_exchange_every_kind_of_traffic_over_plain_vxlan() {
    let Some(mut lab) = Lab::open("kinds") else { return };
    let (a, b, c) = (lab.host("a"), lab.host("b"), lab.host("c"));
    let guests = vxlan_guests(&lab, &[&a, &b, &c]);
    let [from, to, third] = guests.as_slice() else { panic!("three guests") };
    traffic::check_every_kind(from, to, to.address(), &[third]);
    let address = to.address().to_string();
    let flood = traffic::Flood::start(from, to, &address);
    wait_until("a few hundred requests are answered", Duration::from_secs(20), || flood.report().latest > 300);
    let report = flood.finish();
    assert_eq!((report.lost(), report.repeated), (0, 0), "{report:?}");
}

#[test]
fn a_dead_link_shows_in_every_check() {
    let Some(mut lab) = Lab::open("dead") else { return };
    let (a, b) = (lab.host("a"), lab.host("b"));
    let guests = vxlan_guests(&lab, &[&a, &b]);
    let flood = traffic::Flood::start(&guests[0], &guests[1], "10.32.1.2");
    a.ip(&["link", "set", "eth0", "down"]);
    assert!(!traffic::can_ping(&guests[0], guests[1].address()));
    a.ip(&["link", "set", "eth0", "up"]);
    flood.wait_until_flowing();
    let report = flood.finish();
    assert!(report.lost() > 1000 && report.longest_gap > Duration::from_secs(1), "{report:?}");
}

#[test]
fn a_capture_shows_plain_text_and_is_a_pcap_file() {
    let Some(mut lab) = Lab::open("capture") else { return };
    let (a, b) = (lab.host("a"), lab.host("b"));
    let guests = vxlan_guests(&lab, &[&a, &b]);
    traffic::wait_for_ping(&guests[0], guests[1].address());
    let capture = lab.capture(&a, "plain.pcap");
    guests[0].run_labtool(Duration::from_secs(10), &["send", "10.32.1.2", "9", "a-secret-in-plain-text"]).ok();
    wait_until("the file has the text", Duration::from_secs(10), || {
        let file = fs::read(lab.dir().join("plain.pcap")).unwrap_or_default();
        file.windows(22).any(|window| window == b"a-secret-in-plain-text")
    });
    let frames = capture.finish();
    assert!(Capture::count_with(&frames, b"a-secret-in-plain-text") >= 1);
    assert_eq!(Capture::count_with(&frames, b"never-sent"), 0);
}

#[test]
fn a_wire_impairs_as_it_is_told() {
    let Some(mut lab) = Lab::open("wire") else { return };
    let a = lab.host_on("a", Link { mtu: 1500, wiring: Wiring::Wire });
    let b = lab.host("b");
    let guests = vxlan_guests(&lab, &[&a, &b]);
    traffic::check_tcp(&guests[0], &guests[1], "10.32.1.2", 4 << 20);
    traffic::check_tcp(&guests[1], &guests[0], "10.32.0.2", 4 << 20);

    let bad = Impairment {
        delay: Duration::from_millis(2),
        jitter: Duration::from_millis(2),
        loss: 0.05,
        duplicate: 0.05,
        reorder: 0.05,
        replay: 0.05,
        ..Impairment::default()
    };
    a.wire().impair(&bad);
    traffic::check_tcp(&guests[0], &guests[1], "10.32.1.2", 1 << 20);
    let counts = a.wire().counts(Direction::FromHost);
    assert!(counts.lost > 0 && counts.duplicated > 0 && counts.reordered > 0 && counts.replayed > 0, "{counts:?}");

    // The outer packet is 50 bytes larger than the inner one.
    a.wire().impair(&Impairment { mtu: 1300, ..Impairment::default() });
    let ping = |size: &str| guests[0].run(&["ping", "-c", "1", "-W", "1", "-s", size, "10.32.1.2"]);
    ping("1222").ok();
    assert!(!ping("1223").success(), "a packet of 1301 bytes has passed a wire of 1300");
    assert!(a.wire().counts(Direction::FromHost).too_large > 0);
}

#[test]
fn small_links_enforce_their_mtu_without_a_word() {
    let Some(mut lab) = Lab::open("smalllink") else { return };
    let a = lab.host("a");
    let b = lab.host_on("b", Link { mtu: 1280, wiring: Wiring::PlainVeth });
    let to = b.ipv4().to_string();
    let ping = |size: &str| a.run(&["ping", "-M", "do", "-c", "1", "-W", "1", "-s", size, &to]);
    ping("1252").ok();
    // veth has four bytes of slack for a VLAN tag.
    assert!(!ping("1257").success());
}

#[test]
fn three_dockerds_work_at_once_and_leave_nothing_behind() {
    let Some(mut lab) = Lab::open("docker") else { return };
    let hosts = [lab.host("a"), lab.host("b"), lab.host("c")];
    let flags = lab.plain_vxlan(&hosts.each_ref().map(|host| &**host), 1500);
    let mut containers = Vec::new();
    for (host, flags) in hosts.iter().zip(&flags) {
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let dockerd = host.start_docker(&flags);
        containers.push(dockerd.idle_container("one"));
        containers.push(dockerd.idle_container("two"));
    }
    let addresses: BTreeSet<_> = containers.iter().map(weaved_netns_tests::Container::address).collect();
    assert_eq!(addresses.len(), 6, "{addresses:?}");
    for container in &containers[1..] {
        traffic::wait_for_ping(&containers[0], container.address());
    }
    traffic::check_every_kind(
        &containers[0],
        &containers[5],
        containers[5].address(),
        &[&containers[1], &containers[3]],
    );
    containers[0].run(&["iperf3", "--version"]).ok();

    for host in &hosts {
        host.stop_docker();
    }
    assert_eq!(lab.processes(), Vec::<i32>::new());
    for host in &hosts {
        let veths: Vec<String> = host.interfaces().into_iter().filter(|name| name.starts_with("veth")).collect();
        assert!(veths.is_empty(), "{veths:?}");
    }
    let dir = lab.dir().display().to_string();
    drop(lab);
    assert!(!fs::read_to_string("/proc/self/mounts").unwrap().contains(&dir));
    assert!(!fs::exists(&dir).unwrap());
}

#[test]
fn nothing_is_left_after_a_panic() {
    let mine = |text: &str| text.contains(&format!("wv{}-", std::process::id())) && text.contains("-panic-");
    let names = |dir: &str| -> Vec<String> {
        let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        entries.filter(|name| mine(name)).collect()
    };
    let outcome = std::panic::catch_unwind(|| {
        let Some(mut lab) = Lab::open("panic") else { return };
        let (a, b) = (lab.host("a"), lab.host("b"));
        lab.plain_vxlan(&[&a, &b], 1500);
        a.start_docker(&["--bridge=weave"]).idle_container("lost");
        assert!(a.run(&["sh", "-c", "setsid sleep 1000 >/dev/null 2>&1 &"]).success());
        assert!(!names("/run/netns").is_empty());
        panic!("as a failing test does");
    });
    assert!(outcome.is_err());
    assert_eq!(names("/run/netns"), Vec::<String>::new());
    assert_eq!(names("/tmp"), Vec::<String>::new());
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!mounts.lines().any(mine), "{mounts}");
}

#[test]
fn a_flipped_bit_reaches_the_receiver_and_is_noticed() {
    let Some(mut lab) = Lab::open("flip") else { return };
    let a = lab.host_on("a", Link { mtu: 1500, wiring: Wiring::Wire });
    let b = lab.host("b");
    let _server = traffic::serve(&*b, &["udp-echo", "5202"]);
    for to in [b.ipv4().to_string(), b.ipv6().to_string()] {
        let check = || a.run_labtool(Duration::from_secs(30), &["udp-check", &to, "5202", "1400"]);
        a.wire().impair(&Impairment::default());
        check().ok();
        a.wire().impair(&Impairment { flip: 0.2, ..Impairment::default() });
        let reason = check().refused(1);
        assert!(reason.contains("changed"), "{reason}");
    }
}

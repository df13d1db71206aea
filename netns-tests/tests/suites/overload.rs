//! More than a host can carry: what is dropped is counted and shown, and nobody takes it all.

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{sync::Arc, time::Duration};

use weaved_netns_tests::{Guest, Host, Lab, Part, Place, SOON, traffic, wait_until};

const RATE_PORT: &str = "5301";
const FLOOD_TIME: &str = "3000";
const FLOOD_DEADLINE: Duration = Duration::from_mins(1);

/// A data plane that gets no time, until this is dropped.
struct Paused(Pid);

impl Paused {
    #[track_caller]
    fn new(host: &Host) -> Self {
        let pid = host.weaved().pid(Part::Dataplane).expect("the data plane runs");
        kill(Pid::from_raw(pid), Signal::SIGSTOP).expect("it can be stopped");
        Self(Pid::from_raw(pid))
    }
}

impl Drop for Paused {
    fn drop(&mut self) {
        // One that has ended meanwhile fails the test by other means.
        let _ = kill(self.0, Signal::SIGCONT);
    }
}

fn pair(name: &str) -> Option<(Lab, [Arc<Host>; 2], [Guest; 4])> {
    let mut lab = Lab::open_alone(name)?;
    let hosts = [lab.host("a"), lab.host("b")];
    let [a, b] = &hosts;
    lab.launch_cluster(&[a, b]);
    let guests =
        [a.overlay_guest(2, 1500), b.overlay_guest(2, 1500), a.overlay_guest(3, 1500), b.overlay_guest(3, 1500)];
    traffic::wait_for_ping(&guests[0], guests[1].address());
    traffic::wait_for_ping(&guests[2], guests[3].address());
    Some((lab, hosts, guests))
}

/// Gives two guests addresses that are known to have queues of their own, and lets their partners learn them.
#[track_caller]
fn in_queues_of_their_own(from: &Guest, to: &Guest, neighbour: &Guest, other: &Guest) {
    for (guest, address, partner) in [(from, "02:00:00:00:00:01", to), (neighbour, "02:00:00:00:00:02", other)] {
        guest.run(&["ip", "link", "set", "eth0", "address", address]).ok();
        traffic::wait_for_ping(guest, partner.address());
    }
}

/// Sends so many pings of `bytes` without waiting for answers.
fn send_pings(from: &Guest, to: &Guest, count: u64, bytes: u32) {
    let (count, bytes, address) = (count.to_string(), bytes.to_string(), to.address().to_string());
    from.run(&["ping", "-q", "-l", &count, "-c", &count, "-s", &bytes, "-W", "1", "-w", "2", &address]);
}

/// How many of a thousand pings are answered.
fn answered_of_a_thousand(from: &Guest, to: &Guest) -> u32 {
    let said = from.run(&["ping", "-n", "-i", "0.002", "-c", "1000", "-W", "2", &to.address().to_string()]).stdout;
    said.lines().filter(|line| line.contains("bytes from")).count() as u32
}

fn shows(host: &Host, counter: &str) -> bool {
    host.weaved().run(&["status", "dataplane"]).ok().stdout.lines().any(|line| line.starts_with(counter))
}

#[test]
fn frames_that_find_the_queue_of_the_tap_full_are_counted_one_by_one_and_shown() {
    let Some((_lab, [a, _], [from, to, ..])) = pair("tapfull") else { return };
    let status = a.weaved().status().unwrap_or_default();
    let queue = status["dataplane"]["stats"]["device"]["tap_queue_frames"].as_u64().expect("the queue has a length");
    let (before, sent) = (a.weaved().counter("drop_tap_queue_full"), 4 * queue);
    let paused = Paused::new(&a);
    send_pings(&from, &to, sent, 56);
    drop(paused);
    traffic::wait_for_ping(&from, to.address());
    let dropped = a.weaved().counter("drop_tap_queue_full") - before;
    assert!((sent - queue - 100..=sent + 100).contains(&dropped), "{dropped} of {sent}, {queue} fit");
    assert!(shows(&a, "drop_tap_queue_full"));
}

#[test]
fn a_container_that_fills_its_queue_of_the_tap_does_not_fill_its_neighbours() {
    let Some((_lab, [a, _], [from, to, neighbour, other])) = pair("ownqueue") else { return };
    let status = a.weaved().status().unwrap_or_default();
    let queue = status["dataplane"]["stats"]["device"]["tap_queue_frames"].as_u64().expect("the queue has a length");
    in_queues_of_their_own(&from, &to, &neighbour, &other);
    let (dropped, counted) = (a.weaved().counter("drop_tap_queue_full"), "icmp_seq");
    let paused = Paused::new(&a);
    send_pings(&from, &to, 4 * queue, 56);
    let address = other.address().to_string();
    let pings = neighbour.spawn(&["ping", "-n", "-l", "50", "-c", "50", "-W", "5", &address]);
    std::thread::sleep(Duration::from_millis(500));
    drop(paused);
    let said = pings.finish(SOON).stdout;
    assert_eq!(said.matches(counted).count(), 50, "all were in a queue that had room: {said}");
    wait_until("the flood found its own queue full", SOON, || {
        a.weaved().counter("drop_tap_queue_full") - dropped > 2 * queue
    });
}

#[test]
fn a_flood_into_a_slow_uplink_fills_its_own_queue_and_costs_its_neighbour_no_frame() {
    let Some((_lab, [a, b], [from, to, neighbour, other])) = pair("uplink") else { return };
    in_queues_of_their_own(&from, &to, &neighbour, &other);
    // Room enough for all: what holds frames back is the socket.
    let uplink = ["tbf", "rate", "20mbit", "burst", "200kb", "limit", "64mb"];
    a.run(&[["tc", "qdisc", "add", "dev", "eth0", "root"].as_slice(), &uplink].concat()).ok();
    let dropped = |counter| a.weaved().counter(counter);
    let (from_queue, from_socket) = (dropped("drop_tap_queue_full"), dropped("drop_underlay_full"));
    let server = traffic::serve(&to, &["rate-serve", RATE_PORT]);
    let address = to.address().to_string();
    let flood = from.spawn_labtool(&["rate-blast", &address, RATE_PORT, "1400", "5000"]);
    wait_until("the flood has filled its queue", SOON, || dropped("drop_tap_queue_full") > from_queue);
    let pings = ["ping", "-n", "-i", "0.05", "-c", "50", "-W", "5", &other.address().to_string()];
    let said = neighbour.run(&pings).stdout;
    flood.finish(FLOOD_DEADLINE).ok();
    drop(server);
    assert_eq!(said.matches("icmp_seq").count(), 50, "all were in a queue that had room: {said}");
    let from_socket = dropped("drop_underlay_full") - from_socket;
    assert!(from_socket <= 20, "what the socket drops is anybody's: {from_socket}");
    assert_eq!([a.weaved().connected_peers().len(), b.weaved().connected_peers().len()], [1, 1]);
}

#[test]
fn datagrams_that_find_the_socket_full_are_counted_and_shown() {
    let Some((_lab, [a, b], [from, to, ..])) = pair("udpfull") else { return };
    let status = b.weaved().status().unwrap_or_default();
    let buffer = status["dataplane"]["stats"]["device"]["receive_buffer_bytes"].as_u64().expect("it has a size");
    let paused = Paused::new(&b);
    let sent = || a.weaved().counter("datagrams_out");
    let (begun, len) = (sent(), 1400);
    wait_until("more was sent than the socket holds", 3 * SOON, || {
        send_pings(&from, &to, 20_000, len);
        (sent() - begun) * u64::from(len) > 2 * buffer
    });
    drop(paused);
    traffic::wait_for_ping(&from, to.address());
    wait_until("the loss is counted", SOON, || b.weaved().counter("drop_udp_overflow") > 0);
    assert!(shows(&b, "drop_udp_overflow"));
}

#[test]
fn a_flood_costs_itself_and_hardly_its_neighbours_and_no_session() {
    let Some((_lab, [a, _], [from, to, neighbour, other])) = pair("flood") else { return };
    let server = traffic::serve(&to, &["rate-serve", RATE_PORT]);
    let address = to.address().to_string();
    let flood = from.spawn_labtool(&["rate-blast", &address, RATE_PORT, "64", FLOOD_TIME]);
    let answered = answered_of_a_thousand(&neighbour, &other);
    traffic::check_tcp(&neighbour, &other, &other.address().to_string(), 4 << 20);
    let report = flood.finish(FLOOD_DEADLINE).ok().stdout;
    drop(server);
    let report: serde_json::Value = serde_json::from_str(report.trim()).expect("the tool reports in JSON");
    let flood_passed = 1.0 - report["loss"].as_f64().expect("a share");
    let passed = f64::from(answered) / 1000.0;
    println!("of the flood {flood_passed:.3} passed, of its neighbour's pings {passed:.3}");
    // What is lost before a flood is known as one, and a tenth of what the flood loses after that, is the neighbour's at most.
    assert!(1.0 - passed <= 0.02 + (1.0 - flood_passed) / 10.0, "{passed} {flood_passed}");
    assert_eq!(a.weaved().connected_peers().len(), 1, "no session is lost");
    assert_eq!(answered_of_a_thousand(&neighbour, &other), 1000, "afterwards all is as before");
}

#[test]
fn who_has_flooded_is_heard_again_when_the_flood_is_over() {
    let Some((_lab, [_, b], [from, to, neighbour, other])) = pair("floodover") else { return };
    let _server = traffic::serve(&to, &["rate-serve", RATE_PORT]);
    let address = to.address().to_string();
    // A flood ends as an overload now and then only.
    for _ in 0..10 {
        traffic::wait_for_ping(&neighbour, other.address());
        from.run_labtool(FLOOD_DEADLINE, &["rate-blast", &address, RATE_PORT, "64", "100"]).ok();
        let said = from.run(&["ping", "-n", "-i", "0.05", "-c", "10", "-W", "5", &address]).stdout;
        assert_eq!(said.matches("bytes from").count(), 10, "{said}");
    }
    println!("{} frames were more than the flood's share", b.weaved().counter("drop_unfair_share"));
}

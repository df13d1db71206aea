//! Frames of real flows, and the queues of a real TAP that they come to.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::UdpSocket,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use weaved_api::Switch;

use super::*;
use crate::{
    netlink::Netlink,
    tap::{Tap, VNET_HEADER_LEN},
    testing::{in_namespace, spawn},
};

const QUEUE_COUNT: usize = 3;
const LAYOUT: Layout = Layout { worker_count: QUEUE_COUNT, queues_per_worker: 1 };
const PATIENCE: Duration = Duration::from_secs(10);
/// Longer than any datagram of the host's own that might come in between (router solicitations).
const MARKER_LEN: usize = 200;

/// A TAP with several queues that is up and has addresses.
fn open_up() -> Tap {
    open_up_with(LAYOUT)
}

fn open_up_with(layout: Layout) -> Tap {
    let steering = Steering::load().unwrap_or_else(|error| panic!("{error}\n{}", Steering::complaint()));
    let tap = Tap::open_several("tap0", Switch::Off, layout, &steering).unwrap();
    let mut netlink = Netlink::open().unwrap();
    let index = netlink.link("tap0").unwrap().unwrap().index;
    netlink.set_up(index).unwrap();
    netlink.add_address(index, "192.0.2.1/24".parse().unwrap()).unwrap();
    tap
}

/// All frames of at least the marker's length that are waiting, and which queue each was on.
fn take(tap: &Tap) -> Vec<(usize, Vec<u8>)> {
    let mut buffer = vec![0; 70_000];
    let mut taken = Vec::new();
    for (at, queue) in tap.queues().iter().enumerate() {
        while let Some(len) = queue.read_frame(&mut [0; VNET_HEADER_LEN], &mut buffer).unwrap() {
            if len >= MARKER_LEN {
                taken.push((at, buffer[..len].to_vec()));
            }
        }
    }
    taken
}

/// Sends to `to` and waits until frames of it have come: a new device drops what it gets for a moment.
fn wait_until_frames_come(tap: &Tap, to: &str) {
    let sender = sender_to(to);
    let deadline = Instant::now() + PATIENCE;
    while take(tap).is_empty() {
        assert!(Instant::now() < deadline, "no frame comes to {to}");
        // An address may not be ready to be sent from.
        let _ = sender.send_to(&[7; MARKER_LEN], to);
        thread::sleep(Duration::from_millis(5));
    }
}

fn sender_to(to: &str) -> UdpSocket {
    let sender = UdpSocket::bind(if to.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" }).unwrap();
    sender.set_broadcast(true).unwrap();
    sender
}

/// Bytes of the frame that hold the source port of UDP.
fn source_port(frame: &[u8]) -> u16 {
    let at = if frame[12..14] == [0x86, 0xdd] { 14 + 40 } else { 14 + 20 };
    u16::from_be_bytes([frame[at], frame[at + 1]])
}

fn flows_stay_on_their_queues_and_use_all_of_them(to: &str) {
    let tap = open_up();
    wait_until_frames_come(&tap, to);
    let senders: Vec<UdpSocket> = std::iter::repeat_with(|| sender_to(to)).take(32).collect();
    for _ in 0..3 {
        for sender in &senders {
            sender.send_to(&[7; MARKER_LEN], to).unwrap();
        }
        // What is written to a queue must not move a flow there, as it does without the program.
        let echo = |(at, mut frame): (usize, Vec<u8>)| {
            frame[..6].fill(0xff);
            let _ = tap.queues()[(at + 1) % QUEUE_COUNT].write_frame(&[0; VNET_HEADER_LEN], &frame);
            (at, frame)
        };
        let taken: Vec<_> = take(&tap).into_iter().map(echo).collect();
        assert_eq!(taken.len(), senders.len());
        let mut queues = BTreeMap::<u16, BTreeSet<usize>>::new();
        for (at, frame) in &taken {
            queues.entry(source_port(frame)).or_default().insert(*at);
        }
        assert!(queues.values().all(|at| at.len() == 1), "{queues:?}");
        let used: BTreeSet<usize> = queues.into_values().flatten().collect();
        assert_eq!(used, (0..QUEUE_COUNT).collect(), "some queue gets nothing of 32 flows");
    }
}

#[test]
fn ipv4_flows_stay_on_their_queues_and_use_all_of_them() {
    in_namespace(|| flows_stay_on_their_queues_and_use_all_of_them("192.0.2.255:9"));
}

#[test]
fn ipv6_flows_stay_on_their_queues_and_use_all_of_them() {
    in_namespace(|| flows_stay_on_their_queues_and_use_all_of_them("[ff02::1%2]:9"));
}

#[test]
fn all_fragments_between_two_hosts_are_on_one_queue() {
    in_namespace(|| {
        let tap = open_up();
        wait_until_frames_come(&tap, "192.0.2.255:9");
        for _ in 0..8 {
            sender_to("192").send_to(&[7; 7000], "192.0.2.255:9").unwrap();
        }
        let taken = take(&tap);
        assert_eq!(taken.len(), 8 * 5, "each datagram is five fragments");
        let queues: BTreeSet<usize> = taken.iter().map(|(at, _)| *at).collect();
        assert_eq!(queues.len(), 1, "{queues:?}");
    });
}

#[test]
fn a_source_has_one_queue_of_each_worker_and_other_sources_have_others() {
    const QUEUES: usize = 4;
    in_namespace(|| {
        let tap = open_up_with(Layout { worker_count: QUEUE_COUNT, queues_per_worker: QUEUES });
        wait_until_frames_come(&tap, "192.0.2.255:9");
        let mut used = BTreeSet::new();
        for source in 1..=32 {
            let address = format!("02:00:00:00:00:{source:02x}");
            let set = ["link", "set", "tap0", "address", &address];
            assert!(spawn(Command::new("ip").args(set)).unwrap().wait().unwrap().success());
            let senders: Vec<UdpSocket> = std::iter::repeat_with(|| sender_to("192")).take(32).collect();
            for sender in &senders {
                sender.send_to(&[7; MARKER_LEN], "192.0.2.255:9").unwrap();
            }
            let taken = take(&tap);
            let (workers, queues): (BTreeSet<_>, BTreeSet<_>) =
                taken.iter().map(|(at, _)| (at / QUEUES, at % QUEUES)).unzip();
            assert_eq!((taken.len(), workers.len(), queues.len()), (32, QUEUE_COUNT, 1), "{workers:?} {queues:?}");
            used.extend(queues);
        }
        assert_eq!(used.len(), QUEUES, "some queue gets nothing of 32 sources");
    });
}

#[test]
fn several_queues_have_the_offloads_of_one() {
    in_namespace(|| {
        let one = Tap::open("tap1", Switch::Auto).unwrap().offload();
        let several = Tap::open_several("tap0", Switch::Auto, LAYOUT, &Steering::load().unwrap()).unwrap();
        assert_eq!(several.offload(), one);
        assert_eq!(several.refusals().describe(), None);
    });
}

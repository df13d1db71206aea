//! Several workers on the sessions of one router, at the same time: no nonce is used twice, no datagram opened twice.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
    thread::{self, ScopedJoinHandle},
    time::Duration,
};

use weaved_core::{
    forward::{Datagrams, Decapsulator, Encapsulator, ForwardingTable, Outcome, Punt, WorkerStats},
    offload::vnet_hdr::VnetHeader,
    testing::{
        Conditions, Network,
        frames::{frame, mac, payload, tcp_superframe},
        wiretap::{Observed, Wiretap},
    },
    wire::{
        data::{DataHeader, Lane},
        ecn::Ecn,
    },
};

type Datagram = Vec<u8>;

const BATCHES: u32 = 300;

/// Two connected hosts.
struct Pair {
    network: Network,
    tables: [Arc<ForwardingTable>; 2],
}

impl Pair {
    fn new() -> Self {
        let mut network = Network::mesh(2, Conditions::lan(), 1);
        assert!(network.run_until(Duration::from_secs(5), Network::is_full_mesh));
        let tables = [0, 1].map(|node| Arc::new(network.nodes[node].table().clone()));
        Self { network, tables }
    }

    /// Workers of the first host on these lanes seal at the same time: each batch is one frame with a number of its own.
    fn seal(&self, lanes: [Lane; 2], make: impl Fn(u32) -> (VnetHeader, Vec<u8>) + Sync) -> Vec<Datagram> {
        let (make, now) = (&make, self.network.now);
        let work = |at: u32, lane| {
            let mut encapsulator = Encapsulator::new(lane, Arc::<WorkerStats>::default(), now);
            let mut sealed = Vec::new();
            for number in 0..BATCHES {
                let (vnet, frame) = make(at * BATCHES + number);
                encapsulator.begin_batch(&self.tables[0], now);
                encapsulator.frame_buffer()[..frame.len()].copy_from_slice(&frame);
                let _ = encapsulator.push(vnet, frame.len());
                encapsulator.end_batch();
                while let Some(send) = encapsulator.poll_outgoing() {
                    sealed.extend(send.datagrams.chunks(send.segment_len).map(<[u8]>::to_vec));
                }
            }
            sealed
        };
        thread::scope(|scope| {
            let other = scope.spawn(|| work(1, lanes[1]));
            let mut sealed = work(0, lanes[0]);
            sealed.extend(joined(other));
            sealed
        })
    }

    /// Two workers of the second host open these datagrams at the same time, each those given to it. Gives the payloads of
    /// the frames delivered, and how often each was.
    fn open(&self, given: [&[Datagram]; 2]) -> BTreeMap<Vec<u8>, usize> {
        let from = self.network.nodes[0].address;
        let work = |datagrams: &[Datagram]| open_all(&self.tables[1], from, datagrams);
        let delivered = thread::scope(|scope| {
            let other = scope.spawn(|| work(given[1]));
            [work(given[0]), joined(other)].concat()
        });
        let mut counts = BTreeMap::new();
        delivered.into_iter().for_each(|frame| *counts.entry(payload(&frame).to_vec()).or_default() += 1);
        counts
    }
}

fn joined<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    thread.join().expect("a thread of this test does not panic")
}

fn open_all(table: &Arc<ForwardingTable>, from: SocketAddr, datagrams: &[Datagram]) -> Vec<Vec<u8>> {
    let mut decapsulator = Decapsulator::new(Arc::<WorkerStats>::default());
    let mut delivered = Vec::new();
    decapsulator.begin_batch(table);
    for bytes in datagrams {
        decapsulator.handle(Datagrams { from, bytes, segment_len: bytes.len(), ecn: Ecn::NotEct }, |_| {});
        while let Some(outcome) = decapsulator.poll() {
            if let Outcome::Deliver(delivery) = outcome {
                delivered.push(delivery.frame.to_vec());
            }
        }
    }
    delivered
}

fn small(number: u32) -> (VnetHeader, Vec<u8>) {
    (VnetHeader::default(), frame(mac(1, 1), mac(2, 1), &number.to_be_bytes().repeat(12)))
}

fn large(_number: u32) -> (VnetHeader, Vec<u8>) {
    tcp_superframe(mac(1, 1), mac(2, 1), 20_000, 1000)
}

/// What a test of nonces looks at.
fn assert_no_nonce_reused(sealed: &[Datagram]) {
    let end = SocketAddr::from(([192, 0, 2, 1], 6783));
    let seen = sealed.iter().map(|datagram| Observed { from: end, to: end, datagram: datagram.clone() }).collect();
    Wiretap { seen }.assert_no_nonce_reused();
    let nonces: BTreeSet<_> = sealed
        .iter()
        .filter_map(|datagram| DataHeader::parse(datagram))
        .map(|header| (header.receiver, header.lane, header.counter))
        .collect();
    assert_eq!(nonces.len(), sealed.len());
}

#[test]
fn workers_that_seal_at_the_same_time_use_no_nonce_twice() {
    let pair = Pair::new();
    let sealed = pair.seal([Lane(1), Lane(2)], large);
    assert!(sealed.len() as u32 > 20 * BATCHES);
    assert_no_nonce_reused(&sealed);
    let lanes = |lane| sealed.iter().filter(|datagram| DataHeader::parse(datagram).unwrap().lane == Lane(lane)).count();
    assert!(lanes(1) == lanes(2) && lanes(1) + lanes(2) == sealed.len(), "each has a lane of its own");
}

#[test]
fn not_even_two_workers_on_one_lane_would_use_a_nonce_twice() {
    let pair = Pair::new();
    assert_no_nonce_reused(&pair.seal([Lane(1), Lane(1)], large));
}

#[test]
fn a_worker_without_a_lane_in_the_session_seals_nothing() {
    let pair = Pair::new();
    assert!(pair.seal([Lane(3), Lane(8)], small).is_empty());
}

#[test]
fn datagrams_of_several_lanes_are_all_delivered_by_whichever_worker_gets_them() {
    let pair = Pair::new();
    let sealed = pair.seal([Lane(1), Lane(2)], small);
    let of_third = |is_third: bool| -> Vec<Datagram> {
        let chosen = sealed.iter().enumerate().filter(|(at, _)| (at % 3 == 0) == is_third);
        chosen.map(|(_, datagram)| datagram.clone()).collect()
    };
    let (one, other) = (of_third(true), of_third(false));
    let delivered = pair.open([&one, &other]);
    assert_eq!(delivered.len() as u32, 2 * BATCHES);
    assert!(delivered.values().all(|count| *count == 1));
}

#[test]
fn only_the_first_two_lanes_move_a_peer_to_where_they_come_from() {
    let pair = Pair::new();
    let elsewhere = SocketAddr::from(([192, 0, 2, 9], 40_000));
    for (lane, moves) in [(Lane(1), true), (Lane(2), false)] {
        let sealed = pair.seal([lane, Lane(3)], small);
        let mut decapsulator = Decapsulator::new(Arc::<WorkerStats>::default());
        decapsulator.begin_batch(&pair.tables[1]);
        let (bytes, mut punts) = (&sealed[0], Vec::new());
        let datagrams = Datagrams { from: elsewhere, bytes, segment_len: bytes.len(), ecn: Ecn::NotEct };
        decapsulator.handle(datagrams, |punt| punts.push(punt));
        assert!(matches!(decapsulator.poll(), Some(Outcome::Deliver(_))), "both are authentic");
        let has_moved = matches!(punts[..], [Punt::Roamed { from, .. }] if from == elsewhere);
        assert_eq!((has_moved, punts.is_empty()), (moves, !moves), "{lane:?}");
    }
}

#[test]
fn a_datagram_that_comes_to_two_workers_at_the_same_time_is_delivered_once() {
    let pair = Pair::new();
    let sealed = pair.seal([Lane(1), Lane(2)], small);
    let delivered = pair.open([&sealed, &sealed]);
    assert_eq!(delivered.len() as u32, 2 * BATCHES);
    assert!(delivered.values().all(|count| *count == 1), "replayed to the other worker");
}

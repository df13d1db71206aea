//! Datagrams that stand alone, from frames to frames: each brings what is in it, whatever becomes of the others.

use std::{sync::Arc, time::Duration};

use proptest::prelude::*;

use super::{Datagrams, Decapsulator, Encapsulator, ForwardingTable, Outcome, Packing, WorkerStats};
use crate::{
    offload::{
        reference::{self, Ip, L4, Spec, payload},
        vnet_hdr::VnetHeader,
    },
    testing::{Conditions, Network, frames},
    wire::{data::Lane, ecn::Ecn},
};

/// Two connected hosts, of which the first packs singles.
struct Pair {
    near: Arc<ForwardingTable>,
    far: Arc<ForwardingTable>,
    network: Network,
}

impl Pair {
    fn new(max_datagram: usize) -> Self {
        let mut network = Network::mesh(2, Conditions { max_datagram, ..Conditions::lan() }, 1);
        assert!(network.run_until(Duration::from_secs(5), Network::is_full_mesh));
        network.run(Duration::from_secs(5));
        let mut near = network.nodes[0].table().clone();
        assert_eq!(near.peers[0].datagram_len.bytes(), max_datagram);
        near.peers.iter_mut().for_each(|peer| peer.packing = Packing::Singles);
        Self { near: Arc::new(near), far: Arc::new(network.nodes[1].table().clone()), network }
    }

    /// Sends of one batch, each as its datagrams. Every send of several ends with a shorter one.
    fn send(&self, frames: &[(VnetHeader, Vec<u8>)]) -> Vec<Vec<Vec<u8>>> {
        let mut encapsulator = Encapsulator::new(Lane(1), Arc::default(), self.network.now);
        let mut sends = Vec::new();
        let mut drain = |encapsulator: &mut Encapsulator| {
            while let Some(outgoing) = encapsulator.poll_outgoing() {
                let segment_len = outgoing.segment_len;
                let send: Vec<_> = outgoing.datagrams.chunks(segment_len).map(<[u8]>::to_vec).collect();
                let last = send.last().unwrap().len();
                assert!(send.len() <= 63 && segment_len <= self.near.peers[0].datagram_len.bytes());
                assert!(
                    send.len() == 1 || (segment_len.div_ceil(2)..segment_len).contains(&last),
                    "{segment_len} {last}"
                );
                sends.push(send);
            }
        };
        encapsulator.begin_batch(&self.near, self.network.now);
        for (vnet, frame) in frames {
            encapsulator.frame_buffer()[..frame.len()].copy_from_slice(frame);
            let _ = encapsulator.push(*vnet, frame.len());
            drain(&mut encapsulator);
        }
        encapsulator.end_batch();
        drain(&mut encapsulator);
        sends
    }

    /// What a receiver makes of these and no others.
    fn receive<'a>(&self, datagrams: impl IntoIterator<Item = &'a Vec<u8>>) -> Vec<(VnetHeader, Vec<u8>)> {
        let stats = Arc::<WorkerStats>::default();
        let mut decapsulator = Decapsulator::new(stats.clone());
        decapsulator.begin_batch(&self.far);
        let mut delivered = Vec::new();
        let from = self.network.nodes[0].address;
        for bytes in datagrams {
            let datagrams = Datagrams { from, bytes, segment_len: bytes.len(), ecn: Ecn::NotEct };
            decapsulator.handle(datagrams, |_| {});
            while let Some(outcome) = decapsulator.poll() {
                let Outcome::Deliver(delivery) = outcome else { panic!("{outcome:?} is no frame") };
                delivered.push((delivery.vnet, delivery.frame.to_vec()));
            }
        }
        delivered
    }
}

fn tcp(len: usize, gso_size: u16) -> Spec {
    let transport = L4::Tcp { seq: u32::MAX - 30_000, flags: 0x99, option_words: 3 };
    Spec { tags: vec![], ip: Ip::V4 { id: 0xfff0, option_words: 0 }, transport, payload: payload(len, 7), gso_size }
}

fn offered(spec: &Spec) -> (VnetHeader, Vec<u8>) {
    (spec.vnet(&(0..spec.segment_count())), spec.superframe())
}

/// Bytes of the super-frame that each datagram brings by itself.
fn alone(pair: &Pair, spec: &Spec) -> Vec<std::ops::Range<usize>> {
    let sends = pair.send(&[offered(spec)]);
    let datagrams = sends.iter().flatten();
    datagrams
        .map(|datagram| {
            let delivered = pair.receive([datagram]);
            assert_eq!(delivered.len(), 1);
            spec.identify(delivered[0].0, &delivered[0].1)
        })
        .collect()
}

#[test]
fn each_segment_travels_by_itself_with_its_headers() {
    let pair = Pair::new(1472);
    for segment_count in [2, 3, 46] {
        for rest in [100, 600, 1300, 1348] {
            let spec = tcp((segment_count - 1) * 1348 + rest, 1348);
            let pieces = alone(&pair, &spec);
            assert_eq!(pieces.len(), segment_count);
            assert!(pieces.iter().enumerate().all(|(at, piece)| piece.start == at * 1348));
            assert_eq!(pieces.last().unwrap().end, spec.payload.len());
        }
    }
}

#[test]
fn small_segments_share_a_datagram() {
    let pieces = alone(&Pair::new(1472), &tcp(20_000, 536));
    assert_eq!(pieces.len(), 20_000_usize.div_ceil(2 * 536));
    assert!(pieces.iter().all(|piece| piece.start % 536 == 0));
}

#[test]
fn a_stream_whose_segments_are_too_long_is_divided_between_them() {
    for (max_datagram, len, gso_size) in [(1472, 57_920, 1448), (1232, 64_000, 8900), (1232, 3000, 1448)] {
        let pieces = alone(&Pair::new(max_datagram), &tcp(len, gso_size));
        assert!(pieces.windows(2).all(|pair| pair[0].end == pair[1].start), "no byte is missing");
        assert_eq!((pieces[0].start, pieces.last().unwrap().end), (0, len));
    }
}

#[test]
fn frames_too_long_for_a_datagram_share_short_trains() {
    let pair = Pair::new(1472);
    let frame = (VnetHeader::default(), frames::frame(frames::mac(1, 1), frames::mac(2, 1), &[7; 1450]));
    let sent = vec![frame; 20];
    let sends = pair.send(&sent);
    assert_eq!(sends.len(), 3, "eight, eight and four frames");
    assert_eq!(pair.receive(sends.iter().flatten()), sent);
    let sends = pair.send(&sent);
    let without_one = sends.iter().enumerate().flat_map(|(at, send)| &send[usize::from(at == 0)..]);
    assert_eq!(pair.receive(without_one), sent[8..], "a lost first datagram costs its train and no other");
}

#[test]
fn small_frames_share_datagrams_and_the_longest_goes_as_a_train() {
    let pair = Pair::new(1472);
    let (a, b) = (frames::mac(1, 1), frames::mac(2, 1));
    let frame = |len: usize| (VnetHeader::default(), frames::frame(a, b, &vec![len as u8; len]));
    let sent: Vec<_> = [60, 60, 60, 700, 700, 1500, 60, 1400, 1400, 1400].map(frame).into();
    let sends = pair.send(&sent);
    let lens: Vec<_> = sends.iter().map(Vec::len).collect();
    assert_eq!(pair.receive(sends.iter().flatten()), sent);
    assert!(sends.iter().flatten().count() < sent.len(), "{lens:?}");
    let without_first = pair.receive(pair.send(&sent).iter().flatten().skip(1));
    assert_eq!(without_first, sent[4..], "the first four frames but one share the first datagram");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn any_super_frames_arrive_once_and_wholly(
        specs in proptest::collection::vec(reference::any_spec(), 1..4),
        max_datagram in prop_oneof![Just(1232_usize), Just(1472), Just(8972)],
    ) {
        let pair = Pair::new(max_datagram);
        for spec in &specs {
            let delivered = pair.receive(pair.send(&[offered(spec)]).iter().flatten());
            let mut came = vec![false; spec.payload.len()];
            for (vnet, frame) in delivered {
                for byte in spec.identify(vnet, &frame) {
                    prop_assert!(!std::mem::replace(&mut came[byte], true), "byte {} came twice", byte);
                }
            }
            prop_assert!(came.iter().all(|came| *came));
        }
    }
}

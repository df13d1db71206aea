//! Congestion marks through the tunnel (RFC 6040): what a train of frames says outside, and what a mark outside does to
//! the frames inside.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use weaved_core::{
    forward::{Datagrams, Decapsulator, DropReason, Encapsulator, ForwardingTable, Outcome, WorkerStats},
    offload::vnet_hdr::VnetHeader,
    testing::{
        Conditions, Network,
        frames::{TCP_HEADERS_LEN, frame, mac, tcp_superframe},
    },
    wire::{data::Lane, ecn::Ecn},
};

type Frame = (VnetHeader, Vec<u8>);

/// The workers of two connected hosts.
struct Tunnel {
    network: Network,
    encapsulator: Encapsulator,
    decapsulator: Decapsulator,
    stats: Arc<WorkerStats>,
    from: SocketAddr,
}

impl Tunnel {
    fn new() -> Self {
        let mut network = Network::mesh(2, Conditions::lan(), 1);
        assert!(network.run_until(Duration::from_secs(5), Network::is_full_mesh));
        let stats = Arc::<WorkerStats>::default();
        Self {
            encapsulator: Encapsulator::new(Lane(1), stats.clone(), network.now),
            decapsulator: Decapsulator::new(stats.clone()),
            stats,
            from: network.nodes[0].address,
            network,
        }
    }

    /// One batch of frames. Gives what the datagrams say and the datagrams.
    fn encap(&mut self, frames: &[Frame]) -> (Ecn, Vec<Vec<u8>>) {
        let table = Arc::new(self.network.nodes[0].table().clone());
        self.encapsulator.begin_batch(&table, self.network.now);
        for (vnet, frame) in frames {
            self.encapsulator.frame_buffer()[..frame.len()].copy_from_slice(frame);
            let _ = self.encapsulator.push(*vnet, frame.len());
        }
        self.encapsulator.end_batch();
        let outgoing = self.encapsulator.poll_outgoing().expect("a batch of frames is one train");
        let said = outgoing.ecn;
        let datagrams = outgoing.datagrams.chunks(outgoing.segment_len).map(<[u8]>::to_vec).collect();
        assert!(self.encapsulator.poll_outgoing().is_none(), "and one send");
        (said, datagrams)
    }

    /// The datagrams arrive, those with an index in `marked` with a congestion mark. Gives what comes out.
    fn decap(&mut self, datagrams: &[Vec<u8>], marked: &[usize]) -> Vec<Frame> {
        let table: Arc<ForwardingTable> = Arc::new(self.network.nodes[1].table().clone());
        self.decapsulator.begin_batch(&table);
        for (at, bytes) in datagrams.iter().enumerate() {
            let ecn = if marked.contains(&at) { Ecn::Ce } else { Ecn::Ect0 };
            let datagrams = Datagrams { from: self.from, bytes, segment_len: bytes.len(), ecn };
            self.decapsulator.handle(datagrams, |_| {});
        }
        self.decapsulator.flush_stale();
        let mut delivered = Vec::new();
        while let Some(outcome) = self.decapsulator.poll() {
            if let Outcome::Deliver(delivery) = outcome {
                delivered.push((delivery.vnet, delivery.frame.to_vec()));
            }
        }
        delivered
    }
}

fn tcp(ecn: Ecn, payload_len: usize) -> Frame {
    let (vnet, mut frame) = tcp_superframe(mac(1, 1), mac(2, 1), payload_len, 1000);
    frame[15] = ecn.traffic_class();
    (vnet, frame)
}

fn fields(frames: &[Frame]) -> Vec<Ecn> {
    frames.iter().map(|(_, frame)| Ecn::of_frame(frame)).collect()
}

#[test]
fn datagrams_carry_the_field_of_their_frames_when_all_agree() {
    let mut tunnel = Tunnel::new();
    let arp = (VnetHeader::default(), frame(mac(1, 1), mac(2, 1), &[8; 46]));
    for ecn in [Ecn::NotEct, Ecn::Ect0, Ecn::Ect1, Ecn::Ce] {
        assert_eq!(tunnel.encap(&[tcp(ecn, 9000)]).0, ecn);
        assert_eq!(tunnel.encap(&[tcp(ecn, 5000), tcp(ecn, 2000)]).0, ecn);
        assert_eq!(tunnel.encap(&[tcp(ecn, 5000), arp.clone()]).0, Ecn::NotEct);
    }
    assert_eq!(tunnel.encap(&[tcp(Ecn::Ect0, 5000), tcp(Ecn::Ect1, 2000), tcp(Ecn::Ect1, 2000)]).0, Ecn::NotEct);
}

#[test]
fn a_mark_reaches_the_frames_that_were_in_the_marked_datagram_only() {
    let mut tunnel = Tunnel::new();
    let frames: Vec<Frame> = (0..3).map(|_| tcp(Ecn::Ect0, 6000)).collect();
    let (_, datagrams) = tunnel.encap(&frames);
    let last = datagrams.len() - 1;
    assert_eq!(fields(&tunnel.decap(&datagrams, &[])), [Ecn::Ect0; 3]);
    let (_, datagrams) = tunnel.encap(&frames);
    assert_eq!(fields(&tunnel.decap(&datagrams, &[0])), [Ecn::Ce, Ecn::Ect0, Ecn::Ect0]);
    let (_, datagrams) = tunnel.encap(&frames);
    assert_eq!(fields(&tunnel.decap(&datagrams, &[last, 1])), [Ecn::Ce, Ecn::Ect0, Ecn::Ce]);
    let single = [tcp(Ecn::Ect1, 900)];
    let (_, datagrams) = tunnel.encap(&single);
    assert_eq!(fields(&tunnel.decap(&datagrams, &[0])), [Ecn::Ce], "a train of one datagram, too");
}

#[test]
fn of_a_torn_super_frame_the_run_with_the_mark_has_it() {
    let mut tunnel = Tunnel::new();
    let (_, mut datagrams) = tunnel.encap(&[tcp(Ecn::Ect0, 60_000)]);
    datagrams.remove(20);
    let last = datagrams.len() - 1;
    let got = tunnel.decap(&datagrams, &[last]);
    assert_eq!(fields(&got), [Ecn::Ect0, Ecn::Ce]);
    assert!(got.iter().all(|(_, frame)| frame.len() > 10 * 1000 + TCP_HEADERS_LEN));
}

#[test]
fn a_frame_that_cannot_carry_a_mark_is_dropped_with_its_reason() {
    let mut tunnel = Tunnel::new();
    let (_, datagrams) = tunnel.encap(&[tcp(Ecn::NotEct, 900)]);
    assert_eq!(tunnel.decap(&datagrams, &[0]), []);
    assert_eq!(tunnel.stats.dropped(DropReason::MarkedNotCapable), 1);
    let (_, datagrams) = tunnel.encap(&[tcp(Ecn::NotEct, 900)]);
    assert_eq!(tunnel.decap(&datagrams, &[]).len(), 1, "other fields outside do not matter");
}

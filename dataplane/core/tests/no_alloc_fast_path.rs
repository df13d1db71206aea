//! The fast path takes no memory: encap and decap of frames, super-frames, floods and drops, counted by the allocator
//! of this test program for the thread under test.
//!
//! NOTE: what the AEAD's C code might take is not seen here. Control records are excepted: they are copied for the
//! router.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use weaved_api::MacAddr;
use weaved_core::{
    forward::{
        Datagrams, Decapsulator, DropReason, Encapsulator, ForwardingTable, Outcome, Packing, Tally, WorkerStats,
    },
    offload::vnet_hdr::{Gso, VnetHeader},
    testing::{
        Conditions, Network,
        allocations::{self, Counting},
        frames::{frame, mac, tcp_superframe},
    },
    wire::{data::Lane, ecn::Ecn},
};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The workers of two connected hosts, with lanes of their own, and room for what is between them.
struct Workers {
    encapsulator: Encapsulator,
    decapsulator: Decapsulator,
    tables: [Arc<ForwardingTable>; 2],
    stats: [Arc<WorkerStats>; 2],
    from: SocketAddr,
    now: Instant,
    /// Datagrams of one send, padded to `MAX_SEND_BYTES`, with their length and that of a segment.
    sends: Vec<(Box<[u8]>, usize, usize)>,
    send_count: usize,
}

impl Workers {
    fn new() -> Self {
        let mut network = Network::mesh(2, Conditions::lan(), 1);
        assert!(network.run_until(Duration::from_secs(5), Network::is_full_mesh));
        network.run(Duration::from_secs(5));
        for (node, peer) in [(0, 1), (1, 0)] {
            network.send(node, &[frame(mac(node as u16 + 1, 1), MacAddr::BROADCAST, b"here")]);
            network.run(Duration::from_millis(50));
            let known = network.nodes[peer].table().mac(mac(node as u16 + 1, 1)).is_some();
            assert!(known, "the address has been learned");
        }
        let tables = [0, 1].map(|node| Arc::new(network.nodes[node].table().clone()));
        let stats = [Arc::<WorkerStats>::default(), Arc::default()];
        Self {
            encapsulator: Encapsulator::new(Lane(1), stats[0].clone(), network.now),
            decapsulator: Decapsulator::new(stats[1].clone()),
            tables,
            stats,
            from: network.nodes[0].address,
            now: network.now,
            sends: (0..16).map(|_| (vec![0; 66_000].into(), 0, 0)).collect(),
            send_count: 0,
        }
    }

    /// Packs what goes to host 1 in another way. Returns the table as it was.
    fn pack(&mut self, packing: Packing) -> Arc<ForwardingTable> {
        let mut table = ForwardingTable::clone(&self.tables[0]);
        table.peers.iter_mut().for_each(|peer| peer.packing = packing);
        std::mem::replace(&mut self.tables[0], Arc::new(table))
    }

    /// One batch from the TAP of host 0 to sends.
    fn encap(&mut self, frames: &[(VnetHeader, Vec<u8>)]) {
        self.send_count = 0;
        self.now += Duration::from_millis(10);
        self.encapsulator.begin_batch(&self.tables[0], self.now);
        for (vnet, frame) in frames {
            self.encapsulator.frame_buffer()[..frame.len()].copy_from_slice(frame);
            // Punts of fixed size; their queue is the shell's.
            let _ = self.encapsulator.push(*vnet, frame.len());
            self.drain();
        }
        self.encapsulator.end_batch();
        self.drain();
    }

    fn drain(&mut self) {
        while let Some(outgoing) = self.encapsulator.poll_outgoing() {
            let (bytes, len, segment_len) = &mut self.sends[self.send_count];
            bytes[..outgoing.datagrams.len()].copy_from_slice(outgoing.datagrams);
            (*len, *segment_len) = (outgoing.datagrams.len(), outgoing.segment_len);
            self.send_count += 1;
        }
    }

    /// The sends arrive at host 1; `keep` says which datagram of which send does. Returns the frames delivered.
    fn decap(&mut self, keep: impl Fn(usize) -> bool) -> usize {
        let mut delivered = 0;
        for (bytes, len, segment_len) in &self.sends[..self.send_count] {
            self.decapsulator.begin_batch(&self.tables[1]);
            let mut datagrams = bytes[..*len].chunks(*segment_len).enumerate();
            if datagrams.all(|(at, _)| keep(at)) {
                let datagrams =
                    Datagrams { from: self.from, bytes: &bytes[..*len], segment_len: *segment_len, ecn: Ecn::NotEct };
                self.decapsulator.handle(datagrams, |_| {});
            } else {
                for (_, datagram) in bytes[..*len].chunks(*segment_len).enumerate().filter(|(at, _)| keep(*at)) {
                    let datagrams =
                        Datagrams { from: self.from, bytes: datagram, segment_len: datagram.len(), ecn: Ecn::NotEct };
                    self.decapsulator.handle(datagrams, |_| {});
                }
                self.decapsulator.flush_stale();
            }
            while let Some(outcome) = self.decapsulator.poll() {
                delivered += usize::from(matches!(outcome, Outcome::Deliver(_)));
            }
        }
        delivered
    }
}

/// Runs `work` once to warm up and then many times; panics when the latter took memory.
fn assert_no_allocation(what: &str, mut work: impl FnMut()) {
    work();
    let before = allocations::count();
    for _ in 0..50 {
        work();
    }
    assert_eq!(allocations::count() - before, 0, "{what}: allocations in 50 rounds");
}

#[test]
fn the_fast_path_takes_no_memory() {
    let mut workers = Workers::new();
    assert!(allocations::count() > 0, "allocations are counted");
    let (a, b) = (mac(1, 1), mac(2, 1));
    let plain = |frame: Vec<u8>| (VnetHeader::default(), frame);
    let small: Vec<_> = (0..32u8).map(|number| plain(frame(a, b, &[number; 46]))).collect();
    assert_no_allocation("small frames", || {
        workers.encap(&small);
        assert_eq!(workers.decap(|_| true), 32);
    });
    let large = [tcp_superframe(a, b, 60_000, 1448), plain(frame(a, b, &[1; 1500])), tcp_superframe(a, b, 3000, 1448)];
    assert_no_allocation("super-frames", || {
        workers.encap(&large);
        assert_eq!(workers.decap(|_| true), 3);
    });
    let trains = workers.pack(Packing::Singles);
    assert_no_allocation("datagrams that stand alone", || {
        workers.encap(&large);
        assert!(workers.decap(|_| true) > 40, "segments");
    });
    workers.tables[0] = trains;
    assert_no_allocation("super-frames with losses", || {
        workers.encap(&large);
        assert!(workers.decap(|at| at % 11 != 7) > 3, "runs of segments");
    });
    let floods: Vec<_> =
        [MacAddr::BROADCAST, MacAddr([2, 9, 9, 9, 9, 9])].map(|to| plain(frame(a, to, &[1; 60]))).into();
    assert_no_allocation("floods", || {
        workers.encap(&floods);
        assert_eq!(workers.decap(|_| true), 2);
    });
    let turns: Vec<_> =
        small.iter().zip(floods.iter().cycle()).flat_map(|(one, all)| [one.clone(), all.clone()]).collect();
    assert_no_allocation("small frames for one peer and for all in turns", || {
        workers.encap(&turns);
        assert_eq!(workers.send_count, 2, "a train for each");
        assert_eq!(workers.decap(|_| true), 64);
    });
    let new_source = [plain(frame(mac(1, 77), b, &[1; 60]))];
    assert_no_allocation("sightings", || {
        workers.encap(&new_source);
        assert_eq!(workers.decap(|_| true), 1);
    });
    let mut contradiction = tcp_superframe(a, b, 3000, 1448);
    contradiction.0.gso = Gso::TcpV6;
    let dropped =
        [plain(vec![0; 5]), plain(frame(MacAddr::BROADCAST, b, &[])), plain(frame(a, a, &[1])), contradiction];
    assert_no_allocation("drops on the way in", || workers.encap(&dropped));
    workers.encap(&small);
    assert_no_allocation("replays, forgeries and strangers' sessions", || {
        workers.decap(|_| true);
        let (bytes, len, segment_len) = &mut workers.sends[0];
        bytes[8] = bytes[8].wrapping_add(1);
        let datagrams =
            Datagrams { from: workers.from, bytes: &bytes[..*len], segment_len: *segment_len, ecn: Ecn::NotEct };
        workers.decapsulator.handle(datagrams, |_| {});
        let stranger = Datagrams { from: workers.from, bytes: &[0x14; 80], segment_len: 80, ecn: Ecn::NotEct };
        workers.decapsulator.handle(stranger, |_| {});
    });
    let [near, far] = &workers.stats;
    for reason in [DropReason::FrameTooShort, DropReason::SourceGroup, DropReason::Hairpin, DropReason::FrameMalformed]
    {
        assert!(near.dropped(reason) > 50, "{reason:?} was exercised");
    }
    for reason in [DropReason::Replayed, DropReason::Forged, DropReason::TrainIncomplete] {
        assert!(far.dropped(reason) > 50, "{reason:?} was exercised");
    }
    assert!(near.tallied(Tally::Flooded) > 100);
    assert!(near.tallied(Tally::SinglesOut) > 1000);
}

//! The fast path between two connected hosts: anything from the underlay, from a malicious member and from the TAP.

use std::{cell::RefCell, net::SocketAddr, sync::Arc, time::Duration};

use weaved_api::MacAddr;

use super::{Choices, parsers::assert_deliverable};
use crate::{
    forward::{
        Datagrams, Decapsulator, DropReason, Encapsulator, ForwardingTable, Outcome, Packing, Tally, WorkerStats,
    },
    noise::Session,
    offload::vnet_hdr::{VNET_HEADER_LEN, VnetHeader},
    testing::{
        Conditions, Network,
        frames::{frame, mac},
    },
    wire::{
        data::{DATA_OVERHEAD, DataHeader, Lane},
        ecn::Ecn,
    },
};

/// Frames in an input of [`encap`], and datagrams in one of [`decap`], at most.
const MAX_STEPS: usize = 64;

/// Two connected hosts. Made once for each thread: a handshake for each input would be most of the work.
#[derive(Clone)]
struct Pair {
    near: Arc<ForwardingTable>,
    far: Arc<ForwardingTable>,
    from: SocketAddr,
    now: std::time::Instant,
}

impl Pair {
    /// The same with another way to pack what the near host sends.
    fn packed(&self, packing: Packing) -> Self {
        let mut near = ForwardingTable::clone(&self.near);
        near.peers.iter_mut().for_each(|peer| peer.packing = packing);
        Self { near: Arc::new(near), ..self.clone() }
    }
}

thread_local! {
    static PAIR: RefCell<Option<Pair>> = const { RefCell::new(None) };
}

fn pair() -> Pair {
    PAIR.with_borrow_mut(|pair| pair.get_or_insert_with(connect).clone())
}

fn connect() -> Pair {
    let mut network = Network::pair(Conditions::lan(), 1);
    assert!(network.run_until(Duration::from_secs(5), Network::is_full_mesh));
    network.run(Duration::from_secs(5));
    network.send(1, &[frame(mac(2, 1), MacAddr::BROADCAST, b"here")]);
    network.run(Duration::from_secs(1));
    let [near, far] = [0, 1].map(|node| Arc::new(network.nodes[node].table().clone()));
    Pair { near, far, from: network.nodes[0].address, now: network.now }
}

/// The receiving end of a pair.
struct Receiver {
    decapsulator: Decapsulator,
    stats: Arc<WorkerStats>,
    from: SocketAddr,
    /// What the underlay says.
    ecn: Ecn,
    delivered: Vec<Vec<u8>>,
}

impl Receiver {
    fn new(pair: &Pair) -> Self {
        let stats = Arc::<WorkerStats>::default();
        let mut decapsulator = Decapsulator::new(stats.clone());
        decapsulator.begin_batch(&pair.far);
        Self { decapsulator, stats, from: pair.from, ecn: Ecn::NotEct, delivered: Vec::new() }
    }

    fn receive(&mut self, bytes: &[u8], segment_len: usize) {
        self.decapsulator.handle(Datagrams { from: self.from, bytes, segment_len, ecn: self.ecn }, |_| {});
        self.drain();
    }

    fn finish(&mut self) {
        self.decapsulator.flush_stale();
        self.drain();
        assert_eq!(self.decapsulator.patience(), None);
        // What polling has found is counted with the next flush.
        self.decapsulator.flush_stale();
    }

    fn drain(&mut self) {
        while let Some(outcome) = self.decapsulator.poll() {
            if let Outcome::Deliver(delivery) = outcome {
                assert_deliverable(delivery.vnet, delivery.frame);
                assert!(delivery.frame[6] & 1 == 0, "no group address is a source");
                self.delivered.push(delivery.frame.to_vec());
            }
        }
    }
}

/// First byte: arbitrary datagrams, changed real ones, or real seals around arbitrary bytes.
pub fn decap(data: &[u8]) {
    let mut choices = Choices(data);
    let pair = pair();
    let mut receiver = Receiver::new(&pair);
    match choices.byte() % 3 {
        0 => {
            let segment_len = usize::from(choices.word());
            receiver.receive(choices.0, segment_len);
            receiver.finish();
            assert!(receiver.delivered.is_empty(), "nobody has sealed this");
        }
        1 => changed_datagrams(&mut choices, &pair, &mut receiver),
        _ => malicious_member(&mut choices, &pair, &mut receiver),
    }
}

/// Real datagrams in any order, some of them changed, some twice: what comes out is what went in, at most once.
fn changed_datagrams(choices: &mut Choices<'_>, pair: &Pair, receiver: &mut Receiver) {
    let frames: Vec<_> = (1..4_u8)
        .map(|number| (VnetHeader::default(), frame(mac(1, 1), mac(2, 1), &vec![number; 700 * usize::from(number)])))
        .collect();
    let datagrams = seal_frames(pair, &frames);
    for _ in 0..MAX_STEPS {
        if choices.is_empty() {
            break;
        }
        let mut datagram = datagrams[usize::from(choices.byte()) % datagrams.len()].clone();
        let changes = usize::from(choices.byte() % 4);
        Choices(choices.take(3 * changes)).mutate(&mut datagram);
        receiver.receive(&datagram, datagram.len());
    }
    receiver.finish();
    receiver.delivered.sort();
    assert!(receiver.delivered.is_sorted_by(|one, other| one < other), "a frame came twice");
    assert!(receiver.delivered.iter().all(|delivered| frames.iter().any(|(_, sent)| sent == delivered)));
}

/// Authentic chunks with any header and any plaintext.
fn malicious_member(choices: &mut Choices<'_>, pair: &Pair, receiver: &mut Receiver) {
    let session = pair.near.peers[0].session.clone();
    let how = choices.byte();
    let is_train = how & 1 == 0;
    receiver.ecn = Ecn::from_traffic_class(how >> 1);
    if is_train {
        let chunk_len = usize::from(choices.word()).clamp(64, 8940);
        let records = choices.take(crate::limits::MAX_TRAIN_BYTES);
        // Too many chunks are no train that the cutter makes.
        let chunk_len = chunk_len.max(records.len() / 100 + 1);
        let sealed = crate::forward::seal_train(&session, Lane(1), records, chunk_len, |bytes, segment_len| {
            receiver.receive(bytes, segment_len);
        });
        assert!(sealed.is_ok());
    } else {
        any_chunks(choices, &session, receiver);
    }
    receiver.finish();
}

fn any_chunks(choices: &mut Choices<'_>, session: &Session, receiver: &mut Receiver) {
    let first = session.reserve(Lane(1), 256).expect("the session is young");
    let mut used = [false; 256];
    for _ in 0..MAX_STEPS {
        if choices.is_empty() {
            break;
        }
        let (at, chunk_index, flags, len) = (choices.byte(), choices.byte(), choices.byte(), choices.word());
        if std::mem::replace(&mut used[usize::from(at)], true) {
            continue;
        }
        let mut counter = first;
        counter.0 += u64::from(at);
        let (receiver_index, is_last) = (session.remote(), flags & 1 == 1);
        let header = DataHeader { lane: Lane(1), chunk_index, is_last, receiver: receiver_index, counter };
        let chunk = choices.take(usize::from(len) % 9000);
        let mut datagram = vec![0; chunk.len() + DATA_OVERHEAD];
        session.seal(&header, chunk, &mut datagram);
        receiver.receive(&datagram, datagram.len());
    }
}

/// Frames with any offload request from the TAP. What is taken in arrives: a member never sends what is malformed.
pub fn encap(data: &[u8]) {
    let mut choices = Choices(data);
    let pair = pair();
    let mut frames = Vec::new();
    while !choices.is_empty() && frames.len() < MAX_STEPS {
        let header: [u8; VNET_HEADER_LEN] = choices.array();
        let (len, pad) = (choices.word(), choices.word());
        let mut frame = choices.take(usize::from(len)).to_vec();
        // A long frame from a short input.
        frame.resize(frame.len() + usize::from(pad) % 2000, 0x5a);
        frames.extend(VnetHeader::parse(&header).ok().map(|vnet| (vnet, frame)));
    }
    for packing in [Packing::Trains, Packing::Singles] {
        arrives(&pair.packed(packing), packing, &frames);
    }
}

fn arrives(pair: &Pair, packing: Packing, frames: &[(VnetHeader, Vec<u8>)]) {
    let stats = Arc::<WorkerStats>::default();
    let datagrams = seal_frames_with(pair, frames, &stats);
    let mut receiver = Receiver::new(pair);
    datagrams.iter().for_each(|datagram| receiver.receive(datagram, datagram.len()));
    receiver.finish();
    let refused: u64 = DropReason::ALL.iter().map(|reason| stats.dropped(*reason)).sum();
    assert_eq!(stats.tallied(Tally::TapFramesIn), frames.len() as u64);
    assert_eq!(receiver.stats.dropped(DropReason::RecordMalformed), 0);
    assert_eq!(receiver.stats.dropped(DropReason::TrainInconsistent), 0);
    let arrived = receiver.stats.dropped(DropReason::SourceMismatch) + receiver.delivered.len() as u64;
    match packing {
        Packing::Trains => assert_eq!(frames.len() as u64, refused + arrived),
        // A super-frame arrives in its segments.
        Packing::Singles => assert!(frames.len() as u64 <= refused + arrived),
    }
}

fn seal_frames(pair: &Pair, frames: &[(VnetHeader, Vec<u8>)]) -> Vec<Vec<u8>> {
    seal_frames_with(pair, frames, &Arc::default())
}

fn seal_frames_with(pair: &Pair, frames: &[(VnetHeader, Vec<u8>)], stats: &Arc<WorkerStats>) -> Vec<Vec<u8>> {
    let mut encapsulator = Encapsulator::new(Lane(1), stats.clone(), pair.now);
    let mut datagrams = Vec::new();
    let mut drain = |encapsulator: &mut Encapsulator| {
        while let Some(outgoing) = encapsulator.poll_outgoing() {
            datagrams.extend(outgoing.datagrams.chunks(outgoing.segment_len).map(<[u8]>::to_vec));
        }
    };
    encapsulator.begin_batch(&pair.near, pair.now);
    for (vnet, frame) in frames {
        encapsulator.frame_buffer()[..frame.len()].copy_from_slice(frame);
        // The router is not part of this.
        let _ = encapsulator.push(*vnet, frame.len());
        drain(&mut encapsulator);
    }
    encapsulator.end_batch();
    drain(&mut encapsulator);
    datagrams
}

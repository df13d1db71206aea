//! Trains from frames to frames: in any order, with loss, and among forged chunks.

use proptest::{prelude::*, sample::Index};

use super::{
    assembly::Assembler,
    cut::Cut,
    outcome::{ChunkRefusal, Item, Losses, Progress, Waiting},
};
use crate::{
    limits::{
        MAX_ASSEMBLIES, MAX_DATAGRAM_LEN, MAX_FRAME_LEN, MAX_REORDER_DATAGRAMS, MAX_SHELVED_TRAINS, MAX_TRAIN_BYTES,
    },
    offload::{
        reference::{self, Check, L4, Spec},
        translate::{self, FrameKind},
        vnet_hdr::VnetHeader,
    },
    wire::{
        data::{Counter, DataHeader, Lane, ReceiverIndex},
        ecn::Ecn,
        record::{Farewell, LossReport, ProbeAck, ProbeId, RECORD_HEADER_LEN, RecordKind, RecordWriter, Records},
    },
};

mod misuse;
mod order;
mod properties;
mod records;
mod torn;

const RECEIVER: ReceiverIndex = ReceiverIndex(7);

/// A sealed chunk without the sealing.
type Datagram = (DataHeader, Vec<u8>);

/// What was delivered, taken out of the assembler's buffers.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Got {
    Frame(VnetHeader, Vec<u8>),
    Control(Vec<u8>),
    Probe(ProbeId, u32),
    ProbeAck(ProbeAck),
    Farewell(Farewell),
    LossReport(LossReport),
}

fn cut(records: &[u8], first_counter: u64, max_chunk_len: usize) -> Vec<Datagram> {
    let chunks = Cut::new(records.len(), max_chunk_len).chunks();
    chunks
        .map(|chunk| {
            let header = DataHeader {
                lane: Lane(1),
                chunk_index: chunk.index,
                is_last: chunk.is_last,
                receiver: RECEIVER,
                counter: Counter(first_counter + u64::from(chunk.index)),
            };
            (header, records[chunk.range].to_vec())
        })
        .collect()
}

fn control_train(body_len: usize, first_counter: u64) -> Vec<Datagram> {
    let mut buffer = vec![0; MAX_TRAIN_BYTES];
    let mut writer = RecordWriter::new(&mut buffer);
    writer.push(RecordKind::Control, &vec![first_counter as u8; body_len]).unwrap();
    cut(writer.records(), first_counter, 1440)
}

fn poll_all(assembler: &mut Assembler) -> Vec<Got> {
    let mut got = Vec::new();
    while let Some(delivery) = assembler.poll() {
        assert_eq!(delivery.receiver, RECEIVER);
        got.push(match delivery.item {
            Item::Frame { vnet, frame, .. } => Got::Frame(vnet, frame.to_vec()),
            Item::Control(bytes) => Got::Control(bytes.to_vec()),
            Item::Probe { id, len } => Got::Probe(id, len),
            Item::ProbeAck(ack) => Got::ProbeAck(ack),
            Item::Farewell(farewell) => Got::Farewell(farewell),
            Item::LossReport(report) => Got::LossReport(report),
        });
    }
    got
}

fn receive(assembler: &mut Assembler, (header, plaintext): &Datagram) -> Result<Vec<Got>, ChunkRefusal> {
    let mut slot = assembler.slot_for(header, plaintext.len())?;
    slot.buffer().copy_from_slice(plaintext);
    Ok(match slot.commit(Ecn::NotEct) {
        Progress::Ready => poll_all(assembler),
        Progress::Incomplete => Vec::new(),
    })
}

fn receive_all<'a>(assembler: &mut Assembler, datagrams: impl IntoIterator<Item = &'a Datagram>) -> Vec<Got> {
    datagrams.into_iter().flat_map(|datagram| receive(assembler, datagram).unwrap()).collect()
}

/// Opens garbage into the slot, as the cipher does before it finds the tag wrong, and gives it back.
fn receive_forged(assembler: &mut Assembler, header: &DataHeader, len: usize) {
    if let Ok(mut slot) = assembler.slot_for(header, len) {
        slot.buffer().fill(0xbd);
    }
}

fn flush(assembler: &mut Assembler) -> Vec<Got> {
    let _ = assembler.flush_stale();
    poll_all(assembler)
}
fn swap_all<T>(items: &mut [T], swaps: &[(Index, Index)]) {
    let len = items.len();
    for (a, b) in swaps.iter().filter(|_| len > 0) {
        items.swap(a.index(len), b.index(len));
    }
}

/// A train with one TCP super-frame and no options.
fn bulk_train(first_counter: u64) -> (Spec, Vec<Datagram>) {
    let spec =
        Spec { payload: reference::payload(9000, first_counter as u8), gso_size: 1400, ..reference::small_tcp() };
    let (_, records) = write(&[Sent::Super(spec.clone())]);
    (spec, cut(&records, first_counter, 1440))
}

/// Which bytes of the super-frame came, piece by piece.
fn pieces(spec: &Spec, got: Vec<Got>) -> Vec<(usize, usize)> {
    let piece = |got| match got {
        Got::Frame(vnet, frame) => {
            let bytes = spec.identify(vnet, &frame);
            (bytes.start, bytes.end)
        }
        other => panic!("{other:?} is no frame"),
    };
    got.into_iter().map(piece).collect()
}

fn on_empty_socket(assembler: &mut Assembler) -> Vec<Got> {
    let _ = assembler.deliver_torn();
    poll_all(assembler)
}

/// A frame to send: a super-frame, one of its segments with either checksum, or bytes that are no IP at all.
#[derive(Clone, Debug)]
enum Sent {
    Super(Spec),
    Single(Spec, Check),
    Opaque(Vec<u8>),
}

impl Sent {
    fn vnet_and_frame(&self) -> (VnetHeader, Vec<u8>) {
        match self {
            Self::Super(spec) => (spec.vnet(&(0..spec.segment_count())), spec.superframe()),
            Self::Single(spec, Check::Partial) => (spec.vnet(&(0..1)), spec.frame(&(0..1), Check::Partial)),
            Self::Single(spec, Check::Finished) => (VnetHeader::default(), spec.frame(&(0..1), Check::Finished)),
            Self::Opaque(frame) => (VnetHeader::default(), frame.clone()),
        }
    }
}

/// As many of the frames as fit one train, and their records.
fn write(frames: &[Sent]) -> (Vec<&Sent>, Vec<u8>) {
    let mut buffer = vec![0; MAX_TRAIN_BYTES];
    let mut writer = RecordWriter::new(&mut buffer);
    let mut taken = Vec::new();
    for sent in frames {
        let (vnet, mut frame) = sent.vnet_and_frame();
        let kind = translate::classify(&vnet, &mut frame).unwrap();
        if writer.push(RecordKind::Frame(kind), &frame).is_ok() {
            taken.push(sent);
        }
    }
    (taken, writer.records().to_vec())
}

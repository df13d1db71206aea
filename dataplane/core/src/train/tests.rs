//! Trains from frames to frames: in any order, with loss, and among forged chunks.

use proptest::{prelude::*, sample::Index};

use super::{
    assembly::{Assembler, ChunkRefusal, Item, Losses, Progress, Waiting},
    cut::Cut,
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
        record::{Farewell, ProbeAck, ProbeId, RECORD_HEADER_LEN, RecordKind, RecordWriter, Records},
    },
};

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

fn any_sent() -> impl Strategy<Value = Sent> {
    let check = prop_oneof![Just(Check::Partial), Just(Check::Finished)];
    prop_oneof![
        4 => reference::any_spec().prop_map(Sent::Super),
        1 => (reference::any_spec(), check).prop_map(|(spec, check)| Sent::Single(spec, check)),
        1 => (14..=MAX_FRAME_LEN, any::<u8>()).prop_map(|(len, seed)| Sent::Opaque(reference::payload(len, seed))),
    ]
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

/// What has to be delivered when only some bytes of the records arrive, worked out byte by byte.
fn salvageable(frames: &[&Sent], arrived: &[bool]) -> Vec<Got> {
    let mut got = Vec::new();
    let mut at = 0;
    for sent in frames {
        let (vnet, frame) = sent.vnet_and_frame();
        if !arrived[at..at + RECORD_HEADER_LEN].iter().all(|byte| *byte) {
            break;
        }
        let body = &arrived[at + RECORD_HEADER_LEN..][..frame.len()];
        at += RECORD_HEADER_LEN + frame.len();
        if body.iter().all(|byte| *byte) {
            got.push(Got::Frame(vnet, frame));
        } else if let Sent::Super(spec) = sent {
            got.extend(runs(spec, body));
        }
    }
    got
}

/// The pieces of a super-frame that are there: bytes of TCP, datagrams of UDP.
fn runs(spec: &Spec, body: &[bool]) -> Vec<Got> {
    let (header, payload) = body.split_at(body.len() - spec.payload.len());
    if !header.iter().all(|byte| *byte) {
        return Vec::new();
    }
    let unit = if matches!(spec.transport, L4::Udp) { usize::from(spec.gso_size) } else { 1 };
    let complete: Vec<bool> = payload.chunks(unit).map(|unit| unit.iter().all(|byte| *byte)).collect();
    let mut got = Vec::new();
    let mut start = 0;
    for end in 1..=complete.len() {
        if end == complete.len() || complete[end] != complete[start] {
            if complete[start] {
                let bytes = start * unit..(end * unit).min(payload.len());
                got.push(Got::Frame(spec.vnet_of(&bytes), spec.frame_of(&bytes, Check::Partial)));
            }
            start = end;
        }
    }
    got
}

fn swap_all<T>(items: &mut [T], swaps: &[(Index, Index)]) {
    let len = items.len();
    for (a, b) in swaps.iter().filter(|_| len > 0) {
        items.swap(a.index(len), b.index(len));
    }
}

fn any_chunk_len() -> impl Strategy<Value = usize> {
    prop_oneof![Just(1232 - 32), Just(1472 - 32), Just(8972 - 32), 1200..8940_usize]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn any_frames_come_out_as_they_went_in_whatever_the_order(
        frames in proptest::collection::vec(any_sent(), 1..5),
        max_chunk_len in any_chunk_len(),
        swaps in proptest::collection::vec(any::<(Index, Index)>(), 0..100),
        repeated in proptest::collection::vec(any::<Index>(), 0..10),
    ) {
        let (taken, records) = write(&frames);
        let datagrams = cut(&records, 1000, max_chunk_len);
        let mut order: Vec<_> = (0..datagrams.len()).collect();
        swap_all(&mut order, &swaps);
        let mut assembler = Assembler::new();
        let mut got = Vec::new();
        for (at, index) in order.iter().enumerate() {
            got.extend(receive(&mut assembler, &datagrams[*index]).unwrap());
            for again in repeated.iter().map(|again| again.index(at + 1)).filter(|_| at + 1 < order.len()) {
                prop_assert_eq!(receive(&mut assembler, &datagrams[order[again]]), Err(ChunkRefusal::Duplicate));
            }
        }
        let expected: Vec<_> = taken.iter().map(|sent| sent.vnet_and_frame()).collect();
        let expected: Vec<_> = expected.into_iter().map(|(vnet, frame)| Got::Frame(vnet, frame)).collect();
        prop_assert_eq!(got, expected);
        prop_assert_eq!(flush(&mut assembler), vec![]);
        prop_assert_eq!(assembler.take_losses(), Losses::default());
    }

    #[test]
    fn of_a_torn_train_exactly_the_complete_segments_are_delivered(
        frames in proptest::collection::vec(any_sent(), 1..5),
        max_chunk_len in any_chunk_len(),
        lost in proptest::collection::vec(any::<Index>(), 1..8),
        swaps in proptest::collection::vec(any::<(Index, Index)>(), 0..20),
    ) {
        let (taken, records) = write(&frames);
        let mut datagrams = cut(&records, 1000, max_chunk_len);
        let chunks: Vec<_> = Cut::new(records.len(), max_chunk_len).chunks().collect();
        let mut arrived = vec![true; records.len()];
        let lost: Vec<_> = lost.iter().map(|index| index.index(chunks.len())).collect();
        for index in &lost {
            arrived[chunks[*index].range.clone()].fill(false);
        }
        datagrams.retain(|(header, _)| !lost.contains(&usize::from(header.chunk_index)));
        swap_all(&mut datagrams, &swaps);
        // With the last chunk alone nobody knows where it belongs.
        let is_placed = datagrams.iter().any(|(header, _)| !header.is_last);
        let mut assembler = Assembler::new();
        prop_assert_eq!(receive_all(&mut assembler, &datagrams), vec![]);
        let got = flush(&mut assembler);
        let expected = if is_placed { salvageable(&taken, &arrived) } else { Vec::new() };
        prop_assert_eq!(got, expected);
        let losses = assembler.take_losses();
        prop_assert_eq!(losses.incomplete_trains, u64::from(!datagrams.is_empty()));
        prop_assert_eq!(losses.malformed_records + losses.inconsistent_trains, 0);
    }

    #[test]
    fn what_is_delivered_in_several_goes_comes_once_and_in_the_end_wholly(
        spec in reference::any_spec(),
        max_chunk_len in any_chunk_len(),
        swaps in proptest::collection::vec(any::<(Index, Index)>(), 0..40),
        goes in proptest::collection::vec(any::<Index>(), 0..12),
    ) {
        let (_, records) = write(&[Sent::Super(spec.clone())]);
        let mut datagrams = cut(&records, 1000, max_chunk_len);
        swap_all(&mut datagrams, &swaps);
        let goes: Vec<_> = goes.iter().map(|index| index.index(datagrams.len())).collect();
        let mut assembler = Assembler::new();
        let mut came = vec![false; spec.payload.len()];
        for (at, datagram) in datagrams.iter().enumerate() {
            let mut got = receive(&mut assembler, datagram).unwrap();
            if goes.contains(&at) {
                let _ = assembler.deliver_partial();
                got.extend(poll_all(&mut assembler));
            }
            for got in got {
                let Got::Frame(vnet, frame) = got else { panic!("only frames were sent") };
                let bytes = spec.identify(vnet, &frame);
                prop_assert!(came[bytes.clone()].iter().all(|came| !came), "{:?} came twice", bytes);
                came[bytes].fill(true);
            }
        }
        prop_assert!(came.iter().all(|came| *came));
        prop_assert_eq!(assembler.waiting(), Waiting::ForNothing);
        prop_assert_eq!(assembler.take_losses(), Losses::default());
    }

    #[test]
    fn forged_chunks_change_nothing(
        frames in proptest::collection::vec(any_sent(), 1..3),
        max_chunk_len in any_chunk_len(),
        forged in proptest::collection::vec((0..200_u64, 0..128_u8, any::<bool>(), 0..9000_usize), 1..60),
        swaps in proptest::collection::vec(any::<(Index, Index)>(), 0..100),
    ) {
        let (taken, records) = write(&frames);
        let mut datagrams = cut(&records, 1000, max_chunk_len);
        swap_all(&mut datagrams, &swaps);
        let mut assembler = Assembler::new();
        let mut got = Vec::new();
        for (at, datagram) in datagrams.iter().enumerate() {
            for (offset, chunk_index, is_last, len) in forged.iter().cycle().skip(at).take(5) {
                let train = if offset % 4 == 0 { 950 + offset } else { 1000 };
                let counter = Counter(train + u64::from(*chunk_index));
                let header = DataHeader { chunk_index: *chunk_index, is_last: *is_last, counter, ..datagram.0 };
                receive_forged(&mut assembler, &header, *len);
                receive_forged(&mut assembler, &header, datagram.1.len());
            }
            got.extend(receive(&mut assembler, datagram).unwrap());
        }
        let expected: Vec<_> = taken.iter().map(|sent| sent.vnet_and_frame()).collect();
        let expected: Vec<_> = expected.into_iter().map(|(vnet, frame)| Got::Frame(vnet, frame)).collect();
        prop_assert_eq!(got, expected);
        prop_assert_eq!(assembler.take_losses(), Losses::default());
    }

    #[test]
    fn no_authentic_bytes_make_the_assembler_panic(
        chunks in proptest::collection::vec(
            (0..4_u64, 0..10_u8, any::<bool>(), proptest::collection::vec(any::<u8>(), 0..40)),
            1..60,
        ),
    ) {
        let mut assembler = Assembler::new();
        for (train, chunk_index, is_last, mut bytes) in chunks {
            // A kind and a length that make sense take the walk further than noise does.
            bytes.iter_mut().take(8).enumerate().for_each(|(at, byte)| *byte %= [40, 1, 8, 1, 60, 1, 1, 1][at]);
            let counter = Counter(train * 20 + u64::from(chunk_index));
            let header = DataHeader { lane: Lane(0), chunk_index, is_last, receiver: RECEIVER, counter };
            let _ = receive(&mut assembler, &(header, bytes));
        }
        flush(&mut assembler);
        let mut all_free = (0..MAX_ASSEMBLIES as u64).map(|at| control_train(2000, 1000 + 10 * at));
        prop_assert!(all_free.all(|train| receive_all(&mut assembler, &train[..1]).is_empty()));
    }
}

#[test]
fn everything_that_is_no_frame_passes_too() {
    let mut buffer = vec![0; MAX_TRAIN_BYTES];
    let mut writer = RecordWriter::new(&mut buffer);
    let ack = ProbeAck { id: ProbeId(4), len: 1400 };
    writer.push_probe(ProbeId(3), 1000).unwrap();
    writer.push(RecordKind::Control, b"gossip").unwrap();
    writer.push_probe_ack(ack).unwrap();
    writer.push_farewell(Farewell::Ending).unwrap();
    let got = receive_all(&mut Assembler::new(), &cut(writer.records(), 0, 1440));
    let control = Got::Control(b"gossip".to_vec());
    assert_eq!(got, [Got::Probe(ProbeId(3), 992), control, Got::ProbeAck(ack), Got::Farewell(Farewell::Ending)]);
}

#[test]
fn an_empty_train_brings_nothing_and_leaves_nothing() {
    let mut assembler = Assembler::new();
    for counter in 0..100 {
        assert_eq!(receive(&mut assembler, &cut(&[], counter, 1440)[0]), Ok(vec![]));
    }
    assert_eq!(flush(&mut assembler), []);
    assert_eq!(assembler.take_losses(), Losses::default());
}

#[test]
fn the_largest_control_bytes_fit_a_train() {
    let body_len = weaved_api::MAX_CONTROL_BYTES;
    let got = receive_all(&mut Assembler::new(), &control_train(body_len, 9));
    assert_eq!(got, [Got::Control(vec![9; body_len])]);
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

#[test]
fn a_lost_chunk_holds_up_nothing_and_a_late_one_brings_what_it_held() {
    let mut assembler = Assembler::new();
    let (spec, train) = bulk_train(100);
    let len = train[0].1.len();
    let headers = spec.superframe().len() - spec.payload.len() + RECORD_HEADER_LEN;
    let hole = (2 * len - headers, 3 * len - headers);
    receive_all(&mut assembler, train[..2].iter().chain(&train[3..5]));
    assert_eq!(assembler.waiting(), Waiting::ToDeliver);
    let there = [(0, hole.0), (hole.1, 5 * len - headers)];
    assert_eq!(pieces(&spec, on_empty_socket(&mut assembler)), there);
    assert_eq!(assembler.waiting(), Waiting::ForLateChunks);
    let mut rest = receive_all(&mut assembler, &train[5..]);
    rest.extend(on_empty_socket(&mut assembler));
    assert_eq!(pieces(&spec, rest), [(5 * len - headers, 9000)]);
    assert_eq!(pieces(&spec, receive(&mut assembler, &train[2]).unwrap()), [hole]);
    assert_eq!((assembler.waiting(), assembler.take_losses()), (Waiting::ForNothing, Losses::default()));
}

#[test]
fn what_is_there_of_a_torn_train_comes_before_a_younger_one_of_its_lane() {
    let mut assembler = Assembler::new();
    let (spec, mut torn) = bulk_train(100);
    torn.pop();
    assert_eq!(receive_all(&mut assembler, &torn), []);
    let mut other_lane = control_train(2000, 500);
    other_lane.iter_mut().for_each(|(header, _)| header.lane = Lane(2));
    assert_eq!(receive_all(&mut assembler, &other_lane).len(), 1, "another lane says nothing");
    let mut got = receive_all(&mut assembler, &control_train(2000, 200));
    assert_eq!(got.pop(), Some(Got::Control(vec![200; 2000])));
    assert_eq!(pieces(&spec, got).len(), 1);
    let (spec, torn) = bulk_train(300);
    assert_eq!(receive_all(&mut assembler, &torn[1..]), []);
    let mut got = receive_all(&mut assembler, &control_train(10, 400));
    assert_eq!(got.pop(), Some(Got::Control(vec![144; 10])), "one of a single chunk, too");
    assert_eq!(pieces(&spec, got), [], "without its headers nothing is saved");
    assert_eq!(pieces(&spec, receive(&mut assembler, &torn[0]).unwrap()), [(0, 9000)], "until they come");
}

#[test]
fn a_train_that_comes_slowly_is_delivered_as_it_comes() {
    let mut assembler = Assembler::new();
    let (spec, train) = bulk_train(100);
    assert_eq!(receive_all(&mut assembler, &train[..2]), []);
    let waits = (0..20).take_while(|_| on_empty_socket(&mut assembler).is_empty()).count();
    assert_eq!(waits, 7, "a train that is met half way a few times stays in one piece");
    let mut got = receive_all(&mut assembler, &train[2..4]);
    let _ = assembler.deliver_partial();
    got.extend(poll_all(&mut assembler));
    assert_eq!(pieces(&spec, got).len(), 1, "after a moment of silence");
    assert_eq!(receive_all(&mut assembler, &train[4..]).len(), 1);
}

#[test]
fn on_a_lossy_lane_super_frames_come_in_pairs_of_segments() {
    let mut assembler = Assembler::new();
    for counter in (0..5000).filter(|counter| counter % 100 != 7) {
        assert_eq!(receive_all(&mut assembler, &control_train(10, counter)).len(), 1);
    }
    let (spec, train) = bulk_train(5000);
    let pairs = [(0, 2800), (2800, 5600), (5600, 8400), (8400, 9000)];
    assert_eq!(pieces(&spec, receive_all(&mut assembler, &train)), pairs);
}

#[test]
fn on_a_path_that_reorders_a_hole_is_waited_for() {
    let mut assembler = Assembler::new();
    let (_, train) = bulk_train(100);
    let order = [0, 2, 3, 4, 1, 5, 6];
    let got: Vec<Got> = order
        .iter()
        .flat_map(|at| {
            let mut got = receive(&mut assembler, &train[*at]).unwrap();
            got.extend(on_empty_socket(&mut assembler));
            got
        })
        .collect();
    assert!(got.len() > 1, "the first time nobody knows");
    let (_, train) = bulk_train(200);
    assert_eq!(receive_all(&mut assembler, order[..4].iter().map(|at| &train[*at])), []);
    assert_eq!(on_empty_socket(&mut assembler), []);
    assert_eq!(assembler.waiting(), Waiting::ToDeliverLate);
    assert_eq!(receive_all(&mut assembler, order[4..].iter().map(|at| &train[*at])).len(), 1, "in one piece");
}

#[test]
fn a_train_of_the_lane_that_is_much_later_ends_the_wait() {
    let mut assembler = Assembler::new();
    let mut torn = control_train(10, 100);
    torn.extend(control_train(4000, 200));
    torn.pop();
    assert_eq!(receive_all(&mut assembler, &torn).len(), 1);
    assert_eq!(receive_all(&mut assembler, &control_train(10, 199 + MAX_REORDER_DATAGRAMS)).len(), 1);
    assert_eq!(assembler.take_losses().incomplete_trains, 0);
    let mut other_lane = control_train(10, 400);
    other_lane[0].0.lane = Lane(2);
    receive_all(&mut assembler, &other_lane);
    assert_eq!(assembler.take_losses().incomplete_trains, 0, "another lane says nothing about this one");
    receive_all(&mut assembler, &control_train(10, 50));
    assert_eq!(assembler.take_losses().incomplete_trains, 0, "nor does a late train");
    receive_all(&mut assembler, &control_train(10, 200 + MAX_REORDER_DATAGRAMS));
    assert_eq!(assembler.take_losses().incomplete_trains, 1);
}

#[test]
fn a_full_pool_gives_up_the_oldest_train() {
    let mut assembler = Assembler::new();
    let torn = |lane: u8| {
        let mut datagrams = control_train(4000, 100);
        for (header, _) in &mut datagrams {
            header.lane = Lane(lane);
        }
        datagrams
    };
    for lane in 0..MAX_ASSEMBLIES as u8 {
        assert_eq!(receive(&mut assembler, &torn(lane)[0]), Ok(vec![]));
    }
    assert_eq!(assembler.take_losses().incomplete_trains, 0);
    assert_eq!(receive(&mut assembler, &torn(100)[0]), Ok(vec![]));
    assert_eq!(assembler.take_losses().incomplete_trains, 1);
    assert_eq!(receive_all(&mut assembler, &torn(1)[1..]).len(), 1, "the second oldest is still there");
    assert_eq!(receive_all(&mut assembler, &torn(0)[1..]).len(), 0, "the oldest is not");
}

#[test]
fn authentic_chunks_that_contradict_each_other_end_their_train() {
    let datagrams = control_train(6000, 100);
    let first = &datagrams[0];
    let (count, len) = (datagrams.len() as u8, first.1.len());
    let with = |index: u8, is_last: bool, len: usize| {
        let counter = Counter(100 + u64::from(index));
        (DataHeader { chunk_index: index, is_last, counter, ..first.0 }, vec![1; len])
    };
    let last = datagrams.last().unwrap();
    let far_end = with(100, true, 100);
    let contradictions: [(&[&Datagram], Datagram); 8] = [
        (&[first], with(1, false, len - 1)),
        (&[first], with(1, true, len + 1)),
        (&[last], with(count, false, len)),
        (&[last], with(1, false, last.1.len() - 1)),
        (&[last], with(1, true, 10)),
        (&[&datagrams[2]], with(1, true, 10)),
        (&[first, last], with(count, true, 10)),
        (&[&far_end], with(0, false, 1200)),
    ];
    for (honest, contradiction) in contradictions {
        let mut assembler = Assembler::new();
        assert_eq!(receive_all(&mut assembler, honest.iter().copied()), []);
        assert_eq!(receive(&mut assembler, &contradiction), Ok(vec![]), "{:?}", contradiction.0);
        assert_eq!(assembler.take_losses().inconsistent_trains, 1, "{:?}", contradiction.0);
        assert_eq!(flush(&mut assembler), []);
        assert_eq!(receive_all(&mut assembler, &control_train(6000, 500)).len(), 1, "other trains go on");
    }
}

#[test]
fn chunks_that_fit_no_train_are_not_opened() {
    let mut assembler = Assembler::new();
    let header = control_train(10, 100)[0].0;
    let inner = DataHeader { chunk_index: 127, is_last: false, counter: Counter(500), ..header };
    let beyond = DataHeader { chunk_index: 128, counter: Counter(500), ..header };
    let across = DataHeader { chunk_index: (MAX_TRAIN_BYTES / 1220) as u8, ..inner };
    for (header, len) in [(header, MAX_DATAGRAM_LEN + 1), (inner, 0), (inner, 1200), (beyond, 10), (across, 1220)] {
        assert_eq!(assembler.slot_for(&header, len).err(), Some(ChunkRefusal::Malformed), "{header:?} {len}");
    }
}

#[test]
fn a_train_that_becomes_ready_meanwhile_waits_for_the_one_being_polled() {
    let mut buffer = vec![0; MAX_TRAIN_BYTES];
    let mut writer = RecordWriter::new(&mut buffer);
    writer.push(RecordKind::Control, b"first").unwrap();
    writer.push(RecordKind::Control, b"second").unwrap();
    let two_records = cut(writer.records(), 110, 1440);
    let torn = control_train(2000, 100);
    let mut assembler = Assembler::new();
    assert_eq!(receive(&mut assembler, &torn[0]), Ok(vec![]));
    let mut slot = assembler.slot_for(&two_records[0].0, two_records[0].1.len()).unwrap();
    slot.buffer().copy_from_slice(&two_records[0].1);
    assert_eq!(slot.commit(Ecn::NotEct), Progress::Ready);
    assert_eq!(assembler.poll().unwrap().item, Item::Control(b"first"));
    let got = receive(&mut assembler, &torn[1]).unwrap();
    assert_eq!(got, [Got::Control(b"second".to_vec()), Got::Control(vec![100; 2000])]);
}

#[test]
fn trains_are_delivered_in_the_order_in_which_they_began() {
    let (older, younger) = (control_train(2000, 100), control_train(10, 110));
    let mut assembler = Assembler::new();
    for (header, plaintext) in [&older[0], &younger[0], &older[1]] {
        let mut slot = assembler.slot_for(header, plaintext.len()).unwrap();
        slot.buffer().copy_from_slice(plaintext);
        let _ = slot.commit(Ecn::NotEct);
    }
    assert_eq!(poll_all(&mut assembler), [Got::Control(vec![100; 2000]), Got::Control(vec![110; 10])]);
}

#[test]
fn one_receive_may_bring_many_small_trains() {
    let mut assembler = Assembler::new();
    for _ in 0..3 {
        for counter in 0..64 {
            let (header, plaintext) = &control_train(1000, counter)[0];
            let mut slot = assembler.slot_for(header, plaintext.len()).unwrap();
            slot.buffer().copy_from_slice(plaintext);
            assert_eq!(slot.commit(Ecn::NotEct), Progress::Ready);
        }
        let expected: Vec<_> = (0..64).map(|counter| Got::Control(vec![counter; 1000])).collect();
        assert_eq!(poll_all(&mut assembler), expected);
    }
}

#[test]
fn a_caller_who_does_not_poll_is_told() {
    let mut assembler = Assembler::new();
    for counter in 0..MAX_SHELVED_TRAINS as u64 {
        let slot = assembler.slot_for(&control_train(10, counter)[0].0, 0).unwrap();
        assert_eq!(slot.commit(Ecn::NotEct), Progress::Ready);
    }
    let refusal = assembler.slot_for(&control_train(10, 999)[0].0, 0).err();
    assert_eq!(refusal, Some(ChunkRefusal::Undelivered));
    poll_all(&mut assembler);
    let lone = control_train(10, 0)[0].0;
    let shelved = (0..20)
        .take_while(|_| assembler.slot_for(&lone, MAX_DATAGRAM_LEN).map(|slot| slot.commit(Ecn::NotEct)).is_ok())
        .count();
    assert_eq!(shelved, ((1 << 16) + MAX_DATAGRAM_LEN) / MAX_DATAGRAM_LEN, "a shelf has a length, too");
    poll_all(&mut assembler);
    for train in 0..=MAX_ASSEMBLIES as u64 {
        for (header, plaintext) in control_train(2000, 1000 + 10 * train) {
            let mut slot = assembler.slot_for(&header, plaintext.len()).unwrap();
            slot.buffer().copy_from_slice(&plaintext);
            let _ = slot.commit(Ecn::NotEct);
        }
    }
    let next = control_train(2000, 5000);
    assert_eq!(assembler.slot_for(&next[0].0, 1000).err(), Some(ChunkRefusal::Undelivered));
    assert_eq!(poll_all(&mut assembler).len(), MAX_ASSEMBLIES + 1);
    assert_eq!(receive_all(&mut assembler, &next).len(), 1);
}

#[test]
fn a_record_longer_than_its_train_is_malformed() {
    let mut buffer = [0; 100];
    let mut writer = RecordWriter::new(&mut buffer);
    writer.push(RecordKind::Control, b"whole").unwrap();
    for cut_off in 1..=12 {
        let records = &writer.records()[..13 - cut_off];
        let mut assembler = Assembler::new();
        assert_eq!(receive_all(&mut assembler, &cut(records, 0, 1440)), []);
        assert_eq!(assembler.take_losses().malformed_records, 1, "{cut_off}");
    }
}

#[test]
fn a_malformed_record_costs_what_follows_and_is_counted() {
    let mut buffer = [0; 100];
    let mut writer = RecordWriter::new(&mut buffer);
    writer.push(RecordKind::Control, b"first").unwrap();
    writer.push(RecordKind::Frame(FrameKind::PartialChecksum), &[0; 20]).unwrap();
    writer.push(RecordKind::Control, b"third").unwrap();
    let mut records = writer.records().to_vec();
    records.extend([0; 12]);
    assert_eq!(Records::new(&records).count(), 4);
    let mut assembler = Assembler::new();
    let got = receive_all(&mut assembler, &cut(&records, 0, 1440));
    assert_eq!(got, [Got::Control(b"first".to_vec()), Got::Control(b"third".to_vec())]);
    assert_eq!(assembler.take_losses().malformed_records, 2);
}

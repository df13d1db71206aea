//! Any frames, any cut, any order, any loss, any forgery.

use super::*;

fn any_sent() -> impl Strategy<Value = Sent> {
    let check = prop_oneof![Just(Check::Partial), Just(Check::Finished)];
    prop_oneof![
        4 => reference::any_spec().prop_map(Sent::Super),
        1 => (reference::any_spec(), check).prop_map(|(spec, check)| Sent::Single(spec, check)),
        1 => (14..=MAX_FRAME_LEN, any::<u8>()).prop_map(|(len, seed)| Sent::Opaque(reference::payload(len, seed))),
    ]
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

//! Chunks that cannot be, and callers who do not poll.

use super::*;

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

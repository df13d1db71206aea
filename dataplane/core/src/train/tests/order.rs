//! The order in which complete trains come out.

use super::*;

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

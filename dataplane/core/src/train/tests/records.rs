//! What trains carry, and what they carry wrongly.

use super::*;

#[test]
fn everything_that_is_no_frame_passes_too() {
    let mut buffer = vec![0; MAX_TRAIN_BYTES];
    let mut writer = RecordWriter::new(&mut buffer);
    let ack = ProbeAck { id: ProbeId(4), len: 1400 };
    writer.push_probe(ProbeId(3), 1000).unwrap();
    writer.push(RecordKind::Control, b"gossip").unwrap();
    writer.push_probe_ack(ack).unwrap();
    writer.push(RecordKind::Padding, b"anything").unwrap();
    writer.push(RecordKind::Padding, b"").unwrap();
    writer.push_farewell(Farewell::Ending).unwrap();
    let report = LossReport { due_count: 9, opened_count: 8 };
    writer.push_loss_report(report).unwrap();
    let got = receive_all(&mut Assembler::new(), &cut(writer.records(), 0, 1440));
    let control = Got::Control(b"gossip".to_vec());
    let (farewell, report) = (Got::Farewell(Farewell::Ending), Got::LossReport(report));
    assert_eq!(got, [Got::Probe(ProbeId(3), 992), control, Got::ProbeAck(ack), farewell, report]);
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

//! The fast path as a whole, without the kernel: frames to sealed datagrams and back, and the train below it.
//!
//! Three loads: one small frame, sixteen of them in one train, one TCP super-frame of 60 KB in datagrams for Ethernet.
//! The cipher is AES-256-GCM.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use weaved_bench::fixture::{self, ETHERNET_DATAGRAM_LEN, Frame, SUPER_FRAME_LEN};
use weaved_core::{
    limits::MAX_TRAIN_BYTES,
    noise::Cipher,
    train::{assembly::Assembler, cut::Cut, outcome::Progress},
    wire::{
        data::{Counter, DATA_OVERHEAD, DataHeader, Lane, ReceiverIndex},
        ecn::Ecn,
        record::{RecordKind, RecordWriter},
    },
};

const MAX_CHUNK_LEN: usize = ETHERNET_DATAGRAM_LEN - DATA_OVERHEAD;

fn loads() -> [(&'static str, Vec<Frame>); 3] {
    [
        ("one 64-byte frame", vec![fixture::plain_frame(64)]),
        ("sixteen 64-byte frames", vec![fixture::plain_frame(64); 16]),
        ("one 60 KB super-frame", vec![fixture::super_frame()]),
    ]
}

fn encap(c: &mut Criterion) {
    let mut group = c.benchmark_group("encap");
    for (name, frames) in loads() {
        let (mut sender, _) = fixture::hosts(Cipher::Aegis256X4, ETHERNET_DATAGRAM_LEN, frames);
        group.throughput(Throughput::Bytes(sender.frame_bytes() as u64));
        group.bench_function(name, |b| {
            b.iter(|| {
                sender.run(|outgoing| {
                    black_box(outgoing.datagrams);
                });
            });
        });
    }
    group.finish();
}

/// A datagram is opened once in its life, so the time of making new ones is left out.
fn decap(c: &mut Criterion) {
    let mut group = c.benchmark_group("decap");
    for (name, frames) in loads() {
        let (mut sender, mut receiver) = fixture::hosts(Cipher::Aegis256X4, ETHERNET_DATAGRAM_LEN, frames);
        let frame_count = sender.frame_count();
        // Few super-frames at a time, so that they stay in the cache, where the kernel would have put them.
        let batch: u64 = if sender.frame_bytes() > MAX_CHUNK_LEN { 4 } else { 64 };
        group.throughput(Throughput::Bytes(sender.frame_bytes() as u64));
        group.bench_function(name, |b| {
            b.iter_custom(|iterations| {
                let mut elapsed = Duration::ZERO;
                let mut left = iterations;
                while left > 0 {
                    let runs = sender.run_and_keep(left.min(batch) as usize);
                    let start = Instant::now();
                    for sends in &runs {
                        assert_eq!(receiver.take(sends), frame_count);
                    }
                    elapsed += start.elapsed();
                    left -= runs.len() as u64;
                }
                elapsed
            });
        });
    }
    group.finish();
}

fn train(c: &mut Criterion) {
    let mut group = c.benchmark_group("train");
    group.bench_function("cut 60 KB", |b| {
        b.iter(|| {
            let cut = Cut::new(black_box(SUPER_FRAME_LEN), black_box(MAX_CHUNK_LEN));
            cut.chunks().map(|chunk| chunk.range.len()).sum::<usize>()
        });
    });
    let mut buffer = vec![0; MAX_TRAIN_BYTES];
    let mut writer = RecordWriter::new(&mut buffer);
    let frame = fixture::plain_frame(SUPER_FRAME_LEN).bytes;
    writer.push(RecordKind::Control, &frame).expect("a super-frame fits a train");
    let records = writer.records();
    let mut assembler = Assembler::new();
    let mut first = 0;
    group.throughput(Throughput::Bytes(records.len() as u64));
    group.bench_function("put 60 KB together, copy instead of cipher", |b| {
        b.iter(|| {
            assemble(&mut assembler, records, first);
            first += 128;
        });
    });
    group.finish();
}

/// Brings a whole train in, in order.
fn assemble(assembler: &mut Assembler, records: &[u8], first: u64) {
    let cut = Cut::new(records.len(), MAX_CHUNK_LEN);
    let mut progress = Progress::Incomplete;
    for chunk in cut.chunks() {
        let header = DataHeader {
            lane: Lane(1),
            chunk_index: chunk.index,
            is_last: chunk.is_last,
            receiver: ReceiverIndex(7),
            counter: Counter(first + u64::from(chunk.index)),
        };
        let mut slot = assembler.slot_for(&header, chunk.range.len()).expect("the train is new");
        slot.buffer().copy_from_slice(&records[chunk.range]);
        progress = slot.commit(Ecn::NotEct);
    }
    assert_eq!(progress, Progress::Ready);
    while let Some(delivery) = assembler.poll() {
        black_box(delivery);
    }
}

fn quick() -> Criterion {
    Criterion::default().warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(2))
}

criterion_group! { name = benches; config = quick(); targets = encap, decap, train }
criterion_main!(benches);

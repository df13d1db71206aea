//! What every datagram and every frame pays before anything is known about it: parsing, look-ups, the replay window.

use std::{hint::black_box, time::Duration};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use weaved_bench::fixture;
use weaved_core::{
    noise::ReplayWindow,
    offload::superframe::Layout,
    wire::{
        data::{Counter, DataHeader, Lane, ReceiverIndex},
        ethernet::EthernetHeader,
        header::parse_type,
        record::{RecordHeader, RecordKind},
    },
};

/// A counter has 31 bits; a window is made anew long before.
const COUNTERS_PER_WINDOW: u64 = 1 << 24;

fn parse(c: &mut Criterion) {
    let mut group = c.benchmark_group("parse");
    let header = DataHeader {
        lane: Lane(1),
        chunk_index: 7,
        is_last: false,
        receiver: ReceiverIndex(0x1234_5678),
        counter: Counter(1 << 20),
    };
    let mut datagram = header.emit().to_vec();
    datagram.resize(1472, 0);
    group.bench_function("type", |b| b.iter(|| parse_type(black_box(&datagram))));
    group.bench_function("data header", |b| b.iter(|| DataHeader::parse(black_box(&datagram))));
    let record = RecordHeader { kind: RecordKind::Control, body_len: 1400 }.emit();
    group.bench_function("record header", |b| b.iter(|| RecordHeader::parse(black_box(&record))));
    let frame = fixture::super_frame();
    group.bench_function("ethernet", |b| b.iter(|| EthernetHeader::parse(black_box(&frame.bytes))));
    group.bench_function("ethernet, ip, tcp", |b| {
        b.iter(|| Layout::parse(black_box(&frame.bytes), black_box(frame.bytes.len())));
    });
    group.finish();
}

fn fib(c: &mut Criterion) {
    let mut group = c.benchmark_group("fib");
    for count in [10, 1000, 65_536] {
        let (table, asked) = fixture::address_table(count);
        let mut turn = asked.iter().cycle();
        group.bench_function(BenchmarkId::new("look-up", count), |b| {
            b.iter(|| table.mac(*black_box(turn.next().expect("a cycle has no end"))).is_some());
        });
    }
    group.finish();
}

fn replay(c: &mut Criterion) {
    let mut group = c.benchmark_group("replay");
    let window = ReplayWindow::default();
    let mut next = 0;
    group.bench_function("accept in order", |b| {
        b.iter(|| {
            next = (next + 1) % COUNTERS_PER_WINDOW;
            window.accept(Counter(black_box(next)))
        });
    });
    group.bench_function("look and accept, reordered by 32", |b| {
        let window = ReplayWindow::default();
        let mut next = 0;
        b.iter(|| {
            next = (next + 1) % COUNTERS_PER_WINDOW;
            let counter = Counter(black_box(next ^ 31));
            (window.precheck(counter), window.accept(counter))
        });
    });
    group.finish();
}

fn quick() -> Criterion {
    Criterion::default().warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(2))
}

criterion_group! { name = benches; config = quick(); targets = parse, fib, replay }
criterion_main!(benches);

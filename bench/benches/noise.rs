//! The AEAD with all that is around it: counter, header, replay window. One datagram each.
//!
//! The lengths are chunks: 64 bytes, half a kilobyte, what fits Ethernet and what fits a jumbo frame.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use weaved_bench::fixture;
use weaved_core::{
    noise::{Cipher, Session},
    wire::data::{DATA_OVERHEAD, DataHeader, Lane},
};

const CHUNK_LENS: [usize; 4] = [64, 576, 1440, 8940];
const LANE: Lane = Lane(1);

/// Datagrams opened between two looks at the clock; few enough to stay in the cache.
const BATCH: usize = 16;

fn seal_one(session: &Session, chunk: &[u8], out: &mut [u8]) -> DataHeader {
    let counter = session.reserve(LANE, 1).expect("a bench is shorter than a session");
    let header = DataHeader { lane: LANE, chunk_index: 0, is_last: true, receiver: session.remote(), counter };
    session.seal(&header, chunk, out);
    header
}

fn seal(c: &mut Criterion) {
    let mut group = c.benchmark_group("seal");
    for cipher in Cipher::ALL {
        for len in CHUNK_LENS {
            let (sealing, _) = fixture::sessions(cipher);
            let (chunk, mut out) = (vec![7; len], vec![0; len + DATA_OVERHEAD]);
            group.throughput(Throughput::Bytes(len as u64));
            group.bench_function(BenchmarkId::new(sealing.cipher().name(), len), |b| {
                b.iter(|| seal_one(&sealing, black_box(&chunk), black_box(&mut out)));
            });
        }
    }
    group.finish();
}

/// A datagram is opened once in its life, so the time of making new ones is left out.
fn open(c: &mut Criterion) {
    let mut group = c.benchmark_group("open");
    for cipher in Cipher::ALL {
        for len in CHUNK_LENS {
            let (sealing, opening) = fixture::sessions(cipher);
            let chunk = vec![7; len];
            let mut datagrams = vec![vec![0; len + DATA_OVERHEAD]; BATCH];
            let mut out = vec![0; len];
            group.throughput(Throughput::Bytes(len as u64));
            group.bench_function(BenchmarkId::new(sealing.cipher().name(), len), |b| {
                b.iter_custom(|iterations| {
                    let mut elapsed = Duration::ZERO;
                    let mut left = iterations;
                    while left > 0 {
                        let batch = left.min(BATCH as u64) as usize;
                        for datagram in &mut datagrams[..batch] {
                            seal_one(&sealing, &chunk, datagram);
                        }
                        let start = Instant::now();
                        for datagram in &datagrams[..batch] {
                            let header = DataHeader::parse(datagram).expect("it was just sealed");
                            let opened = opening.open(&header, black_box(datagram), black_box(&mut out));
                            assert_eq!(opened, Ok(len));
                        }
                        elapsed += start.elapsed();
                        left -= batch as u64;
                    }
                    elapsed
                });
            });
        }
    }
    group.finish();
}

fn quick() -> Criterion {
    Criterion::default().warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(2))
}

criterion_group! { name = benches; config = quick(); targets = seal, open }
criterion_main!(benches);

//! Counts the allocations of each operation of the fast path. More than none is a failure.
//!
//! NOTE: what the AEAD's C code might take is not seen here; Rust's allocator is what is counted, on this thread.

use std::{hint::black_box, process::ExitCode};

use weaved_bench::fixture::{self, ETHERNET_DATAGRAM_LEN, Frame};
use weaved_core::{
    noise::{Cipher, ReplayWindow},
    testing::allocations::{self, Counting},
    wire::data::{Counter, DATA_OVERHEAD, DataHeader, Lane},
};

/// How often each operation is done while it is counted, after having been done as often before.
const TIMES: usize = 200;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Allocations of [`TIMES`] calls, after as many that are not counted.
fn count(mut operation: impl FnMut(usize)) -> u64 {
    (0..TIMES).for_each(&mut operation);
    let before = allocations::count();
    (TIMES..2 * TIMES).for_each(&mut operation);
    allocations::count() - before
}

fn sealing(cipher: Cipher) -> [u64; 2] {
    let (a, b) = fixture::sessions(cipher);
    let chunk = [7; 1440];
    let mut datagrams = vec![[0; 1440 + DATA_OVERHEAD]; 2 * TIMES];
    let seal = count(|at| {
        let counter = a.reserve(Lane(1), 1).expect("a bench is shorter than a session");
        let header = DataHeader { lane: Lane(1), chunk_index: 0, is_last: true, receiver: a.remote(), counter };
        a.seal(&header, &chunk, &mut datagrams[at]);
    });
    let mut out = [0; 1440];
    let open = count(|at| {
        let header = DataHeader::parse(&datagrams[at]).expect("it was just sealed");
        assert_eq!(b.open(&header, &datagrams[at], &mut out), Ok(1440));
    });
    [seal, open]
}

fn forwarding(frames: Vec<Frame>) -> [u64; 2] {
    let (mut sender, mut receiver) = fixture::hosts(Cipher::Aegis256X4, ETHERNET_DATAGRAM_LEN, frames);
    let runs = sender.run_and_keep(2 * TIMES);
    let encap = count(|_| {
        sender.run(|outgoing| {
            black_box(outgoing.datagrams);
        });
    });
    let decap = count(|at| {
        black_box(receiver.take(&runs[at]));
    });
    [encap, decap]
}

fn main() -> ExitCode {
    let (table, asked) = fixture::address_table(1000);
    let window = ReplayWindow::default();
    let look_up = count(|at| {
        black_box(table.mac(asked[at]).is_some());
    });
    let replay = count(|at| {
        black_box(window.accept(Counter(at as u64)));
    });
    let [encap_one, decap_one] = forwarding(vec![fixture::plain_frame(64)]);
    let [encap_bundle, decap_bundle] = forwarding(vec![fixture::plain_frame(64); 16]);
    let [encap_super, decap_super] = forwarding(vec![fixture::super_frame()]);
    let ciphers = Cipher::ALL.into_iter().flat_map(|cipher| {
        let [seal, open] = sealing(cipher);
        [(format!("seal, {}", cipher.name()), seal), (format!("open, {}", cipher.name()), open)]
    });
    let others = [
        ("FIB look-up", look_up),
        ("replay window", replay),
        ("encap, one 64-byte frame", encap_one),
        ("decap, one 64-byte frame", decap_one),
        ("encap, sixteen 64-byte frames", encap_bundle),
        ("decap, sixteen 64-byte frames", decap_bundle),
        ("encap, one 60 KB super-frame", encap_super),
        ("decap, one 60 KB super-frame", decap_super),
    ];
    let others = others.map(|(name, allocations)| (name.to_owned(), allocations));
    let rows: Vec<_> = ciphers.chain(others).collect();
    println!("allocations of {TIMES} times");
    for (name, allocations) in &rows {
        println!("  {name:<32} {allocations}");
    }
    // The counter itself is tested too: what allocates has to be seen.
    let seen = count(|_| drop(black_box(vec![0_u8; 100])));
    let works = seen == TIMES as u64;
    println!("  {:<32} {seen}", "(a vector, to test the counter)");
    if works && rows.iter().all(|(_, allocations)| *allocations == 0) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

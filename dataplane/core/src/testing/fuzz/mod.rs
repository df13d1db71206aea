//! The bodies of the fuzz targets: what must hold for any bytes at all.
//!
//! The fuzzer (`dataplane/core/fuzz`) and the replay of its corpus (`tests/fuzz_corpus.rs`) call the same functions.
//! A function panics when something does not hold. The same bytes always do the same.

mod fast_path;
mod handshake;
mod parsers;

pub use fast_path::{decap, encap};
pub use handshake::handshake;
pub use parsers::{framing, wire};

/// A fuzz target.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name, and that of the folder of its corpus.
    pub name: &'static str,
    /// What it does with an input.
    pub run: fn(&[u8]),
}

/// All of them.
pub const TARGETS: [Target; 5] = [
    Target { name: "wire", run: wire },
    Target { name: "handshake", run: handshake },
    Target { name: "decap", run: decap },
    Target { name: "encap", run: encap },
    Target { name: "framing", run: framing },
];

/// Reads choices from the front of an input; zeros when it has ended.
struct Choices<'a>(&'a [u8]);

impl<'a> Choices<'a> {
    fn byte(&mut self) -> u8 {
        let [byte] = self.array();
        byte
    }

    fn word(&mut self) -> u16 {
        u16::from_le_bytes(self.array())
    }

    fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut array = [0; N];
        let taken = self.take(N);
        array[..taken.len()].copy_from_slice(taken);
        array
    }

    /// At most `len` bytes.
    fn take(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        taken
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Changes some bytes of a message, as the rest of the input says. Says whether it is another message now.
    fn mutate(&mut self, message: &mut Vec<u8>) -> bool {
        let before = message.clone();
        while !self.is_empty() {
            let (at, with) = (usize::from(self.word()), self.byte());
            match message.get_mut(at) {
                Some(byte) => *byte ^= with,
                None if at > 60_000 => message.truncate(usize::from(with)),
                None => message.push(with),
            }
        }
        *message != before
    }
}

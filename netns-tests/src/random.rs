//! A small generator whose numbers are the same everywhere for the same seed, and a checksum for what it made.
//!
//! Both ends of a transfer know the seed, so content is compared without being sent twice. `SplitMix64` and FNV-1a:
//! a few lines each, and nothing here guards a secret.

/// `SplitMix64`.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The same seed gives the same numbers.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number in `0..end`; 0 when `end` is 0.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next_u64().checked_rem(end).unwrap_or(0)
    }

    /// True once in `1 / probability` calls.
    pub fn happens(&mut self, probability: f64) -> bool {
        f64::from((self.next_u64() >> 32) as u32) < probability * f64::from(u32::MAX)
    }

    /// Overwrites `buffer`.
    pub fn fill(&mut self, buffer: &mut [u8]) {
        for chunk in buffer.chunks_mut(8) {
            let word = self.next_u64().to_le_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
    }
}

/// FNV-1a of a stream of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checksum(u64);

impl Default for Checksum {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Checksum {
    /// Takes in the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    /// The sum of all so far.
    pub fn value(self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_bytes() {
        let (mut one, mut two, mut other) = ([0; 33], [0; 33], [0; 33]);
        Random::new(7).fill(&mut one);
        Random::new(7).fill(&mut two);
        Random::new(8).fill(&mut other);
        assert_eq!(one, two);
        assert_ne!(one, other);
    }

    #[test]
    fn checksum_does_not_depend_on_how_the_stream_is_cut() {
        let (mut whole, mut cut) = (Checksum::default(), Checksum::default());
        whole.update(b"abcdef");
        cut.update(b"ab");
        cut.update(b"cdef");
        assert_eq!(whole, cut);
        assert_ne!(whole, Checksum::default());
    }

    #[test]
    fn probability_is_kept_within_a_percent() {
        let mut random = Random::new(1);
        let hits = (0..100_000).filter(|_| random.happens(0.3)).count();
        assert!((29_000..31_000).contains(&hits), "{hits}");
    }
}

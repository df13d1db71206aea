//! All randomness of the core, from one seed: the same seed and the same inputs give the same outputs.
//!
//! Two streams, so that what others can see never comes from where keys come from: the *private* stream makes
//! ephemeral keys and the boot secret, the *public* one makes receiver indices and jitter.
//!
//! INVARIANT: the private stream cannot be run backwards. Each draw replaces the key of the stream, so that memory
//! read later does not tell the ephemeral keys of earlier handshakes (forward secrecy).

use std::hint::black_box;

use rand_chacha::{
    ChaCha20Rng,
    rand_core::{Rng as _, SeedableRng as _},
};
use zeroize::{Zeroize as _, Zeroizing};

use crate::wire::data::ReceiverIndex;

/// Bytes of a seed.
pub const SEED_LEN: usize = 32;

/// The two streams.
pub struct Rng {
    private: Zeroizing<[u8; SEED_LEN]>,
    public: ChaCha20Rng,
}

impl Rng {
    /// Both streams from one seed, which must come from the system's random source (in a simulation: from its number).
    pub fn new(mut seed: [u8; SEED_LEN]) -> Self {
        let mut root = ChaCha20Rng::from_seed(seed);
        seed.zeroize();
        let mut private = Zeroizing::new([0; SEED_LEN]);
        root.fill_bytes(private.as_mut());
        let mut public_seed = [0; SEED_LEN];
        root.fill_bytes(&mut public_seed);
        overwrite(&mut root);
        Self { private, public: ChaCha20Rng::from_seed(public_seed) }
    }

    /// Fills `secret` from the private stream and moves the stream to a new key.
    pub fn fill_private(&mut self, secret: &mut [u8]) {
        let mut stream = ChaCha20Rng::from_seed(*self.private);
        stream.fill_bytes(self.private.as_mut());
        stream.fill_bytes(secret);
        overwrite(&mut stream);
    }

    /// A number that others may see.
    pub fn public_u32(&mut self) -> u32 {
        self.public.next_u32()
    }

    /// A number that others may see.
    pub fn public_u64(&mut self) -> u64 {
        self.public.next_u64()
    }

    /// An index for a session; never 0, which means "nobody" in the header. The caller checks that it is not in use.
    pub fn receiver_index(&mut self) -> ReceiverIndex {
        loop {
            let index = self.public.next_u32();
            if index != 0 {
                return ReceiverIndex(index);
            }
        }
    }

    /// A number in `0.0..1.0` to spread timers with.
    pub fn jitter(&mut self) -> f32 {
        f32::from((self.public.next_u32() >> 16) as u16) / 65_536.0
    }
}

/// The generator does not wipe itself; this takes the place of its key, and `black_box` keeps it from being left out.
fn overwrite(stream: &mut ChaCha20Rng) {
    *stream = ChaCha20Rng::from_seed([0; SEED_LEN]);
    black_box(stream);
}

impl Drop for Rng {
    fn drop(&mut self) {
        overwrite(&mut self.public);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draw(rng: &mut Rng) -> [u8; 32] {
        let mut secret = [0; 32];
        rng.fill_private(&mut secret);
        secret
    }

    #[test]
    fn the_same_seed_gives_the_same_streams() {
        let (mut a, mut b) = (Rng::new([7; 32]), Rng::new([7; 32]));
        for _ in 0..10 {
            assert_eq!(draw(&mut a), draw(&mut b));
            assert_eq!(a.public_u64(), b.public_u64());
        }
        assert_ne!(draw(&mut a), draw(&mut Rng::new([8; 32])));
    }

    #[test]
    fn drawing_in_public_does_not_change_what_is_private() {
        let (mut a, mut b) = (Rng::new([7; 32]), Rng::new([7; 32]));
        for _ in 0..100 {
            a.public_u32();
        }
        assert_eq!(draw(&mut a), draw(&mut b));
    }

    #[test]
    fn a_draw_changes_the_key_of_the_private_stream() {
        let mut rng = Rng::new([7; 32]);
        let before = *rng.private;
        let secret = draw(&mut rng);
        assert_ne!(*rng.private, before);
        assert_ne!(*rng.private, secret, "what was handed out is not what comes next");
    }

    #[test]
    fn jitter_is_below_one_and_indices_are_not_nobody() {
        let mut rng = Rng::new([7; 32]);
        for _ in 0..10_000 {
            assert!((0.0..1.0).contains(&rng.jitter()));
            assert_ne!(rng.receiver_index(), ReceiverIndex(0));
        }
    }
}

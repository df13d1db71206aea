//! The bulk cipher of one lane: one key, one direction.
//!
//! Nonce = lane (32 bit LE) ‖ counter (64 bit LE). Both operations are out of place: the AEAD is the copy between the
//! frame and the wire buffer.
//!
//! INVARIANT: a key belongs to one direction of one lane of one session, so a nonce is unique when the counter is.

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey},
    hkdf::Prk,
};

use super::spec::LANE_INFO;
use crate::wire::data::{Counter, DATA_HEADER_LEN, Lane, TAG_LEN};

/// The AEADs of sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cipher {
    /// AES-256-GCM (NIST SP 800-38D); used when both ends have the instructions for it.
    Aes256Gcm,
    /// ChaCha20-Poly1305 (RFC 8439).
    ChaCha20Poly1305,
}

impl Cipher {
    /// What an operator reads.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Aes256Gcm => "AES-256-GCM",
            Self::ChaCha20Poly1305 => "ChaCha20-Poly1305",
        }
    }

    fn algorithm(self) -> &'static Algorithm {
        match self {
            Self::Aes256Gcm => &AES_256_GCM,
            Self::ChaCha20Poly1305 => &CHACHA20_POLY1305,
        }
    }

    /// Keeps the keys of the two ciphers apart.
    const fn code(self) -> u8 {
        match self {
            Self::Aes256Gcm => 1,
            Self::ChaCha20Poly1305 => 2,
        }
    }
}

/// The datagram is not what the other end has sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Forged;

/// Key of one lane in one direction. The library wipes it when it is freed.
pub(super) struct LaneKey {
    key: LessSafeKey,
    lane: Lane,
}

impl LaneKey {
    /// The key of `lane` below the key of a direction.
    pub(super) fn derive(direction: &Prk, cipher: Cipher, lane: Lane) -> Self {
        let info: [&[u8]; 2] = [LANE_INFO, &[cipher.code(), lane.0]];
        let derived = direction.expand(&info, cipher.algorithm()).expect("a cipher key is shorter than HKDF's limit");
        Self { key: LessSafeKey::new(UnboundKey::from(derived)), lane }
    }

    /// Writes ciphertext and tag of `chunk` to `out`, whose length is that of both.
    pub(super) fn seal(&self, counter: Counter, header: &[u8; DATA_HEADER_LEN], chunk: &[u8], out: &mut [u8]) {
        let (sealed, tag) = out.split_at_mut(chunk.len());
        self.key
            .seal_out_of_place_scatter(self.nonce(counter), Aad::from(header), chunk, sealed, &[], tag)
            .expect("the output has the length of chunk and tag, and a chunk is far below the AEAD's limit");
    }

    /// Writes the plaintext of `sealed` (ciphertext and tag) to `out`, whose length is that of the ciphertext.
    ///
    /// On failure `out` is zero.
    pub(super) fn open(&self, counter: Counter, header: &[u8], sealed: &[u8], out: &mut [u8]) -> Result<(), Forged> {
        let (sealed, tag) = sealed.split_at(sealed.len() - TAG_LEN);
        self.key.open_separate_gather(self.nonce(counter), Aad::from(header), sealed, tag, out).map_err(|_| {
            out.fill(0);
            Forged
        })
    }

    fn nonce(&self, counter: Counter) -> Nonce {
        let mut nonce = [0; 12];
        nonce[..4].copy_from_slice(&u32::from(self.lane.0).to_le_bytes());
        nonce[4..].copy_from_slice(&counter.0.to_le_bytes());
        Nonce::assume_unique_for_key(nonce)
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::hkdf;

    use super::*;

    fn direction() -> Prk {
        hkdf::Salt::new(hkdf::HKDF_SHA256, b"test").extract(&[7; 32])
    }

    fn sealed(key: &LaneKey, counter: u64) -> [u8; 64 + TAG_LEN] {
        let mut out = [0; 64 + TAG_LEN];
        key.seal(Counter(counter), &[1; DATA_HEADER_LEN], &[0; 64], &mut out);
        out
    }

    #[test]
    fn lanes_have_keys_of_their_own_and_not_only_nonces() {
        for cipher in [Cipher::Aes256Gcm, Cipher::ChaCha20Poly1305] {
            let two = LaneKey::derive(&direction(), cipher, Lane(2));
            let one_with_nonces_of_two = LaneKey { lane: Lane(2), ..LaneKey::derive(&direction(), cipher, Lane(1)) };
            assert_ne!(sealed(&two, 5), sealed(&one_with_nonces_of_two, 5));
        }
    }

    #[test]
    fn lane_and_counter_are_in_the_nonce() {
        for cipher in [Cipher::Aes256Gcm, Cipher::ChaCha20Poly1305] {
            let key = LaneKey::derive(&direction(), cipher, Lane(1));
            let nonces: [[u8; 12]; 3] = [0, 1, u64::MAX].map(|counter| *key.nonce(Counter(counter)).as_ref());
            assert_eq!(nonces[1], [1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
            assert_eq!(nonces[2][4..], [0xff; 8]);
            assert_ne!(sealed(&key, 0), sealed(&key, 1));
        }
    }
}

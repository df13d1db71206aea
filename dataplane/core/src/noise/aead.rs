//! The bulk cipher of one lane: one key, one direction.
//!
//! Nonce = lane (32 bit LE) ‖ counter (64 bit LE), and zeros where the cipher's is longer. Both operations are out of
//! place: the AEAD is the copy between the frame and the wire buffer. The library of AEGIS works in place; there the
//! chunk is copied first, and is in the nearest cache then.
//!
//! INVARIANT: a key belongs to one direction of one lane of one session, so a nonce is unique when the counter is.

use aegis::{aegis256::Aegis256, aegis256x4::Aegis256X4};
use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    hkdf::{HKDF_SHA256, Prk},
};
use zeroize::Zeroizing;

use super::spec::LANE_INFO;
use crate::wire::{
    data::{Counter, DATA_HEADER_LEN, Lane, TAG_LEN},
    handshake::Ciphers,
};

/// Of AEGIS-256, bytes.
const WIDE_NONCE_LEN: usize = 32;

/// The AEADs of sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cipher {
    /// AEGIS-256X4 (RFC 10032) with a tag of 128 bits: four of AEGIS-256 side by side. For ends that have AES instructions on
    /// registers of 512 bits, which do all four at once; on others it is slower than AEGIS-256.
    Aegis256X4,
    /// AEGIS-256 (RFC 10032) with a tag of 128 bits: half the time of AES-256-GCM or less. For ends that have AES
    /// instructions and may use it.
    Aegis256,
    /// AES-256-GCM (NIST SP 800-38D), for ends that have the instructions for it.
    Aes256Gcm,
    /// ChaCha20-Poly1305 (RFC 8439), for all others.
    ChaCha20Poly1305,
}

impl Cipher {
    /// All of them, the fastest first.
    pub const ALL: [Self; 4] = [Self::Aegis256X4, Self::Aegis256, Self::Aes256Gcm, Self::ChaCha20Poly1305];

    /// What an end announces for which this is the fastest.
    pub const fn and_slower(self) -> Ciphers {
        Ciphers {
            aegis_256x4: matches!(self, Self::Aegis256X4),
            aegis_256: matches!(self, Self::Aegis256X4 | Self::Aegis256),
            aes_256_gcm: matches!(self, Self::Aegis256X4 | Self::Aegis256 | Self::Aes256Gcm),
        }
    }

    /// The fastest that both ends announce.
    pub fn common(ours: Ciphers, theirs: Ciphers) -> Self {
        if ours.aegis_256x4 && theirs.aegis_256x4 {
            Self::Aegis256X4
        } else if ours.aegis_256 && theirs.aegis_256 {
            Self::Aegis256
        } else if ours.aes_256_gcm && theirs.aes_256_gcm {
            Self::Aes256Gcm
        } else {
            Self::ChaCha20Poly1305
        }
    }

    /// What an operator reads.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Aegis256X4 => "AEGIS-256X4",
            Self::Aegis256 => "AEGIS-256",
            Self::Aes256Gcm => "AES-256-GCM",
            Self::ChaCha20Poly1305 => "ChaCha20-Poly1305",
        }
    }

    /// Keeps the keys of the ciphers apart.
    const fn code(self) -> u8 {
        match self {
            Self::Aes256Gcm => 1,
            Self::ChaCha20Poly1305 => 2,
            Self::Aegis256 => 3,
            Self::Aegis256X4 => 4,
        }
    }
}

/// The datagram is not what the other end has sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Forged;

/// Key of one lane in one direction. It is wiped when it is freed.
pub(super) struct LaneKey {
    key: Key,
    lane: Lane,
}

/// A key in the form that its library takes.
enum Key {
    /// AES-256-GCM or ChaCha20-Poly1305.
    AwsLc(LessSafeKey),
    Aegis(WideKey),
    AegisX4(WideKey),
}

/// Of AEGIS-256 and AEGIS-256X4, which keep nothing else between chunks.
type WideKey = Zeroizing<[u8; 32]>;

impl LaneKey {
    /// The key of `lane` below the key of a direction.
    pub(super) fn derive(direction: &Prk, cipher: Cipher, lane: Lane) -> Self {
        let info: [&[u8]; 2] = [LANE_INFO, &[cipher.code(), lane.0]];
        let key = match cipher {
            Cipher::Aegis256X4 => Key::AegisX4(wide_key(direction, &info)),
            Cipher::Aegis256 => Key::Aegis(wide_key(direction, &info)),
            Cipher::Aes256Gcm => Key::aws_lc(direction, &info, &AES_256_GCM),
            Cipher::ChaCha20Poly1305 => Key::aws_lc(direction, &info, &CHACHA20_POLY1305),
        };
        Self { key, lane }
    }

    /// Writes ciphertext and tag of `chunk` to `out`, whose length is that of both.
    pub(super) fn seal(&self, counter: Counter, header: &[u8; DATA_HEADER_LEN], chunk: &[u8], out: &mut [u8]) {
        let (sealed, tag) = out.split_at_mut(chunk.len());
        match &self.key {
            Key::AwsLc(key) => key
                .seal_out_of_place_scatter(self.nonce(counter), Aad::from(header), chunk, sealed, &[], tag)
                .expect("the output has the length of chunk and tag, and a chunk is far below the AEAD's limit"),
            Key::Aegis(key) => {
                sealed.copy_from_slice(chunk);
                let made = Aegis256::<TAG_LEN>::new(key, &self.wide_nonce(counter)).encrypt_in_place(sealed, header);
                tag.copy_from_slice(&made);
            }
            Key::AegisX4(key) => {
                sealed.copy_from_slice(chunk);
                let made = Aegis256X4::<TAG_LEN>::new(key, &self.wide_nonce(counter)).encrypt_in_place(sealed, header);
                tag.copy_from_slice(&made);
            }
        }
    }

    /// Writes the plaintext of `sealed` (ciphertext and tag) to `out`, whose length is that of the ciphertext.
    ///
    /// On failure `out` is zero.
    pub(super) fn open(&self, counter: Counter, header: &[u8], sealed: &[u8], out: &mut [u8]) -> Result<(), Forged> {
        let opened = match (&self.key, sealed.split_last_chunk()) {
            (Key::AwsLc(key), Some((sealed, tag))) => key
                .open_separate_gather(self.nonce(counter), Aad::from(header), sealed, &tag[..], out)
                .map_err(|_| Forged),
            (Key::Aegis(key), Some((sealed, tag))) => {
                out.copy_from_slice(sealed);
                let cipher = Aegis256::<TAG_LEN>::new(key, &self.wide_nonce(counter));
                cipher.decrypt_in_place(out, tag, header).map_err(|_| Forged)
            }
            (Key::AegisX4(key), Some((sealed, tag))) => {
                out.copy_from_slice(sealed);
                let cipher = Aegis256X4::<TAG_LEN>::new(key, &self.wide_nonce(counter));
                cipher.decrypt_in_place(out, tag, header).map_err(|_| Forged)
            }
            (_, None) => Err(Forged),
        };
        opened.inspect_err(|_| out.fill(0))
    }

    fn nonce(&self, counter: Counter) -> Nonce {
        Nonce::assume_unique_for_key(self.padded_nonce::<NONCE_LEN>(counter))
    }

    fn wide_nonce(&self, counter: Counter) -> [u8; WIDE_NONCE_LEN] {
        self.padded_nonce(counter)
    }

    fn padded_nonce<const LEN: usize>(&self, counter: Counter) -> [u8; LEN] {
        let mut nonce = [0; LEN];
        nonce[..4].copy_from_slice(&u32::from(self.lane.0).to_le_bytes());
        nonce[4..12].copy_from_slice(&counter.0.to_le_bytes());
        nonce
    }
}

impl Key {
    fn aws_lc(direction: &Prk, info: &[&[u8]], algorithm: &'static Algorithm) -> Self {
        let derived = direction.expand(info, algorithm).expect("a cipher key is shorter than HKDF's limit");
        Self::AwsLc(LessSafeKey::new(UnboundKey::from(derived)))
    }
}

fn wide_key(direction: &Prk, info: &[&[u8]]) -> WideKey {
    let mut key = Zeroizing::new([0; 32]);
    let derived = direction.expand(info, HKDF_SHA256).expect("a hash is shorter than HKDF's limit");
    derived.fill(key.as_mut()).expect("a hash of SHA-256 is 32 bytes");
    key
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
        for cipher in Cipher::ALL {
            let two = LaneKey::derive(&direction(), cipher, Lane(2));
            let one_with_nonces_of_two = LaneKey { lane: Lane(2), ..LaneKey::derive(&direction(), cipher, Lane(1)) };
            assert_ne!(sealed(&two, 5), sealed(&one_with_nonces_of_two, 5));
        }
    }

    fn bytes<const LEN: usize>(hex: &str) -> [u8; LEN] {
        std::array::from_fn(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap())
    }

    /// Section 16 of docs/protocol.md. Those of AEGIS were computed with two implementations.
    #[test]
    fn the_vectors_of_the_protocol_hold() {
        let header = bytes("16030100785634120500000000000000");
        let direction: [u8; 32] = bytes("92fecd545340bd8bea650f908da02bfea7528efb909be2caaa8fa590e2a4a584");
        let train: [u8; 10] = bytes("02000500000000006869");
        let sealed = [
            (Cipher::Aes256Gcm, "c80725732331e832ad3ef1ef73b46b54893e90441a9d7df947ba"),
            (Cipher::ChaCha20Poly1305, "e7ce7b9295250efc5c33ce7a216659f2e388a9d0b79c910c1ae5"),
            (Cipher::Aegis256, "ad8e1edbdd3efaa0778bb367355b8c7919ac9b50c87b9135bf17"),
            (Cipher::Aegis256X4, "dadda93b1edecfbcfd30efac01c26016e51b08f11b5562685ef9"),
        ];
        for (cipher, expected) in sealed {
            let key = LaneKey::derive(&Prk::new_less_safe(HKDF_SHA256, &direction), cipher, Lane(1));
            let mut out = [0; 26];
            key.seal(Counter(5), &header, &train, &mut out);
            assert_eq!(out, bytes(expected), "{cipher:?}");
        }
    }

    /// Where a text ends beside the end of a block, and where it is long. Of the library's code in C and of that in Rust.
    #[test]
    fn tags_of_aegis_are_those_of_another_implementation() {
        let (key, nonce) = (std::array::from_fn(|at| at as u8), std::array::from_fn(|at| 2 * at as u8));
        for (len, one, four) in [
            (63_usize, "20d948b39d58d3d9f29cd2da53a24d39", "bd4c83e4f9c2361fb809612cbe2a610b"),
            (64, "631f2f6a85dce7dcca12db9230379955", "4cd94505c2c7f7fa2cfb55c152e45179"),
            (65, "04fbc8717f3e386f2ecc3f246f49160d", "78ffc8cd9db3e8d6af531d444b2106a7"),
            (1440, "517247f605dcc31790a514b76143060c", "39bd43ec243b2b1bec8baf48353d0dd0"),
        ] {
            let text = || (0..len).map(|at| (at * 7) as u8).collect::<Vec<_>>();
            let tag = Aegis256::<TAG_LEN>::new(&key, &nonce).encrypt_in_place(&mut text(), &[3; 16]);
            assert_eq!(tag, bytes(one), "{len}");
            let tag = Aegis256X4::<TAG_LEN>::new(&key, &nonce).encrypt_in_place(&mut text(), &[3; 16]);
            assert_eq!(tag, bytes(four), "{len}");
        }
    }

    #[test]
    fn lane_and_counter_are_in_the_nonce() {
        for cipher in Cipher::ALL {
            let key = LaneKey::derive(&direction(), cipher, Lane(1));
            let nonces: [[u8; 12]; 3] = [0, 1, u64::MAX].map(|counter| *key.nonce(Counter(counter)).as_ref());
            assert_eq!(nonces[1], [1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
            assert_eq!(nonces[2][4..], [0xff; 8]);
            let wide = key.wide_nonce(Counter(1));
            assert_eq!((&wide[..12], &wide[12..]), (&nonces[1][..], &[0; 20][..]));
            assert_ne!(sealed(&key, 0), sealed(&key, 1));
        }
    }
}

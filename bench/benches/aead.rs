//! The bake-off of AEAD libraries: AEGIS-256 with one, two and four lanes, AES-256-GCM and ChaCha20-Poly1305 from a plaintext in one buffer to ciphertext and
//! tag in another, which is what a train needs. A library that only works in place copies first, as it would have to
//! in the product. See docs/performance.md for what was chosen and why.

use std::hint::black_box;

use aegis::{aegis256::Aegis256, aegis256x2::Aegis256X2, aegis256x4::Aegis256X4};
use aws_lc_rs::aead as aws;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use graviola::aead as grav;
use ring::aead as ring_aead;

const CHUNK_LENS: [usize; 4] = [64, 576, 1440, 8940];
const HEADER: [u8; 16] = [3; 16];
const TAG_LEN: usize = 16;

/// Seals one chunk into `out` with a fresh nonce.
type Seal = Box<dyn FnMut(&[u8], &mut [u8])>;

fn nonces() -> impl FnMut() -> [u8; 12] {
    let mut counter = 0_u64;
    move || {
        counter += 1;
        let mut nonce = [0; 12];
        nonce[4..].copy_from_slice(&counter.to_le_bytes());
        nonce
    }
}

fn aws_lc(algorithm: &'static aws::Algorithm) -> Seal {
    let key = aws::LessSafeKey::new(aws::UnboundKey::new(algorithm, &[7; 32]).expect("a key of 32 bytes"));
    let mut next = nonces();
    Box::new(move |chunk, out| {
        let (sealed, tag) = out.split_at_mut(chunk.len());
        let nonce = aws::Nonce::assume_unique_for_key(next());
        key.seal_out_of_place_scatter(nonce, aws::Aad::from(&HEADER), chunk, sealed, &[], tag).expect("lengths fit");
    })
}

fn ring(algorithm: &'static ring_aead::Algorithm) -> Seal {
    let key = ring_aead::UnboundKey::new(algorithm, &[7; 32]).expect("a key of 32 bytes");
    let key = ring_aead::LessSafeKey::new(key);
    let mut next = nonces();
    Box::new(move |chunk, out| {
        let (sealed, tag) = out.split_at_mut(chunk.len());
        sealed.copy_from_slice(chunk);
        let nonce = ring_aead::Nonce::assume_unique_for_key(next());
        let made = key.seal_in_place_separate_tag(nonce, ring_aead::Aad::from(&HEADER), sealed).expect("lengths fit");
        tag.copy_from_slice(made.as_ref());
    })
}

fn graviola_gcm() -> Seal {
    let key = grav::AesGcm::new(&[7; 32]);
    let mut next = nonces();
    Box::new(move |chunk, out| {
        let (sealed, tag) = out.split_at_mut(chunk.len());
        sealed.copy_from_slice(chunk);
        let tag: &mut [u8; TAG_LEN] = tag.try_into().expect("the tag is 16 bytes");
        key.encrypt(&next(), &HEADER, sealed, tag);
    })
}

fn graviola_chacha() -> Seal {
    let key = grav::ChaCha20Poly1305::new([7; 32]);
    let mut next = nonces();
    Box::new(move |chunk, out| {
        let (sealed, tag) = out.split_at_mut(chunk.len());
        sealed.copy_from_slice(chunk);
        let tag: &mut [u8; TAG_LEN] = tag.try_into().expect("the tag is 16 bytes");
        key.encrypt(&next(), &HEADER, sealed, tag);
    })
}

/// Of one of the family, as a function of nonce and text in place.
fn aegis(seal_in_place: fn(&[u8; 32], &mut [u8]) -> [u8; TAG_LEN]) -> Seal {
    let mut next = nonces();
    Box::new(move |chunk, out| {
        let (sealed, tag) = out.split_at_mut(chunk.len());
        sealed.copy_from_slice(chunk);
        let mut nonce = [0; 32];
        nonce[..12].copy_from_slice(&next());
        tag.copy_from_slice(&seal_in_place(&nonce, sealed));
    })
}

fn bake_off(c: &mut Criterion) {
    let one = aegis(|nonce, text| Aegis256::new(&[7; 32], nonce).encrypt_in_place(text, &HEADER));
    let two = aegis(|nonce, text| Aegis256X2::new(&[7; 32], nonce).encrypt_in_place(text, &HEADER));
    let four = aegis(|nonce, text| Aegis256X4::new(&[7; 32], nonce).encrypt_in_place(text, &HEADER));
    let ciphers: [(&str, Vec<(&str, Seal)>); 5] = [
        ("AEGIS-256", vec![("aegis", one)]),
        ("AEGIS-256X2", vec![("aegis", two)]),
        ("AEGIS-256X4", vec![("aegis", four)]),
        (
            "AES-256-GCM",
            vec![
                ("aws-lc-rs", aws_lc(&aws::AES_256_GCM)),
                ("ring", ring(&ring_aead::AES_256_GCM)),
                ("graviola", graviola_gcm()),
            ],
        ),
        (
            "ChaCha20-Poly1305",
            vec![
                ("aws-lc-rs", aws_lc(&aws::CHACHA20_POLY1305)),
                ("ring", ring(&ring_aead::CHACHA20_POLY1305)),
                ("graviola", graviola_chacha()),
            ],
        ),
    ];
    for (cipher, libraries) in ciphers {
        let mut group = c.benchmark_group(format!("aead/{cipher}"));
        for (library, mut seal) in libraries {
            for len in CHUNK_LENS {
                let (chunk, mut out) = (vec![7; len], vec![0; len + TAG_LEN]);
                group.throughput(Throughput::Bytes(len as u64));
                group.bench_function(BenchmarkId::new(library, len), |b| {
                    b.iter(|| seal(black_box(&chunk), black_box(&mut out)));
                });
            }
        }
        group.finish();
    }
}

criterion_group!(benches, bake_off);
criterion_main!(benches);

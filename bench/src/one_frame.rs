//! A tunnel written the straight way: the crate tun-tap, one frame for each read, one datagram for each frame.
//!
//! ```text
//!   datagram = counter (8, little endian) | sealed frame | tag (16)
//! ```
//!
//! It encrypts as weaved does, with AES-256-GCM, so that what differs is how frames get in and out of the kernel. One
//! thread each way. There is no handshake, no replay window and one key for everybody: it is a measure and not a
//! product.

use std::{
    io,
    net::{SocketAddr, UdpSocket},
    sync::Arc,
};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use tun_tap::{Iface, Mode};

const COUNTER_LEN: usize = 8;
const TAG_LEN: usize = 16;
const MAX_FRAME_LEN: usize = 2048;
/// What a frame of the largest MTU has around its IP packet on the underlay: Ethernet, counter, tag, UDP and IPv4.
pub const OVERHEAD: u16 = 14 + (COUNTER_LEN + TAG_LEN) as u16 + 8 + 20;

/// Carries frames between a new TAP and `peer` until something breaks.
pub fn run(tap: &str, listen: SocketAddr, peer: SocketAddr) -> io::Result<()> {
    let tap = Arc::new(Iface::without_packet_info(tap, Mode::Tap)?);
    let socket = Arc::new(UdpSocket::bind(listen)?);
    socket.connect(peer)?;
    let inbound = {
        let (tap, socket) = (Arc::clone(&tap), Arc::clone(&socket));
        std::thread::spawn(move || decap(&tap, &socket))
    };
    // The two ends must not use the same counters under the one key.
    let first = if listen_is_first(&socket)? { 0 } else { 1 << 63 };
    encap(&tap, &socket, first)?;
    inbound.join().unwrap_or_else(|_| Err(io::Error::other("the inbound thread has panicked")))
}

fn listen_is_first(socket: &UdpSocket) -> io::Result<bool> {
    Ok(socket.local_addr()? < socket.peer_addr()?)
}

fn encap(tap: &Iface, socket: &UdpSocket, mut counter: u64) -> io::Result<()> {
    let key = key()?;
    let mut buffer = vec![0; COUNTER_LEN + MAX_FRAME_LEN + TAG_LEN];
    loop {
        let len = tap.recv(&mut buffer[COUNTER_LEN..COUNTER_LEN + MAX_FRAME_LEN])?;
        let datagram = seal(&key, &mut buffer, len, counter)?;
        counter += 1;
        // A peer that is not there yet is a lost frame.
        let _ = socket.send(datagram);
    }
}

fn decap(tap: &Iface, socket: &UdpSocket) -> io::Result<()> {
    let key = key()?;
    let mut buffer = vec![0; COUNTER_LEN + MAX_FRAME_LEN + TAG_LEN];
    loop {
        // An error tells of an earlier datagram that nobody took.
        let Ok(len) = socket.recv(&mut buffer) else { continue };
        if let Some(frame) = open(&key, &mut buffer[..len]) {
            // The TAP is not up yet, or full: a lost frame.
            let _ = tap.send(frame);
        }
    }
}

fn key() -> io::Result<LessSafeKey> {
    let key = UnboundKey::new(&AES_256_GCM, &[0x42; 32]).map_err(|_| io::Error::other("no key"))?;
    Ok(LessSafeKey::new(key))
}

fn nonce(counter: [u8; COUNTER_LEN]) -> Nonce {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&counter);
    Nonce::assume_unique_for_key(nonce)
}

/// Seals the frame of `len` bytes that is behind the room for the counter.
fn seal<'a>(key: &LessSafeKey, buffer: &'a mut [u8], len: usize, counter: u64) -> io::Result<&'a [u8]> {
    let counter = counter.to_le_bytes();
    buffer[..COUNTER_LEN].copy_from_slice(&counter);
    let frame = &mut buffer[COUNTER_LEN..COUNTER_LEN + len];
    let tag = key.seal_in_place_separate_tag(nonce(counter), Aad::empty(), frame);
    let tag = tag.map_err(|_| io::Error::other("cannot seal"))?;
    let end = COUNTER_LEN + len + TAG_LEN;
    buffer[COUNTER_LEN + len..end].copy_from_slice(tag.as_ref());
    Ok(&buffer[..end])
}

/// None if somebody has changed it.
fn open<'a>(key: &LessSafeKey, datagram: &'a mut [u8]) -> Option<&'a [u8]> {
    let (counter, sealed) = datagram.split_first_chunk_mut::<COUNTER_LEN>()?;
    key.open_in_place(nonce(*counter), Aad::empty(), sealed).ok().map(|frame| &*frame)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_is_opened_and_what_is_changed_is_not() {
        let key = key().unwrap();
        let mut buffer = vec![7; COUNTER_LEN + MAX_FRAME_LEN + TAG_LEN];
        let mut datagram = seal(&key, &mut buffer, 100, 9).unwrap().to_vec();
        assert_eq!(datagram.len(), 100 + COUNTER_LEN + TAG_LEN);
        assert_eq!(open(&key, &mut datagram.clone()), Some(&[7; 100][..]));
        datagram[50] ^= 1;
        assert_eq!(open(&key, &mut datagram), None);
        assert_eq!(open(&key, &mut [1; 4]), None);
    }
}

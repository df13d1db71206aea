//! A stream of pseudo-random bytes over TCP. Both ends make the bytes from the seed and compare.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use weaved_netns_tests::random::{Checksum, Random};

use crate::{listen_any, read_u64};

/// A silence that is longer fails the transfer.
const SILENCE: Duration = Duration::from_secs(30);
/// What is made, sent and compared at a time.
const CHUNK_LEN: usize = 64 * 1024;

/// Receives transfers, one after the other, until killed.
pub(crate) fn serve(port: u16) -> io::Result<()> {
    let listener = listen_any(port)?;
    println!("listening");
    loop {
        let (mut stream, _) = listener.accept()?;
        match receive(&mut stream) {
            Ok(checksum) => println!("received {checksum:016x}"),
            Err(error) => println!("failed: {error}"),
        }
    }
}

/// Sends `bytes` bytes; done when the receiver has answered with the checksum of all of them.
pub(crate) fn send(to: SocketAddr, bytes: u64, seed: u64) -> io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&to, SILENCE)?;
    stream.set_read_timeout(Some(SILENCE))?;
    stream.set_write_timeout(Some(SILENCE))?;
    stream.write_all(&bytes.to_le_bytes())?;
    stream.write_all(&seed.to_le_bytes())?;
    let (mut random, mut checksum) = (Random::new(seed), Checksum::default());
    let mut chunk = vec![0; CHUNK_LEN];
    for len in chunk_lens(bytes) {
        random.fill(&mut chunk[..len]);
        checksum.update(&chunk[..len]);
        stream.write_all(&chunk[..len])?;
    }
    let received = read_u64(&mut stream)?;
    println!("sent {:016x}, received {received:016x}", checksum.value());
    if received == checksum.value() { Ok(()) } else { Err(io::Error::other("the checksums differ")) }
}

fn receive(stream: &mut TcpStream) -> io::Result<u64> {
    stream.set_read_timeout(Some(SILENCE))?;
    let (bytes, seed) = (read_u64(stream)?, read_u64(stream)?);
    let (mut random, mut checksum) = (Random::new(seed), Checksum::default());
    let (mut chunk, mut expected) = (vec![0; CHUNK_LEN], vec![0; CHUNK_LEN]);
    for len in chunk_lens(bytes) {
        stream.read_exact(&mut chunk[..len])?;
        random.fill(&mut expected[..len]);
        if chunk[..len] != expected[..len] {
            return Err(io::Error::other("other bytes than were sent"));
        }
        checksum.update(&chunk[..len]);
    }
    stream.write_all(&checksum.value().to_le_bytes())?;
    Ok(checksum.value())
}

fn chunk_lens(bytes: u64) -> impl Iterator<Item = usize> {
    let (full, rest) = (bytes / CHUNK_LEN as u64, (bytes % CHUNK_LEN as u64) as usize);
    (0..full).map(|_| CHUNK_LEN).chain((rest > 0).then_some(rest))
}

//! What the demo's containers say to each other: pings, a transfer, a flood.
//!
//! Every load is bounded in count and time and ends by itself.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use super::engine::Guest;
use crate::failure::Failure;

const PORT: u16 = 7000;
const PING_LEN: usize = 64;
const PING_COUNT: usize = 1000;
const PING_PATIENCE: Duration = Duration::from_secs(1);
const FLOOD_INTERVAL: Duration = Duration::from_millis(1);
/// How long into a flood something is done.
const FLOOD_LEAD: Duration = Duration::from_millis(500);
const CONNECT_PATIENCE: Duration = Duration::from_secs(10);

/// What became of a transfer.
pub(super) struct Transfer {
    pub(super) elapsed: Duration,
    pub(super) checksums_agree: bool,
}

/// What became of a flood of pings.
pub(super) struct Flood {
    pub(super) sent: u32,
    pub(super) lost: u32,
    /// The longest time without an answer.
    pub(super) outage: Duration,
}

/// The median round trip of a UDP ping.
pub(super) fn round_trip(from: &Guest, to: &Guest) -> Result<Duration, Failure> {
    with_echo(to, |stop| {
        let measured = from.enter(|| measure(SocketAddr::from((to.address, PORT))))?;
        stop.store(true, Relaxed);
        measured.map_err(|error| Failure::refused(format!("web does not answer: {error}")))
    })
}

/// Sends bytes over one TCP stream and compares checksums.
pub(super) fn transfer(from: &Guest, to: &Guest, len: u64) -> Result<Transfer, Failure> {
    let failed = |error: io::Error| Failure::refused(format!("the transfer failed: {error}"));
    let listener = to.enter(|| TcpListener::bind((to.address, PORT)))?.map_err(failed)?;
    thread::scope(|scope| {
        let sink = scope.spawn(|| receive(&listener));
        let sent = from.enter(|| send(SocketAddr::from((to.address, PORT)), len))?.map_err(failed)?;
        let Ok(received) = sink.join() else { return Err(Failure::refused("the receiver died")) };
        let (received, elapsed) = received.map_err(failed)?;
        Ok(Transfer { elapsed, checksums_agree: sent == received })
    })
}

/// Pings at a fixed pace and calls `disturb` in the midst of it.
pub(super) fn flood(from: &Guest, to: &Guest, time: Duration, disturb: impl FnOnce() + Send) -> Result<Flood, Failure> {
    with_echo(to, |stop| {
        let flood = thread::scope(|scope| {
            scope.spawn(|| {
                thread::sleep(FLOOD_LEAD);
                disturb();
            });
            from.enter(|| ping_for(SocketAddr::from((to.address, PORT)), time))
        })?;
        stop.store(true, Relaxed);
        flood.map_err(|error| Failure::refused(format!("the flood failed: {error}")))
    })
}

/// Does `work` while the guest echoes UDP datagrams.
fn with_echo<T>(guest: &Guest, work: impl FnOnce(&AtomicBool) -> Result<T, Failure>) -> Result<T, Failure> {
    let stop = AtomicBool::new(false);
    let socket = guest.enter(|| UdpSocket::bind((guest.address, PORT)))?;
    let socket = socket.map_err(|error| Failure::refused(format!("cannot listen in the container: {error}")))?;
    thread::scope(|scope| {
        let echo = scope.spawn(|| echo(&socket, &stop));
        let result = work(&stop);
        stop.store(true, Relaxed);
        match echo.join() {
            Ok(Ok(())) => result,
            _ => Err(Failure::refused("the echo in the container died")),
        }
    })
}

fn echo(socket: &UdpSocket, stop: &AtomicBool) -> io::Result<()> {
    socket.set_read_timeout(Some(Duration::from_millis(50)))?;
    let mut buffer = [0; 2048];
    while !stop.load(Relaxed) {
        match socket.recv_from(&mut buffer) {
            Ok((len, from)) => drop(socket.send_to(&buffer[..len], from)),
            Err(error) if is_timeout(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn measure(to: SocketAddr) -> io::Result<Duration> {
    let socket = UdpSocket::bind(("0.0.0.0", 0))?;
    socket.connect(to)?;
    socket.set_read_timeout(Some(PING_PATIENCE))?;
    let mut samples = Vec::with_capacity(PING_COUNT);
    let mut buffer = [0; PING_LEN];
    for _ in 0..PING_COUNT {
        let start = Instant::now();
        socket.send(&[0; PING_LEN])?;
        match socket.recv(&mut buffer) {
            Ok(_) => samples.push(start.elapsed()),
            Err(error) if is_timeout(&error) && samples.len() < PING_COUNT / 2 => {}
            Err(error) => return Err(error),
        }
    }
    samples.sort_unstable();
    samples.get(samples.len() / 2).copied().ok_or_else(|| io::ErrorKind::TimedOut.into())
}

fn ping_for(to: SocketAddr, time: Duration) -> io::Result<Flood> {
    let socket = UdpSocket::bind(("0.0.0.0", 0))?;
    socket.connect(to)?;
    socket.set_nonblocking(true)?;
    let (mut sent, mut received) = (0u32, 0u32);
    let (mut heard_at, mut outage) = (Instant::now(), Duration::ZERO);
    let end = Instant::now() + time;
    let mut buffer = [0; PING_LEN];
    while Instant::now() < end {
        // A send may be refused while the far side is away: it counts as lost.
        drop(socket.send(&[0; PING_LEN]));
        sent += 1;
        thread::sleep(FLOOD_INTERVAL);
        while socket.recv(&mut buffer).is_ok() {
            received += 1;
            outage = outage.max(heard_at.elapsed());
            heard_at = Instant::now();
        }
    }
    thread::sleep(FLOOD_INTERVAL * 50);
    while socket.recv(&mut buffer).is_ok() {
        received += 1;
    }
    Ok(Flood { sent, lost: sent.saturating_sub(received), outage })
}

fn send(to: SocketAddr, len: u64) -> io::Result<u64> {
    let mut stream = TcpStream::connect_timeout(&to, CONNECT_PATIENCE)?;
    let mut content = Content::default();
    let mut buffer = vec![0; 1 << 18];
    let mut left = len;
    while left > 0 {
        let part = buffer.len().min(left as usize);
        content.fill(&mut buffer[..part]);
        stream.write_all(&buffer[..part])?;
        left -= part as u64;
    }
    Ok(content.checksum)
}

fn receive(listener: &TcpListener) -> io::Result<(u64, Duration)> {
    let (mut stream, _) = listener.accept()?;
    let start = Instant::now();
    let mut checksum = 0;
    let mut buffer = vec![0; 1 << 18];
    let mut filled = 0;
    loop {
        let count = stream.read(&mut buffer[filled..])?;
        filled += count;
        let whole = filled / 8 * 8;
        checksum = add_up(checksum, &buffer[..whole]);
        buffer.copy_within(whole..filled, 0);
        filled -= whole;
        if count == 0 {
            return Ok((checksum, start.elapsed()));
        }
    }
}

/// Numbers that look random (xorshift64), and the checksum over them.
struct Content {
    state: u64,
    checksum: u64,
}

impl Default for Content {
    fn default() -> Self {
        Self { state: 0x9e37_79b9_7f4a_7c15, checksum: 0 }
    }
}

impl Content {
    fn fill(&mut self, buffer: &mut [u8]) {
        for word in buffer.chunks_exact_mut(8) {
            self.state ^= self.state << 13;
            self.state ^= self.state >> 7;
            self.state ^= self.state << 17;
            word.copy_from_slice(&self.state.to_le_bytes());
        }
        self.checksum = add_up(self.checksum, buffer);
    }
}

/// Depends on every word and on their order.
fn add_up(checksum: u64, words: &[u8]) -> u64 {
    words.as_chunks().0.iter().fold(checksum, |sum, word| sum.rotate_left(5).wrapping_add(u64::from_le_bytes(*word)))
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checksum_notices_a_changed_and_a_swapped_word() {
        let mut words = vec![0; 64];
        Content::default().fill(&mut words);
        let good = add_up(0, &words);
        let mut changed = words.clone();
        changed[9] ^= 1;
        assert_ne!(add_up(0, &changed), good);
        words.rotate_left(8);
        assert_ne!(add_up(0, &words), good);
    }
}

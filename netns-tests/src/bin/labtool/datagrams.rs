//! Datagrams of many sizes, compared when they come back; and datagrams that nobody wants.

use std::{
    io,
    net::{SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

use weaved_netns_tests::random::Random;

use crate::{bind_any, bind_for};

/// The most that UDP over IPv4 carries.
const MAX_DATAGRAM_LEN: usize = 65_507;
/// How long an echo may take before it is asked for again, and how often it is asked for.
const PATIENCE: Duration = Duration::from_millis(300);
const TRIES: u32 = 15;
/// Sizes drawn at random besides the interesting ones.
const RANDOM_SIZES: usize = 150;

/// Sends everything back, until killed.
pub(crate) fn echo(port: u16) -> io::Result<()> {
    let socket = bind_any(port)?;
    println!("listening");
    let mut buffer = vec![0; MAX_DATAGRAM_LEN];
    loop {
        let (len, from) = socket.recv_from(&mut buffer)?;
        // The way back may be broken for a while, as when a test breaks it.
        let _ = socket.send_to(&buffer[..len], from);
    }
}

/// Sends datagrams of all small sizes, of those near usual MTUs, of random ones, and of `largest`.
pub(crate) fn check(to: SocketAddr, largest: usize) -> io::Result<()> {
    let socket = bind_for(to)?;
    let mut random = Random::new(11);
    let drawn: Vec<usize> = (0..RANDOM_SIZES).map(|_| 1 + random.below(largest as u64) as usize).collect();
    let interesting = (1..=70).chain(1200..=1480).chain([2944, 2945, 8000, largest]);
    let sizes = interesting.chain(drawn).filter(|size| *size <= largest);
    let (mut count, mut repeated) = (0, 0);
    for size in sizes {
        repeated += check_size(&socket, to, size, &mut random)?;
        count += 1;
    }
    println!("{count} datagrams came back as they were sent, {repeated} were sent again");
    Ok(())
}

/// Returns how often the datagram had to be sent again.
fn check_size(socket: &UdpSocket, to: SocketAddr, size: usize, random: &mut Random) -> io::Result<u32> {
    let mut content = vec![0; size];
    random.fill(&mut content);
    for again in 0..TRIES {
        socket.send_to(&content, to)?;
        if comes_back(socket, to, &content)? {
            return Ok(again);
        }
    }
    Err(io::Error::other(format!("a datagram of {size} bytes did not come back in {TRIES} tries")))
}

fn comes_back(socket: &UdpSocket, to: SocketAddr, content: &[u8]) -> io::Result<bool> {
    let mut buffer = vec![0; MAX_DATAGRAM_LEN];
    let end = Instant::now() + PATIENCE;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        socket.set_read_timeout(Some(left))?;
        match socket.recv_from(&mut buffer) {
            Ok((len, from)) if from.ip() == to.ip() && buffer[..len] == *content => return Ok(true),
            // The echo of an earlier try has the same content; another content of this length was changed on the way.
            Ok((len, _)) if len == content.len() => {
                return Err(io::Error::other(format!("a datagram of {len} bytes came back changed")));
            }
            Ok(_) => {}
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
            Err(error) => return Err(error),
        }
    }
}

/// Sends one datagram.
pub(crate) fn send(to: SocketAddr, content: &[u8]) -> io::Result<()> {
    bind_for(to)?.send_to(content, to)?;
    Ok(())
}

/// Sends `count` datagrams of random bytes.
pub(crate) fn garbage(to: SocketAddr, count: u64, seed: u64) -> io::Result<()> {
    let socket = bind_for(to)?;
    let mut random = Random::new(seed);
    let mut buffer = vec![0; 65_000];
    for number in 0..count {
        // Mostly small ones, as the parsers see them; each sixteenth as large as a datagram can be.
        let most = if number % 16 == 0 { buffer.len() as u64 } else { 200 };
        let len = random.below(most) as usize;
        random.fill(&mut buffer[..len]);
        socket.send_to(&buffer[..len], to)?;
    }
    Ok(())
}

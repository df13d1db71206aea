//! HTTP/1.1 with connections that are kept: a server of one small page, and clients that ask for it one request after
//! the other and note how long each takes.

#![expect(
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "counts of a run are far below 2^52, and neither they nor times are negative"
)]

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use crate::listen_any;

/// Length of the page.
const BODY_LEN: usize = 1024;
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: bench\r\nUser-Agent: labtool\r\nAccept: */*\r\n\r\n";
const END_OF_HEAD: &[u8] = b"\r\n\r\n";
/// Longer than any head here.
const MAX_MESSAGE_LEN: usize = 8 << 10;
/// A silence that is longer ends a connection.
const SILENCE: Duration = Duration::from_secs(10);

/// Serves, a thread for each connection, until killed.
pub(crate) fn serve(port: u16) -> io::Result<()> {
    let listener = listen_any(port)?;
    println!("listening");
    loop {
        let (stream, _) = listener.accept()?;
        // A client that goes away is done.
        std::thread::spawn(move || answer(stream).ok());
    }
}

fn answer(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let page = page();
    let (mut buffer, mut len) = (vec![0; MAX_MESSAGE_LEN], 0);
    loop {
        let count = stream.read(&mut buffer[len..])?;
        if count == 0 {
            return Ok(());
        }
        len += count;
        while let Some(end) = head_end(&buffer[..len]) {
            stream.write_all(&page)?;
            buffer.copy_within(end..len, 0);
            len -= end;
        }
    }
}

fn page() -> Vec<u8> {
    let mut page =
        format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {BODY_LEN}\r\n\r\n").into_bytes();
    page.extend([b'x'; BODY_LEN]);
    page
}

/// Where the body begins.
fn head_end(bytes: &[u8]) -> Option<usize> {
    bytes.windows(END_OF_HEAD.len()).position(|window| window == END_OF_HEAD).map(|at| at + END_OF_HEAD.len())
}

/// Asks on `connections` connections at once for `time` and prints requests a second and percentiles.
pub(crate) fn load(to: SocketAddr, connections: u64, time: Duration) -> io::Result<()> {
    let start = Instant::now();
    let clients: Vec<_> = (0..connections).map(|_| std::thread::spawn(move || ask(to, start + time))).collect();
    let mut micros = Vec::new();
    for client in clients {
        micros.extend(client.join().map_err(|_| io::Error::other("a client has panicked"))??);
    }
    let seconds = start.elapsed().as_secs_f64();
    micros.sort_unstable();
    let percentile = |share: f64| micros.get(((micros.len() as f64 - 1.0) * share) as usize).copied().unwrap_or(0);
    println!(
        r#"{{"requests_per_second": {:.1}, "p50_us": {}, "p99_us": {}, "p999_us": {}}}"#,
        micros.len() as f64 / seconds,
        percentile(0.5),
        percentile(0.99),
        percentile(0.999),
    );
    Ok(())
}

/// Microseconds of each request on one connection.
fn ask(to: SocketAddr, end: Instant) -> io::Result<Vec<u32>> {
    let mut stream = TcpStream::connect_timeout(&to, SILENCE)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(SILENCE))?;
    let page_len = page().len();
    let (mut buffer, mut micros) = (vec![0; page_len], Vec::new());
    loop {
        let start = Instant::now();
        if start >= end {
            return Ok(micros);
        }
        stream.write_all(REQUEST)?;
        stream.read_exact(&mut buffer)?;
        micros.push(start.elapsed().as_micros() as u32);
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};

    use super::*;

    #[test]
    fn pages_come_back_on_a_kept_connection() {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        std::thread::spawn(move || serve(port).unwrap());
        let to = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let answered = (0..500).find_map(|_| {
            std::thread::sleep(Duration::from_millis(10));
            ask(to, Instant::now() + Duration::from_millis(50)).ok()
        });
        assert!(answered.unwrap().len() > 1);
    }
}

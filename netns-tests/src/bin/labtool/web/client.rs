//! The clients: requests one after the other, some on kept connections and some each on its own, with and without bodies;
//! and upgraded connections that are held open.
//!
//! Each request is a line in a file: when it began and when its answer was there (microseconds of Unix time), who has answered, and what was wrong. What
//! to make of it is for the test to say.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, BufWriter, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use super::message::{checksum, read_body, read_head};

/// Longer than anything that is not broken takes.
const SILENCE: Duration = Duration::from_secs(10);
/// A held connection is used so often.
const HOLD_INTERVAL: Duration = Duration::from_millis(50);
/// How far a load has come is told so often.
const TELL_INTERVAL: Duration = Duration::from_millis(100);

/// How one request went.
struct Outcome {
    began_us: u128,
    ended_us: u128,
    /// The colour that has answered, or `-`.
    colour: String,
    /// The status, or what was wrong.
    status: String,
}

/// How much is asked.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    /// Clients at once.
    pub(crate) clients: u64,
    /// For so long, at most.
    pub(crate) time: Duration,
    /// Until somebody says so: each client begins its last request after that.
    pub(crate) is_enough: Arc<AtomicBool>,
}

/// Asks, says again and again how many requests are over, and writes one line for each request to `file`.
pub(crate) fn load(to: SocketAddr, host: &str, load: &Load, file: &str) -> io::Result<()> {
    let end = Instant::now() + load.time;
    let asked = Arc::new(AtomicU64::new(0));
    let threads: Vec<_> = (0..load.clients)
        .map(|number| {
            let (host, is_enough, asked) = (host.to_owned(), load.is_enough.clone(), Arc::clone(&asked));
            let is_last = move |turn| {
                asked.fetch_add(u64::from(turn > 0), Relaxed);
                is_enough.load(Relaxed) || Instant::now() >= end
            };
            std::thread::spawn(move || ask_on(to, &host, number, is_last))
        })
        .collect();
    while !threads.iter().all(JoinHandle::is_finished) {
        println!("asked {}", asked.load(Relaxed));
        std::thread::sleep(TELL_INTERVAL);
    }
    let mut lines = BufWriter::new(File::create(file)?);
    let (mut asked, mut failed) = (0_u64, 0_u64);
    for thread in threads {
        let outcomes = thread.join().map_err(|_| io::Error::other("a client has panicked"))?;
        for Outcome { began_us, ended_us, colour, status } in outcomes {
            asked += 1;
            failed += u64::from(status != "200");
            writeln!(lines, "{began_us} {ended_us} {colour} {status}")?;
        }
    }
    lines.flush()?;
    println!(r#"{{"requests": {asked}, "failed": {failed}}}"#);
    Ok(())
}

/// Every other client keeps its connection; every third request has a body. `is_last` is asked before each request.
fn ask_on(to: SocketAddr, host: &str, number: u64, is_last: impl Fn(u64) -> bool) -> Vec<Outcome> {
    let is_kept = number.is_multiple_of(2);
    let mut connection = None;
    let mut outcomes = Vec::new();
    for turn in 0.. {
        let is_last = is_last(turn);
        let body_len = if turn % 3 == 2 { 1 + (turn * 7919 + number * 104_729) % 65_536 } else { 0 };
        let body: Vec<u8> = (0..body_len).map(|at| (at ^ turn ^ number) as u8).collect();
        let began_us = now_us();
        let asked = ask(&mut connection, to, host, &body, is_kept);
        let (colour, status) = asked.unwrap_or_else(|error| ("-".into(), error.to_string().replace(' ', "-")));
        if !is_kept || status != "200" {
            connection = None;
        }
        outcomes.push(Outcome { began_us, ended_us: now_us(), colour, status });
        if is_last {
            break;
        }
    }
    outcomes
}

/// The colour that has answered, and the status.
fn ask(
    connection: &mut Option<BufReader<TcpStream>>,
    to: SocketAddr,
    host: &str,
    body: &[u8],
    is_kept: bool,
) -> io::Result<(String, String)> {
    if connection.is_none() {
        *connection = Some(connect(to)?);
    }
    let reader = connection.as_mut().ok_or_else(|| io::Error::other("no connection"))?;
    let (method, len) = (if body.is_empty() { "GET" } else { "POST" }, body.len());
    let keep = if is_kept { "keep-alive" } else { "close" };
    let mut request = format!("{method} / HTTP/1.1\r\nHost: {host}\r\nConnection: {keep}\r\n").into_bytes();
    if len > 0 {
        request.extend(format!("Content-Length: {len}\r\n").into_bytes());
    }
    request.extend(b"\r\n");
    request.extend(body);
    reader.get_mut().write_all(&request)?;
    let head = read_head(reader)?.ok_or_else(|| io::Error::other("closed"))?;
    let answer = String::from_utf8_lossy(&read_body(reader, &head)?).into_owned();
    let mut words = answer.split_whitespace();
    let colour = words.next().unwrap_or("-").to_owned();
    let status = head.first.split(' ').nth(1).unwrap_or("none").to_owned();
    let expected = format!("{:016x}", checksum(body));
    if status == "200" && words.next() != Some(&expected) {
        return Ok((colour, "wrong-checksum".into()));
    }
    let is_closed = is_kept && head.is_last();
    if is_closed {
        *connection = None;
    }
    Ok((colour, status))
}

/// Holds `count` upgraded connections open for `time`, uses each all the time, and says how many broke.
pub(crate) fn hold(to: SocketAddr, host: &str, count: u64, time: Duration) -> io::Result<()> {
    let end = Instant::now() + time;
    let held: Vec<_> = (0..count)
        .map(|_| {
            let host = host.to_owned();
            // Said at once: whoever ends this program early wants to know too.
            let tell = |error: &io::Error| eprintln!("labtool: a held connection: {error}");
            std::thread::spawn(move || hold_one(to, &host, end).inspect_err(tell))
        })
        .collect();
    let (mut broken, mut echoes) = (0_u64, 0_u64);
    for thread in held {
        match thread.join().map_err(|_| io::Error::other("a client has panicked"))? {
            Ok(count) => echoes += count,
            Err(_) => broken += 1,
        }
    }
    println!(r#"{{"held": {count}, "broken": {broken}, "echoes": {echoes}}}"#);
    Ok(())
}

fn hold_one(to: SocketAddr, host: &str, end: Instant) -> io::Result<u64> {
    let mut reader = connect(to)?;
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    reader.get_mut().write_all(format!("GET /socket HTTP/1.1\r\nHost: {host}\r\n{upgrade}\r\n").as_bytes())?;
    let head = read_head(&mut reader)?.ok_or_else(|| io::Error::other("closed"))?;
    if !head.first.contains(" 101") {
        return Err(io::Error::other(head.first));
    }
    let mut colour = String::new();
    reader.read_line(&mut colour)?;
    let mut echoes = 0_u64;
    while Instant::now() < end {
        let sent = echoes.to_le_bytes();
        reader.get_mut().write_all(&sent)?;
        let mut came = [0; 8];
        reader.read_exact(&mut came)?;
        if came != sent {
            return Err(io::Error::other("another echo than was sent"));
        }
        echoes += 1;
        std::thread::sleep(HOLD_INTERVAL);
    }
    Ok(echoes)
}

fn connect(to: SocketAddr) -> io::Result<BufReader<TcpStream>> {
    let stream = TcpStream::connect_timeout(&to, SILENCE)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(SILENCE))?;
    stream.set_write_timeout(Some(SILENCE))?;
    Ok(BufReader::new(stream))
}

fn now_us() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros())
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};

    use super::*;

    fn started(colour: &'static str) -> SocketAddr {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        std::thread::spawn(move || super::super::serve(port, colour).unwrap());
        let to = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let is_up = (0..500).any(|_| {
            std::thread::sleep(Duration::from_millis(10));
            TcpStream::connect(to).is_ok()
        });
        assert!(is_up);
        to
    }

    #[test]
    fn a_load_ends_when_it_is_enough_and_each_client_asks_once_behind_that() {
        let to = started("blue");
        let file = tempfile::NamedTempFile::new().unwrap();
        let is_enough = Arc::new(AtomicBool::new(true));
        let asked = Load { clients: 4, time: Duration::from_hours(1), is_enough };
        load(to, "x", &asked, file.path().to_str().unwrap()).unwrap();
        let text = std::fs::read_to_string(file.path()).unwrap();
        assert_eq!(text.lines().count(), 4);
        assert!(text.lines().all(|line| line.ends_with("blue 200")), "{text}");
    }

    #[test]
    fn an_upgraded_connection_is_held_and_echoed() {
        let to = started("green");
        let echoes = hold_one(to, "x", Instant::now() + Duration::from_millis(200)).unwrap();
        assert!(echoes >= 1);
    }

    #[test]
    fn nobody_there_is_a_failure_with_a_reason_not_the_end() {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        let to = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let outcomes = ask_on(to, "x", 0, |turn| turn == 2);
        assert!(outcomes.iter().all(|outcome| outcome.status.contains("refused")) && outcomes.len() == 3);
    }
}

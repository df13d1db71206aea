//! How many datagrams of one length arrive: at a given rate, as fast as one thread can send, and the highest rate at
//! which fewer than one in a thousand is lost.
//!
//! A server counts; the client sends bursts and asks it over TCP what has arrived. Each datagram begins with the number
//! of its run, so that late ones of an earlier run do not count.
//!
//! ```text
//!   client                                server
//!     │ TCP: number of the run              │ counts from zero
//!     │ UDP: datagrams ………………………………………………▶ │
//!     │ TCP: 0                              │ answers with the count
//! ```
//!
//! With several servers each gets its datagrams in turns, and the counts are added up.
//!
//! Between bursts the client sleeps and does not spin: on a small machine it would take a core from what is measured.

#![expect(
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "counts of a run are far below 2^52, and neither they nor times are negative"
)]

use std::{
    io::{self, IoSlice, IoSliceMut, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsRawFd,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use nix::sys::socket::{self, MsgFlags, MultiHeaders, SockaddrIn, setsockopt, sockopt};

use crate::read_u64;

/// Datagrams of one system call.
const BURST: usize = 32;
/// Sleep between bursts; the kernel adds about as much again.
const PAUSE: Duration = Duration::from_micros(50);
/// The most that UDP over an MTU of 1,500 carries in one packet.
const MAX_LEN: usize = 1472;
/// Room for bursts at the counting socket, so that it is not what loses.
const SOCKET_BUFFER_BYTES: usize = 8 << 20;
/// Share of datagrams that may be lost.
const LOSS_LIMIT: f64 = 0.001;
/// The search ends when the bounds are as close as this.
const CLOSE_ENOUGH: f64 = 1.04;
/// How long what was sent may be under way after the last datagram.
const PATIENCE: Duration = Duration::from_secs(1);
/// Silence after which nothing is expected any more.
const SILENCE: Duration = Duration::from_millis(40);

/// What became of one run.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Outcome {
    sent: u64,
    received: u64,
    time: Duration,
}

impl Outcome {
    fn loss(self) -> f64 {
        1.0 - (self.received.min(self.sent) as f64 / self.sent.max(1) as f64)
    }

    /// Arrived datagrams a second.
    fn rate(self) -> f64 {
        self.received as f64 / self.time.as_secs_f64()
    }
}

/// Counts runs, until killed.
pub(crate) fn serve(port: u16) -> io::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))?;
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))?;
    // As root the limit of the machine can be passed; in a container what there is has to do.
    if setsockopt(&socket, sockopt::RcvBufForce, &SOCKET_BUFFER_BYTES).is_err() {
        setsockopt(&socket, sockopt::RcvBuf, &SOCKET_BUFFER_BYTES)?;
    }
    let (run, count) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let (their_run, their_count) = (Arc::clone(&run), Arc::clone(&count));
    std::thread::spawn(move || {
        if let Err(error) = receive(&socket, &their_run, &their_count) {
            eprintln!("labtool: cannot count: {error}");
            std::process::exit(1);
        }
    });
    println!("listening");
    loop {
        let (mut control, _) = listener.accept()?;
        control.set_nodelay(true)?;
        // A client that goes away is done.
        while let Ok(word) = read_u64(&mut control) {
            if word != 0 {
                run.store(word, Ordering::SeqCst);
                count.store(0, Ordering::SeqCst);
            }
            if control.write_all(&count.load(Ordering::SeqCst).to_le_bytes()).is_err() {
                break;
            }
        }
    }
}

fn receive(socket: &UdpSocket, run: &AtomicU64, count: &AtomicU64) -> io::Result<()> {
    let mut buffers = vec![[0_u8; MAX_LEN]; BURST];
    let mut headers = MultiHeaders::<SockaddrIn>::preallocate(BURST, None);
    let mut runs = Vec::with_capacity(BURST);
    loop {
        runs.clear();
        {
            let mut slices: Vec<_> = buffers.iter_mut().map(|buffer| [IoSliceMut::new(buffer)]).collect();
            let flags = MsgFlags::MSG_WAITFORONE;
            let results = socket::recvmmsg(socket.as_raw_fd(), &mut headers, slices.iter_mut(), flags, None)?;
            runs.extend(
                results.map(|message| message.iovs().next().and_then(|bytes| bytes.first_chunk::<8>().copied())),
            );
        }
        let current = run.load(Ordering::SeqCst).to_le_bytes();
        let ours = runs.iter().filter(|run| **run == Some(current)).count();
        count.fetch_add(ours as u64, Ordering::SeqCst);
    }
}

/// Prints the highest rate at which less than [`LOSS_LIMIT`] is lost, each try as long as `probe`.
pub(crate) fn find(to: &[SocketAddr], len: usize, probe: Duration) -> io::Result<()> {
    let mut client = Client::connect(to, len)?;
    let flat_out = client.run(None, probe)?;
    if flat_out.loss() < LOSS_LIMIT {
        print(flat_out);
        return Ok(());
    }
    // What arrives under overload is a first guess only: some lose all when too much comes.
    let (mut low, mut high) = (None::<Outcome>, flat_out.sent as f64 / flat_out.time.as_secs_f64());
    let mut next = flat_out.rate().clamp(high / 20.0, high * 0.9);
    while next > 1000.0 && low.is_none_or(|low| high / low.rate() > CLOSE_ENOUGH) {
        match client.passes(next, probe)? {
            // A sender that cannot keep the rate has found its own limit.
            Some(outcome) if outcome.rate() < next * 0.95 => {
                low = Some(outcome);
                break;
            }
            Some(outcome) => low = Some(outcome),
            None => high = next,
        }
        next = low.map_or(high / 2.0, |low| (low.rate() * high).sqrt());
    }
    print(low.unwrap_or(Outcome { sent: 1, received: 0, time: probe }));
    Ok(())
}

/// Sends as fast as one thread can and prints what became of it.
pub(crate) fn blast(to: &[SocketAddr], len: usize, time: Duration) -> io::Result<()> {
    print(Client::connect(to, len)?.run(None, time)?);
    Ok(())
}

fn print(outcome: Outcome) {
    println!(r#"{{"packets_per_second": {:.1}, "loss": {:.6}}}"#, outcome.rate(), outcome.loss());
}

struct Client {
    controls: Vec<TcpStream>,
    socket: UdpSocket,
    /// Where datagrams go, in turns, from whichever server's turn it is: none with a single one.
    addresses: Vec<Option<SockaddrIn>>,
    datagram: Vec<u8>,
    run: u64,
}

impl Client {
    fn connect(to: &[SocketAddr], len: usize) -> io::Result<Self> {
        if !(8..=MAX_LEN).contains(&len) {
            return Err(io::Error::other(format!("a datagram has 8 to {MAX_LEN} bytes here, not {len}")));
        }
        let controls: Vec<_> = to.iter().map(TcpStream::connect).collect::<io::Result<_>>()?;
        controls.iter().try_for_each(|control| control.set_nodelay(true))?;
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        let addresses = match to {
            [to] => {
                socket.connect(to)?;
                vec![None; BURST + 1]
            }
            several => {
                let v4 = several.iter().map(|to| match to {
                    SocketAddr::V4(to) => Ok(Some(SockaddrIn::from(*to))),
                    SocketAddr::V6(_) => Err(io::Error::other("several servers are IPv4 only")),
                });
                let v4: Vec<_> = v4.collect::<io::Result<_>>()?;
                v4.iter().copied().cycle().take(BURST + v4.len()).collect()
            }
        };
        Ok(Self { controls, socket, addresses, datagram: vec![0; len], run: 0 })
    }

    /// A run that has lost less than the limit. One in two is enough: what else the machine does costs a burst now and
    /// then.
    fn passes(&mut self, rate: f64, time: Duration) -> io::Result<Option<Outcome>> {
        for _ in 0..2 {
            let outcome = self.run(Some(rate), time)?;
            if outcome.loss() < LOSS_LIMIT {
                return Ok(Some(outcome));
            }
        }
        Ok(None)
    }

    /// Sends for `time`, at `rate` datagrams a second or without pause, and waits for what is under way.
    fn run(&mut self, rate: Option<f64>, time: Duration) -> io::Result<Outcome> {
        self.run += 1;
        self.ask(self.run)?;
        self.datagram[..8].copy_from_slice(&self.run.to_le_bytes());
        let start = Instant::now();
        let sent = self.send(rate, start + time)?;
        let time = start.elapsed();
        let end = Instant::now() + PATIENCE;
        let mut received = self.ask(0)?;
        while received < sent && Instant::now() < end {
            std::thread::sleep(SILENCE);
            let before = std::mem::replace(&mut received, self.ask(0)?);
            if received == before {
                break;
            }
        }
        Ok(Outcome { sent, received, time })
    }

    fn send(&self, rate: Option<f64>, end: Instant) -> io::Result<u64> {
        let start = Instant::now();
        let slices = vec![[IoSlice::new(&self.datagram)]; BURST];
        let mut headers = MultiHeaders::<SockaddrIn>::preallocate(BURST, None);
        let mut sent = 0;
        loop {
            let now = Instant::now();
            if now >= end {
                return Ok(sent);
            }
            let due = rate.map_or(BURST as u64, |rate| ((now - start).as_secs_f64() * rate) as u64 - sent);
            if due == 0 {
                std::thread::sleep(PAUSE);
                continue;
            }
            let burst = &slices[..(due as usize).min(BURST)];
            let addresses = &self.addresses[sent as usize % self.controls.len()..][..burst.len()];
            let fd = self.socket.as_raw_fd();
            match socket::sendmmsg(fd, &mut headers, burst, addresses, [], MsgFlags::empty()) {
                Ok(results) => sent += results.count() as u64,
                // No room, or nobody there for a moment: not sent.
                Err(nix::errno::Errno::ENOBUFS | nix::errno::Errno::ECONNREFUSED | nix::errno::Errno::EPERM) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Says a word to all servers; returns what they have counted.
    fn ask(&mut self, word: u64) -> io::Result<u64> {
        let answers = self.controls.iter_mut().map(|control| {
            control.write_all(&word.to_le_bytes())?;
            read_u64(control)
        });
        answers.sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loss_is_a_share_of_what_was_sent() {
        let outcome = Outcome { sent: 1000, received: 999, time: Duration::from_millis(500) };
        assert!((outcome.loss() - 0.001).abs() < 1e-9);
        assert!((outcome.rate() - 1998.0).abs() < 1e-9);
    }

    /// Where a server on loopback listens.
    fn served() -> SocketAddr {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        std::thread::spawn(move || serve(port).unwrap());
        SocketAddr::from((Ipv4Addr::LOCALHOST, port))
    }

    fn client_of(to: &[SocketAddr]) -> Client {
        let client = (0..500).find_map(|_| {
            std::thread::sleep(Duration::from_millis(10));
            Client::connect(to, 64).ok()
        });
        client.unwrap()
    }

    #[test]
    fn what_is_sent_over_loopback_is_counted() {
        let outcome = client_of(&[served()]).run(Some(5000.0), Duration::from_millis(100)).unwrap();
        assert!(outcome.sent > 0 && outcome.received == outcome.sent, "{outcome:?}");
    }

    #[test]
    fn servers_get_datagrams_in_turns() {
        let mut client = client_of(&[served(), served()]);
        let outcome = client.run(Some(5000.0), Duration::from_millis(100)).unwrap();
        assert!(outcome.sent > 0 && outcome.received == outcome.sent, "{outcome:?}");
        let each: Vec<u64> = client
            .controls
            .iter_mut()
            .map(|control| {
                control.write_all(&0_u64.to_le_bytes()).unwrap();
                read_u64(control).unwrap()
            })
            .collect();
        assert!(each.iter().all(|count| *count > outcome.sent / 4), "{each:?}");
    }
}

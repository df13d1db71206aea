//! A socket in front of Docker's, where events get lost when it is told so.
//!
//! All else passes as it is: lists, inspections, streams of `exec`. Docker writes each event as one chunk of an HTTP answer
//! that never ends; a lost event is a chunk that is left out, so its reader notices nothing.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::Shutdown,
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    thread,
};

/// Larger than any request's first line.
const BUFFER_BYTES: usize = 64 << 10;

/// Its threads go on until the process ends.
#[derive(Clone, Debug)]
pub struct LossyEvents(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    docker: PathBuf,
    at: PathBuf,
    is_losing: AtomicBool,
    passed_count: AtomicU64,
    lost_count: AtomicU64,
}

impl LossyEvents {
    /// Listens at `at` for those who think that it is Docker.
    #[track_caller]
    pub(crate) fn start(docker: PathBuf, at: PathBuf) -> Self {
        let listener =
            UnixListener::bind(&at).unwrap_or_else(|error| panic!("cannot listen at {}: {error}", at.display()));
        let shared = Arc::new(Shared::new(docker, at));
        let lossy = Self(Arc::clone(&shared));
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let shared = Arc::clone(&shared);
                // Whoever goes away first ends both directions.
                thread::spawn(move || drop(shared.carry(&client)));
            }
        });
        lossy
    }

    /// Where it listens.
    pub(crate) fn path(&self) -> &Path {
        &self.0.at
    }

    /// From now on every event is lost, or none.
    pub fn lose(&self, lose: bool) {
        self.0.is_losing.store(lose, SeqCst);
    }

    /// True while they are lost.
    pub fn is_losing(&self) -> bool {
        self.0.is_losing.load(SeqCst)
    }

    /// How many events have passed, and how many were lost.
    pub fn counts(&self) -> (u64, u64) {
        (self.0.passed_count.load(SeqCst), self.0.lost_count.load(SeqCst))
    }
}

impl Shared {
    fn new(docker: PathBuf, at: PathBuf) -> Self {
        let (passed_count, lost_count) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { docker, at, is_losing: AtomicBool::new(false), passed_count, lost_count }
    }

    fn carry(self: &Arc<Self>, client: &UnixStream) -> io::Result<()> {
        // While Docker is away the client's connection ends at once.
        let docker = UnixStream::connect(&self.docker)?;
        let asked_for_events = Arc::new(AtomicBool::new(false));
        let back = {
            let (shared, asked) = (Arc::clone(self), Arc::clone(&asked_for_events));
            let (from, to) = (docker.try_clone()?, client.try_clone()?);
            thread::spawn(move || {
                drop(shared.answers(from, &to, &asked));
                drop(to.shutdown(Shutdown::Both));
            })
        };
        drop(requests(client, &docker, &asked_for_events));
        // An `exec` whose input has ended still has output.
        drop(docker.shutdown(Shutdown::Write));
        drop(back.join());
        Ok(())
    }

    fn answers(&self, from: UnixStream, mut to: &UnixStream, asked_for_events: &AtomicBool) -> io::Result<()> {
        let mut from = BufReader::with_capacity(BUFFER_BYTES, from);
        loop {
            let len = {
                let bytes = from.fill_buf()?;
                if bytes.is_empty() || asked_for_events.load(SeqCst) {
                    break;
                }
                to.write_all(bytes)?;
                bytes.len()
            };
            from.consume(len);
        }
        self.events(&mut from, to)
    }

    /// The head of the answer, then event by event.
    fn events(&self, from: &mut impl BufRead, mut to: impl Write) -> io::Result<()> {
        let mut line = Vec::new();
        while from.read_until(b'\n', &mut line)? > 0 && line != b"\r\n" {
            to.write_all(&line)?;
            line.clear();
        }
        to.write_all(&line)?;
        loop {
            let mut chunk = Vec::new();
            from.read_until(b'\n', &mut chunk)?;
            let Some(len) = chunk_len(&chunk) else { return Ok(()) };
            from.take(len + 2).read_to_end(&mut chunk)?;
            if len > 0 && self.is_losing.load(SeqCst) {
                self.lost_count.fetch_add(1, SeqCst);
            } else {
                self.passed_count.fetch_add(1, SeqCst);
                to.write_all(&chunk)?;
            }
        }
    }
}

/// A client keeps its connection for further requests; one for events is the last.
fn requests(mut from: &UnixStream, mut to: &UnixStream, asked_for_events: &AtomicBool) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let len = from.read(&mut buffer)?;
        if len == 0 {
            return Ok(());
        }
        let line = buffer[..len].split(|byte| *byte == b'\r').next().unwrap_or_default();
        if line.starts_with(b"GET ") && line.windows(7).any(|text| text == b"/events") {
            asked_for_events.store(true, SeqCst);
        }
        to.write_all(&buffer[..len])?;
    }
}

/// None for what is no head of a chunk, as at the end of the stream.
fn chunk_len(head: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(head).ok()?.trim_end();
    u64::from_str_radix(text, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";

    fn passes(shared: &Shared, answer: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        shared.events(&mut &*answer, &mut out).unwrap();
        out
    }

    #[test]
    fn events_pass_as_they_are_or_are_left_out_whole() {
        let answer = [HEAD, b"2\r\n{}\r\n", b"a\r\n{\"a\":\"\r\n\"\r\n"].concat();
        let shared = Shared::new(PathBuf::new(), PathBuf::new());
        assert_eq!(passes(&shared, &answer), answer);
        shared.is_losing.store(true, SeqCst);
        assert_eq!(passes(&shared, &answer), HEAD);
        let counts = (shared.passed_count.load(SeqCst), shared.lost_count.load(SeqCst));
        assert_eq!(counts, (2, 2));
    }

    #[test]
    fn the_end_of_the_stream_is_never_lost() {
        let end = [HEAD, b"0\r\n\r\n"].concat();
        let shared = Shared::new(PathBuf::new(), PathBuf::new());
        shared.is_losing.store(true, SeqCst);
        assert_eq!(passes(&shared, &end), end);
    }
}

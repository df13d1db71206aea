//! What HTTP/1 clients send, looked at before the library does: messages that two programs could read in two ways (request
//! smuggling) are stopped here, and so is the library's leniency.
//!
//! ```text
//! head ─▶ no body ───────────────────────────────▶ head …
//!     ├─▶ length ─▶ so many bytes ───────────────▶ head …
//!     └─▶ chunked ─▶ size, data, size, …, trailers ▶ head …
//! ```
//!
//! INVARIANT: lines end in CR LF and nothing else; a request has one length, told in one way; as much of a head is remembered as a
//! listener takes.

use memchr::memchr;

/// Bytes of a chunk's size with its extensions: nobody uses them, and they are where programs differ.
const MAX_CHUNK_LINE_BYTES: usize = 256;
/// Bytes of trailers.
const MAX_TRAILER_BYTES: usize = 8192;

/// Where a connection is in its messages.
#[derive(Debug)]
pub(super) struct Scanner {
    state: State,
    /// A line or head of which the end has not come.
    partial: Vec<u8>,
    max_head_bytes: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Head,
    Length(u64),
    ChunkSize,
    ChunkData(u64),
    Trailers { bytes: usize },
}

/// Why a message is stopped.
pub(super) type Fault = &'static str;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Body {
    None,
    Length(u64),
    Chunked,
}

impl Scanner {
    pub(super) fn new(max_head_bytes: usize) -> Self {
        Self { state: State::Head, partial: Vec::new(), max_head_bytes }
    }

    /// True between two messages.
    pub(super) fn is_between(&self) -> bool {
        self.state == State::Head && self.partial.is_empty()
    }

    /// True while a head is coming.
    pub(super) fn is_in_head(&self) -> bool {
        self.state == State::Head && !self.partial.is_empty()
    }

    /// True while a body is coming.
    pub(super) fn is_in_body(&self) -> bool {
        self.state != State::Head
    }

    /// The next bytes. A fault comes with the place from which on they are bad.
    pub(super) fn scan(&mut self, bytes: &[u8]) -> Result<(), (usize, Fault)> {
        let mut at = 0;
        while at < bytes.len() {
            let rest = &bytes[at..];
            at += match self.state {
                State::Head => self.head(rest).map_err(|fault| (at, fault))?,
                State::Length(left) => self.skip(left, rest, State::Length, State::Head),
                State::ChunkData(left) => self.skip(left, rest, State::ChunkData, State::ChunkSize),
                State::ChunkSize | State::Trailers { .. } => self.line(rest).map_err(|fault| (at, fault))?,
            };
        }
        Ok(())
    }

    fn skip(&mut self, left: u64, rest: &[u8], more: fn(u64) -> State, then: State) -> usize {
        let taken = left.min(rest.len() as u64);
        self.state = if taken == left { then } else { more(left - taken) };
        taken as usize
    }

    fn head(&mut self, rest: &[u8]) -> Result<usize, Fault> {
        if self.partial.is_empty() {
            // The usual case: a head comes whole, and is looked at where it lies.
            if let Some(len) = head_len(rest)? {
                self.on_head(&rest[..len])?;
                return Ok(len);
            }
        }
        let known = self.partial.len();
        self.partial.extend_from_slice(rest);
        let found = head_len(&self.partial)?;
        if found.unwrap_or(self.partial.len()) > self.max_head_bytes {
            return Err("the head is too long");
        }
        let Some(len) = found else { return Ok(rest.len()) };
        let partial = std::mem::take(&mut self.partial);
        self.on_head(&partial[..len])?;
        Ok(len - known)
    }

    fn on_head(&mut self, head: &[u8]) -> Result<(), Fault> {
        self.state = match body(head)? {
            Body::None | Body::Length(0) => State::Head,
            Body::Length(len) => State::Length(len),
            Body::Chunked => State::ChunkSize,
        };
        Ok(())
    }

    /// A chunk's size, the end of its data, or a trailer.
    fn line(&mut self, rest: &[u8]) -> Result<usize, Fault> {
        let (bytes, is_whole) = match memchr(b'\n', rest) {
            Some(end) => (&rest[..=end], true),
            None => (rest, false),
        };
        let max_bytes = if self.state == State::ChunkSize { MAX_CHUNK_LINE_BYTES } else { MAX_TRAILER_BYTES };
        if self.partial.len() + bytes.len() > max_bytes {
            return Err("a line of a chunk is too long");
        }
        self.partial.extend_from_slice(bytes);
        if is_whole {
            let line = std::mem::take(&mut self.partial);
            self.on_line(content(&line)?)?;
        }
        Ok(bytes.len())
    }

    fn on_line(&mut self, line: &[u8]) -> Result<(), Fault> {
        self.state = match self.state {
            State::Trailers { .. } if line.is_empty() => State::Head,
            State::Trailers { bytes } if bytes + line.len() > MAX_TRAILER_BYTES => {
                return Err("the trailers are too long");
            }
            State::Trailers { bytes } => {
                field(line)?;
                State::Trailers { bytes: bytes + line.len() }
            }
            _ => match chunk_size(line)? {
                0 => State::Trailers { bytes: 0 },
                // With the line end behind the data, which is the data's as far as skipping goes; the library looks at it.
                size => State::ChunkData(size + 2),
            },
        };
        Ok(())
    }
}

/// Length of a whole head, the empty line included; None as long as it has no end.
fn head_len(bytes: &[u8]) -> Result<Option<usize>, Fault> {
    let mut at = 0;
    let mut is_first = true;
    while let Some(end) = memchr(b'\n', &bytes[at..]) {
        let line = &bytes[at..=at + end];
        at += line.len();
        if !line.ends_with(b"\r\n") {
            return Err("a line ends without CR");
        }
        // An empty line in front of a request is passed over (RFC 9112 §2.2).
        if line.len() == 2 && !is_first {
            return Ok(Some(at));
        }
        is_first &= line.len() == 2;
    }
    Ok(None)
}

/// A line without its end.
fn content(line: &[u8]) -> Result<&[u8], Fault> {
    let line = line.strip_suffix(b"\r\n").ok_or("a line ends without CR")?;
    if line.iter().any(|byte| matches!(byte, b'\r' | 0)) {
        return Err("CR or NUL within a line");
    }
    Ok(line)
}

/// Name and value of a field.
fn field(line: &[u8]) -> Result<(&[u8], &[u8]), Fault> {
    let colon = memchr(b':', line).ok_or("a field without a colon")?;
    let (name, value) = (&line[..colon], &line[colon + 1..]);
    if name.is_empty() || !name.iter().all(|byte| is_token(*byte)) {
        return Err("a field's name has other characters than names have, or begins a folded line");
    }
    Ok((name, value.trim_ascii()))
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn chunk_size(line: &[u8]) -> Result<u64, Fault> {
    let digits = line.split(|byte| *byte == b';').next().unwrap_or_default();
    let is_size = (1..=15).contains(&digits.len()) && digits.iter().all(u8::is_ascii_hexdigit);
    let text = std::str::from_utf8(digits).ok().filter(|_| is_size);
    text.and_then(|text| u64::from_str_radix(text, 16).ok()).ok_or("a chunk without a size")
}

/// What comes behind a head.
fn body(head: &[u8]) -> Result<Body, Fault> {
    let mut lines = head.split_inclusive(|byte| *byte == b'\n').skip_while(|line| *line == b"\r\n");
    let request = content(lines.next().ok_or("no request line")?)?;
    let is_http_10 = request.ends_with(b" HTTP/1.0");
    if !is_http_10 && !request.ends_with(b" HTTP/1.1") {
        return Err("neither HTTP/1.0 nor HTTP/1.1");
    }
    let (mut length, mut is_chunked, mut host_count) = (None, false, 0);
    for line in lines {
        let line = content(line)?;
        if line.is_empty() {
            break;
        }
        let (name, value) = field(line)?;
        match name.len() {
            4 if name.eq_ignore_ascii_case(b"host") => host_count += 1,
            14 if name.eq_ignore_ascii_case(b"content-length") => {
                if length.is_some() {
                    return Err("more than one Content-Length");
                }
                length = Some(decimal(value)?);
            }
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                if is_chunked || is_http_10 || !value.eq_ignore_ascii_case(b"chunked") {
                    return Err("a Transfer-Encoding other than chunked");
                }
                is_chunked = true;
            }
            _ => {}
        }
    }
    if host_count > 1 {
        return Err("more than one Host");
    }
    match (length, is_chunked) {
        (Some(_), true) => Err("both Content-Length and Transfer-Encoding"),
        (None, true) => Ok(Body::Chunked),
        (Some(length), false) => Ok(Body::Length(length)),
        (None, false) => Ok(Body::None),
    }
}

fn decimal(value: &[u8]) -> Result<u64, Fault> {
    let is_number = (1..=19).contains(&value.len()) && value.iter().all(u8::is_ascii_digit);
    let text = std::str::from_utf8(value).ok().filter(|_| is_number);
    text.and_then(|text| text.parse().ok()).ok_or("a Content-Length that is no number")
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What can be read in two ways, or in none.
    pub(in crate::balancer) const AMBIGUOUS: &[&str] = &[
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nX",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 6\r\n\r\n0\r\n\r\nX",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 5\r\n\r\nhello",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\nhello",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x5\r\n\r\nhello",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\nhello",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\n Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n folded\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: a\rY: b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n",
        "GET / HTTP/1.1\nHost: a\n\n",
        "GET / HTTP/1.1\r\nHost: a\r\n\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n: nameless\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX\u{e4}: b\r\n\r\n",
        "GET / HTTP/0.9\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1 \r\nHost: a\r\n\r\n",
        "GET /\r\nHost: a\r\n\r\n",
        "\0\0\0\0\r\n\r\n",
    ];

    /// The same within a chunked body.
    pub(in crate::balancer) const BAD_CHUNKS: &[&str] = &[
        "5\nhello\r\n0\r\n\r\n",
        "5;a\rb\r\nhello\r\n0\r\n\r\n",
        "5;a\nb\r\nhello\r\n0\r\n\r\n",
        "5 ;a\r\nhello\r\n0\r\n\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        "+5\r\nhello\r\n0\r\n\r\n",
        "-5\r\nhello\r\n0\r\n\r\n",
        "\r\nhello\r\n0\r\n\r\n",
        ";a\r\nhello\r\n0\r\n\r\n",
        "fffffffffffffffff\r\nhello\r\n0\r\n\r\n",
        "5\r\nhello\r\n0\r\nX: a\nY: b\r\n\r\n",
        "5\r\nhello\r\n0\r\n folded: a\r\n\r\n",
    ];

    fn is_faulty(text: &str) -> bool {
        let whole = Scanner::new(8192).scan(text.as_bytes()).is_err();
        let mut piecewise = Scanner::new(8192);
        let cut = text.as_bytes().iter().any(|byte| piecewise.scan(&[*byte]).is_err());
        assert_eq!(whole, cut, "{text:?}");
        whole
    }

    #[test]
    fn what_can_be_read_in_two_ways_is_stopped_whole_and_byte_by_byte() {
        for text in AMBIGUOUS {
            assert!(is_faulty(text), "{text:?}");
        }
        for chunks in BAD_CHUNKS {
            assert!(
                is_faulty(&format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}")),
                "{chunks:?}"
            );
        }
        let long_extension = "x".repeat(MAX_CHUNK_LINE_BYTES);
        assert!(is_faulty(&format!(
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5;{long_extension}\r\nhello\r\n"
        )));
    }

    #[test]
    fn requests_one_behind_the_other_are_followed_to_their_ends() {
        let requests = "\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\nPOST / HTTP/1.1\r\nHost: a\r\nContent-Length: 20\r\n\r\nGET / \
                        HTTP/9.9\r\n\r\n\r\nPOST / HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\n3;a=b\r\n\0\n\r\r\nA\r\n\
                        0123456789\r\n0\r\nX: y\r\n\r\nGET / HTTP/1.0\r\n\r\n";
        let mut scanner = Scanner::new(8192);
        assert_eq!(scanner.scan(requests.as_bytes()), Ok(()));
        assert!(scanner.is_between());
        let mut scanner = Scanner::new(8192);
        requests.bytes().for_each(|byte| assert_eq!(scanner.scan(&[byte]), Ok(())));
        assert!(scanner.is_between());
        scanner.scan(b"GET / ").unwrap();
        assert!(scanner.is_in_head() && !scanner.is_between());
    }

    #[test]
    fn a_head_longer_than_the_limit_is_stopped_before_its_end() {
        let mut scanner = Scanner::new(100);
        scanner.scan(b"GET / HTTP/1.1\r\n").unwrap();
        assert!((0..20).any(|_| scanner.scan(b"X: yyyyyyy\r\n").is_err()));
    }

    proptest! {
        #[test]
        fn the_cut_of_the_bytes_changes_nothing(bytes: Vec<u8>, cut: prop::sample::Index) {
            let head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
            let bytes = [head.as_slice(), &bytes].concat();
            let at = cut.index(bytes.len());
            let whole = Scanner::new(8192).scan(&bytes).is_ok();
            let mut scanner = Scanner::new(8192);
            let parts = scanner.scan(&bytes[..at]).is_ok() && scanner.scan(&bytes[at..]).is_ok();
            prop_assert_eq!(whole, parts);
        }
    }
}

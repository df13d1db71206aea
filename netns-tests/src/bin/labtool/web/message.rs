//! Just enough of HTTP/1.1 for both ends: heads, and bodies with a length or in chunks.

use std::io::{self, BufRead, BufReader, Read};

/// Longer than any head here.
const MAX_HEAD_BYTES: u64 = 16 << 10;
/// Longer than any body here.
const MAX_BODY_BYTES: usize = 4 << 20;

/// The first line and the headers, their names in lower case.
#[derive(Debug, Default)]
pub(super) struct Head {
    pub(super) first: String,
    pub(super) headers: Vec<(String, String)>,
}

impl Head {
    /// The first header of this name.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// True if the connection ends behind this message.
    pub(super) fn is_last(&self) -> bool {
        self.get("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"))
    }
}

/// The next head; None when the other end has no more.
pub(super) fn read_head(from: &mut BufReader<impl Read>) -> io::Result<Option<Head>> {
    let mut limited = from.take(MAX_HEAD_BYTES);
    let mut head = Head::default();
    loop {
        let mut line = String::new();
        if limited.read_line(&mut line)? == 0 {
            let is_clean = head.first.is_empty();
            return if is_clean { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
        }
        let line = line.trim_end();
        match (head.first.is_empty(), line.is_empty()) {
            (true, _) => line.clone_into(&mut head.first),
            (false, true) => return Ok(Some(head)),
            (false, false) => {
                let (name, value) = line.split_once(':').ok_or_else(|| io::Error::other("a header without a colon"))?;
                head.headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
            }
        }
    }
}

/// The body that the head announces.
pub(super) fn read_body(from: &mut BufReader<impl Read>, head: &Head) -> io::Result<Vec<u8>> {
    if head.get("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked")) {
        return read_chunks(from);
    }
    let len = head.get("content-length").map_or(Ok(0), |text| text.parse().map_err(io::Error::other))?;
    exactly(from, len)
}

fn read_chunks(from: &mut BufReader<impl Read>) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let mut line = String::new();
        from.read_line(&mut line)?;
        let len = usize::from_str_radix(line.trim_end(), 16).map_err(io::Error::other)?;
        body.extend(exactly(from, len)?);
        exactly(from, 2)?;
        if len == 0 {
            return Ok(body);
        }
    }
}

fn exactly(from: &mut BufReader<impl Read>, len: usize) -> io::Result<Vec<u8>> {
    if len > MAX_BODY_BYTES {
        return Err(io::Error::other("a body that is longer than any here"));
    }
    let mut bytes = vec![0; len];
    from.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// FNV-1a of these bytes.
pub(super) fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_follow_each_other_with_either_kind_of_body() {
        let bytes = b"POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\nab\
            HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\ncd\r\n1\r\ne\r\n0\r\n\r\n";
        let mut reader = BufReader::new(bytes.as_slice());
        for body in [b"ab".as_slice(), b"cde"] {
            let head = read_head(&mut reader).unwrap().unwrap();
            assert_eq!(read_body(&mut reader, &head).unwrap(), body);
        }
        assert!(read_head(&mut reader).unwrap().is_none());
    }

    #[test]
    fn a_head_that_is_cut_is_an_error() {
        let mut reader = BufReader::new(b"GET / HTTP/1.1\r\nHost: a".as_slice());
        assert!(read_head(&mut reader).is_err() || read_head(&mut reader).is_err());
    }
}

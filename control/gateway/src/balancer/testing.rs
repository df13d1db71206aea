//! What the fuzzers run.

mod library;

use super::{
    head::Scanner,
    proxy_protocol::{Header, parse},
};

/// Longest head in these tests.
const MAX_HEAD_BYTES: usize = 8192;

/// Any bytes of a client of HTTP/1: whatever they are, it does not matter how the network cuts them, and the HTTP library
/// reads the same requests in them.
pub fn fuzz_http(bytes: &[u8]) {
    let whole = Scanner::new(MAX_HEAD_BYTES).scan(bytes).is_ok();
    let mut scanner = Scanner::new(MAX_HEAD_BYTES);
    let piecewise = bytes.chunks(3).all(|piece| scanner.scan(piece).is_ok());
    // A head that comes whole and is too long is the library's to refuse.
    assert!(whole == piecewise || bytes.len() > MAX_HEAD_BYTES, "{bytes:?}");
    library::assert_same_requests(bytes);
}

/// Any bytes where a PROXY header should be: a verdict stays, whatever comes behind.
pub fn fuzz_proxy(bytes: &[u8]) {
    let verdict = parse(bytes);
    if let Header::Complete { len, .. } = verdict {
        assert!(len <= bytes.len());
        assert_eq!(parse(&bytes[..len]), verdict);
    }
    let earlier = parse(&bytes[..bytes.len() / 2]);
    assert!(earlier == Header::Incomplete || earlier == verdict, "{bytes:?}");
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// Each file of a fuzzer's corpus, also cut short at every length.
    fn replay(target: &str, run: fn(&[u8])) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
        let files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(!files.is_empty());
        for file in files {
            let bytes = std::fs::read(&file).unwrap();
            (0..=bytes.len()).for_each(|len| run(&bytes[..len]));
        }
    }

    #[test]
    fn every_input_of_the_corpus_has_one_verdict() {
        replay("http", fuzz_http);
        replay("proxy", fuzz_proxy);
    }
}

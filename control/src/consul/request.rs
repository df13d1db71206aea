//! One request, taken apart: method, the parts of its path, parameters, body.

use hyper::{Method, body::Bytes};
use percent_encoding::percent_decode_str;

use super::{answer::Answer, query::Query};
use crate::kv::limits::MAX_KEY_BYTES;

/// The longest path: a key of the longest kind, each byte of it encoded.
pub const MAX_PATH_BYTES: usize = 16 << 10;
/// The same, decoded: what a query that waits keeps.
const MAX_DECODED_BYTES: usize = MAX_KEY_BYTES + 64;

/// A request for one of our paths.
#[derive(Clone, Debug)]
pub struct Ask {
    /// What is done.
    pub method: Method,
    /// What stands behind `/v1/`, decoded; slashes of a key are part of it.
    pub path: String,
    /// The parameters.
    pub query: Query,
    /// The body, whole.
    pub body: Bytes,
    /// By what and from where, for people; empty where that is not known.
    pub source: String,
}

impl Ask {
    /// Takes a request apart. Fails with the answer that says why.
    pub fn new(method: Method, path: &str, query: Option<&str>, body: Bytes) -> Result<Self, Answer> {
        let encoded = path.strip_prefix("/v1/").ok_or_else(Answer::nothing)?;
        if encoded.len() > MAX_PATH_BYTES {
            return Err(Answer::bad(format!("the path is longer than {MAX_PATH_BYTES} bytes")));
        }
        let path = percent_decode_str(encoded).decode_utf8();
        let path = path.map_err(|_| Answer::bad("the path is not UTF-8"))?.into_owned();
        if path.len() > MAX_DECODED_BYTES {
            return Err(Answer::bad(format!("the path is longer than a key may be: {MAX_KEY_BYTES} bytes")));
        }
        Ok(Self { method, path, query: Query::parse(query.unwrap_or_default())?, body, source: String::new() })
    }

    /// The path without its first part, if that is `first`. `kv` has `""` behind it, as has `kv/`.
    pub fn behind(&self, first: &str) -> Option<&str> {
        let rest = self.path.strip_prefix(first)?;
        if rest.is_empty() { Some(rest) } else { rest.strip_prefix('/') }
    }

    /// True for what only asks.
    pub fn is_get(&self) -> bool {
        matches!(self.method, Method::GET | Method::HEAD)
    }

    /// True for both ways in which clients ask for a change: python's and Go's use PUT, consulate GET.
    pub fn is_get_or_put(&self) -> bool {
        matches!(self.method, Method::GET | Method::PUT | Method::POST)
    }

    /// True for a change.
    pub fn is_put(&self) -> bool {
        matches!(self.method, Method::PUT | Method::POST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(path: &str) -> Result<Ask, Answer> {
        Ask::new(Method::GET, path, None, Bytes::new())
    }

    #[test]
    fn a_key_keeps_its_slashes_and_loses_its_encoding() {
        assert_eq!(ask("/v1/kv/a/b%20c%2Fd/").unwrap().behind("kv"), Some("a/b c/d/"));
        assert_eq!(ask("/v1/kv//a/../b").unwrap().behind("kv"), Some("/a/../b"));
        for path in ["/v1/kv", "/v1/kv/"] {
            assert_eq!(ask(path).unwrap().behind("kv"), Some(""));
        }
        assert_eq!(ask("/v1/kvx").unwrap().behind("kv"), None);
    }

    #[test]
    fn what_is_none_of_ours_is_not_found_and_what_is_no_text_is_refused() {
        assert_eq!(ask("/v2/kv/a").unwrap_err(), Answer::nothing());
        assert_eq!(ask("/v1/kv/%ff").unwrap_err(), Answer::bad("the path is not UTF-8"));
        assert!(ask(&format!("/v1/kv/{}", "a".repeat(20 << 10))).is_err());
        assert!(ask(&format!("/v1/kv/{}", "%61".repeat(MAX_KEY_BYTES))).is_ok());
        assert!(ask(&format!("/v1/kv/{}", "a".repeat(MAX_KEY_BYTES + 64))).is_err());
    }
}

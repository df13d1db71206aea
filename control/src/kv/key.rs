//! Names in the store: what people may call a key, and the names that the store keeps for itself.
//!
//! Any text is a key, `..`, spaces and a leading slash included, because it names no file. The byte NUL is refused: it
//! begins the names of the store's own entries, which people cannot read or write.
//!
//! INVARIANT: a [`Key`] is not empty and at most [`MAX_KEY_BYTES`] long.

use std::{borrow::Borrow, fmt};

use aws_lc_rs::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};

use super::{KvError, limits::MAX_KEY_BYTES, session::SessionId};

/// Begins the names of what other parts of weaved keep here: everybody may read it, and no client write it.
pub(super) const OWN: &str = "weaved/";

/// Begins the name of a session's entry.
pub(super) const SESSIONS: &str = "\0session/";

/// The name of an entry.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Key(String);

impl Key {
    /// A key that people use.
    pub fn new(text: &str) -> Result<Self, KvError> {
        let reason = match text.len() {
            0 => "a key cannot be empty".into(),
            len if len > MAX_KEY_BYTES => format!("a key of {len} bytes is longer than {MAX_KEY_BYTES}"),
            _ if text.contains('\0') => "a key cannot contain the byte NUL".into(),
            _ => return Ok(Self(text.into())),
        };
        Err(KvError::BadKey { reason })
    }

    /// The entry of a session.
    pub fn of_session(id: SessionId) -> Self {
        Self(format!("{SESSIONS}{id}"))
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// True for entries of the store itself.
    pub fn is_internal(&self) -> bool {
        self.0.starts_with('\0')
    }

    /// True for what other parts of weaved keep here.
    pub fn is_own(&self) -> bool {
        self.0.starts_with(OWN)
    }

    /// The same on every node. Keys that collide would hide each other's differences from repair, hence SHA-256.
    pub fn hash64(&self) -> u64 {
        hash64(&[self.0.as_bytes()])
    }
}

/// The first eight bytes of SHA-256 over the parts.
pub(super) fn hash64(parts: &[&[u8]]) -> u64 {
    let hashed = digest(&SHA256, &parts.concat());
    let first: [u8; 8] = hashed.as_ref()[..8].try_into().expect("SHA-256 has 32 bytes");
    u64::from_le_bytes(first)
}

impl TryFrom<String> for Key {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        if text.is_empty() || text.len() > MAX_KEY_BYTES { Err("not the length of a key") } else { Ok(Self(text)) }
    }
}

impl From<Key> for String {
    fn from(key: Key) -> Self {
        key.0
    }
}

impl Borrow<str> for Key {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_keys_are_keys_and_impossible_ones_are_refused_with_the_reason() {
        for odd in ["/lead", "a/../b", "a//b/", "ключ", " ", "x.json", &"k".repeat(MAX_KEY_BYTES)] {
            assert_eq!(Key::new(odd).unwrap().as_str(), odd);
        }
        for (bad, word) in [("", "empty"), ("a\0b", "NUL"), (&*"k".repeat(MAX_KEY_BYTES + 1), "longer")] {
            assert!(Key::new(bad).unwrap_err().to_string().contains(word));
        }
    }
}

//! Sessions: who may hold locks, and for how long.
//!
//! A session is an entry like any other, under a name of the store's own, and every change of it is a compare-and-set
//! decided by a majority. It ends when it is destroyed, when nobody renews it for longer than its time to live, or when
//! its node is gone. Its locks are then given back, or their keys deleted.
//!
//! INVARIANT: a session that has ended never lives again; ids are random and not reused. One that ended long ago is
//! forgotten ([`super::forgetting`], which says what that rests on): absent and ended are the same to whoever asks.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use weaved_api::PeerId;

use super::{
    KvError,
    entry::{Entry, Value},
    limits::SESSION_KEPT,
};

/// Lock delay where the client names none, in microseconds: Consul's 15 s.
pub const DEFAULT_LOCK_DELAY_US: u64 = 15_000_000;
/// The longest lock delay: Consul's 60 s.
pub const MAX_LOCK_DELAY_US: u64 = 60_000_000;
/// Bounds of a time to live, in microseconds: Consul's 10 s to 24 h.
pub const TTL_US: std::ops::RangeInclusive<u64> = 10_000_000..=86_400_000_000;
/// Longest name of a session.
pub(super) const MAX_SESSION_NAME_BYTES: usize = 256;

/// A session's random name, written as a UUID.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub [u8; 16]);

/// What becomes of locked keys when their session ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Behaviour {
    /// They are unlocked.
    #[default]
    Release,
    /// They are deleted.
    Delete,
}

/// What a client asks of a new session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionSpec {
    /// For people.
    pub name: String,
    /// How people call the node that it belongs to.
    pub node_name: String,
    /// How long it lives without being renewed, in microseconds; none for ever.
    pub ttl_us: Option<u64>,
    /// For how long its locks stay held back after it was lost, in microseconds.
    pub lock_delay_us: u64,
    /// What becomes of its locks.
    pub behaviour: Behaviour,
}

impl SessionSpec {
    /// Refuses what cannot work.
    pub fn check(&self) -> Result<(), KvError> {
        let reason = if self.name.len() > MAX_SESSION_NAME_BYTES || self.node_name.len() > MAX_SESSION_NAME_BYTES {
            format!("a session's name is longer than {MAX_SESSION_NAME_BYTES} bytes")
        } else if self.ttl_us.is_some_and(|ttl_us| !TTL_US.contains(&ttl_us)) {
            "a session's time to live must be between 10 s and 24 h".into()
        } else if self.lock_delay_us > MAX_LOCK_DELAY_US {
            "a session's lock delay can be 60 s at most".into()
        } else {
            return Ok(());
        };
        Err(KvError::BadSession { reason })
    }
}

/// Whether a session holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// It may lock.
    Live,
    /// It was destroyed by its owner: locks are free at once.
    Destroyed,
    /// It was not renewed, or its node is gone: locks are held back.
    Lost,
}

/// A session as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// What was asked for.
    pub spec: SessionSpec,
    /// The node that it belongs to, and dies with.
    pub node: PeerId,
    /// Whether it holds.
    pub phase: Phase,
    /// Raised by each renewal.
    pub renewals: u64,
}

impl Session {
    /// As an entry's value.
    pub fn to_value(&self) -> Value {
        Value::new(&postcard::to_stdvec(self).expect("a vector takes any session"))
    }

    /// From an entry's value; none for one that is no session.
    pub fn from_value(value: &Value) -> Option<Self> {
        postcard::from_bytes(value.as_bytes()).ok()
    }
}

/// The session that an entry is, if it lives.
pub(super) fn live_session(entry: &Entry) -> Option<Session> {
    entry.value.as_ref().and_then(Session::from_value).filter(|session| session.phase == Phase::Live)
}

/// The session that an entry is, if it has ended.
pub(super) fn ended_session(entry: &Entry) -> Option<Session> {
    entry.value.as_ref().and_then(Session::from_value).filter(|session| session.phase != Phase::Live)
}

/// True for a session that ended so long ago that every host has heard of it that was not away for longer.
pub(super) fn has_long_ended(entry: &Entry, wall_us: u64) -> bool {
    entry.modified.0.saturating_add(SESSION_KEPT.as_micros() as u64) < wall_us && ended_session(entry).is_some()
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, byte) in self.0.iter().enumerate() {
            let dash = if matches!(place, 4 | 6 | 8 | 10) { "-" } else { "" };
            write!(f, "{dash}{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// Text that is no session's id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a session id: expected something like 2b0c0a4e-94ae-4a1f-8c6b-0f4d9f1e7a55")]
pub struct NotASessionId;

impl FromStr for SessionId {
    type Err = NotASessionId;

    fn from_str(text: &str) -> Result<Self, NotASessionId> {
        let is_shaped = text.len() == 36 && [8, 13, 18, 23].iter().all(|&place| text.as_bytes()[place] == b'-');
        let digits: String = text.chars().filter(|&char| char != '-').collect();
        if !is_shaped || digits.len() != 32 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(NotASessionId);
        }
        u128::from_str_radix(&digits, 16).map(|number| Self(number.to_be_bytes())).map_err(|_| NotASessionId)
    }
}

impl Serialize for SessionId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() { serializer.collect_str(self) } else { self.0.serialize(serializer) }
    }
}

impl<'de> Deserialize<'de> for SessionId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
        } else {
            <[u8; 16]>::deserialize(deserializer).map(Self)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_read_as_it_is_printed_and_nothing_else_is_an_id() {
        let id = SessionId(std::array::from_fn(|place| place as u8 * 16));
        assert_eq!(id.to_string(), "00102030-4050-6070-8090-a0b0c0d0e0f0");
        assert_eq!(id.to_string().parse(), Ok(id));
        for bad in [
            "",
            "00102030405060708090a0b0c0d0e0f0",
            "00102030-4050-6070-8090-a0b0c0d0e0fg",
            "+0102030-4050-6070-8090-a0b0c0d0e0f0",
        ] {
            assert_eq!(bad.parse::<SessionId>(), Err(NotASessionId), "{bad}");
        }
    }
}

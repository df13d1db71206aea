//! Names of things: peers, MAC addresses, generations.
//!
//! Each is a newtype, prints in the form an operator reads and parses what it prints. In JSON they are strings,
//! on the socket they are bytes.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A peer's X25519 public key: its identity, made at first start.
///
/// ```
/// let id: weaved_api::PeerId = "07".repeat(32).parse().unwrap();
/// assert_eq!(id.short().to_string(), "0707070707");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(pub [u8; 32]);

/// An Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MacAddr(pub [u8; 6]);

/// Number of a desired state. Grows by one with each; never reused by one control process.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Generation(pub u64);

/// Text that is not an id or an address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// Not 64 hexadecimal digits.
    #[error("a peer id is 64 hexadecimal digits")]
    PeerId,
    /// Not six hexadecimal octets.
    #[error("a MAC address is six hexadecimal octets like 02:42:0a:20:00:02")]
    Mac,
}

impl PeerId {
    /// The first ten digits: enough for people, not for programs.
    pub fn short(&self) -> impl fmt::Display + '_ {
        Hex(&self.0[..5])
    }
}

impl MacAddr {
    /// `ff:ff:ff:ff:ff:ff`.
    pub const BROADCAST: Self = Self([0xff; 6]);

    /// True for broadcast and multicast: the group bit of the first octet (IEEE 802.3 §3.2.3).
    pub fn is_group(&self) -> bool {
        self.0[0] & 1 == 1
    }
}

struct Hex<'a>(&'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Hex(&self.0).fmt(f)
    }
}

impl fmt::Debug for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PeerId({})", self.short())
    }
}

impl FromStr for PeerId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let digits = text.as_bytes();
        if digits.len() != 64 || !digits.iter().all(u8::is_ascii_hexdigit) {
            return Err(IdError::PeerId);
        }
        let mut id = [0; 32];
        for (byte, pair) in id.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            *byte = hex_octet(pair).ok_or(IdError::PeerId)?;
        }
        Ok(Self(id))
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [o0, o1, o2, o3, o4, o5] = self.0;
        write!(f, "{o0:02x}:{o1:02x}:{o2:02x}:{o3:02x}:{o4:02x}:{o5:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for MacAddr {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let mut mac = [0; 6];
        let mut octets = text.split(':');
        for byte in &mut mac {
            let octet = octets.next().filter(|octet| octet.len() == 2);
            *byte = octet.and_then(|octet| hex_octet(octet.as_bytes())).ok_or(IdError::Mac)?;
        }
        if octets.next().is_some() { Err(IdError::Mac) } else { Ok(Self(mac)) }
    }
}

/// Two hexadecimal digits as a number; `from_str_radix` alone would take a sign.
fn hex_octet(digits: &[u8]) -> Option<u8> {
    let text = std::str::from_utf8(digits).ok()?;
    if !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    u8::from_str_radix(text, 16).ok()
}

/// A string for people, the raw octets on the socket.
macro_rules! serde_as_text_or_octets {
    ($name:ident, $len:literal) => {
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if serializer.is_human_readable() { serializer.collect_str(self) } else { self.0.serialize(serializer) }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                if deserializer.is_human_readable() {
                    let text = String::deserialize(deserializer)?;
                    text.parse().map_err(de::Error::custom)
                } else {
                    <[u8; $len]>::deserialize(deserializer).map(Self)
                }
            }
        }
    };
}

serde_as_text_or_octets!(PeerId, 32);
serde_as_text_or_octets!(MacAddr, 6);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peer_id_parses_what_it_prints() {
        let id = PeerId(std::array::from_fn(|i| i as u8 * 7));
        assert_eq!(id.to_string().parse(), Ok(id));
    }

    #[test]
    fn peer_id_refuses_signs_wrong_lengths_and_other_letters() {
        for text in ["", "+7", &"0".repeat(63), &"0".repeat(65), &"+0".repeat(32), &"é0".repeat(32), &"g0".repeat(32)]
        {
            assert_eq!(text.parse::<PeerId>(), Err(IdError::PeerId), "{text}");
        }
    }

    #[test]
    fn mac_parses_what_it_prints() {
        let mac = MacAddr([2, 0x42, 10, 32, 0, 0xff]);
        assert_eq!(mac.to_string(), "02:42:0a:20:00:ff");
        assert_eq!(mac.to_string().parse(), Ok(mac));
    }

    #[test]
    fn mac_refuses_short_long_and_signed_octets() {
        for text in ["", "1:2:3:4:5:6", "02:42:0a:20:00", "02:42:0a:20:00:02:03", "+2:42:0a:20:00:02"] {
            assert_eq!(text.parse::<MacAddr>(), Err(IdError::Mac), "{text}");
        }
    }

    #[test]
    fn ids_are_text_in_json() {
        let mac = MacAddr::BROADCAST;
        assert_eq!(serde_json::to_string(&mac).unwrap(), "\"ff:ff:ff:ff:ff:ff\"");
    }
}

//! The one place where lengths of different layers are converted.
//!
//! ```text
//! UnderlayMtu  = IP header (20 or 40) + UDP header (8) + DatagramLen
//! DatagramLen  = data header (16) + chunk + tag (16)
//! ```
//!
//! INVARIANT: a [`DatagramLen`] is between `MIN_DATAGRAM_LEN` and `MAX_DATAGRAM_LEN`.

use std::net::{IpAddr, SocketAddr};

use crate::{
    limits::{MAX_DATAGRAM_LEN, MIN_DATAGRAM_LEN},
    wire::data::DATA_OVERHEAD,
};

/// Length of a UDP payload on the underlay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DatagramLen(u16);

/// Largest IP packet of a path on the underlay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct UnderlayMtu(pub u16);

const IPV4_UDP_HEADERS: usize = 20 + 8;
const IPV6_UDP_HEADERS: usize = 40 + 8;

impl DatagramLen {
    /// What every path carries.
    pub const MIN: Self = Self(MIN_DATAGRAM_LEN as u16);

    /// A length, brought into the bounds.
    pub fn clamped(len: usize) -> Self {
        Self(len.clamp(MIN_DATAGRAM_LEN, MAX_DATAGRAM_LEN) as u16)
    }

    /// In bytes.
    pub fn bytes(self) -> usize {
        usize::from(self.0)
    }

    /// Room for a sealed chunk in a datagram of this length.
    pub fn chunk_len(self) -> usize {
        self.bytes() - DATA_OVERHEAD
    }

    /// The IP packet that carries this datagram to `endpoint`.
    pub fn underlay_mtu(self, endpoint: SocketAddr) -> UnderlayMtu {
        let headers = match endpoint.ip().to_canonical() {
            IpAddr::V4(_) => IPV4_UDP_HEADERS,
            IpAddr::V6(_) => IPV6_UDP_HEADERS,
        };
        UnderlayMtu(self.0 + headers as u16)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ethernet_underlay_carries_1472_bytes_over_ipv4_and_1452_over_ipv6() {
        let v4 = "192.0.2.1:6783".parse().unwrap();
        let mapped = "[::ffff:192.0.2.1]:6783".parse().unwrap();
        let v6 = "[2001:db8::1]:6783".parse().unwrap();
        assert_eq!(DatagramLen::clamped(1472).underlay_mtu(v4), UnderlayMtu(1500));
        assert_eq!(DatagramLen::clamped(1472).underlay_mtu(mapped), UnderlayMtu(1500));
        assert_eq!(DatagramLen::clamped(1452).underlay_mtu(v6), UnderlayMtu(1500));
        assert_eq!(DatagramLen::MIN.underlay_mtu(v6), UnderlayMtu(1280));
    }
}

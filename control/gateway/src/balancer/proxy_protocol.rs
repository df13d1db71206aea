//! The PROXY protocol, versions 1 and 2: who the client is, said in front of a connection by whoever passes it on.
//!
//! ```text
//! v1   PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\r\n                      at most 107 bytes
//! v2   0D 0A 0D 0A 00 0D 0A 51 55 49 54 0A | ver.cmd | fam.proto | len: u16 BE | addresses | TLVs
//! ```
//!
//! INVARIANT: parsing never reads beyond the header, and says `Invalid` as soon as no further byte can make it valid.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    str,
};

use weaved_api::balancer::ProxyVersion;

use super::limits::MAX_PROXY_HEADER_BYTES;

const V1_BEGIN: &[u8] = b"PROXY ";
/// With the line's end.
const V1_MAX_BYTES: usize = 107;
const V2_BEGIN: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
const V2_FIXED_BYTES: usize = 16;
const V2_LOCAL: u8 = 0x20;
const V2_PROXY: u8 = 0x21;
const TCP4: u8 = 0x11;
const TCP6: u8 = 0x21;

/// What the first bytes of a connection are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header {
    /// A header of so many bytes; None for the client that is seen on the connection.
    Complete {
        /// Bytes of the header.
        len: usize,
        /// Who the client is said to be.
        client: Option<SocketAddr>,
    },
    /// The beginning of one.
    Incomplete,
    /// None.
    Invalid,
}

/// Looks at the first bytes of a connection.
pub fn parse(bytes: &[u8]) -> Header {
    if is_begin_of(bytes, V2_BEGIN) {
        return parse_v2(bytes);
    }
    if is_begin_of(bytes, V1_BEGIN) {
        return parse_v1(bytes);
    }
    Header::Invalid
}

/// True while the shorter of the two is the beginning of the longer.
fn is_begin_of(bytes: &[u8], begin: &[u8]) -> bool {
    bytes.iter().zip(begin).all(|(left, right)| left == right)
}

fn parse_v1(bytes: &[u8]) -> Header {
    let head = &bytes[..bytes.len().min(V1_MAX_BYTES)];
    let Some(end) = head.windows(2).position(|pair| pair == b"\r\n") else {
        return if bytes.len() < V1_MAX_BYTES { Header::Incomplete } else { Header::Invalid };
    };
    let line = str::from_utf8(&head[..end]).ok().and_then(|line| line.strip_prefix("PROXY "));
    match line.and_then(parse_line) {
        Some(Peer::Known(client)) => Header::Complete { len: end + 2, client: Some(client) },
        Some(Peer::Unknown) => Header::Complete { len: end + 2, client: None },
        None => Header::Invalid,
    }
}

/// Who is at the other end, by a line.
enum Peer {
    Known(SocketAddr),
    Unknown,
}

fn parse_line(line: &str) -> Option<Peer> {
    let mut words = line.split(' ');
    let family = words.next()?;
    if family == "UNKNOWN" {
        return Some(Peer::Unknown);
    }
    let [source, destination, source_port, destination_port] =
        [words.next()?, words.next()?, words.next()?, words.next()?];
    if words.next().is_some() {
        return None;
    }
    let (source, destination): (IpAddr, IpAddr) = match family {
        "TCP4" => (source.parse::<Ipv4Addr>().ok()?.into(), destination.parse::<Ipv4Addr>().ok()?.into()),
        "TCP6" => (source.parse::<Ipv6Addr>().ok()?.into(), destination.parse::<Ipv6Addr>().ok()?.into()),
        _ => return None,
    };
    let _: (IpAddr, u16) = (destination, parse_port(destination_port)?);
    Some(Peer::Known(SocketAddr::new(source, parse_port(source_port)?)))
}

/// Digits only: `parse` alone would take a sign.
fn parse_port(text: &str) -> Option<u16> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

fn parse_v2(bytes: &[u8]) -> Header {
    // What is there is checked at once: a stranger is not waited for.
    if bytes.get(12).is_some_and(|command| !matches!(*command, V2_LOCAL | V2_PROXY)) {
        return Header::Invalid;
    }
    let Some(fixed) = bytes.get(..V2_FIXED_BYTES) else { return Header::Incomplete };
    let len = V2_FIXED_BYTES + usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    if len > MAX_PROXY_HEADER_BYTES {
        return Header::Invalid;
    }
    let Some(addresses) = bytes.get(V2_FIXED_BYTES..len) else { return Header::Incomplete };
    if fixed[12] == V2_LOCAL {
        return Header::Complete { len, client: None };
    }
    match (fixed[13], addresses) {
        (TCP4, [a, b, c, d, _, _, _, _, high, low, _, _, ..]) => {
            let client = (Ipv4Addr::new(*a, *b, *c, *d), u16::from_be_bytes([*high, *low])).into();
            Header::Complete { len, client: Some(client) }
        }
        (TCP6, _) if addresses.len() >= 36 => {
            let (source, ports) = (addresses.first_chunk::<16>(), &addresses[32..34]);
            let source = source.map(|bytes| Ipv6Addr::from(*bytes));
            let port = u16::from_be_bytes([ports[0], ports[1]]);
            Header::Complete { len, client: source.map(|address| (address, port).into()) }
        }
        (TCP4 | TCP6, _) => Header::Invalid,
        // A family that we do not know says nothing of the client.
        _ => Header::Complete { len, client: None },
    }
}

/// A header for a client.
pub fn emit(version: ProxyVersion, client: SocketAddr, local: SocketAddr) -> Vec<u8> {
    let (source, destination) = match (client.ip().to_canonical(), local.ip().to_canonical()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => (IpAddr::V4(source), IpAddr::V4(destination)),
        (source, destination) => (v6(source).into(), v6(destination).into()),
    };
    match version {
        ProxyVersion::V1 => {
            let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
            format!("PROXY {family} {source} {destination} {} {}\r\n", client.port(), local.port()).into_bytes()
        }
        ProxyVersion::V2 => {
            let mut addresses = Vec::with_capacity(36);
            for address in [source, destination] {
                match address {
                    IpAddr::V4(address) => addresses.extend(address.octets()),
                    IpAddr::V6(address) => addresses.extend(address.octets()),
                }
            }
            addresses.extend(client.port().to_be_bytes());
            addresses.extend(local.port().to_be_bytes());
            v2(V2_PROXY, if source.is_ipv4() { TCP4 } else { TCP6 }, &addresses)
        }
    }
}

/// A header for a connection of our own, such as one made ahead of a switch.
pub fn emit_local(version: ProxyVersion) -> Vec<u8> {
    match version {
        ProxyVersion::V1 => b"PROXY UNKNOWN\r\n".to_vec(),
        ProxyVersion::V2 => v2(V2_LOCAL, 0, &[]),
    }
}

fn v2(command: u8, family: u8, addresses: &[u8]) -> Vec<u8> {
    let mut header = V2_BEGIN.to_vec();
    header.extend([command, family]);
    header.extend((addresses.len() as u16).to_be_bytes());
    header.extend(addresses);
    header
}

fn v6(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn complete(bytes: &[u8], client: Option<&str>) {
        let client = client.map(|text| text.parse().unwrap());
        assert_eq!(parse(bytes), Header::Complete { len: bytes.len(), client }, "{bytes:?}");
        let behind = [bytes, b"GET / HTTP/1.1\r\n\r\n"].concat();
        assert_eq!(parse(&behind), Header::Complete { len: bytes.len(), client });
        for cut in 0..bytes.len() {
            assert_eq!(parse(&bytes[..cut]), Header::Incomplete, "{cut} of {bytes:?}");
        }
    }

    #[test]
    fn headers_of_both_versions_are_understood() {
        complete(b"PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\r\n", Some("192.0.2.1:56324"));
        complete(b"PROXY TCP6 2001:db8::1 2001:db8::2 1 65535\r\n", Some("[2001:db8::1]:1"));
        complete(b"PROXY UNKNOWN\r\n", None);
        complete(b"PROXY UNKNOWN ff:: ff:: 1 2\r\n", None);
        complete(b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0", None);
        complete(
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x01\xc6\x33\x64\x01\xdc\x04\x01\xbb",
            Some("192.0.2.1:56324"),
        );
        // With three bytes of a TLV behind the addresses.
        complete(
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0f\xc0\0\x02\x01\xc6\x33\x64\x01\xdc\x04\x01\xbb\x04\0\0",
            Some("192.0.2.1:56324"),
        );
        // A Unix socket.
        complete(b"\r\n\r\n\0\r\nQUIT\n\x21\x31\0\x02ab", None);
    }

    #[test]
    fn what_is_no_header_is_told_at_once() {
        for bytes in [
            b"GET / HTTP/1.1\r\n\r\n".as_slice(),
            b"PROXY TCP4 192.0.2.1 198.51.100.1 56324\r\n",
            b"PROXY TCP4 192.0.2.1 198.51.100.1 56324 443 1\r\n",
            b"PROXY TCP4 192.0.2.1 198.51.100.1 +1 443\r\n",
            b"PROXY TCP4 192.0.2.1 198.51.100.1 1 65536\r\n",
            b"PROXY TCP4 2001:db8::1 2001:db8::2 1 2\r\n",
            b"PROXY TCP4 192.0.2.001 198.51.100.1 1 2\r\n",
            b"PROXY SCTP 192.0.2.1 198.51.100.1 1 2\r\n",
            b"PROXY \xff\r\n",
            b"\r\n\r\n\0\r\nQUIT\n\x11",
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff",
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x02ab",
            b"\r\n\r\n\0\r\nQUIX",
        ] {
            assert_eq!(parse(bytes), Header::Invalid, "{bytes:?}");
        }
        assert_eq!(parse(&[b"PROXY ".as_slice(), &[b'x'; 200]].concat()), Header::Invalid);
    }

    fn any_address() -> impl Strategy<Value = SocketAddr> {
        prop_oneof![
            any::<([u8; 4], u16)>().prop_map(|(ip, port)| SocketAddr::new(Ipv4Addr::from(ip).into(), port)),
            any::<([u8; 16], u16)>().prop_map(|(ip, port)| SocketAddr::new(Ipv6Addr::from(ip).into(), port)),
        ]
    }

    proptest! {
        #[test]
        fn what_is_emitted_is_parsed(client in any_address(), local in any_address(), version in 1..=2) {
            let version = if version == 1 { ProxyVersion::V1 } else { ProxyVersion::V2 };
            let header = emit(version, client, local);
            let Header::Complete { len, client: Some(parsed) } = parse(&header) else { panic!("{header:?}") };
            prop_assert_eq!(len, header.len());
            prop_assert_eq!(parsed.ip().to_canonical(), client.ip().to_canonical());
            prop_assert_eq!(parsed.port(), client.port());
        }

        #[test]
        fn any_bytes_are_parsed_and_more_bytes_never_change_a_verdict(bytes: Vec<u8>, more: Vec<u8>) {
            let (first, second) = (parse(&bytes), parse(&[bytes.as_slice(), &more].concat()));
            prop_assert!(first == Header::Incomplete || first == second);
        }
    }
}

//! Text to names: what Docker, operators and hosts call things is not always what DNS can carry.
//!
//! A name is made lower case; a character that no host name has becomes `-`; a label is cut to 63 bytes. `weaved dns-lookup` and
//! `weaved ps` show what came out. Underscores stay: resolvers take them, and Compose makes them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hickory_proto::rr::Name;

/// RFC 1035 §2.3.4.
const MAX_LABEL_BYTES: usize = 63;
/// Leaves room for `_NAME._TAG.service.DC.consul` within the 255 bytes of RFC 1035 §2.3.4.
const MAX_NAME_BYTES: usize = 128;

/// What something is called in DNS, relative to its zone; None when nothing is left of it.
pub(crate) fn dns_name(text: &str) -> Option<String> {
    let mapped: String = text.chars().map(dns_char).collect();
    let labels = mapped.split('.').filter(|label| !label.is_empty());
    let labels: Vec<&str> = labels.map(|label| &label[..label.len().min(MAX_LABEL_BYTES)]).collect();
    let mut name = labels.join(".");
    name.truncate(MAX_NAME_BYTES);
    let name = name.trim_end_matches('.');
    (!name.is_empty()).then(|| name.to_owned())
}

/// A tag is one label: dots in it would look like more.
pub(crate) fn dns_label(text: &str) -> Option<String> {
    dns_name(&text.replace('.', "-"))
}

fn dns_char(character: char) -> char {
    match character.to_ascii_lowercase() {
        usual @ ('a'..='z' | '0'..='9' | '-' | '_' | '.') => usual,
        _ => '-',
    }
}

/// The label of an address below `addr`: its bytes in hexadecimal, as Consul writes them.
pub(crate) fn hex_label(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => format!("{:08x}", u32::from(address)),
        IpAddr::V6(address) => format!("{:032x}", u128::from(address)),
    }
}

/// The address that a label below `addr` stands for.
pub(crate) fn parse_hex_label(label: &str) -> Option<IpAddr> {
    // `from_str_radix` alone would take a sign.
    if !label.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    match label.len() {
        8 => u32::from_str_radix(label, 16).ok().map(|bits| Ipv4Addr::from(bits).into()),
        32 => u128::from_str_radix(label, 16).ok().map(|bits| Ipv6Addr::from(bits).into()),
        _ => None,
    }
}

/// A name as lower-case text without the dot at its end. Bytes that are no text in names of ours become `\0`, which
/// no name of ours has.
pub(crate) fn lower_text(name: &Name) -> String {
    let mut text = String::with_capacity(name.len());
    for label in name {
        if !text.is_empty() {
            text.push('.');
        }
        // A dot within a label must not look like the end of one.
        let plain = |byte: u8| if byte.is_ascii_graphic() && byte != b'.' { byte.to_ascii_lowercase() } else { 0 };
        text.extend(label.iter().map(|byte| char::from(plain(*byte))));
    }
    text
}

/// What is in front of a zone in a name; empty for the zone itself, None for a name that is not in it.
pub(crate) fn within<'a>(name: &'a str, zone: &str) -> Option<&'a str> {
    let front = name.strip_suffix(zone)?;
    if front.is_empty() { Some(front) } else { front.strip_suffix('.') }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_dns_cannot_carry_is_mapped() {
        for (text, name) in [
            ("Web_1", Some("web_1")),
            ("my container", Some("my-container")),
            ("bücher", Some("b-cher")),
            ("db1.example.com", Some("db1.example.com")),
            ("..a..b.", Some("a.b")),
            ("", None),
            ("...", None),
        ] {
            assert_eq!(dns_name(text).as_deref(), name, "{text}");
        }
        assert_eq!(dns_name(&"x".repeat(300)).unwrap().len(), MAX_LABEL_BYTES);
        assert!(dns_name(&"abc.".repeat(300)).unwrap().len() <= MAX_NAME_BYTES);
        assert_eq!(dns_label("v1.2").as_deref(), Some("v1-2"));
    }

    #[test]
    fn an_address_is_its_label_and_nothing_else_is() {
        for address in ["10.0.0.5", "2001:db8::1"].map(|text| text.parse().unwrap()) {
            assert_eq!(parse_hex_label(&hex_label(address)), Some(address));
        }
        assert_eq!(hex_label("10.0.0.5".parse().unwrap()), "0a000005");
        for label in ["", "0a00000", "+a000005", "0a00000g", "0a0000050"] {
            assert_eq!(parse_hex_label(label), None, "{label}");
        }
    }

    #[test]
    fn a_zone_ends_at_a_label() {
        assert_eq!(within("a.b.weave.local", "weave.local"), Some("a.b"));
        assert_eq!(within("weave.local", "weave.local"), Some(""));
        assert_eq!(within("xweave.local", "weave.local"), None);
        assert_eq!(within("local", "weave.local"), None);
    }

    #[test]
    fn bytes_that_are_no_text_match_nothing() {
        let name = Name::from_labels([&b"a.b"[..], &[0xff, b'X']]).unwrap();
        assert_eq!(lower_text(&name), "a\0b.\0x");
    }
}

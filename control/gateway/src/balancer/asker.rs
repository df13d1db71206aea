//! Who has asked, where other proxies are in front of the balancer. Each of them adds on the right of `X-Forwarded-For` whom it was asked by:
//!
//! ```text
//! X-Forwarded-For: what anybody likes to write, client, first proxy        peer: the last proxy
//!                                               ◀──────────────────────────────── read from here
//! ```
//!
//! The list is read as long as it speaks the word of somebody who is trusted. Where everybody is, a peer is taken for a proxy, and its own word
//! is the one that counts: whoever wrote the rest, nobody knows.
//!
//! INVARIANT: nobody's word is taken who is not trusted, nor what stands to the left of it.

use std::net::{IpAddr, SocketAddr};

use hyper::HeaderMap;
use weaved_api::balancer::Trust;

use super::{headers::X_FORWARDED_FOR, limits::MAX_FORWARDED_HOPS};

/// The last address, from the right, of which no proxy that is trusted says that it is only another one: the peer's own, if it is no such proxy.
/// What is no address ends the list.
pub(super) fn asker(peer: IpAddr, headers: &HeaderMap, trust: &Trust) -> IpAddr {
    let mut asker = peer.to_canonical();
    if !trust.covers(asker) {
        return asker;
    }
    let lines = headers.get_all(X_FORWARDED_FOR).iter().rev();
    let max_hops = if *trust == Trust::Everybody { 1 } else { MAX_FORWARDED_HOPS };
    let mut hops = lines.flat_map(|line| line.as_bytes().rsplit(|byte| *byte == b',')).map(address).take(max_hops);
    while trust.covers(asker)
        && let Some(Some(before)) = hops.next()
    {
        asker = before;
    }
    asker
}

/// With or without a port: proxies write both.
fn address(hop: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(hop.trim_ascii()).ok()?;
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let address = bare.parse().or_else(|_| text.parse().map(|address: SocketAddr| address.ip()));
    address.ok().map(|address: IpAddr| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    fn told(lines: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(X_FORWARDED_FOR, HeaderValue::from_str(line).unwrap());
        }
        headers
    }

    fn asked_by(peer: &str, lines: &[&str], trust: &Trust) -> String {
        asker(peer.parse().unwrap(), &told(lines), trust).to_string()
    }

    /// Proxies are at 10.0.0.0/8 and `fd00::/8`.
    fn proxies() -> Trust {
        Trust::Networks(vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()])
    }

    #[test]
    fn a_peer_that_is_not_trusted_is_who_asks_whatever_it_says() {
        for trust in [Trust::Nobody, proxies()] {
            assert_eq!(asked_by("192.0.2.9", &["10.0.0.1", "198.51.100.1, 10.0.0.2"], &trust), "192.0.2.9");
        }
    }

    #[test]
    fn the_first_from_the_right_that_is_no_trusted_proxy_asks_and_what_it_says_itself_is_not_believed() {
        for (lines, expected) in [
            (&["198.51.100.1"][..], "198.51.100.1"),
            (&["1.1.1.1, 198.51.100.1, 10.0.0.2"], "198.51.100.1"),
            (&["10.9.9.9,198.51.100.1 ,\t10.0.0.2"], "198.51.100.1"),
            (&["1.1.1.1, 198.51.100.1", "10.0.0.3,10.0.0.2"], "198.51.100.1"),
            (&["1.1.1.1", "198.51.100.1", "10.0.0.2"], "198.51.100.1"),
            (&["10.0.0.4, 10.0.0.3"], "10.0.0.4"),
            (&[], "10.0.0.1"),
        ] {
            assert_eq!(asked_by("10.0.0.1", lines, &proxies()), expected, "{lines:?}");
            assert_eq!(asked_by("::ffff:10.0.0.1", lines, &proxies()), expected, "{lines:?}");
        }
    }

    #[test]
    fn where_everybody_is_trusted_the_peers_own_word_is_the_one_that_counts() {
        let trust = Trust::Everybody;
        assert_eq!(asked_by("192.0.2.9", &["1.1.1.1", "2.2.2.2, 198.51.100.1"], &trust), "198.51.100.1");
        assert_eq!(asked_by("192.0.2.9", &["1.1.1.1, unknown"], &trust), "192.0.2.9");
        assert_eq!(asked_by("192.0.2.9", &[], &trust), "192.0.2.9");
    }

    #[test]
    fn what_is_no_address_ends_the_list_at_the_last_proxy_that_is_trusted() {
        for broken in
            ["unknown", "", " ", "198.51.100.1;", "198.51.100", "_hidden", "a.example", "198.51.100.1 10.0.0.3"]
        {
            let line = format!("198.51.100.7, {broken}, 10.0.0.2");
            assert_eq!(asked_by("10.0.0.1", &[&line], &proxies()), "10.0.0.2", "{broken:?}");
            assert_eq!(asked_by("10.0.0.1", &["198.51.100.7", broken], &proxies()), "10.0.0.1", "{broken:?}");
        }
        let mut headers = told(&["198.51.100.7"]);
        headers.append(X_FORWARDED_FOR, HeaderValue::from_bytes(b"\xff\xfe").unwrap());
        assert_eq!(asker("10.0.0.1".parse().unwrap(), &headers, &proxies()).to_string(), "10.0.0.1");
    }

    #[test]
    fn addresses_may_have_ports_and_brackets() {
        for (hop, expected) in [
            ("198.51.100.1:4711", "198.51.100.1"),
            ("2001:db8::1", "2001:db8::1"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("[2001:db8::1]:4711", "2001:db8::1"),
            ("::ffff:198.51.100.1", "198.51.100.1"),
        ] {
            assert_eq!(asked_by("fd00::1", &[hop], &proxies()), expected);
        }
    }

    #[test]
    fn a_list_without_an_end_is_read_for_so_many_proxies_only() {
        let line = |count: usize| format!("198.51.100.1{}", ", 10.0.0.2".repeat(count));
        assert_eq!(asked_by("10.0.0.1", &[&line(MAX_FORWARDED_HOPS - 1)], &proxies()), "198.51.100.1");
        assert_eq!(asked_by("10.0.0.1", &[&line(MAX_FORWARDED_HOPS)], &proxies()), "10.0.0.2");
    }
}

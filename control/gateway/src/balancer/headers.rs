//! What changes in the headers of a message on its way: what belongs to one connection stays behind (RFC 9110 §7.6.1), and the
//! backend is told who asked.

use hyper::{
    HeaderMap, Version,
    header::{self, HeaderName, HeaderValue},
};

use super::limits::MAX_HOPS;

pub(super) const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
/// The 503 of gRPC.
pub(super) const GRPC_UNAVAILABLE: u16 = 14;

/// How many balancers of ours a request has passed.
const HOPS: HeaderName = HeaderName::from_static("x-weaved-hops");

/// Of one connection only.
const HOP_BY_HOP: [HeaderName; 8] = [
    header::CONNECTION,
    KEEP_ALIVE,
    PROXY_CONNECTION,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    // RFC 7540 §3.2.1: of an upgrade to HTTP/2, which goes no further.
    HTTP2_SETTINGS,
];

/// What proxies say of a client.
const CLAIMS: [&str; 3] = ["x-forwarded-", "x-real-ip", "forwarded"];
/// Protocols with requests inside, which would pass by the routes, the limits and the log.
const CARRIERS_OF_HTTP: [&str; 4] = ["h2c", "h2", "http", "tls"];

/// What the backend is told of the client.
#[derive(Clone, Debug)]
pub(super) struct Forwarded {
    pub(super) address: HeaderValue,
    pub(super) proto: HeaderValue,
    /// True if what the client says of itself is believed.
    pub(super) is_trusted: bool,
}

/// The protocol that both want to change to, where a message asks for one. Who asks for HTTP/2 in this way is answered over HTTP/1.1, as whoever
/// does not know it does (RFC 9113 §3.1: deprecated).
pub(super) fn upgrade_of(headers: &HeaderMap) -> Option<HeaderValue> {
    let upgrade = headers.get(header::UPGRADE)?;
    if !has_token(headers, header::CONNECTION, "upgrade") {
        return None;
    }
    let protocols = upgrade.to_str().ok()?.split(',').map(str::trim);
    let carried: Vec<&str> = protocols.filter(|protocol| !protocol.is_empty() && !carries_http(protocol)).collect();
    (!carried.is_empty()).then(|| HeaderValue::try_from(carried.join(", ")).ok())?
}

fn carries_http(protocol: &str) -> bool {
    let name = protocol.split('/').next().unwrap_or_default().trim();
    CARRIERS_OF_HTTP.iter().any(|carrier| carrier.eq_ignore_ascii_case(name))
}

fn has_token(headers: &HeaderMap, name: HeaderName, token: &str) -> bool {
    let lines = headers.get_all(name).iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).any(|part| part.trim().eq_ignore_ascii_case(token))
}

/// Takes away what belongs to one connection.
pub(super) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(header::CONNECTION) {
        let lines = headers.get_all(header::CONNECTION).iter().filter_map(|line| line.to_str().ok());
        let names = lines.flat_map(|line| line.split(',')).filter_map(|name| name.trim().parse::<HeaderName>().ok());
        // Nobody takes away by a word what decides where a request goes or how long it is.
        let may_go = |name: &HeaderName| *name != header::HOST && *name != header::CONTENT_LENGTH;
        for name in names.filter(may_go).collect::<Vec<_>>() {
            headers.remove(name);
        }
    }
    for name in HOP_BY_HOP {
        headers.remove(name);
    }
}

/// Makes the headers of a client's request those of ours to the backend. `authority` is the host that was asked for.
pub(super) fn prepare_request(
    headers: &mut HeaderMap,
    version: Version,
    authority: Option<&HeaderValue>,
    to_http2: bool,
    forwarded: &Forwarded,
) {
    let wants_trailers = has_token(headers, header::TE, "trailers");
    strip_hop_by_hop(headers);
    headers.remove(header::TE);
    // The client hears from us whether it may go on.
    headers.remove(header::EXPECT);
    if wants_trailers && to_http2 {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    if version == Version::HTTP_2 && !to_http2 {
        join_cookies(headers);
    }
    if to_http2 {
        headers.remove(header::HOST);
    } else if let Some(authority) = authority {
        // Also where the client's `Host` says something else than its target (RFC 9112 §3.2.2).
        headers.insert(header::HOST, authority.clone());
    }
    tell_client(headers, authority, forwarded);
}

/// The status of gRPC, which says in a head or in trailers what HTTP would have said.
pub(super) fn grpc_status(headers: &HeaderMap) -> Option<u16> {
    headers.get(GRPC_STATUS)?.to_str().ok()?.parse().ok()
}

/// Whether it says what HTTP says with 5xx: unknown, deadline exceeded, unimplemented, internal, unavailable, data loss.
pub(super) fn is_grpc_failure(headers: &HeaderMap) -> bool {
    matches!(grpc_status(headers), Some(2 | 4 | 12 | 13 | GRPC_UNAVAILABLE | 15))
}

/// Counts one balancer more that the request passes. False if these are too many: it goes round.
pub(super) fn count_hop(headers: &mut HeaderMap) -> bool {
    let passed = headers.get(HOPS).and_then(|hops| hops.to_str().ok()?.parse::<u16>().ok()).unwrap_or(0);
    headers.insert(HOPS, HeaderValue::from(passed.saturating_add(1)));
    passed < MAX_HOPS
}

/// HTTP/2 clients may send a line for each cookie; HTTP/1 has one (RFC 9113 §8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let lines: Vec<&[u8]> = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if lines.len() > 1
        && let Ok(joined) = HeaderValue::from_bytes(&lines.join(b"; ".as_slice()))
    {
        headers.insert(header::COOKIE, joined);
    }
}

fn tell_client(headers: &mut HeaderMap, authority: Option<&HeaderValue>, forwarded: &Forwarded) {
    if forwarded.is_trusted {
        let address = forwarded.address.clone();
        let before: Vec<&[u8]> = headers.get_all(X_FORWARDED_FOR).iter().map(HeaderValue::as_bytes).collect();
        let all = [before.as_slice(), &[address.as_bytes()]].concat().join(b", ".as_slice());
        headers.insert(X_FORWARDED_FOR, HeaderValue::from_bytes(&all).unwrap_or(address));
        headers.entry(X_FORWARDED_PROTO).or_insert_with(|| forwarded.proto.clone());
        if let Some(authority) = authority {
            headers.entry(X_FORWARDED_HOST).or_insert_with(|| authority.clone());
        }
        return;
    }
    remove_claims(headers);
    headers.insert(X_FORWARDED_FOR, forwarded.address.clone());
    headers.insert(X_FORWARDED_PROTO, forwarded.proto.clone());
    if let Some(authority) = authority {
        headers.insert(X_FORWARDED_HOST, authority.clone());
    }
}

/// Takes away what proxies say in heads: some programs make no difference between a head and what comes behind the body.
pub(super) fn clean_trailers(trailers: &mut HeaderMap) {
    remove_claims(trailers);
    trailers.remove(HOPS);
}

fn remove_claims(headers: &mut HeaderMap) {
    for claim in headers.keys().filter(|name| is_claim(name.as_str())).cloned().collect::<Vec<_>>() {
        headers.remove(claim);
    }
}

/// `_` is as good as `-`: programs that get headers as variables (CGI, WSGI) cannot tell them apart.
fn is_claim(name: &str) -> bool {
    let begins = |claim: &str| {
        let byte = |byte: u8| if byte == b'_' { b'-' } else { byte };
        name.len() >= claim.len() && name.bytes().map(byte).zip(claim.bytes()).all(|(left, right)| left == right)
    };
    CLAIMS.into_iter().any(|claim| begins(claim) && (claim.ends_with('-') || name.len() == claim.len()))
}

/// The value of a cookie.
pub(super) fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let lines = headers.get_all(header::COOKIE).iter().filter_map(|line| line.to_str().ok());
    let pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.into_iter().find(|(found, _)| *found == name).map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        headers
    }

    fn shown(headers: &HeaderMap) -> Vec<String> {
        let mut lines: Vec<String> =
            headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
        lines.sort();
        lines
    }

    fn forwarded(is_trusted: bool) -> Forwarded {
        let (address, proto) = (HeaderValue::from_static("192.0.2.1"), HeaderValue::from_static("https"));
        Forwarded { address, proto, is_trusted }
    }

    #[test]
    fn what_belongs_to_one_connection_stays_behind_and_so_does_what_it_names() {
        let mut headers = headers(&[
            ("connection", "close, X-Secret, content-length, host"),
            ("x-secret", "1"),
            ("keep-alive", "timeout=5"),
            ("transfer-encoding", "chunked"),
            ("proxy-authorization", "x"),
            ("http2-settings", "AAMAAABkAAQAAP__"),
            ("content-length", "5"),
            ("host", "web"),
            ("accept", "*/*"),
        ]);
        strip_hop_by_hop(&mut headers);
        assert_eq!(shown(&headers), ["accept: */*", "content-length: 5", "host: web"]);
    }

    #[test]
    fn a_client_cannot_say_who_it_is_unless_it_is_trusted() {
        let lied = headers(&[
            ("x-forwarded-for", "10.0.0.1"),
            ("x-forwarded-port", "443"),
            ("x-forwarded-prefix", "/admin"),
            ("x-forwarded-server", "inside"),
            ("x-forwarded-client-cert", "x"),
            ("x_forwarded_for", "10.0.0.1"),
            ("x-forwarded_host", "inside"),
            ("forwarded", "for=x"),
            ("x-real-ip", "10.0.0.1"),
            ("x-forward", "is another"),
        ]);
        let host = HeaderValue::from_static("web");
        let mut ours = lied.clone();
        prepare_request(&mut ours, Version::HTTP_11, Some(&host), false, &forwarded(false));
        let expected = [
            "host: web",
            "x-forward: is another",
            "x-forwarded-for: 192.0.2.1",
            "x-forwarded-host: web",
            "x-forwarded-proto: https",
        ];
        assert_eq!(shown(&ours), expected);
        let mut trusted = lied;
        prepare_request(&mut trusted, Version::HTTP_11, Some(&host), false, &forwarded(true));
        assert_eq!(trusted[X_FORWARDED_FOR], "10.0.0.1, 192.0.2.1");
        assert_eq!(trusted["x-forwarded-port"], "443");
        assert_eq!(trusted["forwarded"], "for=x");
    }

    #[test]
    fn cookies_of_http2_become_one_line_and_trailers_go_on_to_http2_only() {
        let mut to_http1 = headers(&[("cookie", "a=1"), ("cookie", "b=2"), ("te", "trailers")]);
        let mut to_http2 = to_http1.clone();
        prepare_request(&mut to_http1, Version::HTTP_2, None, false, &forwarded(false));
        assert_eq!(to_http1.get_all(header::COOKIE).iter().collect::<Vec<_>>(), ["a=1; b=2"]);
        assert!(!to_http1.contains_key(header::TE));
        assert_eq!(cookie(&to_http1, "b"), Some("2"));
        prepare_request(&mut to_http2, Version::HTTP_2, None, true, &forwarded(false));
        assert_eq!(to_http2[header::TE], "trailers");
    }

    #[test]
    fn an_upgrade_needs_both_headers() {
        assert!(upgrade_of(&headers(&[("upgrade", "websocket")])).is_none());
        assert!(upgrade_of(&headers(&[("upgrade", "websocket"), ("connection", "keep-alive, Upgrade")])).is_some());
    }

    #[test]
    fn an_upgrade_to_what_carries_requests_goes_no_further_and_what_is_asked_for_beside_it_does() {
        let asked =
            |protocol| upgrade_of(&headers(&[("upgrade", protocol), ("connection", "Upgrade, HTTP2-Settings")]));
        for protocol in ["h2c", "H2C", "h2", "HTTP/2.0", "TLS/1.0", "h2c, TLS/1.2", " ", ","] {
            assert_eq!(asked(protocol), None, "{protocol:?}");
        }
        for (protocol, expected) in
            [("websocket", "websocket"), ("h2c, websocket", "websocket"), ("SPDY/3.1", "SPDY/3.1"), ("h2cx", "h2cx")]
        {
            assert_eq!(asked(protocol).unwrap(), expected);
        }
    }
}

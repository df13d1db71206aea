//! One listener as its connections see it: its rules, which change with each state, and what outlives them.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
    },
};

use arc_swap::{ArcSwap, ArcSwapOption};
use hyper::HeaderMap;
use tokio::sync::Notify;
use tokio_rustls::rustls::ServerConfig;
use weaved_api::balancer::{Listener, Route};

use super::{access_log::LogQueue, rate::Rates, service::Service};

/// A listening address, for as long as it is wanted.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) address: SocketAddr,
    pub(super) rules: ArcSwap<Rules>,
    pub(super) connections: AtomicU32,
    /// True when nobody listens there any more: its connections end when they have nothing to do.
    is_closing: AtomicBool,
    closes: Notify,
    pub(super) rates: Rates,
    pub(super) tls: ArcSwapOption<ServerConfig>,
    pub(super) log: ArcSwapOption<LogQueue>,
}

/// What holds for new requests.
#[derive(Debug)]
pub(super) struct Rules {
    pub(super) listener: Listener,
    /// In the order of the listener's; without those whose service is unknown.
    routes: Vec<(Route, Arc<Service>)>,
}

impl Slot {
    pub(super) fn new(rules: Rules) -> Self {
        Self {
            address: rules.listener.address,
            rules: ArcSwap::from_pointee(rules),
            connections: AtomicU32::new(0),
            is_closing: AtomicBool::new(false),
            closes: Notify::new(),
            rates: Rates::default(),
            tls: ArcSwapOption::empty(),
            log: ArcSwapOption::empty(),
        }
    }

    /// Nobody listens there any more.
    pub(super) fn close(&self) {
        self.is_closing.store(true, Relaxed);
        self.closes.notify_waiters();
    }

    pub(super) fn is_closing(&self) -> bool {
        self.is_closing.load(Relaxed)
    }

    /// Returns when it is closing. May be dropped at any time.
    pub(super) async fn closed(&self) {
        let closes = self.closes.notified();
        if !self.is_closing() {
            closes.await;
        }
    }
}

impl Rules {
    pub(super) fn new(listener: Listener, service: impl Fn(&str) -> Option<Arc<Service>>) -> Self {
        let known = |route: &Route| Some((route.clone(), service(&route.service)?));
        let routes = listener.routes.iter().filter_map(known).collect();
        Self { listener, routes }
    }

    /// Where a request goes, and which colour it asks for.
    pub(super) fn find(&self, host: &str, path: &str, headers: &HeaderMap) -> Option<(&Arc<Service>, Option<String>)> {
        let (route, service) = self.routes.iter().find(|(route, _)| matches(route, host, path, headers))?;
        let named = route.colour_header.as_ref().and_then(|name| headers.get(name)?.to_str().ok());
        Some((service, named.or(route.colour.as_deref()).map(ToOwned::to_owned)))
    }

    /// Where a stream goes.
    pub(super) fn first(&self) -> Option<(&Arc<Service>, Option<&str>)> {
        self.routes.first().map(|(route, service)| (service, route.colour.as_deref()))
    }

    /// The same service as it is by these rules; None if it is not there, or takes requests in another form.
    pub(super) fn newest(&self, service: &Service) -> Option<Arc<Service>> {
        let (name, is_http2) = (&service.rule.name, service.rule.http2_backends);
        self.services().find(|newest| newest.rule.name == *name && newest.rule.http2_backends == is_http2).cloned()
    }

    pub(super) fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.routes.iter().map(|(_, service)| service)
    }
}

fn matches(route: &Route, host: &str, path: &str, headers: &HeaderMap) -> bool {
    route.host.as_ref().is_none_or(|wanted| matches_host(wanted, host))
        && route.path.as_ref().is_none_or(|wanted| matches_path(wanted, path))
        && route
            .header
            .as_ref()
            .is_none_or(|(name, value)| headers.get_all(name).iter().any(|found| found.as_bytes() == value.as_bytes()))
}

fn matches_host(wanted: &str, host: &str) -> bool {
    match wanted.strip_prefix("*.") {
        None => wanted.eq_ignore_ascii_case(host),
        Some(domain) => {
            host.split_once('.').is_some_and(|(label, rest)| !label.is_empty() && rest.eq_ignore_ascii_case(domain))
        }
    }
}

fn matches_path(wanted: &str, path: &str) -> bool {
    let wanted = wanted.trim_end_matches('/');
    path.strip_prefix(wanted).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// The host of an authority: without the port, and of an address in brackets what is between them with them.
pub(super) fn without_port(authority: &str) -> &str {
    let end_of_address = authority.rfind(']').map_or(0, |bracket| bracket + 1);
    match authority[end_of_address..].rfind(':') {
        Some(colon) => &authority[..end_of_address + colon],
        None => authority,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_matches_at_a_boundary_of_segments() {
        for (wanted, path, expected) in [
            ("/", "/x", true),
            ("/api", "/api", true),
            ("/api", "/api/v1", true),
            ("/api/", "/api/v1", true),
            ("/api", "/apiary", false),
            ("/api", "/", false),
        ] {
            assert_eq!(matches_path(wanted, path), expected, "{wanted} {path}");
        }
    }

    #[test]
    fn a_star_is_one_label_and_case_does_not_matter() {
        assert!(matches_host("example.com", "EXAMPLE.com"));
        assert!(matches_host("*.example.com", "green.Example.com"));
        assert!(!matches_host("*.example.com", "example.com"));
        assert!(!matches_host("*.example.com", "a.b.example.com"));
        assert!(!matches_host("*.example.com", ".example.com"));
    }

    #[test]
    fn the_port_of_an_authority_is_not_part_of_the_host() {
        for (authority, host) in
            [("web:80", "web"), ("web", "web"), ("[::1]:80", "[::1]"), ("[::1]", "[::1]"), ("", ""), (":80", "")]
        {
            assert_eq!(without_port(authority), host);
        }
    }
}

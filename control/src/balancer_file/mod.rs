//! `balancer.toml`: what the operator of a host wants balanced there.
//!
//! ```text
//!   text ─ parse ─▶ sections with their lines ─ check ─▶ BalancerFile ─ state ─▶ BalancerState for the gateway
//!                                                                  └─ facts ─▶ the cluster's switches
//! ```
//!
//! INVARIANT: a file with an error changes nothing: what was read before stays in force, also over a restart of control.

mod check;
mod follow;
mod raw;

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

use weaved_api::balancer::{BalancedService, BalancerState, Listener, SwitchState};

pub use self::follow::{Follower, Loaded, read};
use crate::switch::ServiceFacts;

/// Longest file.
pub const MAX_FILE_BYTES: u64 = 1 << 20;
/// Listeners of one host.
pub const MAX_LISTENERS: usize = 64;
/// Routes of one listener: they are looked through for each request.
pub const MAX_ROUTES: usize = 256;
/// Networks whose word is taken: they are looked through for each connection.
pub const MAX_TRUSTED: usize = 64;
/// Services of one host.
pub const MAX_SERVICES: usize = 256;

/// A file that was understood.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BalancerFile {
    listeners: Vec<PlacedListener>,
    services: Vec<BalancedService>,
    facts: Vec<ServiceFacts>,
}

/// A listener, and where it is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
struct PlacedListener {
    place: Place,
    /// Its address is that of the place as soon as that is known.
    listener: Listener,
}

/// Where a listener is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Address(SocketAddr),
    /// At this port of the host's address on the overlay.
    Bridge(u16),
}

/// What is wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileError {
    /// Beginning with 1.
    pub line: usize,
    /// A sentence.
    pub message: String,
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.message)
    }
}

impl BalancerFile {
    /// Understands a text. Fails with the first error.
    pub fn parse(text: &str) -> Result<Self, FileError> {
        let file = raw::parse(text).and_then(|raw| check::check(text, raw));
        file.map_err(|error| FileError { message: printable(&error.message), ..error })
    }

    /// True if nothing is balanced.
    pub fn is_empty(&self) -> bool {
        self.listeners.is_empty()
    }

    /// What the gateway of a host with this address on the overlay should do.
    pub fn state(&self, bridge: Option<IpAddr>, switch: impl Fn(&str) -> SwitchState) -> BalancerState {
        let listeners = self.listeners.iter().filter_map(|placed| {
            let address = match placed.place {
                Place::Address(address) => address,
                Place::Bridge(port) => SocketAddr::new(bridge?, port),
            };
            Some(Listener { address, ..placed.listener.clone() })
        });
        let services = self.services.iter();
        let services = services.map(|service| BalancedService { switch: switch(&service.name), ..service.clone() });
        BalancerState { listeners: listeners.collect(), services: services.collect() }
    }

    /// What concerns the whole cluster.
    pub fn facts(&self) -> Vec<ServiceFacts> {
        self.facts.clone()
    }

    /// One line for each listener, for people.
    pub fn describe(&self) -> Vec<String> {
        let line = |placed: &PlacedListener| {
            let place = match placed.place {
                Place::Address(address) => address.to_string(),
                Place::Bridge(port) => format!("bridge:{port}"),
            };
            let mut services: Vec<&str> = placed.listener.routes.iter().map(|route| route.service.as_str()).collect();
            services.dedup();
            format!("{place} leads to {}", services.join(", "))
        };
        self.listeners.iter().map(line).collect()
    }
}

/// A message quotes the file, where `"\n"` is a line's end: that must not become one of the status or of the log.
fn printable(message: &str) -> String {
    let escape = |char: char| if char.is_control() { char.escape_debug().to_string() } else { char.to_string() };
    message.chars().map(escape).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use weaved_api::balancer::{ListenerProtocol, LogFormat, Policy, ProxyVersion, Sticky, Trust};

    use super::*;

    fn state(text: &str) -> BalancerState {
        let file = BalancerFile::parse(text).unwrap_or_else(|error| panic!("{error}"));
        file.state(Some("10.32.0.1".parse().unwrap()), |_| SwitchState::default())
    }

    #[track_caller]
    fn refused(text: &str, line: usize, words: &str) {
        let error = BalancerFile::parse(text).unwrap_err();
        assert!(error.line == line && error.message.contains(words), "{error}");
        assert!(!error.message.contains(char::is_control), "{error}");
    }

    #[test]
    fn two_lines_are_a_whole_file() {
        let state = state("[[listen]]\naddress = \"0.0.0.0:80\"\nservice = \"web\"\n");
        assert_eq!(state.listeners[0].address, "0.0.0.0:80".parse().unwrap());
        assert_eq!(state.listeners[0].name, "0.0.0.0:80");
        assert_eq!((state.listeners[0].routes.len(), state.services.len()), (1, 1));
        assert_eq!((state.services[0].name.as_str(), state.services[0].retries), ("web", 1));
        let listener = &state.listeners[0];
        assert_eq!((&listener.accept_proxy, &listener.trust_forwarded), (&Trust::Nobody, &Trust::Nobody));
    }

    #[test]
    fn everything_that_can_be_said_arrives() {
        let text = include_str!("../../../docs/examples/balancer.toml");
        let file = BalancerFile::parse(text).unwrap_or_else(|error| panic!("{error}"));
        let state = file.state(Some("10.32.0.1".parse().unwrap()), |_| SwitchState::default());
        let [public, inside, database] = state.listeners.as_slice() else { panic!("three listeners") };
        assert_eq!(public.tls.as_deref(), Some(std::path::Path::new("/etc/weaved/certificates")));
        assert_eq!((public.limits.connections, public.limits.requests_per_second), (20_000, Some(200)));
        assert_eq!(public.limits.head_timeout, Duration::from_secs(5));
        assert_eq!(public.access_log.as_ref().unwrap().format, LogFormat::Json);
        assert_eq!(public.routes[0].host.as_deref(), Some("green.example.com"));
        assert_eq!(public.routes[0].colour.as_deref(), Some("green"));
        assert_eq!(public.routes[1].header, Some(("x-api-version".into(), "2".into())));
        assert_eq!(public.routes.last().unwrap().colour_header.as_deref(), Some("x-colour"));
        assert_eq!(inside.address, "10.32.0.1:80".parse().unwrap());
        assert_eq!(database.protocol, ListenerProtocol::Tcp);
        let lan = Trust::Networks(vec!["10.0.0.0/8".parse().unwrap(), "192.0.2.7/32".parse().unwrap()]);
        assert_eq!((&public.trust_forwarded, &database.accept_proxy), (&Trust::Nobody, &lan));
        let [web, api, postgres] = state.services.as_slice() else { panic!("three services") };
        assert_eq!((web.policy, web.sticky.clone()), (Policy::LeastConnections, Some(Sticky::Cookie("route".into()))));
        assert_eq!((web.ejection.failures, web.timeouts.connect), (3, Duration::from_secs(1)));
        assert!(api.http2_backends);
        assert_eq!((postgres.send_proxy, postgres.timeouts.idle), (Some(ProxyVersion::V2), None));
        let facts = file.facts();
        assert_eq!(facts[0].key.as_deref(), Some("backend/current"));
        assert_eq!(facts[1].colour.as_ref().map(ToString::to_string).as_deref(), Some("compose-project"));
        assert_eq!(facts[2].key, None);
    }

    #[test]
    fn a_bridge_without_an_address_is_waited_for() {
        let file = BalancerFile::parse("[[listen]]\naddress = \"bridge:80\"\nservice = \"web\"\n").unwrap();
        assert!(file.state(None, |_| SwitchState::default()).listeners.is_empty());
    }

    #[test]
    fn weighted_is_a_name_for_round_robin_because_weights_always_count() {
        let file = |policy: &str| {
            let listen = "[[listen]]\naddress = \"0.0.0.0:80\"\nservice = \"web\"\n";
            format!("{listen}[[service]]\nname = \"web\"\npolicy = \"{policy}\"\n")
        };
        assert_eq!(state(&file("weighted")).services[0].policy, Policy::RoundRobin);
        refused(&file("random"), 6, "write \"round-robin\", \"weighted\" (the same) or \"least-connections\"");
    }

    #[test]
    fn errors_have_their_line_and_a_sentence() {
        let listen = "[[listen]]\naddress = \"0.0.0.0:80\"\n";
        refused(&format!("{listen}service = \"web\"\nspeed = 9\n"), 4, "unknown field `speed`");
        refused("[[listen]\n", 1, "");
        refused("[[listen]]\naddress = \"everywhere\"\nservice = \"web\"\n", 2, "bridge:PORT");
        refused("[[listen]]\naddress = \"a\\n\\u001bb\"\nservice = \"web\"\n", 2, "`a\\n\\u{1b}b` is no address");
        refused("[[listen]]\naddress = \"0.0.0.0:0\"\nservice = \"web\"\n", 2, "port");
        refused(listen, 1, "no service");
        refused(&format!("{listen}service = \"web\"\n\n{listen}service = \"api\"\n"), 6, "twice");
        refused(&format!("{listen}service = \"web\"\nprotocol = \"udp\"\n"), 4, "http");
        refused(&format!("{listen}service = \"web\"\n[listen.limits]\nhead_timeout = \"fast\"\n"), 5, "10s");
        refused(&format!("{listen}service = \"web\"\n[[service]]\nname = \"wep\"\n"), 5, "no listener");
        refused(
            &format!("{listen}service = \"web\"\n[[service]]\nname = \"web\"\nsticky = \"moon\"\n"),
            6,
            "cookie:NAME",
        );
        refused(
            &format!("{listen}service = \"web\"\n[[service]]\nname = \"web\"\ncolour = \"moon\"\n"),
            6,
            "compose-project",
        );
        refused(&format!("{listen}protocol = \"tcp\"\n[[listen.route]]\nhost = \"a\"\nservice = \"web\"\n"), 4, "tcp");
        refused(&format!("{listen}[[listen.route]]\npath = \"api\"\nservice = \"web\"\n"), 3, "begins with /");
        refused(&format!("{listen}[[listen.route]]\nhost = \"*.*.x\"\nservice = \"web\"\n"), 3, "one label");
        refused(&format!("{listen}service = \"web\"\ntls = \"certs\"\n"), 4, "absolute");
        refused(&format!("{listen}service = \"web\"\ntrust_forwarded = 7\n"), 4, "10.0.0.0/8");
        refused(&format!("{listen}service = \"web\"\naccept_proxy = [\"10.0.0.0/33\"]\n"), 4, "is no network");
    }

    #[test]
    fn a_key_that_shows_another_live_colour_or_cannot_show_one_is_refused_with_its_line() {
        let routes = "[[listen]]\naddress = \"0.0.0.0:80\"\n[[listen.route]]\nservice = \"web\"\n[[listen.route]]\nservice = \"api\"\n";
        let service = |name: &str, key: &str| format!("[[service]]\nname = \"{name}\"\nkey = \"{key}\"\n");
        let (web, api) = (service("web", "live"), service("api", "live"));
        refused(&format!("{routes}{web}{api}"), 12, "the key `live` shows the live colour of `web` already");
        // The usual one of a service that the file says nothing else about.
        refused(&format!("{routes}{}", service("api", "backend/web")), 9, "of `web` already");
        BalancerFile::parse(&format!("{routes}{web}{}", service("api", "backend/web"))).unwrap();
        for bad in ["", "weaved/switch/web", "a\\u0000b"] {
            refused(&format!("{routes}{}", service("web", bad)), 9, "below weaved/");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_understood_or_refused_with_a_line_of_it(text: String, at: proptest::sample::Index) {
            let example = include_str!("../../../docs/examples/balancer.toml");
            let place = example.char_indices().nth(at.index(example.chars().count())).map_or(0, |(place, _)| place);
            for text in [text.clone(), [&example[..place], &text, &example[place..]].concat()] {
                if let Err(error) = BalancerFile::parse(&text) {
                    assert!((1..=text.split('\n').count()).contains(&error.line), "{error}");
                }
            }
        }
    }
}

//! Peers by the names that operators give them: parsed, resolved, resolved again.
//!
//! A name is kept as it was written, in the state file too; what it resolves to may change at any time.
//!
//! INVARIANT: a name that stops resolving keeps its last addresses: a broken DNS server cuts no connection.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, Ipv6Addr, SocketAddr, ToSocketAddrs},
    str::FromStr,
    time::Duration,
};

use tokio::sync::{mpsc, watch};

use crate::defaults;

/// What targets resolve to is bounded for each: more addresses than that are a load balancer's, not a host's.
const MAX_ADDRESSES: usize = 8;
/// As many as the node takes.
pub const MAX_TARGETS: usize = crate::cluster::limits::MAX_TARGETS;
/// A resolver that is silent for so long has failed.
const LOOKUP_PATIENCE: Duration = Duration::from_secs(10);
/// The longest name of DNS (RFC 1035 §2.3.4).
const MAX_NAME_BYTES: usize = 253;

/// A host and, where it is not [`defaults::PORT`], its port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Target {
    host: String,
    port: Option<u16>,
}

/// Text that names no host.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no peer: give a name or an address, with a port if it is not the usual one, like b:6783 or [2001:db8::1]:6783"
)]
pub struct TargetError(String);

/// What looking up all targets came to: for each its addresses, or why it has none.
pub type Resolved = BTreeMap<String, Result<Vec<SocketAddr>, String>>;

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        let bad = || TargetError(text.escape_debug().to_string());
        if let Ok(address) = text.trim_matches(['[', ']']).parse::<Ipv6Addr>() {
            return Ok(Self { host: address.to_string(), port: None });
        }
        if let Ok(SocketAddr::V6(address)) = text.parse() {
            return Ok(Self { host: address.ip().to_string(), port: Some(address.port()) });
        }
        let (host, port) = match text.split_once(':') {
            Some((host, port)) => (host, Some(port.parse().ok().filter(|port| *port != 0).ok_or_else(bad)?)),
            None => (text, None),
        };
        let usual = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        if host.is_empty() || host.len() > MAX_NAME_BYTES || host.starts_with('-') || !host.bytes().all(usual) {
            return Err(bad());
        }
        Ok(Self { host: host.to_owned(), port })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.port, self.host.contains(':')) {
            (Some(port), true) => write!(f, "[{}]:{port}", self.host),
            (Some(port), false) => write!(f, "{}:{port}", self.host),
            (None, _) => f.write_str(&self.host),
        }
    }
}

impl Target {
    /// Its addresses now. Waits for the resolver.
    pub fn resolve(&self) -> Result<Vec<SocketAddr>, String> {
        // Not the port of this host: that one was chosen for what is the case here.
        let port = self.port.unwrap_or(defaults::PORT);
        if let Ok(address) = self.host.parse::<IpAddr>() {
            return Ok(vec![(address, port).into()]);
        }
        let found = (self.host.as_str(), port).to_socket_addrs().map_err(|error| error.to_string())?;
        let mut addresses: Vec<_> = found.take(MAX_ADDRESSES).collect();
        addresses.dedup();
        if addresses.is_empty() { Err("it has no address".into()) } else { Ok(addresses) }
    }
}

/// Resolves the targets whenever they change, and again and again.
pub async fn keep_resolved(mut targets: watch::Receiver<Vec<Target>>, found: mpsc::Sender<Resolved>) {
    loop {
        let now = targets.borrow_and_update().clone();
        let lookups: Vec<_> = now
            .into_iter()
            .map(|target| {
                let name = target.to_string();
                (name, tokio::task::spawn_blocking(move || target.resolve()))
            })
            .collect();
        let mut resolved = Resolved::new();
        for (name, lookup) in lookups {
            let outcome = match tokio::time::timeout(LOOKUP_PATIENCE, lookup).await {
                Ok(Ok(outcome)) => outcome,
                Ok(Err(_)) | Err(_) => Err("the resolver does not answer".into()),
            };
            resolved.insert(name, outcome);
        }
        if found.send(resolved).await.is_err() {
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(defaults::RESOLVE_INTERVAL) => {}
            changed = targets.changed() => if changed.is_err() { return },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_addresses_are_printed_as_they_parse() {
        for text in ["b", "b.example.net:7000", "192.0.2.1", "192.0.2.1:6783", "[2001:db8::1]:6783", "2001:db8::1"] {
            assert_eq!(text.parse::<Target>().unwrap().to_string(), text);
        }
        assert_eq!("[2001:db8::1]".parse::<Target>().unwrap().to_string(), "2001:db8::1");
    }

    #[test]
    fn what_names_no_host_is_refused_and_shown() {
        for text in ["", ":6783", "b:", "b:0", "b:port", "b:1:2", "two words", "-flag", "b\n", &"x".repeat(300)] {
            assert!(text.parse::<Target>().unwrap_err().to_string().contains("is no peer"), "{text}");
        }
    }

    #[test]
    fn an_address_resolves_without_a_resolver() {
        let resolve = |text: &str| text.parse::<Target>().unwrap().resolve().unwrap();
        assert_eq!(resolve("192.0.2.1"), ["192.0.2.1:6783".parse().unwrap()]);
        assert_eq!(resolve("[2001:db8::1]:7"), ["[2001:db8::1]:7".parse().unwrap()]);
    }

    #[tokio::test]
    async fn a_change_of_the_targets_is_resolved_at_once() {
        let (targets, receiver) = watch::channel(vec![]);
        let (sender, mut found) = mpsc::channel(1);
        tokio::spawn(keep_resolved(receiver, sender));
        assert!(found.recv().await.unwrap().is_empty());
        targets.send_replace(vec!["127.0.0.9".parse().unwrap()]);
        let resolved = found.recv().await.unwrap();
        assert_eq!(resolved["127.0.0.9"], Ok(vec!["127.0.0.9:6783".parse().unwrap()]));
    }
}

//! From sections to what they mean; whatever cannot work is refused with the line that says it.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use ipnet::IpNet;
use toml::Spanned;
use weaved_api::balancer::{
    AccessLog, BackendTimeouts, BalancedService, ClientLimits, Ejection, Listener, ListenerProtocol, LogFormat, Policy,
    Route, Sticky, Trust,
};

use super::{
    BalancerFile, FileError, MAX_LISTENERS, MAX_ROUTES, MAX_SERVICES, MAX_TRUSTED, Place, PlacedListener,
    raw::{RawFile, RawListen, RawRoute, RawService, RawTrust, line_of},
};
use crate::{
    go_duration,
    switch::{ServiceFacts, is_mirror_key},
};

/// Attempts besides the first.
const MAX_RETRIES: u32 = 7;
/// A head larger than this is an attack.
const MAX_HEAD_BYTES: u32 = 1 << 20;
/// A shorter head limit refuses ordinary browsers.
const MIN_HEAD_BYTES: u32 = 1024;
/// Names of services and colours.
const MAX_NAME_BYTES: usize = 128;

/// Knows which line an offset is in.
struct Checker<'a> {
    text: &'a str,
}

pub(super) fn check(text: &str, raw: RawFile) -> Result<BalancerFile, FileError> {
    let checker = Checker { text };
    if raw.listen.len() > MAX_LISTENERS || raw.service.len() > MAX_SERVICES {
        let message = format!("more than {MAX_LISTENERS} listeners or {MAX_SERVICES} services");
        return Err(FileError { line: 1, message });
    }
    let mut listeners: Vec<PlacedListener> = Vec::new();
    for listen in raw.listen {
        let line = checker.line(&listen.get_ref().address);
        let placed = checker.listener(listen)?;
        if listeners.iter().any(|other| other.place == placed.place) {
            return Err(FileError { line, message: "this address is listened on twice".into() });
        }
        listeners.push(placed);
    }
    let mut routed: Vec<String> = Vec::new();
    for route in listeners.iter().flat_map(|placed| &placed.listener.routes) {
        if !routed.contains(&route.service) {
            routed.push(route.service.clone());
        }
    }
    let mut file = BalancerFile { listeners, ..BalancerFile::default() };
    let mut named = BTreeSet::new();
    let mut key_lines = Vec::new();
    for service in raw.service {
        let (line, name) = (checker.line(&service.get_ref().name), service.get_ref().name.get_ref().clone());
        if !routed.contains(&name) {
            return Err(FileError { line, message: format!("no listener leads to the service `{name}`") });
        }
        if !named.insert(name.clone()) {
            return Err(FileError { line, message: format!("the service `{name}` is there twice") });
        }
        key_lines.extend(service.get_ref().key.as_ref().map(|key| (checker.line(key), file.facts.len())));
        let (service, facts) = checker.service(service.into_inner())?;
        file.services.push(service);
        file.facts.push(facts);
    }
    for name in routed.into_iter().filter(|name| !named.contains(name)) {
        file.facts.push(ServiceFacts { name: name.clone(), key: None, colour: None });
        file.services.push(BalancedService::plain(name));
    }
    refuse_shared_keys(&file.facts, &key_lines)?;
    Ok(file)
}

/// A key shows one live colour. `lines` has the line of each key that is written, and the place of its service.
fn refuse_shared_keys(facts: &[ServiceFacts], lines: &[(usize, usize)]) -> Result<(), FileError> {
    for &(line, place) in lines {
        let key = facts[place].mirror_key();
        // Of two that are written the second one is wrong.
        let mut others = facts.iter().enumerate().filter(|(other, facts)| *other < place || facts.key.is_none());
        if let Some((_, other)) = others.find(|(_, other)| other.mirror_key() == key) {
            let message = format!("the key `{}` shows the live colour of `{}` already", key.escape_debug(), other.name);
            return Err(FileError { line, message });
        }
    }
    Ok(())
}

impl Checker<'_> {
    fn line<T>(&self, spanned: &Spanned<T>) -> usize {
        line_of(self.text, spanned.span().start)
    }

    fn refuse<T, R>(&self, at: &Spanned<T>, message: impl Into<String>) -> Result<R, FileError> {
        Err(FileError { line: self.line(at), message: message.into() })
    }

    fn listener(&self, section: Spanned<RawListen>) -> Result<PlacedListener, FileError> {
        let line = self.line(&section);
        let at_section = |message: &str| FileError { line, message: message.to_owned() };
        let raw = section.into_inner();
        let place = self.place(&raw.address)?;
        let protocol = self.protocol(raw.protocol.as_ref())?;
        let mut routes = Vec::new();
        for route in raw.route {
            routes.push(self.route(route, protocol, raw.preview_header.as_deref())?);
        }
        if let Some(service) = raw.service {
            check_name("service", &service).map_err(|message| at_section(&message))?;
            let colour_header = raw.preview_header.as_deref().map(str::to_ascii_lowercase);
            routes.push(Route { host: None, path: None, header: None, service, colour: None, colour_header });
        }
        if routes.is_empty() {
            return Err(at_section("no service: write service = \"NAME\", or sections [[listen.route]]"));
        }
        if routes.len() > MAX_ROUTES {
            return Err(at_section(&format!("more than {MAX_ROUTES} routes")));
        }
        if let Some(header) = &raw.preview_header {
            check_header_name(header).map_err(|message| at_section(&message))?;
        }
        let tls = raw.tls.map(|dir| self.absolute(dir)).transpose()?;
        let access_log = match raw.access_log {
            Some(log) => {
                Some(AccessLog { path: self.absolute(log.path)?, format: log.format.unwrap_or(LogFormat::Common) })
            }
            None => None,
        };
        let unplaced = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0);
        let listener = Listener {
            name: raw.name.unwrap_or_else(|| raw.address.get_ref().clone()),
            address: unplaced,
            protocol,
            tls,
            accept_proxy: self.trust(raw.accept_proxy.as_ref())?,
            trust_forwarded: self.trust(raw.trust_forwarded.as_ref())?,
            routes,
            limits: self.limits(&raw.limits, line)?,
            access_log,
        };
        Ok(PlacedListener { place, listener })
    }

    fn place(&self, address: &Spanned<String>) -> Result<Place, FileError> {
        let text = address.get_ref();
        let place = match text.strip_prefix("bridge:") {
            Some(port) => port.parse().ok().map(Place::Bridge),
            None => text.parse().ok().map(Place::Address),
        };
        match place {
            Some(Place::Bridge(0)) => self.refuse(address, "choose a port from 1 to 65535"),
            Some(Place::Address(place)) if place.port() == 0 => self.refuse(address, "choose a port from 1 to 65535"),
            Some(place) => Ok(place),
            None => self.refuse(address, format!("`{text}` is no address; write ADDRESS:PORT or bridge:PORT")),
        }
    }

    fn protocol(&self, protocol: Option<&Spanned<String>>) -> Result<ListenerProtocol, FileError> {
        match protocol.map(|protocol| (protocol, protocol.get_ref().as_str())) {
            None | Some((_, "http")) => Ok(ListenerProtocol::Http),
            Some((_, "tcp")) => Ok(ListenerProtocol::Tcp),
            Some((at, other)) => self.refuse(at, format!("`{other}` is not spoken here; write \"http\" or \"tcp\"")),
        }
    }

    fn trust(&self, trust: Option<&Spanned<RawTrust>>) -> Result<Trust, FileError> {
        let Some(trust) = trust else { return Ok(Trust::Nobody) };
        let networks = match trust.get_ref() {
            RawTrust::IsAll(false) => return Ok(Trust::Nobody),
            RawTrust::IsAll(true) => return Ok(Trust::Everybody),
            RawTrust::Networks(networks) => networks,
        };
        if networks.len() > MAX_TRUSTED {
            return self.refuse(trust, format!("more than {MAX_TRUSTED} networks"));
        }
        let network = |text: &String| match text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from)) {
            Ok(network) => Ok(network),
            Err(_) => self.refuse(trust, format!("`{text}` is no network; write one like 10.0.0.0/8")),
        };
        networks.iter().map(network).collect::<Result<Vec<_>, _>>().map(Trust::Networks)
    }

    fn route(
        &self,
        section: Spanned<RawRoute>,
        protocol: ListenerProtocol,
        preview: Option<&str>,
    ) -> Result<Route, FileError> {
        let line = self.line(&section);
        let refuse = |message: String| Err(FileError { line, message });
        let raw = section.into_inner();
        let has_condition = raw.host.is_some() || raw.path.is_some() || raw.header.is_some();
        if protocol == ListenerProtocol::Tcp && has_condition {
            return refuse("a tcp listener sees no hosts, paths or headers; write service = \"NAME\"".into());
        }
        if raw.path.as_ref().is_some_and(|path| !path.starts_with('/')) {
            return refuse("a path begins with /".into());
        }
        if let Some(host) = &raw.host
            && !is_host(host)
        {
            return refuse(format!("`{host}` is no host; `*.example.com` stands for one label more, without a port"));
        }
        for (what, name) in [("service", Some(&raw.service)), ("colour", raw.colour.as_ref())] {
            if let Some(Err(message)) = name.map(|name| check_name(what, name)) {
                return refuse(message);
            }
        }
        if let Some(Err(message)) = raw.header.as_ref().map(|header| check_header_name(&header.name)) {
            return refuse(message);
        }
        // A route to one colour is a preview by itself.
        let preview = preview.filter(|_| raw.colour.is_none());
        Ok(Route {
            host: raw.host.map(|host| host.to_ascii_lowercase()),
            path: raw.path,
            header: raw.header.map(|header| (header.name.to_ascii_lowercase(), header.value)),
            service: raw.service,
            colour: raw.colour,
            colour_header: preview.map(str::to_ascii_lowercase),
        })
    }

    fn limits(&self, raw: &super::raw::RawLimits, line: usize) -> Result<ClientLimits, FileError> {
        let usual = ClientLimits::default();
        let limits = ClientLimits {
            connections: raw.connections.unwrap_or(usual.connections),
            head_bytes: raw.head_bytes.unwrap_or(usual.head_bytes),
            body_bytes: raw.body_bytes.unwrap_or(usual.body_bytes),
            head_timeout: self.duration(raw.head_timeout.as_ref(), usual.head_timeout)?,
            idle_timeout: self.duration(raw.idle_timeout.as_ref(), usual.idle_timeout)?,
            requests_per_second: raw.requests_per_second,
        };
        if !(MIN_HEAD_BYTES..=MAX_HEAD_BYTES).contains(&limits.head_bytes) {
            let message = format!("limits: head_bytes is from {MIN_HEAD_BYTES} to {MAX_HEAD_BYTES}");
            return Err(FileError { line, message });
        }
        if limits.connections == 0 || limits.requests_per_second == Some(0) {
            return Err(FileError { line, message: "limits: 0 would let nobody in; leave it out".into() });
        }
        Ok(limits)
    }

    fn service(&self, raw: RawService) -> Result<(BalancedService, ServiceFacts), FileError> {
        let name = raw.name.get_ref().clone();
        let (usual, ejection) = (BackendTimeouts::default(), Ejection::default());
        let timeouts = BackendTimeouts {
            connect: self.duration(raw.timeouts.connect.as_ref(), usual.connect)?,
            response: self.duration(raw.timeouts.response.as_ref(), usual.response)?,
            idle: match &raw.timeouts.idle {
                Some(text) if text.get_ref() == "never" => None,
                text => Some(self.duration(text.as_ref(), usual.idle.unwrap_or(Duration::MAX))?),
            },
        };
        let ejection = Ejection {
            failures: raw.ejection.failures.unwrap_or(ejection.failures),
            duration: self.duration(raw.ejection.duration.as_ref(), ejection.duration)?,
            max_percent: raw.ejection.max_percent.unwrap_or(ejection.max_percent),
        };
        if ejection.max_percent > 100 {
            return self.refuse(&raw.name, "ejection: max_percent is at most 100");
        }
        let retries = raw.retries.unwrap_or(1);
        if retries > MAX_RETRIES {
            return self.refuse(&raw.name, format!("at most {MAX_RETRIES} retries"));
        }
        let colour = match &raw.colour {
            Some(text) => Some(text.get_ref().parse().or_else(|error| self.refuse(text, format!("{error}")))?),
            None => None,
        };
        let key = match raw.key {
            Some(key) if !is_mirror_key(key.get_ref()) => {
                return self
                    .refuse(&key, "a key that shows a live colour is not empty, not too long and not below weaved/");
            }
            key => key.map(Spanned::into_inner),
        };
        let service = BalancedService {
            policy: self.policy(raw.policy.as_ref())?,
            sticky: raw.sticky.as_ref().map(|text| self.sticky(text)).transpose()?,
            timeouts,
            retries,
            send_proxy: raw.send_proxy,
            http2_backends: raw.http2,
            ejection,
            ..BalancedService::plain(name.clone())
        };
        Ok((service, ServiceFacts { name, key, colour }))
    }

    fn policy(&self, policy: Option<&Spanned<String>>) -> Result<Policy, FileError> {
        match policy.map(|policy| (policy, policy.get_ref().as_str())) {
            // Weights count with every policy.
            None | Some((_, "round-robin" | "weighted")) => Ok(Policy::RoundRobin),
            Some((_, "least-connections")) => Ok(Policy::LeastConnections),
            Some((at, other)) => {
                let known = "write \"round-robin\", \"weighted\" (the same) or \"least-connections\"";
                self.refuse(at, format!("`{other}` is no policy; {known}"))
            }
        }
    }

    fn sticky(&self, text: &Spanned<String>) -> Result<Sticky, FileError> {
        match text.get_ref().split_once(':') {
            None if text.get_ref() == "address" => Ok(Sticky::Address),
            Some(("cookie", name)) if check_header_name(name).is_ok() => Ok(Sticky::Cookie(name.to_owned())),
            Some(("header", name)) if check_header_name(name).is_ok() => Ok(Sticky::Header(name.to_ascii_lowercase())),
            _ => self.refuse(text, "write \"cookie:NAME\", \"header:NAME\" or \"address\""),
        }
    }

    fn duration(&self, text: Option<&Spanned<String>>, usual: Duration) -> Result<Duration, FileError> {
        let Some(text) = text else { return Ok(usual) };
        match go_duration::parse(text.get_ref()) {
            Some(duration) if !duration.is_zero() => Ok(duration),
            _ => self.refuse(text, format!("`{}` is no duration; write one like 10s, 500ms or 1m30s", text.get_ref())),
        }
    }

    /// The file is read by other processes than the one that was started next to it.
    fn absolute(&self, path: Spanned<PathBuf>) -> Result<PathBuf, FileError> {
        if path.get_ref().is_absolute() {
            return Ok(path.into_inner());
        }
        self.refuse(&path, format!("`{}` is not absolute; begin it with /", path.get_ref().display()))
    }
}

fn is_host(host: &str) -> bool {
    let domain = host.strip_prefix("*.").unwrap_or(host);
    let may =
        |byte: u8| byte.is_ascii_alphanumeric() || b"-_.[]".contains(&byte) || byte == b':' && host.starts_with('[');
    !domain.is_empty() && domain.bytes().all(may)
}

fn check_name(what: &str, name: &str) -> Result<(), String> {
    let is_printable = name.chars().all(|character| !character.is_control() && !character.is_whitespace());
    if name.is_empty() || name.len() > MAX_NAME_BYTES || !is_printable {
        return Err(format!("a {what}'s name has 1 to {MAX_NAME_BYTES} characters without spaces"));
    }
    Ok(())
}

/// A token of RFC 9110 §5.6.2, which is also what a cookie's name is.
fn check_header_name(name: &str) -> Result<(), String> {
    let may = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if name.is_empty() || !name.bytes().all(may) {
        return Err(format!("`{name}` is no header's name"));
    }
    Ok(())
}

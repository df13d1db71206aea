//! `SERVICE_CHECK_…` of a container as a check, by registrator's rules.
//!
//! The first of http, https, cmd, script, ttl, tcp, grpc that is there is the check. Commands run *in* the container:
//! what a container asks for must not run on its host.

use std::{net::SocketAddr, time::Duration};

use super::{
    Note,
    definition::{check_id, cut},
    facts::ContainerFacts,
    metadata::{Metadata, quote},
};
use crate::{
    catalogue::{Health, InstanceId},
    go_duration,
    health::{
        Certificates, CheckSpec, DEFAULT_INTERVAL, DEFAULT_TIMEOUT, ExecProbe, GrpcProbe, HttpProbe, MAX_THRESHOLD,
        MAX_TIMEOUT, MIN_DEREGISTER_AFTER, MIN_INTERVAL, Probe,
    },
};

/// What a check is made for.
pub(super) struct Subject<'a> {
    pub(super) container: &'a ContainerFacts,
    pub(super) id: &'a InstanceId,
    /// Where it answers this host.
    pub(super) endpoint: SocketAddr,
    /// Where it answers itself: what is published has another port outside.
    pub(super) inside: SocketAddr,
}

/// The check that a container asks for, if it does.
pub(super) fn check_of(subject: &Subject<'_>, metadata: &Metadata, notes: &mut Vec<Note>) -> Option<CheckSpec> {
    let mut reader = Reader { about: &subject.container.name, metadata, notes };
    let probe = reader.probe(subject)?;
    let name = cut(format!("{} of {}", probe.kind(), subject.id.0));
    let mut spec = CheckSpec { name, ..CheckSpec::new(check_id("service", subject.id), probe) };
    spec.interval = reader.duration("check_interval").unwrap_or(DEFAULT_INTERVAL).max(MIN_INTERVAL);
    spec.timeout = reader.timeout();
    spec.start_period = reader.duration("check_start_period").unwrap_or_default();
    spec.deregister_after = reader.duration("check_deregister_after").map(|after| after.max(MIN_DEREGISTER_AFTER));
    spec.rise = reader.threshold("check_success_before_passing");
    spec.fall = reader.threshold("check_failures_before_critical");
    spec.initial = reader.initial();
    Some(spec)
}

struct Reader<'a> {
    about: &'a str,
    metadata: &'a Metadata,
    notes: &'a mut Vec<Note>,
}

impl Reader<'_> {
    fn probe(&mut self, subject: &Subject<'_>) -> Option<Probe> {
        let endpoint = subject.endpoint;
        let metadata = self.metadata;
        let certificates = if is_true(metadata.value("check_tls_skip_verify")) {
            Certificates::Unverified
        } else {
            Certificates::Verified
        };
        let http = |scheme: &str, path: &str, method: Option<&str>| {
            let slash = if path.starts_with('/') { "" } else { "/" };
            Probe::Http(HttpProbe {
                url: format!("{scheme}://{endpoint}{slash}{path}"),
                method: method.unwrap_or("GET").to_owned(),
                headers: vec![],
                body: String::new(),
                certificates,
            })
        };
        let exec = |script: &str| {
            let script = script
                .replace("$SERVICE_IP", &subject.inside.ip().to_string())
                .replace("$SERVICE_PORT", &subject.inside.port().to_string());
            let command = vec!["sh".into(), "-c".into(), script];
            Probe::Exec(ExecProbe { container: subject.container.id.clone(), command })
        };
        if let Some(path) = metadata.value("check_http") {
            return Some(http("http", path, metadata.value("check_http_method")));
        }
        if let Some(path) = metadata.value("check_https") {
            return Some(http("https", path, metadata.value("check_https_method")));
        }
        if let Some(script) = metadata.value("check_cmd").or(metadata.value("check_script")) {
            return Some(exec(script));
        }
        if let Some(text) = metadata.value("check_ttl") {
            return self.read_duration("check_ttl", text).map(|ttl| Probe::Ttl(ttl.max(MIN_INTERVAL)));
        }
        if metadata.value("check_tcp").is_some() {
            return Some(Probe::Tcp(endpoint.to_string()));
        }
        metadata.value("check_grpc").map(|service| {
            let tls = is_true(metadata.value("check_grpc_use_tls")).then_some(certificates);
            // registrator knows only that there is one; a name asks for that service.
            let service = if is_true(Some(service)) { String::new() } else { service.to_owned() };
            Probe::Grpc(GrpcProbe { target: endpoint.to_string(), service, tls })
        })
    }

    fn duration(&mut self, key: &str) -> Option<Duration> {
        let text = self.metadata.value(key)?;
        self.read_duration(key, text)
    }

    fn timeout(&mut self) -> Duration {
        let asked = self.duration("check_timeout").unwrap_or(DEFAULT_TIMEOUT);
        if asked > MAX_TIMEOUT {
            let text = format!("SERVICE_CHECK_TIMEOUT is longer than {} s; cut to that", MAX_TIMEOUT.as_secs());
            self.notes.push(Note::new(self.about, text));
        }
        asked.clamp(MIN_INTERVAL, MAX_TIMEOUT)
    }

    fn read_duration(&mut self, key: &str, text: &str) -> Option<Duration> {
        let value = go_duration::parse_or_seconds(text);
        if value.is_none() {
            self.note(key, text, "is no duration such as 10s");
        }
        value
    }

    fn threshold(&mut self, key: &str) -> u32 {
        let Some(text) = self.metadata.value(key) else { return 1 };
        match text.parse::<u32>() {
            // Consul counts how many must come *before* the change.
            Ok(before) if before < MAX_THRESHOLD => before + 1,
            _ => {
                self.note(key, text, "is no number below 1000");
                1
            }
        }
    }

    fn initial(&mut self) -> Health {
        match self.metadata.value("check_initial_status") {
            None | Some("critical") => Health::Critical,
            Some("passing") => Health::Passing,
            Some("warning") => Health::Warning,
            Some(text) => {
                self.note("check_initial_status", text, "is none of passing, warning, critical");
                Health::Critical
            }
        }
    }

    fn note(&mut self, key: &str, text: &str, complaint: &str) {
        let key = key.to_ascii_uppercase();
        self.notes.push(Note::new(self.about, format!("SERVICE_{key}: {} {complaint}; ignored", quote(text))));
    }
}

fn is_true(value: Option<&str>) -> bool {
    value.is_some_and(|text| matches!(text.to_ascii_lowercase().as_str(), "1" | "t" | "true" | "yes" | "on"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registration::metadata::Entries;

    fn check(env: &[&str]) -> (Option<CheckSpec>, Vec<Note>) {
        let container = ContainerFacts {
            id: "0123456789abcdef".into(),
            name: "web".into(),
            env: env.iter().map(ToString::to_string).collect(),
            ..ContainerFacts::default()
        };
        let mut notes = Vec::new();
        let metadata = Entries::of(&container, &mut notes).for_port(80);
        let id = InstanceId("a:web:80".into());
        let endpoint = "10.32.0.2:8080".parse().unwrap();
        let subject = Subject { container: &container, id: &id, endpoint, inside: "127.0.0.1:80".parse().unwrap() };
        (check_of(&subject, &metadata, &mut notes), notes)
    }

    fn probe(env: &[&str]) -> Probe {
        check(env).0.unwrap().probe
    }

    #[test]
    fn the_first_kind_in_registrators_order_is_the_check() {
        let all = [
            "SERVICE_CHECK_GRPC=true",
            "SERVICE_CHECK_TCP=true",
            "SERVICE_CHECK_TTL=5s",
            "SERVICE_CHECK_SCRIPT=curl $SERVICE_IP:$SERVICE_PORT",
            "SERVICE_CHECK_CMD=/check.sh",
            "SERVICE_CHECK_HTTPS=/up",
            "SERVICE_CHECK_HTTP=/up",
        ];
        let kinds: Vec<&str> = (1..=all.len()).map(|count| probe(&all[..count]).kind()).collect();
        assert_eq!(kinds, ["grpc", "tcp", "ttl", "exec", "exec", "http", "http"]);
        assert_eq!(check(&["SERVICE_CHECK_INTERVAL=5s"]), (None, vec![]));
    }

    #[test]
    fn each_kind_asks_the_port_that_it_is_for() {
        let Probe::Http(http) = probe(&["SERVICE_80_CHECK_HTTPS=up?x=1", "SERVICE_CHECK_TLS_SKIP_VERIFY=true"]) else {
            panic!("no http")
        };
        assert_eq!((http.url.as_str(), http.certificates), ("https://10.32.0.2:8080/up?x=1", Certificates::Unverified));
        assert_eq!(probe(&["SERVICE_CHECK_TCP=true"]), Probe::Tcp("10.32.0.2:8080".into()));
        let Probe::Exec(exec) = probe(&["SERVICE_CHECK_SCRIPT=curl $SERVICE_IP:$SERVICE_PORT"]) else {
            panic!("no exec")
        };
        assert_eq!(exec.command, ["sh", "-c", "curl 127.0.0.1:80"], "it runs in the container");
        assert_eq!(exec.container, "0123456789abcdef");
    }

    #[test]
    fn times_and_thresholds_are_read_and_nonsense_is_noted() {
        let (spec, notes) = check(&[
            "SERVICE_CHECK_TCP=true",
            "SERVICE_CHECK_INTERVAL=1ms",
            "SERVICE_CHECK_TIMEOUT=2s",
            "SERVICE_CHECK_FAILURES_BEFORE_CRITICAL=2",
            "SERVICE_CHECK_INITIAL_STATUS=passing",
            "SERVICE_CHECK_START_PERIOD=1m",
        ]);
        let spec = spec.unwrap();
        assert_eq!((spec.interval, spec.timeout), (MIN_INTERVAL, Duration::from_secs(2)));
        assert_eq!((spec.rise, spec.fall, spec.initial), (1, 3, Health::Passing));
        assert_eq!((spec.start_period, notes), (Duration::from_mins(1), vec![]));
        let (spec, notes) = check(&["SERVICE_CHECK_TCP=1", "SERVICE_CHECK_TIMEOUT=24h"]);
        assert_eq!((spec.unwrap().timeout, notes.len()), (MAX_TIMEOUT, 1), "{notes:?}");
        let nonsense = ["SERVICE_CHECK_TCP=1", "SERVICE_CHECK_INTERVAL=soon", "SERVICE_CHECK_INITIAL_STATUS=fine"];
        let (spec, notes) = check(&nonsense);
        assert_eq!(spec.unwrap().interval, DEFAULT_INTERVAL);
        assert_eq!(notes.len(), 2, "{notes:?}");
    }
}

//! Definitions in Consul's JSON, as its files and its clients write them.
//!
//! Keys are read in any case ([`crate::any_case`]), but for those that an owner chooses (`meta`, `header`). What a client has
//! beside those that are read is passed over, as Consul does; in a file a key that nobody knows is refused ([`keys`]).
//!
//! INVARIANT: what a client writes gives no check by a command. Every container reaches the door for clients, and such a
//! check runs with all that Docker may do, in whatever container it names.

mod keys;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use serde::{Deserialize, de::DeserializeOwned};

use self::keys::Holder;
use super::{Definition, definition};
use crate::{
    any_case,
    catalogue::{CheckId, Health, InstanceId, Weights},
    go_duration,
    health::{
        Certificates, CheckSpec, ExecProbe, GrpcProbe, HttpProbe, MAX_THRESHOLD, MAX_TIMEOUT, MIN_DEREGISTER_AFTER,
        MIN_INTERVAL, Probe, http, probes,
    },
};

/// Objects whose keys their owner has chosen.
const FREE_KEYS: [&str; 2] = ["meta", "header"];

/// A text that is no definition.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DefinitionError {
    /// It is no JSON, or has other types.
    #[error("line {line}, column {column}: {reason}")]
    Unreadable {
        /// From 1.
        line: usize,
        /// From 1.
        column: usize,
        /// What is wrong there.
        reason: String,
    },
    /// It can be read and cannot be used.
    #[error("{0}")]
    Unusable(String),
}

/// A check that was defined apart from its service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckDefinition {
    /// Which service; None for the node.
    pub instance: Option<InstanceId>,
    /// What is checked.
    pub spec: CheckSpec,
}

/// Who has written a definition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Author {
    /// The operator, in a file of this host.
    Operator,
    /// Whoever reaches the HTTP API.
    Client,
}

/// The services of a file: `{"service": {…}}`, `{"services": [{…}]}`, or one service alone. No two have one id.
pub fn parse_file(text: &str) -> Result<Vec<Definition>, DefinitionError> {
    let json = lowered(text);
    let file: File = read(&json)?;
    let (services, holder): (Vec<Service>, _) = if file.service.is_none() && file.services.is_none() {
        (vec![read(&json)?], Holder::LoneService)
    } else {
        (file.service.into_iter().chain(file.services.into_iter().flatten()).collect(), Holder::File)
    };
    keys::refuse_unknown(&json, holder)?;
    let mut ids = BTreeSet::new();
    let mut definitions = Vec::new();
    for service in services {
        let definition = service.into_definition(Author::Operator)?;
        if !ids.insert(definition.id.clone()) {
            let id = &definition.id.0;
            return Err(unusable(format!("two services have the id {id:?}: give one of them another \"id\"")));
        }
        definitions.push(definition);
    }
    Ok(definitions)
}

/// One service of a client, as `PUT /v1/agent/service/register` has it.
pub fn parse_service(text: &str) -> Result<Definition, DefinitionError> {
    read::<Service>(&lowered(text))?.into_definition(Author::Client)
}

/// One check of a client, as `PUT /v1/agent/check/register` has it.
pub fn parse_check(text: &str) -> Result<CheckDefinition, DefinitionError> {
    let check: Check = read(&lowered(text))?;
    let id = [&check.id, &check.checkid, &check.name].into_iter().flatten().find(|id| !id.is_empty()).cloned();
    let id = id.ok_or_else(|| unusable("a check needs a Name or a CheckID"))?;
    let instance = check.serviceid.clone().filter(|id| !id.is_empty()).map(InstanceId);
    let spec = check.into_spec(CheckId(id), Author::Client)?;
    definition::refuse_long(&spec).map_err(|error| unusable(error.0))?;
    Ok(CheckDefinition { instance, spec })
}

/// With its keys in lower case, each where it was.
fn lowered(text: &str) -> Vec<u8> {
    any_case::lower_keys(text.as_bytes(), &FREE_KEYS)
}

fn read<T: DeserializeOwned>(json: &[u8]) -> Result<T, DefinitionError> {
    serde_json::from_slice(json).map_err(|error| unreadable(&error))
}

fn unreadable(error: &serde_json::Error) -> DefinitionError {
    let text = error.to_string();
    let reason = text.rsplit_once(" at line ").map_or(text.as_str(), |(reason, _)| reason).to_owned();
    DefinitionError::Unreadable { line: error.line(), column: error.column(), reason }
}

fn unusable(text: impl Into<String>) -> DefinitionError {
    DefinitionError::Unusable(text.into())
}

#[derive(Deserialize)]
struct File {
    service: Option<Service>,
    services: Option<Vec<Service>>,
}

#[derive(Deserialize)]
struct Service {
    id: Option<String>,
    name: Option<String>,
    tags: Option<Vec<String>>,
    address: Option<String>,
    port: Option<u16>,
    meta: Option<BTreeMap<String, String>>,
    weights: Option<SaidWeights>,
    check: Option<Check>,
    checks: Option<Vec<Check>>,
}

/// What is left out is 1, as in Consul's files.
#[derive(Deserialize)]
struct SaidWeights {
    passing: Option<i64>,
    warning: Option<i64>,
}

#[derive(Deserialize)]
struct Check {
    id: Option<String>,
    #[serde(alias = "check_id")]
    checkid: Option<String>,
    #[serde(alias = "service_id")]
    serviceid: Option<String>,
    name: Option<String>,
    http: Option<String>,
    method: Option<String>,
    header: Option<BTreeMap<String, Vec<String>>>,
    body: Option<String>,
    #[serde(alias = "tls_skip_verify")]
    tlsskipverify: Option<bool>,
    tcp: Option<String>,
    grpc: Option<String>,
    #[serde(alias = "grpc_use_tls")]
    grpcusetls: Option<bool>,
    ttl: Option<String>,
    #[serde(alias = "args", alias = "script_args")]
    scriptargs: Option<Vec<String>>,
    script: Option<String>,
    #[serde(alias = "docker_container_id")]
    dockercontainerid: Option<String>,
    shell: Option<String>,
    interval: Option<String>,
    timeout: Option<String>,
    status: Option<String>,
    #[serde(alias = "start_period")]
    startperiod: Option<String>,
    #[serde(alias = "success_before_passing")]
    successbeforepassing: Option<u32>,
    #[serde(alias = "failures_before_critical")]
    failuresbeforecritical: Option<u32>,
    #[serde(alias = "deregister_critical_service_after")]
    deregistercriticalserviceafter: Option<String>,
}

impl Service {
    fn into_definition(self, author: Author) -> Result<Definition, DefinitionError> {
        let service = self.name.filter(|name| !name.is_empty()).ok_or_else(|| unusable("the service has no name"))?;
        let id = InstanceId(self.id.filter(|id| !id.is_empty()).unwrap_or_else(|| service.clone()));
        let address = self.address.filter(|address| !address.is_empty());
        let address = address.map(|text| {
            let not_one = |_| unusable(format!("address {text:?} is no IP address; names are not looked up"));
            text.parse::<IpAddr>().map_err(not_one)
        });
        let checks: Vec<Check> = self.check.into_iter().chain(self.checks.into_iter().flatten()).collect();
        let count = checks.len();
        let mut specs = Vec::new();
        for (index, check) in checks.into_iter().enumerate() {
            let given = [&check.checkid, &check.id].into_iter().flatten().find(|id| !id.is_empty()).cloned();
            // Consul numbers them from 1 when there are several.
            let usual =
                if count == 1 { format!("service:{}", id.0) } else { format!("service:{}:{}", id.0, index + 1) };
            specs.push(check.into_spec(CheckId(given.unwrap_or(usual)), author)?);
        }
        let mut meta = self.meta.unwrap_or_default();
        if let Some(weights) = self.weights {
            weights.read()?.put(&mut meta);
        }
        let definition = Definition {
            id,
            service,
            address: address.transpose()?,
            port: self.port.unwrap_or(0),
            tags: self.tags.unwrap_or_default(),
            meta,
            checks: specs,
        };
        definition.check().map_err(|error| unusable(error.0))?;
        Ok(definition)
    }
}

impl SaidWeights {
    fn read(&self) -> Result<Weights, DefinitionError> {
        let usual = Weights::default();
        let weight = |what: &str, said: Option<i64>, usual: u16, least: u16| match said.map(u16::try_from) {
            None => Ok(usual),
            Some(Ok(weight)) if weight >= least => Ok(weight),
            _ => Err(unusable(format!(
                "Weights: {what} is {}, and may be from {least} to {}",
                said.unwrap_or_default(),
                u16::MAX
            ))),
        };
        Ok(Weights {
            passing: weight("Passing", self.passing, usual.passing, 1)?,
            // Clients in Go write 0 where they mean nothing by it, so it cannot be refused.
            warning: weight("Warning", self.warning, usual.warning, 0)?,
        })
    }
}

impl Check {
    fn into_spec(self, id: CheckId, author: Author) -> Result<CheckSpec, DefinitionError> {
        let mut spec = CheckSpec::new(id, self.probe(author)?);
        if let Some(name) = self.name.clone().filter(|name| !name.is_empty()) {
            spec.name = name;
        }
        spec.interval = time("Interval", self.interval.as_ref())?.unwrap_or(spec.interval).max(MIN_INTERVAL);
        spec.timeout = time("Timeout", self.timeout.as_ref())?.unwrap_or(spec.timeout).clamp(MIN_INTERVAL, MAX_TIMEOUT);
        spec.start_period = time("StartPeriod", self.startperiod.as_ref())?.unwrap_or_default();
        let after = time("DeregisterCriticalServiceAfter", self.deregistercriticalserviceafter.as_ref())?;
        spec.deregister_after = after.map(|after| after.max(MIN_DEREGISTER_AFTER));
        // Consul counts how many must come before the change.
        spec.rise = self.successbeforepassing.unwrap_or(0).min(MAX_THRESHOLD) + 1;
        spec.fall = self.failuresbeforecritical.unwrap_or(0).min(MAX_THRESHOLD) + 1;
        spec.initial = match self.status.as_deref() {
            None | Some("" | "critical") => Health::Critical,
            Some("passing") => Health::Passing,
            Some("warning") => Health::Warning,
            Some(other) => return Err(unusable(format!("Status {other:?} is none of passing, warning, critical"))),
        };
        Ok(spec)
    }

    /// Of several kinds a client's first one counts; in a file it cannot be known which was meant.
    fn refuse_several(&self) -> Result<(), DefinitionError> {
        let kinds = [("http", &self.http), ("tcp", &self.tcp), ("grpc", &self.grpc), ("ttl", &self.ttl)];
        let said = kinds.into_iter().filter(|(_, text)| text.as_ref().is_some_and(|text| !text.is_empty()));
        let mut said: Vec<&str> = said.map(|(kind, _)| kind).collect();
        said.extend(self.scriptargs.is_some().then_some("args"));
        said.extend(self.script.is_some().then_some("script"));
        match said[..] {
            [one, other, ..] => Err(unusable(format!("a check has {one} and {other}: make two of it"))),
            _ => Ok(()),
        }
    }

    fn probe(&self, author: Author) -> Result<Probe, DefinitionError> {
        if author == Author::Operator {
            self.refuse_several()?;
        }
        let said = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        let skip = self.tlsskipverify == Some(true);
        let certificates = if skip { Certificates::Unverified } else { Certificates::Verified };
        if let Some(url) = said(&self.http) {
            if let Some(problem) = http::problem_of(&url) {
                return Err(unusable(problem));
            }
            let headers = self.header.iter().flatten();
            let headers = headers.flat_map(|(name, values)| values.iter().map(|value| (name.clone(), value.clone())));
            return Ok(Probe::Http(HttpProbe {
                url,
                method: said(&self.method).unwrap_or_else(|| "GET".into()),
                headers: headers.collect(),
                body: self.body.clone().unwrap_or_default(),
                certificates,
            }));
        }
        if let Some(target) = said(&self.tcp) {
            return Ok(Probe::Tcp(reachable(target)?));
        }
        if let Some(target) = said(&self.grpc) {
            let (target, service) = target.split_once('/').unwrap_or((&target, ""));
            let tls = (self.grpcusetls == Some(true)).then_some(certificates);
            return Ok(Probe::Grpc(GrpcProbe { target: reachable(target.into())?, service: service.into(), tls }));
        }
        if let Some(ttl) = time("TTL", self.ttl.as_ref())? {
            return Ok(Probe::Ttl(ttl.max(MIN_INTERVAL)));
        }
        self.command(author).map(Probe::Exec)
    }

    fn command(&self, author: Author) -> Result<ExecProbe, DefinitionError> {
        let shell = self.shell.clone().unwrap_or_else(|| "sh".into());
        let script = self.script.clone().map(|script| vec![shell, "-c".into(), script]);
        let command = self.scriptargs.clone().or(script).filter(|command| !command.is_empty());
        let command = command.ok_or_else(|| unusable("a check needs one of HTTP, TCP, GRPC, TTL"))?;
        if author == Author::Client {
            return Err(unusable(definition::NO_COMMANDS));
        }
        match self.dockercontainerid.clone().filter(|id| !id.is_empty()) {
            Some(container) => Ok(ExecProbe { container, command }),
            None => Err(unusable(
                "a check by a command on the host is not run; give DockerContainerID, or use HTTP, TCP, GRPC or TTL",
            )),
        }
    }
}

/// None for 0, too: clients in Go write that where they mean nothing by it.
fn time(what: &str, text: Option<&String>) -> Result<Option<Duration>, DefinitionError> {
    let Some(text) = text.filter(|text| !text.is_empty()) else { return Ok(None) };
    let value = go_duration::parse_or_seconds(text);
    let value = value.ok_or_else(|| unusable(format!("{what} {text:?} is no duration such as 10s")))?;
    Ok((!value.is_zero()).then_some(value))
}

fn reachable(target: String) -> Result<String, DefinitionError> {
    probes::problem_of(&target).map_or(Ok(target), |problem| Err(unusable(problem)))
}

#[cfg(test)]
mod tests;

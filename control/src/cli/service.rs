//! `weaved service`: registers what is not a container.

use std::{collections::BTreeMap, fs, net::IpAddr, path::PathBuf};

use super::output::{self, Table};
use crate::{
    catalogue::{CheckId, Drain, Instance, InstanceId, Source, Weights},
    failure::Failure,
    go_duration,
    health::{Certificates, CheckSpec, GrpcProbe, HttpProbe, MAX_TIMEOUT, MIN_INTERVAL, Probe, http},
    paths::Paths,
    registration::{
        Definition,
        agent::{AgentRequest, AgentView, Maintenance},
        consul_json,
    },
    serve::{
        client,
        protocol::{Reply, Request},
    },
};

/// Register services of this host that are no containers
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  weaved service register db --port 5432 --check-tcp 127.0.0.1:5432\n  \
                  weaved service ls\n  weaved service deregister db")]
pub(super) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// Register a service, or replace the one of the same id; it stays over restarts
    #[command(after_help = "Examples:\n  weaved service register db --port 5432 --tag primary --check-tcp \
                            127.0.0.1:5432\n  weaved service register --file db.json       Consul's service definition")]
    Register(Box<Register>),
    /// Take a service away that was registered so
    Deregister {
        /// Its id
        id: String,
    },
    /// Take traffic away from a service, or give it back, without deregistering it
    Maintenance {
        /// Its id; all services of this host without one
        id: Option<String>,
        /// Give traffic back
        #[arg(long, conflicts_with = "reason")]
        off: bool,
        /// What the others are told
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
    },
    /// List the services of this host, how they are, and what of containers was ignored or mapped
    Ls {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
}

#[derive(clap::Args)]
struct Register {
    /// Name of the service
    #[arg(required_unless_present = "file", conflicts_with = "file")]
    name: Option<String>,
    /// Consul's service definition as a file, instead of everything else
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Names this instance on this host [default: the name]
    #[arg(long)]
    id: Option<String>,
    /// Where it answers
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// Where it answers [default: this host's address]
    #[arg(long, value_name = "IP")]
    address: Option<IpAddr>,
    /// A tag; may be given several times
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<String>,
    /// Metadata; may be given several times
    #[arg(long = "meta", value_name = "KEY=VALUE")]
    meta: Vec<String>,
    /// How much traffic it gets beside the others of its service [default: 1]
    #[arg(long, value_name = "N", conflicts_with = "file", value_parser = clap::value_parser!(u16).range(1..))]
    weight: Option<u16>,
    /// Checked by a GET of this URL
    #[arg(long, value_name = "URL")]
    check_http: Option<String>,
    /// Checked by connecting
    #[arg(long, value_name = "HOST:PORT")]
    check_tcp: Option<String>,
    /// Checked by gRPC's health protocol
    #[arg(long, value_name = "HOST:PORT[/SERVICE]")]
    check_grpc: Option<String>,
    /// Reports by itself at least so often
    #[arg(long, value_name = "TIME")]
    check_ttl: Option<String>,
    /// How often it is checked [default: 10s]
    #[arg(long, value_name = "TIME")]
    interval: Option<String>,
    /// How long a check may take, at most 5m [default: 10s]
    #[arg(long, value_name = "TIME")]
    timeout: Option<String>,
    /// Do not verify the certificate of the server that is checked
    #[arg(long)]
    check_tls_skip_verify: bool,
}

pub(super) fn run(args: &Args, paths: &Paths) -> Result<(), Failure> {
    match &args.what {
        What::Register(register) => {
            for definition in definitions(register)? {
                let id = definition.id.0.clone();
                ask(paths, AgentRequest::Register(Box::new(definition)))?;
                output::say(format!("registered {id}"));
            }
        }
        What::Deregister { id } => {
            ask(paths, AgentRequest::Deregister(InstanceId(id.clone())))?;
            output::say(format!("deregistered {id}"));
        }
        What::Maintenance { id, off, reason } => {
            let mode =
                if *off { Maintenance::Off } else { Maintenance::On { reason: reason.clone().unwrap_or_default() } };
            let (what, verb) =
                (id.as_deref().unwrap_or("all services of this host"), if *off { "takes" } else { "gets no" });
            ask(paths, AgentRequest::SetMaintenance { instance: id.clone().map(InstanceId), mode })?;
            output::say(format!("{what}: {verb} traffic"));
        }
        What::Ls { json } => return list(paths, *json),
    }
    Ok(())
}

fn ask(paths: &Paths, ask: AgentRequest) -> Result<(), Failure> {
    client::request(paths, &Request::Service { ask }).map(drop)
}

fn list(paths: &Paths, as_json: bool) -> Result<(), Failure> {
    let view = match client::call(paths, &Request::Service { ask: AgentRequest::Show })? {
        Reply::Services(view) => view,
        Reply::Refused { reason } => return Err(Failure::refused(reason)),
        _ => return Err(client::other_version()),
    };
    if as_json {
        return output::say_json(&view);
    }
    output::say(table(&view));
    for note in &view.notes {
        output::complain(note);
    }
    Ok(())
}

fn table(view: &AgentView) -> Table {
    let mut table = Table::new(&["SERVICE", "ID", "ADDRESS", "HEALTH", "WEIGHT", "TAGS", "FROM"]);
    for instance in &view.instances {
        let address = instance.address.map_or("this host".into(), |address| address.to_string());
        let from = match &instance.source {
            Source::Docker(id) => format!("container {}", id.get(..12).unwrap_or(id)),
            Source::File(file) => format!("file {file}"),
            Source::Api => "a client".into(),
        };
        table.row([
            instance.service.clone(),
            instance.id.0.clone(),
            format!("{address}:{}", instance.port),
            health(instance),
            instance.weights().at(instance.health()).to_string(),
            instance.tags.join(","),
            from,
        ]);
    }
    table.without_usual("WEIGHT", "1")
}

/// With the words of the worst check.
fn health(instance: &Instance) -> String {
    if instance.drain == Drain::Draining {
        return "draining".into();
    }
    let state = format!("{:?}", instance.health()).to_lowercase();
    let worst = instance.checks.iter().max_by_key(|check| check.health).filter(|_| !instance.is_passing());
    match worst.and_then(|check| check.output.lines().next()) {
        Some(line) => format!("{state}: {}", line.chars().take(60).collect::<String>()),
        None => state,
    }
}

fn definitions(args: &Register) -> Result<Vec<Definition>, Failure> {
    let Some(path) = &args.file else { return definition(args).map(|definition| vec![definition]) };
    let cannot = |error: &dyn std::fmt::Display| Failure::refused(format!("{}: {error}", path.display()));
    let text = fs::read_to_string(path).map_err(|error| cannot(&error))?;
    consul_json::parse_file(&text).map_err(|error| cannot(&error))
}

fn definition(args: &Register) -> Result<Definition, Failure> {
    let service = args.name.clone().unwrap_or_default();
    let id = InstanceId(args.id.clone().unwrap_or_else(|| service.clone()));
    let mut meta = BTreeMap::new();
    for pair in &args.meta {
        let (key, value) =
            pair.split_once('=').ok_or_else(|| Failure::usage(format!("--meta {pair}: no KEY=VALUE")))?;
        meta.insert(key.to_owned(), value.to_owned());
    }
    if let Some(weight) = args.weight {
        Weights::alike(weight).put(&mut meta);
    }
    let checks = checks(args, &id)?;
    let definition =
        Definition { id, service, address: args.address, port: args.port, tags: args.tags.clone(), meta, checks };
    definition.check().map_err(Failure::usage)?;
    Ok(definition)
}

fn checks(args: &Register, id: &InstanceId) -> Result<Vec<CheckSpec>, Failure> {
    let certificates = if args.check_tls_skip_verify { Certificates::Unverified } else { Certificates::Verified };
    let mut probes = Vec::new();
    if let Some(url) = args.check_http.clone() {
        if let Some(problem) = http::problem_of(&url) {
            return Err(Failure::usage(format!("--check-http: {problem}")));
        }
        let (method, headers, body) = ("GET".into(), vec![], String::new());
        probes.push(Probe::Http(HttpProbe { url, method, headers, body, certificates }));
    }
    probes.extend(args.check_tcp.clone().map(Probe::Tcp));
    probes.extend(args.check_grpc.as_ref().map(|text| {
        let (target, service) = text.split_once('/').unwrap_or((text, ""));
        Probe::Grpc(GrpcProbe { target: target.into(), service: service.into(), tls: None })
    }));
    probes.extend(time("--check-ttl", args.check_ttl.as_ref())?.map(Probe::Ttl));
    let count = probes.len();
    let (interval, timeout) = (time("--interval", args.interval.as_ref())?, time("--timeout", args.timeout.as_ref())?);
    if timeout > Some(MAX_TIMEOUT) {
        return Err(Failure::usage(format!("--timeout: at most {} s", MAX_TIMEOUT.as_secs())));
    }
    let spec = |(index, probe): (usize, Probe)| {
        let suffix = if count == 1 { String::new() } else { format!(":{}", index + 1) };
        let mut spec = CheckSpec::new(CheckId(format!("service:{}{suffix}", id.0)), probe);
        spec.interval = interval.unwrap_or(spec.interval).max(MIN_INTERVAL);
        spec.timeout = timeout.unwrap_or(spec.timeout).max(MIN_INTERVAL);
        spec
    };
    Ok(probes.into_iter().enumerate().map(spec).collect())
}

fn time(option: &str, text: Option<&String>) -> Result<Option<std::time::Duration>, Failure> {
    let Some(text) = text else { return Ok(None) };
    let value = go_duration::parse_or_seconds(text).map(|value| value.max(MIN_INTERVAL));
    value.map(Some).ok_or_else(|| Failure::usage(format!("{option} {text}: no time such as 10s or 1m30s")))
}

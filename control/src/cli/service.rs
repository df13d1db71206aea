//! `weaved service`: registers what is not a container.

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf, time::Duration};

use super::{
    no_time,
    output::{self, Table},
};
use crate::{
    catalogue::{CheckId, Drain, Instance, InstanceId, Source, Weights},
    failure::Failure,
    health::{Certificates, CheckSpec, GrpcProbe, HttpProbe, MAX_TIMEOUT, MIN_INTERVAL, Probe, http, probes},
    paths::Paths,
    registration::{
        Definition,
        agent::{AgentRequest, AgentView, Maintenance},
        consul_json, files,
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
    /// Deregister a service that `register` or a client of the HTTP API has registered
    #[command(after_help = "Example:\n  weaved service deregister db")]
    Deregister {
        /// Its id, as `weaved service ls` shows it
        id: String,
    },
    /// Take traffic away from a service, or give it back, without deregistering it
    ///
    /// It holds for the id until --off, over restarts: the next container of the same name gets no traffic either.
    #[command(after_help = "Examples:\n  weaved service maintenance db --reason 'a new disk'\n  \
                            weaved service maintenance db --off")]
    Maintenance {
        /// Its id, as `weaved service ls` shows it [default: all services of this host]
        id: Option<String>,
        /// Give traffic back
        #[arg(long, conflicts_with = "reason")]
        off: bool,
        /// Why, for all who look at its checks [default: somebody works on it]
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
    },
    /// List the services of this host, how they are, and what of containers was ignored or mapped
    #[command(after_help = "Examples:\n  weaved service ls\n  weaved service ls --json")]
    Ls {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
}

#[derive(clap::Args)]
#[command(group = clap::ArgGroup::new("asked").multiple(true))]
struct Register {
    /// Name of the service
    #[arg(required_unless_present = "file")]
    name: Option<String>,
    /// Consul's service definition as a file, instead of everything else
    #[arg(long, value_name = "FILE", conflicts_with_all = BESIDE_A_FILE)]
    file: Option<PathBuf>,
    /// Names this instance on this host [default: the name]
    #[arg(long)]
    id: Option<String>,
    /// Port where it answers; 0 for none
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// Address where it answers [default: this host's address]
    #[arg(long, value_name = "IP")]
    address: Option<IpAddr>,
    /// A tag; may be given several times
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<String>,
    /// Metadata; may be given several times
    #[arg(long = "meta", value_name = "KEY=VALUE")]
    meta: Vec<String>,
    /// How much traffic it gets beside the others of its service [default: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    weight: Option<u16>,
    /// Checked by a GET of this URL
    #[arg(long, value_name = "URL", group = "asked")]
    check_http: Option<String>,
    /// Checked by connecting
    #[arg(long, value_name = "HOST:PORT", group = "asked")]
    check_tcp: Option<String>,
    /// Checked by gRPC's health protocol
    #[arg(long, value_name = "HOST:PORT[/SERVICE]", group = "asked")]
    check_grpc: Option<String>,
    /// It reports by itself at least so often, by PUT of /v1/agent/check/pass/service:ID
    #[arg(long, value_name = "TIME")]
    check_ttl: Option<String>,
    /// How often it is checked [default: 10s]
    #[arg(long, value_name = "TIME", requires = "asked")]
    interval: Option<String>,
    /// How long a check may take, at most 5m [default: 10s]
    #[arg(long, value_name = "TIME", requires = "asked")]
    timeout: Option<String>,
    /// Do not verify the certificate of the server that is checked
    #[arg(long, requires = "check_http")]
    check_tls_skip_verify: bool,
}

/// All that a file says itself.
const BESIDE_A_FILE: [&str; 14] = [
    "name",
    "id",
    "port",
    "address",
    "tags",
    "meta",
    "weight",
    "check_http",
    "check_tcp",
    "check_grpc",
    "check_ttl",
    "interval",
    "timeout",
    "check_tls_skip_verify",
];

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
            let what = id.as_deref().unwrap_or("all services of this host");
            ask(paths, AgentRequest::SetMaintenance { instance: id.clone().map(InstanceId), mode })?;
            output::say(match off {
                true => format!("{what}: traffic as before"),
                false => format!("{what}: no traffic until --off, nor for what comes with the same id"),
            });
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
    let text = files::read(path).map_err(|error| cannot(&error))?;
    consul_json::parse_file(&text).map_err(|error| cannot(&error))
}

fn definition(args: &Register) -> Result<Definition, Failure> {
    let service = args.name.clone().unwrap_or_default();
    let id = InstanceId(args.id.clone().unwrap_or_else(|| service.clone()));
    let mut meta = BTreeMap::new();
    for pair in &args.meta {
        let (key, value) =
            pair.split_once('=').ok_or_else(|| Failure::usage(format!("--meta {pair}: no KEY=VALUE")))?;
        if meta.insert(key.to_owned(), value.to_owned()).is_some() {
            return Err(Failure::usage(format!("--meta {pair}: {key} is there twice")));
        }
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
    let probes = probes_of(args)?;
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

fn probes_of(args: &Register) -> Result<Vec<Probe>, Failure> {
    let refuse = |option: &str, problem: Option<String>| match problem {
        Some(problem) => Err(Failure::usage(format!("{option}: {problem}"))),
        None => Ok(()),
    };
    let certificates = if args.check_tls_skip_verify { Certificates::Unverified } else { Certificates::Verified };
    let mut probes = Vec::new();
    if let Some(url) = args.check_http.clone() {
        refuse("--check-http", http::problem_of(&url))?;
        let (method, headers, body) = ("GET".into(), vec![], String::new());
        probes.push(Probe::Http(HttpProbe { url, method, headers, body, certificates }));
    }
    if let Some(target) = args.check_tcp.clone() {
        refuse("--check-tcp", probes::problem_of(&target))?;
        probes.push(Probe::Tcp(target));
    }
    if let Some(text) = &args.check_grpc {
        let (target, service) = text.split_once('/').unwrap_or((text, ""));
        refuse("--check-grpc", probes::problem_of(target))?;
        probes.push(Probe::Grpc(GrpcProbe { target: target.into(), service: service.into(), tls: None }));
    }
    probes.extend(time("--check-ttl", args.check_ttl.as_ref())?.map(Probe::Ttl));
    Ok(probes)
}

fn time(option: &str, text: Option<&String>) -> Result<Option<Duration>, Failure> {
    let Some(text) = text else { return Ok(None) };
    match super::time(option, text)? {
        Duration::ZERO => Err(no_time(option, text)),
        value => Ok(Some(value.max(MIN_INTERVAL))),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    /// What `weaved service register OPTIONS` asks for, or the first line of what is wrong with it.
    fn registered(options: &str) -> Result<Vec<Definition>, String> {
        let words = ["service", "register"].into_iter().chain(options.split_whitespace());
        let line = Line::try_parse_from(words);
        let line = line.map_err(|error| error.to_string().lines().next().unwrap_or_default().to_owned())?;
        let What::Register(register) = line.args.what else { panic!("{options}: another verb") };
        definitions(&register).map_err(|failure| failure.to_string())
    }

    #[test]
    fn options_are_a_definition() {
        let all = registered("db --port 5432 --tag a --tag b --meta k=v=w --check-tcp 127.0.0.1:5432 --interval 5s");
        let db = all.unwrap().remove(0);
        assert_eq!((db.id.0.as_str(), db.service.as_str(), db.port, db.tags.len()), ("db", "db", 5432, 2));
        assert_eq!(db.meta["k"], "v=w");
        assert_eq!(db.checks[0].probe, Probe::Tcp("127.0.0.1:5432".into()));
        assert_eq!((db.checks[0].id.0.as_str(), db.checks[0].interval.as_secs()), ("service:db", 5));
    }

    #[test]
    fn a_target_that_is_none_is_refused_before_it_is_registered() {
        for (options, complaint) in [
            ("--check-tcp nonsense", "--check-tcp: \"nonsense\" is no HOST:PORT"),
            ("--check-tcp db:0", "--check-tcp: \"db:0\" is no HOST:PORT"),
            ("--check-tcp :80", "--check-tcp: \":80\" is no HOST:PORT"),
            ("--check-grpc !!", "--check-grpc: \"!!\" is no HOST:PORT"),
            ("--check-grpc !!:80/shop", "--check-grpc: \"!!:80\" is no HOST:PORT"),
            ("--check-http ftp://a", "--check-http: ftp://a is no URL; one begins with http:// or https://"),
            ("--check-ttl soon", "--check-ttl soon: no time such as 10s or 1m30s"),
            ("--check-tcp a:1 --interval 0", "--interval 0: no time such as 10s or 1m30s"),
            ("--meta a=1 --meta a=2", "--meta a=2: a is there twice"),
            ("--address 0.0.0.0", "address 0.0.0.0 is none that others reach: name one, or none for the host's own"),
        ] {
            assert_eq!(registered(&format!("db {options}")), Err(complaint.to_owned()), "{options}");
        }
        for options in ["--check-tcp [::1]:80", "--check-tcp my_db.internal:5432", "--check-grpc a:1/my.Service"] {
            assert!(registered(&format!("db {options}")).is_ok(), "{options}");
        }
    }

    #[test]
    fn a_file_and_what_it_says_itself_exclude_each_other() {
        for options in [
            "name",
            "--port 9",
            "--tag z",
            "--id i",
            "--address 10.0.0.1",
            "--meta a=b",
            "--weight 2",
            "--check-http http://a/",
            "--check-tcp a:1 --interval 5s",
            "--check-ttl 5s",
        ] {
            let complaint = registered(&format!("--file f.json {options}")).unwrap_err();
            assert!(complaint.contains("'--file <FILE>' cannot be used with"), "{options}: {complaint}");
        }
        let register = <Register as clap::Args>::augment_args(clap::Command::new("register"));
        assert_eq!(register.get_arguments().count(), BESIDE_A_FILE.len() + 1, "all but --file itself");
    }

    #[test]
    fn what_says_how_to_check_without_a_check_is_refused() {
        for options in ["--interval 5s", "--timeout 5s", "--check-ttl 5s --interval 5s", "--check-tls-skip-verify"] {
            assert!(registered(&format!("db {options}")).is_err(), "{options}");
        }
    }
}

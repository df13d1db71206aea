//! `weaved launch`: checks, plans, writes, starts, and says what to do next.

use std::{
    fs::File,
    io::{self, Read},
    net::SocketAddr,
    path::{Path, PathBuf},
};

use ipnet::Ipv4Net;
use weaved_api::{CipherChoice, SourcePorts, Switch, WorkerCount};
use zeroize::Zeroizing;

use super::output;
use crate::{
    defaults,
    failure::Failure,
    host::{interfaces, preflight, process::Process},
    launch::{Ask, Freshness, Plan, SecretSource, start},
    lifecycle::{self, VerbLock},
    logging::{self, LogTarget},
    node::Start,
    paths::{Part, Paths},
    serve::report::StatusReport,
    state::{DockerChoice, Settings, Store, password, settings::Requested},
    supervisor,
    targets::Target,
};

/// A token and the longest password are far shorter.
const MAX_SECRET_BYTES: u64 = 4096;

/// Start weaved on this host: make a new network, or join one
///
/// Everything is remembered: after a stop or a reboot, `weaved launch` alone is enough. Secrets come from a file, from
/// standard input (`-`), or from the environment (`WEAVED_TOKEN`, `WEAVED_PASSWORD`), never from an argument.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  weaved launch                                a new network\n  \
                  weaved launch --token-file t hostA           join hostA's, with the output of `weaved token` there\n  \
                  ssh hostA weaved token | weaved launch --token-file - hostA")]
pub(super) struct Args {
    /// Hosts to connect to, by name or address, with :PORT where it is not 6783
    #[arg(value_name = "PEER")]
    peers: Vec<Target>,
    /// File with the join token; - for standard input
    #[arg(long, value_name = "FILE", conflicts_with = "password_file")]
    token_file: Option<PathBuf>,
    /// File with a password that all hosts share, instead of a token; - for standard input
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// Stay in the foreground, for systemd
    #[arg(long)]
    foreground: bool,
    /// UDP port of this host for everything; others that connect to it must name another one, as HOST:7000 [default: 6783]
    #[arg(long)]
    port: Option<u16>,
    /// Addresses of all containers of all hosts; the same on all hosts [default: 10.32.0.0/12]
    #[arg(long, value_name = "CIDR")]
    range: Option<Ipv4Net>,
    /// Prefix length of each host's part of the range; the same on all hosts [default: 24]
    #[arg(long, value_name = "LEN")]
    slice_prefix: Option<u8>,
    /// Name of the bridge that containers are attached to [default: weave]
    #[arg(long)]
    bridge: Option<String>,
    /// MTU of the bridge; any value works, larger frames are cut to the path [default: 1500]
    #[arg(long)]
    mtu: Option<u16>,
    /// What others call this host [default: its host name]
    #[arg(long)]
    name: Option<String>,
    /// Do not watch Docker
    #[arg(long, conflicts_with = "docker")]
    no_docker: bool,
    /// Watch Docker again, after a launch with --no-docker
    #[arg(long)]
    docker: bool,
    /// The fastest cipher to offer: auto (AEGIS-256X4, or else the next), aegis-256, aes-256-gcm or chacha20-poly1305; two
    /// hosts take the fastest that both offer, which is the last one where a processor has no instructions for AES
    /// [default: auto]
    #[arg(long, value_name = "CIPHER")]
    cipher: Option<CipherChoice>,
    /// Threads that carry frames: auto (one on one or two processors, at most four) or 1 to 8 [default: auto]
    #[arg(long, value_name = "COUNT")]
    workers: Option<WorkerCount>,
    /// Ports that the workers send from, for bundled links and network cards with several queues. Only where nothing between the
    /// hosts (NAT, a stateful firewall) expects one port [default: 1]
    #[arg(long, value_name = "COUNT")]
    source_ports: Option<SourcePorts>,
    /// Zone of the names of services and containers; the same on all hosts [default: weave.local]
    #[arg(long, value_name = "DOMAIN")]
    zone: Option<String>,
    /// Keys that begin so are decided by a majority, besides those below backend/; said once, by the host that makes the network
    #[arg(long, value_name = "PREFIX")]
    guarded: Vec<String>,
    /// Directory of service definitions (*.json) [default: /etc/weaved/services.d]
    #[arg(long, value_name = "DIR")]
    services_dir: Option<PathBuf>,
    /// What is balanced on this host; the file need not exist [default: balancer.toml in the state directory]
    #[arg(long, value_name = "FILE")]
    balancer_file: Option<PathBuf>,
    #[command(flatten)]
    http: HttpArgs,
    #[command(flatten)]
    offload: OffloadArgs,
}

/// The HTTP API, and metrics.
#[derive(clap::Args)]
#[command(next_help_heading = "HTTP API and metrics")]
struct HttpArgs {
    /// TCP port of the Consul-compatible HTTP API on loopback and on the bridge [default: 8500]
    #[arg(long, value_name = "PORT", conflicts_with = "no_http")]
    http_port: Option<u16>,
    /// No HTTP API
    #[arg(long)]
    no_http: bool,
    /// File with the token that clients of the HTTP API must send; an empty name for none [default: none]
    #[arg(long, value_name = "FILE")]
    http_token_file: Option<PathBuf>,
    /// Where metrics are served for Prometheus (`/metrics`) [default: 127.0.0.1:6784]
    #[arg(long, value_name = "ADDRESS:PORT", conflicts_with = "no_metrics")]
    metrics_address: Option<SocketAddr>,
    /// No metrics
    #[arg(long)]
    no_metrics: bool,
}

/// Kernel offloads: `auto` tests each at the start and falls back while it fails.
#[derive(clap::Args)]
#[command(next_help_heading = "Kernel offloads (auto, on, off; see `weaved status dataplane`)")]
struct OffloadArgs {
    /// Frames of up to 64 KB from and to the bridge [default: auto]
    #[arg(long, value_name = "SWITCH")]
    tap_offload: Option<Switch>,
    /// Many datagrams in one send; with `auto` not to hosts that do not get them, with `on` whatever is lost [default: auto]
    #[arg(long, value_name = "SWITCH")]
    udp_gso: Option<Switch>,
    /// Many datagrams in one receive [default: auto]
    #[arg(long, value_name = "SWITCH")]
    udp_gro: Option<Switch>,
    /// Known frames skip the bridge where no firewall rule would see them there [default: auto, which is off]
    #[arg(long, value_name = "SWITCH")]
    bridge_redirect: Option<Switch>,
    /// Containers do not share one queue, so that none that sends too much fills it for the others [default: auto, which is on]
    #[arg(long, value_name = "SWITCH")]
    source_queues: Option<Switch>,
    /// Ask containers for frames that leave in one send (`gso_max_size` of their interfaces) [default: auto, which is on]
    #[arg(long, value_name = "SWITCH")]
    container_gso: Option<Switch>,
}

pub(super) fn run(args: &Args, paths: &Paths) -> Result<(), Failure> {
    let ask = Ask {
        secret: secret_source(args.token_file.as_deref(), args.password_file.as_deref())?,
        requested: requested(args)?,
        peers: args.peers.clone(),
        host_name: host_name(),
    };
    preflight::may_administer_network()?;
    preflight::has_tun_device()?;
    paths.create_run_dir()?;
    let lock = VerbLock::take(paths)?;
    launch(args, &ask, paths, lock).inspect_err(|_| lifecycle::tidy_run_dir(paths))
}

fn launch(args: &Args, ask: &Ask, paths: &Paths, lock: VerbLock) -> Result<(), Failure> {
    if let Some(running) = Process::find(paths, Part::Supervisor) {
        return Err(Failure::refused(format!(
            "weaved is already running here (process {}); add peers with `weaved connect`, see `weaved status`",
            running.pid().as_raw_nonzero()
        )));
    }
    let store = Store::new(&paths.state_dir);
    let plan = Plan::make(&store, ask)?;
    check_host(paths, &plan, &ask.peers)?;
    plan.save(&store)?;
    if args.foreground {
        // From here on it is the supervisor's pid file that keeps others away.
        drop(lock);
        logging::init(&LogTarget::Stderr, paths)?;
        return supervisor::run(paths, &LogTarget::Stderr);
    }
    let report = start::start(paths).inspect_err(|_| undo(&plan, &store))?;
    drop(lock);
    let waits = plan.settings.start != Start::Founder && !plan.wishes.targets.is_empty() && !report.has_slice();
    let report = if waits { start::wait_for_slice(paths, report)? } else { report };
    tell(&plan, &report);
    Ok(())
}

/// What would make the launch fail later, or fail quietly.
fn check_host(paths: &Paths, plan: &Plan, peers: &[Target]) -> Result<(), Failure> {
    let unresolved: Vec<String> =
        peers.iter().filter_map(|peer| peer.resolve().err().map(|error| format!("{peer} ({error})"))).collect();
    if !unresolved.is_empty() {
        return Err(Failure::refused(format!(
            "no such host: {}; give its address, or put its name into DNS or /etc/hosts; nothing was changed",
            unresolved.join(", ")
        )));
    }
    // A data plane that outlived its supervisor has the port, and is adopted or replaced.
    if Process::find(paths, Part::Dataplane).is_none() {
        preflight::port_is_free(plan.settings.port)?;
    }
    preflight::range_is_free(plan.range(), &plan.settings.bridge)
}

fn undo(plan: &Plan, store: &Store) {
    if plan.freshness == Freshness::First {
        if let Err(error) = interfaces::delete_devices(Some(&plan.settings)) {
            output::complain(error);
        }
        plan.undo(store);
    }
}

fn requested(args: &Args) -> Result<Requested, Failure> {
    let docker = match std::env::var("DOCKER_HOST") {
        _ if args.no_docker => Some(DockerChoice::Off),
        Ok(host) if !host.is_empty() => Some(DockerChoice::Host(host)),
        Err(std::env::VarError::NotUnicode(_)) => {
            return Err(Failure::usage("DOCKER_HOST is no text; unset it or set it to unix://PATH"));
        }
        Ok(_) | Err(std::env::VarError::NotPresent) => args.docker.then_some(DockerChoice::Usual),
    };
    Ok(Requested {
        port: args.port,
        range: args.range,
        slice_prefix: args.slice_prefix,
        bridge: args.bridge.clone(),
        mtu: args.mtu,
        name: args.name.clone(),
        docker,
        zone: args.zone.clone(),
        guarded: args.guarded.clone(),
        balancer_file: args.balancer_file.as_deref().map(|file| absolute("--balancer-file", file)).transpose()?,
        services_dir: args.services_dir.as_deref().map(|dir| absolute("--services-dir", dir)).transpose()?,
        tap_offload: args.offload.tap_offload,
        udp_gso: args.offload.udp_gso,
        udp_gro: args.offload.udp_gro,
        bridge_redirect: args.offload.bridge_redirect,
        source_queues: args.offload.source_queues,
        container_gso: args.offload.container_gso,
        cipher: args.cipher,
        workers: args.workers,
        source_ports: args.source_ports,
        http_port: if args.http.no_http { Some(None) } else { args.http.http_port.map(Some) },
        metrics_address: if args.http.no_metrics { Some(None) } else { args.http.metrics_address.map(Some) },
        http_token_file: args
            .http
            .http_token_file
            .as_deref()
            .map(|file| absolute("--http-token-file", file))
            .transpose()?,
    })
}

/// Control reads it at its start, from another directory.
fn absolute(option: &str, path: &Path) -> Result<PathBuf, Failure> {
    if path.as_os_str().is_empty() {
        return Ok(PathBuf::new());
    }
    std::path::absolute(path).map_err(|error| Failure::usage(format!("{option} {}: {error}", path.display())))
}

fn secret_source(token_file: Option<&Path>, password_file: Option<&Path>) -> Result<SecretSource, Failure> {
    if let Some(path) = token_file {
        return read_secret(path).map(SecretSource::Token);
    }
    if let Some(path) = password_file {
        return read_secret(path).map(SecretSource::Password);
    }
    let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty()).map(Zeroizing::new);
    match (variable("WEAVED_TOKEN"), variable("WEAVED_PASSWORD")) {
        (Some(_), Some(_)) => Err(Failure::usage("both WEAVED_TOKEN and WEAVED_PASSWORD are set; unset one")),
        (Some(token), None) => Ok(SecretSource::Token(token)),
        (None, Some(password)) => Ok(SecretSource::Password(password)),
        (None, None) => Ok(SecretSource::Own),
    }
}

fn read_secret(path: &Path) -> Result<Zeroizing<String>, Failure> {
    let mut text = Zeroizing::new(String::new());
    let outcome = if path == Path::new("-") {
        io::stdin().lock().take(MAX_SECRET_BYTES).read_to_string(&mut text)
    } else {
        File::open(path).and_then(|file| file.take(MAX_SECRET_BYTES).read_to_string(&mut text))
    };
    match outcome {
        Ok(_) => Ok(text),
        Err(error) => Err(Failure::refused(format!("cannot read the secret from {}: {error}", path.display()))),
    }
}

fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

fn tell(plan: &Plan, report: &StatusReport) {
    let name = &plan.settings.name;
    match (plan.freshness, report.cluster.ipam.slice) {
        (Freshness::First, Some(slice)) if plan.settings.start == Start::Founder => {
            output::say(format!("weaved is up: {name} has made a network; its containers get addresses from {slice}"));
        }
        (Freshness::First, Some(slice)) => {
            output::say(format!("weaved is up: {name} has joined; its containers get addresses from {slice}"));
        }
        (Freshness::Again, Some(slice)) => {
            output::say(format!("weaved is up again: {name}'s containers get addresses from {slice}"));
        }
        (_, None) => {
            let peers = &plan.wishes.targets;
            let from = if peers.is_empty() { "its cluster".into() } else { peers.join(", ") };
            output::say(format!("weaved is up: {name} waits for an address range from {from}"));
            if peers.is_empty() {
                output::say("connect it:  weaved connect PEER");
            }
            output::say("watch it:    weaved status");
            return;
        }
    }
    for change in &plan.changes {
        output::say(format!("changed:     {change}"));
    }
    if plan.freshness == Freshness::First {
        output::say("next host:   weaved token > t          here; t is the key to the network, copy it there");
        output::say(format!("             weaved launch --token-file t {}   there", own_address(&plan.settings)));
        if plan.settings.docker != DockerChoice::Off {
            output::say("Docker:      weaved docker-config --install, then restart Docker");
            output::say("             or: dockerd $(weaved docker-config --flags)");
        }
    }
}

/// How another host would name this one.
fn own_address(settings: &Settings) -> String {
    let endpoints = interfaces::endpoints(settings);
    match endpoints.iter().find(|endpoint| endpoint.is_ipv4()).or(endpoints.first()) {
        Some(endpoint) if settings.port == defaults::PORT => endpoint.ip().to_string(),
        Some(endpoint) => endpoint.to_string(),
        None => settings.name.clone(),
    }
}

const _: () = assert!(password::MIN_PASSWORD_CHARS < MAX_SECRET_BYTES as usize);

//! `weaved status`: one screen for people, or everything as JSON.

mod screens;

use std::fmt;

use clap::ValueEnum;
use weaved_api::gateway::{GatewayEvent, GatewayRequest};
use weaved_gateway::BALANCER_COUNTERS;

use super::output;
use crate::{failure::Failure, gateway_client, paths::Paths, serve::client};

/// Show who is connected, how, and what is wrong
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  weaved status\n  weaved status connections\n  weaved status --json")]
pub(super) struct Args {
    /// Only this, in more detail
    #[arg(value_enum)]
    subject: Option<Subject>,
    /// Everything, as JSON
    #[arg(long)]
    json: bool,
}

/// What can be looked at alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Subject {
    /// Members of the cluster
    Peers,
    /// Sessions with other hosts: where, since when, how
    Connections,
    /// Who has which addresses
    Ipam,
    /// What this host was told to connect to
    Targets,
    /// The Docker of this host
    Docker,
    /// Names: where they are answered, and counters
    Dns,
    /// Devices and counters
    Dataplane,
}

pub(super) fn run(args: &Args, paths: &Paths) -> Result<(), Failure> {
    if args.subject == Some(Subject::Dns) {
        return dns(args, paths);
    }
    let report = client::status(paths)?;
    if args.json {
        return match args.subject {
            None | Some(Subject::Dns) => output::say_json(&report),
            Some(Subject::Peers) => output::say_json(&report.cluster.members),
            Some(Subject::Connections) => output::say_json(&report.dataplane.stats.map(|stats| stats.peers)),
            Some(Subject::Ipam) => output::say_json(&report.cluster.ipam),
            Some(Subject::Targets) => output::say_json(&report.targets),
            Some(Subject::Docker) => output::say_json(&report.docker),
            Some(Subject::Dataplane) => output::say_json(&report.dataplane),
        };
    }
    let screen: Box<dyn fmt::Display> = match args.subject {
        None | Some(Subject::Dns) => Box::new(screens::overview(&report)),
        Some(Subject::Peers) => Box::new(screens::peers(&report)),
        Some(Subject::Connections) => Box::new(screens::connections(&report)),
        Some(Subject::Ipam) => Box::new(screens::ipam(&report)),
        Some(Subject::Targets) => Box::new(screens::targets(&report)),
        Some(Subject::Docker) => Box::new(screens::docker(&report)),
        Some(Subject::Dataplane) => Box::new(screens::dataplane(&report)),
    };
    output::say(screen);
    Ok(())
}

/// Asked of the gateway itself, so that it works while control is away.
fn dns(args: &Args, paths: &Paths) -> Result<(), Failure> {
    let GatewayEvent::Stats(mut stats) = gateway_client::ask(paths, &GatewayRequest::QueryStats)? else {
        return Err(Failure::unreachable("the gateway gives an answer to another question; restart weaved"));
    };
    // `weaved balancer status` has those.
    stats.counters.retain(|counter| !counter.name.starts_with(BALANCER_COUNTERS));
    if args.json {
        return output::say_json(&stats);
    }
    output::say(screens::dns(&stats));
    Ok(())
}

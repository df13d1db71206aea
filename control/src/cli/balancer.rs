//! `weaved balancer`: checks the operator's file, and shows what the gateway of this host balances.

use std::path::PathBuf;

use clap::Subcommand;
use weaved_api::{
    balancer::{BalancerStatus, ListenerProtocol, ServiceStatus},
    gateway::{GatewayEvent, GatewayRequest},
};

use super::output::{self, Table};
use crate::{balancer_file, failure::Failure, gateway_client, paths::Paths};

/// Check the balancer's file, or see what it does
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  weaved balancer check /var/lib/weaved/balancer.toml\n  weaved balancer status\n  \
                        weaved balancer status --json"
)]
pub(super) struct Args {
    #[command(subcommand)]
    ask: Ask,
}

#[derive(Subcommand)]
enum Ask {
    /// Say what is wrong with a file, with the line; changes nothing
    #[command(after_help = "Example:\n  weaved balancer check /var/lib/weaved/balancer.toml")]
    Check {
        /// The file, such as balancer.toml
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Show listeners, services, what is live, and every instance with the reason why it is left out
    #[command(after_help = "Examples:\n  weaved balancer status\n  weaved balancer status --json")]
    Status {
        /// As JSON, with all counters
        #[arg(long)]
        json: bool,
    },
}

pub(super) fn run(args: &Args, paths: &Paths) -> Result<(), Failure> {
    match &args.ask {
        Ask::Check { file } => {
            let parsed = balancer_file::read(file).map_err(Failure::refused)?;
            if parsed.is_empty() {
                output::say("the file is right, and nothing is balanced: it has no [[listen]]");
            }
            parsed.describe().iter().for_each(output::say);
            Ok(())
        }
        Ask::Status { json } => status(*json, paths),
    }
}

/// Asked of the gateway itself, so that it works while control is away.
fn status(json: bool, paths: &Paths) -> Result<(), Failure> {
    let GatewayEvent::BalancerStatus(status) = gateway_client::ask(paths, &GatewayRequest::QueryBalancer)? else {
        return Err(Failure::unreachable("the gateway gives an answer to another question; restart weaved"));
    };
    if json {
        return output::say_json(&status);
    }
    if status.listeners.is_empty() && status.services.is_empty() {
        output::say("nothing is balanced on this host; write a balancer.toml (see docs/balancer.md)");
        return Ok(());
    }
    output::say_table(listeners(&status))?;
    for service in &status.services {
        output::say("");
        output::say(headline(service));
        output::say_table(backends(service))?;
    }
    for problem in &status.problems {
        output::say(format!("\nproblem: {problem}"));
    }
    Ok(())
}

fn listeners(status: &BalancerStatus) -> Table {
    let mut table = Table::new(&["LISTENER", "ADDRESS", "PROTOCOL", "STATE", "CONNECTIONS"]);
    for listener in &status.listeners {
        let protocol = match listener.protocol {
            ListenerProtocol::Http => "http",
            ListenerProtocol::Tcp => "tcp",
        };
        let state = if listener.is_open { "open" } else { "not open" };
        let connections = listener.connections.to_string();
        table.row([listener.name.clone(), listener.address.to_string(), protocol.into(), state.into(), connections]);
    }
    table
}

fn headline(service: &ServiceStatus) -> String {
    let live = match service.live.as_slice() {
        [] => "all instances, whatever their colour".into(),
        [only] => only.colour.clone(),
        several => {
            let shares = several.iter().map(|share| format!("{} {}", share.colour, share.weight));
            shares.collect::<Vec<_>>().join(", ")
        }
    };
    let (requests, failures) = service
        .colours
        .iter()
        .fold((0, 0), |(requests, failures), colour| (requests + colour.requests, failures + colour.failures));
    let revision = if service.revision == 0 { String::new() } else { format!(" (switch {})", service.revision) };
    format!("{}: live is {live}{revision}; {requests} requests, {failures} failed", service.name)
}

fn backends(service: &ServiceStatus) -> Table {
    let mut table = Table::new(&["INSTANCE", "HOST", "ADDRESS", "COLOUR", "WEIGHT", "IN FLIGHT", "STATE"]);
    for backend in &service.backends {
        table.row([
            backend.id.clone(),
            backend.host.clone(),
            backend.address.map_or_else(|| "-".into(), |address| address.to_string()),
            if backend.colours.is_empty() { "-".into() } else { backend.colours.join(", ") },
            backend.weight.to_string(),
            backend.in_flight.to_string(),
            backend.state.clone(),
        ]);
    }
    table.without_usual("WEIGHT", "1")
}

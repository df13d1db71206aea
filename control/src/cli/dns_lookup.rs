//! `weaved dns-lookup`: asks the gateway of this host, and says why the answer is as it is.

use std::net::IpAddr;

use clap::ValueEnum;
use weaved_api::gateway::{GatewayEvent, GatewayRequest, LookupKind, LookupReport};

use super::output::{self, Table};
use crate::{failure::Failure, gateway_client, paths::Paths};

/// Look a name up as containers of this host do, and see why the answer is so
///
/// Shows the answer, and everything that the name stands for: also instances that are left out, and for which reason.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  weaved dns-lookup web\n  weaved dns-lookup green.web.weave.local --type SRV\n  \
                        weaved dns-lookup 10.32.0.2")]
pub(super) struct Args {
    /// Name, with or without the zone; or an address
    #[arg(value_name = "NAME")]
    name: String,
    /// Kind of record [default: A, and PTR for an address]
    #[arg(long = "type", value_name = "TYPE", value_enum, ignore_case = true)]
    kind: Option<Kind>,
    /// As JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "UPPERCASE")]
enum Kind {
    /// IPv4 addresses
    A,
    /// IPv6 addresses
    Aaaa,
    /// Addresses with ports
    Srv,
    /// The name of an address
    Ptr,
}

pub(super) fn run(args: &Args, paths: &Paths) -> Result<(), Failure> {
    let kind = match args.kind {
        Some(Kind::Aaaa) => LookupKind::Aaaa,
        Some(Kind::Srv) => LookupKind::Srv,
        Some(Kind::Ptr) => LookupKind::Ptr,
        None if args.name.parse::<IpAddr>().is_ok() => LookupKind::Ptr,
        Some(Kind::A) | None => LookupKind::A,
    };
    let request = GatewayRequest::Lookup { name: args.name.clone(), kind };
    let GatewayEvent::Found(report) = gateway_client::ask(paths, &request)? else {
        return Err(Failure::unreachable("the gateway gives an answer to another question; restart weaved"));
    };
    if args.json {
        output::say_json(&report)?;
    } else {
        tell(&report);
    }
    if report.outcome == "NOERROR" && !report.records.is_empty() {
        return Ok(());
    }
    Err(Failure::refused(why_nothing(&report)))
}

fn tell(report: &LookupReport) {
    for record in &report.records {
        output::say(record);
    }
    if !report.candidates.is_empty() {
        let mut table = Table::new(&["INSTANCE", "HOST", "ADDRESS", "STATE"]);
        for candidate in &report.candidates {
            table.row([
                candidate.id.clone(),
                candidate.host.clone(),
                candidate.addresses.join(", "),
                candidate.standing.describe().to_owned(),
            ]);
        }
        output::say(format!("\n{table}"));
    }
}

fn why_nothing(report: &LookupReport) -> String {
    let name = report.name.trim_end_matches('.');
    let left_out = report.candidates.iter().filter(|candidate| !candidate.standing.takes_traffic()).count();
    match report.outcome.as_str() {
        "NOERROR" | "NXDOMAIN" if left_out > 0 => {
            format!("{name}: nothing that takes traffic; {left_out} left out, each with its reason above or in --json")
        }
        "NOERROR" => format!("{name} is there, but has no record of that type"),
        "NXDOMAIN" => format!("{name}: no such name, say {}", report.source),
        outcome => format!("{name}: {outcome}: {}", report.source),
    }
}

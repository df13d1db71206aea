//! `weaved ps`: containers of all hosts.

use serde::Serialize;

use super::output::{self, Table};
use crate::{failure::Failure, node::Container, paths::Paths, serve::client};

/// List the containers of all hosts with their addresses
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  weaved ps\n  weaved ps web --json")]
pub(super) struct Args {
    /// Only containers whose name or id begins so
    #[arg(value_name = "CONTAINER")]
    containers: Vec<String>,
    /// As JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Row<'a> {
    host: &'a str,
    #[serde(flatten)]
    container: &'a Container,
}

pub(super) fn run(args: &Args, paths: &Paths) -> Result<(), Failure> {
    let report = client::status(paths)?;
    let own = report.cluster.containers.iter().map(|container| (report.cluster.name.as_str(), container));
    let others = report
        .cluster
        .members
        .iter()
        .flat_map(|member| member.containers.iter().map(|container| (member.name.as_str(), container)));
    let asked = |container: &Container| {
        let begins = |text: &String| container.name.starts_with(text) || container.id.starts_with(text);
        args.containers.is_empty() || args.containers.iter().any(begins)
    };
    let rows: Vec<Row<'_>> = own
        .chain(others)
        .filter(|(_, container)| asked(container))
        .map(|(host, container)| Row { host, container })
        .collect();
    if args.json {
        return output::say_json(&rows);
    }
    let mut table = Table::new(&["CONTAINER", "NAME", "MAC", "ADDRESSES", "HOST"]);
    for Row { host, container } in rows {
        let addresses = container.ips.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let id = container.id.chars().take(12).collect();
        table.row([id, container.name.clone(), container.mac.to_string(), addresses, host.to_owned()]);
    }
    output::say(table);
    Ok(())
}

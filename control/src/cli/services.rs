//! `weaved services`: what runs where.

use super::output::{self, Table};
use crate::{
    catalogue::{Check, Drain, Health, Source, Weights},
    failure::Failure,
    node::MemberState,
    paths::Paths,
    registration::agent::MAINTENANCE_KIND,
    serve::{
        client,
        protocol::Request,
        services::{InstanceReport, ServiceReport},
    },
};

/// List the services of all hosts, or the instances of one
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  weaved services\n  weaved services web\n  weaved services web --json")]
pub(super) struct Args {
    /// The instances of this service, with their checks
    #[arg(value_name = "NAME")]
    name: Option<String>,
    /// As JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args, paths: &Paths) -> Result<(), Failure> {
    match &args.name {
        None => {
            let services = client::services(paths)?;
            if args.json { output::say_json(&services) } else { output::say_table(overview(&services)) }
        }
        Some(name) => {
            let report = client::instances(paths, &Request::Instances { service: Some(name.clone()), after: None })?;
            if args.json { output::say_json(&report) } else { output::say_table(instances(&report.instances)) }
        }
    }
}

fn overview(services: &[ServiceReport]) -> Table {
    let mut table = Table::new(&["SERVICE", "INSTANCES", "PASSING", "NODES", "TAGS"]);
    for service in services {
        let list = |names: &std::collections::BTreeSet<String>| {
            let names: Vec<_> = names.iter().map(String::as_str).collect();
            or_dash(names.join(", "))
        };
        table.row([
            service.service.clone(),
            service.instances.to_string(),
            service.passing.to_string(),
            list(&service.nodes),
            list(&service.tags),
        ]);
    }
    table
}

fn instances(instances: &[InstanceReport]) -> Table {
    let mut table = Table::new(&["NODE", "ADDRESS", "STATE", "WEIGHT", "TAGS", "FROM", "ID", "CHECKS"]);
    for instance in instances {
        let checks = instance.checks.iter().map(check).collect::<Vec<_>>().join("; ");
        table.row([
            instance.node.clone(),
            place(instance),
            state(instance).into(),
            Weights::of_meta(&instance.meta).at(instance.health).to_string(),
            or_dash(instance.tags.join(", ")),
            source(&instance.source),
            instance.id.clone(),
            or_dash(checks),
        ]);
    }
    table.without_usual("WEIGHT", "1")
}

/// Where an instance answers, in one word.
pub(super) fn place(instance: &InstanceReport) -> String {
    match (instance.address, instance.port) {
        (None, _) => "-".into(),
        (Some(address), 0) => address.to_string(),
        (Some(address), port) => std::net::SocketAddr::new(address, port).to_string(),
    }
}

/// How an instance is, and whose fault that is.
pub(super) fn state(instance: &InstanceReport) -> &'static str {
    match (instance.node_state, instance.drain, instance.health) {
        (MemberState::Down, ..) => "host down",
        (MemberState::Away, ..) => "host away",
        (_, Drain::Draining, _) => "draining",
        _ if instance.checks.iter().any(|check| check.kind == MAINTENANCE_KIND) => "maintenance",
        (_, _, Health::Passing) => "passing",
        (_, _, Health::Warning) => "warning",
        (_, _, Health::Critical) => "critical",
    }
}

fn source(source: &Source) -> String {
    match source {
        Source::Docker(id) => format!("container {}", id.chars().take(12).collect::<String>()),
        Source::File(name) => name.clone(),
        Source::Api => "API".into(),
    }
}

fn check(check: &Check) -> String {
    let health = match check.health {
        Health::Passing => "passing",
        Health::Warning => "warning",
        Health::Critical => "critical",
    };
    let output = check.output.lines().next().unwrap_or_default().trim();
    let said = if output.is_empty() { String::new() } else { format!(" ({output})") };
    format!("{} {health}{said}", check.kind)
}

fn or_dash(text: String) -> String {
    if text.is_empty() { "-".into() } else { text }
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::catalogue::CheckId;

    pub(in crate::cli) fn report(id: &str, health: Health) -> InstanceReport {
        InstanceReport {
            service: "web".into(),
            id: id.into(),
            node: "alpha".into(),
            node_state: MemberState::Up,
            address: Some("10.32.0.2".parse().unwrap()),
            port: 80,
            health,
            drain: Drain::Serving,
            passing: health == Health::Passing,
            tags: vec!["blue".into()],
            meta: BTreeMap::new(),
            source: Source::Docker("0123456789abcdef".into()),
            checks: vec![Check {
                id: CheckId("c".into()),
                name: "answers".into(),
                kind: "http".into(),
                health,
                output: "HTTP 503\nsorry".into(),
            }],
        }
    }

    #[test]
    fn an_instance_is_one_line_that_says_why() {
        let text = instances(&[report("a:web:80", Health::Critical)]).to_string();
        let line = text.lines().nth(1).unwrap();
        for part in ["alpha", "10.32.0.2:80", "critical", "blue", "container 0123456789ab ", "http critical (HTTP 503)"]
        {
            assert!(line.contains(part), "{part}: {line}");
        }
    }

    #[test]
    fn weights_are_shown_where_one_is_not_the_usual() {
        let plain = report("a:web:80", Health::Passing);
        assert!(!instances(std::slice::from_ref(&plain)).to_string().contains("WEIGHT"));
        let mut heavy = report("b:web:80", Health::Passing);
        Weights { passing: 10, warning: 2 }.put(&mut heavy.meta);
        let warned = InstanceReport { health: Health::Warning, ..heavy.clone() };
        let text = instances(&[plain, heavy, warned]).to_string();
        let column: Vec<_> = text.lines().map(|line| line.split_whitespace().nth(3).unwrap()).collect();
        assert_eq!(column, ["WEIGHT", "1", "10", "2"]);
    }

    #[test]
    fn somebodys_work_is_named_as_the_reason() {
        let mut instance = report("a", Health::Critical);
        assert_eq!(state(&instance), "critical");
        instance.checks[0].kind = MAINTENANCE_KIND.into();
        assert_eq!(state(&instance), "maintenance");
    }

    #[test]
    fn a_dead_host_is_named_as_the_reason() {
        let instance = InstanceReport { node_state: MemberState::Down, ..report("a", Health::Critical) };
        assert_eq!(state(&instance), "host down");
    }
}

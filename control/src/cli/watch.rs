//! `weaved watch`: tells what changes, until it is interrupted or its reader goes away.

use std::{
    collections::BTreeMap,
    io::{self, Write},
};

use clap::ValueEnum;
use serde::Serialize;

use super::{
    follow::until_answered,
    output,
    services::{place, state},
};
use crate::{
    catalogue::Index,
    failure::Failure,
    paths::Paths,
    serve::{client, protocol::Request, services::InstanceReport},
};

/// Tell what changes, until interrupted
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  weaved watch services\n  weaved watch services --json")]
pub(super) struct Args {
    /// What to watch
    #[arg(value_enum)]
    subject: Subject,
    /// As JSON, one object a line
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Subject {
    /// Instances that come, change and go
    Services,
}

/// What tells one instance from another.
type Key = (String, String, String);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Change {
    Added,
    Changed,
    Removed,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct Line<'a> {
    index: Index,
    change: Change,
    #[serde(flatten)]
    instance: &'a InstanceReport,
}

pub(super) fn run(args: &Args, paths: &Paths) -> Result<(), Failure> {
    let Subject::Services = args.subject;
    let ask = |after| client::instances(paths, &Request::Instances { service: None, after });
    let mut report = ask(None)?;
    let mut known = BTreeMap::new();
    loop {
        let instances: BTreeMap<Key, InstanceReport> =
            report.instances.into_iter().map(|instance| (key(&instance), instance)).collect();
        for line in difference(&known, &instances, report.index) {
            let printed = print(&line, args.json);
            if printed.is_err() {
                return output::written(printed);
            }
        }
        known = instances;
        report = until_answered(|| ask(Some(report.index)));
    }
}

/// First what is gone, so that who follows has never too many.
fn difference<'a>(
    before: &'a BTreeMap<Key, InstanceReport>,
    after: &'a BTreeMap<Key, InstanceReport>,
    index: Index,
) -> Vec<Line<'a>> {
    let gone = before.iter().filter(|(key, _)| !after.contains_key(*key));
    let gone = gone.map(|(_, instance)| Line { index, change: Change::Removed, instance });
    let come = after.iter().filter_map(|(key, instance)| match before.get(key) {
        None => Some(Line { index, change: Change::Added, instance }),
        Some(before) if before != instance => Some(Line { index, change: Change::Changed, instance }),
        Some(_) => None,
    });
    gone.chain(come).collect()
}

fn print(line: &Line<'_>, json: bool) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if json {
        serde_json::to_writer(&mut out, line)?;
        writeln!(out)?;
    } else {
        writeln!(out, "{}", sentence(line))?;
    }
    out.flush()
}

fn sentence(line: &Line<'_>) -> String {
    let instance = line.instance;
    let sign = match line.change {
        Change::Added => '+',
        Change::Changed => '~',
        Change::Removed => '-',
    };
    let text = format!(
        "{sign} {} {} on {}: {} ({})",
        instance.service,
        place(instance),
        instance.node,
        state(instance),
        instance.id
    );
    // Names come from other hosts: they must not move the cursor.
    if text.chars().any(char::is_control) { text.escape_debug().to_string() } else { text }
}

fn key(instance: &InstanceReport) -> Key {
    (instance.service.clone(), instance.node.clone(), instance.id.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{catalogue::Health, cli::services::tests::report};

    fn listed(instances: &[InstanceReport]) -> BTreeMap<Key, InstanceReport> {
        instances.iter().map(|instance| (key(instance), instance.clone())).collect()
    }

    #[test]
    fn what_came_changed_and_went_is_told_and_the_rest_is_not() {
        let before = ["stays", "falls ill", "goes"].map(|id| report(id, Health::Passing));
        let after =
            [report("stays", Health::Passing), report("falls ill", Health::Critical), report("comes", Health::Passing)];
        let (before, after) = (listed(&before), listed(&after));
        let lines = difference(&before, &after, Index(7));
        let told: Vec<_> = lines.iter().map(|line| (line.change, line.instance.id.as_str())).collect();
        assert_eq!(told, [(Change::Removed, "goes"), (Change::Added, "comes"), (Change::Changed, "falls ill")]);
        assert_eq!(sentence(&lines[2]), "~ web 10.32.0.2:80 on alpha: critical (falls ill)");
    }
}

//! `weaved history`: who switched a service, when, from what to what, why, and how it went.

use super::output::{self, Table};
use crate::{
    failure::Failure,
    paths::Paths,
    serve::{
        client,
        protocol::{Reply, Request},
    },
    switch::{HistoryEntry, Record, describe, millis, utc},
};

/// Show what is live of a service and the latest switches
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  weaved history web\n  weaved history web --json")]
pub(super) struct Args {
    /// The service
    service: String,
    /// As JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args, paths: &Paths) -> Result<(), Failure> {
    let record = match client::call(paths, &Request::SwitchRecord { service: args.service.clone() })? {
        Reply::SwitchRecord(record) => record,
        Reply::Refused { reason } => return Err(Failure::refused(reason)),
        _ => return Err(client::other_version()),
    };
    if args.json {
        return output::say_json(&record);
    }
    output::say(table(&record));
    for line in standing(&args.service, &record) {
        output::say(line);
    }
    Ok(())
}

fn table(record: &Record) -> Table {
    let mut table = Table::new(&["SWITCH", "WHEN", "FROM", "TO", "BY", "WITH", "ON", "WHY", "HOSTS", "SPREAD", "TOOK"]);
    for entry in &record.history {
        table.row(row(entry));
    }
    table
}

fn row(entry: &HistoryEntry) -> [String; 11] {
    let dash = || "-".to_owned();
    let figures = entry.figures.as_ref();
    [
        entry.revision.to_string(),
        utc(entry.at_us),
        describe(&entry.from),
        describe(&entry.to),
        entry.by.clone(),
        entry.source.clone(),
        entry.host.clone(),
        if entry.reason.is_empty() { dash() } else { entry.reason.clone() },
        figures.map_or_else(dash, |figures| figures.hosts.to_string()),
        figures.filter(|figures| figures.hosts > 0).map_or_else(dash, |figures| millis(figures.spread_us)),
        figures.map_or_else(dash, |figures| millis(figures.duration_us)),
    ]
}

/// What holds now, and what is under way.
fn standing(service: &str, record: &Record) -> Vec<String> {
    let mut lines =
        vec![format!("live: {} (key {}, colours by {})", describe(&record.live), record.key, record.colours)];
    if let Some(pending) = &record.pending {
        let since = utc(pending.began_us);
        let (to, by, host) = (describe(&pending.to), &pending.by, &pending.host);
        lines.push(format!("being switched to {to} by {by} on {host}, since {since}"));
    }
    if let Some(canary) = &record.canary {
        let state = match &canary.held {
            _ if canary.paused => "paused".to_owned(),
            Some(reason) => format!("its next step waits: {reason}"),
            None => "goes on by itself".to_owned(),
        };
        lines.push(format!(
            "a canary is out, {}, {state}; `weaved switch {service} --abort` ends it",
            canary.step_in_words()
        ));
    }
    if let Some(watch) = &record.watch {
        lines.push(format!("{} is watched; it goes back to {} if it does worse", watch.colour, watch.back_to));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::switch::{Canary, CanaryPlan, Figures};

    #[test]
    fn a_switch_is_one_line_that_says_who_when_why_and_how_it_went() {
        let share = |colour: &str| weaved_api::balancer::ColourShare { colour: colour.into(), weight: 100 };
        let entry = HistoryEntry {
            revision: 7,
            from: vec![share("blue")],
            to: vec![share("green")],
            by: "ada".into(),
            source: "PUT from 10.0.0.3, curl/7.88.1".into(),
            host: "alpha".into(),
            at_us: 1_000_000_000_000_000,
            reason: String::new(),
            attempt: 1,
            figures: Some(Figures { hosts: 3, spread_us: 1_240, duration_us: 312_000, missing: vec![] }),
        };
        let record = Record { live: entry.to.clone(), history: vec![entry], ..Record::new("web") };
        let text = table(&record).to_string();
        for part in ["2001-09-09 01:46:40 UTC", "blue", "green", "ada", "curl/7.88.1", "alpha", "1.2 ms", "312.0 ms"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert_eq!(standing("web", &record), ["live: green (key backend/web, colours by tag)"]);
    }

    #[test]
    fn a_canary_is_shown_with_what_its_next_step_waits_for() {
        let plan = CanaryPlan { steps: vec![10, 50], step_ms: 1000, paused: false };
        let shown = |paused, held: Option<&str>| {
            let canary = Canary { paused, held: held.map(Into::into), ..plan.begin("blue", "green") };
            standing("web", &Record { canary: Some(canary), ..Record::new("web") }).remove(1)
        };
        assert!(shown(false, None).contains("step 1 of 2, goes on by itself;"));
        assert!(shown(false, Some("nobody is there")).contains("step 1 of 2, its next step waits: nobody is there;"));
        assert!(shown(true, Some("nobody is there")).contains("step 1 of 2, paused;"));
    }
}

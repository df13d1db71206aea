//! `weaved switch`: one word, and the whole cluster serves another version.

use std::io::IsTerminal as _;

use super::output;
use crate::{
    failure::Failure,
    paths::Paths,
    serve::{
        client,
        protocol::{Reply, Request},
    },
    switch::{
        CanaryPlan, Care, ColourRule, DrainOrder, Limits, Order, Outcome, Phase, Progress, StreamLimit, WatchOrder,
        What, millis,
    },
};

/// How long a colour is watched, unless told.
const USUAL_WATCH: &str = "60s";

/// Switch a service to another colour, on all hosts at once
///
/// A colour is a tag of the service's instances (or what --by says). Every live balancer connects to the new colour first;
/// when all are ready a majority of the hosts decides, and all go over at one moment. Before that nothing has changed.
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own on the command line")]
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  weaved switch web green\n  weaved switch web green --min-healthy 3 --drain 1m\n  \
                  weaved switch web green --canary 1,10,50 --step 5m --rollback-on errors=5%,p99=2x\n  weaved switch web \
                  --abort\n  weaved rollback web"
)]
pub(super) struct Args {
    /// The service
    service: String,
    /// The colour that is to be live
    #[arg(required_unless_present_any = ["pause", "resume", "abort"], conflicts_with_all = ["resume", "abort"])]
    colour: Option<String>,
    /// Instances of the colour that must take traffic, seen from every balancer
    #[arg(long, value_name = "N", default_value_t = 1)]
    min_healthy: u32,
    /// How long requests of the old colour may wait for answers [default: as before, 30s at first]
    #[arg(long, value_name = "TIME")]
    drain: Option<String>,
    /// How long upgraded connections, TCP streams and answers that flow may go on [default: as before, never cut at first]
    #[arg(long, value_name = "TIME|never")]
    stream_drain: Option<String>,
    /// How long balancers may take to get ready
    #[arg(long, value_name = "TIME", default_value = "10s")]
    timeout: String,
    /// Say what would happen, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Go over although balancers are not ready, or a canary is out
    #[arg(long, conflicts_with = "dry_run")]
    force: bool,
    /// Give the new colour these shares first, in percent
    #[arg(long, value_name = "N,N,…", value_delimiter = ',', requires = "colour", value_parser = percent)]
    canary: Vec<u32>,
    /// How long each step of the canary lasts
    #[arg(long, value_name = "TIME", default_value = "1m")]
    step: String,
    /// The canary goes no further by itself; with --canary from its first share on
    #[arg(long, conflicts_with_all = ["resume", "abort"])]
    pause: bool,
    /// The canary goes on
    #[arg(long, conflicts_with = "abort")]
    resume: bool,
    /// The canary ends: the old colour gets everything
    #[arg(long)]
    abort: bool,
    /// Go back by itself when the new colour does worse [default with --canary or --watch: errors=5%]
    #[arg(long, value_name = "errors=5%,p99=2x")]
    rollback_on: Option<String>,
    /// Fewer requests to the new colour than these are no reason to go back
    #[arg(long, value_name = "N", default_value_t = 100)]
    min_requests: u64,
    /// How long the new colour is watched after the switch [default: not at all; 60s with --canary or --rollback-on]
    #[arg(long, value_name = "TIME")]
    watch: Option<String>,
    /// The key that shows the live colour [default: as before, backend/SERVICE at first]
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// What a colour is: tag, compose-project or label:NAME [default: as before, tag at first]
    #[arg(long, value_name = "RULE")]
    by: Option<ColourRule>,
    /// As JSON, one object a line
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args, paths: &Paths) -> Result<(), Failure> {
    follow(order_of(args)?, args.json, paths)
}

fn order_of(args: &Args) -> Result<Order, Failure> {
    let what = match (&args.colour, args.pause, args.resume) {
        (Some(_), true, _) if args.canary.is_empty() => {
            return Err(Failure::usage("--pause goes with --canary, or without a colour"));
        }
        (Some(colour), ..) if args.canary.is_empty() => What::To(colour.clone()),
        (Some(colour), paused, _) => {
            let step_ms = time("--step", &args.step)?;
            What::Canary(colour.clone(), CanaryPlan { steps: args.canary.clone(), step_ms, paused })
        }
        (None, true, _) => What::Pause,
        (None, _, true) => What::Resume,
        (None, ..) => What::Abort,
    };
    if args.colour.is_none() && (args.rollback_on.is_some() || args.watch.is_some()) {
        return Err(Failure::usage(
            "--rollback-on and --watch go with a colour; a canary keeps to what it was begun with",
        ));
    }
    let care = match (args.dry_run, args.force) {
        (true, _) => Care::DryRun,
        (_, true) => Care::Forced,
        _ => Care::Careful,
    };
    Ok(Order {
        min_healthy: args.min_healthy,
        drain: drain(args)?,
        timeout_ms: time("--timeout", &args.timeout)?,
        care,
        key: args.key.clone(),
        colours: args.by.clone(),
        watch: watch(args)?,
        ..order(&args.service, what, "weaved switch")
    })
}

/// An order of the user who runs this.
pub(super) fn order(service: &str, what: What, source: &str) -> Order {
    Order::new(service, what, &user(), source)
}

/// Who runs this, also behind sudo.
pub(super) fn user() -> String {
    let named = ["SUDO_USER", "USER", "LOGNAME"].iter().find_map(|name| std::env::var(name).ok());
    named.filter(|name| !name.is_empty()).unwrap_or_else(|| format!("uid {}", rustix::process::getuid().as_raw()))
}

/// Orders, and shows the progress until the end.
pub(super) fn follow(order: Order, as_json: bool, paths: &Paths) -> Result<(), Failure> {
    let attempt = match client::call(paths, &Request::Switch { order: Box::new(order) })? {
        Reply::SwitchBegun(attempt) => attempt,
        Reply::Refused { reason } => return Err(Failure::refused(reason)),
        _ => return Err(client::other_version()),
    };
    let mut after = 0;
    loop {
        let report = match client::call(paths, &Request::SwitchProgress { attempt, after })? {
            Reply::SwitchProgress(report) => report,
            Reply::Refused { reason } => return Err(Failure::refused(reason)),
            _ => return Err(client::other_version()),
        };
        after += report.lines.len();
        for line in &report.lines {
            show(line, as_json)?;
        }
        if let Some(outcome) = report.outcome {
            return conclude(outcome, as_json);
        }
    }
}

fn show(line: &Progress, as_json: bool) -> Result<(), Failure> {
    if as_json {
        return say_json_line(line);
    }
    let phase = match line.phase {
        Phase::Prepare => "prepare",
        Phase::Commit => "commit",
        Phase::Verify => "verify",
        Phase::Drain => "drain",
    };
    let host = line.host.as_deref().map(|host| format!("{host}: ")).unwrap_or_default();
    let text = format!("{:>6} ms  {phase:<8} {host}{}", line.at_ms, line.text);
    // Names come from other hosts: they must not move the cursor.
    let text = if text.chars().any(char::is_control) { text.escape_debug().to_string() } else { text };
    let dim = if std::io::stdout().is_terminal() { ("\x1b[2m", "\x1b[0m") } else { ("", "") };
    output::say(format!("{}{text}{}", dim.0, dim.1));
    Ok(())
}

fn conclude(outcome: Outcome, as_json: bool) -> Result<(), Failure> {
    if let Outcome::Refused(refusal) = outcome {
        return Err(Failure::refused(refusal));
    }
    if as_json {
        return say_json_line(&outcome);
    }
    match outcome {
        Outcome::Switched { revision, from, to, figures } => {
            let spread = match figures.hosts {
                0 => String::new(),
                hosts => format!(" on {hosts} hosts within {}", millis(figures.spread_us)),
            };
            let took = millis(figures.duration_us);
            output::say(format!("switch {revision}: {from} → {to}{spread}, {took} after the order"));
            for host in &figures.missing {
                output::complain(format!("{host} did not say in time that it has switched"));
            }
        }
        Outcome::Nothing(words) => output::say(words),
        Outcome::OtherIndex => output::say("the key is at another index; nothing was switched"),
        Outcome::Refused(_) => {}
    }
    Ok(())
}

fn say_json_line(value: &impl serde::Serialize) -> Result<(), Failure> {
    let line = serde_json::to_string(value);
    output::say(line.map_err(|error| Failure::refused(format!("cannot print as JSON: {error}")))?);
    Ok(())
}

fn drain(args: &Args) -> Result<Option<DrainOrder>, Failure> {
    let requests_ms = args.drain.as_deref().map(|text| time("--drain", text)).transpose()?;
    let streams = match args.stream_drain.as_deref() {
        None => None,
        Some("never") => Some(StreamLimit::Never),
        Some(text) => Some(StreamLimit::AfterMs(time("--stream-drain", text)?)),
    };
    let said = DrainOrder { requests_ms, streams };
    Ok((said != DrainOrder::default()).then_some(said))
}

fn watch(args: &Args) -> Result<Option<WatchOrder>, Failure> {
    if args.rollback_on.is_none() && args.watch.is_none() {
        return Ok(None);
    }
    let limits = match &args.rollback_on {
        Some(text) => {
            Limits::parse(text, args.min_requests).map_err(|why| Failure::usage(format!("--rollback-on: {why}")))?
        }
        None => Limits { min_requests: args.min_requests, ..Limits::default() },
    };
    let length_ms = time("--watch", args.watch.as_deref().unwrap_or(USUAL_WATCH))?;
    Ok(Some(WatchOrder { limits, length_ms }))
}

fn percent(text: &str) -> Result<u32, &'static str> {
    text.parse().map_err(|_| "a share is a whole number of percent, such as 10; several have commas between them")
}

fn time(option: &str, text: &str) -> Result<u64, Failure> {
    Ok(super::time(option, text)?.as_millis() as u64)
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

    fn parsed(line: &str) -> Result<Order, Failure> {
        let line = Line::try_parse_from(line.split_whitespace().skip(1)).unwrap_or_else(|error| panic!("{error}"));
        order_of(&line.args)
    }

    #[test]
    fn of_the_drain_only_what_is_said_is_ordered() {
        let said = |options: &str| parsed(&format!("weaved switch web green {options}")).unwrap().drain;
        let drain = |requests_ms, streams| Some(DrainOrder { requests_ms, streams });
        assert_eq!(said(""), None);
        assert_eq!(said("--drain 1m"), drain(Some(60_000), None));
        assert_eq!(said("--stream-drain 5m"), drain(None, Some(StreamLimit::AfterMs(300_000))));
        assert_eq!(said("--drain 1m --stream-drain never"), drain(Some(60_000), Some(StreamLimit::Never)));
    }

    #[test]
    fn what_is_no_time_is_refused_by_the_option_that_has_it() {
        for option in ["--drain", "--stream-drain", "--timeout", "--watch", "--canary 10 --step"] {
            let refused = parsed(&format!("weaved switch web green {option} soon")).unwrap_err().to_string();
            let name = option.rsplit(' ').next().unwrap();
            assert_eq!(refused, format!("{name} soon: no time such as 10s or 1m30s"));
        }
    }

    #[test]
    fn a_share_that_is_none_is_refused_with_what_one_is() {
        for shares in ["ten", "10%", "1,,5", "1,-5"] {
            let words = ["switch", "web", "green", "--canary", shares];
            let refused = Line::try_parse_from(words).err().expect("it is wrong").to_string();
            assert!(refused.contains("a whole number of percent, such as 10"), "{shares}: {refused}");
        }
    }

    #[test]
    fn a_pause_beside_a_colour_is_one_of_its_canary() {
        assert!(parsed("weaved switch web green --pause").unwrap_err().to_string().contains("--canary"));
        assert_eq!(parsed("weaved switch web --pause").unwrap().what, What::Pause);
    }

    #[test]
    fn a_watch_beside_what_becomes_of_a_canary_is_refused_and_not_dropped() {
        for verb in ["--pause", "--resume", "--abort"] {
            for watch in ["--rollback-on errors=1%", "--watch 5m"] {
                let refused = parsed(&format!("weaved switch web {verb} {watch}")).unwrap_err().to_string();
                assert!(refused.contains("--rollback-on and --watch go with a colour"), "{verb} {watch}: {refused}");
            }
        }
        assert!(parsed("weaved switch web green --canary 10 --pause --watch 5m").unwrap().watch.is_some());
    }

    #[test]
    fn the_way_to_steady_weights_that_the_documentation_shows_is_understood() {
        let page = include_str!("../../../docs/switch.md");
        let command = page.split('`').find(|text| text.starts_with("weaved switch web green --canary 10 --pause"));
        let order = parsed(command.expect("docs/switch.md shows it")).unwrap();
        let plan = CanaryPlan { steps: vec![10], step_ms: 60_000, paused: true };
        assert_eq!((order.problem(), order.what), (None, What::Canary("green".into(), plan)));
    }
}

//! `weaved upgrade`: every part runs the executable that lies there now.
//!
//! The supervisor executes it in its own place; then it replaces the parts, each in the way that costs its clients least.

use std::{
    path::Path,
    thread,
    time::{Duration, Instant},
};

use super::output::{self, Spinner};
use crate::{
    failure::Failure,
    host::process::{self, Process},
    lifecycle::{self, VerbLock},
    paths::{Part, Paths},
    serve::client,
    supervisor,
};

/// Longer than the slowest part takes: the gateway, when it has to hear of control first.
const DEADLINE: Duration = Duration::from_secs(60);
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Go over to the executable that was put in place of the running one, without losing a connection
///
/// Put the new one there by `mv` or `install`, as package managers do, then run this. The balancer's clients notice nothing, frames are sent again
/// that meet the restart of the data plane, and control and its HTTP API are away for a moment.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  install weaved.new /usr/local/bin/weaved && weaved upgrade")]
pub(super) struct Args {}

pub(super) fn run(_args: &Args, paths: &Paths) -> Result<(), Failure> {
    let not_running = || Failure::unreachable("weaved is not running here; start it with `weaved launch`");
    if !paths.run_dir.exists() {
        return Err(not_running());
    }
    let _lock = VerbLock::take(paths)?;
    let Some(running) = Process::find(paths, Part::Supervisor) else {
        let is_left = Part::STOP_ORDER.iter().any(|part| Process::find(paths, *part).is_some());
        return Err(if is_left { Failure::refused(lifecycle::UNSUPERVISED) } else { not_running() });
    };
    is_same_file(&running)?;
    if old_part(paths).is_none() {
        output::say("every part runs this executable already");
        return Ok(());
    }
    running.signal(supervisor::UPGRADE);
    wait(paths)?;
    output::say(format!("weaved is upgraded: every part runs version {}", env!("CARGO_PKG_VERSION")));
    Ok(())
}

/// What the supervisor will execute has to be what asks for it: it has shown that it runs on this machine.
fn is_same_file(running: &Process) -> Result<(), Failure> {
    let unknown = |error| Failure::refused(format!("cannot see which executable runs: {error}"));
    let (theirs, ours) = (running.executable().map_err(unknown)?, process::own_executable().map_err(unknown)?);
    if theirs == ours {
        return Ok(());
    }
    let show = Path::display;
    Err(Failure::refused(format!(
        "weaved runs from {}, this is {}; put the new executable there, then run `{} upgrade`",
        show(&theirs),
        show(&ours),
        show(&theirs)
    )))
}

/// A part that does not run our executable, or does not run.
fn old_part(paths: &Paths) -> Option<Part> {
    let is_new = |part| Process::find(paths, part).is_some_and(|process| process.runs_our_executable());
    Part::STOP_ORDER.into_iter().find(|part| !is_new(*part))
}

fn wait(paths: &Paths) -> Result<(), Failure> {
    let deadline = Instant::now() + DEADLINE;
    let mut spinner = Spinner::new("going over");
    loop {
        let old = old_part(paths);
        if old.is_none() && client::status(paths).is_ok_and(|report| report.is_up() && report.gateway.connected) {
            return Ok(());
        }
        if Instant::now() >= deadline {
            let what = old.map_or_else(
                || "not everything is up".into(),
                |part| format!("the {} does not run the new executable", part.name()),
            );
            let (patience, log) = (DEADLINE.as_secs(), paths.log());
            return Err(Failure::refused(format!("after {patience} s {what}; the log is {}", log.display())));
        }
        spinner.tick();
        thread::sleep(POLL_INTERVAL);
    }
}

//! `weaved connect`: more peers while running.

use std::{
    thread,
    time::{Duration, Instant},
};

use weaved_api::TargetFailure;

use super::output::{self, Spinner};
use crate::{
    failure::Failure,
    paths::Paths,
    serve::{
        client,
        protocol::{ConnectMode, Request},
        report::{StatusReport, TargetReport, TargetState, explain},
    },
    targets::Target,
};

const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Connect to other hosts, and remember them
///
/// One host of a cluster is enough: the others are found by themselves. A host that does not answer in time is told and is no
/// failure: it is tried again until `weaved forget`. One that refuses is: exit code 1.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  weaved connect hostB 192.0.2.7:7000")]
pub(super) struct Args {
    /// Hosts, by name or address, with :PORT where it is not 6783
    #[arg(required = true, value_name = "PEER")]
    peers: Vec<Target>,
    /// Forget all other targets
    #[arg(long)]
    replace: bool,
    /// How many seconds to wait for an answer
    #[arg(long, default_value_t = 5, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(..=3600))]
    wait: u64,
}

pub(super) fn run(args: &Args, paths: &Paths) -> Result<(), Failure> {
    client::status(paths)?;
    for peer in &args.peers {
        peer.resolve().map_err(|error| {
            Failure::refused(format!(
                "no such host: {peer} ({error}); give its address, or put its name into DNS or /etc/hosts; nothing was \
                 changed"
            ))
        })?;
    }
    let mode = if args.replace { ConnectMode::Replace } else { ConnectMode::Add };
    let targets: Vec<String> = args.peers.iter().map(ToString::to_string).collect();
    client::request(paths, &Request::Connect { targets: targets.clone(), mode })?;
    tell(&wait(paths, &targets, Duration::from_secs(args.wait))?, &targets)
}

/// The newest report: when all targets are connected, or the patience has ended.
fn wait(paths: &Paths, targets: &[String], patience: Duration) -> Result<StatusReport, Failure> {
    let deadline = Instant::now() + patience;
    let mut spinner = Spinner::new("waiting for an answer");
    loop {
        let report = client::status(paths)?;
        let is_settled = |target: &TargetReport| match target.state {
            TargetState::Connected(_) | TargetState::Failed(TargetFailure::Ourselves) => true,
            _ => target.hopeless().is_some(),
        };
        let mut asked = report.targets.iter().filter(|target| targets.contains(&target.target));
        if asked.all(is_settled) || Instant::now() >= deadline {
            return Ok(report);
        }
        spinner.tick();
        thread::sleep(POLL_INTERVAL);
    }
}

fn tell(report: &StatusReport, targets: &[String]) -> Result<(), Failure> {
    let mut refusals = Vec::new();
    for target in report.targets.iter().filter(|target| targets.contains(&target.target)) {
        let name = &target.target;
        match &target.state {
            TargetState::Connected(id) => {
                let member = report.cluster.members.iter().find(|member| member.id == *id);
                let called = member.map(|member| member.name.as_str()).filter(|name| !name.is_empty());
                output::say(format!("connected to {name} ({}, {})", called.unwrap_or("unnamed"), id.short()));
            }
            TargetState::Failed(TargetFailure::Ourselves) => output::say(format!("{name} is this host itself")),
            _ => match target.hopeless() {
                Some(failure) => refusals
                    .push(format!("{name}: {}; it stays a target until `weaved forget {name}`", explain(failure))),
                None => output::complain(format!(
                    "{name} does not answer yet; it is tried again until `weaved forget {name}`: is weaved running there, \
                     and does UDP pass?"
                )),
            },
        }
    }
    fail_once(refusals, output::complain)
}

/// Each refusal has its line; the last one is the failure.
fn fail_once(mut refusals: Vec<String>, complain: impl FnMut(String)) -> Result<(), Failure> {
    let Some(last) = refusals.pop() else { return Ok(()) };
    refusals.into_iter().for_each(complain);
    Err(Failure::refused(last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_is_told_and_all_are_one_failure() {
        let mut told = Vec::new();
        let outcome = fail_once(["b: no", "c: no", "d: no"].map(String::from).to_vec(), |line| told.push(line));
        assert_eq!((told, outcome), (vec!["b: no".into(), "c: no".into()], Err(Failure::refused("d: no"))));
        assert_eq!(fail_once(Vec::new(), |_| unreachable!("nobody has refused")), Ok(()));
    }
}

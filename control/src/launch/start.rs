//! Starts the processes and waits until they are of use.

use std::{
    process::Child,
    thread,
    time::{Duration, Instant},
};

use weaved_api::TargetFailure;

use crate::{
    cli::output::Spinner,
    defaults,
    failure::Failure,
    host::process::Process,
    lifecycle, logging,
    paths::{Part, Paths},
    serve::{
        client,
        report::{StatusReport, TargetReport, TargetState, explain},
    },
};

const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// What is shown of a log whose end explains a failure.
const LOG_TAIL_BYTES: u64 = 4096;

/// Starts the supervisor and waits for the devices. On failure everything that was started has ended again.
pub fn start(paths: &Paths) -> Result<StatusReport, Failure> {
    if let Some(left) = Process::find(paths, Part::Control) {
        // Left by a supervisor that was killed. Its answers would be mistaken for those of the one that replaces it.
        left.end(defaults::STOP_DEADLINE);
    }
    let mut supervisor = lifecycle::start_supervisor(paths)?;
    wait_until_up(paths, &mut supervisor).inspect_err(|_| {
        lifecycle::stop(paths);
        drop(supervisor.wait());
    })
}

fn wait_until_up(paths: &Paths, supervisor: &mut Child) -> Result<StatusReport, Failure> {
    let deadline = Instant::now() + defaults::LAUNCH_DEADLINE;
    let mut spinner = Spinner::new("waiting for the network devices");
    let mut last = String::from("control does not answer");
    loop {
        if let Ok(Some(status)) = supervisor.try_wait() {
            return Err(Failure::refused(format!("the supervisor has ended ({status}); {}", last_words(paths))));
        }
        if let Ok(report) = client::status(paths) {
            if report.is_up() {
                return Ok(report);
            }
            if report.dataplane.applied.is_some() && !report.dataplane.problems.is_empty() {
                return Err(Failure::refused(report.dataplane.problems.join("; ")));
            }
            last = what_is_missing(&report.dataplane.problems, &report.problems);
        }
        if Instant::now() >= deadline {
            let patience = defaults::LAUNCH_DEADLINE.as_secs();
            return Err(Failure::refused(format!("not up after {patience} s: {last}; {}", last_words(paths))));
        }
        spinner.tick();
        thread::sleep(POLL_INTERVAL);
    }
}

/// Why a host that answers is not up yet, in words.
fn what_is_missing(of_dataplane: &[String], all: &[String]) -> String {
    let told = [of_dataplane, all].into_iter().find(|problems| !problems.is_empty());
    told.map_or_else(|| "the network devices are not as they should be".into(), |problems| problems.join("; "))
}

/// Waits a while for this host's part of the address range. The newest report, with or without it.
pub fn wait_for_slice(paths: &Paths, mut report: StatusReport) -> Result<StatusReport, Failure> {
    let deadline = Instant::now() + defaults::SLICE_PATIENCE;
    let mut spinner = Spinner::new("joining the cluster");
    while !(report.has_slice() && report.is_up()) && Instant::now() < deadline {
        if let Some(failure) = hopeless(&report.targets) {
            return Err(failure);
        }
        spinner.tick();
        thread::sleep(POLL_INTERVAL);
        report = client::status(paths)?;
    }
    Ok(report)
}

/// Why this host will not join: no target is left that may help. A list of peers may name this host, too.
fn hopeless(targets: &[TargetReport]) -> Option<Failure> {
    let is_ourselves = |target: &&TargetReport| target.state == TargetState::Failed(TargetFailure::Ourselves);
    let mut others = targets.iter().filter(|target| !is_ourselves(target)).peekable();
    let first = *others.peek()?;
    let failure = first.hopeless()?;
    let advice = match failure {
        // Only with another secret there is nothing here to lose.
        TargetFailure::OtherSecret => "; to join with that secret: `weaved reset`, then launch again",
        _ => "; it is tried again, see `weaved status`",
    };
    others.all(|target| target.hopeless().is_some()).then(|| {
        Failure::refused(format!("weaved runs, but could not join {}: {}{advice}", first.target, explain(failure)))
    })
}

/// The last line of the log that tells of an error, and where to read more.
fn last_words(paths: &Paths) -> String {
    let path = paths.log();
    let tail = || {
        let tail = logging::tail(&path, LOG_TAIL_BYTES).ok()?;
        let is_error =
            |line: &&str| line.starts_with("weaved: ") || line.contains("ERROR") || line.contains("panicked");
        let line =
            tail.lines().rev().find(|line| line.starts_with("weaved: ")).or(tail.lines().rev().find(is_error))?;
        Some(format!("last error: {}; ", line.trim_start_matches("weaved: ")))
    };
    format!("{}the log is {}", tail().unwrap_or_default(), path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(name: &str, state: TargetState) -> TargetReport {
        TargetReport { target: name.into(), addresses: Vec::new(), state }
    }

    fn failed(name: &str, failure: TargetFailure) -> TargetReport {
        target(name, TargetState::Failed(failure))
    }

    #[test]
    fn a_launch_that_takes_too_long_says_what_it_waited_for() {
        let (device, disk) = (["no TAP".to_owned()], ["the disk is full".to_owned()]);
        assert_eq!(what_is_missing(&device, &disk), "no TAP");
        assert_eq!(what_is_missing(&[], &disk), "the disk is full");
        assert!(!what_is_missing(&[], &[]).is_empty());
    }

    #[test]
    fn a_list_of_peers_may_name_this_host_and_others_that_do_not_help() {
        let (own, open) = (failed("a", TargetFailure::Ourselves), target("b", TargetState::Connecting));
        let secret = failed("c", TargetFailure::OtherSecret);
        assert_eq!(hopeless(&[]), None);
        assert_eq!(hopeless(std::slice::from_ref(&own)), None);
        assert_eq!(hopeless(&[own.clone(), failed("b", TargetFailure::NoAnswer)]), None);
        assert_eq!(hopeless(&[secret.clone(), open]), None);
        let refusal = hopeless(&[own.clone(), secret]).unwrap().to_string();
        assert!(refusal.contains("could not join c") && refusal.contains("weaved reset"), "{refusal}");
        let refusal = hopeless(&[failed("d", TargetFailure::OtherVersion), own]).unwrap().to_string();
        assert!(refusal.contains("could not join d") && !refusal.contains("reset"), "{refusal}");
    }
}

//! The soak works: a short one runs to its verdict and leaves nothing behind. `make soak` runs a long one.

use std::{process::Command, time::Duration};

use weaved_netns_tests::{Output, Process};

/// The soak ends by itself; this is for one that does not.
const DEADLINE: Duration = Duration::from_mins(4);
/// Who wants the machine alone waits for the others, and a program that has it may keep it for long: a longer soak, say.
const LAB_PATIENCE: Duration = Duration::from_hours(2);

fn command(words: &[&str]) -> Command {
    let mut command = Command::new(words[0]);
    command.args(&words[1..]);
    command
}

#[test]
fn a_short_soak_comes_to_a_good_verdict_and_leaves_nothing_behind() {
    let mut soak = Process::start(command(&[env!("CARGO_BIN_EXE_soak"), "12"]));
    let mine = format!("wv{}-", soak.pid());
    if std::env::var("WEAVED_NETNS").is_ok_and(|wish| wish == "skip") {
        soak.finish(DEADLINE).ok();
        return;
    }
    soak.wait_for_text("the lab is open", LAB_PATIENCE);
    let output = soak.finish(DEADLINE).ok();
    assert!(output.stdout.contains("verdict: good"), "{output}");
    let namespaces = Output::of(command(&["ip", "netns", "list"]));
    assert!(!namespaces.stdout.contains(&mine), "{namespaces}");
}

#[test]
fn a_soak_without_a_time_is_refused_with_the_usage() {
    let line = Output::of(command(&[env!("CARGO_BIN_EXE_soak")])).refused(2);
    assert!(line.starts_with("usage: soak SECONDS"), "{line}");
}

//! `weaved demo`, as the README has it: plays to the end, and leaves nothing behind.

use std::process::Command;

use weaved_netns_tests::{Lab, Output, weaved_path};

/// Names of all network namespaces, interfaces of this one, and the demo's directories.
fn traces() -> Vec<String> {
    let mut traces = Vec::new();
    for (dir, wanted) in [("/run/netns", "weaved-demo-"), ("/sys/class/net", ""), ("/tmp", "weaved-demo-")] {
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        let names = entries.map(|entry| entry.path().display().to_string());
        traces.extend(names.filter(|name| name.contains(wanted)));
    }
    traces.sort();
    traces
}

#[test]
fn the_demo_plays_to_the_end_and_leaves_nothing() {
    // It makes its own hosts; the lab is opened for its checks and because one test at a time is enough for two cores.
    let Some(_lab) = Lab::open("demo") else { return };
    let before = traces();
    let mut command = Command::new(weaved_path());
    command.arg("demo").env("TMPDIR", "/tmp");
    let output = Output::of(command).ok();
    for expected in ["hostA# weaved launch", "checksums agree", "kill -9 of control on hostB: 0 of", "taken away again"]
    {
        assert!(output.stdout.contains(expected), "{expected:?} is missing: {output}");
    }
    assert_eq!(traces(), before);
}

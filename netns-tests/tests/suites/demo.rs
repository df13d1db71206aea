//! `weaved demo`, as the README has it: plays to the end with Docker and without, and leaves nothing behind, however
//! it ends.

use std::{fs, os::unix::fs::PermissionsExt, path::Path, process::Command, time::Duration};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use weaved_netns_tests::{Lab, Output, Process, SOON, wait_for, weaved_path};

/// Longer than a demo takes on a busy machine.
const DEADLINE: Duration = Duration::from_mins(2);

/// What a demo could leave on the machine, or touch of a Docker that runs there.
fn traces() -> Vec<String> {
    let mut traces = Vec::new();
    let mut note = |dir: &Path, wanted: &str| {
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        let names = entries.map(|entry| entry.path().display().to_string());
        traces.extend(names.filter(|name| name.contains(wanted)));
    };
    for dir in ["/run/netns", "/tmp", "/sys/fs/cgroup"] {
        note(Path::new(dir), "weaved-demo-");
    }
    for dir in ["/sys/class/net", "/etc/docker", "/run/docker", "/run/containerd/s"] {
        note(Path::new(dir), "");
    }
    for controller in fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
        note(&controller.path(), "weaved-demo-");
    }
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    traces.extend(mounts.lines().filter(|line| line.contains("weaved-demo-")).map(str::to_owned));
    traces.extend(processes());
    traces.sort();
    traces
}

#[track_caller]
fn nothing_but(before: &[String]) {
    let now = traces();
    let missing_in = |there: &[String], here: &[String]| -> Vec<String> {
        here.iter().filter(|trace| !there.contains(trace)).cloned().collect()
    };
    let (left, gone) = (missing_in(before, &now), missing_in(&now, before));
    assert!(left.is_empty() && gone.is_empty(), "left: {left:#?}\ngone: {gone:#?}");
}

/// Command lines of the processes of demos, but not of containers.
fn processes() -> Vec<String> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten().map(|entry| entry.path());
    let demos = entries.filter(|path| {
        let environment = fs::read(path.join("environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|entry| entry.starts_with(b"WEAVED_DEMO_STAGE="))
    });
    demos.map(|path| fs::read_to_string(path.join("cmdline")).unwrap_or_default().replace('\0', " ")).collect()
}

/// The demo makes its own hosts. The lab is opened for its checks, and alone because what a demo leaves is looked for on the
/// whole machine.
fn demo(options: &[&str]) -> Command {
    let mut command = Command::new(weaved_path());
    command.arg("demo").args(options).env("TMPDIR", "/tmp");
    command
}

/// A search path on which only these programs are found, besides those in root's directories.
fn path_with(lab: &Lab, programs: &[&str]) -> String {
    let dir = lab.dir().join("path");
    let mut command = Command::new("sh");
    command
        .args(["-c", "mkdir $0 && for name; do ln -s $(command -v $name) $0/ || exit; done"])
        .arg(&dir)
        .args(programs);
    Output::of(command).ok();
    dir.display().to_string()
}

fn expect_in_order(output: &Output, expected: &[&str]) {
    let mut rest = output.stdout.as_str();
    for text in expected {
        let at = rest.find(text).unwrap_or_else(|| panic!("{text:?} is missing, or too early: {output}"));
        rest = &rest[at + text.len()..];
    }
}

fn play(command: Command) -> Output {
    Process::start(command).finish(DEADLINE).ok()
}

#[test]
fn with_docker_it_plays_to_the_end_and_leaves_nothing() {
    let Some(_lab) = Lab::open_alone("demo") else { return };
    let before = traces();
    let output = play(demo(&[]));
    let expected = [
        "each host has a dockerd of its own",
        "hostA# weaved launch",
        "hostB# dockerd $(weaved docker-config --flags)",
        "hostA# docker exec shell ping",
        "3 packets received",
        "hello from web on hostB",
        "hostA# weaved ps",
        "hostA# weaved status",
        "no problems",
        "checksums agree",
        "kill -9 of control on hostB: 0 of",
        "taken away again",
    ];
    expect_in_order(&output, &expected);
    nothing_but(&before);
}

#[test]
fn where_docker_is_missing_it_says_so_and_plays_with_namespaces() {
    let Some(lab) = Lab::open_alone("demo") else { return };
    let before = traces();
    let path = path_with(&lab, &["ip"]);
    let mut command = demo(&[]);
    command.env("PATH", &path);
    let output = play(command);
    let missing = "the program `docker` is missing (Debian package docker.io";
    let expected =
        [missing, "hostA# weaved launch", "checksums agree", "kill -9 of control on hostB: 0 of", "taken away again"];
    expect_in_order(&output, &expected);

    let mut command = demo(&["--with-docker"]);
    command.env("PATH", &path);
    let refused = Output::of(command).refused(1);
    assert!(refused.contains(missing), "{refused}");
    nothing_but(&before);
}

#[test]
fn a_docker_that_does_not_work_is_done_without_unless_it_is_required() {
    let Some(lab) = Lab::open_alone("demo") else { return };
    let before = traces();
    let path = path_with(&lab, &["ip", "docker", "busybox", "tar", "unshare", "mount", "sh", "containerd", "runc"]);
    let broken = Path::new(&path).join("dockerd");
    fs::write(&broken, "#!/bin/sh\necho no room for a whale >&2\nexit 1\n").unwrap();
    fs::set_permissions(&broken, PermissionsExt::from_mode(0o755)).unwrap();
    let demo = |options: &[&str]| {
        let mut command = demo(options);
        command.env("PATH", &path);
        command
    };
    let refused = Output::of(demo(&["--with-docker"])).refused(1);
    assert!(refused.contains("dockerd of hostA does not work: no room for a whale"), "{refused}");
    let output = play(demo(&[]));
    expect_in_order(&output, &["on without Docker, because dockerd of hostA", "checksums agree", "taken away again"]);
    nothing_but(&before);
}

#[test]
fn an_interrupted_demo_leaves_nothing() {
    let Some(_lab) = Lab::open_alone("demo") else { return };
    let before = traces();
    // In the midst of starting a dockerd, and while there are containers.
    for (moment, signal) in [("hostB# dockerd", Signal::SIGTERM), ("docker exec", Signal::SIGINT)] {
        let mut guard = Process::start(demo(&["--with-docker"]));
        guard.wait_for_text(moment, DEADLINE);
        kill(pid(&guard), signal).unwrap();
        let said = guard.finish(SOON).refused(1);
        assert!(said.contains("interrupted"), "{said}");
        nothing_but(&before);
    }
}

#[test]
fn a_demo_whose_player_is_killed_leaves_nothing_and_one_whose_guard_is_killed_is_cleared_by_the_next() {
    let Some(_lab) = Lab::open_alone("demo") else { return };
    let before = traces();
    let mut guard = Process::start(demo(&["--without-docker"]));
    guard.wait_for_text("without Docker, as asked", DEADLINE);
    kill(child_of(&guard), Signal::SIGKILL).unwrap();
    let said = guard.finish(SOON).refused(1);
    assert!(said.contains("interrupted"), "{said}");
    nothing_but(&before);

    let mut guard = Process::start(demo(&["--with-docker"]));
    guard.wait_for_text("docker exec", DEADLINE);
    guard.kill();
    assert_ne!(traces(), before);
    let mut next = Process::start(demo(&["--without-docker"]));
    next.wait_for_text("hostA# weaved launch", DEADLINE);
    kill(pid(&next), Signal::SIGHUP).unwrap();
    let said = next.finish(SOON).refused(1);
    assert!(said.contains("interrupted"), "{said}");
    nothing_but(&before);
}

fn pid(process: &Process) -> Pid {
    Pid::from_raw(process.pid().cast_signed())
}

/// The player of a guard.
fn child_of(guard: &Process) -> Pid {
    let children = format!("/proc/{0}/task/{0}/children", guard.pid());
    wait_for("the guard has a child", SOON, || {
        let children = fs::read_to_string(&children).ok()?;
        children.split_whitespace().next()?.parse().ok().map(Pid::from_raw)
    })
}

//! The program under test, on one host.
//!
//! Each host has its own state and run directory, named by environment variables as an operator may do it. The
//! executable is linked into the host's directory, so that a build that runs meanwhile does not change it.

use std::{
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use crate::{
    command::{Output, Process},
    namespace::Namespace,
    place::Place,
    requirements,
    wait::{SOON, wait_for, wait_until},
};

/// Flags for every `launch` of the tests, such as `--udp-gso=off`.
const LAUNCH_FLAGS: &str = "WEAVED_TEST_LAUNCH_FLAGS";
/// How much of the log a failure shows.
const LOG_TAIL_LINES: usize = 60;

/// One of the processes that `launch` starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Runs the others.
    Supervisor,
    /// Decides.
    Control,
    /// Moves frames.
    Dataplane,
    /// Answers names.
    Gateway,
}

impl Part {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Supervisor, Self::Control, Self::Dataplane, Self::Gateway];

    fn pid_file(self) -> &'static str {
        match self {
            Self::Supervisor => "supervisor.pid",
            Self::Control => "control.pid",
            Self::Dataplane => "dataplane.pid",
            Self::Gateway => "gateway.pid",
        }
    }
}

/// `weaved` on one host.
#[derive(Debug)]
pub struct Weaved {
    host: String,
    namespace: Namespace,
    dir: PathBuf,
    program: OnceLock<PathBuf>,
    docker_socket: OnceLock<PathBuf>,
}

impl Weaved {
    pub(crate) fn new(host: &str, namespace: &Namespace, dir: &Path) -> Self {
        let (host, namespace) = (host.to_owned(), namespace.clone());
        let (program, docker_socket) = (OnceLock::new(), OnceLock::new());
        Self { host, namespace, dir: dir.to_owned(), program, docker_socket }
    }

    /// Where it keeps what must survive.
    pub fn state_dir(&self) -> PathBuf {
        self.dir.join("state")
    }

    /// Where its sockets and pid files are.
    pub fn run_dir(&self) -> PathBuf {
        self.dir.join("run")
    }

    /// The executable. It lies where any user may read it.
    #[track_caller]
    pub fn program(&self) -> &Path {
        self.program.get_or_init(|| {
            let (built, linked) = (requirements::weaved_path(), self.dir.join("weaved"));
            let outcome = fs::hard_link(&built, &linked).or_else(|_| fs::copy(&built, &linked).map(|_| ()));
            outcome.unwrap_or_else(|error| panic!("cannot copy {}: {error}", built.display()));
            linked
        })
    }

    /// It is to find Docker there, from its launch on.
    #[track_caller]
    pub(crate) fn find_docker_at(&self, socket: &Path) {
        let set = self.docker_socket.set(socket.to_owned());
        assert!(set.is_ok(), "weaved of host {} was used before", self.host);
    }

    /// `weaved ARGS` on the host, not started yet. `before` runs in front of it, such as `["unshare", "-m"]`.
    #[track_caller]
    pub fn command(&self, before: &[&str], args: &[&str]) -> Command {
        let program = self.program().display().to_string();
        // The machine has one host name; what the program runs in has the host's.
        let named = ["unshare", "--uts", "sh", "-c", r#"hostname "$0" && exec "$@""#, &self.host];
        let mut command = self.namespace.command(&[&named, before, &[program.as_str()], args].concat());
        command.env("WEAVED_STATE_DIR", self.state_dir()).env("WEAVED_RUN_DIR", self.run_dir());
        let socket = self.docker_socket.get_or_init(|| self.dir.join("docker/docker.sock"));
        command.env("DOCKER_HOST", format!("unix://{}", socket.display()));
        command
    }

    /// Runs a verb to its end.
    #[track_caller]
    pub fn run(&self, args: &[&str]) -> Output {
        Output::of(self.command(&[], args))
    }

    /// Starts a verb.
    #[track_caller]
    pub fn spawn(&self, args: &[&str]) -> Process {
        Process::start(self.command(&[], args))
    }

    /// `weaved launch ARGS`, which must succeed. What the variable [`LAUNCH_FLAGS`] has is put in front, so that a whole
    /// suite runs with a switch in another position.
    #[track_caller]
    pub fn launch(&self, args: &[&str]) -> Output {
        let flags = std::env::var(LAUNCH_FLAGS).unwrap_or_default();
        let flags: Vec<&str> = flags.split_whitespace().collect();
        self.run(&[&["launch"], flags.as_slice(), args].concat()).ok()
    }

    /// Writes the join token of this host's cluster to a file and returns its path.
    #[track_caller]
    pub fn token_file(&self) -> String {
        let path = self.dir.join("token");
        let token = self.run(&["token"]).ok().stdout;
        fs::write(&path, token).unwrap_or_else(|error| panic!("cannot write {}: {error}", path.display()));
        path.display().to_string()
    }

    /// Launches a second host: `weaved launch --token-file FILE PEER`.
    #[track_caller]
    pub fn join(&self, first: &Self, peer: IpAddr) -> Output {
        self.launch(&["--token-file", &first.token_file(), &peer.to_string()])
    }

    /// What dockerd is to be started with.
    #[track_caller]
    pub fn docker_flags(&self) -> Vec<String> {
        let flags = self.run(&["docker-config", "--flags"]).ok().stdout;
        flags.split_whitespace().map(str::to_owned).collect()
    }

    /// `weaved status --json`; None while it does not answer.
    pub fn status(&self) -> Option<Value> {
        let output = self.run(&["status", "--json"]);
        if output.success() { serde_json::from_str(&output.stdout).ok() } else { None }
    }

    /// Process id of a part, from its pid file; None without a live one.
    pub fn pid(&self, part: Part) -> Option<i32> {
        let text = fs::read_to_string(self.run_dir().join(part.pid_file())).ok()?;
        let pid = text.split_whitespace().next()?.parse().ok()?;
        Path::new(&format!("/proc/{pid}")).exists().then_some(pid)
    }

    /// `kill -9` of one part; returns the process id that it had.
    #[track_caller]
    pub fn kill9(&self, part: Part) -> i32 {
        let pid = self.pid(part).unwrap_or_else(|| panic!("{part:?} of host {} does not run", self.host));
        kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap_or_else(|error| panic!("cannot kill {part:?}: {error}"));
        pid
    }

    /// Waits until a part runs that is not `old`.
    #[track_caller]
    pub fn wait_for_restart(&self, part: Part, old: i32) -> i32 {
        let what = format!("{part:?} of host {} is restarted", self.host);
        wait_for(&what, SOON, || self.pid(part).filter(|pid| *pid != old))
    }

    /// Puts a new executable in place of the running one, as a package manager does: the same program in another file.
    #[track_caller]
    pub fn replace_executable(&self) {
        let (program, new) = (self.program(), self.dir.join("weaved.new"));
        let replaced = fs::copy(program, &new).and_then(|_| fs::rename(&new, program));
        replaced.unwrap_or_else(|error| panic!("cannot replace {}: {error}", program.display()));
    }

    /// Gateways that have handed over and still carry something.
    pub fn retired_gateways(&self) -> usize {
        let entries = fs::read_dir(self.run_dir()).into_iter().flatten().flatten();
        entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("gateway-retired-")).count()
    }

    /// Waits until there is a session with each of so many peers.
    #[track_caller]
    pub fn wait_for_peers(&self, count: usize) {
        let what = format!("host {} is connected with {count} peers", self.host);
        wait_until(&what, SOON, || self.connected_peers().len() >= count);
    }

    /// The peers that there is a session with, as the data plane reports them.
    pub fn connected_peers(&self) -> Vec<Value> {
        let status = self.status().unwrap_or_default();
        let peers = status.pointer("/dataplane/stats/peers").and_then(Value::as_array).cloned().unwrap_or_default();
        peers.into_iter().filter(|peer| peer["link"] == "Connected").collect()
    }

    /// A counter of the data plane, by name; 0 while it does not answer. Panics if there is no such counter.
    #[track_caller]
    pub fn counter(&self, name: &str) -> u64 {
        let status = self.status().unwrap_or_default();
        let Some(counters) = status.pointer("/dataplane/stats/counters").and_then(Value::as_array) else { return 0 };
        let counter = counters.iter().find(|counter| counter["name"] == name);
        let counter = counter.unwrap_or_else(|| panic!("there is no counter {name}"));
        counter["value"].as_u64().unwrap_or(0)
    }

    /// What `status` says that somebody should look at.
    pub fn problems(&self) -> Vec<String> {
        let status = self.status().unwrap_or_default();
        let problems = status["problems"].as_array().cloned().unwrap_or_default();
        problems.iter().filter_map(Value::as_str).map(str::to_owned).collect()
    }

    /// Waits until `status` has nothing that somebody should look at.
    #[track_caller]
    pub fn wait_for_no_problem(&self) {
        let what = format!("host {} has nothing to complain about", self.host);
        wait_until(&what, SOON, || self.status().is_some() && self.problems().is_empty());
    }

    /// Waits until `status` mentions all of `words` in one problem.
    #[track_caller]
    pub fn wait_for_problem(&self, words: &[&str]) {
        let what = format!("host {} reports a problem with {words:?}", self.host);
        let mentions = |problem: &String| words.iter().all(|word| problem.contains(word));
        wait_until(&what, SOON, || self.problems().iter().any(mentions));
    }

    /// The part of the address range that is this host's and that the cluster agrees on, such as `10.32.5.0/24`.
    #[track_caller]
    pub fn slice(&self) -> String {
        let what = format!("host {} has a part of the address range", self.host);
        wait_for(&what, SOON, || {
            let status = self.status()?;
            let ipam = status.pointer("/cluster/ipam")?;
            let agreed = ipam.pointer("/state/state")? == "ready";
            ipam["slice"].as_str().filter(|_| agreed).map(str::to_owned)
        })
    }

    /// Process ids of this host's executable, whichever way they were started.
    #[track_caller]
    pub fn processes(&self) -> Vec<i32> {
        let program = self.program();
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        pids.filter(|pid| fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe == program)).collect()
    }

    /// An address for a guest: number `last` of this host's slice, with the prefix length of the whole range.
    #[track_caller]
    pub fn guest_address(&self, last: u8) -> String {
        let slice = self.slice();
        let network = slice.split('/').next().unwrap_or(&slice);
        let (network, _) = network.rsplit_once('.').unwrap_or_else(|| panic!("slice of host {}: {slice}", self.host));
        format!("{network}.{last}/12")
    }

    /// The log of its detached processes.
    pub fn log(&self) -> String {
        fs::read_to_string(self.state_dir().join("weaved.log")).unwrap_or_default()
    }

    pub(crate) fn describe(&self) -> String {
        if self.program.get().is_none() {
            return "--- weaved was not used".to_owned();
        }
        let pids = Part::ALL.map(|part| format!("{part:?} {:?}", self.pid(part))).join(", ");
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        let tail = lines[lines.len().saturating_sub(LOG_TAIL_LINES)..].join("\n");
        format!("--- weaved: {pids}\n{}\n--- end of weaved.log\n{tail}", self.run(&["status", "--json"]))
    }
}

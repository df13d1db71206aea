//! The two hosts: network namespaces with one link between them, and `weaved` in each.

use std::{
    fs,
    net::Ipv4Addr,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Signal, kill_process};

use super::{
    namespace::{self, Namespace},
    tool,
};
use crate::{
    cli::output::say,
    failure::Failure,
    host::process::Process,
    paths::{Part, Paths},
    serve::{client, report::StatusReport},
    state::token,
};

/// Documentation addresses (RFC 5737 §3): no real network has them.
const UNDERLAY: [Ipv4Addr; 2] = [Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 2)];
const READY_PATIENCE: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(50);

/// Both hosts.
pub(super) struct Stage {
    hosts: [Host; 2],
}

/// One host.
pub(super) struct Host {
    pub(super) name: &'static str,
    /// The name of the demo, with which the names of all that it makes begin.
    pub(super) demo: String,
    pub(super) namespace: Namespace,
    /// Its address on the link.
    pub(super) address: Ipv4Addr,
    directory: PathBuf,
    paths: Paths,
}

impl Stage {
    /// Two hosts with a link between them, in the directory of the demo.
    pub(super) fn build(directory: &Path) -> Result<Self, Failure> {
        let hosts = [Host::build("hostA", UNDERLAY[0], directory)?, Host::build("hostB", UNDERLAY[1], directory)?];
        let [a, b] = &hosts;
        let peer = ["type", "veth", "peer", "name", "underlay", "netns", b.namespace.name()];
        a.namespace.ip(&[&["link", "add", "underlay"], peer.as_slice()].concat())?;
        for host in &hosts {
            host.namespace.ip(&["addr", "add", &format!("{}/24", host.address), "dev", "underlay"])?;
            host.namespace.ip(&["link", "set", "underlay", "up"])?;
        }
        Ok(Self { hosts })
    }

    /// Both hosts.
    pub(super) fn hosts(&self) -> [&Host; 2] {
        self.hosts.each_ref()
    }

    /// Waits until what was killed is there again.
    pub(super) fn check_alive(&self) -> Result<(), Failure> {
        self.hosts.iter().try_for_each(Host::wait_until_ready)
    }
}

impl Host {
    fn build(name: &'static str, address: Ipv4Addr, stage: &Path) -> Result<Self, Failure> {
        let directory = stage.join(name);
        let made = fs::create_dir(&directory);
        made.map_err(|error| Failure::refused(format!("cannot make {}: {error}", directory.display())))?;
        let paths = Paths::new(&directory.join("state"), &directory.join("run"))?;
        let demo = stage.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let namespace = Namespace::create(&demo, &name.to_lowercase())?;
        Ok(Self { name, demo, namespace, address, directory, paths })
    }

    /// Runs a verb on this host and shows what it prints.
    pub(super) fn show(&self, arguments: &[&str]) -> Result<(), Failure> {
        self.type_in(&format!("weaved {}", arguments.join(" ")));
        show_output(&self.read(arguments)?);
        Ok(())
    }

    /// Runs a verb on this host and returns what it prints.
    pub(super) fn read(&self, arguments: &[&str]) -> Result<String, Failure> {
        let mut command = Command::new("/proc/self/exe");
        command.arg0("weaved").args(arguments).env("WEAVED_STATE_DIR", &self.paths.state_dir);
        command.env("WEAVED_RUN_DIR", &self.paths.run_dir).env("DOCKER_HOST", self.docker_host());
        // What the operator has set is meant for his own network.
        for variable in token::SECRET_VARIABLES {
            command.env_remove(variable);
        }
        let line = format!("weaved {}", arguments.join(" "));
        let done = self.enter(|| tool::finish(&line, &mut command))?;
        done.map_err(|failure| Failure::refused(format!("{}: {failure}", self.name)))
    }

    /// Shows a command as an operator types it.
    pub(super) fn type_in(&self, line: &str) {
        say(format!("\n{}# {line}", self.name));
    }

    /// The token of this host's cluster goes into a file of the other host, as an operator would carry it.
    pub(super) fn write_token(&self, other: &Self) -> Result<(), Failure> {
        self.type_in(&format!("weaved token > t      (t is carried over to {})", other.name));
        let token = self.read(&["token"])?;
        let path = other.token_file();
        let written = fs::write(&path, token);
        written.map_err(|error| Failure::refused(format!("cannot write {}: {error}", path.display())))
    }

    /// Where the token of another host is put.
    pub(super) fn token_file(&self) -> PathBuf {
        self.directory.join("t")
    }

    /// The directory of this host's Docker.
    pub(super) fn docker_directory(&self) -> PathBuf {
        self.directory.join("docker")
    }

    /// Where this host's Docker listens: the value of `DOCKER_HOST`.
    pub(super) fn docker_host(&self) -> String {
        format!("unix://{}", self.docker_directory().join("docker.sock").display())
    }

    /// What `status` would show.
    pub(super) fn report(&self) -> Result<StatusReport, Failure> {
        client::status(&self.paths)
    }

    /// Waits until the host has a slice and is connected to the other one.
    pub(super) fn wait_until_ready(&self) -> Result<(), Failure> {
        self.wait_until(|report| report.is_up() && report.has_slice() && connected(report))
    }

    /// Waits until `status` is as it should be.
    pub(super) fn wait_until(&self, condition: impl Fn(&StatusReport) -> bool) -> Result<(), Failure> {
        let deadline = Instant::now() + READY_PATIENCE;
        loop {
            match self.report() {
                Ok(report) if condition(&report) => return Ok(()),
                _ if Instant::now() < deadline => thread::sleep(POLL),
                Ok(report) => {
                    let problems = report.problems.join("; ");
                    return Err(Failure::refused(format!("{} is not ready: {problems}", self.name)));
                }
                Err(failure) => return Err(failure),
            }
        }
    }

    /// `kill -9`.
    pub(super) fn kill(&self, part: Part) {
        if let Some(process) = Process::find(&self.paths, part) {
            // A process that is gone already needs no killing.
            let _ = kill_process(process.pid(), Signal::KILL);
        }
    }

    /// Does `work` on a thread that is in this host.
    pub(super) fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, Failure> {
        namespace::enter(&self.namespace.path(), work)
    }
}

/// Shows what a command has printed.
pub(super) fn show_output(text: &str) {
    text.lines().for_each(|line| say(format!("  {line}").trim_end()));
}

fn connected(report: &StatusReport) -> bool {
    let stats = report.dataplane.stats.as_ref();
    stats.is_some_and(|stats| stats.peers.iter().any(|peer| peer.session.is_some()))
}

//! Hosts and containers made of network namespaces, with the program `ip`; taken away when dropped.

use std::{
    cell::Cell,
    fs::{self, File},
    io::{Read, Write},
    net::Ipv4Addr,
    os::fd::AsFd,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    process::{Pid, Signal, getpid, kill_process},
    thread::{LinkNameSpaceType, move_into_link_name_space},
};

use super::first_guest;
use crate::{
    cli::output::say,
    failure::Failure,
    host::process::Process,
    paths::{Part, Paths},
    serve::{client, report::StatusReport},
};

/// Documentation addresses (RFC 5737 §3): no real network has them.
const UNDERLAY: [Ipv4Addr; 2] = [Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 2)];
const READY_PATIENCE: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(50);

/// Everything the demo has made.
pub(super) struct Stage {
    hosts: [Host; 2],
    guest_count: Cell<u32>,
    _directory: Directory,
}

/// One host.
pub(super) struct Host {
    name: &'static str,
    namespace: Namespace,
    /// Its address on the link.
    pub(super) address: Ipv4Addr,
    paths: Paths,
    token_file: PathBuf,
}

/// One container.
pub(super) struct Guest {
    namespace: Namespace,
    /// Its address on the overlay.
    pub(super) address: Ipv4Addr,
}

impl Stage {
    /// Two hosts with a link between them.
    pub(super) fn build() -> Result<Self, Failure> {
        if !rustix::process::geteuid().is_root() {
            return Err(Failure::refused("the demo makes network namespaces and needs root: try again with sudo"));
        }
        let directory = Directory::create()?;
        let hosts = [Host::build("hostA", UNDERLAY[0], &directory)?, Host::build("hostB", UNDERLAY[1], &directory)?];
        let [a, b] = hosts.each_ref().map(|host| host.namespace.name.as_str());
        ip(&["-n", a, "link", "add", "underlay", "type", "veth", "peer", "name", "underlay", "netns", b])?;
        for host in &hosts {
            let address = format!("{}/24", host.address);
            ip(&["-n", &host.namespace.name, "addr", "add", &address, "dev", "underlay"])?;
            ip(&["-n", &host.namespace.name, "link", "set", "underlay", "up"])?;
        }
        Ok(Self { hosts, guest_count: Cell::new(0), _directory: directory })
    }

    /// Both hosts.
    pub(super) fn hosts(&self) -> [&Host; 2] {
        self.hosts.each_ref()
    }

    /// A container on a host: a namespace with a veth in the host's bridge and the first address of its slice.
    pub(super) fn guest(&self, host: &Host, name: &str) -> Result<Guest, Failure> {
        let report = host.report()?;
        let slice = report.cluster.ipam.slice.ok_or_else(|| Failure::refused("the host has no address range"))?;
        let address = first_guest(slice);
        let namespace = Namespace::create(name)?;
        self.guest_count.set(self.guest_count.get() + 1);
        let (outer, inner) = (format!("guest{}", self.guest_count.get()), namespace.name.as_str());
        let prefixed = format!("{address}/{}", report.settings.range.prefix_len());
        let on_host = host.namespace.name.as_str();
        ip(&["-n", on_host, "link", "add", &outer, "type", "veth", "peer", "name", "eth0", "netns", inner])?;
        ip(&["-n", on_host, "link", "set", &outer, "master", &report.settings.bridge, "up"])?;
        ip(&["-n", inner, "addr", "add", &prefixed, "dev", "eth0"])?;
        ip(&["-n", inner, "link", "set", "eth0", "up"])?;
        Ok(Guest { namespace, address })
    }

    /// Waits until what was killed is there again.
    pub(super) fn check_alive(&self) -> Result<(), Failure> {
        self.hosts.iter().try_for_each(Host::wait_until_ready)
    }
}

impl Host {
    fn build(name: &'static str, address: Ipv4Addr, directory: &Directory) -> Result<Self, Failure> {
        let home = directory.path.join(name);
        let paths = Paths::new(&home.join("state"), &home.join("run"))?;
        let namespace = Namespace::create(&name.to_lowercase())?;
        Ok(Self { name, namespace, address, paths, token_file: home.join("t") })
    }

    /// Runs a verb on this host and shows what it prints.
    pub(super) fn show(&self, arguments: &[&str]) -> Result<(), Failure> {
        say(format!("\n{}# weaved {}", self.name, arguments.join(" ")));
        let output = self.weaved(arguments)?;
        let text = String::from_utf8_lossy(&output.stdout);
        text.lines().for_each(|line| say(format!("  {line}")));
        if output.status.success() {
            return Ok(());
        }
        let complaint = String::from_utf8_lossy(&output.stderr);
        Err(Failure::refused(format!("`weaved {}` failed on {}: {complaint}", arguments.join(" "), self.name)))
    }

    /// The token of this host's cluster goes into a file of the other host, as an operator would carry it.
    pub(super) fn write_token(&self, other: &Self) -> Result<(), Failure> {
        say(format!("\n{}# weaved token > t      (t is carried over to {})", self.name, other.name));
        let token = self.weaved(&["token"])?.stdout;
        let written = File::create(&other.token_file).and_then(|mut file| file.write_all(&token));
        written.map_err(|error| Failure::refused(format!("cannot write {}: {error}", other.token_file.display())))
    }

    /// Where the token was put.
    pub(super) fn token_file(&self) -> &str {
        self.token_file.to_str().unwrap_or_default()
    }

    /// What `status` would show.
    pub(super) fn report(&self) -> Result<StatusReport, Failure> {
        client::status(&self.paths)
    }

    /// Waits until the host has a slice and is connected to the other one.
    pub(super) fn wait_until_ready(&self) -> Result<(), Failure> {
        let deadline = Instant::now() + READY_PATIENCE;
        loop {
            match self.report() {
                Ok(report) if report.is_up() && report.has_slice() && connected(&report) => return Ok(()),
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

    fn weaved(&self, arguments: &[&str]) -> Result<Output, Failure> {
        let mut command = Command::new("/proc/self/exe");
        command.args(arguments).env("WEAVED_STATE_DIR", &self.paths.state_dir);
        command.env("WEAVED_RUN_DIR", &self.paths.run_dir).stdin(Stdio::null());
        let output = self.namespace.enter(move || command.output())?;
        output.map_err(|error| Failure::refused(format!("cannot run weaved: {error}")))
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // The last act of the demo is a reset; this is for the case that it did not come so far.
        if Process::find(&self.paths, Part::Supervisor).is_some() {
            drop(self.weaved(&["reset", "--force"]));
        }
    }
}

impl Guest {
    /// Does something as if inside the container.
    pub(super) fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, Failure> {
        self.namespace.enter(work)
    }
}

fn connected(report: &StatusReport) -> bool {
    let stats = report.dataplane.stats.as_ref();
    stats.is_some_and(|stats| stats.peers.iter().any(|peer| peer.session.is_some()))
}

/// A network namespace with a name, deleted when dropped.
struct Namespace {
    name: String,
}

impl Namespace {
    fn create(suffix: &str) -> Result<Self, Failure> {
        let name = format!("weaved-demo-{}-{suffix}", Pid::as_raw(Some(getpid())));
        ip(&["netns", "add", &name])?;
        let namespace = Self { name };
        ip(&["-n", &namespace.name, "link", "set", "lo", "up"])?;
        Ok(namespace)
    }

    /// Runs `work` on a thread in this namespace; processes that it starts are in it too.
    fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, Failure> {
        let entered = thread::scope(|scope| {
            let thread = scope.spawn(|| {
                let file = File::open(Path::new("/run/netns").join(&self.name))?;
                move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?;
                Ok::<T, std::io::Error>(work())
            });
            thread.join()
        });
        match entered {
            Ok(result) => result.map_err(|error| Failure::refused(format!("cannot enter {}: {error}", self.name))),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        drop(ip(&["netns", "del", &self.name]));
    }
}

/// A directory of the demo's own.
struct Directory {
    path: PathBuf,
}

impl Directory {
    fn create() -> Result<Self, Failure> {
        let path = std::env::temp_dir().join(format!("weaved-demo-{}", Pid::as_raw(Some(getpid()))));
        let hosts = ["hostA", "hostB"].map(|host| path.join(host));
        let made = hosts.iter().try_for_each(fs::create_dir_all);
        made.map_err(|error| Failure::refused(format!("cannot make {}: {error}", path.display())))?;
        Ok(Self { path })
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.path));
    }
}

fn ip(arguments: &[&str]) -> Result<(), Failure> {
    let spawned =
        Command::new("ip").args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
    let mut child = spawned.map_err(|error| {
        Failure::refused(format!("the demo needs the program `ip` (Debian package iproute2): {error}"))
    })?;
    let mut complaint = String::new();
    if let Some(stderr) = &mut child.stderr {
        drop(stderr.read_to_string(&mut complaint));
    }
    match child.wait() {
        Ok(status) if status.success() => Ok(()),
        _ => Err(Failure::refused(format!("`ip {}` failed: {}", arguments.join(" "), complaint.trim()))),
    }
}

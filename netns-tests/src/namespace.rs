//! One network namespace with a name under `/run/netns`.

use std::{fs::File, os::fd::OwnedFd, path::PathBuf, process::Command, time::Duration};

use crate::{
    command::{self, Output},
    place::Place,
    requirements,
};

/// `ip` answers at once or something is very wrong.
const IP_DEADLINE: Duration = Duration::from_secs(20);

/// A network namespace. It is removed by the lab's sweep, not by dropping this.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Namespace {
    name: String,
}

impl Namespace {
    /// Makes it, with its loopback up and IPv6 addresses usable without the second of duplicate detection.
    #[track_caller]
    pub(crate) fn create(name: String) -> Self {
        ip(&["netns", "add", &name]);
        let namespace = Self { name };
        namespace.ip(&["link", "set", "lo", "up"]);
        namespace.sysctl("net/ipv6/conf/all/accept_dad", "0");
        namespace.sysctl("net/ipv6/conf/default/accept_dad", "0");
        namespace
    }

    pub(crate) fn netns_name(&self) -> &str {
        &self.name
    }

    pub(crate) fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.name)
    }

    /// Runs `ip` on the inside.
    #[track_caller]
    pub(crate) fn ip(&self, args: &[&str]) -> Output {
        ip(&[&["-n", self.name.as_str()], args].concat())
    }

    /// Sets a kernel parameter of the namespace, such as `net/ipv4/ip_forward`.
    #[track_caller]
    pub(crate) fn sysctl(&self, key: &str, value: &str) {
        self.run(&["sh", "-c", &format!("echo {value} > /proc/sys/{key}")]).ok();
    }

    /// Runs `work` in a thread that is inside, and returns what it made: sockets stay in the namespace where they
    /// were made.
    #[track_caller]
    pub(crate) fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let handle: OwnedFd = File::open(self.path())
            .unwrap_or_else(|error| panic!("cannot open namespace {}: {error}", self.name))
            .into();
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                nix::sched::setns(&handle, nix::sched::CloneFlags::CLONE_NEWNET)
                    .unwrap_or_else(|error| panic!("cannot enter namespace {}: {error}", self.name));
                work()
            });
            inside.join().unwrap_or_else(|payload| std::panic::resume_unwind(payload))
        })
    }
}

impl Place for Namespace {
    fn name(&self) -> String {
        self.name.clone()
    }

    /// By `nsenter`, because `ip netns exec` hides the cgroup mounts that dockerd needs.
    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path().display())).arg("--").args(args);
        command
    }

    fn labtool(&self) -> String {
        requirements::labtool_path().display().to_string()
    }
}

#[track_caller]
fn ip(args: &[&str]) -> Output {
    let mut command = Command::new("ip");
    command.args(args);
    command::run(command, IP_DEADLINE).ok()
}

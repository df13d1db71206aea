//! A real dockerd of one host, with an image made of busybox, and containers in it.
//!
//! It must not meet a Docker that the machine runs: it has its own data, socket, control group and containerd. It also
//! has a mount namespace of its own, in which `/run` and `/etc/docker` are empty: so it finds neither the machine's
//! containerd nor its firewall daemon, and what it mounts and writes there ends with it.

use std::{
    fs::{self, File},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use super::{
    engine::{Guest, Role},
    stage::{Host, show_output},
    tool,
};
use crate::{failure::Failure, host::process::Process};

/// What it takes, and the Debian packages that have it.
const PROGRAMS: [(&str, &str); 10] = [
    ("dockerd", "docker.io"),
    ("docker", "docker.io, from Debian 13 on docker-cli"),
    ("containerd", "containerd"),
    ("runc", "runc"),
    ("iptables", "iptables"),
    ("busybox", "busybox-static"),
    ("tar", "tar"),
    ("unshare", "util-linux"),
    ("mount", "mount"),
    ("sh", "dash"),
];
/// Begins a dockerd in a mount namespace of its own.
const BEGIN: &str =
    "mount -t tmpfs none /run && if [ -d /etc/docker ]; then mount -t tmpfs none /etc/docker; fi && exec \"$@\"";
const IMAGE: &str = "busybox";
/// Names that busybox is called by in the image.
const APPLETS: [&str; 6] = ["sh", "ping", "wget", "httpd", "sleep", "true"];
/// What an operator may have set for his own Docker.
const FOREIGN_VARIABLES: [&str; 5] =
    ["DOCKER_CONTEXT", "DOCKER_TLS", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH", "DOCKER_API_VERSION"];
const START_PATIENCE: Duration = Duration::from_secs(30);
const STOP_PATIENCE: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(50);

/// A running dockerd.
pub(super) struct Dockerd {
    socket: String,
    directory: PathBuf,
    process: Child,
}

/// Refused where a program is missing. Whether it works here shows when it is started.
pub(super) fn require() -> Result<(), Failure> {
    tool::require(&PROGRAMS)?;
    let busybox = tool::find("busybox").and_then(|path| fs::read(path).ok()).unwrap_or_default();
    if is_static(&busybox) {
        return Ok(());
    }
    Err(Failure::refused(
        "the program `busybox` needs libraries and cannot be an image (Debian package busybox-static)",
    ))
}

/// A program that needs libraries names its loader, such as `/lib64/ld-linux-x86-64.so.2`, within its first page.
fn is_static(program: &[u8]) -> bool {
    let page = &program[..program.len().min(4096)];
    page.starts_with(b"\x7fELF") && !page.windows(4).any(|window| window == b"/ld-")
}

impl Dockerd {
    /// Starts it as `dockerd $(weaved docker-config --flags)`, and makes sure that it can run containers.
    pub(super) fn start(host: &Host) -> Result<Self, Failure> {
        host.type_in("dockerd $(weaved docker-config --flags)");
        let flags = host.read(&["docker-config", "--flags"])?;
        let directory = host.docker_directory();
        let log = fs::create_dir(&directory)
            .and_then(|()| fs::write(directory.join("daemon.json"), "{}"))
            .and_then(|()| File::create(directory.join("log")));
        let log = log.map_err(|error| Failure::refused(format!("cannot write {}: {error}", directory.display())))?;
        let mut command = command(host, &directory, &flags);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let process = host.enter(move || command.spawn())?;
        let process = process.map_err(|error| Failure::refused(format!("cannot start dockerd: {error}")))?;
        let mut dockerd = Self { socket: host.docker_host(), directory, process };
        match dockerd.make_ready(host) {
            Ok(()) => {
                show_output(&flags);
                Ok(dockerd)
            }
            Err(failure) => {
                dockerd.end();
                Err(Failure::refused(format!("dockerd of {} does not work: {failure}", host.name)))
            }
        }
    }

    /// Runs a container, as an operator does.
    pub(super) fn run(&self, host: &Host, role: Role) -> Result<Guest, Failure> {
        let task: &[&str] = match role {
            Role::Shell => &["sleep", "1000000"],
            Role::Web => &["httpd", "-f", "-h", "/www"],
        };
        let arguments = [&["run", "-d", "--name", role.name(), IMAGE], task].concat();
        host.type_in(&format!("docker {}", arguments.join(" ")));
        self.docker(&arguments)?;
        let format = "{{.State.Pid}} {{.NetworkSettings.Networks.bridge.IPAddress}}";
        let found = self.docker(&["inspect", "--format", format, role.name()])?;
        let guest = found.trim().split_once(' ').and_then(|(pid, address)| {
            let netns = Path::new("/proc").join(pid).join("ns/net");
            Some(Guest { address: address.parse().ok()?, netns })
        });
        guest.ok_or_else(|| Failure::refused(format!("container {} has no address: {found}", role.name())))
    }

    /// Runs the client and shows what it prints.
    pub(super) fn show(&self, host: &Host, arguments: &[&str]) -> Result<(), Failure> {
        host.type_in(&format!("docker {}", arguments.join(" ")));
        show_output(&self.docker(arguments)?);
        Ok(())
    }

    /// Removes its containers and ends it in order.
    pub(super) fn finish(mut self) -> Result<(), Failure> {
        // Quicker than what dockerd does at its end: it asks each container, waits ten seconds, and kills.
        let containers = self.docker(&["ps", "--all", "--quiet"])?;
        for container in containers.split_whitespace() {
            self.docker(&["rm", "--force", "--volumes", container])?;
        }
        self.end();
        Ok(())
    }

    fn make_ready(&mut self, host: &Host) -> Result<(), Failure> {
        let deadline = Instant::now() + START_PATIENCE;
        while let Err(failure) = self.docker(&["version"]) {
            if !matches!(self.process.try_wait(), Ok(None)) {
                return Err(Failure::refused(self.last_words()));
            }
            if Instant::now() >= deadline {
                return Err(failure);
            }
            thread::sleep(POLL);
        }
        let archive = self.pack_image(host)?;
        self.docker(&["import", &archive.display().to_string(), IMAGE])?;
        self.docker(&["run", "--rm", IMAGE, "true"]).map(drop)
    }

    /// There is no registry in the demo: the image is a directory that is packed and imported.
    fn pack_image(&self, host: &Host) -> Result<PathBuf, Failure> {
        let (root, archive) = (self.directory.join("image"), self.directory.join("image.tar"));
        let lay_out = || {
            for directory in ["bin", "tmp", "www"] {
                fs::create_dir_all(root.join(directory))?;
            }
            fs::copy(tool::find("busybox").unwrap_or_default(), root.join("bin/busybox"))?;
            fs::write(root.join("www/index.html"), format!("hello from web on {}\n", host.name))?;
            APPLETS.iter().try_for_each(|applet| symlink("busybox", root.join("bin").join(applet)))
        };
        lay_out().map_err(|error: std::io::Error| Failure::refused(format!("cannot make an image: {error}")))?;
        let (from, to) = (root.display().to_string(), archive.display().to_string());
        tool::run("tar", &["-C", &from, "-cf", &to, "."])?;
        Ok(archive)
    }

    fn docker(&self, arguments: &[&str]) -> Result<String, Failure> {
        let mut command = Command::new("docker");
        command.args(["--host", &self.socket]).args(arguments).env("DOCKER_CONFIG", self.directory.join("client"));
        for variable in FOREIGN_VARIABLES {
            command.env_remove(variable);
        }
        tool::finish(&format!("docker {}", arguments.join(" ")), &mut command)
    }

    fn last_words(&self) -> String {
        let log = fs::read_to_string(self.directory.join("log")).unwrap_or_default();
        log.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it does not say why").to_owned()
    }

    fn end(&mut self) {
        if let Some(process) = Process::of_child(&self.process) {
            process.end(STOP_PATIENCE);
        }
        // What does not end even so is left to the guard.
        let _ = self.process.try_wait();
    }
}

/// The command line of a host's dockerd.
fn command(host: &Host, directory: &Path, flags: &str) -> Command {
    let option = |name: &str, file: &str| format!("--{name}={}", directory.join(file).display());
    let mut command = Command::new("unshare");
    command.args(["--mount", "--", "sh", "-c", BEGIN, "sh"]).arg(tool::find("dockerd").unwrap_or_default());
    command.args(flags.split_whitespace()).args([
        option("data-root", "data"),
        option("exec-root", "exec"),
        option("pidfile", "docker.pid"),
        option("config-file", "daemon.json"),
        format!("--host={}", host.docker_host()),
        "--exec-opt=native.cgroupdriver=cgroupfs".to_owned(),
        format!("--cgroup-parent=/{}", host.demo),
    ]);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_with_a_loader_is_not_static() {
        let this_test = fs::read("/proc/self/exe").unwrap();
        assert!(!is_static(&this_test));
        assert!(is_static(b"\x7fELF, and no loader"));
        assert!(!is_static(b"#!/bin/sh"));
    }
}

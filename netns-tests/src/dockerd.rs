//! A real dockerd of a host, and containers in it.
//!
//! Each has its own data, control socket and containerd, which dockerd starts by itself. Everything else is as a user
//! has it: overlay2, the default bridge rules in iptables, the default control-group driver.

use std::{
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use crate::{
    command::{Output, Process},
    image,
    namespace::Namespace,
    place::Place,
    wait::wait_until,
};

const START_DEADLINE: Duration = Duration::from_mins(1);
/// What a container may add to it.
const PER_CONTAINER: Duration = Duration::from_secs(2);
const STOP_DEADLINE: Duration = Duration::from_secs(20);
/// Name of the image that each dockerd has.
const IMAGE: &str = "lab";
/// How much of dockerd's log a failure shows.
const LOG_TAIL_LINES: usize = 15;

/// A running dockerd.
#[derive(Debug)]
pub struct Dockerd {
    host: String,
    namespace: Namespace,
    socket: PathBuf,
    command: Vec<String>,
    process: Mutex<Option<Process>>,
}

/// A container; removed with its dockerd.
#[derive(Clone, Debug)]
pub struct Container {
    dockerd: Arc<Dockerd>,
    name: String,
    address: IpAddr,
}

impl Dockerd {
    #[track_caller]
    pub(crate) fn start(host: &str, namespace: &Namespace, dir: &Path, flags: &[&str]) -> Self {
        let (lab_dir, dir) = (dir.parent().unwrap_or(dir), dir.join("docker"));
        make_dir(&dir);
        let socket = dir.join("docker.sock");
        // The machine's own configuration is not the lab's.
        let config = dir.join("daemon.json");
        fs::write(&config, "{}").unwrap_or_else(|error| panic!("cannot write {}: {error}", config.display()));
        let option = |name: &str, path: &Path| format!("--{name}={}", path.display());
        let own = [
            option("data-root", &dir.join("data")),
            option("exec-root", &dir.join("exec")),
            option("pidfile", &dir.join("docker.pid")),
            option("config-file", &config),
            format!("--host=unix://{}", socket.display()),
        ];
        let own: Vec<&str> = std::iter::once("dockerd").chain(own.iter().map(String::as_str)).collect();
        let command: Vec<String> = own.iter().chain(flags).map(ToString::to_string).collect();
        let process = namespace.spawn(&[&own, flags].concat());
        let (host, namespace) = (host.to_owned(), namespace.clone());
        let dockerd = Self { host, namespace, socket, command, process: Mutex::new(Some(process)) };
        dockerd.await_readiness(START_DEADLINE);
        dockerd.import_image(lab_dir);
        dockerd
    }

    /// Where its clients connect: the value of `DOCKER_HOST`.
    pub fn docker_host(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    /// Runs the Docker client, as a user on that host would.
    #[track_caller]
    pub fn docker(&self, args: &[&str]) -> Output {
        Output::of(self.client(args))
    }

    /// `docker run -d --name NAME OPTIONS IMAGE COMMAND`: IPv6 is switched on inside, where Docker switches it off.
    #[track_caller]
    pub fn run_container(self: &Arc<Self>, name: &str, options: &[&str], command: &[&str]) -> Container {
        let usual = ["run", "-d", "--name", name, "--sysctl", "net.ipv6.conf.all.disable_ipv6=0"];
        self.docker(&[&usual, options, &[IMAGE], command].concat()).ok();
        let format = "{{.NetworkSettings.IPAddress}}";
        let address = self.docker(&["inspect", "--format", format, name]).ok().stdout;
        let address =
            address.trim().parse().unwrap_or_else(|error| panic!("address of container {name}: {address}: {error}"));
        Container { dockerd: Arc::clone(self), name: name.to_owned(), address }
    }

    /// A container that only waits to be used.
    #[track_caller]
    pub fn idle_container(self: &Arc<Self>, name: &str) -> Container {
        self.run_container(name, &[], &["sleep", "1000000"])
    }

    /// Ends all containers, then dockerd itself, and panics if it does not end.
    #[track_caller]
    pub(crate) fn stop(&self) {
        let output = self.end().unwrap_or_else(|| panic!("dockerd of host {} was stopped before", self.host));
        assert!(output.success(), "dockerd did not end in order\n{output}");
    }

    /// Ends it without asking. The lab's sweep ends its containers and removes what they leave, in a fraction of the time.
    pub(crate) fn kill(&self) {
        drop(self.process.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

    /// Ends dockerd, which ends the containers, and starts it again with the same data. Only containers with a restart
    /// policy run then.
    #[track_caller]
    pub fn restart(&self) {
        let container_count = self.docker(&["ps", "--all", "--quiet"]).ok().stdout.lines().count();
        let mut process = self.process.lock().unwrap_or_else(PoisonError::into_inner);
        let old = process.take().unwrap_or_else(|| panic!("dockerd of host {} does not run", self.host));
        terminate(&old);
        assert!(old.finish(START_DEADLINE).success(), "dockerd of host {} did not end in order", self.host);
        let command: Vec<&str> = self.command.iter().map(String::as_str).collect();
        *process = Some(self.namespace.spawn(&command));
        drop(process);
        // It starts those with a restart policy, one after the other, before it answers.
        self.await_readiness(START_DEADLINE + PER_CONTAINER * container_count as u32);
    }

    /// The last lines of its log.
    pub(crate) fn log_tail(&self) -> String {
        let process = self.process.lock().unwrap_or_else(PoisonError::into_inner);
        let log = process.as_ref().map(Process::stderr).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(LOG_TAIL_LINES)..].join("\n")
    }

    fn end(&self) -> Option<Output> {
        let process = self.process.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        // Removing is quicker than what dockerd does at its end: ask each container, wait ten seconds, then kill.
        let containers = self.docker(&["ps", "--all", "--quiet"]).stdout;
        let ids: Vec<&str> = containers.split_whitespace().collect();
        if !ids.is_empty() {
            self.docker(&[&["rm", "--force", "--volumes"], ids.as_slice()].concat());
        }
        terminate(&process);
        Some(process.finish(STOP_DEADLINE))
    }

    fn client(&self, args: &[&str]) -> Command {
        let mut command = self.namespace.command(&[&["docker"], args].concat());
        command.env("DOCKER_HOST", self.docker_host());
        command
    }

    #[track_caller]
    fn await_readiness(&self, deadline: Duration) {
        wait_until(&format!("dockerd of host {} answers", self.host), deadline, || {
            let mut process = self.process.lock().unwrap_or_else(PoisonError::into_inner);
            let process = process.as_mut().expect("it is taken by `end` only, after the start");
            assert!(process.is_running(), "dockerd of host {} ended at once\n{}", self.host, process.stderr());
            self.socket.exists() && self.docker(&["version"]).success()
        });
    }

    #[track_caller]
    fn import_image(&self, lab_dir: &Path) {
        let archive = image::archive(lab_dir);
        self.docker(&["import", &archive.display().to_string(), IMAGE]).ok();
    }
}

impl Container {
    /// Its address on the overlay.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// What it has printed.
    #[track_caller]
    pub fn logs(&self) -> String {
        let output = self.dockerd.docker(&["logs", &self.name]).ok();
        output.stdout + &output.stderr
    }
}

impl Place for Container {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn command(&self, args: &[&str]) -> Command {
        self.dockerd.client(&[&["exec", "--interactive", &self.name], args].concat())
    }

    fn labtool(&self) -> String {
        "/bin/labtool".to_owned()
    }
}

/// Asks it to end. If it has ended by itself, its exit code tells.
fn terminate(process: &Process) {
    let pid = nix::unistd::Pid::from_raw(process.pid().cast_signed());
    let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
}

#[track_caller]
fn make_dir(dir: &Path) {
    fs::create_dir_all(dir).unwrap_or_else(|error| panic!("cannot make {}: {error}", dir.display()));
}

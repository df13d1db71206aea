//! Other people's overlays, set up as their documentation does it for two hosts.
//!
//! Most carry IP and not Ethernet, so they are measured between hosts. Where an overlay does not find out by
//! itself how large a packet may be, it is told the most that fits into the underlay's 1,500 bytes.

mod nebula;
mod one_frame;
mod tinc;
mod vpncloud;
mod wireguard;

use std::{
    env, fs,
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use weaved_netns_tests::{Host, Place, Process};

use super::{Joined, Layer, Running};

/// The interface that each of them makes.
const INTERFACE: &str = "vpn0";
/// How long one may take to make it.
const START_DEADLINE: Duration = Duration::from_secs(10);
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Which one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PeerKind {
    /// A TAP by the crate tun-tap, one frame for each read and each datagram, AES-256-GCM: the straight way, by us.
    OneFrame,
    WireguardGo,
    Boringtun,
    Nebula,
    Tinc,
    Vpncloud,
    /// With Ethernet, on a bridge, as containers would have it.
    VpncloudBridged,
}

impl PeerKind {
    pub(crate) const ALL: [Self; 7] = [
        Self::OneFrame,
        Self::WireguardGo,
        Self::Boringtun,
        Self::Nebula,
        Self::Tinc,
        Self::Vpncloud,
        Self::VpncloudBridged,
    ];

    /// What `--sides` and results call it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::OneFrame => "one-frame",
            Self::WireguardGo => "wireguard-go",
            Self::Boringtun => "boringtun",
            Self::Nebula => "nebula",
            Self::Tinc => "tinc",
            Self::Vpncloud => "vpncloud",
            Self::VpncloudBridged => "vpncloud-bridged",
        }
    }

    /// What its executable is called.
    fn program(self) -> &'static str {
        match self {
            Self::OneFrame => "weaved-bench-one-frame",
            Self::WireguardGo => "wireguard-go",
            Self::Boringtun => "boringtun-cli",
            Self::Nebula => "nebula",
            Self::Tinc => "tincd",
            Self::Vpncloud | Self::VpncloudBridged => "vpncloud",
        }
    }

    /// True if it carries Ethernet.
    pub(super) fn has_ethernet(self) -> bool {
        matches!(self, Self::OneFrame | Self::VpncloudBridged)
    }

    /// Its executable: beside this program, where `make bench-deps` puts those that it builds, or on the search path.
    fn find(self) -> Result<PathBuf, String> {
        let this = env::current_exe().unwrap_or_default();
        let beside = this.ancestors().skip(1).take(3).map(Path::to_owned);
        let built = this.ancestors().skip(2).take(2).map(|dir| dir.join("peers/bin"));
        let path = env::var_os("PATH").unwrap_or_default();
        let dirs = beside.chain(built).chain(env::split_paths(&path)).chain([PathBuf::from("/usr/sbin")]);
        let found = dirs.map(|dir| dir.join(self.program())).find(|path| path.is_file());
        found.ok_or_else(|| format!("`{}` is not installed: run `make bench-deps`", self.program()))
    }

    /// What it says that it is, in one line.
    pub(super) fn version(self, program: Option<&Path>) -> String {
        let Ok(program) = program.map_or_else(|| self.find(), |program| Ok(program.to_owned())) else {
            return String::new();
        };
        let argument = match self {
            Self::OneFrame => return "AES-256-GCM, tun-tap, no offloads".to_owned(),
            Self::Nebula => "-version",
            _ => "--version",
        };
        let output = Command::new(program).arg(argument).output();
        let bytes = output.map(|output| [output.stdout, output.stderr].concat()).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default().trim().to_owned()
    }
}

/// Sets one up on two hosts, with `program` or what is installed.
pub(super) fn join(hosts: &[Arc<Host>; 2], kind: PeerKind, program: Option<&Path>) -> Result<Joined, String> {
    let program = program.map_or_else(|| kind.find(), |program| Ok(program.to_owned()))?;
    let processes = match kind {
        PeerKind::OneFrame => return one_frame::join(hosts, &program),
        PeerKind::WireguardGo => wireguard::start(hosts, &program, &["-f", INTERFACE])?,
        PeerKind::Boringtun => wireguard::start(hosts, &program, &["-f", "--disable-drop-privileges", INTERFACE])?,
        PeerKind::Nebula => nebula::start(hosts, &program)?,
        PeerKind::Tinc => tinc::start(hosts, &program)?,
        PeerKind::Vpncloud => vpncloud::start(hosts, &program)?,
        PeerKind::VpncloudBridged => return vpncloud::join_bridged(hosts, &program),
    };
    let addresses = [address(0), address(1)].map(IpAddr::from);
    Ok(Joined { addresses, layer: Layer::Ip, running: Running::Peers(processes) })
}

/// Address of a host within the overlay.
fn address(number: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 99, 0, number as u8 + 1)
}

/// Waits until a process has made its interface, gives it the address of host `number` and brings it up.
fn set_up_interface(host: &Host, number: usize, mtu: Option<u16>, process: &mut Process) -> Result<(), String> {
    await_interface(host, INTERFACE, process)?;
    host.ip(&["addr", "add", &format!("{}/24", address(number)), "dev", INTERFACE]);
    if let Some(mtu) = mtu {
        host.ip(&["link", "set", INTERFACE, "mtu", &mtu.to_string()]);
    }
    host.ip(&["link", "set", INTERFACE, "up"]);
    Ok(())
}

/// Waits until a process has made its TAP and puts it into the bridge `weave` of host `number`, whose address this tells.
fn bridge(host: &Host, number: usize, tap: &str, mtu: u16, process: &mut Process) -> Result<IpAddr, String> {
    await_interface(host, tap, process)?;
    let (address, mtu) = (Ipv4Addr::new(10, 32, number as u8, 1), mtu.to_string());
    host.ip(&["link", "add", "weave", "mtu", &mtu, "type", "bridge"]);
    host.ip(&["addr", "add", &format!("{address}/12"), "dev", "weave"]);
    host.ip(&["link", "set", "weave", "up"]);
    host.ip(&["link", "set", tap, "mtu", &mtu, "master", "weave", "up"]);
    Ok(address.into())
}

/// What two hosts have that are joined by TAPs in bridges.
fn joined_by_bridges(ends: [(IpAddr, Process); 2], mtu: u16) -> Joined {
    let [(address_a, process_a), (address_b, process_b)] = ends;
    let running = Running::Peers(vec![process_a, process_b]);
    Joined { addresses: [address_a, address_b], layer: Layer::Ethernet { mtu, max_gso_len: None }, running }
}

/// Waits until there is an interface; says why if the process has ended or takes too long.
fn await_interface(host: &Host, interface: &str, process: &mut Process) -> Result<(), String> {
    await_condition(process, interface, || host.interfaces().iter().any(|name| name == interface))
}

/// Waits for `what` while the process runs.
fn await_condition(process: &mut Process, what: &str, mut holds: impl FnMut() -> bool) -> Result<(), String> {
    let end = Instant::now() + START_DEADLINE;
    while !holds() {
        let (is_running, in_time) = (process.is_running(), Instant::now() < end);
        if !is_running || !in_time {
            let said = process.stderr() + &process.stdout();
            let last = said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it said nothing").to_owned();
            let fate = if is_running { "it runs, but there is no" } else { "it ended before there was" };
            return Err(format!("{fate} {what}: {last}"));
        }
        std::thread::sleep(POLL_INTERVAL);
    }
    Ok(())
}

/// A directory of a host for one overlay's files.
fn make_dir(host: &Host, name: &str) -> Result<PathBuf, String> {
    let dir = host.dir().join(name);
    fs::create_dir_all(&dir).map_err(|error| format!("cannot make {}: {error}", dir.display()))?;
    Ok(dir)
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    fs::write(path, text).map_err(|error| format!("cannot write {}: {error}", path.display()))
}

/// Runs a helper of an overlay to its end.
fn run(host: &Host, args: &[&str]) -> Result<(), String> {
    let output = host.run(args);
    let reason = || output.stderr.lines().last().unwrap_or("no reason given").to_owned();
    if output.success() { Ok(()) } else { Err(format!("`{}`: {}", args.join(" "), reason())) }
}

/// A path as an argument.
fn text(path: &Path) -> String {
    path.display().to_string()
}

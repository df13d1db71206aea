//! What is read while the load runs, and at its end.

use std::{collections::BTreeMap, fmt, fs, sync::Arc, time::Duration};

use serde_json::Value;
use weaved_netns_tests::{Host, Part, SOON, wait_for};

/// One look at one host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sample {
    /// Which host.
    pub(crate) host: usize,
    /// Since the load began.
    pub(crate) at: Duration,
    /// Resident memory of the data plane.
    pub(crate) dataplane_kib: u64,
    /// Resident memory of control, and the process that it is of.
    pub(crate) control_kib: u64,
    pub(crate) control_pid: i32,
    pub(crate) thread_count: u64,
    /// Connected peers, each with the milliseconds since it connected.
    pub(crate) sessions: BTreeMap<String, u64>,
}

impl Sample {
    /// None while a process of it is restarted.
    pub(crate) fn take(number: usize, host: &Host, at: Duration) -> Option<Self> {
        let weaved = host.weaved();
        let status = weaved.status()?;
        let (dataplane, control) = (weaved.pid(Part::Dataplane)?, weaved.pid(Part::Control)?);
        let peers = status.pointer("/dataplane/stats/peers")?.as_array()?;
        let connected = peers.iter().filter(|peer| peer["link"] == "Connected");
        let session =
            |peer: &Value| Some((peer["id"].to_string(), peer["session"]["connected_ms"].as_u64().unwrap_or_default()));
        Some(Self {
            host: number,
            at,
            dataplane_kib: of_process(dataplane, "VmRSS:")?,
            control_kib: of_process(control, "VmRSS:")?,
            control_pid: control,
            thread_count: of_process(dataplane, "Threads:")?,
            sessions: connected.filter_map(session).collect(),
        })
    }
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, dataplane_kib, control_kib, sessions, .. } = self;
        let name = crate::HOSTS[*host];
        write!(f, "{name}: data plane {dataplane_kib} KiB, control {control_kib} KiB, {} sessions", sessions.len())
    }
}

/// A number of `/proc/PID/status`.
fn of_process(pid: i32, name: &str) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// The counters of all hosts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Snapshot(pub(crate) Vec<BTreeMap<String, u64>>);

impl Snapshot {
    pub(crate) fn take(hosts: &[Arc<Host>]) -> Self {
        let counters = |host: &Arc<Host>| {
            wait_for(&format!("{host:?} tells its counters"), SOON, || {
                let status = host.weaved().status()?;
                let counters = status.pointer("/dataplane/stats/counters")?.as_array()?.clone();
                let pair = |counter: &Value| Some((counter["name"].as_str()?.to_owned(), counter["value"].as_u64()?));
                Some(counters.iter().filter_map(pair).collect())
            })
        };
        Self(hosts.iter().map(counters).collect())
    }

    /// A counter, added up over the hosts.
    pub(crate) fn sum(&self, name: &str) -> u64 {
        self.0.iter().filter_map(|host| host.get(name)).sum()
    }

    /// Every counter that is not zero anywhere and begins so, added up.
    pub(crate) fn beginning_with(&self, start: &str) -> BTreeMap<String, u64> {
        let names = self.0.iter().flat_map(BTreeMap::keys).filter(|name| name.starts_with(start));
        names.map(|name| (name.clone(), self.sum(name))).filter(|(_, value)| *value > 0).collect()
    }
}

/// Packets that the kernel dropped between two devices of this machine, in any namespace: its backlog was full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct KernelDrops(pub(crate) u64);

impl KernelDrops {
    pub(crate) fn read() -> Self {
        let table = fs::read_to_string("/proc/net/softnet_stat").unwrap_or_default();
        let dropped = |line: &str| u64::from_str_radix(line.split_whitespace().nth(1)?, 16).ok();
        Self(table.lines().filter_map(dropped).sum())
    }

    pub(crate) fn since(self, before: Self) -> Self {
        Self(self.0.saturating_sub(before.0))
    }
}

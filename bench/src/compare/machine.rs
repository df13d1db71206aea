//! What a figure was measured on. Without it a figure means nothing.

use std::{
    fs,
    process::Command,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};
use weaved_netns_tests::weaved_path;

use super::meter::Meter;

/// Above this share of all cores others are at work too, and figures are not to be published. The load average would
/// tell of the minutes before, such as of the build.
const QUIET_SHARE: f64 = 0.05;
/// How long the machine is watched before a run.
const WATCH_TIME: Duration = Duration::from_secs(1);

/// The machine, the kernel and the program under test.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Machine {
    pub(super) cpu: String,
    pub(super) core_count: usize,
    pub(super) memory_mib: u64,
    pub(super) kernel: String,
    pub(super) commit: String,
    pub(super) program: Build,
    /// Share of all cores that was busy before the run.
    pub(super) busy_before: f64,
    pub(super) unix_seconds: u64,
}

/// How the program under test was built, as far as its path tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Build {
    Release,
    Other,
}

impl Machine {
    /// Looks at the machine as it is before the run.
    pub(super) fn look() -> Self {
        let cpuinfo = read("/proc/cpuinfo");
        let meminfo = read("/proc/meminfo");
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let is_release = weaved_path().components().any(|part| part.as_os_str() == "release");
        let core_count = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            cpu: value_of(&cpuinfo, "model name").unwrap_or("unknown processor").to_owned(),
            core_count,
            memory_mib: value_of(&meminfo, "MemTotal").and_then(first_number).unwrap_or(0) / 1024,
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            commit: commit(),
            program: if is_release { Build::Release } else { Build::Other },
            busy_before: busy_share(core_count),
            unix_seconds: since.as_secs(),
        }
    }

    /// Why the figures are not to be published; empty when they may be.
    pub(super) fn objections(&self) -> Vec<String> {
        let mut objections = Vec::new();
        if self.busy_before.is_nan() || self.busy_before >= QUIET_SHARE {
            let percent = 100.0 * self.busy_before;
            objections.push(format!("{percent:.0} % of the machine was busy before the run: others were at work"));
        }
        if self.program != Build::Release {
            objections.push("the program under test is not in a directory `release`".to_owned());
        }
        if self.commit.ends_with("-dirty") {
            objections.push("there were changes that no commit has".to_owned());
        }
        objections
    }
}

#[cfg(test)]
impl Machine {
    /// One that nobody objects to.
    pub(super) fn quiet() -> Self {
        Self {
            cpu: String::new(),
            core_count: 2,
            memory_mib: 1,
            kernel: String::new(),
            commit: "abc".into(),
            program: Build::Release,
            busy_before: 0.01,
            unix_seconds: 0,
        }
    }
}

/// Busy share of all cores while the bench does nothing.
fn busy_share(core_count: usize) -> f64 {
    let meter = Meter::start(Vec::new());
    std::thread::sleep(WATCH_TIME);
    let all = WATCH_TIME.as_secs_f64() * f64::from(core_count as u32);
    meter.stop().machine / all
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// What is behind `name   :` in a file of lines.
fn value_of<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim())
}

fn first_number<T: std::str::FromStr>(text: &str) -> Option<T> {
    text.split_whitespace().next()?.parse().ok()
}

/// Of the source tree that this program was built from.
fn commit() -> String {
    let args = ["-C", env!("CARGO_MANIFEST_DIR"), "describe", "--always", "--dirty", "--exclude=*"];
    let output = Command::new("git").args(args).output();
    let text = output.ok().filter(|output| output.status.success()).map(|output| output.stdout).unwrap_or_default();
    let text = String::from_utf8_lossy(&text).trim().to_owned();
    if text.is_empty() { "unknown".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_found_by_their_names() {
        let text = "processor\t: 0\nmodel name\t: Some CPU @ 2 GHz\nMemTotal:       1024 kB\n";
        assert_eq!(value_of(text, "model name"), Some("Some CPU @ 2 GHz"));
        assert_eq!(value_of(text, "MemTotal").and_then(first_number), Some(1024));
        assert_eq!(value_of(text, "absent"), None);
    }

    #[test]
    fn a_busy_machine_or_a_debug_build_is_objected_to() {
        let quiet = Machine::quiet();
        assert_eq!(quiet.objections(), Vec::<String>::new());
        assert_eq!(Machine { busy_before: 0.05, ..quiet.clone() }.objections().len(), 1);
        assert_eq!(Machine { busy_before: f64::NAN, ..quiet.clone() }.objections().len(), 1);
        assert_eq!(Machine { program: Build::Other, ..quiet.clone() }.objections().len(), 1);
        assert_eq!(Machine { commit: "abc-dirty".into(), ..quiet }.objections().len(), 1);
    }
}

//! What a figure was measured on. Without it a figure means nothing.

use std::{
    fs,
    process::Command,
    time::{SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};
use weaved_netns_tests::weaved_path;

/// Above this load others were at work too, and figures are not to be published.
const QUIET_LOAD: f64 = 0.5;

/// The machine, the kernel and the program under test.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Machine {
    pub(super) cpu: String,
    pub(super) core_count: usize,
    pub(super) memory_mib: u64,
    pub(super) kernel: String,
    pub(super) commit: String,
    pub(super) program: Build,
    /// Average of the last minute, before the run.
    pub(super) load: f64,
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
        let loadavg = read("/proc/loadavg");
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let is_release = weaved_path().components().any(|part| part.as_os_str() == "release");
        Self {
            cpu: value_of(&cpuinfo, "model name").unwrap_or("unknown processor").to_owned(),
            core_count: std::thread::available_parallelism().map_or(1, usize::from),
            memory_mib: value_of(&meminfo, "MemTotal").and_then(first_number).unwrap_or(0) / 1024,
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            commit: commit(),
            program: if is_release { Build::Release } else { Build::Other },
            load: first_number(&loadavg).unwrap_or(f64::NAN),
            unix_seconds: since.as_secs(),
        }
    }

    /// Why the figures are not to be published; empty when they may be.
    pub(super) fn objections(&self) -> Vec<String> {
        let mut objections = Vec::new();
        if self.load.is_nan() || self.load >= QUIET_LOAD {
            objections.push(format!("the load was {} before the run: others were at work", self.load));
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
        let quiet = Machine {
            cpu: String::new(),
            core_count: 2,
            memory_mib: 1,
            kernel: String::new(),
            commit: "abc".into(),
            program: Build::Release,
            load: 0.1,
            unix_seconds: 0,
        };
        assert_eq!(quiet.objections(), Vec::<String>::new());
        assert_eq!(Machine { load: 0.5, ..quiet.clone() }.objections().len(), 1);
        assert_eq!(Machine { load: f64::NAN, ..quiet.clone() }.objections().len(), 1);
        assert_eq!(Machine { program: Build::Other, ..quiet.clone() }.objections().len(), 1);
        assert_eq!(Machine { commit: "abc-dirty".into(), ..quiet }.objections().len(), 1);
    }
}

//! What the processes of this node use, from `/proc` (proc(5)).

use std::{fmt, fs, time::Duration};

use super::page::{Page, number};
use crate::{
    host::process::Process,
    paths::{Part, Paths},
};

/// What one process uses.
#[derive(Clone, Debug, PartialEq)]
pub struct Usage {
    /// Which.
    pub part: &'static str,
    /// Time on processors since its start.
    pub cpu: Duration,
    /// Memory that is in use now, in bytes.
    pub resident_bytes: u64,
    /// Threads.
    pub threads: u64,
    /// Open file descriptors.
    pub open_files: u64,
}

/// Of all processes that live.
pub fn usages(paths: &Paths) -> Vec<Usage> {
    let living = Part::STOP_ORDER.into_iter().filter_map(|part| Some((part, Process::find(paths, part)?)));
    living.filter_map(|(part, process)| usage(part, process.pid().as_raw_nonzero().get())).collect()
}

fn usage(part: Part, pid: i32) -> Option<Usage> {
    let dir = format!("/proc/{pid}");
    let stat = fs::read_to_string(format!("{dir}/stat")).ok()?;
    let open_files = fs::read_dir(format!("{dir}/fd")).map_or(0, |entries| entries.count() as u64);
    let (ticks, threads, pages) = parse_stat(&stat)?;
    let cpu = Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second());
    let resident_bytes = pages * rustix::param::page_size() as u64;
    Some(Usage { part: part.name(), cpu, resident_bytes, threads, open_files })
}

/// Clock ticks of user and system, threads, resident pages. The name in brackets may hold anything.
fn parse_stat(stat: &str) -> Option<(u64, u64, u64)> {
    let (_, rest) = stat.rsplit_once(')')?;
    // The first of these is field 3 of proc(5).
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    Some((field(14)? + field(15)?, field(20)?, field(24)?))
}

pub(super) fn write(page: &mut Page<'_>, usages: &[Usage]) -> fmt::Result {
    let label = |usage: &Usage| vec![("process", usage.part)];
    page.seconds(
        "process_cpu_seconds",
        "Time on processors since the start of the process",
        usages.iter().map(|usage| (label(usage), usage.cpu.as_secs_f64())),
    )?;
    let gauge = |value: fn(&Usage) -> u64| usages.iter().map(move |usage| (label(usage), number(value(usage))));
    page.gauges("process_resident_memory_bytes", "Memory in use", gauge(|usage| usage.resident_bytes))?;
    page.gauges("process_threads", "Threads", gauge(|usage| usage.threads))?;
    page.gauges("process_open_fds", "Open file descriptors", gauge(|usage| usage.open_files))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_whose_name_looks_like_fields_is_read_right() {
        let rest = "S 1 2 3 4 5 6 7 8 9 10 70 30 0 0 20 0 9 0 55 1000 321 1844";
        assert_eq!(parse_stat(&format!("42 (a) S 1) {rest}")), Some((100, 9, 321)));
        assert_eq!(parse_stat("42 (a) S 1"), None);
    }

    #[test]
    fn the_test_itself_uses_something() {
        let usage = usage(Part::Control, std::process::id().cast_signed()).unwrap();
        assert!(usage.resident_bytes > 100_000 && usage.threads >= 1 && usage.open_files >= 3, "{usage:?}");
    }
}

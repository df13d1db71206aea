//! CPU time: of some processes, and of the whole machine.
//!
//! What the kernel does for a packet counts for whoever ran just then, often for nobody's process. So the machine's
//! busy time is what overlays can be compared by; that of the processes tells how much of it is their own.

use std::fs;

/// The kernel tells CPU time in hundredths of a second (`USER_HZ`, a constant of its interface).
const TICKS_PER_SECOND: f64 = 100.0;

/// A running measurement.
pub(super) struct Meter {
    pids: Vec<u32>,
    before: CpuTime,
}

/// CPU time in seconds, of all cores together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct CpuTime {
    /// Of the processes, with what the kernel did in their system calls.
    pub(super) processes: f64,
    /// Of everything that was not idle, the programs that make the traffic included.
    pub(super) machine: f64,
}

impl Meter {
    /// Begins.
    pub(super) fn start(pids: Vec<u32>) -> Self {
        let before = look(&pids);
        Self { pids, before }
    }

    /// What has been used since.
    pub(super) fn stop(self) -> CpuTime {
        let after = look(&self.pids);
        CpuTime { processes: after.processes - self.before.processes, machine: after.machine - self.before.machine }
    }
}

fn look(pids: &[u32]) -> CpuTime {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let of_process = |pid: &u32| parse_process(&read(&format!("/proc/{pid}/stat"))).unwrap_or(0.0);
    CpuTime { processes: pids.iter().map(of_process).sum(), machine: parse_machine(&read("/proc/stat")).unwrap_or(0.0) }
}

/// `/proc/PID/stat`: user and system time are fields 14 and 15, and the name in parentheses may hold anything
/// (proc(5)).
fn parse_process(stat: &str) -> Option<f64> {
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |index: usize| fields.get(index)?.parse::<f64>().ok();
    Some((ticks(11)? + ticks(12)?) / TICKS_PER_SECOND)
}

/// The first line of `/proc/stat` without idle, iowait and what a hypervisor took; guests count as user already.
fn parse_machine(stat: &str) -> Option<f64> {
    let numbers: Vec<f64> = stat.lines().next()?.split_whitespace().skip(1).filter_map(|n| n.parse().ok()).collect();
    let [user, nice, system, _idle, _iowait, irq, softirq, ..] = numbers[..] else { return None };
    Some((user + nice + system + irq + softirq) / TICKS_PER_SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn busy_time_is_read() {
        let machine = "cpu  100 10 200 5000 60 7 13 99 4 0\ncpu0 1 2 3 4 5 6 7 8 9 10\n";
        assert_eq!(parse_machine(machine), Some(3.3));
        assert_eq!(parse_machine(""), None);
        let process = "42 (a) b) S 1 42 42 0 -1 4194560 1 0 0 0 150 250 0 0 20 0 5 0 100 0 0";
        assert_eq!(parse_process(process), Some(4.0));
        assert_eq!(parse_process("42 (a"), None);
    }

    #[test]
    fn work_is_noticed() {
        let meter = Meter::start(vec![std::process::id()]);
        let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
        let mut used = 0.0;
        while used == 0.0 && std::time::Instant::now() < end {
            used = look(&meter.pids).processes - meter.before.processes;
        }
        assert!(used > 0.0 && meter.stop().machine >= 0.0);
    }
}

//! `soak SECONDS`: three hosts at full speed for so long, and a verdict.
//!
//! ```text
//!   load     streams both ways between all three, bursts of small and large datagrams, one echo a millisecond,
//!            containers that come and go, control processes that are killed
//!   samples  every two seconds: memory, threads, sessions of each host
//!   verdict  memory is flat · no session was lost · each kind of drop has a reason that is allowed ·
//!            what was sent is what was received and what was dropped
//! ```
//!
//! Exit code 0 means that all four hold. Everything runs in namespaces of its own, which are removed however it ends;
//! once the lab is open, which is said, the time is bounded by SECONDS and a minute for start and end.

mod load;
mod sample;
mod verdict;

use std::{
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use weaved_netns_tests::{Host, Lab};

use self::{
    load::{Load, Stop},
    sample::{KernelDrops, Sample, Snapshot},
    verdict::Verdict,
};

/// Time between two samples.
const SAMPLE_INTERVAL: Duration = Duration::from_secs(2);
/// Time between two lines about how it goes.
const TELL_INTERVAL: Duration = Duration::from_secs(10);
/// More than a datagram is under way here.
const UNDER_WAY: Duration = Duration::from_millis(500);
const HOSTS: [&str; 3] = ["a", "b", "c"];

fn main() -> ExitCode {
    let seconds = std::env::args().nth(1).and_then(|word| word.parse().ok()).filter(|seconds| *seconds >= 10);
    let Some(seconds) = seconds else {
        eprintln!("usage: soak SECONDS, at least 10; it needs root and the program `weaved` (WEAVED_BIN)");
        return ExitCode::from(2);
    };
    let Some(lab) = Lab::open_alone("soak") else { return ExitCode::SUCCESS };
    // Until here another lab of this machine may have been waited for.
    println!("the lab is open");
    let verdict = soak(lab, Duration::from_secs(seconds));
    println!("{verdict}");
    if verdict.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn soak(mut lab: Lab, time: Duration) -> Verdict {
    let hosts = HOSTS.map(|name| lab.host(name));
    lab.launch_cluster(&[&hosts[0], &hosts[1], &hosts[2]]);
    let kernel_before = KernelDrops::read();
    let mut load = Load::prepare(&hosts);
    let stop = Stop::new(Arc::new(AtomicBool::new(false)), time);
    let mut samples = Vec::new();
    thread::scope(|scope| {
        load.start(scope, &hosts, &stop);
        // Also when sampling panics: the scope waits for all threads.
        let _at_end = StopAtEnd(&stop);
        sample_until(&hosts, time, &mut samples);
    });
    let report = load.finish();
    println!("{report}");
    let first = Snapshot::take(&hosts);
    thread::sleep(UNDER_WAY);
    let second = Snapshot::take(&hosts);
    let kernel = KernelDrops::read().since(kernel_before);
    Verdict::new(&samples, &first, &second, kernel, &report)
}

/// Tells all threads to stop when it goes.
struct StopAtEnd<'a>(&'a Stop);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.flag.store(true, Relaxed);
    }
}

fn sample_until(hosts: &[Arc<Host>], time: Duration, samples: &mut Vec<Sample>) {
    let start = Instant::now();
    let mut told_at = start;
    while start.elapsed() < time {
        for (number, host) in hosts.iter().enumerate() {
            samples.extend(Sample::take(number, host, start.elapsed()));
        }
        if told_at.elapsed() >= TELL_INTERVAL {
            told_at = Instant::now();
            let latest = &samples[samples.len().saturating_sub(hosts.len())..];
            let line: Vec<String> = latest.iter().map(ToString::to_string).collect();
            println!("{:>5} s  {}", start.elapsed().as_secs(), line.join(" · "));
        }
        thread::sleep(SAMPLE_INTERVAL.min(time.saturating_sub(start.elapsed())));
    }
}

//! Memory and threads of a data plane that has been told of very many peers, and of one that knows nobody.
//!
//! The peers do not exist: their addresses are on the link and answer nothing, so the data plane tries them all.

use std::{fs, net::SocketAddr, sync::Arc, time::Duration};

use weaved_api::PeerId;
use weaved_netns_tests::{Host, Lab};

use super::{
    dataplane::{self, Dataplane},
    record::{Measurement, Recorder},
};

/// Measures both, one after the other, on a host of their own.
#[track_caller]
pub(super) fn measure(lab: &mut Lab, peer_count: u32, settle_time: Duration, recorder: &mut Recorder) {
    let host = lab.host("wc");
    let rows =
        [(0, "memory, no peers", "threads, no peers"), (peer_count, "memory, many peers", "threads, many peers")];
    for (count, memory, threads) in rows {
        let (kib, thread_count) = look(&host, count, settle_time);
        let one = |row, value, unit| Measurement { row, side: "weaved", pair: 0, value, unit };
        recorder.add(one(memory, kib * 1024.0, "byte"));
        recorder.add(one(threads, thread_count, ""));
    }
    recorder.note("peer_count", peer_count);
}

/// Resident kibibytes and threads.
#[track_caller]
fn look(host: &Arc<Host>, peer_count: u32, settle_time: Duration) -> (f64, f64) {
    let peers = (0..peer_count).map(|number| {
        let mut id = [0xa5; 32];
        id[..4].copy_from_slice(&number.to_le_bytes());
        let [_, _, high, low] = number.to_be_bytes();
        let endpoint = SocketAddr::from(([192, 168, 77, 200 + high % 50], 20_000 + u16::from(low)));
        dataplane::peer_at(PeerId(id), endpoint)
    });
    let dataplane = Dataplane::start(host, &dataplane::desired_state(2, peers.collect()));
    // There is no condition to wait for: what is asked is what it comes to in this time.
    std::thread::sleep(settle_time);
    let path = format!("/proc/{}/status", dataplane.pid());
    let status = fs::read_to_string(&path).unwrap_or_else(|error| panic!("cannot read {path}: {error}"));
    let field = |name| parse_status(&status, name).unwrap_or_else(|| panic!("{path} has no {name}\n{status}"));
    (field("VmRSS"), field("Threads"))
}

/// A number in `/proc/PID/status`.
fn parse_status(status: &str, name: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_and_threads_are_read() {
        let status = "Name:\tweaved\nVmRSS:\t   12345 kB\nThreads:\t5\n";
        assert_eq!(parse_status(status, "VmRSS"), Some(12_345.0));
        assert_eq!(parse_status(status, "Threads"), Some(5.0));
        assert_eq!(parse_status(status, "Vm"), None);
    }
}

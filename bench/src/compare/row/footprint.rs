//! Memory and threads of a data plane that has been told of very many peers, and of one that knows nobody.
//!
//! The peers do not exist: their addresses are on the link and answer nothing, so the data plane tries them all.

use std::{fs, net::SocketAddr, sync::Arc, time::Duration};

use weaved_api::PeerId;
use weaved_netns_tests::{Host, Lab};

use super::less;
use crate::compare::{
    plan::Plan,
    record::Figure,
    side::{Dataplane, desired_state, peer_at},
};

pub(super) fn measure(lab: &mut Lab, plan: &Plan, report: &mut dyn FnMut(u32, Figure)) -> Result<(), String> {
    for (number, count) in [0, plan.silent_peer_count].into_iter().enumerate() {
        let host = lab.host(&format!("f{number}"));
        let (kib, thread_count) = look(&host, count, plan.settle_time)?;
        let peers = if count == 0 { "no peers".to_owned() } else { format!("{count} silent peers") };
        report(0, less(format!("memory, {peers}"), kib * 1024.0, "byte"));
        report(0, less(format!("threads, {peers}"), thread_count, ""));
    }
    Ok(())
}

/// Resident kibibytes and threads.
fn look(host: &Arc<Host>, peer_count: u32, settle_time: Duration) -> Result<(f64, f64), String> {
    let peers = (0..peer_count).map(|number| {
        let mut id = [0xa5; 32];
        id[..4].copy_from_slice(&number.to_le_bytes());
        let [_, _, high, low] = number.to_be_bytes();
        let endpoint = SocketAddr::from(([192, 168, 77, 200 + high % 50], 20_000 + u16::from(low)));
        peer_at(PeerId(id), endpoint)
    });
    let dataplane = Dataplane::start(host, &desired_state(2, peers.collect()))?;
    // There is no condition to wait for: what is asked is what it comes to in this time.
    std::thread::sleep(settle_time);
    let path = format!("/proc/{}/status", dataplane.pid());
    let status = fs::read_to_string(&path).map_err(|error| format!("cannot read {path}: {error}"))?;
    let field = |name| parse_status(&status, name).ok_or_else(|| format!("{path} has no {name}"));
    Ok((field("VmRSS")?, field("Threads")?))
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

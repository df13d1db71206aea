//! TCP streams by iperf3: goodput at the receiver after a second that does not count, and CPU seconds per GB.

use std::time::Duration;

use serde_json::Value;

use super::{Path, Way, less, more};
use crate::compare::{
    meter::Meter,
    plan::{Plan, TcpEnd},
    record::Figure,
    side::Side,
};

/// What a measurement may take longer than planned.
const SLACK: Duration = Duration::from_secs(20);
/// What is not counted at the beginning, in seconds.
const OMITTED: &str = "1";
/// What is sent when nothing is to be measured.
const FEW_BYTES: &str = "20M";
/// iperf3 takes one client at a time and says so when the last one is not quite gone.
const TRIES: u32 = 5;

pub(super) fn measure(side: &Side, plan: &Plan, streams: u8, way: Way, path: Path) -> Result<Vec<Figure>, String> {
    let meter = Meter::start(side.running.pids());
    let flow = stream(side, plan, plan.time, streams, way)?;
    let used = meter.stop();
    let title = title(streams, way, path);
    let goodput = more(&title, flow.bits_per_second, "bit/s");
    if path != Path::Clean {
        return Ok(vec![goodput]);
    }
    let gigabytes = flow.bytes / 1e9;
    let machine = less(format!("CPU of the machine, {title}"), used.machine / gigabytes, "s/GB");
    let own = less(format!("CPU of the overlay's processes, {title}"), used.processes / gigabytes, "s/GB");
    let has_processes = !side.running.pids().is_empty();
    Ok([goodput, machine].into_iter().chain(has_processes.then_some(own)).collect())
}

fn title(streams: u8, way: Way, path: Path) -> String {
    let way = match way {
        Way::There => "",
        Way::Back => ", back",
        Way::Both => ", both ways",
    };
    let path = match path {
        Path::Clean => String::new(),
        Path::Lossy(share) => format!(", {} % lost", share * 100.0),
        Path::Reordering => ", 20 ms, 0.5 % reordered".to_owned(),
    };
    format!("TCP, {streams} stream{}{way}{path}", if streams == 1 { "" } else { "s" })
}

/// What iperf3 has moved.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Flow {
    /// At the receivers, both ways together.
    pub(super) bits_per_second: f64,
    /// All bytes, those of the time that does not count too.
    pub(super) bytes: f64,
}

/// Runs iperf3 to its end.
pub(super) fn stream(side: &Side, plan: &Plan, time: Duration, streams: u8, way: Way) -> Result<Flow, String> {
    let (to, seconds, streams) = (side.address.to_string(), time.as_secs().max(1).to_string(), streams.to_string());
    let mut client = vec!["iperf3", "--client", &to, "--json", "-P", &streams];
    match plan.tcp_end {
        TcpEnd::Time => client.extend(["--time", &seconds, "--omit", OMITTED]),
        TcpEnd::Soon => client.extend(["--bytes", FEW_BYTES]),
    }
    match way {
        Way::There => {}
        Way::Back => client.push("--reverse"),
        Way::Both => client.push("--bidir"),
    }
    let mut reason = String::new();
    for _ in 0..TRIES {
        let output = side.from.run_within(time + SLACK, &client);
        match parse(&output.stdout) {
            Ok(flow) => return Ok(flow),
            Err(error) => reason = error,
        }
        // It is busy with a client that has gone, or the side is so bad that iperf3 gave up: the next try tells.
        std::thread::sleep(Duration::from_millis(500));
    }
    Err(format!("iperf3: {reason}"))
}

fn parse(json: &str) -> Result<Flow, String> {
    let report: Value = serde_json::from_str(json).map_err(|_| "it did not end in time".to_owned())?;
    if let Some(error) = report["error"].as_str() {
        return Err(error.to_owned());
    }
    let end = |name: &str| report["end"][name]["bits_per_second"].as_f64().unwrap_or(0.0);
    let bits_per_second = end("sum_received") + end("sum_received_bidir_reverse");
    let intervals = report["intervals"].as_array().map(Vec::as_slice).unwrap_or_default();
    let bytes = |name: &str| -> f64 { intervals.iter().filter_map(|interval| interval[name]["bytes"].as_f64()).sum() };
    let flow = Flow { bits_per_second, bytes: bytes("sum") + bytes("sum_bidir_reverse") };
    if flow.bits_per_second > 0.0 { Ok(flow) } else { Err("nothing was received".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_receivers_rate_and_all_bytes_are_read() {
        let json = r#"{"intervals": [{"sum": {"bytes": 10, "omitted": true}}, {"sum": {"bytes": 20}}],
            "end": {"sum_sent": {"bits_per_second": 2.0}, "sum_received": {"bits_per_second": 1.5e9}}}"#;
        assert_eq!(parse(json), Ok(Flow { bits_per_second: 1.5e9, bytes: 30.0 }));
        let both = r#"{"intervals": [{"sum": {"bytes": 10}, "sum_bidir_reverse": {"bytes": 5}}],
            "end": {"sum_received": {"bits_per_second": 1.0}, "sum_received_bidir_reverse": {"bits_per_second": 2.0}}}"#;
        assert_eq!(parse(both), Ok(Flow { bits_per_second: 3.0, bytes: 15.0 }));
        assert_eq!(parse(r#"{"error": "unable to connect"}"#), Err("unable to connect".to_owned()));
        assert!(parse("").is_err());
    }

    #[test]
    fn titles_say_what_is_measured() {
        assert_eq!(title(1, Way::There, Path::Lossy(0.001)), "TCP, 1 stream, 0.1 % lost");
        assert_eq!(title(8, Way::Both, Path::Clean), "TCP, 8 streams, both ways");
    }
}

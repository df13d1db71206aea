//! One turn of one side: a TCP stream, a series of pings.

use std::time::Duration;

use serde_json::Value;
use weaved_netns_tests::Place;

use super::{sides::Side, summary::median};

/// What a measurement may take longer than planned.
const SLACK: Duration = Duration::from_secs(20);

/// Goodput of one TCP stream, after a second that does not count.
#[track_caller]
pub(super) fn tcp_bits_per_second(side: &Side, time: Duration) -> f64 {
    let (to, seconds) = (side.to.address().to_string(), time.as_secs().to_string());
    let client = ["iperf3", "--client", &to, "--time", &seconds, "--omit", "1", "--json"];
    let output = side.from.run_within(time + SLACK, &client).ok();
    parse_iperf3(&output.stdout).unwrap_or_else(|| panic!("iperf3 has not measured anything\n{output}"))
}

/// Median round trip of pings at intervals of 2 ms.
#[track_caller]
pub(super) fn ping_median_us(side: &Side, count: u32) -> f64 {
    let (to, count) = (side.to.address().to_string(), count.to_string());
    let output = side.from.run(&["ping", "-n", "-i", "0.002", "-c", &count, &to]).ok();
    let times = parse_ping(&output.stdout);
    median(&times).unwrap_or_else(|| panic!("no ping was answered\n{output}"))
}

/// What the receiver got.
fn parse_iperf3(json: &str) -> Option<f64> {
    let report: Value = serde_json::from_str(json).ok()?;
    report["end"]["sum_received"]["bits_per_second"].as_f64().filter(|rate| *rate > 0.0)
}

/// The round trips, in microseconds.
fn parse_ping(text: &str) -> Vec<f64> {
    let millis = |line: &str| line.split("time=").nth(1)?.split(' ').next()?.parse::<f64>().ok();
    text.lines().filter_map(millis).map(|millis| millis * 1000.0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_receivers_rate_is_read() {
        let json = r#"{"end": {"sum_sent": {"bits_per_second": 2.0}, "sum_received": {"bits_per_second": 1.5e9}}}"#;
        assert_eq!(parse_iperf3(json), Some(1.5e9));
        assert_eq!(parse_iperf3(r#"{"error": "unable to connect"}"#), None);
        assert_eq!(parse_iperf3(""), None);
    }

    #[test]
    fn round_trips_are_read() {
        let text = "PING 10.32.1.2 (10.32.1.2) 56(84) bytes of data.\n\
                    64 bytes from 10.32.1.2: icmp_seq=1 ttl=64 time=0.125 ms\n\
                    64 bytes from 10.32.1.2: icmp_seq=2 ttl=64 time=1 ms\n\
                    rtt min/avg/max/mdev = 0.125/0.562/1.000/0.437 ms\n";
        assert_eq!(parse_ping(text), [125.0, 1000.0]);
    }
}

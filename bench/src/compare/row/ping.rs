//! Round trips: what `ping` says at intervals of 2 ms.

use std::time::Duration;

use super::{Way, less, tcp};
use crate::compare::{plan::Plan, record::Figure, side::Side, summary::quantile};
use weaved_netns_tests::Place;

/// Between pings.
const INTERVAL: &str = "0.002";
/// The same, as time.
const INTERVAL_TIME: Duration = Duration::from_millis(2);
/// By how much the stream begins earlier.
const LEAD: Duration = Duration::from_secs(1);
/// What a ping that is answered late may add.
const SLACK: Duration = Duration::from_secs(20);

/// Round trips and how many pings had no answer.
pub(super) struct Pings {
    micros: Vec<f64>,
    sent: u32,
}

pub(super) fn idle(side: &Side, plan: &Plan) -> Result<Vec<Figure>, String> {
    run(&*side.from, &side.address.to_string(), plan.ping_count)?.figures("ping")
}

pub(super) fn under_bulk(side: &Side, plan: &Plan) -> Result<Vec<Figure>, String> {
    let pings = std::thread::scope(|scope| {
        // The stream begins earlier and ends later.
        let bulk = scope.spawn(|| tcp::stream(side, plan, plan.time + LEAD, 1, Way::There));
        std::thread::sleep(LEAD.min(plan.time));
        let pings = run(&*side.neighbour.0, &side.neighbour.1.to_string(), count_in(plan.time));
        bulk.join().map_err(|_| "the TCP stream broke".to_owned())??;
        pings
    })?;
    pings.figures("ping under a TCP stream")
}

/// So many pings take about this time.
pub(super) fn count_in(time: Duration) -> u32 {
    (time.as_micros() / INTERVAL_TIME.as_micros()) as u32
}

/// Runs `ping` to its end.
pub(super) fn run(from: &dyn Place, to: &str, count: u32) -> Result<Pings, String> {
    let sent = count;
    let deadline = INTERVAL_TIME * count * 3 + SLACK;
    let count = count.to_string();
    let output = from.run_within(deadline, &["ping", "-n", "-i", INTERVAL, "-c", &count, "-W", "1", to]);
    let micros = parse(&output.stdout);
    if micros.is_empty() {
        return Err(format!("no ping was answered: {}", output.stderr.lines().next().unwrap_or("no reason given")));
    }
    Ok(Pings { micros, sent })
}

impl Pings {
    pub(super) fn figures(&self, title: &str) -> Result<Vec<Figure>, String> {
        let of = |share| quantile(&self.micros, share).ok_or_else(|| "no ping was answered".to_owned());
        Ok(vec![
            less(format!("{title}, median"), of(0.5)?, "µs"),
            less(format!("{title}, 99th percentile"), of(0.99)?, "µs"),
        ])
    }

    /// Share of pings without an answer, in percent.
    pub(super) fn lost_percent(&self) -> f64 {
        let lost = self.sent.saturating_sub(self.micros.len() as u32);
        100.0 * f64::from(lost) / f64::from(self.sent.max(1))
    }
}

/// The round trips, in microseconds.
fn parse(text: &str) -> Vec<f64> {
    let millis = |line: &str| line.split("time=").nth(1)?.split(' ').next()?.parse::<f64>().ok();
    text.lines().filter_map(millis).map(|millis| millis * 1000.0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips_are_read() {
        let text = "PING 10.32.1.2 (10.32.1.2) 56(84) bytes of data.\n\
                    64 bytes from 10.32.1.2: icmp_seq=1 ttl=64 time=0.125 ms\n\
                    64 bytes from 10.32.1.2: icmp_seq=2 ttl=64 time=1 ms\n\
                    rtt min/avg/max/mdev = 0.125/0.562/1.000/0.437 ms\n";
        assert_eq!(parse(text), [125.0, 1000.0]);
    }

    #[test]
    fn unanswered_pings_are_a_share() {
        let pings = Pings { micros: vec![10.0; 3], sent: 4 };
        assert!((pings.lost_percent() - 25.0).abs() < 1e-9);
    }
}

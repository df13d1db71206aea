//! Datagrams: the highest rate at which hardly any is lost, and what becomes of a flood and of its neighbour.

use std::time::Duration;

use serde_json::Value;
use weaved_netns_tests::{Output, Place};

use super::{less, more, ping};
use crate::compare::{
    plan::Plan,
    record::Figure,
    side::{RATE_PORT, Side},
};

/// Length of the flood's datagrams.
const FLOOD_LEN: &str = "1400";
/// A search takes some tens of tries at most.
const SLACK: Duration = Duration::from_secs(40);

/// What the traffic tool reports.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Report {
    packets_per_second: f64,
    loss: f64,
}

pub(super) fn rate(side: &Side, plan: &Plan, len: u16) -> Result<Vec<Figure>, String> {
    let rate = rate_to(&*side.from, plan, &side.address.to_string(), len)?;
    Ok(vec![figure(format!("UDP {len} B, less than 0.1 % lost"), rate)])
}

/// Datagrams a second from a place to an address, or to several with commas between them in turns.
pub(super) fn rate_to(from: &dyn Place, plan: &Plan, to: &str, len: u16) -> Result<f64, String> {
    let (len, millis) = (len.to_string(), plan.probe_time.as_millis().to_string());
    let output = from.run_labtool(SLACK, &["rate-find", to, RATE_PORT, &len, &millis]);
    let report = parse(&output)?;
    if report.packets_per_second <= 0.0 {
        return Err("at every rate more than 0.1 % were lost".to_owned());
    }
    Ok(report.packets_per_second)
}

/// What is said of such a rate.
pub(super) fn figure(name: String, rate: f64) -> Figure {
    more(name, rate, "packets/s")
}

pub(super) fn flood(side: &Side, plan: &Plan) -> Result<Vec<Figure>, String> {
    let (to, millis) = (side.address.to_string(), plan.time.as_millis().to_string());
    let (report, pings) = std::thread::scope(|scope| {
        let blast = ["rate-blast", &to, RATE_PORT, FLOOD_LEN, &millis];
        let flood = scope.spawn(move || side.from.run_labtool(SLACK, &blast));
        // A little before the flood ends.
        let count = ping::count_in(plan.time.mul_f64(0.8));
        let pings = ping::run(&*side.neighbour.0, &side.neighbour.1.to_string(), count);
        (flood.join().map_err(|_| "the flood broke".to_owned()), pings)
    });
    let (report, pings) = (parse(&report?)?, pings?);
    let mut figures = vec![
        less("UDP flood 1400 B, lost", report.loss * 100.0, "%"),
        more("UDP flood 1400 B, arrived", report.packets_per_second, "packets/s"),
    ];
    figures.extend(pings.figures("ping beside a UDP flood")?);
    figures.push(less("ping beside a UDP flood, lost", pings.lost_percent(), "%"));
    Ok(figures)
}

fn parse(output: &Output) -> Result<Report, String> {
    let json: Value = serde_json::from_str(output.stdout.trim()).unwrap_or_default();
    let number = |name: &str| json[name].as_f64();
    let report = number("packets_per_second").zip(number("loss"));
    let (packets_per_second, loss) = report
        .ok_or_else(|| format!("the traffic tool: {}", output.stderr.lines().next().unwrap_or("no end in time")))?;
    Ok(Report { packets_per_second, loss })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tools_report_is_read() {
        let output = |stdout: &str, stderr: &str| Output {
            line: String::new(),
            code: Some(0),
            stdout: stdout.to_owned(),
            stderr: stderr.to_owned(),
        };
        let report = parse(&output(r#"{"packets_per_second": 1000.5, "loss": 0.0005}"#, ""));
        assert_eq!(report, Ok(Report { packets_per_second: 1000.5, loss: 0.0005 }));
        assert!(parse(&output("", "labtool: refused")).unwrap_err().contains("refused"));
    }
}

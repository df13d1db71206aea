//! HTTP requests one after the other on connections that are kept, as a service asks another.

use std::time::Duration;

use serde_json::Value;

use super::{less, more};
use crate::compare::{
    plan::Plan,
    record::Figure,
    side::{HTTP_PORT, Side},
};

const SLACK: Duration = Duration::from_secs(20);

pub(super) fn measure(side: &Side, plan: &Plan) -> Result<Vec<Figure>, String> {
    let (to, connections) = (side.address.to_string(), plan.connection_count.to_string());
    let millis = plan.time.as_millis().to_string();
    let output = side.from.run_labtool(plan.time + SLACK, &["http-load", &to, HTTP_PORT, &connections, &millis]);
    let json: Value = serde_json::from_str(output.stdout.trim()).unwrap_or_default();
    let number = |name: &str| {
        let reason = || format!("the traffic tool: {}", output.stderr.lines().next().unwrap_or("no end in time"));
        json[name].as_f64().ok_or_else(reason)
    };
    Ok(vec![
        more("HTTP, keep-alive", number("requests_per_second")?, "requests/s"),
        less("HTTP, median", number("p50_us")?, "µs"),
        less("HTTP, 99th percentile", number("p99_us")?, "µs"),
        less("HTTP, 99.9th percentile", number("p999_us")?, "µs"),
    ])
}

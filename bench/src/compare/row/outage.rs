//! How long containers are cut off when the data plane is killed.
//!
//! The bench starts it again at once, as the supervisor of a real host does. So this is the time of a new process, its
//! devices, a handshake and the first frame; what the supervisor needs to notice is not in it.

use weaved_netns_tests::{Lab, SOON, traffic::Flood, wait_until};

use super::less;
use crate::compare::{
    plan::Plan,
    record::Figure,
    side::{Between, Running, Side, Subject, Underlay},
};

/// Requests, one a millisecond, after which a report is surely younger than what was done before them.
const REPORT_AGE: u64 = 50;

pub(super) fn measure(lab: &mut Lab, plan: &Plan, report: &mut dyn FnMut(u32, Figure)) -> Result<(), String> {
    for subject in Subject::parse("weaved")? {
        let mut side = Side::start(lab, "k", &subject, Between::Guests, Underlay::Cable)?;
        for turn in 0..plan.kill_count {
            report(turn, less("outage, data plane killed", kill_ms(&mut side), "ms"));
        }
    }
    Ok(())
}

/// Kills the sending side's data plane under a datagram a millisecond; the longest time between two answers.
#[track_caller]
fn kill_ms(side: &mut Side) -> f64 {
    let flood = Flood::start(&*side.from, &*side.to, &side.address.to_string());
    if let Running::Weaved(dataplanes) = &mut side.running
        && let Some(killed) = dataplanes.first_mut()
    {
        killed.kill();
        killed.start_again();
    }
    // The flood's reports are some tens of milliseconds old: one from before the kill would say that all is well.
    let sent = flood.report().sent;
    wait_until("the flood has gone on", SOON, || flood.report().sent > sent + REPORT_AGE);
    flood.wait_until_flowing();
    flood.report().longest_gap.as_secs_f64() * 1000.0
}

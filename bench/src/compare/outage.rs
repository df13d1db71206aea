//! How long containers are cut off when the data plane is killed.
//!
//! The bench starts it again at once, as the supervisor of a real host does. So this is the time of a new process, its
//! devices, a handshake and the first frame; what the supervisor needs to notice is not in it.

use weaved_netns_tests::{SOON, traffic::Flood, wait_until};

use super::sides::Sides;

/// Requests, one a millisecond, after which a report is surely younger than what was done before them.
const REPORT_AGE: u64 = 50;

/// Kills the sending side's data plane under a datagram a millisecond; the longest time between two answers.
#[track_caller]
pub(super) fn kill_ms(sides: &mut Sides) -> f64 {
    let side = sides.weaved();
    let flood = Flood::start(&side.from, &side.to, &side.to.address().to_string());
    let [killed, _] = &mut sides.dataplanes;
    killed.kill();
    killed.start_again();
    // The flood's reports are some tens of milliseconds old: one from before the kill would say that all is well.
    let sent = flood.report().sent;
    wait_until("the flood has gone on", SOON, || flood.report().sent > sent + REPORT_AGE);
    flood.wait_until_flowing();
    flood.report().longest_gap.as_secs_f64() * 1000.0
}

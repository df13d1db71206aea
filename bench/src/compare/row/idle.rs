//! CPU time of a data plane that is connected with many peers and has nothing to carry.
//!
//! The peers are data planes that know only the one in the middle, so each has one session and it has all of them.

use std::{fs, sync::Arc};

use weaved_netns_tests::{Host, Lab, Place, SOON, wait_until};

use super::less;
use crate::compare::{
    plan::Plan,
    record::Figure,
    side::{Dataplane, desired_state, peer},
};

pub(super) fn measure(lab: &mut Lab, plan: &Plan, report: &mut dyn FnMut(u32, Figure)) -> Result<(), String> {
    let count = plan.idle_peer_count;
    let middle = lab.host("m");
    let others: Vec<Arc<Host>> = (1..=count).map(|number| lab.host(&format!("o{number}"))).collect();
    let peers = others.iter().zip(1..).map(|(host, number)| peer(number, host.ipv4()));
    let dataplane = Dataplane::start(&middle, &desired_state(0, peers.collect()))?;
    let mut running = Vec::new();
    for (host, number) in others.iter().zip(1..) {
        running.push(Dataplane::start(host, &desired_state(number, vec![peer(0, middle.ipv4())]))?);
    }
    for number in 1..=count {
        let gateway = format!("10.32.{number}.1");
        let ping = ["ping", "-c", "1", "-W", "1", &gateway];
        wait_until(&format!("{gateway} answers"), SOON, || middle.run(&ping).success());
    }
    // There is no condition to wait for: discovery of the paths and what starting has left is to be over.
    std::thread::sleep(plan.settle_time);
    let before = nanos(dataplane.pid())?;
    std::thread::sleep(plan.idle_time);
    let share = (nanos(dataplane.pid())? - before) / 1e9 / plan.idle_time.as_secs_f64();
    report(0, less(format!("idle CPU, {count} connected peers"), share * 100.0, "%"));
    drop(running);
    Ok(())
}

/// Time on a processor of all threads, in nanoseconds: the first number of `schedstat`.
fn nanos(pid: u32) -> Result<f64, String> {
    let dir = format!("/proc/{pid}/task");
    let threads = fs::read_dir(&dir).map_err(|error| format!("{dir}: {error}"))?;
    let of_thread = |path: std::path::PathBuf| {
        let text = fs::read_to_string(path.join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<f64>().ok()
    };
    Ok(threads.flatten().filter_map(|thread| of_thread(thread.path())).sum())
}

//! Small datagrams of one guest to guests of several hosts in turns, as a database sends answers, and beside that to one of
//! them: what it costs that neighbours in a queue go to different peers.

use weaved_netns_tests::{Lab, Place, Process, SOON, traffic, wait_until};

use super::udp;
use crate::compare::{
    plan::Plan,
    record::Figure,
    side::{DOCKER_MTU, Dataplane, RATE_PORT, desired_state, peer},
};

/// Hosts that receive.
const HOST_COUNT: u8 = 4;
/// Of a datagram.
const LEN: u16 = 64;

pub(super) fn measure(lab: &mut Lab, plan: &Plan, report: &mut dyn FnMut(u32, Figure)) -> Result<(), String> {
    let hosts: Vec<_> = (0..=HOST_COUNT).map(|number| lab.host(&format!("n{number}"))).collect();
    let peers: Vec<_> = hosts.iter().zip(0..).map(|(host, number)| peer(number, host.ipv4())).collect();
    let mut running = Vec::new();
    for (host, number) in hosts.iter().zip(0..) {
        let others = peers.iter().zip(0..).filter(|(_, other)| *other != number);
        let desired = desired_state(number, others.map(|(peer, _)| peer.clone()).collect());
        running.push(Dataplane::start(host, &desired)?);
    }
    let guests: Vec<_> =
        hosts.iter().zip(0..).map(|(host, number)| host.guest(&format!("10.32.{number}.2/12"), DOCKER_MTU)).collect();
    let (from, receivers) = guests.split_first().ok_or("there are no hosts")?;
    let addresses: Vec<String> = receivers.iter().map(|guest| guest.address().to_string()).collect();
    for address in &addresses {
        let ping = ["ping", "-c", "1", "-W", "1", address];
        wait_until(&format!("{address} answers"), SOON, || from.run(&ping).success());
    }
    let _servers: Vec<Process> =
        receivers.iter().map(|guest| traffic::serve(guest, &["rate-serve", RATE_PORT])).collect();
    for turn in 0..plan.pair_count {
        let one = udp::rate_to(from, plan, &addresses[0], LEN)?;
        report(turn, udp::figure(format!("UDP {LEN} B to one host of {HOST_COUNT}"), one));
        let all = udp::rate_to(from, plan, &addresses.join(","), LEN)?;
        report(turn, udp::figure(format!("UDP {LEN} B to {HOST_COUNT} hosts in turns"), all));
    }
    Ok(())
}

//! The straight way, as a measure of what everything else buys: our own forwarder of one frame for each read.

use std::{
    net::{IpAddr, Ipv4Addr},
    path::Path,
    sync::Arc,
};

use weaved_netns_tests::{Host, Place};

use crate::one_frame::OVERHEAD;

use super::{Joined, Layer, Running, await_interface, text};

const PORT: u16 = 6790;
const TAP: &str = "one0";
/// A frame, its Ethernet header included, has to fit into one datagram.
const MTU: u16 = 1500 - OVERHEAD;

pub(super) fn join(hosts: &[Arc<Host>; 2], program: &Path) -> Result<Joined, String> {
    let (program, mtu) = (text(program), MTU.to_string());
    let mut processes = Vec::new();
    for (number, host) in hosts.iter().enumerate() {
        let (listen, other) = (format!("0.0.0.0:{PORT}"), format!("{}:{PORT}", hosts[1 - number].ipv4()));
        let mut process = host.spawn(&[&program, TAP, &listen, &other]);
        await_interface(host, TAP, &mut process)?;
        host.ip(&["link", "add", "weave", "mtu", &mtu, "type", "bridge"]);
        host.ip(&["addr", "add", &format!("10.32.{number}.1/12"), "dev", "weave"]);
        host.ip(&["link", "set", "weave", "up"]);
        host.ip(&["link", "set", TAP, "mtu", &mtu, "master", "weave", "up"]);
        processes.push(process);
    }
    let addresses = [0, 1].map(|number| IpAddr::from(Ipv4Addr::new(10, 32, number, 1)));
    Ok(Joined { addresses, layer: Layer::Ethernet { mtu: MTU, max_gso_len: None }, running: Running::Peers(processes) })
}

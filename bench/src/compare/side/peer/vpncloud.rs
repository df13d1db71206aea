//! `VpnCloud` with a shared password, routing IP, or switching Ethernet as containers need it. It picks the fastest of its ciphers at start.

use std::{path::Path, sync::Arc};

use weaved_netns_tests::{Host, Place, Process};

use super::{INTERFACE, Joined, address, bridge, joined_by_bridges, set_up_interface, text};

const PORT: u16 = 3210;
/// Leaves 100 bytes for Ethernet, IPv4, UDP and what it adds itself.
const BRIDGED_MTU: u16 = 1400;

/// Routes IP.
pub(super) fn start(hosts: &[Arc<Host>; 2], program: &Path) -> Result<Vec<Process>, String> {
    let mut processes = Vec::new();
    for (number, host) in hosts.iter().enumerate() {
        let claim = format!("{}/32", address(number));
        let mut process = spawn(hosts, number, program, &["--type", "tun", "--no-auto-claim", "--claim", &claim]);
        set_up_interface(host, number, None, &mut process)?;
        processes.push(process);
    }
    Ok(processes)
}

/// Switches Ethernet between the bridges of two hosts.
pub(super) fn join_bridged(hosts: &[Arc<Host>; 2], program: &Path) -> Result<Joined, String> {
    let start = |number: usize| {
        let mut process = spawn(hosts, number, program, &["--type", "tap", "--mode", "switch"]);
        bridge(&hosts[number], number, INTERFACE, BRIDGED_MTU, &mut process).map(|address| (address, process))
    };
    Ok(joined_by_bridges([start(0)?, start(1)?], BRIDGED_MTU))
}

fn spawn(hosts: &[Arc<Host>; 2], number: usize, program: &Path, kind: &[&str]) -> Process {
    let host = &hosts[number];
    // It looks for its own address by the way to the internet and does not start without one.
    host.ip(&["route", "add", "default", "dev", "eth0"]);
    let (program, other) = (text(program), format!("{}:{PORT}", hosts[1 - number].ipv4()));
    let listen = PORT.to_string();
    let network = ["--device", INTERFACE, "--no-port-forwarding", "--listen", &listen, "--peer", &other];
    // Passwords are not for argument lists; this one protects nothing but a bench.
    let start = ["env", "PASSWORD=bench", &program];
    host.spawn(&[&start[..], kind, &network].concat())
}

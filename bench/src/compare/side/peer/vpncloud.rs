//! `VpnCloud` with a shared password, routing IP. It picks the fastest of its ciphers at start.

use std::{path::Path, sync::Arc};

use weaved_netns_tests::{Host, Place, Process};

use super::{INTERFACE, address, set_up_interface, text};

const PORT: u16 = 3210;

pub(super) fn start(hosts: &[Arc<Host>; 2], program: &Path) -> Result<Vec<Process>, String> {
    let program = text(program);
    let mut processes = Vec::new();
    for (number, host) in hosts.iter().enumerate() {
        // It looks for its own address by the way to the internet and does not start without one.
        host.ip(&["route", "add", "default", "dev", "eth0"]);
        let claim = format!("{}/32", address(number));
        let other = format!("{}:{PORT}", hosts[1 - number].ipv4());
        let listen = PORT.to_string();
        let interface = ["--type", "tun", "--device", INTERFACE, "--no-auto-claim", "--claim", &claim];
        let network = ["--no-port-forwarding", "--listen", &listen, "--peer", &other];
        // Passwords are not for argument lists; this one protects nothing but a bench.
        let start = ["env", "PASSWORD=bench", &program];
        let mut process = host.spawn(&[&start[..], &interface, &network].concat());
        set_up_interface(host, number, None, &mut process)?;
        processes.push(process);
    }
    Ok(processes)
}

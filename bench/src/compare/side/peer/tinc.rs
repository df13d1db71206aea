//! tinc 1.0 in its usual mode, which routes IP. It finds out by itself how large a packet may be.

use std::{fs, path::Path, sync::Arc};

use weaved_netns_tests::{Host, Place, Process};

use super::{INTERFACE, address, make_dir, run, set_up_interface, text, write};

pub(super) fn start(hosts: &[Arc<Host>; 2], program: &Path) -> Result<Vec<Process>, String> {
    let program = text(program);
    let dirs = [make_dir(&hosts[0], "tinc")?, make_dir(&hosts[1], "tinc")?];
    for (number, host) in hosts.iter().enumerate() {
        let dir = &dirs[number];
        make_dir(host, "tinc/hosts")?;
        // The second one connects: the first is there then, and a failed try costs seconds.
        let connect = if number == 1 { "ConnectTo = host0\n" } else { "" };
        let config = format!("Name = host{number}\nInterface = {INTERFACE}\nAddressFamily = ipv4\n{connect}");
        write(&dir.join("tinc.conf"), &config)?;
        let own = format!("Address = {}\nSubnet = {}/32\n", host.ipv4(), address(number));
        write(&dir.join(format!("hosts/host{number}")), &own)?;
        // Its key goes behind the lines above.
        run(host, &[&program, "-c", &text(dir), "-K", "2048"])?;
    }
    for number in 0..2 {
        let name = format!("hosts/host{number}");
        let copied = fs::copy(dirs[number].join(&name), dirs[1 - number].join(&name));
        copied.map_err(|error| format!("cannot copy a key: {error}"))?;
    }
    let mut processes = Vec::new();
    for (number, host) in hosts.iter().enumerate() {
        let pid_file = format!("--pidfile={}", text(&dirs[number].join("pid")));
        let mut process = host.spawn(&[&program, "-c", &text(&dirs[number]), "-D", &pid_file]);
        set_up_interface(host, number, None, &mut process)?;
        processes.push(process);
    }
    Ok(processes)
}

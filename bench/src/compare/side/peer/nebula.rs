//! Nebula: a certificate for each host, no lighthouse, everything allowed.

use std::{path::Path, sync::Arc};

use weaved_netns_tests::{Host, Place, Process};

use super::{INTERFACE, address, await_interface, make_dir, run, text, write};

const PORT: u16 = 4242;
/// What its header, its tag, UDP and IPv4 leave of 1,500 bytes.
const MTU: u16 = 1440;

pub(super) fn start(hosts: &[Arc<Host>; 2], program: &Path) -> Result<Vec<Process>, String> {
    let beside = program.with_file_name("nebula-cert");
    let tool = if beside.is_file() { text(&beside) } else { "nebula-cert".to_owned() };
    let dir = make_dir(&hosts[0], "nebula")?;
    let [ca, ca_key] = ["ca.crt", "ca.key"].map(|name| text(&dir.join(name)));
    run(&hosts[0], &[&tool, "ca", "-name", "bench", "-out-crt", &ca, "-out-key", &ca_key])?;
    let mut processes = Vec::new();
    for (number, host) in hosts.iter().enumerate() {
        let [crt, key, config] = ["crt", "key", "yml"].map(|end| dir.join(format!("{number}.{end}")));
        let (crt, key, ip) = (text(&crt), text(&key), format!("{}/24", address(number)));
        let name = number.to_string();
        let sign = [&tool, "sign", "-ca-crt", &ca, "-ca-key", &ca_key, "-name", &name, "-ip", &ip];
        run(host, &[&sign[..], &["-out-crt", &crt, "-out-key", &key]].concat())?;
        let other = (address(1 - number), hosts[1 - number].ipv4());
        write(
            &config,
            &format!(
                "pki: {{ca: {ca}, cert: {crt}, key: {key}}}\n\
                 static_host_map: {{\"{}\": [\"{}:{PORT}\"]}}\n\
                 lighthouse: {{am_lighthouse: false, hosts: []}}\n\
                 listen: {{host: 0.0.0.0, port: {PORT}}}\n\
                 tun: {{dev: {INTERFACE}, mtu: {MTU}}}\n\
                 logging: {{level: warning, format: text}}\n\
                 firewall:\n\
                 \x20 outbound: [{{port: any, proto: any, host: any}}]\n\
                 \x20 inbound: [{{port: any, proto: any, host: any}}]\n",
                other.0, other.1,
            ),
        )?;
        let mut process = host.spawn(&[&text(program), "-config", &text(&config)]);
        await_interface(host, INTERFACE, &mut process)?;
        processes.push(process);
    }
    Ok(processes)
}

//! Implementations of WireGuard in userspace, configured through their socket (the cross-platform interface that
//! `wg` speaks too).

use std::{
    fmt::Write as _,
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    sync::Arc,
};

use weaved_core::noise::peer_id_of;
use weaved_netns_tests::{Host, Place, Process};

use super::{super::weaved::identity, INTERFACE, address, await_condition, set_up_interface, text};

const PORT: u16 = 51820;
/// What WireGuard's headers leave of 1,500 bytes over IPv6, as `wg-quick` sets it.
const MTU: u16 = 1420;
/// The socket of an interface has a fixed path, which all hosts of the lab share; so each has a file system of its own
/// there.
const OWN_SOCKETS: &str = r#"mkdir -p /run/wireguard && mount -t tmpfs none /run/wireguard && exec "$0" "$@""#;

pub(super) fn start(hosts: &[Arc<Host>; 2], program: &Path, args: &[&str]) -> Result<Vec<Process>, String> {
    let program = text(program);
    let command = [&["unshare", "--mount", "sh", "-c", OWN_SOCKETS, program.as_str()], args].concat();
    let mut processes = Vec::new();
    for (number, host) in hosts.iter().enumerate() {
        let mut process = host.spawn(&command);
        configure(&mut process, number, &hosts[1 - number])?;
        set_up_interface(host, number, Some(MTU), &mut process)?;
        processes.push(process);
    }
    Ok(processes)
}

/// Tells one end of its key and of the other end.
fn configure(process: &mut Process, number: usize, other: &Host) -> Result<(), String> {
    // Seen from inside the process, where its socket is.
    let path = format!("/proc/{}/root/run/wireguard/{INTERFACE}.sock", process.pid());
    let mut socket = None;
    await_condition(process, "socket", || {
        socket = UnixStream::connect(&path).ok();
        socket.is_some()
    })?;
    let mut socket = socket.ok_or("there is no socket")?;
    // A key of zeros counts as none.
    let keys = [number, 1 - number].map(|number| identity(number as u8 + 1));
    let [own, peer] = [hex(&keys[0].0), hex(&peer_id_of(&keys[1]).0)];
    let request = format!(
        "set=1\nprivate_key={own}\nlisten_port={PORT}\nreplace_peers=true\npublic_key={peer}\n\
         endpoint={}:{PORT}\nreplace_allowed_ips=true\nallowed_ip={}/32\n\n",
        other.ipv4(),
        address(1 - number),
    );
    socket.write_all(request.as_bytes()).map_err(|error| format!("cannot configure: {error}"))?;
    let mut answer = [0; 64];
    let len = socket.read(&mut answer).map_err(|error| format!("cannot configure: {error}"))?;
    let answer = String::from_utf8_lossy(&answer[..len]).trim().to_owned();
    if answer == "errno=0" { Ok(()) } else { Err(format!("it refused its configuration: {answer}")) }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

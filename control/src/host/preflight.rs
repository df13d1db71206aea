//! What must hold on this machine before anything is changed. Each check gives one line that says what to do.

use std::{
    fs,
    net::{Ipv4Addr, Ipv6Addr, UdpSocket},
    os::unix::fs::FileTypeExt,
};

use ipnet::Ipv4Net;

use super::routes;
use crate::failure::Failure;

/// Bit of `CAP_NET_ADMIN` in `linux/capability.h`.
const CAP_NET_ADMIN: u32 = 12;

/// This process may make network devices.
pub fn may_administer_network() -> Result<(), Failure> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    if effective_capabilities(&status) >> CAP_NET_ADMIN & 1 == 1 {
        return Ok(());
    }
    let hint = if rustix::process::geteuid().is_root() {
        "this root has no CAP_NET_ADMIN: run it outside of the container, or give the container --cap-add NET_ADMIN"
    } else {
        "try again with sudo"
    };
    Err(Failure::refused(format!("launching needs the right to make network devices (CAP_NET_ADMIN); {hint}")))
}

/// The kernel can make TAP devices.
pub fn has_tun_device() -> Result<(), Failure> {
    match fs::metadata("/dev/net/tun") {
        Ok(metadata) if metadata.file_type().is_char_device() => Ok(()),
        _ => Err(Failure::refused(
            "/dev/net/tun is missing, so no network device can be made; run `modprobe tun`, or in a container pass \
             --device /dev/net/tun",
        )),
    }
}

/// Nobody else has the UDP port.
pub fn port_is_free(port: u16) -> Result<(), Failure> {
    let taken = |error: std::io::Error| {
        if error.kind() == std::io::ErrorKind::AddrInUse {
            let hint = "end that program, or choose another with --port on this host, which others name then when they \
                        connect to it (HOST:7000)";
            Failure::refused(format!("UDP port {port} is in use by another program; {hint}"))
        } else {
            Failure::refused(format!("cannot use UDP port {port}: {error}; choose another with --port"))
        }
    };
    UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).map_err(taken)?;
    match UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port)) {
        // A machine without IPv6 has nobody on its IPv6 port.
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => Err(taken(error)),
        _ => Ok(()),
    }
}

/// The range hides no route that this host uses.
pub fn range_is_free(range: Ipv4Net, own_bridge: &str) -> Result<(), Failure> {
    let routes =
        routes::read().map_err(|error| Failure::refused(format!("cannot read this host's routes: {error}")))?;
    match routes::overlap(&routes, range, own_bridge) {
        None => Ok(()),
        Some(route) => Err(Failure::refused(format!(
            "the address range {range} overlaps this host's route {} on {}; choose another one, the same on all \
             hosts, with --range",
            route.destination, route.interface
        ))),
    }
}

fn effective_capabilities(status: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    line.and_then(|digits| u64::from_str_radix(digits.trim(), 16).ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_read_from_the_status_file() {
        assert_eq!(effective_capabilities("Name:\tx\nCapEff:\t0000000000001000\n"), 1 << CAP_NET_ADMIN);
        assert_eq!(effective_capabilities("Name:\tx\n"), 0);
    }

    #[test]
    fn a_port_that_somebody_has_is_refused_by_number() {
        let holder = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = holder.local_addr().unwrap().port();
        let error = port_is_free(port).unwrap_err().to_string();
        assert!(error.contains(&port.to_string()) && error.contains("--port") && error.contains("HOST:"), "{error}");
        drop(holder);
        assert_eq!(port_is_free(port), Ok(()));
    }
}

//! The host's IPv4 routes, to find one that the overlay's range would hide.
//!
//! `/proc/net/route` has one line for each route; destination and mask are hexadecimal in the machine's byte order:
//!
//! ```text
//! Iface   Destination     Gateway         Flags   RefCnt  Use     Metric  Mask            MTU     Window  IRTT
//! eth0    0000200A        00000000        0001    0       0       0       0000F0FF        0       0       0
//! ```

use std::{fs, io, net::Ipv4Addr};

use ipnet::Ipv4Net;

/// `RTF_UP` of `linux/route.h`: the route is in use.
const FLAG_UP: u32 = 1;

/// One route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Interface that it leads to.
    pub interface: String,
    /// What it covers.
    pub destination: Ipv4Net,
}

/// The routes of this network namespace.
pub fn read() -> io::Result<Vec<Route>> {
    fs::read_to_string("/proc/self/net/route").map(|table| parse(&table))
}

/// The first route that shares addresses with the range: not the default route, and not through our own bridge.
pub fn overlap<'a>(routes: &'a [Route], range: Ipv4Net, own_bridge: &str) -> Option<&'a Route> {
    routes.iter().find(|route| {
        let common = route.destination.contains(&range) || range.contains(&route.destination);
        // Halves of the whole (0.0.0.0/1 and 128.0.0.0/1) are how VPNs write a default route.
        common && route.destination.prefix_len() > 1 && route.interface != own_bridge
    })
}

/// Lines that do not parse are not routes.
fn parse(table: &str) -> Vec<Route> {
    table.lines().skip(1).filter_map(parse_line).collect()
}

fn parse_line(line: &str) -> Option<Route> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let number = |index: usize| u32::from_str_radix(fields.get(index)?, 16).ok();
    let address = |index: usize| number(index).map(|value| Ipv4Addr::from(value.to_ne_bytes()));
    if number(3)? & FLAG_UP == 0 {
        return None;
    }
    let destination = Ipv4Net::with_netmask(address(1)?, address(7)?).ok()?.trunc();
    Some(Route { interface: (*fields.first()?).to_owned(), destination })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n";

    fn line(interface: &str, destination: [u8; 4], mask: [u8; 4], flags: u32) -> String {
        let (destination, mask) = (u32::from_ne_bytes(destination), u32::from_ne_bytes(mask));
        format!("{interface}\t{destination:08X}\t00000000\t{flags:04X}\t0\t0\t0\t{mask:08X}\t0\t0\t0\n")
    }

    fn overlapping(lines: &[String]) -> Option<Route> {
        let routes = parse(&format!("{HEAD}{}", lines.concat()));
        overlap(&routes, "10.32.0.0/12".parse().unwrap(), "weave").cloned()
    }

    #[test]
    fn a_route_inside_or_around_the_range_overlaps() {
        let inside = line("eth1", [10, 40, 1, 0], [255, 255, 255, 0], 1);
        let found = overlapping(&[inside]).unwrap();
        assert_eq!((found.interface.as_str(), found.destination.to_string().as_str()), ("eth1", "10.40.1.0/24"));
        assert!(overlapping(&[line("eth1", [10, 0, 0, 0], [255, 0, 0, 0], 3)]).is_some());
    }

    #[test]
    fn defaults_neighbours_down_routes_and_our_own_bridge_do_not() {
        assert_eq!(
            overlapping(&[
                line("eth0", [0, 0, 0, 0], [0, 0, 0, 0], 3),
                line("tun0", [0, 0, 0, 0], [128, 0, 0, 0], 3),
                line("eth0", [10, 48, 0, 0], [255, 240, 0, 0], 1),
                line("eth1", [10, 40, 1, 0], [255, 255, 255, 0], 0),
                line("weave", [10, 32, 0, 0], [255, 240, 0, 0], 1),
                "garbage\n".into(),
            ]),
            None
        );
    }

    #[test]
    fn the_routes_of_this_machine_can_be_read() {
        assert!(read().is_ok());
    }
}

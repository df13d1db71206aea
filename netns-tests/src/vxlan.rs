//! The reference overlay: plain kernel VXLAN between the bridges `weave` of some hosts, not encrypted.
//!
//! It proves that the lab works without the product, and it is what the product's speed is compared with.

use crate::{Host, Lab, place::Place};

/// Outer IPv4, UDP and VXLAN headers and the inner Ethernet header (RFC 7348 §5).
const OVERHEAD: u16 = 20 + 8 + 8 + 14;

impl Lab {
    /// Joins the hosts by VXLAN and returns the dockerd flags of each. Host number i gets 10.32.i.0/24 and the bridge
    /// address 10.32.i.1/12. `underlay_mtu` is that of the smallest link; containers get what is left of it.
    #[track_caller]
    pub fn plain_vxlan(&self, hosts: &[&Host], underlay_mtu: u16) -> Vec<Vec<String>> {
        let mtu = (underlay_mtu - OVERHEAD).to_string();
        for (index, host) in hosts.iter().enumerate() {
            host.ip(&["link", "add", "weave", "mtu", &mtu, "type", "bridge"]);
            host.ip(&["addr", "add", &format!("10.32.{index}.1/12"), "dev", "weave"]);
            host.ip(&["link", "set", "weave", "up"]);
            let local = host.ipv4().to_string();
            let vxlan = ["type", "vxlan", "id", "42", "dstport", "4789", "dev", "eth0", "local", &local];
            host.ip(&[&["link", "add", "vx0", "mtu", &mtu], vxlan.as_slice()].concat());
            host.ip(&["link", "set", "vx0", "master", "weave", "up"]);
            for other in hosts.iter().filter(|other| other.ipv4() != host.ipv4()) {
                let to = other.ipv4().to_string();
                host.run(&["bridge", "fdb", "append", "00:00:00:00:00:00", "dev", "vx0", "dst", &to]).ok();
            }
        }
        let flags =
            |index| ["--bridge=weave".to_owned(), format!("--fixed-cidr=10.32.{index}.0/24"), format!("--mtu={mtu}")];
        (0..hosts.len()).map(|index| flags(index).to_vec()).collect()
    }
}

//! What the kernel does by itself: the cable, and VXLAN.

use std::sync::Arc;

use weaved_netns_tests::{Host, Lab};

use super::{Joined, Layer, Running};

/// MTU of the underlay.
const UNDERLAY_MTU: u16 = 1500;
/// What VXLAN leaves of it.
const VXLAN_MTU: u16 = UNDERLAY_MTU - 50;

/// The cable by itself.
pub(super) fn veth(hosts: &[Arc<Host>; 2]) -> Joined {
    Joined { addresses: hosts.each_ref().map(|host| host.ipv4()), layer: Layer::Cable, running: Running::Kernel }
}

/// Kernel VXLAN between bridges.
pub(super) fn vxlan(lab: &Lab, hosts: &[Arc<Host>; 2]) -> Joined {
    lab.plain_vxlan(&hosts.each_ref().map(|host| &**host), UNDERLAY_MTU);
    let addresses = [0, 1].map(|number| std::net::Ipv4Addr::new(10, 32, number, 1).into());
    Joined { addresses, layer: Layer::Ethernet { mtu: VXLAN_MTU, max_gso_len: None }, running: Running::Kernel }
}

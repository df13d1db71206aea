//! What is to be attached where and which addresses go into the maps. Pure: the world comes in as arguments.
//!
//! INVARIANT: an address is in at most one of the two maps, and only at the port where the *bridge* has it; where the
//! forwarding table says otherwise, it is in neither and the bridge decides.

use std::collections::BTreeMap;

use weaved_api::MacAddr;
use weaved_core::forward::{ForwardingTable, Port};

use super::programs::Whereabouts;
use crate::netlink::bridge::{BridgePort, BridgeView};

/// Bytes of an Ethernet header, which an MTU does not count.
const ETHERNET_HEADER_LEN: u32 = 14;

/// Filters of tc hang on these; what comes in by a device with one may be looked at.
const FILTERING_QDISCS: [&str; 2] = ["clsact", "ingress"];

/// How it should be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// Index of the TAP, when its frames may skip the bridge.
    pub(super) tap: Option<u32>,
    /// Ports of containers whose frames may.
    pub(super) ports: Vec<u32>,
    /// Addresses behind the TAP.
    pub(super) remote: BTreeMap<MacAddr, Whereabouts>,
    /// Addresses of containers.
    pub(super) local: BTreeMap<MacAddr, Whereabouts>,
    /// Ports that are left to the bridge, with the reason.
    pub(super) left_out: Vec<String>,
}

/// Why no frame skips the bridge. `Display` is for `status`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Obstacle {
    #[error("the bridge is down")]
    BridgeDown,
    #[error("VLAN filtering is on on the bridge")]
    VlanFilter,
    #[error("the TAP is no port of the bridge")]
    NoTap,
    #[error("the bridge's port {port}: {reason}")]
    Tap { port: String, reason: String },
}

/// Plans for a bridge whose port of this name is the TAP. `foreign_programs` tells how many programs of others are
/// attached to a device.
pub(super) fn plan(
    view: &BridgeView,
    tap: &str,
    table: &ForwardingTable,
    foreign_programs: impl Fn(u32) -> u32,
) -> Result<Plan, Obstacle> {
    if !view.is_up {
        return Err(Obstacle::BridgeDown);
    }
    if view.has_vlan_filter {
        return Err(Obstacle::VlanFilter);
    }
    let tap = view.ports.iter().find(|port| port.name == tap).ok_or(Obstacle::NoTap)?;
    if let Some(reason) = tap_obstacle(tap, foreign_programs(tap.index)) {
        return Err(Obstacle::Tap { port: tap.name.clone(), reason });
    }
    let mut plan = Plan { tap: Some(tap.index), ..Plan::default() };
    let mut longest = BTreeMap::new();
    for port in view.ports.iter().filter(|port| port.index != tap.index && port.leads_elsewhere) {
        if let Some(reason) = port_obstacle(port, foreign_programs(port.index)) {
            plan.left_out.push(format!("{}: {reason}", port.name));
            continue;
        }
        plan.ports.push(port.index);
        longest.insert(port.index, port.mtu + ETHERNET_HEADER_LEN);
    }
    for (mac, device) in view.addresses.iter().copied() {
        let is_away = table.mac(mac).map(|entry| entry.port).map(|port| port != Port::Local);
        match longest.get(&device) {
            Some(max_frame_len) if is_away != Some(true) => {
                plan.local.insert(mac, Whereabouts { device, max_frame_len: *max_frame_len });
            }
            None if device == tap.index && is_connected(table, mac) => {
                plan.remote.insert(mac, Whereabouts { device, max_frame_len: 0 });
            }
            _ => {}
        }
    }
    Ok(plan)
}

/// Whether frames for the address leave for a peer.
fn is_connected(table: &ForwardingTable, mac: MacAddr) -> bool {
    table.mac(mac).is_some_and(|entry| matches!(entry.port, Port::Peer(_)))
}

fn tap_obstacle(tap: &BridgePort, foreign_program_count: u32) -> Option<String> {
    let filters = tap.qdiscs.iter().find(|kind| FILTERING_QDISCS.contains(&kind.as_str()));
    common_obstacle(tap, foreign_program_count, filters)
}

/// Shapers count too: what goes straight into a container passes none.
fn port_obstacle(port: &BridgePort, foreign_program_count: u32) -> Option<String> {
    common_obstacle(port, foreign_program_count, port.qdiscs.first())
}

fn common_obstacle(port: &BridgePort, foreign_program_count: u32, qdisc: Option<&String>) -> Option<String> {
    if !port.is_up {
        return Some("it is down".into());
    }
    if let Some(oddity) = port.oddity {
        return Some(oddity.into());
    }
    if let Some(qdisc) = qdisc {
        return Some(format!("it has a queueing discipline of its own ({qdisc})"));
    }
    (foreign_program_count > 0).then(|| "an eBPF program of somebody else is attached to it".into())
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, atomic::AtomicU32};

    use weaved_core::{
        fib::Origin,
        forward::{MacEntry, PeerSlot},
    };

    use super::*;

    const TAP: u32 = 2;
    const BLUE: u32 = 3;
    const GREEN: u32 = 4;
    const REMOTE: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
    const IN_BLUE: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
    const IN_GREEN: MacAddr = MacAddr([2, 0, 0, 0, 0, 3]);

    /// A change, and a word of what is said about it.
    type Oddity<T> = (fn(&mut T), &'static str);

    fn port(index: u32, name: &str) -> BridgePort {
        BridgePort {
            index,
            name: name.into(),
            leads_elsewhere: index != TAP,
            is_up: true,
            mtu: 1500,
            ..BridgePort::default()
        }
    }

    fn view() -> BridgeView {
        BridgeView {
            is_up: true,
            ports: vec![port(TAP, "weave-tap"), port(BLUE, "blue"), port(GREEN, "green")],
            addresses: vec![(REMOTE, TAP), (IN_BLUE, BLUE), (IN_GREEN, GREEN)],
            ..BridgeView::default()
        }
    }

    fn table(entries: &[(MacAddr, Port)]) -> ForwardingTable {
        let entry = |(mac, port): &(MacAddr, Port)| MacEntry {
            mac: *mac,
            port: *port,
            origin: Origin::Learned,
            seen: Arc::new(AtomicU32::new(0)),
        };
        ForwardingTable { macs: entries.iter().map(entry).collect(), ..ForwardingTable::default() }
    }

    fn usual_table() -> ForwardingTable {
        table(&[(REMOTE, Port::Peer(PeerSlot(0))), (IN_BLUE, Port::Local)])
    }

    fn planned(view: &BridgeView) -> Plan {
        plan(view, "weave-tap", &usual_table(), |_| 0).unwrap()
    }

    #[test]
    fn addresses_are_where_bridge_and_table_agree() {
        let plan = planned(&view());
        assert_eq!((plan.tap, plan.ports), (Some(TAP), vec![BLUE, GREEN]));
        assert_eq!(plan.remote.keys().copied().collect::<Vec<_>>(), [REMOTE]);
        assert_eq!(plan.local[&IN_BLUE], Whereabouts { device: BLUE, max_frame_len: 1514 });
        assert!(plan.local.contains_key(&IN_GREEN), "the table needs not know a container of this host");
    }

    #[test]
    fn an_address_that_has_moved_is_in_no_map_until_both_have_noticed() {
        // The container came here; the table still says that it is at a peer.
        let mut view = view();
        view.addresses = vec![(REMOTE, GREEN)];
        let plan = planned(&view);
        assert!(plan.remote.is_empty() && plan.local.is_empty());
        // It went away; the bridge still has it at its port.
        let gone = table(&[(IN_BLUE, Port::Peer(PeerSlot(0)))]);
        view.addresses = vec![(IN_BLUE, BLUE)];
        let plan = super::plan(&view, "weave-tap", &gone, |_| 0).unwrap();
        assert!(plan.remote.is_empty() && plan.local.is_empty());
    }

    #[test]
    fn an_address_at_a_peer_without_a_session_is_left_to_the_bridge() {
        let away = table(&[(REMOTE, Port::Away)]);
        assert!(plan(&view(), "weave-tap", &away, |_| 0).unwrap().remote.is_empty());
    }

    #[test]
    fn a_port_with_something_of_its_own_is_left_out_with_the_reason() {
        let odd: [Oddity<BridgePort>; 4] = [
            (|port| port.is_up = false, "down"),
            (|port| port.oddity = Some("it is isolated"), "isolated"),
            (|port| port.qdiscs.push("tbf".into()), "tbf"),
            (|port| port.qdiscs.push("clsact".into()), "clsact"),
        ];
        for (change, reason) in odd {
            let mut view = view();
            change(&mut view.ports[1]);
            let plan = planned(&view);
            assert_eq!(plan.ports, [GREEN]);
            assert_eq!(plan.local.keys().copied().collect::<Vec<_>>(), [IN_GREEN]);
            assert!(plan.left_out[0].starts_with("blue: ") && plan.left_out[0].contains(reason), "{:?}", plan.left_out);
        }
    }

    #[test]
    fn a_port_that_leads_to_no_container_is_left_to_the_bridge_without_a_word() {
        let mut view = view();
        view.ports[1].leads_elsewhere = false;
        let plan = planned(&view);
        assert_eq!((plan.ports, plan.left_out), (vec![GREEN], vec![]));
        assert!(!plan.local.contains_key(&IN_BLUE));
    }

    #[test]
    fn programs_of_somebody_else_come_first() {
        let left_out = plan(&view(), "weave-tap", &usual_table(), |device| u32::from(device == BLUE)).unwrap().left_out;
        assert!(left_out[0].contains("somebody else"), "{left_out:?}");
        let obstacle = plan(&view(), "weave-tap", &usual_table(), |device| u32::from(device == TAP)).unwrap_err();
        assert!(obstacle.to_string().contains("somebody else"), "{obstacle}");
    }

    #[test]
    fn settings_that_make_the_bridge_decide_otherwise_turn_it_off() {
        let odd: [Oddity<BridgeView>; 5] = [
            (|view| view.is_up = false, "down"),
            (|view| view.has_vlan_filter = true, "VLAN"),
            (|view| view.ports[0].qdiscs.push("clsact".into()), "weave-tap"),
            (|view| view.ports[0].oddity = Some("learning is off"), "learning is off"),
            (|view| view.ports.clear(), "no port"),
        ];
        for (change, reason) in odd {
            let mut view = view();
            change(&mut view);
            let obstacle = plan(&view, "weave-tap", &usual_table(), |_| 0).unwrap_err().to_string();
            assert!(obstacle.contains(reason), "{obstacle}");
        }
        let mut view = view();
        view.ports[0].qdiscs.push("pfifo_fast".into());
        assert!(plan(&view, "weave-tap", &usual_table(), |_| 0).is_ok(), "frames still leave by the TAP's queue");
    }
}

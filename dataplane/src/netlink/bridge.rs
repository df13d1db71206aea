//! A bridge, its ports and the addresses that it knows behind them, as the kernel shows them.

use futures_util::TryStreamExt;
use rtnetlink::packet_route::{
    AddressFamily,
    link::{
        BridgePortState, InfoBridge, InfoBridgePort, InfoData, InfoKind, InfoPortData, LinkAttribute, LinkFlags,
        LinkInfo, LinkMessage,
    },
    neighbour::{NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState},
    tc::{TcAttribute, TcMessage},
};
use weaved_api::MacAddr;

use super::{Netlink, Result, failed};

/// A bridge with all that decides where it sends a frame.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BridgeView {
    /// Administratively up.
    pub is_up: bool,
    /// It keeps VLANs apart.
    pub has_vlan_filter: bool,
    /// It hands frames to iptables by a setting of its own, whatever the sysctls say.
    pub calls_iptables: bool,
    /// Its ports.
    pub ports: Vec<BridgePort>,
    /// Learned and static addresses with the index of their port; not those of the host itself.
    pub addresses: Vec<(MacAddr, u32)>,
}

/// A port of a bridge.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BridgePort {
    /// The kernel's number for the device.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// One end of a pair whose other end is in another network namespace.
    pub leads_elsewhere: bool,
    /// Administratively up.
    pub is_up: bool,
    /// Largest IP packet that it takes.
    pub mtu: u32,
    /// The first setting that is not the usual one, in words.
    pub oddity: Option<&'static str>,
    /// Queueing disciplines, without those that do nothing.
    pub qdiscs: Vec<String>,
}

impl Netlink {
    /// The bridge of this index; none if it is gone.
    pub fn bridge(&mut self, index: u32) -> Result<Option<BridgeView>> {
        let links = self.bridge_links()?;
        let mut links = links.into_iter();
        let is_bridge = |link: &LinkMessage| link.header.index == index;
        let Some(bridge) = links.clone().find(is_bridge) else { return Ok(None) };
        let mut view = parse_bridge(&bridge);
        view.ports = links.by_ref().filter(|link| controller(link) == Some(index)).map(parse_port).collect();
        for (port, qdisc) in self.qdiscs()? {
            if let Some(port) = view.ports.iter_mut().find(|known| known.index == port) {
                port.qdiscs.push(qdisc);
            }
        }
        view.addresses = self.forwarding_entries(index)?;
        Ok(Some(view))
    }

    fn bridge_links(&mut self) -> Result<Vec<LinkMessage>> {
        let request = self.handle.link().get().execute();
        let links = self.runtime.block_on(Box::pin(request).try_collect());
        links.map_err(|error| failed("list the network devices".into(), error))
    }

    /// Queueing disciplines that do something, with the index of their device.
    fn qdiscs(&mut self) -> Result<Vec<(u32, String)>> {
        let request = self.handle.qdisc().get().execute();
        let messages: Vec<TcMessage> = self
            .runtime
            .block_on(Box::pin(request).try_collect())
            .map_err(|error| failed("list the queueing disciplines".into(), error))?;
        let kind = |message: &TcMessage| {
            message.attributes.iter().find_map(|attribute| match attribute {
                TcAttribute::Kind(kind) => Some(kind.clone()),
                _ => None,
            })
        };
        let kinds = messages.iter().filter_map(|message| Some((message.header.index.cast_unsigned(), kind(message)?)));
        Ok(kinds.filter(|(_, kind)| kind != "noqueue").collect())
    }

    fn forwarding_entries(&mut self, bridge: u32) -> Result<Vec<(MacAddr, u32)>> {
        let request = self.handle.neighbours().get().set_address_family(AddressFamily::Bridge).execute();
        let messages: Vec<NeighbourMessage> = self
            .runtime
            .block_on(Box::pin(request).try_collect())
            .map_err(|error| failed("list the addresses that bridges know".into(), error))?;
        Ok(messages.iter().filter_map(|message| parse_entry(message, bridge)).collect())
    }
}

/// Index of the bridge that a device is a port of.
fn controller(link: &LinkMessage) -> Option<u32> {
    link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Controller(controller) => Some(*controller),
        _ => None,
    })
}

fn infos(link: &LinkMessage) -> impl Iterator<Item = &LinkInfo> {
    link.attributes
        .iter()
        .filter_map(|attribute| match attribute {
            LinkAttribute::LinkInfo(infos) => Some(infos),
            _ => None,
        })
        .flatten()
}

fn parse_bridge(link: &LinkMessage) -> BridgeView {
    let mut view = BridgeView { is_up: link.header.flags.contains(LinkFlags::Up), ..BridgeView::default() };
    for info in infos(link) {
        let LinkInfo::Data(InfoData::Bridge(settings)) = info else { continue };
        for setting in settings {
            match setting {
                InfoBridge::VlanFiltering(on) => view.has_vlan_filter |= on,
                InfoBridge::NfCallIpTables(on) | InfoBridge::NfCallIp6Tables(on) | InfoBridge::NfCallArpTables(on) => {
                    view.calls_iptables |= on;
                }
                _ => {}
            }
        }
    }
    view
}

fn parse_port(link: LinkMessage) -> BridgePort {
    let is_pair = infos(&link).any(|info| matches!(info, LinkInfo::Kind(InfoKind::Veth)));
    let oddity = infos(&link).find_map(|info| match info {
        LinkInfo::PortData(InfoPortData::BridgePort(settings)) => settings.iter().find_map(oddity),
        _ => None,
    });
    let mut port = BridgePort {
        index: link.header.index,
        is_up: link.header.flags.contains(LinkFlags::Up),
        oddity,
        ..BridgePort::default()
    };
    for attribute in link.attributes {
        match attribute {
            LinkAttribute::IfName(name) => port.name = name,
            LinkAttribute::Mtu(mtu) => port.mtu = mtu,
            LinkAttribute::LinkNetNsId(_) => port.leads_elsewhere = is_pair,
            _ => {}
        }
    }
    port
}

/// What makes the bridge treat frames of this port in another way than those of others.
fn oddity(setting: &InfoBridgePort) -> Option<&'static str> {
    match setting {
        InfoBridgePort::State(state) if *state != BridgePortState::Forwarding => Some("it does not forward"),
        InfoBridgePort::Learning(false) => Some("learning is off"),
        InfoBridgePort::Isolated(true) => Some("it is isolated"),
        InfoBridgePort::Locked(true) | InfoBridgePort::Mab(true) => Some("it is locked"),
        InfoBridgePort::HairpinMode(true) => Some("hairpin mode is on"),
        InfoBridgePort::ProxyARP(true) | InfoBridgePort::ProxyARPWifi(true) | InfoBridgePort::NeighSupress(true) => {
            Some("it answers for others")
        }
        InfoBridgePort::VlanTunnel(true) => Some("it maps VLANs to tunnels"),
        _ => None,
    }
}

/// An address of another machine behind a port of this bridge.
fn parse_entry(message: &NeighbourMessage, bridge: u32) -> Option<(MacAddr, u32)> {
    // Permanent ones are the host's own; `self` ones belong to the device and not to the bridge.
    if message.header.state == NeighbourState::Permanent || message.header.flags.contains(NeighbourFlags::Own) {
        return None;
    }
    let mut mac = None;
    let mut is_ours = false;
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::LinkLayerAddress(address) => mac = address.as_slice().try_into().ok().map(MacAddr),
            NeighbourAttribute::Controller(controller) => is_ours = *controller == bridge,
            NeighbourAttribute::Vlan(_) => return None,
            _ => {}
        }
    }
    Some((mac.filter(|_| is_ours)?, message.header.ifindex))
}

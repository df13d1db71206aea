//! Links, addresses and routes of this network namespace, over rtnetlink.
//!
//! A thin synchronous face: each method is one request, run to its end on a small runtime that belongs to the
//! calling thread. What should be done to which device is decided in `reconcile`.

pub mod bridge;
pub mod pair;

use std::{io, net::IpAddr, os::fd::OwnedFd};

use futures_util::TryStreamExt;
use ipnet::IpNet;
use rtnetlink::{
    Handle, LinkBridge, LinkMessageBuilder, LinkUnspec, RouteMessageBuilder,
    packet_core::Nla,
    packet_route::{
        address::{AddressAttribute, AddressMessage, AddressScope},
        link::{
            AfSpecInet6, AfSpecUnspec, BridgeStpState, In6AddrGenMode, InfoData, InfoKind, LinkAttribute, LinkFlags,
            LinkInfo, LinkMessage,
        },
        route::{RouteAddress, RouteAttribute, RouteMessage, RouteType},
    },
};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, netlink::SocketAddrNetlink, socket_with};
use tokio::runtime::{Builder, Runtime};
use weaved_api::MacAddr;

/// `RTMGRP_LINK`: changes of devices.
pub(crate) const LINK_NOTICES: u32 = 0x1;

/// Attributes of a TAP (`linux/if_link.h`): numbers of 32 bits, only where it has several queues.
const IFLA_TUN_NUM_QUEUES: u16 = 8;
const IFLA_TUN_NUM_DISABLED_QUEUES: u16 = 9;

/// A connection to the kernel's rtnetlink.
pub struct Netlink {
    runtime: Runtime,
    handle: Handle,
}

/// One network device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// The kernel's number for it.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// What made it.
    pub kind: LinkKind,
    /// Free text; marks the devices that are ours.
    pub alias: Option<String>,
    /// Its Ethernet address.
    pub mac: Option<MacAddr>,
    /// Largest IP packet that it takes.
    pub mtu: u32,
    /// Frames that its queue holds.
    pub queue_len: u32,
    /// Administratively up.
    pub is_up: bool,
    /// A TAP that a process has open.
    pub is_open: bool,
    /// The bridge it is a port of.
    pub controller: Option<u32>,
}

/// The kinds of device that we tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkKind {
    /// A Linux bridge.
    Bridge,
    /// A TUN or TAP device.
    Tun,
    /// Anything else.
    Other,
}

/// A unicast route of any table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Where it leads.
    pub destination: IpNet,
    /// The device it leaves by.
    pub link_index: Option<u32>,
}

/// A request that failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what}: {source}")]
pub struct NetlinkError {
    what: String,
    source: io::Error,
}

/// A socket that the kernel sends notices of these groups to, about the namespace of the calling thread.
pub(crate) fn notices(groups: u32) -> io::Result<OwnedFd> {
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    bind(&socket, &SocketAddrNetlink::new(0, groups))?;
    Ok(socket)
}

type Result<T> = std::result::Result<T, NetlinkError>;

impl Netlink {
    /// Connects to the kernel, in the network namespace of the calling thread.
    pub fn open() -> Result<Self> {
        let failed = |source| NetlinkError { what: "open an rtnetlink socket".into(), source };
        let runtime = Builder::new_current_thread().enable_io().enable_time().build().map_err(failed)?;
        let handle = {
            let _guard = runtime.enter();
            let (connection, handle, _) = rtnetlink::new_connection().map_err(failed)?;
            runtime.spawn(connection);
            handle
        };
        Ok(Self { runtime, handle })
    }

    /// The device of this name, if there is one.
    pub fn link(&mut self, name: &str) -> Result<Option<Link>> {
        let request = self.handle.link().get().match_name(name).execute();
        match self.runtime.block_on(async move { Box::pin(request).try_next().await }) {
            Ok(message) => Ok(message.map(parse_link)),
            Err(error) if errno(&error) == Some(libc::ENODEV) => Ok(None),
            Err(error) => Err(failed(format!("look up the device {name}"), error)),
        }
    }

    /// Frames towards a device that the kernel has dropped since the device was made.
    pub fn dropped_frames(&mut self, name: &str) -> Result<u64> {
        let request = self.handle.link().get().match_name(name).execute();
        let message = self.runtime.block_on(async move { Box::pin(request).try_next().await });
        let message = message.map_err(|error| failed(format!("look up the device {name}"), error))?;
        let attributes = message.map(|message| message.attributes).unwrap_or_default();
        let dropped = attributes.iter().find_map(|attribute| match attribute {
            LinkAttribute::Stats64(stats) => Some(stats.tx_dropped),
            _ => None,
        });
        Ok(dropped.unwrap_or_default())
    }

    /// Queues that processes have open on a TAP of several queues. None when there is no device of this name, or another one.
    pub fn open_queues(&mut self, name: &str) -> Result<usize> {
        let request = self.handle.link().get().match_name(name).execute();
        match self.runtime.block_on(async move { Box::pin(request).try_next().await }) {
            Ok(message) => Ok(message.map(|message| parse_queue_count(&message)).unwrap_or_default()),
            Err(error) if errno(&error) == Some(libc::ENODEV) => Ok(0),
            Err(error) => Err(failed(format!("count the queues of the device {name}"), error)),
        }
    }

    /// Names of all devices with their numbers.
    pub fn link_names(&mut self) -> Result<Vec<(u32, String)>> {
        let request = self.handle.link().get().execute();
        let messages: Vec<LinkMessage> = self
            .runtime
            .block_on(Box::pin(request).try_collect())
            .map_err(|error| failed("list the network devices".into(), error))?;
        Ok(messages.into_iter().map(parse_link).map(|link| (link.index, link.name)).collect())
    }

    /// Makes a bridge, down, that floods what it does not know and forwards at once.
    ///
    /// The MAC address is given, so that it does not follow the ports; multicast is flooded like broadcast.
    pub fn create_bridge(&mut self, name: &str, mac: MacAddr) -> Result<()> {
        let message = LinkMessageBuilder::<LinkBridge>::new(name)
            .address(mac.0.to_vec())
            .stp_state(BridgeStpState::Disabled)
            .forward_delay(0)
            .mcast_snooping(false)
            .build();
        let request = self.handle.link().add(message).execute();
        self.runtime.block_on(request).map_err(|error| failed(format!("create the bridge {name}"), error))
    }

    /// Sets the alias, the mark that a device is ours.
    pub fn set_alias(&mut self, index: u32, alias: &str) -> Result<()> {
        self.change(index, "mark", |link| link.alias(alias))
    }

    /// Renames a device that is down.
    pub fn rename(&mut self, index: u32, name: &str) -> Result<()> {
        self.change(index, "rename", |link| link.name(name))
    }

    /// Sets the MTU, in bytes of IP packet.
    pub fn set_mtu(&mut self, index: u32, mtu: u32) -> Result<()> {
        self.change(index, "set the MTU of", |link| link.mtu(mtu))
    }

    /// Sets how many frames wait for the reader of a TAP.
    pub fn set_queue_len(&mut self, index: u32, frame_count: u32) -> Result<()> {
        self.change(index, "set the queue length of", |link| link.txqueuelen(frame_count))
    }

    /// Makes a device a port of a bridge.
    pub fn set_controller(&mut self, index: u32, bridge: u32) -> Result<()> {
        self.change(index, "attach to the bridge", |link| link.controller(bridge))
    }

    /// Keeps the host itself from speaking IPv6 on a device that is only a bridge port.
    pub fn set_no_ipv6_address(&mut self, index: u32) -> Result<()> {
        let mode = AfSpecInet6::AddrGenMode(In6AddrGenMode::None);
        let attribute = LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![mode])]);
        self.change(index, "turn off IPv6 on", |link| link.append_extra_attribute(attribute))
    }

    /// Brings a device up.
    pub fn set_up(&mut self, index: u32) -> Result<()> {
        self.change(index, "bring up", LinkMessageBuilder::up)
    }

    /// Deletes a device.
    pub fn delete_link(&mut self, index: u32) -> Result<()> {
        let request = self.handle.link().del(index).execute();
        self.runtime.block_on(request).map_err(|error| failed(format!("delete device {index}"), error))
    }

    /// Addresses of a device with their prefix lengths, link-local ones not counted.
    pub fn addresses(&mut self, index: u32) -> Result<Vec<IpNet>> {
        let messages = self.address_messages(index)?;
        Ok(messages.iter().filter_map(parse_address).collect())
    }

    /// Gives a device an address.
    pub fn add_address(&mut self, index: u32, address: IpNet) -> Result<()> {
        let request = self.handle.address().add(index, address.addr(), address.prefix_len()).execute();
        self.runtime.block_on(request).map_err(|error| failed(format!("add the address {address}"), error))
    }

    /// Takes an address from a device. One that it does not have is no error.
    pub fn delete_address(&mut self, index: u32, address: IpNet) -> Result<()> {
        for message in self.address_messages(index)? {
            if parse_address(&message) == Some(address) {
                let request = self.handle.address().del(message).execute();
                self.runtime
                    .block_on(request)
                    .map_err(|error| failed(format!("remove the address {address}"), error))?;
            }
        }
        Ok(())
    }

    /// Unicast routes of the host, of both families.
    pub fn routes(&mut self) -> Result<Vec<Route>> {
        let mut routes = Vec::new();
        for filter in [
            RouteMessageBuilder::<std::net::Ipv4Addr>::new().build(),
            RouteMessageBuilder::<std::net::Ipv6Addr>::new().build(),
        ] {
            let request = self.handle.route().get(filter).execute();
            let messages: Vec<RouteMessage> = self
                .runtime
                .block_on(Box::pin(request).try_collect())
                .map_err(|error| failed("list the routes".into(), error))?;
            routes.extend(messages.iter().filter_map(parse_route));
        }
        Ok(routes)
    }

    /// Makes a cable: one end here, one in another namespace, both of this name.
    #[cfg(test)]
    pub(crate) fn create_cable(&mut self, name: &str, other: &std::fs::File) -> Result<()> {
        use std::os::fd::AsRawFd;

        let far_end = "far-end";
        let cable = rtnetlink::LinkVeth::new(name, far_end).build();
        let request = self.handle.link().add(cable).execute();
        self.runtime.block_on(request).map_err(|error| failed("make a cable".into(), error))?;
        let index = self.link(far_end)?.expect("it has just been made").index;
        self.rename_and_move(index, name, other.as_raw_fd())
    }

    #[cfg(test)]
    fn rename_and_move(&mut self, index: u32, name: &str, namespace: i32) -> Result<()> {
        self.change(index, "move", |link| link.name(name).setns_by_fd(namespace))
    }

    fn change(
        &mut self,
        index: u32,
        what: &str,
        build: impl FnOnce(LinkMessageBuilder<LinkUnspec>) -> LinkMessageBuilder<LinkUnspec>,
    ) -> Result<()> {
        let message = build(LinkUnspec::new_with_index(index)).build();
        let request = self.handle.link().set(message).execute();
        self.runtime.block_on(request).map_err(|error| failed(format!("{what} device {index}"), error))
    }

    fn address_messages(&mut self, index: u32) -> Result<Vec<AddressMessage>> {
        let request = self.handle.address().get().set_link_index_filter(index).execute();
        self.runtime
            .block_on(Box::pin(request).try_collect())
            .map_err(|error| failed(format!("list the addresses of device {index}"), error))
    }
}

fn parse_link(message: LinkMessage) -> Link {
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        kind: LinkKind::Other,
        alias: None,
        mac: None,
        mtu: 0,
        queue_len: 0,
        is_up: message.header.flags.contains(LinkFlags::Up),
        is_open: false,
        controller: None,
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::IfAlias(alias) => link.alias = Some(alias),
            LinkAttribute::Address(address) => link.mac = address.try_into().ok().map(MacAddr),
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::TxQueueLen(frame_count) => link.queue_len = frame_count,
            LinkAttribute::Carrier(carrier) => link.is_open = carrier != 0,
            LinkAttribute::Controller(controller) => link.controller = Some(controller),
            LinkAttribute::LinkInfo(infos) => link.kind = parse_kind(&infos),
            _ => {}
        }
    }
    // The kernel gives a TAP its carrier with the first queue and takes it with the last.
    link.is_open &= link.kind == LinkKind::Tun;
    link
}

/// Those that take part, and those that their process has put aside.
fn parse_queue_count(message: &LinkMessage) -> usize {
    let infos = message.attributes.iter().filter_map(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => Some(infos),
        _ => None,
    });
    let numbers = infos.flatten().filter_map(|info| match info {
        LinkInfo::Data(InfoData::Tun(numbers)) => Some(numbers),
        _ => None,
    });
    let counts =
        numbers.flatten().filter(|number| [IFLA_TUN_NUM_QUEUES, IFLA_TUN_NUM_DISABLED_QUEUES].contains(&number.kind()));
    counts
        .map(|number| {
            let mut count = [0; 4];
            if number.value_len() == count.len() {
                number.emit_value(&mut count);
            }
            u32::from_ne_bytes(count) as usize
        })
        .sum()
}

fn parse_kind(infos: &[LinkInfo]) -> LinkKind {
    for info in infos {
        match info {
            LinkInfo::Kind(InfoKind::Bridge) => return LinkKind::Bridge,
            LinkInfo::Kind(InfoKind::Tun) => return LinkKind::Tun,
            _ => {}
        }
    }
    LinkKind::Other
}

fn parse_address(message: &AddressMessage) -> Option<IpNet> {
    if message.header.scope == AddressScope::Link {
        return None;
    }
    let mut found = None;
    for attribute in &message.attributes {
        match attribute {
            // On IPv4 both are there and `Address` is the other end of a point-to-point link.
            AddressAttribute::Local(address) => found = Some(*address),
            AddressAttribute::Address(address) if found.is_none() => found = Some(*address),
            _ => {}
        }
    }
    IpNet::new(found?, message.header.prefix_len).ok()
}

fn parse_route(message: &RouteMessage) -> Option<Route> {
    // The host's own addresses are routes too, of other types.
    if message.header.kind != RouteType::Unicast {
        return None;
    }
    let mut destination = None;
    let mut link_index = None;
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(address)) => destination = Some(IpAddr::from(*address)),
            RouteAttribute::Destination(RouteAddress::Inet6(address)) => destination = Some(IpAddr::from(*address)),
            RouteAttribute::Oif(index) => link_index = Some(*index),
            _ => {}
        }
    }
    let destination = IpNet::new(destination?, message.header.destination_prefix_length).ok()?;
    Some(Route { destination, link_index })
}

fn errno(error: &rtnetlink::Error) -> Option<i32> {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io().raw_os_error(),
        _ => None,
    }
}

fn failed(what: String, error: rtnetlink::Error) -> NetlinkError {
    let source = match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io(),
        other => io::Error::other(other.to_string()),
    };
    NetlinkError { what, source }
}

//! This host's network devices: where others may reach us, and the devices that are ours.
//!
//! Netlink has a runtime of its own, so none of this may be called from inside another one; [`mac_of`] may.

use std::net::SocketAddr;

use weaved_api::MacAddr;
use weaved_dataplane::{
    netlink::{Netlink, NetlinkError},
    reconcile::{Devices, MARK},
};

use crate::{failure::Failure, state::Settings};

/// Names of bridges whose addresses mean something on their own host only.
const LOCAL_BRIDGES: [&str; 3] = ["docker", "br-", "virbr"];

/// Addresses of this host under which others may reach it, best guess.
pub fn endpoints(settings: &Settings) -> Vec<SocketAddr> {
    let addresses = Netlink::open().and_then(|mut netlink| {
        let mut addresses = Vec::new();
        for (index, name) in netlink.link_names()? {
            if name != settings.bridge && !LOCAL_BRIDGES.iter().any(|bridge| name.starts_with(bridge)) {
                addresses.extend(netlink.addresses(index)?);
            }
        }
        Ok(addresses)
    });
    let addresses = addresses.unwrap_or_else(|error| {
        tracing::warn!(%error, "others are not told this host's addresses");
        Vec::new()
    });
    let reachable = addresses.iter().map(ipnet::IpNet::addr).filter(|address| !address.is_loopback());
    reachable.map(|address| SocketAddr::new(address, settings.port)).collect()
}

/// The Ethernet address of a device. Looked up on a thread of its own: one runtime cannot wait inside another.
pub fn mac_of(device: &str) -> Option<MacAddr> {
    let device = device.to_owned();
    let lookup = std::thread::spawn(move || Netlink::open()?.link(&device));
    lookup.join().ok()?.ok()??.mac
}

/// Deletes the bridge and the TAP of these settings, if they are ours; without settings, every device with our mark.
/// What is not there, or not ours, is left.
pub fn delete_devices(settings: Option<&Settings>) -> Result<(), Failure> {
    let refused =
        |error: &dyn std::fmt::Display| Failure::refused(format!("cannot remove the network devices: {error}"));
    match settings {
        Some(settings) => delete_named(&[&settings.tap(), &settings.bridge]).map_err(|error| refused(&error)),
        None => Devices::open().and_then(|mut devices| devices.delete()).map_err(|error| refused(&error)),
    }
}

fn delete_named(names: &[&str]) -> Result<(), NetlinkError> {
    let mut netlink = Netlink::open()?;
    for name in names {
        if let Some(link) = netlink.link(name)?
            && link.alias.as_deref() == Some(MARK)
        {
            netlink.delete_link(link.index)?;
        }
    }
    Ok(())
}

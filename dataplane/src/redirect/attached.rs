//! What is attached and what is in the maps, and how it becomes another.
//!
//! INVARIANT: entries are removed before others are added, so that an address that has moved is never in both maps;
//! and what is remembered here is what the kernel has, also after a step has failed.

use std::{collections::BTreeMap, io, os::fd::OwnedFd};

use weaved_api::MacAddr;

use super::{
    plan::Plan,
    programs::{Addresses, Programs, Whereabouts, key},
};

/// Links to devices and entries of the maps. When it is dropped, the links go.
#[derive(Debug, Default)]
pub(super) struct Attached {
    /// By the index of the device; closing a descriptor detaches the program.
    taps: BTreeMap<u32, OwnedFd>,
    ports: BTreeMap<u32, OwnedFd>,
    remote: BTreeMap<MacAddr, Whereabouts>,
    local: BTreeMap<MacAddr, Whereabouts>,
}

impl Attached {
    /// Whether a program of ours is attached to the device.
    pub(super) fn has(&self, device: u32) -> bool {
        self.taps.contains_key(&device) || self.ports.contains_key(&device)
    }

    /// Containers whose frames may skip the bridge.
    pub(super) fn port_count(&self) -> usize {
        self.ports.len()
    }

    /// Makes it as planned; an empty plan detaches everything. Fails at the first step that fails.
    pub(super) fn apply(&mut self, programs: &Programs, plan: &Plan) -> io::Result<()> {
        self.taps.retain(|device, _| plan.tap == Some(*device));
        self.ports.retain(|device, _| plan.ports.contains(device));
        remove(&programs.remote, &mut self.remote, &plan.remote)?;
        remove(&programs.local, &mut self.local, &plan.local)?;
        add(&programs.remote, &mut self.remote, &plan.remote)?;
        add(&programs.local, &mut self.local, &plan.local)?;
        attach(&mut self.ports, plan.ports.iter(), |device| programs.attach_to_port(device))?;
        attach(&mut self.taps, plan.tap.iter(), |device| programs.attach_to_tap(device))
    }
}

fn remove(
    map: &Addresses,
    present: &mut BTreeMap<MacAddr, Whereabouts>,
    wanted: &BTreeMap<MacAddr, Whereabouts>,
) -> io::Result<()> {
    let stale: Vec<MacAddr> = present.keys().filter(|mac| wanted.get(*mac) != present.get(*mac)).copied().collect();
    for mac in stale {
        map.remove(&key(mac))?;
        present.remove(&mac);
    }
    Ok(())
}

fn add(
    map: &Addresses,
    present: &mut BTreeMap<MacAddr, Whereabouts>,
    wanted: &BTreeMap<MacAddr, Whereabouts>,
) -> io::Result<()> {
    for (mac, whereabouts) in wanted {
        if !present.contains_key(mac) {
            map.insert(&key(*mac), &whereabouts.emit())?;
            present.insert(*mac, *whereabouts);
        }
    }
    Ok(())
}

fn attach<'a>(
    links: &mut BTreeMap<u32, OwnedFd>,
    wanted: impl Iterator<Item = &'a u32>,
    attach: impl Fn(u32) -> io::Result<OwnedFd>,
) -> io::Result<()> {
    for device in wanted {
        if links.contains_key(device) {
            continue;
        }
        match attach(*device) {
            Ok(link) => {
                links.insert(*device, link);
            }
            // The device went away meanwhile; the next look will know.
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

//! Containers on the bridges of a simulated network: frames begin and end in real TCP/IP stacks.
//!
//! Each host has a bridge that learns, with its containers and the TAP as ports; what a Linux bridge does, as far as
//! it matters here. Everything happens in the network's virtual time.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use weaved_api::MacAddr;

use super::{Container, Network, frames};

/// Names a container: its host and its number there.
pub type Place = (usize, usize);

/// A network with containers.
pub struct World {
    /// Hosts and the underlay.
    pub network: Network,
    bridges: Vec<Bridge>,
    started_at: Instant,
}

#[derive(Default)]
struct Bridge {
    containers: Vec<Container>,
    /// Ports by address.
    learned: BTreeMap<MacAddr, BridgePort>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BridgePort {
    Container(usize),
    Tap,
}

impl World {
    /// `count` containers with this MTU on every host.
    pub fn new(network: Network, count: usize, mtu: usize) -> Self {
        let started_at = network.now;
        let bridges = (0..network.nodes.len()).map(|host| Bridge::new(host, count, mtu)).collect();
        Self { network, bridges, started_at }
    }

    /// A container.
    pub fn container(&mut self, place: Place) -> &mut Container {
        &mut self.bridges[place.0].containers[place.1]
    }

    /// Lets virtual time pass until `is_done` or the time is over. Says whether it was done.
    pub fn run_until(&mut self, time: Duration, mut is_done: impl FnMut(&mut Self) -> bool) -> bool {
        let end = self.network.now + time;
        loop {
            self.drive_containers();
            if is_done(self) {
                return true;
            }
            if self.network.now >= end {
                return false;
            }
            let next = self.next_timeout().map_or(end, |next| next.min(end));
            // The stacks think in whole microseconds.
            let wait = next.saturating_duration_since(self.network.now).max(Duration::from_micros(1));
            self.network.run_until(wait, |network| network.nodes.iter().any(|node| !node.delivered.is_empty()));
            self.take_deliveries();
        }
    }

    /// Lets virtual time pass.
    pub fn run(&mut self, time: Duration) {
        self.run_until(time, |_| false);
    }

    fn drive_containers(&mut self) {
        let now = self.stack_time();
        for (host, bridge) in self.bridges.iter_mut().enumerate() {
            let uplink = bridge.drive(now);
            if !uplink.is_empty() {
                self.network.send(host, &uplink);
            }
        }
    }

    fn take_deliveries(&mut self) {
        for (node, bridge) in self.network.nodes.iter_mut().zip(&mut self.bridges) {
            for (_, frame) in node.delivered.drain(..) {
                bridge.forward(BridgePort::Tap, &frame, &mut Vec::new());
            }
        }
    }

    fn next_timeout(&mut self) -> Option<Instant> {
        let now = self.stack_time();
        let containers = self.bridges.iter_mut().flat_map(|bridge| &mut bridge.containers);
        let next = containers.filter_map(|container| container.next_timeout(now)).min()?;
        Some(self.started_at + Duration::from_micros(next.total_micros().cast_unsigned()))
    }

    fn stack_time(&self) -> smoltcp::time::Instant {
        let elapsed = self.network.now.saturating_duration_since(self.started_at);
        smoltcp::time::Instant::from_micros(i64::try_from(elapsed.as_micros()).expect("simulations are short"))
    }
}

impl Bridge {
    fn new(host: usize, count: usize, mtu: usize) -> Self {
        let container = |number: usize| {
            let (host, number) = (host as u16 + 1, number as u16 + 1);
            let v4 = [10, 32, host as u8, number as u8 + 1].into();
            let v6 = [0xfd00, 0, 0, 0, 0, 0, host, number].into();
            Container::new(frames::mac(host, number), [v4, v6], mtu, smoltcp::time::Instant::ZERO)
        };
        Self { containers: (0..count).map(container).collect(), learned: BTreeMap::new() }
    }

    /// Lets the containers work. Returns the frames for the TAP.
    fn drive(&mut self, now: smoltcp::time::Instant) -> Vec<Vec<u8>> {
        let mut uplink = Vec::new();
        let mut is_quiet = false;
        while !is_quiet {
            is_quiet = true;
            for number in 0..self.containers.len() {
                self.containers[number].drive(now);
                while let Some(frame) = self.containers[number].poll_frame() {
                    is_quiet = false;
                    self.forward(BridgePort::Container(number), &frame, &mut uplink);
                }
            }
        }
        uplink
    }

    /// Forwards one frame that has come by a port.
    fn forward(&mut self, from: BridgePort, frame: &[u8], uplink: &mut Vec<Vec<u8>>) {
        let (Some(destination), Some(source)) = (frame.first_chunk(), frame[6..].first_chunk()) else { return };
        let destination = MacAddr(*destination);
        self.learned.insert(MacAddr(*source), from);
        let known = self.learned.get(&destination).filter(|_| !destination.is_group()).copied();
        for number in 0..self.containers.len() {
            let port = BridgePort::Container(number);
            if port != from && known.is_none_or(|known| known == port) {
                self.containers[number].handle_frame(frame);
            }
        }
        if from != BridgePort::Tap && known.is_none_or(|known| known == BridgePort::Tap) {
            uplink.push(frame.to_vec());
        }
    }
}

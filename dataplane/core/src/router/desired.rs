//! The difference between what control wants and what there is.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Instant,
};

use weaved_api::{DesiredState, MacAddr, PeerId, Switch};

use super::{Router, TableChange, Target};
use crate::{
    forward::DropReason,
    limits::MAX_PEERS,
    noise::StaticKeys,
    peer::{Dial, PathGso, Peer},
};

impl Router {
    pub(super) fn apply(&mut self, desired: &DesiredState, now: Instant) {
        self.keys = StaticKeys::new(&desired.identity, &desired.cluster_secret);
        self.apply_peers(desired, now);
        self.apply_gso(desired.offload.udp_gso);
        self.apply_targets(&desired.targets, now);
        self.apply_neighbours(desired);
        self.quarantined = desired.quarantined.iter().copied().collect();
    }

    fn apply_peers(&mut self, desired: &DesiredState, now: Instant) {
        let own = self.id();
        let wanted: BTreeMap<PeerId, _> =
            desired.peers.iter().filter(|peer| peer.id != own).map(|peer| (peer.id, peer)).collect();
        for (id, peer) in &mut self.peers {
            if !wanted.contains_key(id) {
                peer.dismiss(now);
            }
        }
        self.peers.retain(|_, peer| peer.is_wanted() || peer.link.is_some());
        for (id, config) in wanted {
            if !self.peers.contains_key(&id) && self.peers.len() >= MAX_PEERS {
                self.count_drop(DropReason::PeerTableFull);
                continue;
            }
            let peer = self.peers.entry(id).or_insert_with(|| Peer::new(id));
            peer.want();
            peer.name.clone_from(&config.name);
            peer.candidates.clone_from(&config.endpoints);
            if peer.link.is_none() {
                peer.ensure_dial(now);
            }
        }
        self.mark(TableChange::Urgent);
    }

    /// What is found out by loss counts only where the operator leaves it open.
    fn apply_gso(&mut self, wanted: Switch) {
        if self.udp_gso != wanted {
            self.udp_gso = wanted;
            self.peers
                .values_mut()
                .filter_map(|peer| peer.link.as_mut())
                .for_each(|link| link.gso = PathGso::default());
            self.mark(TableChange::Urgent);
        }
    }

    fn apply_targets(&mut self, wanted: &[SocketAddr], now: Instant) {
        let wanted: BTreeSet<SocketAddr> = wanted.iter().copied().collect();
        self.targets.retain(|to, _| wanted.contains(to));
        for to in wanted {
            self.targets.entry(to).or_insert_with(|| Target { dial: Dial::new(to, now), peer: None });
        }
    }

    /// Containers of other hosts become static addresses; those of this host need nothing, the bridge knows them.
    fn apply_neighbours(&mut self, desired: &DesiredState) {
        let own = self.id();
        let remote = || desired.neighbours.iter().filter(|neighbour| neighbour.peer != own);
        let macs: BTreeMap<MacAddr, PeerId> = remote().map(|neighbour| (neighbour.mac, neighbour.peer)).collect();
        self.fib.set_static(&macs);
        self.neighbours = remote().flat_map(|neighbour| neighbour.ips.iter().map(|ip| (*ip, neighbour.mac))).collect();
        self.mark(TableChange::Urgent);
    }
}

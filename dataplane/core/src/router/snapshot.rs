//! Makes the table that workers forward by.

use std::collections::BTreeMap;

use weaved_api::PeerId;

use super::Router;
use crate::{
    fib::FibPort,
    forward::{Confirmation, ForwardingTable, Frames, Inbound, MacEntry, PeerPath, PeerSlot, Port},
    peer::{Dial, Phase},
};

impl Router {
    pub(super) fn snapshot(&self) -> ForwardingTable {
        let peers: Vec<PeerPath> = self.peer_paths().collect();
        let slots: BTreeMap<PeerId, PeerSlot> =
            peers.iter().enumerate().map(|(at, peer)| (peer.id, PeerSlot(at as u16))).collect();
        let macs = self.fib.entries().map(|(mac, entry)| MacEntry {
            mac: *mac,
            port: match entry.port {
                FibPort::Local => Port::Local,
                FibPort::Peer(id) => slots.get(&id).map_or(Port::Away, |slot| Port::Peer(*slot)),
            },
            origin: entry.origin,
            seen: entry.seen.clone(),
        });
        ForwardingTable {
            macs: macs.collect(),
            inbound: self.inbound(),
            neighbours: self.neighbours.keys().copied().collect(),
            tick: self.fib.tick(),
            peers,
        }
    }

    fn peer_paths(&self) -> impl Iterator<Item = PeerPath> {
        self.peers.values().filter(|peer| !self.quarantined.contains(&peer.id)).filter_map(|peer| {
            let link = peer.link.as_ref()?;
            Some(PeerPath {
                id: peer.id,
                endpoint: link.endpoint,
                source: link.source,
                session: link.current.clone(),
                datagram_len: link.path.datagram_len(),
                packing: link.loss.packing(),
                sends: link.gso.sends(),
                counters: peer.counters.clone(),
            })
        })
    }

    /// Every session that may receive: those in use, and those that wait for their first datagram.
    fn inbound(&self) -> Vec<Inbound> {
        let in_use = self.peers.values().filter_map(|peer| Some((peer, peer.link.as_ref()?)));
        let in_use = in_use.flat_map(|(peer, link)| {
            link.inbound().map(|session| Inbound {
                index: session.local(),
                session: session.clone(),
                peer: peer.id,
                endpoint: link.endpoint,
                counters: peer.counters.clone(),
                confirmation: Confirmation::Done,
                frames: self.frames(peer.id),
            })
        });
        let mut inbound: Vec<Inbound> = in_use.chain(self.dials().filter_map(|dial| self.awaiting(dial))).collect();
        inbound.sort_by_key(|inbound| inbound.index);
        inbound
    }

    fn awaiting(&self, dial: &Dial) -> Option<Inbound> {
        let Phase::Confirming(confirming) = &dial.phase else { return None };
        let known = self.peers.get(&confirming.peer);
        Some(Inbound {
            index: confirming.session.local(),
            session: confirming.session.clone(),
            peer: confirming.peer,
            endpoint: confirming.endpoint,
            counters: known.map(|peer| peer.counters.clone()).unwrap_or_default(),
            confirmation: Confirmation::Awaited,
            frames: self.frames(confirming.peer),
        })
    }

    fn frames(&self, peer: PeerId) -> Frames {
        if self.quarantined.contains(&peer) { Frames::Refused } else { Frames::Exchanged }
    }
}

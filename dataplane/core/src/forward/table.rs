//! The immutable snapshot that workers forward by.
//!
//! The router makes a new one when anything changes and publishes it; a worker holds one for the length of a batch.
//! Tables are sorted arrays: a look-up is a binary search without hashing, so no choice of addresses makes it slow,
//! and the same entries always give the same table.
//!
//! INVARIANT: `PeerSlot`s are indices into `peers` of the same table and mean nothing in another one.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
};

use weaved_api::{MacAddr, PeerId};

use super::PeerCounters;
use crate::{fib::Origin, mtu::DatagramLen, noise::Session, wire::data::ReceiverIndex};

/// Place of a peer in one table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PeerSlot(pub u16);

/// A place frames may go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// The TAP: the address is on this host.
    Local,
    /// A connected peer.
    Peer(PeerSlot),
    /// A peer that is not connected.
    Away,
}

/// A connected peer, as the sender of frames sees it.
#[derive(Clone)]
pub struct PeerPath {
    /// Who.
    pub id: PeerId,
    /// Where its datagrams go.
    pub endpoint: SocketAddr,
    /// The address of ours that the peer talks to, when it began the session; none leaves it to the kernel.
    pub source: Option<IpAddr>,
    /// The keys in use for sending.
    pub session: Arc<Session>,
    /// The largest datagram for this path.
    pub datagram_len: DatagramLen,
    /// How frames are put into datagrams.
    pub packing: Packing,
    /// How the datagrams of a run leave.
    pub sends: Sends,
    /// Frames and bytes.
    pub counters: Arc<PeerCounters>,
}

/// How frames are put into datagrams for a peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Packing {
    /// As trains: the fewest bytes and calls.
    #[default]
    Trains,
    /// Each datagram stands alone, for a path that loses some.
    Singles,
}

/// How datagrams of one length for a peer leave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sends {
    /// In one send (`UDP_SEGMENT`), where the kernel can.
    #[default]
    Joined,
    /// Each in a send of its own: what the kernel cuts does not arrive.
    Apart,
}

/// One MAC address.
#[derive(Clone)]
pub struct MacEntry {
    /// The address.
    pub mac: MacAddr,
    /// Where it is.
    pub port: Port,
    /// Whether control told it.
    pub origin: Origin,
    /// Tick of the last sighting.
    pub seen: Arc<AtomicU32>,
}

/// A session that may receive.
#[derive(Clone)]
pub struct Inbound {
    /// Our name for it.
    pub index: ReceiverIndex,
    /// Its keys.
    pub session: Arc<Session>,
    /// Whose it is.
    pub peer: PeerId,
    /// Where the peer's datagrams come from.
    pub endpoint: SocketAddr,
    /// Frames and bytes of the peer.
    pub counters: Arc<PeerCounters>,
    /// Whether the router waits for the first datagram.
    pub confirmation: Confirmation,
    /// Whether frames are taken from this peer.
    pub frames: Frames,
}

/// Whether frames are exchanged with a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frames {
    /// They are.
    Exchanged,
    /// They are not: its containers' addresses collide with others'.
    Refused,
}

/// Whether a session has been heard on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Confirmation {
    /// The first datagram tells the router that the other side has the keys.
    Awaited,
    /// Nothing to be told.
    Done,
}

/// Everything that the fast path knows.
#[derive(Clone, Default)]
pub struct ForwardingTable {
    /// Connected peers that frames are exchanged with: also the list for flooding.
    pub peers: Vec<PeerPath>,
    /// Sorted by address.
    pub macs: Vec<MacEntry>,
    /// Sorted by index.
    pub inbound: Vec<Inbound>,
    /// Addresses that the router answers ARP and ND for, sorted.
    pub neighbours: Vec<IpAddr>,
    /// Tick that sightings are noted with.
    pub tick: u32,
}

impl ForwardingTable {
    /// The entry of an address.
    pub fn mac(&self, mac: MacAddr) -> Option<&MacEntry> {
        let at = self.macs.binary_search_by(|entry| entry.mac.cmp(&mac)).ok()?;
        Some(&self.macs[at])
    }

    /// The session that we call `index`.
    pub fn inbound(&self, index: ReceiverIndex) -> Option<&Inbound> {
        let at = self.inbound.binary_search_by(|inbound| inbound.index.cmp(&index)).ok()?;
        Some(&self.inbound[at])
    }

    /// The peer in a slot of this table.
    pub fn peer(&self, slot: PeerSlot) -> &PeerPath {
        &self.peers[usize::from(slot.0)]
    }

    /// Whether the router knows who has this address.
    pub fn answers_for(&self, ip: IpAddr) -> bool {
        self.neighbours.binary_search(&ip).is_ok()
    }
}

impl MacEntry {
    /// Notes a sighting. A store only when the tick has changed keeps the line shared between cores.
    pub fn touch(&self, tick: u32) {
        if self.seen.load(Relaxed) != tick {
            self.seen.store(tick, Relaxed);
        }
    }
}

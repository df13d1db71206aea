//! TAP → underlay: one per sending thread.
//!
//! 1. The shell reads a frame directly behind the room for its record header ([`Encapsulator::frame_buffer`]).
//! 2. [`Encapsulator::push`] looks the destination up and makes the frame a record of the train that goes there
//!    ([`OpenTrains`]).
//! 3. What is for somebody else, a full train or the end of the batch closes trains.
//! 4. [`Encapsulator::poll_outgoing`] seals closed trains, send by send, for one peer or for all of them.
//!
//! INVARIANT: no train outlives its batch, because its peer slots belong to the batch's table.

use std::{
    net::{IpAddr, SocketAddr},
    ops::Range,
    sync::Arc,
    time::Instant,
};

use weaved_api::MacAddr;

use super::{
    DropReason, ForwardingTable, Packing, PeerPath, PeerSlot, Port, Punt, Sends, Short, Tally, WorkerStats,
    bum::BumLimiter,
    open_trains::{Destination, OpenTrains, Train},
    seal::{SealedSend, TrainSealer},
    singles::SinglesSealer,
};
use crate::{
    fib::{FibPort, Origin},
    limits::MAX_SEND_BYTES,
    noise::SealError,
    offload::{translate::classify, vnet_hdr::VnetHeader},
    wire::{
        data::Lane,
        ecn::Ecn,
        ethernet::{ETHERNET_HEADER_LEN, EthernetHeader},
        neighbour::NeighbourMessage,
        record::{RecordHeader, RecordKind},
    },
};

/// A closed train on its way out.
struct Closing {
    train: Train,
    /// Peers that are still to get it.
    slots: Range<u16>,
    sealer: Option<Sealer>,
}

/// In which form it goes.
enum Sealer {
    Train(TrainSealer),
    Singles(SinglesSealer),
}

/// One send: datagrams for one peer, all but the last of the same length.
#[derive(Debug)]
pub struct Outgoing<'a> {
    /// The peer, for a complaint about its path.
    pub slot: PeerSlot,
    /// Where to.
    pub to: SocketAddr,
    /// The datagrams.
    pub datagrams: &'a [u8],
    /// Length of each but the last.
    pub segment_len: usize,
    /// The address of ours to send from; none leaves it to the kernel.
    pub source: Option<IpAddr>,
    /// Whether they leave in one.
    pub sends: Sends,
    /// For the IP headers of the datagrams (RFC 6040 §4.1).
    pub ecn: Ecn,
}

/// Makes sealed datagrams of frames.
pub struct Encapsulator {
    lane: Lane,
    table: Arc<ForwardingTable>,
    stats: Arc<WorkerStats>,
    bum: BumLimiter,
    trains: OpenTrains,
    wire: Box<[u8]>,
    /// Datagrams that stand alone before they are sealed.
    plain: Box<[u8]>,
    closing: Option<Closing>,
    /// The source punted last: a burst of frames from a new address is one sighting.
    last_sighted: Option<MacAddr>,
}

impl Encapsulator {
    /// One with an empty table.
    pub fn new(lane: Lane, stats: Arc<WorkerStats>, now: Instant) -> Self {
        Self {
            lane,
            table: Arc::default(),
            stats,
            bum: BumLimiter::new(now),
            trains: OpenTrains::new(),
            wire: vec![0; MAX_SEND_BYTES].into(),
            plain: vec![0; MAX_SEND_BYTES].into(),
            closing: None,
            last_sighted: None,
        }
    }

    /// Begins a batch with the table to be used for all of it.
    pub fn begin_batch(&mut self, table: &Arc<ForwardingTable>, now: Instant) {
        debug_assert!(self.trains.is_empty() && self.closing.is_none(), "a batch ends before the next one begins");
        if !Arc::ptr_eq(&self.table, table) {
            self.table = table.clone();
            self.last_sighted = None;
        }
        self.bum.refill(now);
    }

    /// The table of the batch.
    pub fn table(&self) -> &Arc<ForwardingTable> {
        &self.table
    }

    /// Where the next frame is to be read to: room for the largest one.
    pub fn frame_buffer(&mut self) -> &mut [u8] {
        self.trains.record_buffer().1
    }

    /// Takes the frame of `len` bytes in [`Self::frame_buffer`]. Afterwards [`Self::poll_outgoing`] must be drained.
    ///
    /// Returns what the router has to know.
    #[must_use = "punts go to the router"]
    pub fn push(&mut self, vnet: VnetHeader, len: usize) -> Option<Punt> {
        debug_assert!(self.closing.is_none(), "closed trains leave before the next frame comes");
        self.stats.tally(Tally::TapFramesIn, 1);
        let Some(frame) = self.trains.record_buffer().1.get(..len) else {
            self.stats.count_drop(DropReason::FrameTooLong);
            return None;
        };
        let Some(ethernet) = EthernetHeader::parse(frame) else {
            self.stats.count_drop(DropReason::FrameTooShort);
            return None;
        };
        if ethernet.src.is_group() {
            self.stats.count_drop(DropReason::SourceGroup);
            return None;
        }
        if let Some(question) = answerable(&self.table, &ethernet, frame) {
            // Each is work for the router, whose queue is everybody's.
            if self.bum.take(ethernet.src) {
                return Some(question);
            }
            self.stats.count_drop(DropReason::BumLimited);
            return None;
        }
        let sighting = match self.sighting(ethernet.src) {
            Ok(sighting) => sighting,
            Err(reason) => {
                self.stats.count_drop(reason);
                return None;
            }
        };
        match self.destination(&ethernet) {
            Ok(to) => self.append(to, vnet, len),
            Err(reason) => self.stats.count_drop(reason),
        }
        sighting
    }

    /// Ends the batch: what is open leaves. [`Self::poll_outgoing`] must be drained.
    pub fn end_batch(&mut self) {
        self.trains.close_all();
    }

    /// The next send of the closed train, sealed.
    pub fn poll_outgoing(&mut self) -> Option<Outgoing<'_>> {
        loop {
            if self.closing.is_none() {
                self.closing = self.next_closed();
            }
            let closing = self.closing.as_mut()?;
            let Some(sealer) = &mut closing.sealer else {
                let Some(slot) = closing.slots.next() else {
                    self.closing = None;
                    continue;
                };
                let peer = self.table.peer(PeerSlot(slot));
                match Sealer::new(peer, self.lane, closing.train.len()) {
                    Ok(sealer) => closing.sealer = Some(sealer),
                    Err(_) => self.stats.count_drop(DropReason::SessionExhausted),
                }
                continue;
            };
            let slot = PeerSlot(closing.slots.start - 1);
            let peer = self.table.peer(slot);
            let records = self.trains.records(&closing.train);
            match sealer.seal_next(peer, records, &mut self.plain, &mut self.wire) {
                Some(Ok(send)) => {
                    self.stats.tally(Tally::DatagramsOut, send.datagram_count);
                    if let Sealer::Singles(_) = sealer {
                        self.stats.tally(Tally::SinglesOut, send.datagram_count);
                    }
                    if send.datagram_count > 1 {
                        peer.counters.sent_run(&self.stats, send.datagram_count);
                    }
                    let Train { ecn, .. } = closing.train;
                    return Some(Outgoing {
                        slot,
                        to: peer.endpoint,
                        datagrams: &self.wire[..send.len],
                        segment_len: send.segment_len,
                        source: peer.source,
                        sends: peer.sends,
                        ecn,
                    });
                }
                Some(Err(_)) => self.stats.count_drop(DropReason::SessionExhausted),
                None => closing.sealer = None,
            }
        }
    }

    fn destination(&mut self, ethernet: &EthernetHeader) -> Result<Destination, DropReason> {
        let mac = ethernet.dst;
        let port = if mac.is_group() { None } else { self.table.mac(mac).map(|entry| entry.port) };
        match port {
            Some(Port::Peer(slot)) => Ok(Destination::One(slot)),
            Some(Port::Local) => Err(DropReason::Hairpin),
            Some(Port::Away) => Err(DropReason::NoSession),
            None if !self.bum.take_copies(ethernet.src, self.table.peers.len() as u32) => Err(DropReason::BumLimited),
            None => {
                self.stats.tally(Tally::Flooded, 1);
                Ok(Destination::All)
            }
        }
    }

    /// Makes the frame a record of a train.
    fn append(&mut self, to: Destination, vnet: VnetHeader, len: usize) {
        let (header, buffer) = self.trains.record_buffer();
        let frame = &mut buffer[..len];
        let Ok(kind) = classify(&vnet, frame) else {
            return self.stats.count_drop(DropReason::FrameMalformed);
        };
        *header = RecordHeader { kind: RecordKind::Frame(kind), body_len: len }.emit();
        let ecn = Ecn::of_frame(frame);
        self.count(to, len);
        self.trains.add(to, len, ecn);
    }

    fn next_closed(&mut self) -> Option<Closing> {
        let train = self.trains.next_closed()?;
        self.stats.tally(Tally::TrainsOut, 1);
        let slots = match train.to {
            Destination::One(slot) => slot.0..slot.0 + 1,
            Destination::All => 0..self.table.peers.len() as u16,
        };
        Some(Closing { train, slots, sealer: None })
    }

    fn count(&self, to: Destination, frame_len: usize) {
        match to {
            Destination::One(slot) => self.table.peer(slot).counters.sent(&self.stats, frame_len),
            Destination::All => self.table.peers.iter().for_each(|peer| peer.counters.sent(&self.stats, frame_len)),
        }
    }

    /// The source of a frame from the TAP is on this host, unless control knows better. Told to the router when the table does
    /// not know it.
    fn sighting(&mut self, source: MacAddr) -> Result<Option<Punt>, DropReason> {
        match self.table.mac(source) {
            Some(entry) if entry.port == Port::Local => {
                entry.touch(self.table.tick);
                Ok(None)
            }
            // Forged here, or moved here a moment ago. Only the host that it is taken from would believe it.
            Some(entry) if entry.origin == Origin::Static => Err(DropReason::SourceMismatch),
            _ if self.last_sighted == Some(source) => Ok(None),
            _ => {
                self.last_sighted = Some(source);
                Ok(Some(Punt::Sighted { mac: source, port: FibPort::Local }))
            }
        }
    }
}

/// An ARP or ND question that the router can answer does not leave this host.
///
/// Not one with a VLAN tag: that is another network, in which the same address may be somebody else's.
fn answerable(table: &ForwardingTable, ethernet: &EthernetHeader, frame: &[u8]) -> Option<Punt> {
    let is_tagged = ethernet.l3 != ETHERNET_HEADER_LEN;
    if is_tagged || !ethernet.dst.is_group() || table.neighbours.is_empty() {
        return None;
    }
    let NeighbourMessage::Question(question) = NeighbourMessage::parse(frame)? else { return None };
    let is_known = table.answers_for(question.target);
    is_known.then(|| Short::new(frame)).flatten().map(Punt::Question)
}

impl Sealer {
    fn new(peer: &PeerPath, lane: Lane, train_len: usize) -> Result<Self, SealError> {
        let max_chunk_len = peer.datagram_len.chunk_len();
        // NOTE(perf): what fits one datagram stands alone anyway, without a copy.
        if peer.packing == Packing::Trains || train_len <= max_chunk_len {
            Ok(Self::Train(TrainSealer::new(&peer.session, lane, train_len, max_chunk_len)?))
        } else {
            Ok(Self::Singles(SinglesSealer::new(lane, max_chunk_len)))
        }
    }

    fn seal_next(
        &mut self,
        peer: &PeerPath,
        records: &[u8],
        plain: &mut [u8],
        wire: &mut [u8],
    ) -> Option<Result<SealedSend, SealError>> {
        match self {
            Self::Train(sealer) => sealer.seal_next(&peer.session, records, wire).map(Ok),
            Self::Singles(sealer) => sealer.seal_next(&peer.session, records, plain, wire),
        }
    }
}

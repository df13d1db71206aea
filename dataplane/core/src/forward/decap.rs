//! Underlay → TAP: one per receiving thread.
//!
//! 1. [`Decapsulator::handle`] takes what one receive has given: datagrams of one sender, all but the last equally long.
//! 2. Each is sealed data or goes to the router. The receiver index names the session.
//! 3. The chunk is opened to its place in its train; only then its counter is marked.
//! 4. [`Decapsulator::poll`] hands out the frames of complete trains; their source must not be known to be
//!    elsewhere. Control bytes and probes go to the router.
//!
//! INVARIANT: a frame is delivered only from authenticated chunks, and never sent on to another peer (split horizon).

use std::{net::SocketAddr, sync::Arc, time::Duration};

use weaved_api::MacAddr;

use super::{
    Confirmation, DropReason, ForwardingTable, Frames, Inbound, MacEntry, Port, Punt, Short, SlowRecord, Tally,
    WorkerStats,
};
use crate::{
    fib::{FibPort, Origin},
    limits::{LATE_CHUNK_PATIENCE, PARTIAL_PATIENCE, REORDER_PATIENCE},
    noise::OpenError,
    offload::vnet_hdr::VnetHeader,
    train::{
        assembly::Assembler,
        outcome::{ChunkRefusal, Item, Losses, Waiting},
    },
    wire::{
        data::{DATA_OVERHEAD, DataHeader},
        ecn::{Ecn, NotCapable},
        ethernet::EthernetHeader,
        header::{HeaderError, MessageType, parse_type},
        record::ProbeAck,
    },
};

/// What one receive has given.
#[derive(Clone, Copy, Debug)]
pub struct Datagrams<'a> {
    /// Sender's address, not authenticated.
    pub from: SocketAddr,
    /// One or several datagrams.
    pub bytes: &'a [u8],
    /// Length of each but the last.
    pub segment_len: usize,
    /// From their IP headers, not authenticated: whoever is on the path may mark.
    pub ecn: Ecn,
}

/// What a train brought.
#[derive(Debug)]
pub enum Outcome<'a> {
    /// A frame for the TAP.
    Deliver(Delivery<'a>),
    /// A record for the router.
    Punt(Punt),
    /// Something dropped and counted.
    Dropped,
}

/// A frame for the TAP.
#[derive(Debug)]
pub struct Delivery<'a> {
    /// Offload request, made here.
    pub vnet: VnetHeader,
    /// The frame.
    pub frame: &'a mut [u8],
    /// What the router has to know of its source.
    pub sighting: Option<Punt>,
}

/// Makes frames of sealed datagrams.
pub struct Decapsulator {
    table: Arc<ForwardingTable>,
    stats: Arc<WorkerStats>,
    assembler: Assembler,
    /// The source punted last: a burst of frames from a new address is one sighting.
    last_sighted: Option<MacAddr>,
}

impl Decapsulator {
    /// One with an empty table.
    pub fn new(stats: Arc<WorkerStats>) -> Self {
        Self { table: Arc::default(), stats, assembler: Assembler::new(), last_sighted: None }
    }

    /// Begins a batch with the table to be used for it.
    pub fn begin_batch(&mut self, table: &Arc<ForwardingTable>) {
        if !Arc::ptr_eq(&self.table, table) {
            self.table = table.clone();
            self.last_sighted = None;
        }
    }

    /// Takes received datagrams. Afterwards [`Self::poll`] must be drained.
    pub fn handle(&mut self, datagrams: Datagrams<'_>, mut punt: impl FnMut(Punt)) {
        if datagrams.bytes.is_empty() {
            self.stats.count_drop(DropReason::DatagramMalformed);
        }
        let (mut opened_on, mut opened_count) = (None, 0);
        for datagram in datagrams.bytes.chunks(datagrams.segment_len.max(1)) {
            match parse_type(datagram) {
                Ok(MessageType::Data) => match self.open(datagram, datagrams.ecn) {
                    Ok(header) => {
                        opened_count += 1;
                        // The session that it was authentic on, if it tells where the peer is.
                        opened_on = header.lane.tells_endpoint().then_some(header.receiver).or(opened_on);
                    }
                    Err(reason) => self.stats.count_drop(reason),
                },
                Ok(_) => self.punt_handshake(datagrams.from, datagram, &mut punt),
                Err(HeaderError::Version(_)) => self.stats.count_drop(DropReason::OtherVersion),
                Err(HeaderError::Empty | HeaderError::Type(_)) => self.stats.count_drop(DropReason::DatagramMalformed),
            }
        }
        // NOTE(perf): once for all of them.
        self.stats.tally(Tally::DatagramsIn, opened_count);
        self.count_losses();
        if let Some(inbound) = opened_on.and_then(|index| self.table.inbound(index)) {
            report(inbound, datagrams.from, &mut punt);
        }
    }

    /// The socket has nothing more for the moment. Afterwards [`Self::poll`] must be drained.
    pub fn on_socket_empty(&mut self) {
        // Whether something is ready is what polling tells.
        let _ = self.assembler.deliver_torn();
    }

    /// How long the socket may be silent before [`Self::on_silence`] is due. `None` when no train waits for anything.
    pub fn patience(&self) -> Option<Duration> {
        match self.assembler.waiting() {
            Waiting::ForNothing => None,
            Waiting::ToDeliver => Some(PARTIAL_PATIENCE),
            Waiting::ToDeliverLate => Some(REORDER_PATIENCE),
            Waiting::ForLateChunks => Some(LATE_CHUNK_PATIENCE),
        }
    }

    /// The socket has been silent for as long as [`Self::patience`] said. Afterwards [`Self::poll`] must be drained.
    pub fn on_silence(&mut self) {
        match self.assembler.waiting() {
            Waiting::ForNothing => {}
            Waiting::ToDeliver | Waiting::ToDeliverLate => {
                // Whether something is ready is what polling tells.
                let _ = self.assembler.deliver_partial();
            }
            Waiting::ForLateChunks => self.flush_stale(),
        }
    }

    /// Gives up waiting for late chunks. Afterwards [`Self::poll`] must be drained.
    pub fn flush_stale(&mut self) {
        // Whether something is ready is what polling tells.
        let _ = self.assembler.flush_stale();
        self.count_losses();
    }

    /// The next thing that came out of a complete train.
    pub fn poll(&mut self) -> Option<Outcome<'_>> {
        let delivery = self.assembler.poll()?;
        let Some(inbound) = self.table.inbound(delivery.receiver) else {
            self.stats.count_drop(DropReason::UnknownSession);
            return Some(Outcome::Dropped);
        };
        let (vnet, frame, outer) = match delivery.item {
            Item::Frame { vnet, frame, outer } => (vnet, frame, outer),
            Item::Control(bytes) => return Some(slow(inbound, SlowRecord::Control(bytes.to_vec()))),
            Item::Probe { id, len } => return Some(slow(inbound, SlowRecord::Probe(ProbeAck { id, len }))),
            Item::ProbeAck(ack) => return Some(slow(inbound, SlowRecord::ProbeAnswer(ack.id))),
            Item::Farewell(farewell) => {
                return Some(slow(inbound, SlowRecord::Farewell { index: inbound.index, farewell }));
            }
            Item::LossReport(report) => {
                return Some(slow(inbound, SlowRecord::LossReport { index: inbound.index, report }));
            }
        };
        if inbound.frames == Frames::Refused {
            self.stats.count_drop(DropReason::Quarantined);
            return Some(Outcome::Dropped);
        }
        let checked = check_source(&self.table, inbound, frame);
        match checked.and_then(|source| pass_mark(outer, frame).map(|()| source)) {
            Ok(source) => {
                let sighting = source.filter(|mac| self.last_sighted != Some(*mac));
                self.last_sighted = sighting.or(self.last_sighted);
                inbound.counters.received(&self.stats, frame.len());
                self.stats.tally(Tally::TapFramesOut, 1);
                let sighting = sighting.map(|mac| Punt::Sighted { mac, port: FibPort::Peer(inbound.peer) });
                Some(Outcome::Deliver(Delivery { vnet, frame, sighting }))
            }
            Err(reason) => {
                self.stats.count_drop(reason);
                Some(Outcome::Dropped)
            }
        }
    }

    /// Opens one sealed datagram to its place.
    fn open(&mut self, datagram: &[u8], ecn: Ecn) -> Result<DataHeader, DropReason> {
        let header = DataHeader::parse(datagram).ok_or(DropReason::DatagramMalformed)?;
        let inbound = self.table.inbound(header.receiver).ok_or(DropReason::UnknownSession)?;
        let chunk_len = datagram.len() - DATA_OVERHEAD;
        let mut slot = self.assembler.slot_for(&header, chunk_len).map_err(|refusal| match refusal {
            ChunkRefusal::Duplicate => DropReason::Replayed,
            ChunkRefusal::Malformed => DropReason::DatagramMalformed,
            ChunkRefusal::Undelivered => DropReason::TrainsUndelivered,
        })?;
        inbound.session.open(&header, datagram, slot.buffer()).map_err(|error| match error {
            OpenError::Replayed => DropReason::Replayed,
            OpenError::TooOld => DropReason::TooOld,
            OpenError::Forged | OpenError::UnknownLane | OpenError::OutputTooSmall => DropReason::Forged,
        })?;
        // Whether a train is ready is what polling tells.
        let _ = slot.commit(ecn);
        Ok(header)
    }

    fn punt_handshake(&self, from: SocketAddr, datagram: &[u8], punt: &mut impl FnMut(Punt)) {
        match Short::new(datagram) {
            Some(datagram) => punt(Punt::Handshake { from, asked_at: None, datagram }),
            None => self.stats.count_drop(DropReason::DatagramMalformed),
        }
    }

    fn count_losses(&mut self) {
        let losses = self.assembler.take_losses();
        if losses == Losses::default() {
            return;
        }
        self.stats.count_drops(DropReason::TrainIncomplete, losses.incomplete_trains);
        self.stats.count_drops(DropReason::TrainInconsistent, losses.inconsistent_trains);
        self.stats.count_drops(DropReason::RecordMalformed, losses.malformed_records);
    }
}

/// Tells the router what the source of an authentic datagram means: a first sign of life, or another address.
fn report(inbound: &Inbound, from: SocketAddr, punt: &mut impl FnMut(Punt)) {
    if inbound.confirmation == Confirmation::Awaited {
        punt(Punt::Confirmed { index: inbound.index, from });
    } else if inbound.endpoint != from {
        punt(Punt::Roamed { peer: inbound.peer, index: inbound.index, from });
    }
}

/// Passes a congestion mark of the underlay on to the frame (RFC 6040 §4.2).
fn pass_mark(outer: Ecn, frame: &mut [u8]) -> Result<(), DropReason> {
    match outer {
        Ecn::Ce => Ecn::mark(frame).map_err(|NotCapable| DropReason::MarkedNotCapable),
        Ecn::NotEct | Ecn::Ect0 | Ecn::Ect1 => Ok(()),
    }
}

fn slow(inbound: &Inbound, record: SlowRecord) -> Outcome<'static> {
    Outcome::Punt(Punt::Record { from: inbound.peer, record })
}

/// Whether the source of a frame may be behind this peer. Gives the source when the table does not know it there.
fn check_source(table: &ForwardingTable, inbound: &Inbound, frame: &[u8]) -> Result<Option<MacAddr>, DropReason> {
    let source = EthernetHeader::parse(frame).ok_or(DropReason::RecordMalformed)?.src;
    if source.is_group() {
        return Err(DropReason::SourceGroup);
    }
    let Some(entry) = table.mac(source) else { return Ok(Some(source)) };
    if is_behind(table, entry, inbound) {
        entry.touch(table.tick);
        return Ok(None);
    }
    match entry.origin {
        Origin::Static => Err(DropReason::SourceMismatch),
        Origin::Learned => Ok(Some(source)),
    }
}

fn is_behind(table: &ForwardingTable, entry: &MacEntry, inbound: &Inbound) -> bool {
    matches!(entry.port, Port::Peer(slot) if table.peer(slot).id == inbound.peer)
}

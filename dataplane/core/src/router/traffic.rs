//! What the slow path does with traffic: control bytes, probes, sightings, questions, roaming.

use std::{net::SocketAddr, time::Instant};

use weaved_api::{Event, MAX_CONTROL_BYTES, MacAddr, PeerId, Switch};

use super::{Cargo, Router, TableChange, Transmit};
use crate::{
    fib::{FibPort, Learned},
    forward::{DropReason, SlowRecord, Tally, seal_train},
    mtu::DatagramLen,
    noise::Session,
    peer::{Answer, GsoNews, Way},
    wire::{
        data::{Lane, ReceiverIndex},
        neighbour::{MAX_ANSWER_LEN, NeighbourMessage},
        record::{
            FAREWELL_LEN, Farewell, LOSS_REPORT_LEN, LossReport, PROBE_ACK_LEN, ProbeId, RECORD_HEADER_LEN, RecordKind,
            RecordWriter, TrainFull,
        },
    },
};

/// The router's own sending lane.
const ROUTER_LANE: Lane = Lane(0);

impl Router {
    /// A source address was seen behind a port. That of a peer may have gone meanwhile, and with it what was learned of it.
    pub(super) fn on_sighted(&mut self, mac: MacAddr, port: FibPort) {
        if matches!(port, FibPort::Peer(id) if !self.is_connected(id)) {
            return;
        }
        match self.fib.learn(mac, port) {
            Learned::New => self.mark(TableChange::Learned),
            Learned::Moved => {
                self.stats.tally(Tally::MacMoves, 1);
                self.mark(TableChange::Learned);
            }
            Learned::Known | Learned::Contradicted => {}
            Learned::Full => self.count_drop(DropReason::MacTableFull),
            Learned::Lost => {
                self.count_drop(DropReason::MacTableFull);
                self.mark(TableChange::Learned);
            }
        }
    }

    /// An authentic datagram came from another address: the peer is there now. Only its newest session is believed,
    /// because an old datagram may have been held back.
    pub(super) fn on_roamed(&mut self, id: PeerId, index: ReceiverIndex, from: SocketAddr, now: Instant) {
        let Some(link) = self.peers.get_mut(&id).and_then(|peer| peer.link.as_mut()) else { return };
        if link.current.local() != index || !link.follow(from, now) {
            return;
        }
        self.mark(TableChange::Urgent);
        self.events.push_back(Event::PeerUp { id, endpoint: from, target: None });
        self.send_probes(id, now);
    }

    /// A send was refused as too big.
    pub(super) fn on_too_big(&mut self, id: PeerId, datagram_len: usize, now: Instant) {
        let Some(link) = self.peers.get_mut(&id).and_then(|peer| peer.link.as_mut()) else { return };
        if link.path.on_too_big(datagram_len, now) {
            self.mark(TableChange::Urgent);
        }
    }

    /// Datagrams have not left. The path did not lose them, and what is refused as too big has found out something about it.
    pub(super) fn on_unsent(&mut self, transmit: &Transmit, count: u64, reason: DropReason, now: Instant) {
        let is_too_big = reason == DropReason::UnderlayTooBig;
        match transmit.cargo {
            Cargo::Search(_) if is_too_big => self.stats.tally(Tally::ProbesRefused, count),
            _ => self.stats.count_drops(reason, count),
        }
        let (Cargo::Records(id) | Cargo::Search(id)) = transmit.cargo else { return };
        let Some(link) = self.peers.get(&id).and_then(|peer| peer.link.as_ref()) else { return };
        link.current.on_unsent(count);
        if is_too_big {
            self.on_too_big(id, transmit.segment_len.min(transmit.datagrams.len()), now);
        }
    }

    /// A record that is not a frame.
    pub(super) fn on_record(&mut self, from: PeerId, record: SlowRecord, now: Instant) {
        let own_losses = self.workers.iter().map(|worker| worker.dropped(DropReason::UdpOverflow)).sum();
        let Some(link) = self.peers.get_mut(&from).and_then(|peer| peer.link.as_mut()) else {
            // It has ended since the worker opened the datagram.
            return self.count_drop(DropReason::UnknownSession);
        };
        link.heard_at = now;
        match record {
            SlowRecord::Control(bytes) => self.events.push_back(Event::Control { from, bytes }),
            SlowRecord::Probe(ack) => {
                let (session, way) = (link.current.clone(), link.way());
                let chunk_len = link.path.datagram_len().chunk_len();
                let report = link.reception.report(session.reception(), own_losses);
                let len = 2 * RECORD_HEADER_LEN + PROBE_ACK_LEN + LOSS_REPORT_LEN;
                let answer = records(len, |writer| {
                    writer.push_probe_ack(ack)?;
                    writer.push_loss_report(report)
                });
                self.send_chunked(&session, way, &answer, chunk_len, Cargo::Records(from));
            }
            SlowRecord::ProbeAnswer(id) => {
                if link.path.on_answer(id.0, now) == Answer::Raised {
                    self.mark(TableChange::Urgent);
                }
            }
            SlowRecord::LossReport { index, report } => {
                if link.current.local() == index {
                    self.on_loss_report(from, report, now);
                }
            }
            SlowRecord::Farewell { index, farewell } => self.on_farewell(from, index, farewell, now),
        }
    }

    /// What has come of the session in use.
    fn on_loss_report(&mut self, from: PeerId, report: LossReport, now: Instant) {
        let Some(peer) = self.peers.get_mut(&from) else { return };
        let Some(link) = peer.link.as_mut() else { return };
        let Some(report) = link.own_drops.take_out(report, link.current.unsent_count()) else { return };
        let mut has_changed = link.loss.on_report(report);
        // With the switch in another position there is nothing to be decided.
        let news = match self.udp_gso {
            Switch::Auto => link.gso.on_report(report, peer.counters.run_count(), now),
            Switch::On | Switch::Off => None,
        };
        if let Some(news) = news {
            has_changed = true;
            match news {
                GsoNews::Tried => self.stats.tally(Tally::GsoTrials, 1),
                GsoNews::GivenUp(..) => self.stats.tally(Tally::GsoGivenUp, 1),
                GsoNews::TakenUp => self.stats.tally(Tally::GsoTakenUp, 1),
                GsoNews::NotToBlame | GsoNews::LookedAgain | GsoNews::StillLost => {}
            }
            self.gso_news.push_back((peer.label(), news));
        }
        if has_changed {
            self.mark(TableChange::Urgent);
        }
    }

    /// An ARP or ND question whose answer is known: it is answered here and goes no further.
    pub(super) fn on_question(&mut self, frame: &[u8]) {
        let mut answer = [0; MAX_ANSWER_LEN];
        let answered = match NeighbourMessage::parse(frame) {
            Some(NeighbourMessage::Question(question)) => {
                self.neighbours.get(&question.target).and_then(|mac| question.answer(*mac, frame, &mut answer))
            }
            _ => None,
        };
        let Some(len) = answered else { return self.count_drop(DropReason::NeighbourGone) };
        self.stats.tally(Tally::NeighboursAnswered, 1);
        self.frames.push_back(answer[..len].to_vec());
    }

    pub(super) fn send_control(&mut self, to: PeerId, bytes: &[u8]) {
        let link = self.peers.get(&to).and_then(|peer| peer.link.as_ref());
        let Some(link) = link.filter(|_| bytes.len() <= MAX_CONTROL_BYTES) else {
            return self.count_drop(DropReason::ControlNoSession);
        };
        let (session, way, chunk_len) = (link.current.clone(), link.way(), link.path.datagram_len().chunk_len());
        let record = records(RECORD_HEADER_LEN + bytes.len(), |writer| writer.push(RecordKind::Control, bytes));
        self.send_chunked(&session, way, &record, chunk_len, Cargo::Records(to));
    }

    /// Sends the path's probes that wait: each a train of one datagram of exactly the length to be proved.
    pub(super) fn send_probes(&mut self, id: PeerId, now: Instant) {
        loop {
            let Some(link) = self.peers.get_mut(&id).and_then(|peer| peer.link.as_mut()) else { return };
            let Some(probe) = link.path.poll_probe(now) else { return };
            let (session, way) = (link.current.clone(), link.way());
            let is_longer = probe.len > link.path.datagram_len();
            let cargo = if is_longer { Cargo::Search(id) } else { Cargo::Records(id) };
            let chunk_len = probe.len.chunk_len();
            let record = records(chunk_len, |writer| writer.push_probe(ProbeId(probe.id), chunk_len));
            self.send_chunked(&session, way, &record, chunk_len, cargo);
        }
    }

    /// A sign of life on this session: an empty train, which is one empty chunk on any path.
    pub(super) fn send_keepalive(&mut self, session: &Session, way: Way) {
        self.send_chunked(session, way, &[], DatagramLen::MIN.chunk_len(), Cargo::Small);
    }

    /// Says good-bye on this session: one datagram on any path.
    pub(super) fn send_farewell(&mut self, session: &Session, way: Way, farewell: Farewell) {
        let record = records(RECORD_HEADER_LEN + FAREWELL_LEN, |writer| writer.push_farewell(farewell));
        self.send_chunked(session, way, &record, DatagramLen::MIN.chunk_len(), Cargo::Small);
    }

    fn send_chunked(&mut self, session: &Session, way: Way, records: &[u8], chunk_len: usize, cargo: Cargo) {
        let Way { to, source, sends } = way;
        let transmits = &mut self.transmits;
        let sealed = seal_train(session, ROUTER_LANE, records, chunk_len, |datagrams, segment_len| {
            transmits.push_back(Transmit { to, source, sends, datagrams: datagrams.to_vec(), segment_len, cargo });
        });
        match sealed {
            Ok(count) => self.stats.tally(Tally::DatagramsOut, count),
            Err(_) => self.count_drop(DropReason::SessionExhausted),
        }
    }
}

/// A train of `len` bytes with what `write` puts into it.
fn records(len: usize, write: impl FnOnce(&mut RecordWriter<'_>) -> Result<(), TrainFull>) -> Vec<u8> {
    let mut train = vec![0; len];
    write(&mut RecordWriter::new(&mut train)).expect("the caller gives the exact length");
    train
}

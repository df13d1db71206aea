//! Handshakes from the first message to a session in use.
//!
//! ```text
//! initiator                               responder
//!    │ Initiation ─────────────────────────▶ │ opened under the cluster secret; no public-key work yet
//!    │ ◀───────────────────────── Challenge  │ when it does not prove to be fresh
//!    │ Initiation with the answer ─────────▶ │
//!    │ ◀────────────────────────── Response  │ half-open
//!    │ Finish (repeated until heard) ──────▶ │ session in use: sends and receives
//!    │ ◀──────────────────────── empty train │
//!    │ session in use                        │
//! ```

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Instant,
};

use weaved_api::{Event, PeerId, TargetFailure};

use super::{Cargo, DialKey, HalfOpen, Router, STRANGER_INTERVAL, TableChange, Transmit};
use crate::{
    forward::{DropReason, Sends, Tally},
    limits::{MAX_HALF_OPEN, MAX_PEERS},
    noise::{
        Admission, AdmittedInitiation, Attempt, Established, HandshakeError, InitiationError, Initiator,
        OpenedInitiation, RefusalReason, Session, UnixMicros, repeated_finish,
    },
    peer::{Dial, Due, Peer, Proof, Role, Way},
    wire::{
        data::ReceiverIndex,
        handshake::EphemeralKey,
        header::{HeaderError, MessageType, parse_receiver, parse_type},
    },
};

impl Router {
    /// Takes a datagram that is not sealed data.
    pub(super) fn on_handshake(&mut self, from: SocketAddr, datagram: &[u8], now: Instant) {
        match parse_type(datagram) {
            Ok(MessageType::Initiation) => self.on_initiation(from, datagram, now),
            Ok(MessageType::Response) => self.on_response(from, datagram, now),
            Ok(MessageType::Finish) => self.on_finish(from, datagram, now),
            Ok(MessageType::Challenge) => self.on_challenge(datagram, now),
            Ok(MessageType::Refusal) => self.on_refusal(datagram),
            Ok(MessageType::Relay) => self.count_drop(DropReason::RelayUnsupported),
            Ok(MessageType::Data) | Err(HeaderError::Empty | HeaderError::Type(_)) => {
                self.count_drop(DropReason::DatagramMalformed);
            }
            Err(HeaderError::Version(_)) => self.count_drop(DropReason::OtherVersion),
        }
    }

    /// Lets every dial that is due do its next step, and tells failures.
    pub(super) fn drive_dials(&mut self, now: Instant) {
        let peers =
            self.peers.values().filter(|peer| is_due(peer.dial.as_ref(), now)).map(|peer| DialKey::Peer(peer.id));
        let targets =
            self.targets.iter().filter(|(_, target)| !self.is_reached(target) && is_due(Some(&target.dial), now));
        let due: Vec<_> = peers.chain(targets.map(|(to, _)| DialKey::Target(*to))).collect();
        for key in due {
            match self.dial(key).and_then(|dial| dial.handle_timeout(now)) {
                Some(Due::Attempt) => self.attempt_next(key, now),
                Some(Due::Repeat(to, finish)) => {
                    let source = self.dial_source(key, to);
                    self.transmit_from(source, to, finish);
                }
                None => {}
            }
            self.tell_failure(key);
        }
    }

    /// The first datagram on a session that we initiated has been opened: the other side has it too.
    pub(super) fn on_confirmed(&mut self, index: ReceiverIndex, from: SocketAddr, now: Instant) {
        let is_confirming = |dial: &Dial| dial.confirming(index).is_some();
        let Some(key) = self.find_dial(is_confirming) else { return };
        let Some(confirming) = self.dial(key).and_then(|dial| dial.confirming(index)) else { return };
        let (id, session) = (confirming.peer, confirming.session.clone());
        let target = self.end_dial(key, id, now);
        self.connect(id, session, Role::Initiator, from, target, now);
    }

    /// A dial has led to a peer. Returns the target if it was one.
    fn end_dial(&mut self, key: DialKey, found: PeerId, now: Instant) -> Option<SocketAddr> {
        match key {
            DialKey::Peer(id) => {
                self.peers.get_mut(&id)?.dial = None;
                None
            }
            DialKey::Target(to) => {
                let target = self.targets.get_mut(&to)?;
                target.dial = Dial::new(to, now);
                target.peer = Some(found);
                Some(to)
            }
        }
    }

    fn on_initiation(&mut self, from: SocketAddr, datagram: &[u8], now: Instant) {
        let opened = match OpenedInitiation::open(&self.keys, datagram, &mut self.rng) {
            Ok(opened) => opened,
            Err(error) => return self.on_bad_initiation(error, from, datagram, now),
        };
        match self.gate.admit(opened, from, now) {
            Admission::Accept(admitted) => self.respond(*admitted, from, now),
            Admission::Challenge(challenge) => {
                self.count_drop(DropReason::HandshakeNotFresh);
                self.transmit(from, challenge);
            }
            Admission::Silent(_) => self.count_drop(DropReason::HandshakeNotFresh),
        }
    }

    /// Tells the sender why, and control if it may matter to the operator.
    fn on_bad_initiation(&mut self, error: InitiationError, from: SocketAddr, datagram: &[u8], now: Instant) {
        match error {
            InitiationError::Stranger => self.count_drop(DropReason::HandshakeStranger),
            _ => self.count_drop(DropReason::HandshakeInvalid),
        }
        if let InitiationError::SameIdentity { ephemeral, .. } = error
            && self.is_own_initiation(ephemeral)
        {
            return;
        }
        let refusal = error.refusal().and_then(|reason| self.gate.refuse(datagram, reason, from, now));
        refusal.into_iter().for_each(|refusal| self.transmit(from, refusal));
        let event = match error {
            InitiationError::Stranger => Event::StrangerRefused { endpoint: from },
            // One of ours that somebody has kept is not newer than our last one.
            InitiationError::SameIdentity { timestamp, .. } if timestamp <= self.last_timestamp => return,
            InitiationError::SameIdentity { .. } => {
                Event::TargetFailed { endpoint: from, failure: TargetFailure::ClonedIdentity }
            }
            _ => return,
        };
        if self.may_tell(now) {
            self.events.push_back(event);
        }
    }

    /// Whether an initiation that names us as its sender is one of ours that has come back: then we dial ourselves.
    fn is_own_initiation(&mut self, ephemeral: EphemeralKey) -> bool {
        let key = self.find_dial(|dial| dial.initiator().is_some_and(|initiator| initiator.is_author_of(ephemeral)));
        let dial = key.and_then(|key| self.dial(key));
        dial.map(|dial| dial.on_hint(TargetFailure::Ourselves)).is_some()
    }

    fn respond(&mut self, admitted: AdmittedInitiation, from: SocketAddr, now: Instant) {
        let index = self.new_index();
        let Ok((awaiting, response)) = admitted.respond(index, self.announcement) else {
            return self.count_drop(DropReason::HandshakeInvalid);
        };
        if self.half_open.len() >= MAX_HALF_OPEN {
            let oldest = self.half_open.iter().min_by_key(|(_, half)| half.since).map(|(index, _)| *index);
            oldest.and_then(|index| self.half_open.remove(&index));
        }
        self.half_open.insert(index, HalfOpen { awaiting, since: now });
        self.transmit(from, response);
    }

    fn on_response(&mut self, from: SocketAddr, datagram: &[u8], now: Instant) {
        let key = parse_receiver(datagram).and_then(|index| self.find_initiating(index));
        let Some(key) = key else { return self.count_drop(DropReason::HandshakeInvalid) };
        let Some(dial) = self.dial(key) else { return };
        let Some(answered) = dial.initiator_mut().map(|initiator| initiator.handle_response(datagram)) else { return };
        match answered {
            Ok((finish, established)) => {
                let session = Arc::new(established.session);
                dial.on_responded(established.peer, from, session, finish.clone(), now);
                self.mark(TableChange::Urgent);
                self.transmit(from, finish);
            }
            Err(error) => {
                dial.on_hint(failure_of(error));
                self.count_drop(DropReason::HandshakeInvalid);
            }
        }
    }

    fn on_finish(&mut self, from: SocketAddr, datagram: &[u8], now: Instant) {
        let Some(index) = parse_receiver(datagram) else { return self.count_drop(DropReason::HandshakeInvalid) };
        let Some(half) = self.half_open.get_mut(&index) else { return self.on_repeated_finish(from, datagram) };
        match half.awaiting.handle_finish(datagram) {
            Ok(established) => {
                let since = half.since;
                self.half_open.remove(&index);
                self.on_finished(established, since, from, now);
            }
            Err(error) => {
                if !error.is_survived() {
                    self.half_open.remove(&index);
                }
                self.count_drop(DropReason::HandshakeInvalid);
            }
        }
    }

    /// A session that the peer has started is complete; we have answered its first message at `since`.
    ///
    /// When we have started one with it at the same time, there are two. Both ends seal with the one that the smaller
    /// id has started and keep the other one only to open what is on its way.
    fn on_finished(&mut self, established: Established, since: Instant, from: SocketAddr, now: Instant) {
        let (id, session) = (established.peer, Arc::new(established.session));
        if self.id() < id
            && let Some(link) = self.peers.get_mut(&id).and_then(|peer| peer.link.as_mut())
            && link.is_ours_since(since)
        {
            link.keep(session.clone(), now);
            self.mark(TableChange::Urgent);
            return self.send_keepalive(&session, self.way_back(from));
        }
        let own = if id < self.id() { self.find_dial(|dial| dial.confirming_with(id).is_some()) } else { None };
        let crossed = own.and_then(|key| Some((key, self.dial(key)?.confirming_with(id)?.session.clone())));
        let target = crossed.as_ref().and_then(|(key, _)| self.end_dial(*key, id, now));
        if !self.connect(id, session.clone(), Role::Responder, from, target, now) {
            return;
        }
        let link = self.peers.get_mut(&id).and_then(|peer| peer.link.as_mut());
        if let (Some((_, crossed)), Some(link)) = (crossed, link) {
            link.keep(crossed, now);
        }
        self.send_keepalive(&session, self.way_back(from));
    }

    /// The initiator has not heard us yet: a sign of life.
    fn on_repeated_finish(&mut self, from: SocketAddr, datagram: &[u8]) {
        let index = repeated_finish(&self.keys, datagram);
        let links = || self.peers.values().filter_map(|peer| peer.link.as_ref());
        let session = index.and_then(|index| {
            let link = links().find(|link| link.owns(index))?;
            link.inbound().find(|session| session.local() == index).cloned()
        });
        match session {
            Some(session) => self.send_keepalive(&session, self.way_back(from)),
            None => self.count_drop(DropReason::HandshakeInvalid),
        }
    }

    fn on_challenge(&mut self, datagram: &[u8], now: Instant) {
        let key = parse_receiver(datagram).and_then(|index| self.find_initiating(index));
        let dial = key.and_then(|key| Some((key, self.dial(key)?)));
        let answer = dial.and_then(|(key, dial)| Some((key, dial.unproved()?.handle_challenge(datagram).ok()?)));
        match answer {
            Some((key, answer)) => {
                if let Some(dial) = self.dial(key) {
                    dial.answer = Some(answer);
                }
                self.attempt(key, Proof::Given, now);
            }
            None => self.count_drop(DropReason::HandshakeInvalid),
        }
    }

    fn on_refusal(&mut self, datagram: &[u8]) {
        let key = parse_receiver(datagram).and_then(|index| self.find_initiating(index));
        let dial = key.and_then(|key| self.dial(key));
        let refused = dial.and_then(|dial| {
            let reason = dial.initiator_mut()?.handle_refusal(datagram).ok()?;
            Some((dial, reason))
        });
        match refused {
            Some((dial, RefusalReason::OtherSecret)) => dial.on_hint(TargetFailure::OtherSecret),
            Some((dial, RefusalReason::SameIdentity)) => dial.on_hint(TargetFailure::ClonedIdentity),
            Some((dial, RefusalReason::OtherIdentity)) => dial.on_hint(TargetFailure::OtherIdentity),
            Some((dial, RefusalReason::OtherVersion)) => dial.on_hint(TargetFailure::OtherVersion),
            None => self.count_drop(DropReason::HandshakeInvalid),
        }
    }

    /// Unauthenticated senders cannot make us tell more than one event a second.
    fn may_tell(&mut self, now: Instant) -> bool {
        let told = self.stranger_told_at.is_some_and(|at| now.saturating_duration_since(at) < STRANGER_INTERVAL);
        if !told {
            self.stranger_told_at = Some(now);
        }
        !told
    }

    /// A session is complete on both sides: it is used from here on. False when there is no room for the peer.
    fn connect(
        &mut self,
        id: PeerId,
        session: Arc<Session>,
        role: Role,
        from: SocketAddr,
        target: Option<SocketAddr>,
        now: Instant,
    ) -> bool {
        if !self.peers.contains_key(&id) && self.peers.len() >= MAX_PEERS {
            self.count_drop(DropReason::PeerTableFull);
            return false;
        }
        let first_id = self.rng.public_u32();
        let peer = self.peers.entry(id).or_insert_with(|| Peer::new(id));
        let before = peer.link.as_ref().map(|link| link.endpoint);
        peer.install(session, role, from, first_id, now);
        if let Some(link) = &mut peer.link {
            match role {
                Role::Responder => link.source = self.asked_at,
                // It was dialled somewhere else than where it knew us, and the kernel had the choice.
                Role::Initiator if before != Some(from) => link.source = None,
                Role::Initiator => {}
            }
        }
        peer.dial.take_if(|dial| dial.is_initiating());
        self.stats.tally(Tally::Handshakes, 1);
        self.mark(TableChange::Urgent);
        if before != Some(from) || target.is_some() {
            self.events.push_back(Event::PeerUp { id, endpoint: from, target });
        }
        self.send_probes(id, now);
        true
    }

    /// A new attempt after one in vain: at the next address, if there are several.
    fn attempt_next(&mut self, key: DialKey, now: Instant) {
        if let DialKey::Peer(id) = key
            && let Some(peer) = self.peers.get_mut(&id)
        {
            let failed = peer.dial.as_ref().filter(|dial| dial.has_failed()).map(|dial| dial.to);
            let next = failed.map(|tried| peer.next_candidate(tried));
            if let (Some(dial), Some(next)) = (&mut peer.dial, next) {
                dial.to = next;
            }
        }
        self.attempt(key, Proof::Open, now);
    }

    fn attempt(&mut self, key: DialKey, proof: Proof, now: Instant) {
        let to = match key {
            DialKey::Peer(id) => Some(id),
            DialKey::Target(_) => None,
        };
        let index = self.new_index();
        let timestamp = self.next_timestamp(now);
        let answer = self.dial(key).and_then(|dial| dial.answer);
        let attempt = Attempt { index, to, timestamp, announcement: self.announcement, answer };
        let (initiator, initiation) = Initiator::start(&self.keys, &attempt, &mut self.rng);
        let jitter = self.rng.jitter();
        let Some(dial) = self.dial(key) else { return };
        dial.on_initiated(initiator, proof, jitter, now);
        let to = dial.to;
        let source = self.asked_at.or_else(|| self.dial_source(key, to));
        self.transmit_from(source, to, initiation);
    }

    /// The address of ours to dial from: the one that the peer knows, if it does.
    fn dial_source(&self, key: DialKey, to: SocketAddr) -> Option<IpAddr> {
        match key {
            DialKey::Peer(id) => self.peers.get(&id)?.known_source(to),
            DialKey::Target(_) => None,
        }
    }

    fn tell_failure(&mut self, key: DialKey) {
        let failure = self.dial(key).and_then(|dial| Some((dial.to, dial.poll_failure()?)));
        if let Some((endpoint, failure)) = failure {
            self.events.push_back(Event::TargetFailed { endpoint, failure });
        }
    }

    /// To where the message in hand came from.
    fn way_back(&self, to: SocketAddr) -> Way {
        Way { to, source: self.asked_at, sends: Sends::Joined }
    }

    /// An answer to the message in hand.
    fn transmit(&mut self, to: SocketAddr, datagram: Vec<u8>) {
        self.transmit_from(self.asked_at, to, datagram);
    }

    fn transmit_from(&mut self, source: Option<IpAddr>, to: SocketAddr, datagram: Vec<u8>) {
        let segment_len = datagram.len();
        let (sends, cargo) = (Sends::Joined, Cargo::Small);
        self.transmits.push_back(Transmit { to, source, sends, datagrams: datagram, segment_len, cargo });
    }

    /// Strictly growing while the process lives, and over restarts as far as the wall clock does.
    fn next_timestamp(&mut self, now: Instant) -> UnixMicros {
        let elapsed = now.saturating_duration_since(self.started_at).as_micros() as u64;
        let wall = UnixMicros(self.wall_clock.0.saturating_add(elapsed));
        self.last_timestamp = wall.max(UnixMicros(self.last_timestamp.0.saturating_add(1)));
        self.last_timestamp
    }

    /// A random index that names nothing yet.
    fn new_index(&mut self) -> ReceiverIndex {
        loop {
            let index = self.rng.receiver_index();
            let is_session = self.peers.values().filter_map(|peer| peer.link.as_ref()).any(|link| link.owns(index));
            let is_half_open = self.half_open.contains_key(&index);
            let is_dialled = self.find_dial(|dial| dial.confirming(index).is_some()).is_some();
            if !is_session && !is_half_open && !is_dialled && self.find_initiating(index).is_none() {
                return index;
            }
        }
    }

    fn find_initiating(&self, index: ReceiverIndex) -> Option<DialKey> {
        self.find_dial(|dial| dial.initiator().is_some_and(|initiator| initiator.index() == index))
    }

    fn find_dial(&self, wanted: impl Fn(&Dial) -> bool) -> Option<DialKey> {
        let of_peer = self.peers.values().find(|peer| peer.dial.as_ref().is_some_and(&wanted));
        let of_target = || self.targets.iter().find(|(_, target)| wanted(&target.dial));
        of_peer.map(|peer| DialKey::Peer(peer.id)).or_else(|| of_target().map(|(to, _)| DialKey::Target(*to)))
    }

    fn dial(&mut self, key: DialKey) -> Option<&mut Dial> {
        dial_mut(&mut self.peers, &mut self.targets, key)
    }
}

fn dial_mut<'a>(
    peers: &'a mut std::collections::BTreeMap<PeerId, Peer>,
    targets: &'a mut std::collections::BTreeMap<SocketAddr, super::Target>,
    key: DialKey,
) -> Option<&'a mut Dial> {
    match key {
        DialKey::Peer(id) => peers.get_mut(&id)?.dial.as_mut(),
        DialKey::Target(to) => Some(&mut targets.get_mut(&to)?.dial),
    }
}

fn failure_of(error: HandshakeError) -> TargetFailure {
    match error {
        HandshakeError::SameIdentity => TargetFailure::ClonedIdentity,
        HandshakeError::OtherIdentity => TargetFailure::OtherIdentity,
        HandshakeError::OtherVersion => TargetFailure::OtherVersion,
        HandshakeError::Malformed | HandshakeError::Forged | HandshakeError::Over => TargetFailure::NoAnswer,
    }
}

fn is_due(dial: Option<&Dial>, now: Instant) -> bool {
    dial.is_some_and(|dial| dial.next_timeout() <= now)
}

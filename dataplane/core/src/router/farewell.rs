//! Good-byes: what is told to the other ends when sessions are ended here, and what becomes of one that comes.
//!
//! A farewell is a record, sealed like any other. It is sent on every session that there is with the peer, because the
//! two ends may not agree for a moment on which one is current, and three times, because datagrams get lost. Nothing
//! answers it: what is lost three times is found out by silence, as if nobody had said anything.
//!
//! INVARIANT: a farewell ends a link only when it came on the link's current session. One of an earlier life that was
//! held back or replayed finds its session gone or replaced.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use weaved_api::{LinkEnd, PeerId};

use super::{Course, Router, TableChange};
use crate::{
    forward::Sends,
    noise::Session,
    peer::{Dial, Phase, Way},
    wire::{data::ReceiverIndex, record::Farewell},
};

/// How often a farewell is sent.
const REPEATS: u32 = 3;

/// The interval. With it an orderly end takes 120 ms.
const INTERVAL: Duration = Duration::from_millis(60);

/// A session that has ended here and whose other end is being told.
pub(super) struct Goodbye {
    session: Arc<Session>,
    way: Way,
    farewell: Farewell,
    left: u32,
    due: Instant,
}

impl Goodbye {
    pub(super) fn next_timeout(&self) -> Instant {
        self.due
    }
}

impl Router {
    /// The process is about to end in an orderly way: all sessions end, and the peers are told. From here on nothing is
    /// taken in. Go on with timeouts and transmits until [`Self::has_ended`]; that takes 120 ms.
    pub fn handle_end(&mut self, now: Instant) {
        self.course = Course::Ending;
        let confirming = self.dials().filter_map(|dial| match &dial.phase {
            Phase::Confirming(confirming) => Some(confirming.peer),
            _ => None,
        });
        let peers: BTreeSet<PeerId> = self.peers.keys().copied().chain(confirming).collect();
        for id in peers {
            self.say_goodbye(id, Farewell::Ending, now);
        }
        self.peers.clear();
        self.targets.clear();
        self.half_open.clear();
        self.mark(TableChange::Urgent);
        self.drive_goodbyes(now);
    }

    /// True when nothing is left to be told.
    pub fn has_ended(&self) -> bool {
        self.course == Course::Ending && self.goodbyes.is_empty()
    }

    /// Sends away the peers that control has not wanted for a while.
    pub(super) fn drive_dismissals(&mut self, now: Instant) {
        let is_due = |due: Option<Instant>| due.is_some_and(|due| due <= now);
        let due: Vec<PeerId> =
            self.peers.values().filter(|peer| is_due(peer.dismissal_due())).map(|peer| peer.id).collect();
        for id in due {
            self.say_goodbye(id, Farewell::Dismissal, now);
            self.disconnect(id, LinkEnd::Dismissed, now);
        }
    }

    /// Sends the farewells that are due.
    pub(super) fn drive_goodbyes(&mut self, now: Instant) {
        for mut goodbye in std::mem::take(&mut self.goodbyes) {
            if goodbye.due <= now {
                self.send_farewell(&goodbye.session, goodbye.way, goodbye.farewell);
                goodbye.left -= 1;
                goodbye.due = now + INTERVAL;
            }
            if goodbye.left > 0 {
                self.goodbyes.push(goodbye);
            }
        }
    }

    /// The peer has ended this session. Control hears why; attempts to reach it again start at once, since it may be
    /// restarting.
    pub(super) fn on_farewell(&mut self, from: PeerId, index: ReceiverIndex, farewell: Farewell, now: Instant) {
        let link = self.peers.get(&from).and_then(|peer| peer.link.as_ref());
        if link.is_none_or(|link| link.current.local() != index) {
            return;
        }
        let end = match farewell {
            Farewell::Ending => LinkEnd::PeerSaidGoodbye,
            Farewell::Dismissal => LinkEnd::PeerDismissedUs,
        };
        self.disconnect(from, end, now);
    }

    /// Prepares a farewell on every session with this peer, also on one that it has not been heard on yet.
    fn say_goodbye(&mut self, id: PeerId, farewell: Farewell, now: Instant) {
        let peer = self.peers.get(&id);
        let link = peer.and_then(|peer| peer.link.as_ref());
        let in_use = link.into_iter().flat_map(|link| link.inbound().map(|session| (session.clone(), link.way())));
        let confirming = self.dials().filter_map(|dial| dial.confirming_with(id));
        let confirming = confirming.map(|confirming| {
            let to = confirming.endpoint;
            let source = peer.and_then(|peer| peer.known_source(to));
            (confirming.session.clone(), Way { to, source, sends: Sends::Joined })
        });
        let goodbyes: Vec<Goodbye> = in_use
            .chain(confirming)
            .map(|(session, way)| Goodbye { session, way, farewell, left: REPEATS, due: now })
            .collect();
        self.goodbyes.extend(goodbyes);
    }

    /// All attempts that are under way.
    pub(super) fn dials(&self) -> impl Iterator<Item = &Dial> {
        let of_peers = self.peers.values().filter_map(|peer| peer.dial.as_ref());
        of_peers.chain(self.targets.values().map(|target| &target.dial))
    }
}

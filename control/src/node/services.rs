//! The catalogue of services within a node: how it spreads, and what is thought of nodes that cannot be reached.
//!
//! * Our own changes go to all connected peers, what we learn of others goes on to some: as deltas when they are short,
//!   else as a head, and who lacks it asks.
//! * With every repair, and when a session comes up, heads are compared; each side asks the other for what it lacks.
//!
//! What a node says is believed while it can be reached. One that cannot be is *suspended* at once, its instances are
//! critical; after [`GRACE`] they are not listed. When it is back, it is believed again as soon as it has said what runs
//! there in its present life; a restart that nobody noticed changes nothing.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use weaved_api::PeerId;

use super::{MemberState, Node, NodeEvent, gossip};
use crate::{
    catalogue::{
        Catalogue, CatalogueMessage, Head, Indexer, Instance, LogDelta, NodeFacts, Readiness, Standing, Taken, View,
    },
    cluster::{IdRange, Liveness, Message, Presence, Record, Version},
    hlc::Hlc,
};

/// How long the instances of a node that cannot be reached are listed as critical.
pub const GRACE: Duration = Duration::from_hours(1);
/// A member that came back may be believed when nothing new was heard of it for so long: its record comes with it.
const RETURN_PATIENCE: Duration = Duration::from_secs(2);
/// How long a node that has just started waits for the logs of its peers before it shows its view.
const PEERS_PATIENCE: Duration = Duration::from_secs(5);
/// How long it waits to know what runs here.
const OWN_PATIENCE: Duration = Duration::from_secs(30);
/// News of at most so many datagrams are pushed; of longer ones the head is.
const EAGER_DELTAS: usize = 4;

/// The catalogue and what belongs to it.
pub(super) struct Services {
    pub(super) catalogue: Catalogue,
    indexer: Indexer,
    attendance: BTreeMap<PeerId, Attendance>,
    left_out_count: usize,
    /// When the view is brought up to date.
    pub(super) view_at: Option<Instant>,
}

/// What this node knows of a host since its own start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// Which containers are there, or that it does not answer.
    pub containers: bool,
    /// The view has all its instances, or that it does not answer.
    pub instances: bool,
}

/// Whether a member is here, as far as its instances are concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Attendance {
    /// Not reached yet.
    Expected { since: Instant },
    /// It is.
    Here,
    /// Not any more. Its record had this version.
    Gone { since: Instant, record: Version },
    /// It is again, but may have come with a new life.
    Back { since: Instant, gone_since: Instant, record: Version },
}

impl Services {
    pub(super) fn new(me: PeerId, floor: Version, wall_us: u64) -> Self {
        Self {
            catalogue: Catalogue::new(me, floor),
            indexer: Indexer::new(me, Hlc(floor.0), wall_us),
            attendance: BTreeMap::new(),
            left_out_count: 0,
            view_at: None,
        }
    }

    /// What is known, as of the last change.
    pub(super) fn view(&self) -> &Arc<View> {
        self.indexer.view()
    }

    /// At least every number that was used: versions and indexes.
    pub(super) fn highest_number(&self) -> Version {
        self.catalogue.own_version().max(Version(self.indexer.view().index.0))
    }
}

impl Attendance {
    /// What follows when it is found reachable, or not.
    fn next(this: Option<Self>, is_reachable: bool, record: Version, now: Instant) -> Self {
        match (this, is_reachable) {
            (None, false) => Self::Expected { since: now },
            (None | Some(Self::Expected { .. }), true) => Self::Here,
            (Some(Self::Here), false) => Self::Gone { since: now, record },
            (Some(Self::Gone { since, record }), true) => Self::Back { since: now, gone_since: since, record },
            (Some(Self::Back { gone_since, record, .. }), false) => Self::Gone { since: gone_since, record },
            (Some(this), _) => this,
        }
    }

    fn standing(self, now: Instant) -> Standing {
        let away_since = match self {
            Self::Here => return Standing::Trusted,
            Self::Expected { since } | Self::Gone { since, .. } => since,
            Self::Back { gone_since, .. } => gone_since,
        };
        let is_over = now.saturating_duration_since(away_since) >= GRACE;
        if is_over { Standing::Expired } else { Standing::Suspended }
    }
}

impl Node {
    /// All instances of services of this host. Before the first call nothing is said of them, and the others keep what
    /// they had from an earlier run; so it is called when all sources have been asked, and then with every change.
    pub fn handle_instances(&mut self, instances: Vec<Instance>, now: Instant) {
        self.instances_here = Some(instances.clone());
        self.announce_instances(instances, now);
        self.refresh(now);
    }

    pub(super) fn announce_instances(&mut self, instances: Vec<Instance>, now: Instant) {
        let instances = self.with_host_drain(instances);
        let left_out = self.services.catalogue.write_own(instances);
        if left_out != self.services.left_out_count && left_out > 0 {
            self.emit(NodeEvent::InstancesNotAnnounced(left_out));
        }
        self.services.left_out_count = left_out;
        self.raise_version_floor();
        self.look_again_soon(now);
    }

    /// What is known of services, as of the last change. Its index tells one from another.
    pub fn view(&self) -> &Arc<View> {
        self.services.indexer.view()
    }

    pub(super) fn look_again_soon(&mut self, now: Instant) {
        let soon = now + gossip::GATHER;
        let at = self.services.view_at.get_or_insert(soon);
        *at = (*at).min(soon);
    }

    /// Brings the view up to date.
    pub(super) fn update_view(&mut self, now: Instant) {
        let facts = self.node_facts(now);
        let readiness = self.readiness(now);
        let services = &mut self.services;
        let changed = services.catalogue.take_changed();
        let catalogue = &services.catalogue;
        let wall_us = self.clock.wall_us(now);
        if services.indexer.rebuild(readiness, facts, &changed, |owner| catalogue.instances(owner), wall_us) {
            self.raise_version_floor();
        }
        if readiness == Readiness::Starting {
            self.look_again_at(now + gossip::GATHER * 5);
        }
    }

    pub(super) fn send_heads(&mut self, to: PeerId) {
        let heads = self.services.catalogue.heads(IdRange::ALL);
        self.send_catalogue(&[to], CatalogueMessage::heads_of(IdRange::ALL, &heads));
    }

    /// Compares with a peer, and forgets the logs of those who are no members.
    pub(super) fn repair_catalogue(&mut self, peer: Option<PeerId>, now: Instant) {
        let replica = &self.replica;
        self.services
            .catalogue
            .prune(|id| replica.record(id).is_some_and(|record| record.presence == Presence::Member));
        if let Some(peer) = peer {
            self.send_heads(peer);
        }
        self.look_again_soon(now);
    }

    /// Tells what is new.
    pub(super) fn flush_catalogue(&mut self) {
        let news = self.services.catalogue.take_news();
        if let Some(own) = news.own {
            let peers = self.random_peers(gossip::EAGER_PEERS, None);
            self.push(&peers, own);
        }
        for rumour in news.rumours {
            let peers = self.random_peers(gossip::RUMOUR_PEERS, None);
            self.push(&peers, rumour);
        }
    }

    pub(super) fn on_catalogue(&mut self, from: PeerId, message: CatalogueMessage, now: Instant) {
        let catalogue = &mut self.services.catalogue;
        match message {
            CatalogueMessage::Heads { range, heads } => {
                let comparison = catalogue.compare(range, &heads, now);
                self.send_catalogue(&[from], CatalogueMessage::asks(&comparison.asks));
                self.send_catalogue(&[from], CatalogueMessage::answers(&comparison.answers));
                if comparison.foreign_own {
                    self.on_foreign_instances(now);
                }
            }
            CatalogueMessage::Ask(heads) => {
                let deltas: Vec<_> = catalogue.deltas(&heads).map(CatalogueMessage::Delta).collect();
                self.send_catalogue(&[from], deltas);
            }
            CatalogueMessage::Delta(delta) => self.on_log_delta(from, delta, now),
        }
    }

    fn on_log_delta(&mut self, from: PeerId, delta: LogDelta, now: Instant) {
        let has_left = |record: &Record| record.presence == Presence::Left;
        if self.replica.record(delta.owner).is_some_and(has_left) {
            return;
        }
        match self.services.catalogue.take(delta, now) {
            Taken::In(ask) => {
                self.look_again_soon(now);
                self.send_catalogue(&[from], CatalogueMessage::asks(ask.as_slice()));
            }
            Taken::Gap(ask) => self.send_catalogue(&[from], CatalogueMessage::asks(ask.as_slice())),
            Taken::ForeignOwn => self.on_foreign_instances(now),
            Taken::Refused => self.counters.instances_refused += 1,
            Taken::Stale => {}
        }
    }

    fn on_foreign_instances(&mut self, now: Instant) {
        self.on_foreign_own(now);
        // Our record tells where the log begins.
        self.has_changed = true;
    }

    fn push(&mut self, peers: &[PeerId], (owner, before): (PeerId, Head)) {
        let catalogue = &self.services.catalogue;
        let deltas: Vec<_> = catalogue.deltas(&[(owner, before)]).map(CatalogueMessage::Delta).collect();
        let messages = if deltas.len() <= EAGER_DELTAS {
            deltas
        } else {
            let range = IdRange::only(owner);
            CatalogueMessage::heads_of(range, &catalogue.heads(range))
        };
        self.send_catalogue(peers, messages);
    }

    fn send_catalogue(&mut self, peers: &[PeerId], messages: impl IntoIterator<Item = CatalogueMessage>) {
        self.send_each(peers, messages.into_iter().map(Message::Catalogue));
    }

    fn look_again_at(&mut self, at: Instant) {
        let known = self.services.view_at.get_or_insert(at);
        *known = (*known).min(at);
    }

    /// All members, ourselves included.
    fn node_facts(&mut self, now: Instant) -> Vec<NodeFacts> {
        let me = self.config.id;
        let members: Vec<_> = self.replica.members().map(|(id, record)| (id, record.version)).collect();
        self.services.attendance.retain(|id, _| members.iter().any(|(member, _)| member == id));
        let mut facts: Vec<_> = members
            .into_iter()
            .map(|(id, version)| {
                let standing = self.standing(id, version, now);
                self.facts_of(id, standing)
            })
            .collect();
        facts.push(self.facts_of(me, Standing::Trusted));
        facts
    }

    fn facts_of(&self, id: PeerId, standing: Standing) -> NodeFacts {
        let record = self.replica.record(id);
        let slice = record.filter(|record| record.overlay == self.overlay).and_then(|record| record.slice);
        let state = match self.membership.liveness(id) {
            _ if id == self.config.id => MemberState::Up,
            Some((Liveness::Up, _)) => MemberState::Up,
            Some((Liveness::Down, _)) => MemberState::Down,
            Some((Liveness::Away, _)) => MemberState::Away,
            None => MemberState::Joining,
        };
        NodeFacts {
            id,
            name: self.name_of(id),
            address: record.and_then(|record| record.endpoints.first()).map(std::net::SocketAddr::ip),
            gateway: slice.map(|slice| self.overlay.gateway(slice).addr().into()),
            state,
            standing,
            meta: slice
                .map(|slice| ("weaved-slice".into(), self.overlay.slice(slice).to_string()))
                .into_iter()
                .collect(),
        }
    }

    /// What is to be thought of a member's instances.
    fn standing(&mut self, id: PeerId, record: Version, now: Instant) -> Standing {
        let is_up = match self.membership.liveness(id) {
            Some((liveness, _)) => liveness == Liveness::Up,
            None => self.sessions.contains_key(&id),
        };
        let is_reachable = is_up && !self.wanted.quarantined.contains(&id);
        let known = self.services.attendance.get(&id).copied();
        let mut attendance = Attendance::next(known, is_reachable, record, now);
        if let Attendance::Back { since, record: before, .. } = attendance {
            let believable_at = since + RETURN_PATIENCE;
            if now < believable_at && record == before {
                self.look_again_at(believable_at);
            } else if self.has_all_instances_of(id) {
                attendance = Attendance::Here;
            }
        }
        self.services.attendance.insert(id, attendance);
        attendance.standing(now)
    }

    /// What has been heard of a host, this one included. Of its own containers the node says nothing.
    pub fn heard_of(&self, id: PeerId) -> Heard {
        let catalogue = &self.services.catalogue;
        if id == self.config.id {
            return Heard { containers: true, instances: catalogue.knows_own() && catalogue.is_taken(id) };
        }
        match self.membership.liveness(id) {
            Some((Liveness::Down | Liveness::Away, _)) => Heard { containers: true, instances: true },
            Some((Liveness::Up, _)) => {
                let shown = self.view().nodes.get(&id).map(|node| node.facts.standing);
                let is_shown = shown == Some(Standing::Trusted) && catalogue.is_taken(id);
                let instances = is_shown && self.has_all_instances_of(id);
                Heard { containers: self.replica.record(id).is_some(), instances }
            }
            None => Heard::default(),
        }
    }

    fn has_all_instances_of(&self, id: PeerId) -> bool {
        let from = self.replica.record(id).map(|record| record.instances_from);
        from.is_some_and(|from| self.services.catalogue.is_complete(id, from))
    }

    /// Whether the view may be shown.
    fn readiness(&self, now: Instant) -> Readiness {
        let age = now.saturating_duration_since(self.clock.started_at);
        let knows_own = self.services.catalogue.knows_own() || age >= OWN_PATIENCE;
        let is_ready = self.view().readiness == Readiness::Ready
            || (knows_own && (age >= PEERS_PATIENCE || self.knows_all_instances()));
        if is_ready { Readiness::Ready } else { Readiness::Starting }
    }

    /// True when no log of a member that is there, or was in an earlier run, is missing.
    fn knows_all_instances(&self) -> bool {
        let is_known = |id: PeerId| match self.membership.liveness(id) {
            Some((Liveness::Up, _)) => self.has_all_instances_of(id),
            Some((Liveness::Down | Liveness::Away, _)) => true,
            None => false,
        };
        let members = self.replica.members().map(|(id, _)| id);
        members.chain(self.known.keys().copied()).chain(self.sessions.keys().copied()).all(is_known)
    }
}

//! One peer as the router knows it: who it is, the sessions in use, the path below them, and attempts to get one.
//!
//! INVARIANT: sending uses `current` only, but for a farewell, which goes out on every session. `previous` still opens
//! what is in flight after a rekey; the session to come lives in the dial until the peer has been heard on it.

mod dial;
mod gso;
mod loss;
mod path_mtu;

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

pub use dial::{Confirming, Dial, Due, Phase, Proof};
pub use gso::{GsoNews, PathGso};
pub use loss::{LossRate, OwnDrops, PathLoss, Reception};
pub use path_mtu::{Answer, PathMtu, PathProbe, Verdict};
use weaved_api::{LinkEnd, PeerId, TargetFailure};

use crate::{
    forward::{PeerCounters, Sends},
    limits::MAX_PREVIOUS_SESSIONS,
    noise::{
        Session,
        spec::{REJECT_AFTER, REKEY_AFTER},
    },
    wire::data::ReceiverIndex,
};

/// The end that did not start the current session starts a new one only this much later, so that both rarely do.
const RESPONDER_REKEY_DELAY: Duration = Duration::from_secs(20);

/// How soon rekeying is asked for again when nothing has come of it.
const REKEY_RETRY: Duration = Duration::from_secs(5);

/// Silence after which a peer that answers no probe is given up.
const DEAD_AFTER: Duration = Duration::from_secs(8);

/// A peer is followed to another address no more often than this: each time the path is searched, workers get a new table and
/// control is told, and whoever is on the path may have it seem to come from anywhere.
const FOLLOW_INTERVAL: Duration = Duration::from_secs(1);

/// How long a peer that control no longer wants is kept: a control process that has just started may not know it yet.
const DISMISSAL_DELAY: Duration = Duration::from_secs(1);

/// Which end started the handshake of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// We did.
    Initiator,
    /// The peer did.
    Responder,
}

/// What control wants of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// A session.
    Wanted,
    /// Nothing: it came by itself and is served while it stays.
    Visitor,
    /// Nothing any more, since then.
    Dismissed(Instant),
}

/// A peer.
pub struct Peer {
    /// Its public key.
    pub id: PeerId,
    /// Its name from the desired state; empty for a visitor.
    pub name: String,
    /// Where it may be found, best first. Empty for a visitor.
    pub candidates: Vec<SocketAddr>,
    /// What control wants of it.
    pub standing: Standing,
    /// The session in use and its path.
    pub link: Option<Link>,
    /// Attempts to get one.
    pub dial: Option<Dial>,
    /// Why the last link has ended, when there is none.
    pub ended: Option<LinkEnd>,
    /// Frames and bytes, over all sessions.
    pub counters: Arc<PeerCounters>,
}

/// Where a peer is, which of our addresses it talks to, and how trains leave for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// Its address.
    pub to: SocketAddr,
    /// Ours; none leaves it to the kernel.
    pub source: Option<IpAddr>,
    /// Whether in one send.
    pub sends: Sends,
}

/// A connection with a peer: survives rekeying and roaming.
pub struct Link {
    /// Where its datagrams go.
    pub endpoint: SocketAddr,
    /// The address of ours that the peer has begun the session at. With several addresses on one network the kernel would
    /// send from another one, which a firewall or a NAT in front of the peer does not know.
    pub source: Option<IpAddr>,
    /// Seals; opens.
    pub current: Arc<Session>,
    /// Open what is still on its way, latest first: what was sealed before the last rekey, and what the other end
    /// sealed with a session that it had started at the same time as we did ours.
    previous: Vec<Previous>,
    /// What the underlay carries.
    pub path: PathMtu,
    /// What it loses on the way to the peer.
    pub loss: PathLoss,
    /// Whether sends of several datagrams are to blame for it.
    pub gso: PathGso,
    /// What has not left for it.
    pub own_drops: OwnDrops,
    /// What the peer is told of the way to us.
    pub reception: Reception,
    /// Since when there has been a session without a break.
    pub connected_at: Instant,
    /// When something authentic was last noticed.
    pub heard_at: Instant,
    /// When the peer was followed to another address last.
    followed_at: Option<Instant>,
    /// Who started the current session.
    role: Role,
    keys_at: Instant,
    rekey_due: Instant,
    opened_count: u64,
    sealed_count: u64,
}

/// A session that is not sealed with any more.
struct Previous {
    session: Arc<Session>,
    /// When it is too old to be believed.
    until: Instant,
}

/// What the passing of time means for a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkDue {
    /// Nothing to be done but sending the probes that wait.
    Fine,
    /// New keys are needed.
    Rekey,
    /// The path carries less than before, or an old session has ended: the workers need another table.
    TableChanged,
    /// The peer is gone, or its keys are too old to be used.
    Dead,
}

impl Peer {
    /// A peer without a session.
    pub fn new(id: PeerId) -> Self {
        Self {
            id,
            name: String::new(),
            candidates: Vec::new(),
            standing: Standing::Visitor,
            link: None,
            dial: None,
            ended: None,
            counters: Arc::default(),
        }
    }

    /// Its name, or the beginning of its id: for people.
    pub fn label(&self) -> String {
        if self.name.is_empty() { self.id.short().to_string() } else { self.name.clone() }
    }

    /// Control wants a session with the peer.
    pub fn want(&mut self) {
        self.standing = Standing::Wanted;
    }

    /// Control does not want the peer, or no longer: nothing is attempted.
    pub fn dismiss(&mut self, now: Instant) {
        self.dial = None;
        if self.is_wanted() {
            self.standing = Standing::Dismissed(now);
        }
    }

    /// Whether control wants a session with the peer.
    pub fn is_wanted(&self) -> bool {
        self.standing == Standing::Wanted
    }

    /// When a connected peer that control no longer wants is to be sent away.
    pub fn dismissal_due(&self) -> Option<Instant> {
        match self.standing {
            Standing::Dismissed(since) if self.link.is_some() => Some(since + DISMISSAL_DELAY),
            _ => None,
        }
    }

    /// The session to be used from here on, completed at `endpoint`. Says whether the peer was not connected before.
    pub fn install(
        &mut self,
        session: Arc<Session>,
        role: Role,
        endpoint: SocketAddr,
        first_id: u32,
        now: Instant,
    ) -> bool {
        if let Some(link) = &mut self.link {
            link.replace(session, role, now);
            link.roam(endpoint, now);
            return false;
        }
        self.link = Some(Link::new(session, role, endpoint, first_id, now));
        self.ended = None;
        true
    }

    /// The address of ours that the peer knows, as long as it is at this address of its own.
    pub fn known_source(&self, to: SocketAddr) -> Option<IpAddr> {
        let link = self.link.as_ref().filter(|link| link.endpoint == to)?;
        link.source
    }

    /// Starts or keeps attempts to reach the peer, at the first candidate or where it was last.
    pub fn ensure_dial(&mut self, now: Instant) {
        let known = self.link.as_ref().map(|link| link.endpoint);
        if let (None, Some(to)) = (&self.dial, known.or(self.candidates.first().copied())) {
            self.dial = Some(Dial::new(to, now));
        }
    }

    /// The address after the one in use: one that does not answer is not tried twice in a row. Where the peer is belongs to them,
    /// also when nobody has told it.
    pub fn next_candidate(&self, tried: SocketAddr) -> SocketAddr {
        let here = self.link.as_ref().map(|link| link.endpoint).filter(|here| !self.candidates.contains(here));
        let candidates = || here.into_iter().chain(self.candidates.iter().copied());
        let next = candidates().skip_while(|candidate| *candidate != tried).nth(1);
        next.or_else(|| candidates().next()).unwrap_or(tried)
    }

    /// Why there is no session, when that has to be told.
    pub fn poll_failure(&mut self) -> Option<(SocketAddr, TargetFailure)> {
        let dial = self.dial.as_mut()?;
        Some((dial.to, dial.poll_failure()?))
    }

    /// When the peer next wants attention.
    pub fn next_timeout(&self) -> Option<Instant> {
        let link = self.link.as_ref().map(Link::next_timeout);
        let dial = self.dial.as_ref().map(Dial::next_timeout);
        link.into_iter().chain(dial).chain(self.dismissal_due()).min()
    }
}

impl Link {
    fn new(session: Arc<Session>, role: Role, endpoint: SocketAddr, first_id: u32, now: Instant) -> Self {
        Self {
            endpoint,
            source: None,
            current: session,
            previous: Vec::new(),
            path: PathMtu::new(first_id, now),
            loss: PathLoss::default(),
            gso: PathGso::default(),
            own_drops: OwnDrops::default(),
            reception: Reception::default(),
            connected_at: now,
            heard_at: now,
            followed_at: None,
            role,
            keys_at: now,
            rekey_due: now + rekey_delay(role),
            opened_count: 0,
            sealed_count: 0,
        }
    }

    /// Where its datagrams go, from where, and how.
    pub fn way(&self) -> Way {
        Way { to: self.endpoint, source: self.source, sends: self.gso.sends() }
    }

    /// The sessions that may still receive.
    pub fn inbound(&self) -> impl Iterator<Item = &Arc<Session>> {
        std::iter::once(&self.current).chain(self.previous.iter().map(|previous| &previous.session))
    }

    /// Goes on opening with a session that is not sealed with, until it is too old.
    pub fn keep(&mut self, session: Arc<Session>, agreed_at: Instant) {
        self.previous.insert(0, Previous { session, until: agreed_at + REJECT_AFTER });
        self.previous.truncate(MAX_PREVIOUS_SESSIONS);
    }

    /// Whether this index names one of the sessions.
    pub fn owns(&self, index: ReceiverIndex) -> bool {
        self.inbound().any(|session| session.local() == index)
    }

    /// Follows the peer to another address. Says whether it is another one.
    pub fn roam(&mut self, endpoint: SocketAddr, now: Instant) -> bool {
        let moved = self.endpoint != endpoint;
        if moved {
            self.endpoint = endpoint;
            self.path.on_new_path(now);
            self.loss.on_new_path();
            self.gso.on_new_path();
        }
        moved
    }

    /// Follows the peer to where an authentic datagram of the current session came from, unless it was followed a moment ago.
    /// Says whether it did.
    pub fn follow(&mut self, endpoint: SocketAddr, now: Instant) -> bool {
        let is_rested = self.followed_at.is_none_or(|at| now.saturating_duration_since(at) >= FOLLOW_INTERVAL);
        let follows = is_rested && self.roam(endpoint, now);
        if follows {
            self.followed_at = Some(now);
        }
        follows
    }

    /// When the keys in use were agreed.
    pub fn keys_at(&self) -> Instant {
        self.keys_at
    }

    /// Whether the session in use is one that we have started and that was complete only after `then`.
    pub fn is_ours_since(&self, then: Instant) -> bool {
        self.role == Role::Initiator && self.keys_at >= then
    }

    /// When this link next wants attention.
    pub fn next_timeout(&self) -> Instant {
        let previous = self.previous.iter().map(|previous| previous.until);
        previous.fold(self.path.next_timeout().min(self.rekey_due), Instant::min)
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) -> LinkDue {
        self.note_activity(now);
        if now.saturating_duration_since(self.keys_at) >= REJECT_AFTER {
            return LinkDue::Dead;
        }
        match self.path.handle_timeout(now) {
            Verdict::Silent if now.saturating_duration_since(self.heard_at) >= DEAD_AFTER => LinkDue::Dead,
            Verdict::BlackHole => LinkDue::TableChanged,
            _ if now >= self.rekey_due || self.current.needs_rekey_by_volume() => {
                self.rekey_due = now + REKEY_RETRY;
                LinkDue::Rekey
            }
            _ if self.forget_old(now) => LinkDue::TableChanged,
            _ => LinkDue::Fine,
        }
    }

    /// Drops the sessions that are too old. Says whether there was one.
    fn forget_old(&mut self, now: Instant) -> bool {
        let before = self.previous.len();
        self.previous.retain(|previous| now < previous.until);
        self.previous.len() != before
    }

    fn replace(&mut self, session: Arc<Session>, role: Role, now: Instant) {
        let before = std::mem::replace(&mut self.current, session);
        self.keep(before, self.keys_at);
        self.loss.on_new_session();
        self.gso.on_new_session();
        self.own_drops.on_new_session();
        self.reception.on_new_session();
        self.role = role;
        self.keys_at = now;
        self.rekey_due = now + rekey_delay(role);
        self.opened_count = 0;
        self.sealed_count = 0;
        self.heard_at = now;
    }

    /// Notes whether anything was opened or sealed since the last call: workers count, nobody tells.
    fn note_activity(&mut self, now: Instant) {
        let opened = self.inbound().map(|session| session.opened_count()).sum();
        let sealed = self.current.sealed_count();
        if opened != self.opened_count {
            self.heard_at = now;
        }
        // A handful of datagrams are our own probes and answers.
        let is_busy = sealed.saturating_sub(self.sealed_count) > 50;
        self.path.on_activity(is_busy, now);
        self.opened_count = opened;
        self.sealed_count = sealed;
    }
}

fn rekey_delay(role: Role) -> Duration {
    match role {
        Role::Initiator => REKEY_AFTER,
        Role::Responder => REKEY_AFTER + RESPONDER_REKEY_DELAY,
    }
}

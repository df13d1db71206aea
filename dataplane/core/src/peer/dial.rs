//! The attempts to get a session with one peer or target: first contact, reconnection and rekeying alike.
//!
//! ```text
//!            attempt               response              heard on the new session
//!   Paused ───────────▶ Initiating ─────────▶ Confirming ───────────▶ (the session is in use)
//!      ▲                  │   ▲  │                 │
//!      │                  └───┘  │                 │
//!      │       a challenge is    │                 │
//!      │       answered at once  │                 │
//!      └──── no answer in time ──┴─── no answer ───┘
//! ```
//!
//! Each attempt is a new handshake, because an initiation is accepted once. The time that an attempt is given grows, so
//! that in the end it is longer than any round trip; it grows slowly, because under loss it is attempts that count.
//!
//! INVARIANT: at most one handshake is under way per dial; a forged answer never ends it.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use weaved_api::{PeerId, TargetFailure};

use crate::{
    noise::{ChallengeAnswer, Initiator, Session},
    wire::data::ReceiverIndex,
};

/// How often the third message is repeated, and at what interval.
const CONFIRM_INTERVAL: Duration = Duration::from_millis(250);
const MAX_CONFIRMS: u32 = 12;
/// Attempts in vain after which the failure is told.
const TELL_AFTER: u32 = 3;

/// What a dial is doing.
pub enum Phase {
    /// Waiting for the next attempt.
    Paused,
    /// The first message is out. A challenge is answered once an attempt, so that two ends cannot keep each other busy.
    Initiating(Box<Initiator>, Proof),
    /// The third message is out; the session is complete but not yet known to be so on the other side.
    Confirming(Confirming),
}

/// Whether a first message answers a challenge to the same attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// It does not; a challenge may come.
    Open,
    /// It does.
    Given,
}

/// A session that waits for the first sign of life.
pub struct Confirming {
    /// Who answered.
    pub peer: PeerId,
    /// Where the answer came from.
    pub endpoint: SocketAddr,
    /// The keys.
    pub session: Arc<Session>,
    /// The third message, to be repeated.
    pub finish: Vec<u8>,
    repeats: u32,
}

/// Attempts to get a session.
pub struct Dial {
    /// Where the current attempt goes.
    pub to: SocketAddr,
    /// What is being done.
    pub phase: Phase,
    due: Instant,
    failures: u32,
    /// The answer to the last challenge: good until it is used.
    pub answer: Option<ChallengeAnswer>,
    /// The latest reason, when it has been told.
    told: Option<TargetFailure>,
    hint: TargetFailure,
}

/// What a dial wants when its time has come.
#[derive(Debug, PartialEq, Eq)]
pub enum Due {
    /// Start an attempt.
    Attempt,
    /// Send this third message again to this address.
    Repeat(SocketAddr, Vec<u8>),
}

impl Dial {
    /// A dial whose first attempt is due at once.
    pub fn new(to: SocketAddr, now: Instant) -> Self {
        Self {
            to,
            phase: Phase::Paused,
            due: now,
            failures: 0,
            answer: None,
            told: None,
            hint: TargetFailure::NoAnswer,
        }
    }

    /// When [`Self::handle_timeout`] wants to be called.
    pub fn next_timeout(&self) -> Instant {
        self.due
    }

    /// Whether the first message is out and nothing has come of it yet.
    pub fn is_initiating(&self) -> bool {
        matches!(self.phase, Phase::Initiating(..))
    }

    /// Whether an attempt was in vain.
    pub fn has_failed(&self) -> bool {
        self.failures > 0
    }

    /// Time has come: what is to be done.
    pub fn handle_timeout(&mut self, now: Instant) -> Option<Due> {
        if now < self.due {
            return None;
        }
        match &mut self.phase {
            Phase::Paused => Some(Due::Attempt),
            Phase::Confirming(confirming) if confirming.repeats < MAX_CONFIRMS => {
                confirming.repeats += 1;
                self.due = now + CONFIRM_INTERVAL;
                Some(Due::Repeat(confirming.endpoint, confirming.finish.clone()))
            }
            Phase::Initiating(..) | Phase::Confirming(_) => {
                self.failures += 1;
                self.phase = Phase::Paused;
                Some(Due::Attempt)
            }
        }
    }

    /// The first message has been sent. `jitter` between 0 and 1 spreads the next attempt.
    pub fn on_initiated(&mut self, initiator: Initiator, proof: Proof, jitter: f32, now: Instant) {
        self.due = now + patience(self.failures).mul_f32(1.0 + jitter / 4.0);
        self.phase = Phase::Initiating(Box::new(initiator), proof);
    }

    /// The handshake is complete on this side; the third message has been sent.
    pub fn on_responded(
        &mut self,
        peer: PeerId,
        endpoint: SocketAddr,
        session: Arc<Session>,
        finish: Vec<u8>,
        now: Instant,
    ) {
        self.due = now + CONFIRM_INTERVAL;
        self.phase = Phase::Confirming(Confirming { peer, endpoint, session, finish, repeats: 0 });
    }

    /// An unauthenticated sign of what may be wrong; changes only what is told.
    pub fn on_hint(&mut self, hint: TargetFailure) {
        self.hint = hint;
    }

    /// The failure, once each time that it is another one, after a few attempts in vain.
    pub fn poll_failure(&mut self) -> Option<TargetFailure> {
        let is_sure = self.failures >= TELL_AFTER || self.hint != TargetFailure::NoAnswer;
        if self.failures == 0 || !is_sure || self.told == Some(self.hint) {
            return None;
        }
        self.told = Some(self.hint);
        self.told
    }

    /// The session that waits for confirmation under this index.
    pub fn confirming(&self, index: ReceiverIndex) -> Option<&Confirming> {
        match &self.phase {
            Phase::Confirming(confirming) if confirming.session.local() == index => Some(confirming),
            _ => None,
        }
    }

    /// The session with this peer that waits for confirmation.
    pub fn confirming_with(&self, peer: PeerId) -> Option<&Confirming> {
        match &self.phase {
            Phase::Confirming(confirming) if confirming.peer == peer => Some(confirming),
            _ => None,
        }
    }

    /// The handshake whose first message is out.
    pub fn initiator(&self) -> Option<&Initiator> {
        match &self.phase {
            Phase::Initiating(initiator, _) => Some(initiator),
            _ => None,
        }
    }

    /// The same, to be told of an answer.
    pub fn initiator_mut(&mut self) -> Option<&mut Initiator> {
        match &mut self.phase {
            Phase::Initiating(initiator, _) => Some(initiator),
            _ => None,
        }
    }

    /// The same, if it may still be challenged.
    pub fn unproved(&self) -> Option<&Initiator> {
        match &self.phase {
            Phase::Initiating(initiator, Proof::Open) => Some(initiator),
            _ => None,
        }
    }
}

/// How long an attempt waits for its response, after so many in vain.
fn patience(failures: u32) -> Duration {
    match failures {
        0 => Duration::from_millis(300),
        1 => Duration::from_millis(600),
        2..=9 => Duration::from_secs(2),
        10..=29 => Duration::from_secs(5),
        _ => Duration::from_secs(15),
    }
}

//! The handshake: who may do what when, as types.
//!
//! ```text
//!   Initiator ──────── initiation ──────▶ OpenedInitiation       opened under the cluster secret; no public-key work
//!       │                                       │ Gate::admit
//!       │ ◀───────── challenge ─────────────────┤
//!       │  (starts anew with the answer)        ▼
//!       │                                 AdmittedInitiation     fresh: never admitted before
//!       │ ◀───────── response ────────────────  │ respond
//!       │                                       ▼
//!       │ ─────────── finish ─────────────▶ AwaitingFinish
//!       ▼                                       ▼
//!  Established                             Established           both keys proved
//! ```
//!
//! An `AdmittedInitiation` comes from the gate and from nowhere else, and only it can respond: so a replay costs no
//! public-key work. Responses, finishes and challenges carry a MAC of the cluster, checked first: whoever does not
//! know the secret can neither have us do public-key work nor spoil a handshake that waits for its next message
//! (snow's own state does not survive a finish that is authentic in its first half only).
//!
//! INVARIANT: a session is handed out only after the other end has proved the static key that it claims.

use snow::{Builder, HandshakeState};
use thiserror::Error;
use weaved_api::PeerId;
use zeroize::Zeroizing;

use super::{
    aead::Cipher,
    keys::{HandshakeMac, StaticKeys},
    resolver::SeededResolver,
    session::{Role, Session, SessionPlan},
    spec::{PATTERN, PROLOGUE_LABEL},
};
use crate::{
    limits::MAX_LANES,
    rng::Rng,
    wire::{
        data::ReceiverIndex,
        handshake::{
            Announcement, Challenge, ChallengeAnswer, ECHO_LEN, EphemeralKey, FINISH_NOISE_LEN, Finish,
            INITIATION_NOISE_LEN, INITIATION_PAYLOAD_LEN, Initiation, InitiationPayload, RESPONSE_NOISE_LEN,
            RESPONSE_PAYLOAD_LEN, Refusal, RefusalReason, Response, ResponsePayload, UnixMicros,
        },
    },
};

/// A complete handshake.
#[derive(Debug)]
pub struct Established {
    /// Who the other end has proved to be.
    pub peer: PeerId,
    /// The newest protocol version that both speak.
    pub version: u8,
    /// The keys.
    pub session: Session,
}

/// What an initiation says.
#[derive(Clone, Copy, Debug)]
pub struct Attempt {
    /// Our name for the handshake and the session; not in use for another.
    pub index: ReceiverIndex,
    /// Whom we mean; none when only an address is known. A peer that we mean can admit us without a challenge.
    pub to: Option<PeerId>,
    /// Greater than that of any attempt before.
    pub timestamp: UnixMicros,
    /// What we tell about ourselves.
    pub announcement: Announcement,
    /// The challenge that we answer.
    pub answer: Option<ChallengeAnswer>,
}

/// Why an initiation is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum InitiationError {
    /// Not a well-formed initiation.
    #[error("not a well-formed initiation")]
    Malformed,
    /// Not sealed under our cluster secret, or damaged.
    #[error("the sender does not share our cluster secret")]
    Stranger,
    /// It names our own id as its sender: it is ours (see [`Initiator::is_author_of`]), an old one of ours that
    /// somebody sent back, or that of a clone.
    #[error("the sender has our own identity")]
    SameIdentity {
        /// Tells which.
        ephemeral: EphemeralKey,
        /// A clone's is near the present.
        timestamp: UnixMicros,
    },
    /// It is meant for another peer.
    #[error("the initiation is meant for another peer")]
    OtherIdentity,
    /// No common version, or a number of lanes that we do not do.
    #[error("the sender speaks another protocol version")]
    OtherVersion,
}

/// Why a response, finish or challenge is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum HandshakeError {
    /// Not a well-formed message of this type, or not for this handshake. The handshake goes on waiting.
    #[error("not a well-formed message of this handshake")]
    Malformed,
    /// Not authentic. The handshake goes on waiting.
    #[error("the message is forged or damaged")]
    Forged,
    /// The other end has our own identity: ourselves or a clone. The handshake is over.
    #[error("the other end has our own identity")]
    SameIdentity,
    /// The other end has another key than it claimed, or than the peer that we mean. The handshake is over.
    #[error("the other end is not the peer that it should be")]
    OtherIdentity,
    /// No common version, or a number of lanes that we do not do. The handshake is over.
    #[error("the other end speaks another protocol version")]
    OtherVersion,
    /// It has succeeded or failed before, or was spoiled, which takes a member of the cluster on the path.
    #[error("the handshake is over")]
    Over,
}

impl InitiationError {
    /// What to tell the sender, if anything.
    pub fn refusal(self) -> Option<RefusalReason> {
        match self {
            Self::Malformed => None,
            Self::Stranger => Some(RefusalReason::OtherSecret),
            Self::SameIdentity { .. } => Some(RefusalReason::SameIdentity),
            Self::OtherIdentity => Some(RefusalReason::OtherIdentity),
            Self::OtherVersion => Some(RefusalReason::OtherVersion),
        }
    }
}

impl HandshakeError {
    /// Whether the handshake goes on waiting for the real message.
    pub fn is_survived(self) -> bool {
        matches!(self, Self::Malformed | Self::Forged)
    }
}

/// An initiator that waits for a response.
pub struct Initiator {
    noise: HandshakeState,
    mac: HandshakeMac,
    own: PeerId,
    pub(super) ephemeral: EphemeralKey,
    pub(super) attempt: Attempt,
}

impl Initiator {
    /// Begins a handshake. Gives the initiation to be sent; it is accepted once, so a repetition is a new attempt.
    pub fn start(keys: &StaticKeys, attempt: &Attempt, rng: &mut Rng) -> (Self, Vec<u8>) {
        Self::start_as(keys.id(), keys, attempt, rng)
    }

    /// Begins a handshake in the name of `claimed`, which the finish will prove or not.
    pub(super) fn start_as(claimed: PeerId, keys: &StaticKeys, attempt: &Attempt, rng: &mut Rng) -> (Self, Vec<u8>) {
        let mut noise = noise_state(Role::Initiator, keys, attempt.index, rng);
        let payload = InitiationPayload {
            initiator: claimed,
            responder: attempt.to,
            timestamp: attempt.timestamp,
            announcement: attempt.announcement,
            answer: attempt.answer,
        };
        let message = write::<INITIATION_NOISE_LEN>(&mut noise, &payload.emit());
        let initiation = Initiation { sender: attempt.index, noise: &message };
        let ephemeral = initiation.ephemeral();
        (Self { noise, mac: keys.mac.clone(), own: keys.id(), ephemeral, attempt: *attempt }, initiation.emit().into())
    }

    /// Our name for the handshake and the session to come.
    pub fn index(&self) -> ReceiverIndex {
        self.attempt.index
    }

    /// Whom we mean.
    pub fn to(&self) -> Option<PeerId> {
        self.attempt.to
    }

    /// Whether an initiation that has come back to us with our own identity is this one.
    pub fn is_author_of(&self, ephemeral: EphemeralKey) -> bool {
        self.ephemeral == ephemeral
    }

    /// What to put into the next attempt, which should follow at once.
    pub fn handle_challenge(&self, datagram: &[u8]) -> Result<ChallengeAnswer, HandshakeError> {
        let challenge = Challenge::parse(datagram).ok_or(HandshakeError::Malformed)?;
        self.check(challenge.receiver, datagram, &self.ephemeral.0)?;
        Ok(challenge.answer)
    }

    /// Why we are refused: a hint, made by someone who has seen our initiation, and no more than that.
    pub fn handle_refusal(&self, datagram: &[u8]) -> Result<RefusalReason, HandshakeError> {
        let refusal = Refusal::parse(datagram).ok_or(HandshakeError::Malformed)?;
        let is_ours = refusal.receiver == self.attempt.index && refusal.echo == self.ephemeral.0[..ECHO_LEN];
        if is_ours { Ok(refusal.reason) } else { Err(HandshakeError::Malformed) }
    }

    /// Completes the handshake on this side. Gives the finish to be sent, and again until something is heard on the
    /// session; only then the session may be used for sending.
    pub fn handle_response(&mut self, datagram: &[u8]) -> Result<(Vec<u8>, Established), HandshakeError> {
        let response = Response::parse(datagram).ok_or(HandshakeError::Malformed)?;
        self.check(response.receiver, datagram, &self.ephemeral.0)?;
        let payload: [u8; RESPONSE_PAYLOAD_LEN] = read(&mut self.noise, response.noise)?;
        let payload = ResponsePayload::parse(&payload);
        let peer = remote_static(&self.noise);
        if peer == self.own {
            return Err(HandshakeError::SameIdentity);
        }
        if self.attempt.to.is_some_and(|meant| meant != peer) {
            return Err(HandshakeError::OtherIdentity);
        }
        let ours = self.attempt.announcement;
        let version = agree(ours, payload.announcement).ok_or(HandshakeError::OtherVersion)?;
        let message = write::<FINISH_NOISE_LEN>(&mut self.noise, &[]);
        let mut finish = Finish { receiver: payload.sender, noise: &message }.emit();
        self.mac.stamp(&mut finish, &[]);
        let plan = SessionPlan {
            role: Role::Initiator,
            local: self.attempt.index,
            remote: payload.sender,
            cipher: Cipher::common(ours.ciphers, payload.announcement.ciphers),
            tx_lane_count: ours.lane_count,
            rx_lane_count: payload.announcement.lane_count,
        };
        let session = split(&mut self.noise, &plan);
        Ok((finish.into(), Established { peer, version, session }))
    }

    fn check(&self, receiver: ReceiverIndex, datagram: &[u8], context: &[u8]) -> Result<(), HandshakeError> {
        if receiver != self.attempt.index {
            return Err(HandshakeError::Malformed);
        }
        if self.mac.verifies(datagram, context) { Ok(()) } else { Err(HandshakeError::Forged) }
    }
}

/// An initiation that a member of the cluster has made, now or once. It must pass the [`super::Gate`].
pub struct OpenedInitiation {
    noise: HandshakeState,
    mac: HandshakeMac,
    sender: ReceiverIndex,
    ephemeral: EphemeralKey,
    version: u8,
    payload: InitiationPayload,
}

impl OpenedInitiation {
    /// Opens an initiation under the cluster secret. Costs some hashes and one AEAD, and no public-key work.
    pub fn open(keys: &StaticKeys, datagram: &[u8], rng: &mut Rng) -> Result<Self, InitiationError> {
        let initiation = Initiation::parse(datagram).ok_or(InitiationError::Malformed)?;
        let mut noise = noise_state(Role::Responder, keys, initiation.sender, rng);
        let payload: [u8; INITIATION_PAYLOAD_LEN] =
            read(&mut noise, initiation.noise).map_err(|_| InitiationError::Stranger)?;
        let payload = InitiationPayload::parse(&payload);
        let ephemeral = initiation.ephemeral();
        if payload.initiator == keys.id() {
            return Err(InitiationError::SameIdentity { ephemeral, timestamp: payload.timestamp });
        }
        if payload.responder.is_some_and(|meant| meant != keys.id()) {
            return Err(InitiationError::OtherIdentity);
        }
        let ours = payload.announcement.versions.common(super::OUR_VERSIONS);
        let version = ours.filter(|_| is_lane_count(payload.announcement)).ok_or(InitiationError::OtherVersion)?;
        Ok(Self { noise, mac: keys.mac.clone(), sender: initiation.sender, ephemeral, version, payload })
    }

    /// Who it claims to come from; proved only by the finish.
    pub fn claimed(&self) -> PeerId {
        self.payload.initiator
    }

    /// When it was made, by the initiator's clock.
    pub fn timestamp(&self) -> UnixMicros {
        self.payload.timestamp
    }

    /// Whether it names us as the one it means.
    pub fn means_us(&self) -> bool {
        self.payload.responder.is_some()
    }

    /// The challenge that it answers.
    pub fn answer(&self) -> Option<ChallengeAnswer> {
        self.payload.answer
    }

    /// A challenge for its sender, with the MAC that makes it one of ours.
    pub(super) fn challenge(&self, answer: ChallengeAnswer) -> Vec<u8> {
        let mut challenge = Challenge { receiver: self.sender, answer }.emit();
        self.mac.stamp(&mut challenge, &self.ephemeral.0);
        challenge.into()
    }

    /// For the gate alone.
    pub(super) fn admit(self) -> AdmittedInitiation {
        AdmittedInitiation(self)
    }
}

/// An initiation that has passed the gate.
pub struct AdmittedInitiation(OpenedInitiation);

impl AdmittedInitiation {
    /// Who it claims to come from; proved only by the finish.
    pub fn claimed(&self) -> PeerId {
        self.0.claimed()
    }

    /// Answers: the first public-key work of the responder. `index` is our name for the session.
    ///
    /// Fails only when the initiator's ephemeral key is one that no honest program makes.
    pub fn respond(
        self,
        index: ReceiverIndex,
        ours: Announcement,
    ) -> Result<(AwaitingFinish, Vec<u8>), HandshakeError> {
        let mut opened = self.0;
        let payload = ResponsePayload { sender: index, announcement: ours };
        let mut message = [0; RESPONSE_NOISE_LEN];
        opened.noise.write_message(&payload.emit(), &mut message).map_err(|_| HandshakeError::Over)?;
        let mut response = Response { receiver: opened.sender, noise: &message }.emit();
        opened.mac.stamp(&mut response, &opened.ephemeral.0);
        let theirs = opened.payload.announcement;
        let plan = SessionPlan {
            role: Role::Responder,
            local: index,
            remote: opened.sender,
            cipher: Cipher::common(ours.ciphers, theirs.ciphers),
            tx_lane_count: ours.lane_count,
            rx_lane_count: theirs.lane_count,
        };
        let (claimed, version) = (opened.payload.initiator, opened.version);
        Ok((AwaitingFinish { noise: opened.noise, mac: opened.mac, claimed, version, plan }, response.into()))
    }
}

/// A responder that waits for the finish.
pub struct AwaitingFinish {
    noise: HandshakeState,
    mac: HandshakeMac,
    claimed: PeerId,
    version: u8,
    plan: SessionPlan,
}

impl AwaitingFinish {
    /// Our name for the session to come.
    pub fn index(&self) -> ReceiverIndex {
        self.plan.local
    }

    /// Who the initiator claims to be; not yet proved.
    pub fn claimed(&self) -> PeerId {
        self.claimed
    }

    /// Completes the handshake. The session may be used at once.
    pub fn handle_finish(&mut self, datagram: &[u8]) -> Result<Established, HandshakeError> {
        let finish = Finish::parse(datagram).filter(|finish| finish.receiver == self.plan.local);
        let finish = finish.ok_or(HandshakeError::Malformed)?;
        if !self.mac.verifies(datagram, &[]) {
            return Err(HandshakeError::Forged);
        }
        if let Err(error) = read::<0>(&mut self.noise, finish.noise) {
            // A static key that opened means that snow's cipher has moved on and will not open the real finish.
            let is_spoiled = self.noise.get_remote_static().is_some();
            return Err(if is_spoiled { HandshakeError::Over } else { error });
        }
        let peer = remote_static(&self.noise);
        if peer != self.claimed {
            return Err(HandshakeError::OtherIdentity);
        }
        Ok(Established { peer, version: self.version, session: split(&mut self.noise, &self.plan) })
    }
}

/// The session that a finish is for, if a member of the cluster has made it. When that session is established already,
/// its first answer was lost: the initiator waits for a sign of life.
pub fn repeated_finish(keys: &StaticKeys, datagram: &[u8]) -> Option<ReceiverIndex> {
    let finish = Finish::parse(datagram)?;
    keys.mac.verifies(datagram, &[]).then_some(finish.receiver)
}

/// A state before the first message. The clear bytes of the initiation are authenticated by all that follows.
fn noise_state(role: Role, keys: &StaticKeys, initiator: ReceiverIndex, rng: &mut Rng) -> HandshakeState {
    let params = PATTERN.parse().expect("snow knows the pattern");
    let prologue = [PROLOGUE_LABEL, &Initiation::emit_clear(initiator)].concat();
    Builder::with_resolver(params, Box::new(SeededResolver::new(keys.id(), rng)))
        .prologue(&prologue)
        .and_then(|builder| builder.psk(0, &keys.cluster.0))
        .and_then(|builder| builder.local_private_key(&keys.secret.0))
        .and_then(|builder| match role {
            Role::Initiator => builder.build_initiator(),
            Role::Responder => builder.build_responder(),
        })
        .expect("the pattern has what it needs: prologue, secret and private key")
}

fn write<const LEN: usize>(noise: &mut HandshakeState, payload: &[u8]) -> [u8; LEN] {
    let mut message = [0; LEN];
    let written = noise.write_message(payload, &mut message);
    assert_eq!(written.ok(), Some(LEN), "INVARIANT: it is our turn, and the message has one length");
    message
}

fn read<const LEN: usize>(noise: &mut HandshakeState, message: &[u8]) -> Result<[u8; LEN], HandshakeError> {
    let mut payload = [0; LEN];
    match noise.read_message(message, &mut payload) {
        Ok(len) if len == LEN => Ok(payload),
        Ok(_) | Err(snow::Error::State(_)) => Err(HandshakeError::Over),
        Err(_) => Err(HandshakeError::Forged),
    }
}

fn remote_static(noise: &HandshakeState) -> PeerId {
    let remote = noise.get_remote_static().and_then(|remote| remote.first_chunk());
    PeerId(*remote.expect("the message that has been read carries the static key"))
}

fn split(noise: &mut HandshakeState, plan: &SessionPlan) -> Session {
    let (to_responder, to_initiator) = noise.dangerously_get_raw_split();
    Session::new(plan, &Zeroizing::new(to_responder), &Zeroizing::new(to_initiator))
}

/// The version to use; none when there is none or when we do not do the other end's number of lanes.
fn agree(ours: Announcement, theirs: Announcement) -> Option<u8> {
    ours.versions.common(theirs.versions).filter(|_| is_lane_count(theirs))
}

fn is_lane_count(theirs: Announcement) -> bool {
    (1..=MAX_LANES).contains(&usize::from(theirs.lane_count))
}

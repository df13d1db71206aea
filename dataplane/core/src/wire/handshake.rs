//! Handshake messages: initiation, response, finish, challenge, refusal.
//!
//! The header of all (all numbers little endian; the zero bytes are refused when they are not zero):
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-------+-------+---------------+-------------------------------+
//! |version| type  |    reason     |              0                |   reason: in a refusal, else 0
//! +-------+-------+---------------+-------------------------------+
//! |     receiver index (of the addressee; 0 in an initiation)     |
//! +---------------------------------------------------------------+
//! ```
//!
//! What follows, in bytes. `{…}` is sealed by Noise, `mac` is the start of an HMAC under a key of the cluster:
//!
//! ```text
//! initiation  164   sender index 4 | ephemeral 32 | {initiation payload 104} 16
//! response    128   ephemeral 32 | {static 32} 16 | {sender index 4 | announcement 4} 16 | mac 16
//! finish       88   {static 32} 16 | {} 16 | mac 16
//! challenge    48   seq 8 | cookie 16 | mac 16
//! refusal      24   start of the initiation's ephemeral 16
//!
//! initiation payload   initiator's id 32 | id of the meant responder 32 | timestamp 8 | announcement 4
//!                      | flags 1 (1: answers a challenge, 2: means a certain responder) | 0 0 0 | seq 8 | cookie 16
//! announcement         lowest version 1 | highest version 1 | flags 1 (1: AES-256-GCM, 2: AEGIS-256, 4: AEGIS-256X4) | lanes 1
//! ```
//!
//! INVARIANT: each type has one length, and no answer is longer than an initiation: who forges the source of an
//! initiation cannot have us send more than he sent.

use std::time::{SystemTime, UNIX_EPOCH};

use weaved_api::PeerId;

use super::{
    data::{ReceiverIndex, TAG_LEN},
    header::{MessageType, emit_type, parse_type},
};

/// Bytes of the header of all handshake messages.
const HEADER_LEN: usize = 8;
/// Bytes of an initiation before its Noise message: header and sender index.
pub const INITIATION_CLEAR_LEN: usize = HEADER_LEN + 4;
/// Bytes of a public key.
pub const KEY_LEN: usize = 32;
/// Bytes of the MAC at the end of a response, finish and challenge.
pub const MAC_LEN: usize = 16;
/// Bytes of a cookie.
pub const COOKIE_LEN: usize = 16;
/// Bytes of the ephemeral key that a refusal repeats.
pub const ECHO_LEN: usize = 16;

/// Bytes of what an initiation seals.
pub const INITIATION_PAYLOAD_LEN: usize = 2 * KEY_LEN + 8 + 4 + 4 + 8 + COOKIE_LEN;
/// Bytes of the first Noise message.
pub const INITIATION_NOISE_LEN: usize = KEY_LEN + INITIATION_PAYLOAD_LEN + TAG_LEN;
/// Bytes of an initiation.
pub const INITIATION_LEN: usize = INITIATION_CLEAR_LEN + INITIATION_NOISE_LEN;

/// Bytes of what a response seals besides the static key.
pub const RESPONSE_PAYLOAD_LEN: usize = 4 + 4;
/// Bytes of the second Noise message.
pub const RESPONSE_NOISE_LEN: usize = KEY_LEN + KEY_LEN + TAG_LEN + RESPONSE_PAYLOAD_LEN + TAG_LEN;
/// Bytes of a response.
pub const RESPONSE_LEN: usize = HEADER_LEN + RESPONSE_NOISE_LEN + MAC_LEN;

/// Bytes of the third Noise message.
pub const FINISH_NOISE_LEN: usize = KEY_LEN + TAG_LEN + TAG_LEN;
/// Bytes of a finish.
pub const FINISH_LEN: usize = HEADER_LEN + FINISH_NOISE_LEN + MAC_LEN;

/// Bytes of a challenge.
pub const CHALLENGE_LEN: usize = HEADER_LEN + 8 + COOKIE_LEN + MAC_LEN;
/// Bytes of a refusal.
pub const REFUSAL_LEN: usize = HEADER_LEN + ECHO_LEN;

const _: () = {
    assert!(INITIATION_LEN < 300, "a handshake message fits a punt");
    assert!(RESPONSE_LEN <= INITIATION_LEN && CHALLENGE_LEN <= INITIATION_LEN && REFUSAL_LEN <= INITIATION_LEN);
};

/// A public key made for one handshake, in the clear.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct EphemeralKey(pub [u8; KEY_LEN]);

/// Microseconds since 1970 by the initiator's wall clock; orders the handshakes of one initiator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct UnixMicros(pub u64);

/// Number of a challenge; grows with each that one responder process makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ChallengeSeq(pub u64);

/// What only the responder that made it can have made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cookie(pub [u8; COOKIE_LEN]);

/// A challenge sent back: the initiator receives at the address that it sends from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChallengeAnswer {
    /// Number of the challenge.
    pub seq: ChallengeSeq,
    /// Its cookie.
    pub cookie: Cookie,
}

/// What each end tells the other about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Announcement {
    /// What it can encrypt with.
    pub ciphers: Ciphers,
    /// Lanes that it sends on: 1 to [`crate::limits::MAX_LANES`].
    pub lane_count: u8,
    /// Protocol versions that it speaks inside a session.
    pub versions: VersionRange,
}

/// What an end does besides ChaCha20-Poly1305, which everybody does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ciphers {
    /// It has instructions for AES-256-GCM, and may use it.
    pub aes_256_gcm: bool,
    /// The same of AEGIS-256.
    pub aegis_256: bool,
    /// The same of AEGIS-256X4, on registers that are wide enough for it.
    pub aegis_256x4: bool,
}

/// Protocol versions, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VersionRange {
    /// The oldest.
    pub min: u8,
    /// The newest.
    pub max: u8,
}

/// Why an initiation is refused. A hint for the operator; it is not authenticated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalReason {
    /// The responder cannot open the initiation: it has another cluster secret.
    OtherSecret,
    /// There is no protocol version that both speak.
    OtherVersion,
    /// The responder is not the peer that the initiation means.
    OtherIdentity,
    /// The responder has the initiator's own identity: it is the same node, or one is a clone of the other.
    SameIdentity,
}

/// First message, as it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Initiation<'a> {
    /// The initiator's name for the handshake and the session.
    pub sender: ReceiverIndex,
    /// The Noise message.
    pub noise: &'a [u8; INITIATION_NOISE_LEN],
}

/// What an initiation seals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InitiationPayload {
    /// Who sends it, to be proved by the finish.
    pub initiator: PeerId,
    /// Whom it means; none when only an address is known.
    pub responder: Option<PeerId>,
    /// When it was made; grows with each initiation of one process.
    pub timestamp: UnixMicros,
    /// What the initiator tells about itself.
    pub announcement: Announcement,
    /// The challenge that it answers.
    pub answer: Option<ChallengeAnswer>,
}

/// Second message, as it came; the MAC is not among the fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Response<'a> {
    /// The initiator's index.
    pub receiver: ReceiverIndex,
    /// The Noise message.
    pub noise: &'a [u8; RESPONSE_NOISE_LEN],
}

/// What a response seals besides the responder's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResponsePayload {
    /// The responder's name for the session.
    pub sender: ReceiverIndex,
    /// What the responder tells about itself.
    pub announcement: Announcement,
}

/// Third message, as it came; the MAC is not among the fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finish<'a> {
    /// The responder's index.
    pub receiver: ReceiverIndex,
    /// The Noise message.
    pub noise: &'a [u8; FINISH_NOISE_LEN],
}

/// "Say that again with this"; the MAC is not among the fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Challenge {
    /// The initiator's index.
    pub receiver: ReceiverIndex,
    /// What the initiator sends back.
    pub answer: ChallengeAnswer,
}

/// "Not with me, because".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The initiator's index.
    pub receiver: ReceiverIndex,
    /// Why.
    pub reason: RefusalReason,
    /// The first bytes of the initiation's ephemeral key: whoever does not see our traffic cannot make this up.
    pub echo: [u8; ECHO_LEN],
}

impl UnixMicros {
    /// Times before 1970 count as 1970.
    pub fn from_system_time(time: SystemTime) -> Self {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
    }
}

impl VersionRange {
    /// The newest version that both speak.
    pub fn common(self, other: Self) -> Option<u8> {
        let newest = self.max.min(other.max);
        (newest >= self.min.max(other.min)).then_some(newest)
    }
}

impl Ciphers {
    const AES_256_GCM: u8 = 1;
    const AEGIS_256: u8 = 2;
    const AEGIS_256X4: u8 = 4;

    /// Flags without a meaning are ignored: a newer program may have more to tell.
    fn parse(flags: u8) -> Self {
        Self {
            aes_256_gcm: flags & Self::AES_256_GCM != 0,
            aegis_256: flags & Self::AEGIS_256 != 0,
            aegis_256x4: flags & Self::AEGIS_256X4 != 0,
        }
    }

    fn emit(self) -> u8 {
        (u8::from(self.aes_256_gcm) * Self::AES_256_GCM)
            | (u8::from(self.aegis_256) * Self::AEGIS_256)
            | (u8::from(self.aegis_256x4) * Self::AEGIS_256X4)
    }
}

impl Announcement {
    fn parse(bytes: [u8; 4]) -> Self {
        let [min, max, flags, lane_count] = bytes;
        Self { ciphers: Ciphers::parse(flags), lane_count, versions: VersionRange { min, max } }
    }

    fn emit(self) -> [u8; 4] {
        [self.versions.min, self.versions.max, self.ciphers.emit(), self.lane_count]
    }
}

impl RefusalReason {
    fn parse(code: u8) -> Option<Self> {
        Some(match code {
            1 => Self::OtherSecret,
            2 => Self::OtherVersion,
            3 => Self::OtherIdentity,
            4 => Self::SameIdentity,
            _ => return None,
        })
    }

    fn code(self) -> u8 {
        match self {
            Self::OtherSecret => 1,
            Self::OtherVersion => 2,
            Self::OtherIdentity => 3,
            Self::SameIdentity => 4,
        }
    }
}

impl<'a> Initiation<'a> {
    /// `None` when it is not a well-formed initiation.
    pub fn parse(datagram: &'a [u8]) -> Option<Self> {
        let (receiver, body) = parse_header::<INITIATION_LEN>(datagram, MessageType::Initiation)?;
        let (sender, noise) = body.split_first_chunk::<4>()?;
        let noise = noise.try_into().ok()?;
        (receiver == ReceiverIndex(0)).then_some(Self { sender: ReceiverIndex(u32::from_le_bytes(*sender)), noise })
    }

    /// The bytes in front of the Noise message. They are part of its prologue.
    pub fn emit_clear(sender: ReceiverIndex) -> [u8; INITIATION_CLEAR_LEN] {
        let mut clear = [0; INITIATION_CLEAR_LEN];
        put_header(&mut clear, MessageType::Initiation, ReceiverIndex(0));
        clear[HEADER_LEN..].copy_from_slice(&sender.0.to_le_bytes());
        clear
    }

    /// The datagram.
    pub fn emit(&self) -> [u8; INITIATION_LEN] {
        let mut datagram = [0; INITIATION_LEN];
        datagram[..INITIATION_CLEAR_LEN].copy_from_slice(&Self::emit_clear(self.sender));
        datagram[INITIATION_CLEAR_LEN..].copy_from_slice(self.noise);
        datagram
    }

    /// The initiator's key for this handshake: the start of the Noise message.
    pub fn ephemeral(&self) -> EphemeralKey {
        EphemeralKey(array_at(self.noise, 0))
    }
}

impl InitiationPayload {
    const ANSWERS: u8 = 1;
    const MEANS: u8 = 2;

    /// The fields from the opened payload. Flags without a meaning are ignored.
    pub fn parse(bytes: &[u8; INITIATION_PAYLOAD_LEN]) -> Self {
        let flags = bytes[76];
        let answer = ChallengeAnswer {
            seq: ChallengeSeq(u64::from_le_bytes(array_at(bytes, 80))),
            cookie: Cookie(array_at(bytes, 88)),
        };
        Self {
            initiator: PeerId(array_at(bytes, 0)),
            responder: (flags & Self::MEANS != 0).then(|| PeerId(array_at(bytes, 32))),
            timestamp: UnixMicros(u64::from_le_bytes(array_at(bytes, 64))),
            announcement: Announcement::parse(array_at(bytes, 72)),
            answer: (flags & Self::ANSWERS != 0).then_some(answer),
        }
    }

    /// The bytes to be sealed. What is not there is zero.
    pub fn emit(&self) -> [u8; INITIATION_PAYLOAD_LEN] {
        let mut bytes = [0; INITIATION_PAYLOAD_LEN];
        bytes[..32].copy_from_slice(&self.initiator.0);
        bytes[64..72].copy_from_slice(&self.timestamp.0.to_le_bytes());
        bytes[72..76].copy_from_slice(&self.announcement.emit());
        if let Some(responder) = self.responder {
            bytes[76] |= Self::MEANS;
            bytes[32..64].copy_from_slice(&responder.0);
        }
        if let Some(answer) = self.answer {
            bytes[76] |= Self::ANSWERS;
            bytes[80..88].copy_from_slice(&answer.seq.0.to_le_bytes());
            bytes[88..].copy_from_slice(&answer.cookie.0);
        }
        bytes
    }
}

impl<'a> Response<'a> {
    /// `None` when it is not a well-formed response.
    pub fn parse(datagram: &'a [u8]) -> Option<Self> {
        let (receiver, body) = parse_header::<RESPONSE_LEN>(datagram, MessageType::Response)?;
        Some(Self { receiver, noise: body.first_chunk()? })
    }

    /// The datagram; the MAC is still zero.
    pub fn emit(&self) -> [u8; RESPONSE_LEN] {
        let mut datagram = [0; RESPONSE_LEN];
        put_header(&mut datagram, MessageType::Response, self.receiver);
        datagram[HEADER_LEN..][..RESPONSE_NOISE_LEN].copy_from_slice(self.noise);
        datagram
    }
}

impl ResponsePayload {
    /// The fields from the opened payload.
    pub fn parse(bytes: &[u8; RESPONSE_PAYLOAD_LEN]) -> Self {
        Self {
            sender: ReceiverIndex(u32::from_le_bytes(array_at(bytes, 0))),
            announcement: Announcement::parse(array_at(bytes, 4)),
        }
    }

    /// The bytes to be sealed.
    pub fn emit(&self) -> [u8; RESPONSE_PAYLOAD_LEN] {
        let mut bytes = [0; RESPONSE_PAYLOAD_LEN];
        bytes[..4].copy_from_slice(&self.sender.0.to_le_bytes());
        bytes[4..].copy_from_slice(&self.announcement.emit());
        bytes
    }
}

impl<'a> Finish<'a> {
    /// `None` when it is not a well-formed finish.
    pub fn parse(datagram: &'a [u8]) -> Option<Self> {
        let (receiver, body) = parse_header::<FINISH_LEN>(datagram, MessageType::Finish)?;
        Some(Self { receiver, noise: body.first_chunk()? })
    }

    /// The datagram; the MAC is still zero.
    pub fn emit(&self) -> [u8; FINISH_LEN] {
        let mut datagram = [0; FINISH_LEN];
        put_header(&mut datagram, MessageType::Finish, self.receiver);
        datagram[HEADER_LEN..][..FINISH_NOISE_LEN].copy_from_slice(self.noise);
        datagram
    }
}

impl Challenge {
    /// `None` when it is not a well-formed challenge.
    pub fn parse(datagram: &[u8]) -> Option<Self> {
        let (receiver, body) = parse_header::<CHALLENGE_LEN>(datagram, MessageType::Challenge)?;
        let (seq, body) = body.split_first_chunk()?;
        let answer =
            ChallengeAnswer { seq: ChallengeSeq(u64::from_le_bytes(*seq)), cookie: Cookie(*body.first_chunk()?) };
        Some(Self { receiver, answer })
    }

    /// The datagram; the MAC is still zero.
    pub fn emit(&self) -> [u8; CHALLENGE_LEN] {
        let mut datagram = [0; CHALLENGE_LEN];
        put_header(&mut datagram, MessageType::Challenge, self.receiver);
        datagram[8..16].copy_from_slice(&self.answer.seq.0.to_le_bytes());
        datagram[16..32].copy_from_slice(&self.answer.cookie.0);
        datagram
    }
}

impl Refusal {
    /// `None` when it is not a well-formed refusal, or one whose reason we do not know.
    pub fn parse(datagram: &[u8]) -> Option<Self> {
        let datagram: &[u8; REFUSAL_LEN] = datagram.try_into().ok()?;
        let is_refusal = parse_type(datagram) == Ok(MessageType::Refusal) && datagram[2..4] == [0, 0];
        let reason = RefusalReason::parse(datagram[1])?;
        let receiver = ReceiverIndex(u32::from_le_bytes(array_at(datagram, 4)));
        is_refusal.then(|| Self { receiver, reason, echo: array_at(datagram, HEADER_LEN) })
    }

    /// The datagram.
    pub fn emit(&self) -> [u8; REFUSAL_LEN] {
        let mut datagram = [0; REFUSAL_LEN];
        put_header(&mut datagram, MessageType::Refusal, self.receiver);
        datagram[1] = self.reason.code();
        datagram[HEADER_LEN..].copy_from_slice(&self.echo);
        datagram
    }
}

/// Checks type, length and zero bytes. Gives the receiver index and what follows the header.
fn parse_header<const LEN: usize>(datagram: &[u8], expected: MessageType) -> Option<(ReceiverIndex, &[u8])> {
    let datagram: &[u8; LEN] = datagram.try_into().ok()?;
    let is_expected = parse_type(datagram) == Ok(expected) && datagram[1..4] == [0, 0, 0];
    let receiver = ReceiverIndex(u32::from_le_bytes(array_at(datagram, 4)));
    is_expected.then_some((receiver, &datagram[HEADER_LEN..]))
}

fn put_header(datagram: &mut [u8], message_type: MessageType, receiver: ReceiverIndex) {
    datagram[0] = emit_type(message_type);
    datagram[4..HEADER_LEN].copy_from_slice(&receiver.0.to_le_bytes());
}

/// The `N` bytes from `offset` on, of a message whose length has been checked.
fn array_at<const N: usize>(bytes: &[u8], offset: usize) -> [u8; N] {
    std::array::from_fn(|i| bytes[offset + i])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ANNOUNCEMENT: Announcement = Announcement {
        ciphers: Ciphers { aes_256_gcm: true, aegis_256: false, aegis_256x4: true },
        lane_count: 3,
        versions: VersionRange { min: 1, max: 2 },
    };
    const ANSWER: ChallengeAnswer = ChallengeAnswer { seq: ChallengeSeq(0x0102_0304), cookie: Cookie([9; 16]) };

    fn payload() -> InitiationPayload {
        InitiationPayload {
            initiator: PeerId([1; 32]),
            responder: Some(PeerId([2; 32])),
            timestamp: UnixMicros(0x1122_3344_5566_7788),
            announcement: ANNOUNCEMENT,
            answer: Some(ANSWER),
        }
    }

    #[test]
    fn messages_are_parsed_as_they_were_emitted() {
        let index = ReceiverIndex(0xdead_beef);
        let initiation = Initiation { sender: index, noise: &[5; INITIATION_NOISE_LEN] };
        assert_eq!(Initiation::parse(&initiation.emit()), Some(initiation));
        let response = Response { receiver: index, noise: &[6; RESPONSE_NOISE_LEN] };
        assert_eq!(Response::parse(&response.emit()), Some(response));
        let finish = Finish { receiver: index, noise: &[7; FINISH_NOISE_LEN] };
        assert_eq!(Finish::parse(&finish.emit()), Some(finish));
        let challenge = Challenge { receiver: index, answer: ANSWER };
        assert_eq!(Challenge::parse(&challenge.emit()), Some(challenge));
        for code in 1..=4 {
            let reason = RefusalReason::parse(code).unwrap();
            let refusal = Refusal { receiver: index, reason, echo: [8; 16] };
            assert_eq!(Refusal::parse(&refusal.emit()), Some(refusal));
        }
    }

    #[test]
    fn payloads_are_parsed_as_they_were_emitted() {
        for responder in [None, Some(PeerId([2; 32]))] {
            for answer in [None, Some(ANSWER)] {
                let payload = InitiationPayload { responder, answer, ..payload() };
                assert_eq!(InitiationPayload::parse(&payload.emit()), payload);
            }
        }
        let payload = ResponsePayload { sender: ReceiverIndex(7), announcement: ANNOUNCEMENT };
        assert_eq!(ResponsePayload::parse(&payload.emit()), payload);
    }

    /// The layout is a promise to other versions of this program.
    #[test]
    fn the_layout_is_the_one_in_the_picture() {
        let bytes = payload().emit();
        assert_eq!(bytes[..64], [[1; 32], [2; 32]].concat());
        assert_eq!(bytes[64..72], [0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11]);
        assert_eq!(bytes[72..80], [1, 2, 5, 3, 3, 0, 0, 0]);
        assert_eq!(bytes[80..88], [4, 3, 2, 1, 0, 0, 0, 0]);
        assert_eq!(bytes[88..], [9; 16]);
        assert_eq!(Initiation::emit_clear(ReceiverIndex(0x0a0b)), [0x11, 0, 0, 0, 0, 0, 0, 0, 0x0b, 0x0a, 0, 0]);
        let refusal = Refusal { receiver: ReceiverIndex(1), reason: RefusalReason::OtherSecret, echo: [3; 16] };
        assert_eq!(refusal.emit()[..9], [0x15, 1, 0, 0, 1, 0, 0, 0, 3]);
        let lens = (INITIATION_LEN, RESPONSE_LEN, FINISH_LEN, CHALLENGE_LEN, REFUSAL_LEN);
        assert_eq!(lens, (164, 128, 88, 48, 24));
    }

    #[test]
    fn other_lengths_types_and_reserved_bytes_are_refused() {
        let good = Response { receiver: ReceiverIndex(1), noise: &[6; RESPONSE_NOISE_LEN] }.emit();
        for len in 0..RESPONSE_LEN {
            assert_eq!(Response::parse(&good[..len]), None, "{len}");
        }
        assert_eq!(Response::parse(&[good.as_slice(), &[0]].concat()), None);
        assert_eq!(Finish::parse(&good), None);
        for byte in 0..4 {
            let mut bad = good;
            bad[byte] ^= 0x80;
            assert_eq!(Response::parse(&bad), None, "byte {byte}");
        }
        let mut addressed = Initiation { sender: ReceiverIndex(1), noise: &[5; INITIATION_NOISE_LEN] }.emit();
        addressed[4] = 1;
        assert_eq!(Initiation::parse(&addressed), None);
    }

    #[test]
    fn the_newest_common_version_is_found() {
        let range = |min, max| VersionRange { min, max };
        assert_eq!(range(1, 3).common(range(2, 5)), Some(3));
        assert_eq!(range(1, 1).common(range(1, 1)), Some(1));
        assert_eq!(range(1, 2).common(range(3, 4)), None);
        assert_eq!(range(9, 1).common(range(1, 9)), None, "an empty range has nothing in common");
    }

    proptest! {
        #[test]
        fn no_bytes_make_a_parser_panic(mut datagram in prop::collection::vec(any::<u8>(), 0..200), kind in 1u8..6) {
            if let Some(first) = datagram.first_mut() {
                *first = 0x10 | kind;
            }
            let len = [INITIATION_LEN, RESPONSE_LEN, FINISH_LEN, CHALLENGE_LEN, REFUSAL_LEN][usize::from(kind) - 1];
            let mut exact = datagram.clone();
            exact.resize(len, 0);
            exact[1..4].fill(0);
            for datagram in [datagram, exact] {
                let _ = Initiation::parse(&datagram);
                let _ = Response::parse(&datagram);
                let _ = Finish::parse(&datagram);
                let _ = Challenge::parse(&datagram);
                let _ = Refusal::parse(&datagram);
                if let Some(payload) = datagram.first_chunk() {
                    let _ = InitiationPayload::parse(payload);
                }
            }
        }
    }
}

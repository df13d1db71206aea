//! Handshakes and sessions: who the other end is, and what nobody else can read or make.
//!
//! The handshake is Noise `XXpsk0` (see [`spec`]); the keys are split out and used by an AEAD of our own choice, one
//! key for each direction and lane. Files, in the order of a session's life:
//!
//! - `keys`: identity, cluster secret, and the MAC that shows membership;
//! - `handshake`: the three messages as states; `resolver`: what snow computes with;
//! - `gate`: freshness before public-key work;
//! - `session`, `aead`, `replay`: sealing and opening on the fast path.
//!
//! INVARIANT: public-key work is done only for initiations that a member of the cluster has made and that have not
//! passed before. Secrets are wiped when dropped, except for copies inside snow's handshake state, which lives for
//! seconds and does not wipe itself.

mod aead;
mod gate;
mod handshake;
mod keys;
mod replay;
mod resolver;
mod session;
pub mod spec;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(test)]
mod tests;

pub use aead::Cipher;
pub use gate::{Admission, Gate, SilentReason};
pub use handshake::{
    AdmittedInitiation, Attempt, AwaitingFinish, Established, HandshakeError, InitiationError, Initiator,
    OpenedInitiation, repeated_finish,
};
pub use keys::{StaticKeys, peer_id_of};
pub use replay::{Replay, ReplayWindow};
pub use session::{OpenError, SealError, Session};

pub use crate::wire::handshake::{
    Announcement, ChallengeAnswer, Ciphers, EphemeralKey, RefusalReason, UnixMicros, VersionRange,
};

/// The protocol versions of this program.
pub const OUR_VERSIONS: VersionRange = VersionRange { min: spec::MIN_VERSION, max: spec::MAX_VERSION };

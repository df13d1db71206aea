//! The constants of the handshake and of sessions, with where each comes from.
//!
//! INVARIANT: the relations between them are checked when this file is compiled.

use std::time::Duration;

/// Noise protocol name. `XX`: neither end needs to know the other's key before (a target is an address); `psk0`: the
/// cluster secret is mixed in first, so that the first message is already sealed (Noise §9.4).
pub const PATTERN: &str = "Noise_XXpsk0_25519_ChaChaPoly_BLAKE2s";

/// Begins the prologue of the handshake; the clear bytes of the initiation follow (Noise §6).
pub const PROLOGUE_LABEL: &[u8] = b"weaved handshake 1";

/// Oldest protocol version that this program speaks inside a session.
pub const MIN_VERSION: u8 = 1;

/// Newest protocol version that this program speaks inside a session.
pub const MAX_VERSION: u8 = 1;

/// Age at which a session should be replaced (WG §6.1 has the same).
pub const REKEY_AFTER: Duration = Duration::from_mins(2);

/// Age at which a session must not be used any more (WG §6.1 has the same).
pub const REJECT_AFTER: Duration = Duration::from_mins(3);

/// Datagrams under one lane key after which the session should be replaced. With 1.4 KB each, AES-GCM seals some
/// 2^36.5 blocks under one key, which leaves an attacker an advantage below 2^-56 (σ² / 2^129, RFC 9001 §B.1).
pub const REKEY_AFTER_DATAGRAMS: u64 = 1 << 30;

/// Datagrams under one lane key after which nothing is sealed or opened any more: fail closed. Out of reach within
/// [`REJECT_AFTER`] below 11 million datagrams a second.
///
/// Forgeries are bounded by the age alone: no line delivers 2^36 datagrams in [`REJECT_AFTER`] (RFC 9001 §6.6).
pub const REJECT_AFTER_DATAGRAMS: u64 = 1 << 31;

/// Counters that the replay window remembers for each lane (RFC 6479 §2 shows the idea, not the size): a 25 Gbit/s
/// line reordered by 4 ms.
pub const REPLAY_WINDOW_LEN: u64 = 8192;

/// Salt of everything that is derived from the cluster secret outside of Noise.
pub const CLUSTER_SALT: &[u8] = b"weaved cluster 1";

/// HKDF info of the key for the MACs of handshake messages.
pub const MAC_INFO: &[u8] = b"handshake mac";

/// Salt of the transport keys.
pub const TRANSPORT_SALT: &[u8] = b"weaved transport 1";

/// First part of the HKDF info of a lane key; the cipher's code and the lane follow.
pub const LANE_INFO: &[u8] = b"lane";

const _: () = {
    assert!(REKEY_AFTER.as_secs() < REJECT_AFTER.as_secs(), "there is time to replace a session");
    assert!(REKEY_AFTER_DATAGRAMS < REJECT_AFTER_DATAGRAMS, "there is room to replace a session");
    assert!(MIN_VERSION <= MAX_VERSION);
};

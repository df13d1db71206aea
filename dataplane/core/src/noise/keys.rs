//! The keys that live as long as the process: the identity, the cluster secret and what is derived from it.
//!
//! INVARIANT: none of them prints itself.

use aws_lc_rs::{
    agreement::{PrivateKey, X25519},
    constant_time::verify_slices_are_equal,
    hkdf, hmac,
};
use weaved_api::{ClusterSecret, PeerId, SecretKey};

use super::spec::{CLUSTER_SALT, MAC_INFO};
use crate::wire::handshake::MAC_LEN;

/// The public key that belongs to a private key (RFC 7748 §6.1).
pub fn peer_id_of(secret: &SecretKey) -> PeerId {
    let private = PrivateKey::from_private_key(&X25519, &secret.0).expect("any 32 bytes are an X25519 private key");
    let public = private.compute_public_key().expect("an X25519 private key has a public key");
    PeerId(public.as_ref().try_into().expect("an X25519 public key has 32 bytes"))
}

/// What a handshake needs of this node. The copies are wiped when dropped.
pub struct StaticKeys {
    pub(super) secret: SecretKey,
    pub(super) cluster: ClusterSecret,
    pub(super) mac: HandshakeMac,
    pub(super) id: PeerId,
}

impl StaticKeys {
    /// Derives what follows from the identity and the cluster secret.
    pub fn new(secret: &SecretKey, cluster: &ClusterSecret) -> Self {
        Self {
            secret: secret.clone(),
            cluster: cluster.clone(),
            mac: HandshakeMac::new(cluster),
            id: peer_id_of(secret),
        }
    }

    /// This node's own id.
    pub fn id(&self) -> PeerId {
        self.id
    }
}

/// Tells at the price of a hash that a message comes from a member of the cluster, so that others cannot have us do
/// public-key work or spoil a handshake that waits for its next message.
#[derive(Clone)]
pub(super) struct HandshakeMac(hmac::Key);

impl HandshakeMac {
    fn new(cluster: &ClusterSecret) -> Self {
        let salt = hkdf::Salt::new(hkdf::HKDF_SHA256, CLUSTER_SALT);
        let secret = salt.extract(&cluster.0);
        let derived = secret.expand(&[MAC_INFO], hmac::HMAC_SHA256).expect("a MAC key is shorter than HKDF's limit");
        Self(hmac::Key::from(derived))
    }

    /// Fills the last bytes of the datagram with the MAC over those before and `context`.
    pub(super) fn stamp(&self, datagram: &mut [u8], context: &[u8]) {
        let (message, mac) = datagram.split_at_mut(datagram.len() - MAC_LEN);
        mac.copy_from_slice(&self.compute(message, context));
    }

    /// Whether the last bytes of the datagram are its MAC. Takes the same time wherever they differ.
    pub(super) fn verifies(&self, datagram: &[u8], context: &[u8]) -> bool {
        datagram
            .split_last_chunk::<MAC_LEN>()
            .is_some_and(|(message, mac)| verify_slices_are_equal(&self.compute(message, context), mac).is_ok())
    }

    /// The lengths of message and context follow from the type in the first byte, so the parts cannot run together.
    fn compute(&self, message: &[u8], context: &[u8]) -> [u8; MAC_LEN] {
        truncated_hmac(&self.0, &[message, context])
    }
}

/// The first bytes of an HMAC over the parts.
pub(super) fn truncated_hmac<const LEN: usize>(key: &hmac::Key, parts: &[&[u8]]) -> [u8; LEN] {
    let mut context = hmac::Context::with_key(key);
    for part in parts {
        context.update(part);
    }
    let tag = context.sign();
    std::array::from_fn(|i| tag.as_ref()[i])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 7748 §6.1.
    #[test]
    fn the_id_is_the_x25519_public_key() {
        let alice = "77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a";
        let secret: PeerId = alice.parse().unwrap();
        let public = peer_id_of(&SecretKey(secret.0));
        assert_eq!(public.to_string(), "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a");
    }

    #[test]
    fn a_mac_belongs_to_its_message_its_context_and_its_cluster() {
        let mac = HandshakeMac::new(&ClusterSecret([1; 32]));
        let mut datagram = [7; 40];
        mac.stamp(&mut datagram, b"context");
        assert!(mac.verifies(&datagram, b"context"));
        assert!(!mac.verifies(&datagram, b"contexu"));
        assert!(!HandshakeMac::new(&ClusterSecret([2; 32])).verifies(&datagram, b"context"));
        for bit in 0..datagram.len() * 8 {
            let mut flipped = datagram;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(!mac.verifies(&flipped, b"context"), "bit {bit}");
        }
        assert!(!mac.verifies(&[], b""));
    }
}

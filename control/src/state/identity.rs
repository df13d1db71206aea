//! Who this node is: an X25519 key pair made at first start (RFC 7748). The public half is its [`PeerId`].

use aws_lc_rs::agreement::{PrivateKey, X25519};
use serde::{Deserialize, Serialize};
use weaved_api::{PeerId, SecretKey};

use super::{Record, StateError, Store};

/// A key pair.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// The public key.
    pub id: PeerId,
    /// The private key.
    pub key: SecretKey,
}

impl Record for Identity {
    const NAME: &'static str = "identity";
    const VERSION: u32 = 1;
}

impl Identity {
    /// A new one from the system's random source.
    pub fn generate() -> Self {
        let mut key = SecretKey([0; 32]);
        getrandom::fill(&mut key.0).expect("the system's random source works once the system has started");
        Self { id: public_key(&key), key }
    }

    /// The remembered one, whose halves must fit.
    pub fn load(store: &Store) -> Result<Option<Self>, StateError> {
        let Some(identity) = store.load::<Self>()? else { return Ok(None) };
        if public_key(&identity.key) != identity.id {
            let reason = "its two keys do not belong together".into();
            return Err(StateError::Damaged { path: store.path::<Self>(), reason });
        }
        Ok(Some(identity))
    }
}

/// The public key of a private key (RFC 7748 §6.1).
fn public_key(key: &SecretKey) -> PeerId {
    let private = PrivateKey::from_private_key(&X25519, &key.0).expect("any 32 bytes are an X25519 private key");
    let public = private.compute_public_key().expect("X25519 has a public key for every private key");
    PeerId(public.as_ref().try_into().expect("an X25519 public key has 32 bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn public_keys_are_those_of_rfc_7748() {
        // RFC 7748 §6.1, Alice.
        let private = "77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a"; // gitleaks:allow
        let public: PeerId = "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a".parse().unwrap();
        let PeerId(octets) = private.parse().unwrap();
        assert_eq!(public_key(&SecretKey(octets)), public);
    }

    #[test]
    fn a_swapped_key_is_damage() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path());
        let identity = Identity::generate();
        store.save(&Identity { id: Identity::generate().id, key: identity.key.clone() }).unwrap();
        assert!(matches!(Identity::load(&store), Err(StateError::Damaged { .. })));
        store.save(&identity).unwrap();
        assert_eq!(Identity::load(&store).unwrap().map(|identity| identity.id), Some(identity.id));
    }
}

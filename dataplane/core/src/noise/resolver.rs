//! What snow computes with: our randomness, X25519 by aws-lc, hash and cipher by snow's own resolver.
//!
//! snow asks the system for randomness and computes the public key of the static key each time a handshake state is
//! made. Here the ephemeral key is drawn before from the private stream, so that simulations replay exactly, and the
//! static public key is known, so that making a state and reading a first message is no public-key work at all.
//!
//! INVARIANT: one resolver serves one handshake state; its randomness is enough for one ephemeral key, once.

use aws_lc_rs::agreement::{self, PrivateKey, UnparsedPublicKey, X25519};
use snow::{
    Error,
    params::{CipherChoice, DHChoice, HashChoice},
    resolvers::{CryptoResolver, DefaultResolver},
    types::{Cipher, Dh, Hash, Random},
};
use weaved_api::{PeerId, SecretKey};
use zeroize::Zeroizing;

use super::keys::peer_id_of;
use crate::{rng::Rng, wire::handshake::KEY_LEN};

/// Resolves the primitives of one handshake state.
pub(super) struct SeededResolver {
    ephemeral: Zeroizing<[u8; KEY_LEN]>,
    own: PeerId,
}

impl SeededResolver {
    /// Draws the ephemeral key. `own` is the public key of the static key that snow will be given.
    pub(super) fn new(own: PeerId, rng: &mut Rng) -> Self {
        let mut ephemeral = Zeroizing::new([0; KEY_LEN]);
        rng.fill_private(ephemeral.as_mut());
        Self { ephemeral, own }
    }
}

impl CryptoResolver for SeededResolver {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        Some(Box::new(OneKey(Some(self.ephemeral.clone()))))
    }

    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        let dh = X25519Dh { private: Zeroizing::default(), public: [0; KEY_LEN], own: self.own };
        matches!(choice, DHChoice::Curve25519).then(|| Box::new(dh) as Box<dyn Dh>)
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        DefaultResolver.resolve_hash(choice)
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        DefaultResolver.resolve_cipher(choice)
    }
}

/// Gives the drawn bytes once and fails after that, so that no key is ever made twice.
struct OneKey(Option<Zeroizing<[u8; KEY_LEN]>>);

impl Random for OneKey {
    fn try_fill_bytes(&mut self, dest: &mut [u8]) -> Result<(), Error> {
        let drawn = self.0.take().filter(|drawn| drawn.len() == dest.len()).ok_or(Error::Rng)?;
        dest.copy_from_slice(drawn.as_ref());
        Ok(())
    }
}

/// X25519 (RFC 7748 §5). A shared secret of zero is an error.
struct X25519Dh {
    private: Zeroizing<[u8; KEY_LEN]>,
    public: [u8; KEY_LEN],
    own: PeerId,
}

impl Dh for X25519Dh {
    fn name(&self) -> &'static str {
        "25519"
    }

    fn pub_len(&self) -> usize {
        KEY_LEN
    }

    fn priv_len(&self) -> usize {
        KEY_LEN
    }

    /// snow calls this for the static key only, whose public key is known.
    fn set(&mut self, private: &[u8]) {
        self.private.copy_from_slice(private);
        self.public = self.own.0;
    }

    fn generate(&mut self, rng: &mut dyn Random) -> Result<(), Error> {
        rng.try_fill_bytes(self.private.as_mut())?;
        count_public_key_work();
        self.public = peer_id_of(&SecretKey(*self.private)).0;
        Ok(())
    }

    fn pubkey(&self) -> &[u8] {
        &self.public
    }

    fn privkey(&self) -> &[u8] {
        self.private.as_ref()
    }

    fn dh(&self, public: &[u8], out: &mut [u8]) -> Result<(), Error> {
        count_public_key_work();
        let private = PrivateKey::from_private_key(&X25519, self.private.as_ref()).map_err(|_| Error::Dh)?;
        // snow's buffers have room for larger curves.
        let public = UnparsedPublicKey::new(&X25519, &public[..KEY_LEN]);
        agreement::agree(&private, public, Error::Dh, |secret| {
            out[..KEY_LEN].copy_from_slice(secret);
            Ok(())
        })
    }
}

#[cfg(not(test))]
fn count_public_key_work() {}

#[cfg(test)]
use counting::count_public_key_work;

/// Lets tests state what costs no public-key work.
#[cfg(test)]
pub(super) mod counting {
    use std::cell::Cell;

    thread_local! {
        static COUNT: Cell<u64> = const { Cell::new(0) };
    }

    pub(super) fn count_public_key_work() {
        COUNT.set(COUNT.get() + 1);
    }

    /// Scalar multiplications of this thread so far.
    pub(in crate::noise) fn public_key_work() -> u64 {
        COUNT.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ephemeral_key_is_given_out_once() {
        let resolver = SeededResolver::new(PeerId([1; 32]), &mut Rng::new([7; 32]));
        let mut random = resolver.resolve_rng().unwrap();
        let (mut first, mut second) = ([0; 32], [0; 32]);
        assert!(random.try_fill_bytes(&mut first).is_ok());
        assert_ne!(first, [0; 32]);
        assert!(random.try_fill_bytes(&mut second).is_err());
        assert_eq!(second, [0; 32]);
    }

    #[test]
    fn a_public_key_of_small_order_is_an_error() {
        let resolver = SeededResolver::new(PeerId([1; 32]), &mut Rng::new([7; 32]));
        let mut dh = resolver.resolve_dh(&DHChoice::Curve25519).unwrap();
        dh.set(&[9; 32]);
        assert!(dh.dh(&[0; 56], &mut [0; 56]).is_err());
    }
}

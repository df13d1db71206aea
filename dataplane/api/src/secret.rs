//! Secrets that cross the socket: the identity key and the cluster secret.
//!
//! INVARIANT: neither prints itself; both are wiped when dropped. Serialising them is what the socket (mode 0600,
//! same user) and the state files are for; nothing else may.

use std::fmt;

use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop};

/// A peer's X25519 private key.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop, Serialize, Deserialize)]
pub struct SecretKey(pub [u8; 32]);

/// What every member of a cluster knows and nobody else: the pre-shared key of the handshake.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop, Serialize, Deserialize)]
pub struct ClusterSecret(pub [u8; 32]);

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretKey(…)")
    }
}

impl fmt::Debug for ClusterSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClusterSecret(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_do_not_print_themselves() {
        let text = format!("{:?} {:?}", SecretKey([0xab; 32]), ClusterSecret([0xab; 32]));
        assert!(!text.contains("ab") && !text.contains("171"), "{text}");
    }
}

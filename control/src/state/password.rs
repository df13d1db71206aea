//! The cluster's secret from a password of the operator's choice: Argon2id (RFC 9106).
//!
//! All hosts must come to the same secret knowing nothing but the password, so the salt is a constant that only
//! separates this use from others. What makes guessing dear is the work: an eavesdropper of one handshake may try
//! passwords at home, at [`MEMORY_KIB`] of memory and [`PASSES`] passes for each. A token has no such weakness.

use argon2::{Algorithm, Argon2, Params, Version};
use weaved_api::ClusterSecret;

/// RFC 9106 §4, second recommended option: 64 MiB.
const MEMORY_KIB: u32 = 64 * 1024;
/// RFC 9106 §4, second recommended option.
const PASSES: u32 = 3;
/// The RFC's option has four; the work is the same and one needs no threads.
const LANES: u32 = 1;
const SALT: &[u8] = b"weaved cluster secret 1";

/// Shorter ones are guessed, whatever the work.
pub const MIN_PASSWORD_CHARS: usize = 12;
/// Longer ones are a file given by mistake.
const MAX_PASSWORD_BYTES: usize = 1024;

/// A password that is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PasswordError {
    /// Too easy to guess.
    #[error(
        "the password has {0} characters and needs {MIN_PASSWORD_CHARS}: who records traffic can try short ones \
         at leisure; take a longer one, or no password: `weaved launch` makes a secret by itself"
    )]
    Short(usize),
    /// Not a password.
    #[error("the password is longer than {MAX_PASSWORD_BYTES} bytes; is this the right file?")]
    Long,
}

/// The secret of the cluster with this password. One line break at the end does not count.
pub fn derive(password: &str) -> Result<ClusterSecret, PasswordError> {
    let password = password.strip_suffix('\n').unwrap_or(password);
    let password = password.strip_suffix('\r').unwrap_or(password);
    if password.len() > MAX_PASSWORD_BYTES {
        return Err(PasswordError::Long);
    }
    let char_count = password.chars().count();
    if char_count < MIN_PASSWORD_CHARS {
        return Err(PasswordError::Short(char_count));
    }
    let params = Params::new(MEMORY_KIB, PASSES, LANES, Some(32)).expect("the parameters are within RFC 9106 §3.1");
    let mut secret = ClusterSecret([0; 32]);
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into(password.as_bytes(), SALT, &mut secret.0)
        .expect("password, salt and output have lengths that RFC 9106 §3.1 allows");
    Ok(secret)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_password_gives_the_same_secret_with_or_without_a_line_break() {
        let secret = derive("correct horse battery").unwrap();
        assert_eq!(derive("correct horse battery\r\n").unwrap(), secret);
        assert_ne!(derive("correct horse batterz").unwrap(), secret);
    }

    #[test]
    fn short_and_enormous_passwords_are_refused_with_the_reason() {
        assert_eq!(derive("hunter2\n"), Err(PasswordError::Short(7)));
        assert!(derive("hunter2").unwrap_err().to_string().contains("needs 12"));
        assert_eq!(derive(&"x".repeat(MAX_PASSWORD_BYTES + 1)), Err(PasswordError::Long));
    }
}

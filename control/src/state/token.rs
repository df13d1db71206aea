//! The join token: the cluster's secret as a line that people can copy.
//!
//! ```text
//! weaved1-<58 characters>     base32 (RFC 4648 §6, lower case, no padding) of secret (32 bytes) ‖ checksum (4 bytes)
//! ```
//!
//! The checksum is the beginning of SHA-256("weaved token 1" ‖ secret): a typing error is found here, not after a
//! futile attempt to connect.
//!
//! INVARIANT: no error and no `Debug` output contains a token or a part of one.

use weaved_api::ClusterSecret;
use zeroize::Zeroizing;

/// Variables of the environment that may hold a token or a password. Child processes do not inherit them.
pub const SECRET_VARIABLES: [&str; 2] = ["WEAVED_TOKEN", "WEAVED_PASSWORD"];

const PREFIX: &str = "weaved1-";
const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
const CHECKSUM_BYTES: usize = 4;
const DECODED_BYTES: usize = 32 + CHECKSUM_BYTES;
const ENCODED_CHARS: usize = (DECODED_BYTES * 8).div_ceil(5);

/// Text that is not a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Nothing there.
    #[error("the token is empty; `weaved token` on a host of the cluster prints it")]
    Empty,
    /// Something else.
    #[error("this is not a join token: one begins with `weaved1-`; `weaved token` on a host of the cluster prints it")]
    Prefix,
    /// Cut off or pasted twice.
    #[error("the token has {0} characters after `weaved1-` instead of {ENCODED_CHARS}; copy all of it")]
    Length(usize),
    /// A letter outside the alphabet.
    #[error("the token has a character at place {0} that no token has; copy it again")]
    Character(usize),
    /// All letters are possible, but not together.
    #[error("the token's checksum does not match: it has a typing error; copy it again")]
    Checksum,
}

/// A token for this secret.
pub fn encode(secret: &ClusterSecret) -> Zeroizing<String> {
    let mut bytes = Zeroizing::new([0; DECODED_BYTES]);
    bytes[..32].copy_from_slice(&secret.0);
    bytes[32..].copy_from_slice(&checksum(secret));
    let mut text = Zeroizing::new(String::with_capacity(PREFIX.len() + ENCODED_CHARS));
    text.push_str(PREFIX);
    for index in 0..ENCODED_CHARS {
        let value = (0..5).fold(0, |value, bit| value << 1 | bit_at(bytes.as_slice(), index * 5 + bit));
        text.push(char::from(ALPHABET[usize::from(value)]));
    }
    text
}

/// The secret in a token. White space around it and capitals do not matter.
pub fn decode(text: &str) -> Result<ClusterSecret, TokenError> {
    let text = Zeroizing::new(text.trim().to_ascii_lowercase());
    if text.is_empty() {
        return Err(TokenError::Empty);
    }
    let digits = text.strip_prefix(PREFIX).ok_or(TokenError::Prefix)?;
    let len = digits.chars().count();
    if len != ENCODED_CHARS {
        return Err(TokenError::Length(len));
    }
    let mut bytes = Zeroizing::new([0; DECODED_BYTES + 1]);
    for (index, letter) in digits.chars().enumerate() {
        let value = ALPHABET.iter().position(|known| char::from(*known) == letter);
        let value = value.ok_or(TokenError::Character(PREFIX.len() + index + 1))? as u8;
        for bit in 0..5 {
            let place = index * 5 + bit;
            bytes[place / 8] |= (value >> (4 - bit) & 1) << (7 - place % 8);
        }
    }
    let mut secret = ClusterSecret([0; 32]);
    secret.0.copy_from_slice(&bytes[..32]);
    // The last character has two bits to spare; only zeroes are canonical.
    if bytes[32..DECODED_BYTES] != checksum(&secret) || bytes[DECODED_BYTES] != 0 {
        return Err(TokenError::Checksum);
    }
    Ok(secret)
}

/// Bit `place` of the bytes, most significant first; zero behind their end.
fn bit_at(bytes: &[u8], place: usize) -> u8 {
    bytes.get(place / 8).map_or(0, |byte| byte >> (7 - place % 8) & 1)
}

fn checksum(secret: &ClusterSecret) -> [u8; CHECKSUM_BYTES] {
    let mut context = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    context.update(b"weaved token 1");
    context.update(&secret.0);
    let digest = context.finish();
    std::array::from_fn(|index| digest.as_ref()[index])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_token_holds_its_secret(secret: [u8; 32]) {
            let token = encode(&ClusterSecret(secret));
            prop_assert_eq!(token.len(), PREFIX.len() + ENCODED_CHARS);
            prop_assert_eq!(decode(&token).unwrap().0, secret);
            prop_assert_eq!(decode(&format!("  {}\n", token.to_uppercase())).unwrap().0, secret);
        }

        #[test]
        fn any_text_gets_an_answer(text in ".{0,80}") {
            prop_assert!(decode(&text).is_err());
        }
    }

    #[test]
    fn every_single_typing_error_and_every_swap_is_found() {
        let token = encode(&ClusterSecret(std::array::from_fn(|i| (i * 37) as u8)));
        for place in PREFIX.len()..token.len() {
            for letter in ALPHABET {
                let mut bytes = token.as_bytes().to_vec();
                if bytes[place] == *letter {
                    continue;
                }
                bytes[place] = *letter;
                assert_eq!(decode(std::str::from_utf8(&bytes).unwrap()), Err(TokenError::Checksum), "{place}");
            }
            let mut bytes = token.as_bytes().to_vec();
            if place + 1 < bytes.len() && bytes[place] != bytes[place + 1] {
                bytes.swap(place, place + 1);
                assert_eq!(decode(std::str::from_utf8(&bytes).unwrap()), Err(TokenError::Checksum), "{place}");
            }
        }
    }

    #[test]
    fn what_is_no_token_is_told_by_kind_and_not_repeated() {
        let token = encode(&ClusterSecret([7; 32]));
        assert_eq!(decode(" \n"), Err(TokenError::Empty));
        assert_eq!(decode("swordfish"), Err(TokenError::Prefix));
        assert_eq!(decode(&token[..token.len() - 1]), Err(TokenError::Length(ENCODED_CHARS - 1)));
        assert_eq!(decode(&format!("{}{}", *token, *token)), Err(TokenError::Length(ENCODED_CHARS * 2 + PREFIX.len())));
        assert_eq!(decode(&token.replacen("weaved1-", "weaved1-1", 1)[..token.len()]), Err(TokenError::Character(9)));
        assert!(!decode("swordfish").unwrap_err().to_string().contains("swordfish"));
    }
}

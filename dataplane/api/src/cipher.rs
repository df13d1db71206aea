//! Which ciphers the operator wants sessions to use.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// The fastest cipher that this node offers its peers. A session has the fastest that both its ends offer; all offer
/// ChaCha20-Poly1305.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum CipherChoice {
    /// The fastest that this machine has instructions for: AEGIS-256X4 before AEGIS-256 before AES-256-GCM before
    /// ChaCha20-Poly1305.
    #[default]
    #[serde(rename = "auto")]
    Auto,
    /// AEGIS-256 where this machine has instructions for it.
    #[serde(rename = "aegis-256")]
    Aegis256,
    /// AES-256-GCM where this machine has instructions for it.
    #[serde(rename = "aes-256-gcm")]
    Aes256Gcm,
    /// ChaCha20-Poly1305.
    #[serde(rename = "chacha20-poly1305")]
    ChaCha20Poly1305,
}

/// A text that is no choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("choose auto, aegis-256, aes-256-gcm or chacha20-poly1305")]
pub struct CipherChoiceError;

impl CipherChoice {
    const ALL: [Self; 4] = [Self::Auto, Self::Aegis256, Self::Aes256Gcm, Self::ChaCha20Poly1305];
}

impl fmt::Display for CipherChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Aegis256 => "aegis-256",
            Self::Aes256Gcm => "aes-256-gcm",
            Self::ChaCha20Poly1305 => "chacha20-poly1305",
        })
    }
}

impl FromStr for CipherChoice {
    type Err = CipherChoiceError;

    fn from_str(text: &str) -> Result<Self, CipherChoiceError> {
        Self::ALL.into_iter().find(|choice| choice.to_string() == text).ok_or(CipherChoiceError)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_choice_is_read_as_it_is_written_and_nothing_else_is() {
        for choice in CipherChoice::ALL {
            assert_eq!(choice.to_string().parse(), Ok(choice));
            assert_eq!(serde_json::to_string(&choice).unwrap(), format!("\"{choice}\""));
        }
        assert_eq!("aes".parse::<CipherChoice>(), Err(CipherChoiceError));
    }
}

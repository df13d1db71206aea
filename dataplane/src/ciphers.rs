//! Which ciphers this host offers: those that the operator allows and that its processor has instructions for.
//!
//! ChaCha20-Poly1305, which is offered always, needs none.

use weaved_api::CipherChoice;
use weaved_core::noise::{Cipher, Ciphers};

/// What is offered.
pub(crate) fn offered(choice: CipherChoice) -> Ciphers {
    offered_by(able(), choice)
}

/// The same on a machine that is able to do so much.
fn offered_by(able: Ciphers, choice: CipherChoice) -> Ciphers {
    let allowed = match choice {
        CipherChoice::Auto => Cipher::Aegis256,
        CipherChoice::Aes256Gcm => Cipher::Aes256Gcm,
        CipherChoice::ChaCha20Poly1305 => Cipher::ChaCha20Poly1305,
    }
    .and_slower();
    Ciphers { aes_256_gcm: allowed.aes_256_gcm && able.aes_256_gcm, aegis_256: allowed.aegis_256 && able.aegis_256 }
}

/// What this machine has instructions for. GCM needs GHASH besides AES; the library of AEGIS uses AES on x86 only together with AVX.
fn able() -> Ciphers {
    #[cfg(target_arch = "x86_64")]
    return Ciphers {
        aes_256_gcm: std::arch::is_x86_feature_detected!("aes") && std::arch::is_x86_feature_detected!("pclmulqdq"),
        aegis_256: std::arch::is_x86_feature_detected!("aes") && std::arch::is_x86_feature_detected!("avx"),
    };
    #[cfg(target_arch = "aarch64")]
    return Ciphers {
        aes_256_gcm: std::arch::is_aarch64_feature_detected!("aes") && std::arch::is_aarch64_feature_detected!("pmull"),
        aegis_256: std::arch::is_aarch64_feature_detected!("aes"),
    };
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    return Cipher::ChaCha20Poly1305.and_slower();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_offered_is_allowed_and_the_machine_is_able_to_it() {
        let ciphers = |aegis_256, aes_256_gcm| Ciphers { aes_256_gcm, aegis_256 };
        for (aegis, gcm) in [(false, false), (false, true), (true, false), (true, true)] {
            let offered = |choice| offered_by(ciphers(aegis, gcm), choice);
            assert_eq!(offered(CipherChoice::Auto), ciphers(aegis, gcm));
            assert_eq!(offered(CipherChoice::Aes256Gcm), ciphers(false, gcm));
            assert_eq!(offered(CipherChoice::ChaCha20Poly1305), ciphers(false, false));
        }
    }
}

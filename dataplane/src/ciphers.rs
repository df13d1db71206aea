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
        CipherChoice::Auto => Cipher::Aegis256X4,
        CipherChoice::Aegis256 => Cipher::Aegis256,
        CipherChoice::Aes256Gcm => Cipher::Aes256Gcm,
        CipherChoice::ChaCha20Poly1305 => Cipher::ChaCha20Poly1305,
    }
    .and_slower();
    Ciphers {
        aes_256_gcm: allowed.aes_256_gcm && able.aes_256_gcm,
        aegis_256: allowed.aegis_256 && able.aegis_256,
        aegis_256x4: allowed.aegis_256x4 && able.aegis_256x4,
    }
}

/// What this machine has instructions for. GCM needs GHASH besides AES; the library of AEGIS uses AES on x86 only together with AVX.
/// Its four lanes pay where one instruction does a round of all of them.
fn able() -> Ciphers {
    #[cfg(target_arch = "x86_64")]
    return Ciphers {
        aes_256_gcm: std::arch::is_x86_feature_detected!("aes") && std::arch::is_x86_feature_detected!("pclmulqdq"),
        aegis_256: std::arch::is_x86_feature_detected!("aes") && std::arch::is_x86_feature_detected!("avx"),
        aegis_256x4: std::arch::is_x86_feature_detected!("vaes") && std::arch::is_x86_feature_detected!("avx512f"),
    };
    #[cfg(target_arch = "aarch64")]
    return Ciphers {
        aes_256_gcm: std::arch::is_aarch64_feature_detected!("aes") && std::arch::is_aarch64_feature_detected!("pmull"),
        aegis_256: std::arch::is_aarch64_feature_detected!("aes"),
        aegis_256x4: false,
    };
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    return Cipher::ChaCha20Poly1305.and_slower();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_offered_is_allowed_and_the_machine_is_able_to_it() {
        let choices =
            [CipherChoice::Auto, CipherChoice::Aegis256, CipherChoice::Aes256Gcm, CipherChoice::ChaCha20Poly1305];
        for able in Cipher::ALL {
            let offered = choices.map(|choice| offered_by(able.and_slower(), choice));
            let slower_than = |fastest: Cipher| {
                let allowed = fastest.and_slower();
                Cipher::common(allowed, able.and_slower()).and_slower()
            };
            assert_eq!(offered, Cipher::ALL.map(slower_than), "{able:?}");
        }
        // AEGIS where there are no instructions for GCM, as it is with AES alone.
        let able = Ciphers { aes_256_gcm: false, aegis_256: true, aegis_256x4: false };
        assert_eq!(choices.map(|choice| offered_by(able, choice).aegis_256), [true, true, false, false]);
        assert!(choices.iter().all(|choice| !offered_by(able, *choice).aes_256_gcm));
    }
}

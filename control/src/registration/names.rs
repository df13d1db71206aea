//! Names that DNS can carry (RFC 1035 §2.3.1, RFC 1123 §2.1).

/// Bytes of a label.
pub const MAX_LABEL_BYTES: usize = 63;

/// A name as DNS can carry it: itself when it can be a label, else one that resembles it. Capitals stay, because DNS
/// does not tell them apart and Consul's clients do.
pub fn to_label(name: &str) -> String {
    if is_label(name) {
        return name.to_owned();
    }
    let mapped: String = name.chars().map(|char| if char.is_ascii_alphanumeric() { char } else { '-' }).collect();
    let cut = mapped.trim_matches('-').get(..MAX_LABEL_BYTES).unwrap_or(mapped.trim_matches('-'));
    match cut.trim_end_matches('-') {
        "" => format!("x-{:08x}", fnv1a(name.as_bytes())),
        label => label.to_owned(),
    }
}

/// True when DNS can carry the name as one label.
pub fn is_label(name: &str) -> bool {
    let is_fit = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    (1..=MAX_LABEL_BYTES).contains(&name.len())
        && name.bytes().all(is_fit)
        && !name.starts_with('-')
        && !name.ends_with('-')
}

/// FNV-1a with 32 bits: the same name is mapped to the same label on every host.
fn fnv1a(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_stay_and_other_names_become_labels() {
        for (name, label) in [
            ("web", "web"),
            ("Web-2", "Web-2"),
            ("my_app", "my-app"),
            ("a.b", "a-b"),
            ("-web-", "web"),
            ("söme name", "s-me-name"),
        ] {
            assert_eq!(to_label(name), label);
        }
        assert_eq!(to_label(&"x".repeat(64)), "x".repeat(63));
        assert_eq!(to_label(&format!("{}-{}", "x".repeat(62), "yy")), "x".repeat(62));
    }

    proptest::proptest! {
        #[test]
        fn whatever_the_name_is_the_outcome_is_a_label_and_stays_itself(name in "\\PC*|[a-z-]{60,70}") {
            let label = to_label(&name);
            assert!(is_label(&label), "{label:?}");
            assert_eq!(to_label(&label), label);
        }
    }

    #[test]
    fn names_without_any_letter_stay_apart() {
        assert_ne!(to_label("日本"), to_label("東京"));
        assert!(is_label(&to_label("")));
    }
}

//! The zone of the cluster's names: text that is a domain, and one that is ours to answer for.
//!
//! INVARIANT: lower case, no dot at its end, labels of 1 to 63 letters, digits and `-`, at most [`MAX_ZONE_BYTES`] long, not in
//! or above a zone that has a meaning of its own.

use crate::{
    defaults,
    registration::names::{MAX_LABEL_BYTES, is_label},
};

/// Leaves room in front for the longest names (RFC 1035 §2.3.4 allows 255 bytes).
pub const MAX_ZONE_BYTES: usize = 100;
/// Consul's forms, reverse names, and names that never leave a host: each is answered by its own rules.
const TAKEN: [&str; 4] = ["consul", "arpa", "localhost", "invalid"];

/// A zone as it is remembered. Fails with the reason why it can be none.
pub fn parse(text: &str) -> Result<String, String> {
    let zone = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    if zone.is_empty() || zone.len() > MAX_ZONE_BYTES {
        return Err(format!("a zone has 1 to {MAX_ZONE_BYTES} characters, like {} or corp.example", defaults::ZONE));
    }
    if let Some(label) = zone.split('.').find(|label| !is_label(label)) {
        let label = label.escape_debug();
        return Err(format!("`{label}` is no part of a domain: 1 to {MAX_LABEL_BYTES} letters, digits and `-` inside"));
    }
    let last = zone.rsplit('.').next().unwrap_or(&zone);
    if last.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err("it looks like an address".into());
    }
    if TAKEN.contains(&last) {
        return Err(format!("names below {last} have a meaning of their own"));
    }
    Ok(zone)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_domain_is_remembered_in_one_form() {
        assert_eq!(parse(defaults::ZONE).as_deref(), Ok(defaults::ZONE));
        for (text, zone) in [("Corp.Example.", "corp.example"), ("lan", "lan"), ("x1.a-b.internal", "x1.a-b.internal")]
        {
            assert_eq!(parse(text).as_deref(), Ok(zone));
        }
    }

    #[test]
    fn what_is_no_domain_or_is_somebody_elses_is_refused_with_the_reason() {
        let long = "x".repeat(64);
        for (text, word) in [
            ("", "1 to"),
            (".", "1 to"),
            (&"ab.".repeat(40), "1 to"),
            ("a..b", "`` is no part"),
            ("corp example", "no part"),
            ("-a.b", "no part"),
            ("a_b.c", "no part"),
            (&long, "no part"),
            ("bücher.example", "no part"),
            ("10.32", "address"),
            ("consul", "meaning"),
            ("team.consul", "meaning"),
            ("10.in-addr.arpa", "meaning"),
        ] {
            let reason = parse(text).unwrap_err();
            assert!(reason.contains(word) && !reason.contains('\n'), "{text}: {reason}");
        }
    }
}

//! Why a switch is not made: a sentence for people, a word for programs.

use serde::{Deserialize, Serialize};

/// Why nothing was switched. Nothing has changed, but for [`Refusal::Unknown`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Refusal {
    /// Nobody has such a service.
    #[error("there is no service `{service}`; there are: {}", list(known))]
    NoService {
        /// What was asked for.
        service: String,
        /// What there is.
        known: Vec<String>,
    },
    /// No instance has the colour.
    #[error("{service} has no instance of colour `{colour}`; its colours are: {}", list(known))]
    NoColour {
        /// Of which service.
        service: String,
        /// What was asked for.
        colour: String,
        /// What there is.
        known: Vec<String>,
    },
    /// Too few instances take traffic.
    #[error(
        "only {passing} of {count} instances of {service} in {colour} are passing, and {needed} must be; \
         `weaved services {service}` shows them"
    )]
    NotHealthy {
        /// Of which service.
        service: String,
        /// Of which colour.
        colour: String,
        /// How many do.
        passing: usize,
        /// Of how many.
        count: usize,
        /// How many must.
        needed: u32,
    },
    /// Somebody else switches.
    #[error("{service} is being switched to {to} by {who}")]
    UnderWay {
        /// Which service.
        service: String,
        /// To what.
        to: String,
        /// Who, where, by what, since when.
        who: String,
    },
    /// A canary is out.
    #[error(
        "a canary of {service} is out ({step}); end it first: `weaved switch {service} --abort`, or \
         `weaved switch {service} {to} --force` to go over at once"
    )]
    CanaryOut {
        /// Which service.
        service: String,
        /// To what.
        to: String,
        /// From what, and how far.
        step: String,
    },
    /// No canary is out.
    #[error("no canary of {service} is out")]
    NoCanary {
        /// Which service.
        service: String,
    },
    /// There is nothing to go back to.
    #[error("{service} had no other colour before; `weaved history {service}` shows what there was")]
    NoColourBefore {
        /// Which service.
        service: String,
    },
    /// The key shows the live colour of another service.
    #[error(
        "the key `{}` shows the live colour of {by} already; `weaved switch {service} COLOUR --key KEY` gives {service} another one",
        key.escape_debug()
    )]
    KeyTaken {
        /// Which service cannot have it.
        service: String,
        /// Which key.
        key: String,
        /// Whose it is.
        by: String,
    },
    /// Balancers are not ready.
    #[error("not switched: {}; --force goes over without them", reasons.join("; "))]
    NotReady {
        /// Host by host.
        reasons: Vec<String>,
    },
    /// Another one has taken the place of this attempt.
    #[error("not switched: this attempt took too long, and another one has taken its place")]
    Overtaken,
    /// The order makes no sense.
    #[error("{0}")]
    Senseless(String),
    /// The keys cannot be changed.
    #[error("{0}")]
    Keys(String),
    /// It is not known how it ended.
    #[error("{0}; `weaved history` tells whether it was switched")]
    Unknown(String),
    /// Too many at once.
    #[error("this host carries out too many switches at once; try again")]
    Busy,
}

impl Refusal {
    /// All words.
    pub const WORDS: [&'static str; 14] = [
        "no-service",
        "no-colour",
        "not-healthy",
        "switch-under-way",
        "canary-out",
        "no-canary",
        "no-colour-before",
        "key-taken",
        "not-ready",
        "overtaken",
        "senseless",
        "not-decided",
        "outcome-unknown",
        "busy",
    ];

    /// For `X-Weaved-Refusal`.
    pub fn word(&self) -> &'static str {
        match self {
            Self::NoService { .. } => "no-service",
            Self::NoColour { .. } => "no-colour",
            Self::NotHealthy { .. } => "not-healthy",
            Self::UnderWay { .. } => "switch-under-way",
            Self::CanaryOut { .. } => "canary-out",
            Self::NoCanary { .. } => "no-canary",
            Self::NoColourBefore { .. } => "no-colour-before",
            Self::KeyTaken { .. } => "key-taken",
            Self::NotReady { .. } => "not-ready",
            Self::Overtaken => "overtaken",
            Self::Senseless(_) => "senseless",
            Self::Keys(_) => "not-decided",
            Self::Unknown(_) => "outcome-unknown",
            Self::Busy => "busy",
        }
    }
}

/// Names with commas; a few, because there may be many.
fn list(names: &[String]) -> String {
    const SHOWN: usize = 20;
    if names.is_empty() {
        return "none".into();
    }
    let shown = names.iter().take(SHOWN).map(|name| name.escape_debug().to_string()).collect::<Vec<_>>().join(", ");
    let more = names.len().saturating_sub(SHOWN);
    if more > 0 { format!("{shown} and {more} more") } else { shown }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typo_is_answered_with_what_there_is() {
        let refusal = Refusal::NoColour {
            service: "web".into(),
            colour: "gren".into(),
            known: vec!["blue".into(), "green".into()],
        };
        assert_eq!(refusal.to_string(), "web has no instance of colour `gren`; its colours are: blue, green");
        let known = (0..30).map(|n| format!("s{n}")).collect();
        let refusal = Refusal::NoService { service: "wep".into(), known };
        assert!(refusal.to_string().ends_with("s19 and 10 more"), "{refusal}");
    }
}

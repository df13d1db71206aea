//! How much of its service's traffic an instance gets beside the others.
//!
//! Weights travel as metadata under a name of our own: what travels stays as it is, and a node that knows nothing of them hands them on.
//! Consul's API tells them as weights and leaves that metadata out, so that its clients find what they have registered.

use std::{collections::BTreeMap, fmt, str::FromStr};

use super::Health;

/// The metadata that holds them: `PASSING/WARNING`.
pub const WEIGHTS_KEY: &str = "weaved-weights";

/// The usual weight.
const USUAL: u16 = 1;

/// Weights of one instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Weights {
    /// While it passes; at least 1.
    pub passing: u16,
    /// While somebody should look at it; with 0 it gets what nobody else can take.
    pub warning: u16,
}

/// A weight that nobody can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is no number from 1 to 65535")]
pub struct BadWeight;

impl Weights {
    /// The same however it is.
    pub fn alike(weight: u16) -> Self {
        Self { passing: weight, warning: weight }
    }

    /// The same however it is, from what somebody has written.
    pub fn read(text: &str) -> Result<Self, BadWeight> {
        let digits = if text.bytes().all(|byte| byte.is_ascii_digit()) { text } else { "" };
        digits.parse().ok().filter(|weight| *weight > 0).map(Self::alike).ok_or(BadWeight)
    }

    /// Those of an instance with this metadata.
    pub fn of_meta(meta: &BTreeMap<String, String>) -> Self {
        meta.get(WEIGHTS_KEY).and_then(|text| text.parse().ok()).unwrap_or_default()
    }

    /// Writes them into metadata; the usual ones are not written.
    pub fn put(self, meta: &mut BTreeMap<String, String>) {
        if self.is_usual() {
            meta.remove(WEIGHTS_KEY);
        } else {
            meta.insert(WEIGHTS_KEY.into(), self.to_string());
        }
    }

    /// True when nobody has said any.
    pub fn is_usual(self) -> bool {
        self == Self::default()
    }

    /// What counts while it is so.
    pub fn at(self, health: Health) -> u16 {
        if health == Health::Warning { self.warning } else { self.passing }
    }
}

impl Default for Weights {
    fn default() -> Self {
        Self::alike(USUAL)
    }
}

impl fmt::Display for Weights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.passing, self.warning)
    }
}

impl FromStr for Weights {
    type Err = BadWeight;

    fn from_str(text: &str) -> Result<Self, BadWeight> {
        let (passing, warning) = text.split_once('/').ok_or(BadWeight)?;
        let weights = Self { warning: warning.parse().map_err(|_| BadWeight)?, ..Self::read(passing)? };
        Ok(weights)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_survive_the_way_through_metadata() {
        for weights in [Weights { passing: 65_535, warning: 0 }, Weights { passing: 1, warning: 7 }, Weights::alike(3)]
        {
            let mut meta = BTreeMap::new();
            weights.put(&mut meta);
            assert_eq!(Weights::of_meta(&meta), weights);
        }
        let mut meta = [(WEIGHTS_KEY.to_owned(), "3/3".to_owned())].into();
        Weights::default().put(&mut meta);
        assert!(meta.is_empty() && Weights::of_meta(&meta).is_usual());
    }

    #[test]
    fn what_is_no_weight_is_refused_and_counts_as_the_usual_one() {
        assert_eq!(Weights::read("65535"), Ok(Weights::alike(65_535)));
        for text in ["0", "-1", "65536", "much", "", "1.5", " 3", "+3", "99999999999999999999"] {
            assert_eq!(Weights::read(text), Err(BadWeight), "{text:?}");
            let meta = [(WEIGHTS_KEY.to_owned(), format!("{text}/1"))].into();
            assert!(Weights::of_meta(&meta).is_usual(), "{text:?}");
        }
    }

    #[test]
    fn the_weight_of_a_warning_counts_while_it_warns() {
        let weights = Weights { passing: 10, warning: 2 };
        assert_eq!([Health::Passing, Health::Warning, Health::Critical].map(|health| weights.at(health)), [10, 2, 10]);
    }
}

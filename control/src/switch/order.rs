//! What somebody wants of a service, and what he is told meanwhile and in the end.

use serde::{Deserialize, Serialize};

use super::{
    canary::CanaryPlan,
    limits::{MAX_NAME_BYTES, MAX_TIMEOUT},
    record::{DrainLimits, Figures, is_mirror_key},
    refusal::Refusal,
    rule::ColourRule,
    verdict::Limits,
};

/// Names an attempt. Below 2^53, so that every reader of JSON keeps all digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct AttemptId(pub u64);

/// From a client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Order {
    /// Of which service.
    pub service: String,
    /// What.
    pub what: What,
    /// Instances of the new colour that must take traffic, for each balancer.
    pub min_healthy: u32,
    /// How connections of the old colour end; as before without it.
    pub drain: Option<DrainOrder>,
    /// How long hosts may take to get ready, in milliseconds.
    pub timeout_ms: u64,
    /// What stands in the way, and what does not.
    pub care: Care,
    /// Another mirror key.
    pub key: Option<String>,
    /// Another meaning of colours.
    pub colours: Option<ColourRule>,
    /// What leads back by itself.
    pub watch: Option<WatchOrder>,
    /// Only if the mirror key is at this index: a client's compare-and-set.
    pub at_index: Option<u64>,
    /// Who.
    pub by: String,
    /// By what.
    pub source: String,
}

/// What is to become of a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum What {
    /// This colour gets everything.
    To(String),
    /// This colour gets a share that grows.
    Canary(String, CanaryPlan),
    /// The colour that had everything before.
    Back,
    /// The canary goes no further by itself.
    Pause,
    /// It does again.
    Resume,
    /// The canary ends: the old colour gets everything.
    Abort,
    /// The next step of the canary, which is due.
    Step,
    /// Back, because of this.
    Rescue(String),
}

/// How careful a switch is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Care {
    /// What is not ready stands in its way.
    Careful,
    /// It is made whatever balancers say.
    Forced,
    /// It is only looked at.
    DryRun,
}

/// How connections of the old colour are to end. What is not said stays as it was before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct DrainOrder {
    /// Requests, in milliseconds.
    pub requests_ms: Option<u64>,
    /// Upgraded connections and TCP streams.
    pub streams: Option<StreamLimit>,
}

/// How long upgraded connections and TCP streams of the old colour may go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StreamLimit {
    /// For ever.
    Never,
    /// So many milliseconds.
    AfterMs(u64),
}

impl DrainOrder {
    /// What holds then.
    pub(super) fn applied_to(self, before: DrainLimits) -> DrainLimits {
        let streams_ms = match self.streams {
            None => before.streams_ms,
            Some(StreamLimit::Never) => None,
            Some(StreamLimit::AfterMs(limit)) => Some(limit),
        };
        DrainLimits { requests_ms: self.requests_ms.unwrap_or(before.requests_ms), streams_ms }
    }
}

/// What leads back by itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatchOrder {
    /// When.
    pub limits: Limits,
    /// For how long it is watched, in milliseconds.
    pub length_ms: u64,
}

/// One line of progress.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Milliseconds since the order.
    pub at_ms: u64,
    /// How far the attempt is.
    pub phase: Phase,
    /// About which host; None for all.
    pub host: Option<String>,
    /// What there is to say.
    pub text: String,
}

/// How far an attempt is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Nothing is decided yet, and others are kept out.
    Prepare,
    /// It is being decided.
    Commit,
    /// It is decided; hosts go over.
    Verify,
    /// What was begun with the old colour ends.
    Drain,
}

/// How it ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Switched.
    Switched {
        /// Number of the switch.
        revision: u64,
        /// What was live, in words.
        from: String,
        /// What is.
        to: String,
        /// How it went.
        figures: Figures,
    },
    /// There was nothing to do, or it was only looked at: what there is to say.
    Nothing(String),
    /// A condition does not hold: the mirror key is at another index. Nothing has changed.
    OtherIndex,
    /// Not switched.
    Refused(Refusal),
}

/// The answer to a question after an attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgressReport {
    /// Lines behind those that the asker has.
    pub lines: Vec<Progress>,
    /// When it has ended.
    pub outcome: Option<Outcome>,
}

impl What {
    /// True for what nobody has ordered: the upkeep judges it from one record, and anew when that is another one.
    pub(super) fn is_upkeep(&self) -> bool {
        matches!(self, Self::Step | Self::Rescue(_))
    }
}

impl Order {
    /// With the usual settings.
    pub fn new(service: &str, what: What, by: &str, source: &str) -> Self {
        Self {
            service: service.into(),
            what,
            min_healthy: 1,
            drain: None,
            timeout_ms: 10_000,
            care: Care::Careful,
            key: None,
            colours: None,
            watch: None,
            at_index: None,
            by: by.into(),
            source: source.into(),
        }
    }

    /// The reason why it makes no sense, whatever the state of things.
    pub fn problem(&self) -> Option<String> {
        let colour = match &self.what {
            What::To(colour) | What::Canary(colour, _) => Some(colour),
            _ => None,
        };
        let is_name = |name: &str| {
            !name.is_empty()
                && name.len() <= MAX_NAME_BYTES
                && !name.chars().any(|c| c.is_control() || c.is_whitespace())
        };
        if !is_name(&self.service) {
            return Some(format!("`{}` is no name of a service", self.service.escape_debug()));
        }
        if let Some(colour) = colour.filter(|colour| !is_name(colour)) {
            return Some(format!("`{}` is no name of a colour", colour.escape_debug()));
        }
        if u128::from(self.timeout_ms) > MAX_TIMEOUT.as_millis() || self.timeout_ms == 0 {
            return Some("a timeout is more than nothing and at most ten minutes".into());
        }
        if self.key.as_ref().is_some_and(|key| !is_mirror_key(key)) {
            return Some("a key that shows a live colour is not empty, not too long and not below weaved/".into());
        }
        match &self.what {
            What::Canary(_, plan) => plan.problem(),
            _ => None,
        }
    }
}

//! The truth about a service: one guarded register, `weaved/switch/SERVICE`, in JSON that people can read.
//!
//! A majority decides each change of it from the value before (`kv::guard`), so what it says is a chain: of two switches at
//! once one is decided and the other finds another value than it knew.
//!
//! INVARIANT: `revision` grows by one with each change of `live`, and the last entry of the history has that revision and
//! those shares.

use serde::{Deserialize, Serialize};
use weaved_api::{PeerId, balancer::ColourShare};

use super::{
    canary::Canary,
    limits::{MAX_HISTORY, MAX_SHARES, MAX_STEPS},
    rule::ColourRule,
    verdict::Watch,
};
use crate::kv::{Key, Value};

/// What everything of weaved's own begins with. Clients cannot write there.
pub const OWN_PREFIX: &str = "weaved/";
/// Where the records are.
pub const PREFIX: &str = "weaved/switch/";
/// Where the usual mirror keys are.
const MIRRORS: &str = "backend/";

/// Beyond it numbers of switches are garbage, which must not bring a service to the end of them.
const MAX_REVISION: u64 = 1 << 53;

/// What is decided about one service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Record {
    /// The key that shows the live colour.
    pub key: String,
    /// What a colour is.
    pub colours: ColourRule,
    /// Number of the latest switch; 0 before the first.
    pub revision: u64,
    /// What is live. Empty before the first switch: everything.
    pub live: Vec<ColourShare>,
    /// What was before.
    pub before: Vec<ColourShare>,
    /// When the latest switch was to take effect, in microseconds of Unix time by its coordinator's clock.
    pub at_us: u64,
    /// How connections of the old colour end.
    pub drain: DrainLimits,
    /// A switch that is under way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pending: Option<Pending>,
    /// A canary that is out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub canary: Option<Canary>,
    /// What leads back by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub watch: Option<Watch>,
    /// The latest switches, oldest first.
    pub history: Vec<HistoryEntry>,
}

/// How long what was begun with a colour that is not live any more may go on.
///
/// INVARIANT: no field is left out when it is written: this travels in messages, too, whose format has no names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrainLimits {
    /// Requests, in milliseconds.
    pub requests_ms: u64,
    /// Upgraded connections and TCP streams, in milliseconds; for ever without it.
    #[serde(default)]
    pub streams_ms: Option<u64>,
}

/// A switch that has been begun and not decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pending {
    /// Names it.
    pub attempt: u64,
    /// Who carries it out.
    pub coordinator: PeerId,
    /// The name of that host.
    pub host: String,
    /// Who wants it.
    pub by: String,
    /// By what.
    pub source: String,
    /// What is to be live.
    pub to: Vec<ColourShare>,
    /// When it began, in microseconds of Unix time by that host's clock.
    pub began_us: u64,
    /// How long it may take.
    pub patience_ms: u64,
}

/// One switch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryEntry {
    /// Its number.
    pub revision: u64,
    /// What was live.
    pub from: Vec<ColourShare>,
    /// What became live.
    pub to: Vec<ColourShare>,
    /// Who wanted it.
    pub by: String,
    /// By what.
    pub source: String,
    /// The host that carried it out.
    pub host: String,
    /// When, in microseconds of Unix time by that host's clock.
    pub at_us: u64,
    /// Why, if it was not simply wanted.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// The attempt that it was.
    pub attempt: u64,
    /// How it went.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub figures: Option<Figures>,
}

/// How a switch went.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Figures {
    /// Hosts whose balancer went over.
    pub hosts: u32,
    /// Between the first and the last of them, in microseconds.
    pub spread_us: u64,
    /// From the order until all had gone over, in microseconds.
    pub duration_us: u64,
    /// Hosts that did not say in time that they have.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<String>,
}

impl Default for DrainLimits {
    fn default() -> Self {
        Self { requests_ms: 30_000, streams_ms: None }
    }
}

impl Record {
    /// As it is before anything was decided about a service.
    pub fn new(service: &str) -> Self {
        Self { key: mirror_key(service), ..Self::default() }
    }

    /// From what the register holds; None for what this program cannot have written.
    pub fn from_value(value: &Value) -> Option<Self> {
        let record: Self = serde_json::from_slice(value.as_bytes()).ok()?;
        record.is_valid().then_some(record)
    }

    fn is_valid(&self) -> bool {
        is_mirror_key(&self.key)
            && self.revision < MAX_REVISION
            && self.live.len() <= MAX_SHARES
            && self.before.len() <= MAX_SHARES
            && self.canary.as_ref().is_none_or(|canary| canary.place < canary.steps.len().min(MAX_STEPS))
    }

    /// For the register: indented, because people read it too.
    pub fn to_value(&self) -> Value {
        Value::new(&serde_json::to_vec_pretty(self).expect("a record has only text for keys"))
    }

    /// The colour that gets most; the first of several. What the mirror key shows.
    pub fn current(&self) -> Option<&str> {
        main_colour(&self.live)
    }

    /// Goes over to other shares.
    pub fn commit(&mut self, to: Vec<ColourShare>, entry: HistoryEntry) {
        let from = std::mem::replace(&mut self.live, to);
        self.revision += 1;
        self.at_us = entry.at_us;
        self.before.clone_from(&from);
        self.history.push(HistoryEntry { revision: self.revision, from, to: self.live.clone(), ..entry });
        let surplus = self.history.len().saturating_sub(MAX_HISTORY);
        self.history.drain(..surplus);
        self.pending = None;
    }

    /// The colour that had everything before the present one did: where `rollback` leads.
    pub fn colour_before(&self) -> Option<&str> {
        if let Some(canary) = &self.canary {
            return Some(&canary.from);
        }
        let current = self.current()?;
        let states = self.history.iter().rev().map(|entry| &entry.from);
        states.filter_map(|shares| only_colour(shares)).find(|colour| *colour != current)
    }

    /// The entry of an attempt.
    pub fn entry_of(&self, attempt: u64) -> Option<&HistoryEntry> {
        self.history.iter().rev().find(|entry| entry.attempt == attempt)
    }
}

/// The key of the register of a service.
pub fn record_key(service: &str) -> String {
    format!("{PREFIX}{service}")
}

/// The usual mirror key of a service.
pub(super) fn mirror_key(service: &str) -> String {
    format!("{MIRRORS}{service}")
}

/// Whether a key may show a live colour: one that clients can write, and no record.
pub(crate) fn is_mirror_key(key: &str) -> bool {
    Key::new(key).is_ok() && !key.starts_with(OWN_PREFIX)
}

/// The service of a usual mirror key.
pub(super) fn service_of_mirror(key: &str) -> Option<&str> {
    key.strip_prefix(MIRRORS).filter(|service| !service.is_empty())
}

/// All for one colour.
pub(super) fn only(colour: &str) -> Vec<ColourShare> {
    vec![ColourShare { colour: colour.to_owned(), weight: 100 }]
}

/// The colour that gets most; the first of several.
pub(super) fn main_colour(shares: &[ColourShare]) -> Option<&str> {
    let most = shares.iter().map(|share| share.weight).max()?;
    shares.iter().find(|share| share.weight == most).map(|share| share.colour.as_str())
}

/// The colour that gets everything.
pub(super) fn only_colour(shares: &[ColourShare]) -> Option<&str> {
    let mut served = shares.iter().filter(|share| share.weight > 0);
    let first = served.next()?;
    served.next().is_none().then_some(first.colour.as_str())
}

/// Shares in words.
pub fn describe(shares: &[ColourShare]) -> String {
    match (only_colour(shares), shares) {
        (_, []) => "all colours".into(),
        (Some(colour), _) => colour.to_owned(),
        _ => {
            let total = shares.iter().map(|share| u64::from(share.weight)).sum::<u64>().max(1);
            let percent = |share: &ColourShare| u64::from(share.weight) * 100 / total;
            let shares = shares.iter().map(|share| format!("{} {} %", share.colour, percent(share)));
            shares.collect::<Vec<_>>().join(", ")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(attempt: u64) -> HistoryEntry {
        HistoryEntry {
            revision: 0,
            from: vec![],
            to: vec![],
            by: "root".into(),
            source: "weaved switch".into(),
            host: "alpha".into(),
            at_us: 5,
            reason: String::new(),
            attempt,
            figures: None,
        }
    }

    fn switched(colours: &[&str]) -> Record {
        let mut record = Record::new("web");
        for (attempt, colour) in colours.iter().enumerate() {
            record.commit(only(colour), entry(attempt as u64));
        }
        record
    }

    #[test]
    fn a_record_is_read_as_it_was_written_and_people_can_read_it_too() {
        let record = switched(&["blue", "green"]);
        let value = record.to_value();
        assert_eq!(Record::from_value(&value), Some(record));
        let text = String::from_utf8(value.as_bytes().to_vec()).unwrap();
        assert!(text.contains("\"key\": \"backend/web\"") && text.contains("\"colours\": \"tag\""), "{text}");
        assert_eq!(Record::from_value(&Value::new(b"green")), None);
    }

    /// The others of the cluster write it, and every host keeps it: one that ended control would do so after each start.
    #[test]
    fn what_nobody_can_have_decided_is_no_record() {
        let good = switched(&["blue"]);
        let canary = |place| Canary {
            from: "blue".into(),
            to: "green".into(),
            steps: vec![10, 50],
            place,
            step_ms: 1000,
            paused: false,
            held: None,
        };
        let read = |record: &Record| Record::from_value(&record.to_value());
        assert!(read(&Record { canary: Some(canary(1)), ..good.clone() }).is_some());
        for place in [2, usize::MAX] {
            assert_eq!(read(&Record { canary: Some(canary(place)), ..good.clone() }), None);
        }
        for key in ["", "a\0b", "weaved/switch/web", &"k".repeat(5000)] {
            assert_eq!(read(&Record { key: key.into(), ..good.clone() }), None, "{key:?}");
        }
        assert_eq!(read(&Record { revision: u64::MAX, ..good }), None);
    }

    #[test]
    fn each_switch_begins_where_the_one_before_ended_and_the_oldest_are_forgotten() {
        let colours: Vec<_> = (0..MAX_HISTORY + 20).map(|n| if n % 2 == 0 { "blue" } else { "green" }).collect();
        let record = switched(&colours);
        assert_eq!((record.history.len(), record.revision), (MAX_HISTORY, MAX_HISTORY as u64 + 20));
        for pair in record.history.windows(2) {
            assert_eq!((&pair[1].from, pair[1].revision), (&pair[0].to, pair[0].revision + 1));
        }
    }

    #[test]
    fn the_colour_before_is_the_last_one_that_had_everything() {
        assert_eq!(switched(&["blue"]).colour_before(), None);
        assert_eq!(switched(&["blue", "green"]).colour_before(), Some("blue"));
        assert_eq!(switched(&["blue", "green", "blue"]).colour_before(), Some("green"));
        let mut record = switched(&["blue"]);
        let half = |colour: &str| ColourShare { colour: colour.into(), weight: 50 };
        record.commit(vec![half("blue"), half("green")], entry(7));
        assert_eq!((record.current(), record.colour_before()), (Some("blue"), None));
        record.commit(only("green"), entry(8));
        assert_eq!(record.colour_before(), Some("blue"));
    }

    #[test]
    fn shares_read_well() {
        let share = |colour: &str, weight| ColourShare { colour: colour.into(), weight };
        assert_eq!(describe(&only("blue")), "blue");
        assert_eq!(describe(&[]), "all colours");
        assert_eq!(describe(&[share("blue", 90), share("green", 10)]), "blue 90 %, green 10 %");
        assert_eq!(describe(&[share("blue", u32::MAX), share("green", u32::MAX)]), "blue 50 %, green 50 %");
    }
}

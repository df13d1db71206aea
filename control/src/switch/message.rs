//! What nodes tell each other about switches. All may be lost, repeated or reordered.
//!
//! INVARIANT: every message is short: a decision must reach all hosts in one datagram each.

use serde::{Deserialize, Serialize};
use weaved_api::{PeerId, balancer::ColourShare};

use super::{
    record::{DrainLimits, Record},
    rule::ColourRule,
    verdict::Counts,
};
use crate::{
    hlc::Hlc,
    kv::{Entry, Lineage},
};

/// One message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SwitchMessage {
    /// Make this colour ready, and say how it stands. From the coordinator to all.
    Prepare {
        /// Names the attempt.
        attempt: u64,
        /// Of which service.
        service: String,
        /// What is to be made ready.
        colour: String,
        /// What a colour of it will be.
        colours: ColourRule,
        /// The attempt ends by itself after so many milliseconds.
        patience_ms: u64,
    },
    /// The answer to it, again whenever it changes.
    Prepared {
        /// Of which attempt.
        attempt: u64,
        /// How it stands.
        state: Readiness,
    },
    /// It is not switched. From the coordinator to all.
    Cancel {
        /// Names the attempt.
        attempt: u64,
        /// Of which service.
        service: String,
    },
    /// It is decided. From the coordinator to all.
    Commit {
        /// By which attempt.
        attempt: u64,
        /// What is decided.
        core: Core,
        /// When it takes effect, in microseconds from now: no clock is in it.
        in_us: u64,
    },
    /// The answer to it, again when it has taken effect.
    Told {
        /// Of which attempt.
        attempt: u64,
        /// How it stands.
        state: Flip,
    },
    /// What the sender knows to be decided. To a peer with whom a session comes up, which may not have noticed, and
    /// answers with its own.
    Cores {
        /// Some of it.
        cores: Vec<Core>,
        /// True in the last of them.
        is_last: bool,
        /// True if they answer the receiver's own.
        is_answer: bool,
    },
    /// What the sender's balancer has counted. To the node that watches.
    Counted {
        /// Of which service.
        service: String,
        /// Since which switch.
        revision: u64,
        /// The colour that is watched, since then.
        new: Counts,
        /// The colour that it is compared with.
        old: Counts,
    },
}

/// What is decided about a service, as far as balancers care.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Core {
    /// Which service.
    pub service: String,
    /// Which decision this is.
    pub stamp: Stamp,
    /// [`Record::revision`].
    pub revision: u64,
    /// [`Record::live`].
    pub live: Vec<ColourShare>,
    /// [`Record::before`].
    pub before: Vec<ColourShare>,
    /// [`Record::at_us`].
    pub at_us: u64,
    /// [`Record::drain`].
    pub drain: DrainLimits,
    /// [`Record::colours`].
    pub colours: ColourRule,
}

/// Orders decisions about one register, as [`Entry::precedence`] does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    /// Which electorate decided.
    pub lineage: Option<Lineage>,
    /// When.
    pub modified: Hlc,
    /// Who proposed it.
    pub writer: PeerId,
}

/// How a host stands with a preparation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Readiness {
    /// Its balancer has nothing to do with the service.
    NotMine,
    /// Its gateway does not answer.
    Away(String),
    /// Not all instances were tried yet.
    Busy,
    /// All were.
    Ready {
        /// Instances that take traffic.
        healthy: u32,
        /// Of them, those to which a connection was made.
        warm: u32,
    },
}

/// How a host stands with a decision. It has heard it, at least.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Flip {
    /// Its balancer has nothing to do with the service.
    NotMine,
    /// Not gone over yet.
    Waiting,
    /// Gone over.
    Done {
        /// So many microseconds later than it was to.
        late_us: i64,
        /// Requests of colours that are not live, in flight.
        in_flight: u64,
        /// The same of streams.
        streams: u64,
    },
}

impl Stamp {
    /// Of an entry.
    pub fn of(entry: &Entry) -> Self {
        Self { lineage: entry.guard, modified: entry.modified, writer: entry.writer }
    }

    /// The greater one stays.
    pub fn precedence(&self) -> (Option<std::cmp::Reverse<Lineage>>, Hlc, PeerId) {
        (self.lineage.map(std::cmp::Reverse), self.modified, self.writer)
    }
}

impl Core {
    /// Of a record.
    pub fn of(service: &str, record: &Record, stamp: Stamp) -> Self {
        Self {
            service: service.to_owned(),
            stamp,
            revision: record.revision,
            live: record.live.clone(),
            before: record.before.clone(),
            at_us: record.at_us,
            drain: record.drain,
            colours: record.colours.clone(),
        }
    }
}

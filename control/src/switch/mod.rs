//! Which version of a service is live, and how the whole cluster goes over to another one at once.
//!
//! A *colour* tells the instances of one service apart ([`ColourRule`]). What is live is decided by a majority in one register
//! for each service ([`Record`]); the host where a switch is ordered carries it out ([`Switches::begin`]): it reserves the
//! service, has every live balancer make the new colour ready, lets the majority decide, and tells all hosts when to go over.
//!
//! * [`Record`]: the truth, and its history.
//! * [`Order`], [`Outcome`], [`Refusal`]: what people want, and what becomes of it. `plan` is the guards.
//! * `attempt`: the coordinator; `member`: a host's part; `keeper`: upkeep, canaries, automatic rollback (`verdict`).
//! * [`Switches`]: ties them together, without I/O: facts in by `handle_*`, effects out by `poll_*`.

mod around;
mod attempt;
mod canary;
mod clock;
mod keeper;
pub mod limits;
mod machine;
mod member;
mod message;
mod order;
mod plan;
mod record;
mod refusal;
mod rule;
#[cfg(test)]
mod scenarios;
#[cfg(test)]
mod testing;
mod verdict;

pub use around::{Around, Effect, Shown, service_of_record};
pub use canary::{Canary, CanaryPlan};
pub use clock::{millis, utc};
pub use machine::Switches;
pub use message::{Core, Flip, Readiness, Stamp, SwitchMessage};
pub use order::{
    AttemptId, Care, DrainOrder, Order, Outcome, Phase, Progress, ProgressReport, StreamLimit, WatchOrder, What,
};
pub(crate) use record::is_mirror_key;
pub use record::{DrainLimits, Figures, HistoryEntry, OWN_PREFIX, PREFIX, Pending, Record, describe, record_key};
pub use refusal::Refusal;
pub use rule::{ColourRule, NotARule};
pub use verdict::{Counts, Limits, Watch};

/// What the operator's file of this host says of a service that its balancer serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceFacts {
    /// Its name in the catalogue.
    pub name: String,
    /// The key that shows the live colour; None for the usual one, `backend/NAME`.
    pub key: Option<String>,
    /// What a colour of it is; None for the usual rule, its tags.
    pub colour: Option<ColourRule>,
}

impl ServiceFacts {
    /// The key that shows the live colour.
    pub fn mirror_key(&self) -> String {
        self.key.clone().unwrap_or_else(|| record::mirror_key(&self.name))
    }
}

//! Keys and values of the cluster: a replica on each node, without I/O.
//!
//! Two classes of keys. *Plain* keys belong to the last writer by hybrid logical time: each node writes at once, also
//! alone, and replicas that have met again are equal. *Guarded* keys (those below the electorate's prefixes, those that a
//! session has locked, and sessions) are decided by a majority of the voters, so that of two compare-and-sets on one
//! index at most one succeeds; where no majority answers, a change is refused. Reads of both come from this node's
//! replica unless the client asks for more.
//!
//! * [`Key`], [`Entry`], [`Change`]: what there is and what may become of it.
//! * [`Store`]: the replica, its indexes and sums.
//! * [`Watchers`]: reads that wait.
//! * [`Step`]: several operations, done all or not at all.
//! * [`GuardedStore`], [`Consensus`]: how a majority decides.
//! * [`Kv`]: ties them together, facts in by `handle_*`, effects out by `poll_*`.

mod change;
#[cfg(test)]
mod checker;
mod entry;
mod forgetting;
mod guard;
mod keeper;
mod key;
pub mod limits;
mod machine;
mod message;
mod parts;
mod reach;
mod request;
mod rows;
#[cfg(test)]
mod scenarios;
mod session;
mod spread;
mod store;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod transaction;
mod watch;

pub use change::{Author, Change, Decision, Rule, decide};
pub use entry::{Entry, Lineage, Value};
pub use guard::{Consensus, Decided, Electorate, FoundAnewError, GuardedStore, OpId, World};
pub use key::Key;
pub use machine::{Kv, KvCounters, Members, RequestId};
pub use reach::{Contact, Reach};
pub use request::{
    Answer, KvConfig, KvError, Quota, Reply, Request, Row, Rows, SessionRow, Sessions, Topic, Wait, Watched,
};
pub use rows::{Batch, Damaged, StoredRows, Table};
pub use session::{
    Behaviour, DEFAULT_LOCK_DELAY_US, MAX_LOCK_DELAY_US, NotASessionId, Phase, Session, SessionId, SessionSpec, TTL_US,
};
pub use store::{Held, Merged, Store};
pub use transaction::{Expected, Step, Transacted};
pub use watch::Watchers;

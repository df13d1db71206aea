//! Bounds and times of switches, and what happens at each.

use std::time::Duration;

/// Entries of a service's history; the oldest goes.
pub const MAX_HISTORY: usize = 100;

/// Bytes of a colour's or a service's name. Longer ones are refused.
pub const MAX_NAME_BYTES: usize = 255;

/// Bytes of what is noted of who switched, from where, and why; cut.
pub const MAX_NOTE_BYTES: usize = 200;

/// Colours that are live at once.
pub const MAX_SHARES: usize = 4;

/// Steps of a canary; more are refused.
pub const MAX_STEPS: usize = 20;

/// Switches that one node carries out at once, those of which a verb may still ask the outcome included. A further one is
/// refused.
pub const MAX_ATTEMPTS: usize = 256;

/// Lines of progress of one attempt; further ones are left out.
pub const MAX_PROGRESS: usize = 4096;

/// Records of services that a node keeps. Further ones are not taken in: their balancers serve all colours.
pub const MAX_SERVICES: usize = 4096;

/// For how long the outcome of an attempt can be asked.
pub const OUTCOME_KEPT: Duration = Duration::from_mins(1);

/// What every node waits before it flips, from the decision on, at least: the time to tell all of it.
pub const MIN_LEAD: Duration = Duration::from_millis(150);

/// No node waits longer than this after it has heard of a decision, whatever its clock says.
pub const MAX_LEAD: Duration = Duration::from_secs(1);

/// What was not acknowledged is told again after this; of a decision, because each host that has not heard it is one that
/// serves the old colour.
pub const RETELL: Duration = Duration::from_millis(15);

/// The same for what is not urgent.
pub const REASK: Duration = Duration::from_millis(100);

/// From so many tellings on it is told as seldom as what is not urgent.
pub const URGENT_TELLINGS: u32 = 20;

/// How long hosts may take to say that they have flipped, beyond the lead.
pub const VERIFY_PATIENCE: Duration = Duration::from_secs(5);

/// The longest time that a switch may be prepared for.
pub const MAX_TIMEOUT: Duration = Duration::from_mins(10);

/// The longest that the coordinator watches connections of the old colour end. The balancers' own limits are another thing.
pub const MAX_DRAIN_WATCH: Duration = Duration::from_mins(10);

/// An attempt that is not ended so long after its time is over, as seen here, belongs to nobody any more.
pub const ORPHAN_GRACE: Duration = Duration::from_secs(3);

/// Interval of upkeep.
pub const UPKEEP: Duration = Duration::from_secs(1);

/// How often a decision is tried when it is pushed aside by others.
pub const MAX_TRIES: u32 = 8;

/// A node that has just started waits so long for somebody to tell what is live before it believes its own disk.
pub const CATCH_UP: Duration = Duration::from_secs(5);

/// Cores in one message.
pub const MAX_CORES: usize = 32;

const _: () = assert!(MAX_CORES * (3 * MAX_SHARES * (MAX_NAME_BYTES + 8)) < weaved_api::MAX_CONTROL_BYTES * 2);

//! Membership, per-node records and their spreading.
//!
//! Three mechanisms, each a state machine of its own:
//!
//! * [`Membership`] says who is alive (SWIM, by foca).
//! * [`Replica`] holds one [`Record`] per node, written by that node alone.
//! * [`Digest`] and delta compare and repair replicas and rings, pairwise.
//!
//! [`Message`] is what of them, of addresses and of the catalogue travels in control bytes.

mod delta;
mod digest;
pub mod limits;
mod membership;
mod message;
mod record;
mod replica;

pub use delta::{Delta, pack};
pub use digest::{Digest, IdRange, RingSummary};
pub use membership::{Incarnation, Liveness, Membership, MembershipEvent};
pub use message::{Garbage, Message};
pub use record::{Presence, Record, Version};
pub use replica::{Applied, Replica};

//! The fast path: frames to datagrams and back, by an immutable table.
//!
//! ```text
//!  TAP ─▶ Encapsulator: parse ▸ look up ▸ record ▸ train of that peer ▸ cut ▸ seal ─▶ UDP
//!  TAP ◀─ Decapsulator: validate ◂ records ◂ reassemble ◂ open ◂ find session ◂─────────────────── UDP
//!                            └────────────── punts ──────────────▶ router
//! ```
//!
//! INVARIANT: nothing here allocates (but the punt of a control record), locks, logs, reads a clock or draws a random
//! number. A frame is never an error: it is forwarded, delivered, flooded, punted or dropped with a reason.

mod bum;
mod decap;
mod drop_reason;
mod encap;
mod open_trains;
mod punt;
mod seal;
mod singles;
#[cfg(test)]
mod singles_tests;
mod stats;
mod table;

pub use decap::{Datagrams, Decapsulator, Delivery, Outcome};
pub use drop_reason::DropReason;
pub use encap::{Encapsulator, Outgoing};
pub use punt::{Punt, SHORT_LEN, Short, SlowRecord};
pub use seal::seal_train;
pub use stats::{PeerCounters, PeerTotals, Tally, WorkerStats, sum};
pub use table::{Confirmation, ForwardingTable, Frames, Inbound, MacEntry, Packing, PeerPath, PeerSlot, Port, Sends};

//! Bytes to types and back, and nothing else.
//!
//! INVARIANT: bytes from the network become types here and nowhere else; no function here panics on any input.

pub mod data;
pub mod ecn;
pub mod ethernet;
pub mod handshake;
pub mod header;
pub mod neighbour;
pub mod record;
pub mod relay;

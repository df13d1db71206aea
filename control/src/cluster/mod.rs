//! Membership, per-node records and their spreading.

pub mod limits;

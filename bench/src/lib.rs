//! Benchmarks of weaved.
//!
//! [`fixture`] is what the micro-benchmarks in `benches/` work on: the core's fast path with real sessions and no
//! kernel. Everything else belongs to the program `weaved-bench`: weaved against plain kernel VXLAN, both in one run.

pub mod compare;
pub mod fixture;
pub mod one_frame;

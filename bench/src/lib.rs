//! Benchmarks of weaved.
//!
//! [`fixture`] is what the micro-benchmarks in `benches/` work on: the core's fast path with real sessions and no
//! kernel. [`compare`] is the program `weaved-bench`: weaved against plain kernel VXLAN, both in one run. [`control`] is
//! `weaved-bench-control`: names and keys against etcd and dnsmasq.

pub mod compare;
pub mod control;
pub mod fixture;
pub mod one_frame;

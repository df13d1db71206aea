//! `weaved gateway`: what containers and users talk to. The DNS server and the balancer.
//!
//! ```text
//!   containers ──:53──▶┐                       ┌──▶ host's resolvers (everything that is not ours)
//!   dig, dnsmasq ─:8600▶│  dns ──▶ Zone ──▶ answer
//!                        └──────────▲
//!   control ──gateway.sock──▶ link ─┤ GatewayState, kept in the run directory
//!                        ┌──────────▼
//!   clients ──:80, …───▶ balancer (a thread for each processor) ──▶ instances on all hosts
//! ```
//!
//! A new executable takes over in mid-traffic ([`handover`]).
//!
//! INVARIANT: it answers from its last state while control is away, for ever, also after its own restart.

pub mod balancer;
mod daemon;
pub mod dns;
pub mod handover;
mod last_state;
mod limits;
mod link;
mod privileges;
mod stats;

pub use daemon::{BALANCER_COUNTERS, Config, Office, run};

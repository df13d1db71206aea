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
pub mod bounded_file;
mod daemon;
pub mod dns;
pub mod handover;
mod last_state;
mod limits;
mod link;
pub mod obstacle;
pub mod private_socket;
mod privileges;
pub mod share;
pub mod stats;

use std::path::Path;

use weaved_api::gateway::GatewayState;

pub use daemon::{BALANCER_COUNTERS, Config, Office, run};

/// What the gateway of this run directory was told last, if this program understands it.
pub fn last_state(run_dir: &Path) -> Option<GatewayState> {
    last_state::LastState::new(run_dir).load()
}

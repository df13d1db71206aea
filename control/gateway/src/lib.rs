//! `weaved gateway`: what containers and users talk to. Today the DNS server; the balancer comes beside it.
//!
//! ```text
//!   containers ──:53──▶┐                       ┌──▶ host's resolvers (everything that is not ours)
//!   dig, dnsmasq ─:8600▶│  dns ──▶ Zone ──▶ answer
//!                        └──────────▲
//!   control ──gateway.sock──▶ link ─┘ GatewayState, kept in the run directory
//! ```
//!
//! INVARIANT: it answers from its last state while control is away, for ever, also after its own restart.

mod daemon;
pub mod dns;
mod last_state;
mod limits;
mod link;
mod privileges;
mod stats;

pub use daemon::{Config, run};

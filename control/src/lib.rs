//! The control half of weaved: the operator's verbs, the supervisor of the processes, and the process `weaved control`
//! that decides what the data plane does.
//!
//! ```text
//!  weaved VERB ──control.sock──▶ weaved control ──dataplane.sock──▶ weaved dataplane
//!       │                             ▲                                   ▲
//!       │                             └──gateway.sock──▶ weaved gateway   │
//!       └─ launch ─▶ weaved supervise ────────── runs, restarts ──────────┘
//! ```
//!
//! The parts are processes of one executable. Each may end without touching the others; what they need to go on is in
//! the state directory ([`state`]) or comes from the next process over a Unix socket.

pub mod any_case;
pub mod balancer_file;
pub mod catalogue;
pub mod cli;
pub mod cluster;
pub mod consul;
pub mod daemon;
pub mod dataplane_client;
pub mod defaults;
pub mod demo;
pub mod docker;
pub mod failure;
pub mod firewall;
pub mod gateway_client;
pub mod go_duration;
pub mod health;
pub mod hlc;
pub mod host;
pub mod ipam;
pub mod kv;
pub mod launch;
pub mod lifecycle;
pub mod logging;
pub mod metrics;
pub mod node;
pub mod paths;
pub mod registration;
pub mod serve;
pub mod state;
pub mod supervisor;
pub mod switch;
pub mod targets;
pub mod template;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod zone;

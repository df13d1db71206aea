//! The lab: hosts made of network namespaces, with real dockerds and a real `weaved` each, on one machine.
//!
//! ```text
//!   guest / container          guest / container
//!        │ veth                     │
//!   ┌────▼───── host a ─────┐  ┌────▼───── host b ─────┐     each box is a network namespace
//!   │ bridge weave   dockerd│  │ bridge weave   dockerd│
//!   │ weaved            eth0│  │ weaved            eth0│     192.168.77.10, .11, … and fd77::10, ::11, …
//!   └───────────────────┬───┘  └───────────────────┬───┘
//!                       │      ┌──────── wire ─────▼───┐     optional: delay, loss, reorder, flips, MTU
//!   ┌───────────────────▼──────└───────────────────┬───┐
//!   │ switch (the underlay)                            │
//!   └──────────────────────────────────────────────────┘
//! ```
//!
//! A [`Lab`] owns all of it and leaves nothing behind, also when a test panics; what a killed run left is removed by
//! the next one. The lab itself reports by panicking: its callers are tests and benchmarks, for which a lab that does
//! not work is the end.
//!
//! INVARIANT: two labs at a time on a machine, or one that wants it for itself ([`Lab::open_alone`]), because all share its cores.
//! INVARIANT: only processes are killed that live in a namespace of the lab, name its directory, or descend from one
//! that does.

mod capture;
mod command;
mod dockerd;
mod guest;
mod host;
mod image;
mod lab;
mod lossy_events;
mod namespace;
mod packet_socket;
mod place;
mod requirements;
mod room;
mod sweep;
mod vxlan;
mod wait;
mod weaved;
mod wire;

pub mod cut;
pub mod ledger;
pub mod random;
pub mod shop;
pub mod traffic;

pub use capture::Capture;
pub use command::{Output, Process};
pub use dockerd::{Container, Dockerd};
pub use guest::Guest;
pub use host::{Host, Link, Wiring, start_dockers};
pub use lab::Lab;
pub use lossy_events::LossyEvents;
pub use packet_socket::PacketSocket;
pub use place::Place;
pub use requirements::{labtool_path, weaved_path};
pub use wait::{SOON, wait_for, wait_until};
pub use weaved::{Part, Weaved};
pub use wire::{Direction, Impairment, Wire, WireCounts};

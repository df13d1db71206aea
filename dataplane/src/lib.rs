//! The I/O shell of the weaved data plane: everything that touches the kernel.
//!
//! The core (`weaved_core`) decides; this package reads and writes TAP and UDP, makes devices, keeps the threads and
//! talks to control over a Unix socket.
//!
//! INVARIANT: `unsafe` is in `sys` only, one system call per function.

mod clients;
pub mod config;
pub mod netlink;
pub mod privileges;
pub mod reconcile;
pub mod server;
mod shutdown;
mod stats;
mod sys;
pub mod tap;
#[cfg(test)]
mod testing;
pub mod udp;

//! The I/O shell of the weaved data plane: everything that touches the kernel.
//!
//! The core (`weaved_core`) decides; this package reads and writes TAP and UDP, makes devices, keeps the threads and
//! talks to control over a Unix socket. [`run`] is the whole process; `daemon` has its picture.
//!
//! INVARIANT: `unsafe` is in `sys` only, one system call per function.

mod asm;
mod backlog;
mod ciphers;
mod clients;
pub mod config;
pub mod container_ends;
mod cores;
mod daemon;
pub mod feature;
mod frame_writer;
mod inputs;
mod kernel;
pub mod netlink;
mod patience;
mod pause;
pub mod privileges;
pub mod reconcile;
mod redirect;
pub mod server;
mod shutdown;
mod slow_path;
mod stats;
mod sys;
mod tables;
pub mod tap;
#[cfg(test)]
mod testing;
mod transitions;
pub mod udp;
mod worker;
mod workers;

pub use config::Config;
pub use daemon::run;

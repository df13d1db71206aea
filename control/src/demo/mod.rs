//! `weaved demo`: two hosts on this machine, one encrypted network, containers that talk, parts that die.
//!
//! ```text
//! weaved demo ──starts──▶ the same program as the player: hosts, weaved, dockerds, containers
//!      └── waits for its end, or for a signal; then takes away whatever is there
//! ```
//!
//! Hosts are network namespaces; containers are Docker's where Docker is there, else namespaces too. Everything else
//! is the product: the verbs are run as an operator runs them, with directories of their own. Each line that begins
//! with a host's name and `#` is a command as typed.
//!
//! INVARIANT: whatever happens to the player, also Ctrl-C, a panic or `kill -9`, what it made is taken away again;
//! nothing that was there before is touched. So nothing in here cleans up by itself but `remains.rs`.

mod dockerd;
mod engine;
mod guard;
mod namespace;
mod play;
mod remains;
mod stage;
mod tool;
mod traffic;

use std::path::PathBuf;

use crate::failure::Failure;

/// Names the directory of one demo. Every process of the demo inherits it, and is known by it.
const STAGE_VARIABLE: &str = "WEAVED_DEMO_STAGE";

/// Whether containers are to be Docker's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DockerWish {
    /// Where it is there and works.
    IfThere,
    /// Refused where it does not.
    Required,
    /// Also where it does.
    Unwanted,
}

/// Plays the whole piece, prints what it measures, and takes everything away again.
pub fn run(wish: DockerWish) -> Result<(), Failure> {
    match std::env::var_os(STAGE_VARIABLE) {
        Some(directory) => play::play(&PathBuf::from(directory), wish),
        None => guard::run(),
    }
}

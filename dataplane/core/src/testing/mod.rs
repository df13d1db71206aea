//! A network of routers in virtual time: what the tests of this and other packages drive the core with.
//!
//! Everything is made from a seed; the same seed and the same calls give the same result, byte for byte. The seed can
//! be set with `WEAVED_SEED` by the tests that use [`seeds`], which prints it.

pub mod allocations;
pub mod conditions;
pub mod container;
pub mod frames;
pub mod fuzz;
pub mod network;
pub mod node;
pub mod reference;
#[cfg(test)]
mod superframe_tests;
pub mod wiretap;
pub mod world;

pub use conditions::Conditions;
pub use container::{Container, ProgramId};
pub use network::Network;
pub use node::Node;
pub use reference::{Reach, Reference};
pub use wiretap::Wiretap;
pub use world::{Place, World};

/// The seeds to run a property with: `count` fixed ones, or the one in `WEAVED_SEED`. Each is printed when its turn
/// comes, so that the last one printed is the one that failed.
#[expect(clippy::disallowed_methods, reason = "a seed to be replayed comes from the environment of the test")]
pub fn seeds(count: u64) -> impl Iterator<Item = u64> {
    let given: Option<u64> = std::env::var("WEAVED_SEED").ok().and_then(|seed| seed.parse().ok());
    let seeds = given.map_or(0..count, |seed| seed..seed + 1);
    seeds.inspect(|seed| println!("WEAVED_SEED={seed}"))
}

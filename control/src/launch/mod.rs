//! What `weaved launch` does: looks at everything first ([`plan`]), then writes the state and starts ([`start`]).
//!
//! INVARIANT: a launch that is refused has changed nothing. A first launch that fails later is undone.

pub mod plan;
pub mod start;

pub use plan::{Ask, Freshness, Plan, SecretSource};

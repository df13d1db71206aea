//! The weaved data plane without I/O.
//!
//! Time, bytes and randomness are arguments: `handle_*` takes them in, `poll_*` hands effects out. [`wire`] turns
//! bytes into types; the fast path (`forward`) works on immutable tables that the slow path (`router`) makes.
//!
//! INVARIANT: no file descriptor, clock, thread, environment or unseeded randomness; `clippy.toml` and `Cargo.toml`
//! are where this is enforced.

pub mod fib;
pub mod forward;
pub mod limits;
pub mod mtu;
pub mod noise;
pub mod offload;
pub mod peer;
pub mod rng;
pub mod router;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod train;
pub mod wire;

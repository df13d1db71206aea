//! The DNS server.
//!
//! A question comes in at a [`listen`]er as bytes; [`respond`] makes a message of it and decides; [`zone`] knows our names and
//! [`answer`] makes records of them; what is not ours goes to [`forward`], which asks the resolvers of the host.
//!
//! INVARIANT: everything up to the decision is pure, so that tests and the fuzzer run it without sockets.

mod answer;
mod cache;
mod explain;
pub(crate) mod forward;
pub(crate) mod listen;
mod names;
mod resolv_conf;
pub(crate) mod respond;
mod tcp;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod upstream;
mod zone;

pub(crate) use explain::{explain, no_names};
pub(crate) use zone::Zone;

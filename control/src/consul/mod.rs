//! Consul's HTTP API, as far as its clients in the field use it, over this cluster's own catalogue and key-value store.
//!
//! ```text
//!  client ──HTTP──▶ server ──Ask──▶ routes ──▶ catalogue (View)   answered here, from a snapshot
//!                                     ├──────▶ agent, keys        asked of the daemon's loop
//!                                     └──────▶ blocking           waits until the index moves
//! ```
//!
//! What each client sends is written down in `docs/consul.md`. Where Consul itself has changed its mind over the years, the
//! answer is one that all of them accept.

pub mod agent;
pub mod answer;
pub mod blocking;
pub mod catalog;
pub mod convert;
pub mod counters;
pub mod json;
pub mod kv;
pub mod listen;
pub mod methods;
mod patient;
pub mod query;
pub mod request;
pub mod room;
pub mod routes;
pub mod server;
pub mod session;
pub mod shapes;
pub mod txn;

#[cfg(test)]
mod tests;

use hyper::{Method, StatusCode};

use self::{answer::Answer, methods::Methods};

/// The path is there, but not for this method.
fn not_allowed(method: &Method, methods: Methods) -> Answer {
    Answer::refused(StatusCode::METHOD_NOT_ALLOWED, format!("method {method} not allowed")).allowing(methods)
}

/// Consul has it and we have not.
fn not_here(what_instead: &str) -> Answer {
    Answer::refused(StatusCode::NOT_IMPLEMENTED, what_instead).because("not-implemented")
}

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

pub mod answer;
pub mod json;
pub mod query;
pub mod request;
pub mod server;
pub mod shapes;

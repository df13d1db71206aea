//! Who registers what: containers by what they say about themselves, clients and files by what they ask for.
//!
//! ```text
//!  Docker ──facts──▶ rules ─┐
//!  files ──definitions──────┼─▶ Book ──▶ instances of this node, complete, each time something changes
//!  verbs, HTTP ──agent──────┘    ▲
//!                                └─ results of checks (crate::health)
//! ```
//!
//! The rules are registrator's, frozen by tests; `docs/services.md` tells them to users. [`rules`], [`metadata`],
//! [`names`], [`definition`] and [`book`] do no I/O; [`agent`] is the door for clients.

pub mod agent;
pub mod book;
pub mod consul_json;
mod container_checks;
pub mod definition;
pub mod facts;
pub mod files;
pub mod limits;
pub mod metadata;
pub mod names;
pub mod registrar;
pub mod rules;

pub use definition::{Definition, Note, Unusable};

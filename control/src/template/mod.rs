//! `weaved template`: files rendered from catalogue and keys, as a client of the Consul-compatible HTTP API.
//!
//! ```text
//!  watch (one task for each dependency) ──facts──▶ runner ──render──▶ candidate ──check──▶ rename ──▶ reload
//!    ▲ index rules, back-off                         │ quiet time of each template
//!    └────────── what the templates asked for ◀──────┘
//! ```
//!
//! A template names what it needs by calling functions. What is not known yet is asked for, and the file is written when
//! all of it is there.
//!
//! INVARIANT: the destination is replaced by a rename of a checked candidate, or not touched: no error of a template, of the
//! API or of a command leaves a half or an empty file.

pub mod api;
pub mod command;
pub mod config;
pub mod dependency;
pub mod fact;
pub mod functions;
pub mod job;
pub mod limits;
pub mod owed;
pub mod quiet;
pub mod render;
pub mod runner;
pub mod watch;

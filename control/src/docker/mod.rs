//! Docker on this host: what it must be told ([`config`], [`systemd`]), and what it runs ([`watch`]).
//!
//! INVARIANT: Docker never waits for us. Everything about containers is looked at from outside, again and again.

pub mod config;
pub mod install;
pub mod systemd;
pub mod watch;

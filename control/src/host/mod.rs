//! What this machine says about itself: processes, routes, rights, free ports.

pub mod interfaces;
pub mod open_files;
pub mod preflight;
pub mod process;
pub mod routes;

//! What this machine says about itself: processes, routes, rights, free ports; and how a file of its operator is replaced or removed.

pub mod interfaces;
pub mod open_files;
pub mod preflight;
pub mod process;
pub mod replace;
pub mod routes;

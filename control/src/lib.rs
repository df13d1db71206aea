//! The control half of weaved: the cluster's state machines, Docker, the command line.

pub mod cluster;
pub mod ipam;
pub mod node;

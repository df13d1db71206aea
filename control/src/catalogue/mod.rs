//! What runs where: services, their instances and their health.
//!
//! An [`Instance`] is one service at one address and port on one node. Its node alone writes it, and it lives no longer than
//! its node: the state of an instance as others see it is its own health *and* the liveness of its node.

mod instance;
pub mod limits;

pub use instance::{Check, CheckId, Drain, Health, Instance, InstanceId, Source};

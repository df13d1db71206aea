//! What runs where: services, their instances and their health.
//!
//! An [`Instance`] is one service at one address and port on one node. Its node alone writes it, and it lives no longer than
//! its node: the state of an instance as others see it is its own health *and* the liveness of its node.
//!
//! * [`Catalogue`] holds a log of instances per node and keeps the copies of the others' in step.
//! * [`CatalogueMessage`] is what of it travels.
//! * [`Indexer`] makes of the logs and of what is known of the nodes a [`View`], which is what everybody reads.

mod indexer;
mod instance;
pub mod limits;
mod log;
mod replica;
#[cfg(test)]
mod scenarios;
mod view;
mod weights;
mod wire;

pub use indexer::Indexer;
pub use instance::{Check, CheckId, Drain, Health, Instance, InstanceId, Source};
pub use replica::{Catalogue, Comparison, News, Taken};
pub use view::{Index, InstanceView, NodeFacts, NodeView, Readiness, ServiceView, Standing, View};
pub use weights::{WEIGHTS_KEY, Weights};
pub use wire::{CatalogueMessage, Entry, Fact, Head, LogDelta, Rest};

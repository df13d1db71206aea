//! Trains: a run of records, cut into equal chunks that are sealed one by one, and put together again.
//!
//! [`cut`] is the sender's half. [`assembly`] collects authenticated chunks, `salvage` makes frames of what has
//! arrived, also when it is not everything.

pub mod assembly;
pub mod cut;
mod lanes;
mod salvage;
mod shelf;

#[cfg(test)]
mod tests;

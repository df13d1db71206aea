//! Trains: a run of records, cut into equal chunks that are sealed one by one, and put together again.
//!
//! [`cut`] is the sender's half. [`assembly`] collects authenticated chunks: `chunk` says where one belongs, `buffer` holds
//! one train, `shelf` those of one chunk, `lanes` what is known of the way, and `salvage` makes frames of what has
//! arrived, also when it is not everything. [`outcome`] is what comes out of all that.

pub mod assembly;
mod buffer;
mod chunk;
pub mod cut;
mod lanes;
pub mod outcome;
mod salvage;
mod shelf;

#[cfg(test)]
mod tests;

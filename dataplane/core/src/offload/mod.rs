//! What the kernel leaves to the device: unfinished checksums and unsegmented super-frames.
//!
//! A super-frame travels whole, so that work is done by whoever needs it done: normally nobody. [`translate`] turns
//! the virtio header of a TAP read into a kind of record and back, [`superframe`] decides what may be believed,
//! [`carve`] makes smaller frames of a larger one, [`software`] does all that a TAP without offload leaves undone,
//! [`checksum`] adds up.
//!
//! INVARIANT: nothing here allocates, and no function panics on any frame.

pub mod carve;
pub mod checksum;
pub mod software;
pub mod superframe;
pub mod translate;
pub mod vnet_hdr;

#[cfg(test)]
mod kernel_vectors;
#[cfg(test)]
pub(crate) mod reference;
#[cfg(test)]
mod tests;

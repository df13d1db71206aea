//! Address management: which node owns which slice of the overlay's range.

mod overlay;

pub use overlay::{MAX_SLICES, Overlay, SliceIndex};

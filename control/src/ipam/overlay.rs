//! The overlay's address range and the slices that it is divided into.
//!
//! A slice is named by its index: slice 0 begins at the first address of the range.
//!
//! INVARIANT: `0 < slice_count() <= MAX_SLICES`; every [`SliceIndex`] given to a method here is below it.

use std::{fmt, net::Ipv4Addr};

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

/// The most slices that a range may have: bounds the ring and every loop over it.
pub const MAX_SLICES: u32 = 65_536;

/// The address plan of a cluster. All its nodes have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overlay {
    range: Ipv4Net,
    slice_prefix: u8,
}

/// Number of a slice within the range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SliceIndex(pub u32);

impl Overlay {
    /// None when the range has no slice of that length, or more than [`MAX_SLICES`].
    pub fn new(range: Ipv4Net, slice_prefix: u8) -> Option<Self> {
        let bits = slice_prefix.checked_sub(range.prefix_len())?;
        let valid = slice_prefix <= 30 && 1u64 << bits <= u64::from(MAX_SLICES);
        valid.then(|| Self { range: range.trunc(), slice_prefix })
    }

    /// False for settings out of a message or a file that [`Self::new`] would not make.
    pub fn is_valid(&self) -> bool {
        Self::new(self.range, self.slice_prefix).is_some_and(|made| made == *self)
    }

    /// The whole range.
    pub fn range(&self) -> Ipv4Net {
        self.range
    }

    /// How many slices there are.
    pub fn slice_count(&self) -> u32 {
        1 << (self.slice_prefix - self.range.prefix_len())
    }

    /// The addresses of one slice.
    pub fn slice(&self, index: SliceIndex) -> Ipv4Net {
        assert!(index.0 < self.slice_count(), "INVARIANT: a slice index is within the range");
        let first = u32::from(self.range.network()) + (index.0 << (32 - self.slice_prefix));
        Ipv4Net::new(Ipv4Addr::from(first), self.slice_prefix).expect("the prefix was checked in `new`")
    }

    /// The address of a slice's bridge: its first host address, with the prefix length of the whole range so that
    /// all containers of the cluster are on-link.
    pub fn gateway(&self, index: SliceIndex) -> Ipv4Net {
        let first = u32::from(self.slice(index).network()) + 1;
        Ipv4Net::new(Ipv4Addr::from(first), self.range.prefix_len()).expect("the prefix was checked in `new`")
    }
}

impl fmt::Display for Overlay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in slices of /{}", self.range, self.slice_prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn overlay() -> Overlay {
        Overlay::new("10.32.0.0/12".parse().unwrap(), 24).unwrap()
    }

    #[test]
    fn slices_follow_each_other_through_the_range() {
        assert_eq!(overlay().slice(SliceIndex(0)).to_string(), "10.32.0.0/24");
        assert_eq!(overlay().slice(SliceIndex(4095)).to_string(), "10.47.255.0/24");
    }

    #[test]
    fn gateway_is_the_first_host_address_with_the_prefix_of_the_range() {
        assert_eq!(overlay().gateway(SliceIndex(5)).to_string(), "10.32.5.1/12");
    }

    #[test]
    fn a_range_of_one_slice_is_a_range() {
        let one = Overlay::new("10.0.0.0/24".parse().unwrap(), 24).unwrap();
        assert_eq!(one.slice_count(), 1);
    }
}

//! What nodes say to each other about addresses.

use serde::{Deserialize, Serialize};

use super::{RingPart, RingSeed, SliceIndex};

/// One message about addresses. All may be lost, repeated or reordered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum IpamMessage {
    /// What the sender knows of a ring. Also the answer to a granted [`Self::Request`] or [`Self::Claim`].
    Part(RingPart),
    /// "Give me some slices of this ring."
    Request {
        /// The ring that the sender is in.
        seed: RingSeed,
    },
    /// "I use this slice and am about to change over to your ring: give me exactly it."
    Claim {
        /// The ring that the sender wants to change over to.
        seed: RingSeed,
        /// The slice.
        slice: SliceIndex,
    },
    /// A request or a claim cannot be granted.
    Refused {
        /// The ring that was asked about.
        seed: RingSeed,
        /// The slice that was claimed; None for a request.
        slice: Option<SliceIndex>,
        /// Why.
        refusal: Refusal,
    },
    /// "All that I owned is yours; I am gone." Repeated until it is answered.
    Handover {
        /// The ring that the sender was in.
        seed: RingSeed,
    },
    /// "I know; go in peace."
    HandoverSeen,
    /// "You use this slice, and Docker uses it here: if yours does not, take another one and give me this one." Answered
    /// like [`Self::Claim`].
    Plea {
        /// The ring that the sender wants to change over to.
        seed: RingSeed,
        /// The slice.
        slice: SliceIndex,
    },
}

/// Why a slice is not granted. Nothing has been changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refusal {
    /// The owner uses the slice itself.
    InUse,
    /// The owner has nothing to spare.
    NothingFree,
    /// The owner is in another ring, or on its way to one.
    OtherRing,
}

//! Address management: which node owns which slice of the overlay's range, and which one it uses.
//!
//! # Owning and using
//!
//! A node *owns* many slices of the [`Ring`] and *uses* one of them, its own, for Docker. What it owns but does not use
//! it gives away on request: half of its largest free run, so that those who come later find several donors. A slice
//! that Docker uses is never given away, so it never changes. `ring.rs` has the proof that no slice has two owners in
//! one ring.
//!
//! # Where a ring comes from
//!
//! A [founder](crate::node::Start::Founder) makes a ring that it owns wholly, named by its [`RingSeed`], and takes a
//! slice at a place that its identity gives, so that two founders seldom take the same one. A joiner takes over the
//! ring of the first member that it hears and asks an owner of free slices for some of them. The donor stores the
//! change before it answers, and answers a repeated request with what it gave before. Nothing is decided by a vote.
//!
//! # When two rings meet
//!
//! Two founders that are started with one password make two rings. Within each, slices are unique; between them they
//! are not. The older seed wins; a node only ever moves to an older ring, so it moves finitely often and never returns
//! to a ring in which others may have forgotten what it promised. Each node of the newer ring decides for itself:
//!
//! 1. It has no slice: it changes over at once and asks for one in the older ring. What it owned in the newer ring
//!    stays its own there, for ever, and so is used by nobody.
//! 2. Its slice is not in use in the older ring: it *claims* exactly that slice from the slice's owner there, and goes on
//!    using it meanwhile. The owner gives it like any other and the node changes over. Its containers notice nothing.
//! 3. Its slice is in use in the older ring, and Docker has not used it here: it *gives way*: drops the slice, changes
//!    over and asks for another one. Also when the owner of the slice does not answer a claim for a while.
//! 4. Its slice is in use there and Docker uses it here: it *refuses*. It keeps its slice, says whose it is as well and
//!    what to do, and is quarantined: no frames are exchanged with it. When the obstacle goes away it takes way 2 or 3.
//!    Meanwhile it *pleads* with the other one, which, if Docker does not use the slice there and it owns another,
//!    takes that and gives this one like any other: so of two hosts the one without Docker moves, whichever it is.
//!
//! Until it has changed over such a node gives nothing of the newer ring away, so a merge shrinks and does not grow.
//! Between the moment when both rings are founded and the moment when their members meet, nobody can know of the
//! collision; from the meeting on it is seen by both sides in the records of the other, and the older seed's holder keeps
//! the slice on both sides.
//!
//! What a dead member owned stays its own: nobody can tell death from a partition. `leave` hands it over.
//! So a used slice whose owner in the older ring is gone for good cannot be claimed: its user stays in its own ring, keeps
//! working with everybody, and says whom it waits for.

mod allocator;
mod message;
mod overlay;
mod part;
mod ring;
mod rival;
#[cfg(test)]
mod scenarios;

pub use allocator::{Allocator, Effect, IpamEvent, Neighbour, Neighbours, Settled, StoredIpam};
pub use message::{IpamMessage, Refusal};
pub use overlay::{MAX_SLICES, Overlay, SliceIndex};
pub use part::RingPart;
pub use ring::{Merged, Ring, RingSeed, SEGMENTS, Token};

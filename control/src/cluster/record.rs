//! What one node says about itself.
//!
//! Only the owner writes its record, and each change raises the version; so of two copies the one with the higher
//! version is the newer one, whatever way they came.
//!
//! INVARIANT: a record in a replica is within `limits.rs`, and names no slice outside its own address plan.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use weaved_api::{MAX_CONTROL_BYTES, PeerId};

use super::limits::{
    MAX_CONTAINER_ID_BYTES, MAX_CONTAINER_IPS, MAX_CONTAINERS, MAX_ENDPOINTS, MAX_NAME_BYTES, MAX_OBSERVED,
};
use crate::{
    ipam::{Overlay, RingSeed, SliceIndex},
    node::Container,
    zone::MAX_ZONE_BYTES,
};

/// The longest encoding of a record: it travels in one message, with room for what is around it.
pub(super) const MAX_RECORD_BYTES: usize = MAX_CONTROL_BYTES - 128;

/// Number of a state of a record. Begins at the owner's wall clock in microseconds, so that it grows over restarts even
/// when nothing was stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Version(pub u64);

impl Version {
    /// Higher ones are taken for garbage, so that nobody can push an owner to the end of its numbers.
    pub const MAX: Self = Self(1 << 62);

    /// The version after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// Whether the owner is a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Presence {
    /// It is, alive or not.
    Member,
    /// It has left for good. The record is a tombstone.
    Left,
}

/// What one node says about itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Of this state of the record.
    pub version: Version,
    /// Whether the owner is a member.
    pub presence: Presence,
    /// Its host name.
    pub name: String,
    /// The zone of the names that it answers.
    pub zone: String,
    /// Its address plan.
    pub overlay: Overlay,
    /// The ring that it is in.
    pub seed: Option<RingSeed>,
    /// The slice that it uses.
    pub slice: Option<SliceIndex>,
    /// Where it says that it may be reached.
    pub endpoints: Vec<SocketAddr>,
    /// Where it has sessions with others that these do not advertise themselves: they may be behind a NAT.
    pub observed: Vec<(PeerId, SocketAddr)>,
    /// Its containers.
    pub containers: Vec<Container>,
    /// The log of its instances of services has nothing below this in its present life.
    pub instances_from: Version,
}

impl Record {
    /// Cuts everything to its limit. Returns how many containers were left out.
    pub fn fit(&mut self) -> usize {
        truncate(&mut self.name, MAX_NAME_BYTES);
        truncate(&mut self.zone, MAX_ZONE_BYTES);
        self.endpoints.truncate(MAX_ENDPOINTS);
        self.observed.truncate(MAX_OBSERVED);
        for container in &mut self.containers {
            truncate(&mut container.id, MAX_CONTAINER_ID_BYTES);
            truncate(&mut container.name, MAX_NAME_BYTES);
            container.ips.truncate(MAX_CONTAINER_IPS);
        }
        let all_count = self.containers.len();
        self.containers.truncate(MAX_CONTAINERS);
        while self.encoded_len() > MAX_RECORD_BYTES && !self.containers.is_empty() {
            self.containers.truncate(self.containers.len() * 9 / 10);
        }
        all_count - self.containers.len()
    }

    /// The tombstone that follows this record.
    #[must_use]
    pub fn tombstone(&self) -> Self {
        Self {
            presence: Presence::Left,
            seed: None,
            slice: None,
            endpoints: Vec::new(),
            observed: Vec::new(),
            containers: Vec::new(),
            ..self.clone()
        }
    }

    /// True for a record that is within the limits. Others do not enter a replica.
    pub fn is_valid(&self) -> bool {
        self.version <= Version::MAX
            && self.instances_from <= Version::MAX
            && self.overlay.is_valid()
            && self.slice.is_none_or(|slice| slice.0 < self.overlay.slice_count())
            && self.name.len() <= MAX_NAME_BYTES
            && self.zone.len() <= MAX_ZONE_BYTES
            && self.endpoints.len() <= MAX_ENDPOINTS
            && self.observed.len() <= MAX_OBSERVED
            && self.containers.len() <= MAX_CONTAINERS
            && self.containers.iter().all(|container| {
                container.id.len() <= MAX_CONTAINER_ID_BYTES
                    && container.name.len() <= MAX_NAME_BYTES
                    && container.ips.len() <= MAX_CONTAINER_IPS
            })
    }

    fn encoded_len(&self) -> usize {
        postcard::to_stdvec(self).map_or(usize::MAX, |bytes| bytes.len())
    }
}

/// Cuts a text at a character boundary.
fn truncate(text: &mut String, max_bytes: usize) {
    if text.len() > max_bytes {
        text.truncate(text.floor_char_boundary(max_bytes));
    }
}

#[cfg(test)]
pub(super) mod tests {
    use weaved_api::MacAddr;

    use super::*;

    pub(in crate::cluster) fn record(version: u64) -> Record {
        Record {
            version: Version(version),
            presence: Presence::Member,
            name: "host".into(),
            zone: "weave.local".into(),
            overlay: Overlay::new("10.32.0.0/12".parse().unwrap(), 24).unwrap(),
            seed: None,
            slice: None,
            endpoints: vec!["192.0.2.1:6783".parse().unwrap()],
            observed: vec![],
            containers: vec![],
            instances_from: Version(0),
        }
    }

    pub(in crate::cluster) fn container(index: usize) -> Container {
        Container {
            id: format!("{index:064x}").chars().rev().collect(),
            name: format!("{index:03}-{}", "ü".repeat(60)),
            mac: MacAddr([2; 6]),
            ips: vec!["fe80::1".parse().unwrap(); 6],
        }
    }

    #[test]
    fn a_record_of_everything_at_its_limit_is_cut_to_what_a_message_takes() {
        let mut full = record(1);
        full.name = "ü".repeat(100);
        full.zone = "z".repeat(1000);
        full.endpoints = vec!["[2001:db8::1]:6783".parse().unwrap(); 100];
        full.observed = vec![(PeerId([1; 32]), "[2001:db8::1]:6783".parse().unwrap()); 100];
        full.containers = (0..500).map(container).collect();
        assert!(!full.is_valid());
        let left_out = full.fit();
        assert!(full.is_valid());
        assert!(full.encoded_len() <= MAX_RECORD_BYTES);
        assert_eq!(left_out, 500 - full.containers.len());
        assert!(full.containers.len() > 253, "a /24 slice full of containers is advertised whole");
    }

    #[test]
    fn a_small_record_is_not_cut() {
        let mut small = record(1);
        assert_eq!(small.fit(), 0);
        assert_eq!(small, record(1));
    }

    #[test]
    fn a_slice_outside_the_address_plan_is_not_valid() {
        assert!(!Record { slice: Some(SliceIndex(4096)), ..record(1) }.is_valid());
        assert!(!Record { version: Version(u64::MAX), ..record(1) }.is_valid());
    }
}

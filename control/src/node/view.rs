//! What a node makes of all that it knows: what address management may see, our own record, what the data plane should
//! have.
//!
//! INVARIANT: of several nodes that say to use one slice, all nodes pick the same one: the one in the oldest ring. The
//! others are quarantined, and their containers are nobody's neighbours.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use weaved_api::{MacAddr, PeerConfig, PeerId};

use super::{Conflict, Node, Wanted};
use crate::{
    cluster::{Liveness, Presence, Record, limits::MAX_ENDPOINTS},
    ipam::{Neighbour, Neighbours, RingSeed, SliceIndex},
};

impl Node {
    /// The others, as far as address management cares.
    pub(super) fn neighbours(&self) -> Neighbours {
        let with_record = self.replica.members().map(|(id, record)| (id, Some(record)));
        let without = self.sessions.keys().filter(|&&id| self.replica.record(id).is_none()).map(|&id| (id, None));
        with_record
            .chain(without)
            .map(|(id, record)| {
                let compatible = record.filter(|record| record.overlay == self.overlay);
                let neighbour = Neighbour {
                    is_connected: self.sessions.contains_key(&id),
                    is_live: self.membership.liveness(id).is_none_or(|(liveness, _)| liveness == Liveness::Up),
                    seed: compatible.and_then(|record| record.seed),
                    slice: compatible.and_then(|record| record.slice),
                    is_compatible: compatible.is_some(),
                };
                (id, neighbour)
            })
            .collect()
    }

    /// Our record as it should be; its version is the replica's business.
    pub(super) fn own_record(&self) -> (Record, usize) {
        let observed = self.sessions.iter().filter(|&(&id, endpoint)| {
            self.replica.record(id).is_some_and(|record| !record.endpoints.contains(endpoint))
        });
        let mut record = Record {
            version: self.replica.own().version,
            presence: Presence::Member,
            name: self.config.name.clone(),
            zone: self.config.zone.clone(),
            overlay: self.overlay,
            seed: self.allocator.ring().map(crate::ipam::Ring::seed),
            slice: self.allocator.slice(),
            endpoints: self.config.local_endpoints.clone(),
            observed: observed.map(|(&id, &endpoint)| (id, endpoint)).collect(),
            containers: self.containers.clone(),
            instances_from: self.services.catalogue.born(),
        };
        let left_out = record.fit();
        (record, left_out)
    }

    /// What the data plane should have.
    pub(super) fn compute_wanted(&self) -> Wanted {
        let claims = self.slice_claims();
        let quarantined = self.quarantined(&claims);
        let mut neighbours: Vec<_> = self
            .replica
            .members()
            .filter(|(id, _)| self.membership.is_up(*id) && !quarantined.contains(id))
            .flat_map(|(peer, record)| record.containers.iter().map(move |container| (peer, container)))
            .filter(|(_, container)| !container.mac.is_group() && container.mac != MacAddr([0; 6]))
            .map(|(peer, container)| weaved_api::Neighbour { mac: container.mac, ips: container.ips.clone(), peer })
            .collect();
        neighbours.sort_unstable();
        neighbours.dedup();
        Wanted {
            peers: self.wanted_peers(),
            targets: self.targets.clone(),
            neighbours,
            gateway: self.allocator.slice().map(|slice| self.overlay.gateway(slice).into()),
            quarantined: quarantined.into_iter().collect(),
        }
    }

    /// How people call a node.
    pub(super) fn name_of(&self, id: PeerId) -> String {
        if id == self.config.id {
            return self.config.name.clone();
        }
        let recorded = self.replica.record(id).map(|record| &record.name);
        let known = self.known.get(&id).map(|known| &known.name);
        recorded.or(known).filter(|name| !name.is_empty()).cloned().unwrap_or_else(|| id.short().to_string())
    }

    /// The words for a slice that two nodes have.
    pub(super) fn conflict_with(&self, slice: SliceIndex, holder: PeerId) -> Conflict {
        Conflict { slice: self.overlay.slice(slice), holder, holder_name: self.name_of(holder) }
    }

    /// Where a peer may be found, best first: where we have a session with it, where others have one, where it says that
    /// it is, where it was in an earlier run.
    fn candidates(&self, id: PeerId, observed: &BTreeMap<PeerId, Vec<SocketAddr>>) -> Vec<SocketAddr> {
        let session = self.sessions.get(&id).copied();
        let observed = observed.get(&id).into_iter().flatten().copied();
        let advertised = self.replica.record(id).into_iter().flat_map(|record| record.endpoints.iter().copied());
        let known = self.known.get(&id).into_iter().flat_map(|known| known.endpoints.iter().copied());
        let mut candidates = Vec::new();
        for endpoint in session.into_iter().chain(observed).chain(advertised).chain(known) {
            let is_ours = self.config.local_endpoints.contains(&endpoint);
            if !is_ours && !candidates.contains(&endpoint) && candidates.len() < MAX_ENDPOINTS {
                candidates.push(endpoint);
            }
        }
        candidates
    }

    fn wanted_peers(&self) -> Vec<PeerConfig> {
        let has_left = |id| self.replica.record(id).is_some_and(|record| record.presence == Presence::Left);
        let members = self.replica.members().map(|(id, _)| id);
        let others = self.known.keys().chain(self.sessions.keys()).copied();
        let ids: BTreeSet<_> = members.chain(others).filter(|&id| id != self.config.id && !has_left(id)).collect();
        let mut observed: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (id, endpoint) in self.replica.members().flat_map(|(_, record)| &record.observed) {
            observed.entry(*id).or_default().push(*endpoint);
        }
        ids.into_iter()
            .map(|id| PeerConfig { id, name: self.name_of(id), endpoints: self.candidates(id, &observed) })
            .collect()
    }

    /// For each slice in use the node that all should take for its user.
    fn slice_claims(&self) -> BTreeMap<SliceIndex, (Option<RingSeed>, PeerId)> {
        let mut claims = BTreeMap::new();
        let compatible = self.replica.records().filter(|(_, record)| record.overlay == self.overlay);
        for (id, record) in compatible {
            let Some(slice) = record.slice else { continue };
            let claim = (record.seed, id);
            claims.entry(slice).and_modify(|first| *first = claim.min(*first)).or_insert(claim);
        }
        claims
    }

    fn quarantined(&self, claims: &BTreeMap<SliceIndex, (Option<RingSeed>, PeerId)>) -> BTreeSet<PeerId> {
        let holds_its_slice = |id: PeerId, record: &Record| {
            record.slice.is_none_or(|slice| claims.get(&slice).is_some_and(|(_, holder)| *holder == id))
        };
        let we_refuse = self.allocator.conflict().is_some() || !holds_its_slice(self.config.id, self.replica.own());
        self.replica
            .members()
            .filter(|(id, record)| we_refuse || record.overlay != self.overlay || !holds_its_slice(*id, record))
            .map(|(id, _)| id)
            .collect()
    }
}

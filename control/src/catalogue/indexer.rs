//! Makes a [`View`] of facts about nodes and their instances, and gives it its indexes.
//!
//! Only what has changed is made anew; the rest is shared with the view before. So a rebuild costs as much as the nodes
//! that changed and the services that they have instances of.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use weaved_api::PeerId;

use super::{
    Instance, InstanceId,
    limits::MAX_VANISHED,
    view::{Index, InstanceView, NodeFacts, NodeView, Readiness, ServiceView, Standing, View},
};
use crate::hlc::{Hlc, HybridClock};

/// Owns the view of a node.
pub struct Indexer {
    clock: HybridClock,
    view: Arc<View>,
}

/// What a rebuild has found so far.
#[derive(Default)]
struct Changes {
    nodes: BTreeSet<PeerId>,
    services: BTreeSet<String>,
    facts: bool,
}

impl Indexer {
    /// An empty view. `floor` is above all indexes that an earlier run may have given.
    pub fn new(me: PeerId, floor: Hlc, wall_us: u64) -> Self {
        let mut clock = HybridClock::new(floor);
        let index = Index(clock.tick(wall_us).0);
        Self { clock, view: Arc::new(View::starting(me, index)) }
    }

    /// The latest view.
    pub fn view(&self) -> &Arc<View> {
        &self.view
    }

    /// Brings the view up to date: these are all nodes, and of these the instances have changed. Returns false when there
    /// is nothing new to be seen.
    pub fn rebuild<'a, I: Iterator<Item = &'a Arc<Instance>>>(
        &mut self,
        readiness: Readiness,
        facts: Vec<NodeFacts>,
        changed: &BTreeSet<PeerId>,
        instances: impl Fn(PeerId) -> I,
        wall_us: u64,
    ) -> bool {
        // Taken back if nothing has changed.
        let mut clock = self.clock;
        let index = Index(clock.tick(wall_us).0);
        let mut next = View::clone(&self.view);
        let mut found = Changes::default();
        let present: BTreeSet<_> = facts.iter().map(|facts| facts.id).collect();
        for gone in self.view.nodes.keys().filter(|id| !present.contains(id)) {
            found.note(*gone, next.nodes.remove(gone).as_deref(), None);
        }
        for facts in facts {
            let before = self.view.nodes.get(&facts.id);
            let is_same = before.is_some_and(|before| before.facts == facts);
            if is_same && !changed.contains(&facts.id) {
                continue;
            }
            let id = facts.id;
            let node = Arc::new(node_view(facts, before.map(AsRef::as_ref), instances(id), index));
            if before.is_none_or(|before| node.index != before.index) {
                found.note(id, before.map(AsRef::as_ref), Some(&node));
                next.nodes.insert(id, node);
            }
        }
        if found.nodes.is_empty() && readiness == self.view.readiness {
            return false;
        }
        next.update_services(&found, index);
        if found.facts {
            next.nodes_index = index;
        }
        (next.index, next.readiness) = (index, readiness);
        (self.clock, self.view) = (clock, Arc::new(next));
        true
    }
}

impl Changes {
    fn note(&mut self, id: PeerId, before: Option<&NodeView>, after: Option<&NodeView>) {
        self.nodes.insert(id);
        self.facts |= before.map(|node| &node.facts) != after.map(|node| &node.facts);
        let views = |node: Option<&NodeView>| -> BTreeMap<InstanceId, Arc<InstanceView>> {
            let instances = node.into_iter().flat_map(|node| &node.instances);
            instances.map(|listed| (listed.instance.id.clone(), Arc::clone(listed))).collect()
        };
        let (before, after) = (views(before), views(after));
        let differs = |(id, listed): &(&InstanceId, &Arc<InstanceView>), others: &BTreeMap<_, Arc<InstanceView>>| {
            others.get(*id).is_none_or(|other| !Arc::ptr_eq(other, listed))
        };
        let gone = before.iter().filter(|entry| differs(entry, &after));
        let new = after.iter().filter(|entry| differs(entry, &before));
        self.services.extend(gone.chain(new).map(|(_, listed)| listed.instance.service.clone()));
    }
}

impl View {
    /// Makes the services anew that have an instance that changed.
    fn update_services(&mut self, found: &Changes, index: Index) {
        let mut vanished = BTreeMap::clone(&self.vanished);
        let mut names_changed = false;
        for name in &found.services {
            let before = self.services.get(name);
            let others = before.into_iter().flat_map(|service| &service.instances);
            let kept = others.filter(|listed| !found.nodes.contains(&listed.node.id)).cloned();
            let nodes = found.nodes.iter().filter_map(|id| self.nodes.get(id));
            let new = nodes.flat_map(|node| &node.instances).filter(|listed| listed.instance.service == *name).cloned();
            let mut instances: Vec<_> = kept.chain(new).collect();
            instances.sort_unstable_by(|a, b| {
                let place = |listed: &'_ InstanceView| (listed.node.id, listed.instance.id.clone());
                a.node.name.cmp(&b.node.name).then_with(|| place(a).cmp(&place(b)))
            });
            let service = ServiceView { name: name.clone(), index, instances };
            names_changed |= before.map(|before| before.tags()) != Some(service.tags());
            if service.instances.is_empty() {
                names_changed |= self.services.remove(name).is_some();
                vanished.insert(name.clone(), index);
            } else {
                vanished.remove(name);
                self.services.insert(name.clone(), Arc::new(service));
            }
        }
        if names_changed {
            self.names_index = index;
        }
        self.forget_oldest(&mut vanished);
        if vanished != *self.vanished {
            self.vanished = Arc::new(vanished);
        }
    }

    fn forget_oldest(&mut self, vanished: &mut BTreeMap<String, Index>) {
        while vanished.len() > MAX_VANISHED {
            let oldest = vanished.iter().min_by_key(|(name, index)| (**index, (*name).clone()));
            let Some(name) = oldest.map(|(name, _)| name.clone()) else { return };
            if let Some(index) = vanished.remove(&name) {
                self.unknown_index = self.unknown_index.max(index);
            }
        }
    }
}

/// A node with its instances; those that are as before are the same as before.
fn node_view<'a>(
    facts: NodeFacts,
    before: Option<&NodeView>,
    instances: impl Iterator<Item = &'a Arc<Instance>>,
    index: Index,
) -> NodeView {
    let shared = match before {
        Some(before) if before.facts == facts => before.instances.first().map(|listed| Arc::clone(&listed.node)),
        _ => None,
    };
    let shared = shared.unwrap_or_else(|| Arc::new(facts.clone()));
    let known: BTreeMap<_, _> =
        before.into_iter().flat_map(|before| &before.instances).map(|listed| (&listed.instance.id, listed)).collect();
    let is_listed = facts.standing != Standing::Expired;
    let mut listed: Vec<_> = instances
        .filter(|_| is_listed)
        .map(|instance| {
            let known = known.get(&instance.id).copied();
            match known.filter(|known| known.instance == **instance && *known.node == facts) {
                Some(known) => Arc::clone(known),
                None => Arc::new(instance_view(instance, &shared, known.map(|known| known.created), index)),
            }
        })
        .collect();
    listed.sort_by(|a, b| (&a.instance.service, &a.instance.id).cmp(&(&b.instance.service, &b.instance.id)));
    let facts_are_same = before.is_some_and(|before| before.facts == facts);
    let is_same = |before: &&NodeView| {
        let pairs = before.instances.iter().zip(&listed);
        facts_are_same && before.instances.len() == listed.len() && pairs.into_iter().all(|(a, b)| Arc::ptr_eq(a, b))
    };
    NodeView {
        index: before.filter(is_same).map_or(index, |before| before.index),
        created: before.map_or(index, |before| before.created),
        modified: before.filter(|_| facts_are_same).map_or(index, |before| before.modified),
        instances: listed,
        facts,
    }
}

fn instance_view(instance: &Instance, node: &Arc<NodeFacts>, created: Option<Index>, index: Index) -> InstanceView {
    InstanceView {
        address: instance.address.or(node.gateway).or(node.address),
        health: instance.health().max(node.health()),
        instance: instance.clone(),
        node: Arc::clone(node),
        created: created.unwrap_or(index),
        modified: index,
    }
}

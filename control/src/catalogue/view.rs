//! The catalogue as one node shows it at one moment: nodes, services and instances, with their indexes.
//!
//! A [`View`] never changes; a change makes another one that shares what is the same. It is what the HTTP API, DNS and the
//! verbs read, so that none of them looks into the state machine.
//!
//! # Indexes
//!
//! An [`Index`] moves with every change that can be seen through it, is at least 1, and on one node never goes back and
//! never names two different contents, over restarts too: it is hybrid logical time with a stored floor. Each node has a
//! sequence of its own. A change of one service moves the index of that service and not those of the others. A service that
//! has vanished keeps the index of its end, so that a watcher does not see its index slide back.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use weaved_api::PeerId;

use super::{Drain, Health, Instance};
use crate::node::MemberState;

/// Number of a state of something that can be watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Index(pub u64);

/// Whether a view may be shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Readiness {
    /// The node has just started and does not know yet what runs here or elsewhere. To show it would make running
    /// services vanish for a moment: readers wait, or keep what they had.
    Starting,
    /// It may.
    Ready,
}

/// What is known of services at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// Whether it may be shown.
    pub readiness: Readiness,
    /// Moves with every change of anything here.
    pub index: Index,
    /// Moves with every change of a node: address, name, state, those that come and go.
    pub nodes_index: Index,
    /// Moves when the set of services changes, or the set of tags of one.
    pub names_index: Index,
    /// Our own node.
    pub me: PeerId,
    /// All members, we ourselves included.
    pub nodes: BTreeMap<PeerId, Arc<NodeView>>,
    /// Services that have an instance, healthy or not, by name.
    pub services: BTreeMap<String, Arc<ServiceView>>,
    /// The indexes of services that have vanished.
    pub(super) vanished: Arc<BTreeMap<String, Index>>,
    /// At least the index of every service that is neither here nor among the vanished.
    pub(super) unknown_index: Index,
}

/// A member and what runs there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeView {
    /// Facts about the node itself.
    pub facts: NodeFacts,
    /// Moves with every change of the node or of an instance of its.
    pub index: Index,
    /// When it was seen first.
    pub created: Index,
    /// When a fact about it changed last.
    pub modified: Index,
    /// Its instances, by service and then by id.
    pub instances: Vec<Arc<InstanceView>>,
}

/// What a catalogue says about a member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeFacts {
    /// Who.
    pub id: PeerId,
    /// Its host name, or the short form of its id.
    pub name: String,
    /// Its address on the underlay: the first endpoint that it advertises.
    pub address: Option<IpAddr>,
    /// The address of its bridge on the overlay: where an instance without an address of its own is.
    pub gateway: Option<IpAddr>,
    /// Whether it answers.
    pub state: MemberState,
    /// What that means for its instances.
    pub standing: Standing,
    /// Whatever else there is to say about it.
    pub meta: BTreeMap<String, String>,
}

/// What the state of a node means for its instances.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Standing {
    /// They are what the node says.
    Trusted,
    /// They are critical, whatever the node said last: it cannot be reached, or has come back and not said yet what has
    /// survived.
    Suspended,
    /// They are not listed: it was not reached for too long.
    Expired,
}

/// The instances of one service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceView {
    /// Its name.
    pub name: String,
    /// Moves with every change of an instance or of a node that has one.
    pub index: Index,
    /// All of them, by the name of the node and then by id.
    pub instances: Vec<Arc<InstanceView>>,
}

/// One instance, and what is thought of it here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstanceView {
    /// What its node says.
    pub instance: Instance,
    /// The node itself.
    pub node: Arc<NodeFacts>,
    /// Where it answers: its own address, else its node's on the overlay, else its node's on the underlay.
    pub address: Option<IpAddr>,
    /// The worse of its own health and its node's.
    pub health: Health,
    /// When it was seen first.
    pub created: Index,
    /// When it changed last.
    pub modified: Index,
}

impl InstanceView {
    /// True if it should get new connections.
    pub fn is_passing(&self) -> bool {
        self.health == Health::Passing && self.instance.drain == Drain::Serving
    }
}

impl NodeFacts {
    /// What the node's own state does to the health of its instances.
    pub fn health(&self) -> Health {
        match self.standing {
            Standing::Trusted => Health::Passing,
            Standing::Suspended | Standing::Expired => Health::Critical,
        }
    }
}

impl ServiceView {
    /// Instances that should get new connections.
    pub fn passing(&self) -> impl Iterator<Item = &Arc<InstanceView>> {
        self.instances.iter().filter(|listed| listed.is_passing())
    }

    /// The tags of all its instances.
    pub fn tags(&self) -> BTreeSet<&str> {
        self.instances.iter().flat_map(|listed| &listed.instance.tags).map(String::as_str).collect()
    }
}

impl View {
    /// What a node shows before it knows anything.
    pub fn starting(me: PeerId, index: Index) -> Self {
        Self {
            readiness: Readiness::Starting,
            index,
            nodes_index: index,
            names_index: index,
            me,
            nodes: BTreeMap::new(),
            services: BTreeMap::new(),
            vanished: Arc::default(),
            unknown_index: index,
        }
    }

    /// The instances of a service; None for one that has none.
    pub fn service(&self, name: &str) -> Option<&Arc<ServiceView>> {
        self.services.get(name)
    }

    /// The index to give with an answer about a service, whether there is such a service or not.
    pub fn service_index(&self, name: &str) -> Index {
        let here = self.services.get(name).map(|service| service.index);
        here.or_else(|| self.vanished.get(name).copied()).unwrap_or(self.unknown_index)
    }

    /// The member of this name; of several the one with the smallest id.
    pub fn node_named(&self, name: &str) -> Option<&Arc<NodeView>> {
        self.nodes.values().find(|node| node.facts.name == name)
    }

    /// The index to give with an answer about one node. One that is not there moves with the nodes.
    pub fn node_index(&self, name: &str) -> Index {
        self.node_named(name).map_or(self.nodes_index, |node| node.index)
    }

    /// All instances, by node.
    pub fn instances(&self) -> impl Iterator<Item = &Arc<InstanceView>> {
        self.nodes.values().flat_map(|node| &node.instances)
    }
}

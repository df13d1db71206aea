//! What the verbs are told about services. Serialises to the JSON that they print.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use serde::{Deserialize, Serialize};

use crate::{
    catalogue::{Check, Drain, Health, Index, InstanceView, ServiceView, Source, View},
    node::MemberState,
};

/// Instances that are told in one answer. Of more the verb has to ask service by service.
pub const MAX_TOLD_INSTANCES: usize = 8192;

/// A service at a glance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceReport {
    /// Its name.
    pub service: String,
    /// All instances.
    pub instances: usize,
    /// Those that get new connections.
    pub passing: usize,
    /// The names of the nodes that have one, passing or not.
    pub nodes: BTreeSet<String>,
    /// All tags.
    pub tags: BTreeSet<String>,
}

/// Instances at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstancesReport {
    /// Which moment; greater for a later one.
    pub index: Index,
    /// By service, node and id.
    pub instances: Vec<InstanceReport>,
}

/// One instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceReport {
    /// Of which service.
    pub service: String,
    /// Names it on its node.
    pub id: String,
    /// Where it runs.
    pub node: String,
    /// How that node is.
    pub node_state: MemberState,
    /// Where it answers.
    pub address: Option<IpAddr>,
    /// At which port; 0 for none.
    pub port: u16,
    /// Its own and its node's.
    pub health: Health,
    /// Whether it is being stopped.
    pub drain: Drain,
    /// Whether it gets new connections.
    pub passing: bool,
    /// In the order in which they were given.
    pub tags: Vec<String>,
    /// Whatever its owner says about it.
    pub meta: BTreeMap<String, String>,
    /// Who has registered it.
    pub source: Source,
    /// What was found, check by check.
    pub checks: Vec<Check>,
}

/// One line of `status`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServicesSummary {
    /// Services that have an instance.
    pub services: usize,
    /// Instances of all of them.
    pub instances: usize,
    /// Those that get new connections.
    pub passing: usize,
    /// Instances on this host.
    pub here: usize,
}

impl From<&ServiceView> for ServiceReport {
    fn from(service: &ServiceView) -> Self {
        Self {
            service: service.name.clone(),
            instances: service.instances.len(),
            passing: service.passing().count(),
            nodes: service.instances.iter().map(|listed| listed.node.name.clone()).collect(),
            tags: service.tags().into_iter().map(ToOwned::to_owned).collect(),
        }
    }
}

impl From<&InstanceView> for InstanceReport {
    fn from(listed: &InstanceView) -> Self {
        let instance = &listed.instance;
        Self {
            service: instance.service.clone(),
            id: instance.id.0.clone(),
            node: listed.node.name.clone(),
            node_state: listed.node.state,
            address: listed.address,
            port: instance.port,
            health: listed.health,
            drain: instance.drain,
            passing: listed.is_passing(),
            tags: instance.tags.clone(),
            meta: instance.meta.clone(),
            source: instance.source.clone(),
            checks: instance.checks.clone(),
        }
    }
}

impl ServicesSummary {
    /// Of this view.
    pub fn of(view: &View) -> Self {
        let services = view.services.values();
        Self {
            services: view.services.len(),
            instances: services.clone().map(|service| service.instances.len()).sum(),
            passing: services.map(|service| service.passing().count()).sum(),
            here: view.nodes.get(&view.me).map_or(0, |node| node.instances.len()),
        }
    }
}

/// All services of a view.
pub fn services(view: &View) -> Vec<ServiceReport> {
    view.services.values().map(|service| ServiceReport::from(&**service)).collect()
}

/// The instances of one service or of all; the reason when there is none of that name, or when they are too many.
pub fn instances(view: &View, service: Option<&str>) -> Result<InstancesReport, String> {
    let services: Vec<_> = match service {
        Some(name) => {
            let none = || format!("there is no service `{}`; `weaved services` lists them", name.escape_debug());
            vec![view.service(name).ok_or_else(none)?]
        }
        None => view.services.values().collect(),
    };
    let count: usize = services.iter().map(|service| service.instances.len()).sum();
    if count > MAX_TOLD_INSTANCES {
        return Err(format!("{count} instances are more than one answer holds; ask for one service by its name"));
    }
    let instances = services.into_iter().flat_map(|service| &service.instances);
    let instances = instances.map(|listed| InstanceReport::from(&**listed)).collect();
    Ok(InstancesReport { index: view.index, instances })
}

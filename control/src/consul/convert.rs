//! From the catalogue's view to Consul's shapes.

use std::{collections::BTreeMap, sync::Arc};

use super::shapes::{
    AddressAndPort, CatalogService, Check, DATACENTER, Member, Node, Service, ServiceEntry, TaggedAddresses, Weights,
    uuid,
};
use crate::{
    catalogue::{self, CheckId, Drain, Health, InstanceView, NodeFacts, NodeView, WEIGHTS_KEY},
    node::MemberState,
    registration::agent::NODE_MAINTENANCE,
};

/// The check that Consul's agents have of each other; here it is the failure detector's word.
const NODE_CHECK: &str = "serfHealth";

/// A node.
pub fn node(view: &NodeView) -> Node {
    node_of(&view.facts, view.created.0, view.modified.0)
}

/// A node of which an instance is told: the indexes are the instance's.
fn node_of(facts: &NodeFacts, create_index: u64, modify_index: u64) -> Node {
    let address = address_of(facts);
    Node {
        id: uuid(&facts.id.0),
        node: facts.name.clone(),
        tagged_addresses: tagged(&address),
        address,
        datacenter: DATACENTER,
        meta: facts.meta.clone(),
        create_index,
        modify_index,
    }
}

/// An instance without its node.
pub fn service(listed: &InstanceView) -> Service {
    let instance = &listed.instance;
    Service {
        id: instance.id.0.clone(),
        service: instance.service.clone(),
        tags: instance.tags.clone(),
        meta: meta(instance),
        port: instance.port,
        address: service_address(listed),
        tagged_addresses: service_tagged(listed),
        weights: weights(instance),
        enable_tag_override: false,
        datacenter: DATACENTER,
        create_index: listed.created.0,
        modify_index: listed.modified.0,
    }
}

/// What its owner has said; weights are told as such.
fn meta(instance: &catalogue::Instance) -> BTreeMap<String, String> {
    let mut meta = instance.meta.clone();
    meta.remove(WEIGHTS_KEY);
    meta
}

fn weights(instance: &catalogue::Instance) -> Weights {
    let catalogue::Weights { passing, warning } = instance.weights();
    Weights { passing, warning }
}

/// An instance and its node in one row.
pub fn catalog_service(listed: &InstanceView) -> CatalogService {
    let node = node_of(&listed.node, listed.created.0, listed.modified.0);
    let service = service(listed);
    CatalogService {
        id: node.id,
        node: node.node,
        address: node.address,
        datacenter: DATACENTER,
        tagged_addresses: node.tagged_addresses,
        node_meta: node.meta,
        service_kind: "",
        service_id: service.id,
        service_name: service.service,
        service_tags: service.tags,
        service_address: service.address,
        service_tagged_addresses: service.tagged_addresses,
        service_weights: service.weights,
        service_meta: service.meta,
        service_port: service.port,
        service_enable_tag_override: false,
        create_index: service.create_index,
        modify_index: service.modify_index,
    }
}

/// An instance with its node and the checks of both.
pub fn entry(listed: &InstanceView) -> ServiceEntry {
    let mut checks = vec![node_check(&listed.node, listed.created.0, listed.modified.0)];
    checks.extend(instance_checks(listed));
    ServiceEntry { node: node_of(&listed.node, listed.created.0, listed.modified.0), service: service(listed), checks }
}

/// The checks of a node: its own, each once, and those of its instances.
pub fn node_checks(view: &NodeView) -> Vec<Check> {
    let own = node_check(&view.facts, view.created.0, view.modified.0);
    let shared = shared_checks(&view.instances);
    let of_node = shared.iter().map(|check| registered_node_check(&view.facts, check, view.modified.0));
    let of_instances = view.instances.iter().flat_map(|listed| checks_but(listed, &shared));
    [own].into_iter().chain(of_node).chain(of_instances).collect()
}

/// The checks that agents know of the node that they run on. `registered` are those of the node itself.
pub fn agent_checks(
    facts: &NodeFacts,
    own: &[InstanceView],
    registered: &[catalogue::Check],
    index: u64,
) -> Vec<Check> {
    let of_instances = own.iter().flat_map(|listed| checks_but(listed, registered));
    of_instances.chain(registered.iter().map(|check| registered_node_check(facts, check, index))).collect()
}

/// The checks of one instance, those of its node among them. One that is being stopped has a critical one, as one under
/// Consul's maintenance has.
pub fn instance_checks(listed: &InstanceView) -> Vec<Check> {
    checks_but(listed, &[])
}

/// Checks of a node travel with each of its instances, and nothing marks them. What all of several instances have is the
/// node's; with a single one they cannot be told apart, and are listed as that one's.
fn shared_checks(instances: &[Arc<InstanceView>]) -> Vec<catalogue::Check> {
    let Some((first, others)) = instances.split_first() else { return Vec::new() };
    let is_everywhere = |check: &&catalogue::Check| {
        let has_it = |listed: &Arc<InstanceView>| listed.instance.checks.contains(check);
        check.id.0 == NODE_MAINTENANCE || (!others.is_empty() && others.iter().all(has_it))
    };
    first.instance.checks.iter().filter(is_everywhere).cloned().collect()
}

/// The checks of one instance without these.
fn checks_but(listed: &InstanceView, left_out: &[catalogue::Check]) -> Vec<Check> {
    let instance = &listed.instance;
    let blank = |check_id: String, name: String, health: Health, output: String, kind: &str| Check {
        node: listed.node.name.clone(),
        check_id,
        name,
        status: word(health),
        notes: String::new(),
        output,
        service_id: instance.id.0.clone(),
        service_name: instance.service.clone(),
        service_tags: instance.tags.clone(),
        r#type: kind.to_owned(),
        definition: BTreeMap::new(),
        create_index: listed.created.0,
        modify_index: listed.modified.0,
    };
    let draining = (instance.drain == Drain::Draining).then(|| {
        let id = format!("_service_maintenance:{}", instance.id.0);
        let why = "it is being stopped: connections that it has may end, new ones go elsewhere";
        blank(id, "Service Maintenance Mode".into(), Health::Critical, why.into(), "maintenance")
    });
    let own = instance.checks.iter().filter(|check| !left_out.contains(check));
    let own =
        own.map(|check| blank(check.id.0.clone(), check.name.clone(), check.health, check.output.clone(), &check.kind));
    draining.into_iter().chain(own).collect()
}

/// A member, as Serf tells it.
pub fn member(view: &NodeView) -> Member {
    let address = address_of(&view.facts);
    Member {
        name: view.facts.name.clone(),
        addr: address,
        port: crate::defaults::PORT,
        tags: BTreeMap::from([
            ("dc", DATACENTER.to_owned()),
            ("role", "node".to_owned()),
            ("id", uuid(&view.facts.id.0)),
        ]),
        status: match view.facts.state {
            MemberState::Up | MemberState::Joining => 1,
            MemberState::Away => 3,
            MemberState::Down => 4,
        },
    }
}

/// Consul's word for it.
pub fn word(health: Health) -> &'static str {
    match health {
        Health::Passing => "passing",
        Health::Warning => "warning",
        Health::Critical => "critical",
    }
}

fn node_check(facts: &NodeFacts, create_index: u64, modify_index: u64) -> Check {
    let health = facts.health();
    let output = match health {
        Health::Passing => "Agent alive and reachable",
        _ => "Agent not live or unreachable",
    };
    let check = catalogue::Check {
        id: CheckId(NODE_CHECK.into()),
        name: "Serf Health Status".into(),
        kind: String::new(),
        health,
        output: output.into(),
    };
    Check { create_index, ..registered_node_check(facts, &check, modify_index) }
}

/// A check of no service.
fn registered_node_check(facts: &NodeFacts, check: &catalogue::Check, index: u64) -> Check {
    Check {
        node: facts.name.clone(),
        check_id: check.id.0.clone(),
        name: check.name.clone(),
        status: word(check.health),
        notes: String::new(),
        output: check.output.clone(),
        service_id: String::new(),
        service_name: String::new(),
        service_tags: Vec::new(),
        r#type: check.kind.clone(),
        definition: BTreeMap::new(),
        create_index: index,
        modify_index: index,
    }
}

fn address_of(facts: &NodeFacts) -> String {
    facts.address.or(facts.gateway).map_or_else(String::new, |address| address.to_string())
}

/// Clients take the node's address when a service has none; ours would not always be the right one, so it is said.
fn service_address(listed: &InstanceView) -> String {
    listed.address.map_or_else(String::new, |address| address.to_string())
}

fn tagged(address: &str) -> TaggedAddresses {
    ["lan", "wan"].into_iter().filter(|_| !address.is_empty()).map(|network| (network, address.to_owned())).collect()
}

fn service_tagged(listed: &InstanceView) -> BTreeMap<&'static str, AddressAndPort> {
    let address =
        listed.address.map(|address| AddressAndPort { address: address.to_string(), port: listed.instance.port });
    address.into_iter().flat_map(|address| ["lan", "wan"].map(|network| (network, address.clone()))).collect()
}

//! What tests of switches have in common: a catalogue with some instances.

use std::{collections::BTreeMap, sync::Arc};

use weaved_api::PeerId;

use crate::{
    catalogue::{
        Check, CheckId, Drain, Health, Index, Instance, InstanceId, InstanceView, NodeFacts, ServiceView, Source,
        Standing, View,
    },
    node::MemberState,
};

/// So many instances of one colour, the first of them passing.
pub(super) fn instances(colour: &str, count: usize, passing: usize) -> Vec<Instance> {
    let check =
        |health| Check { id: CheckId("c".into()), name: "c".into(), kind: "tcp".into(), health, output: String::new() };
    let health = |number| if number < passing { Health::Passing } else { Health::Critical };
    let instance = |number| Instance {
        id: InstanceId(format!("{colour}-{number}")),
        service: String::new(),
        address: None,
        port: 80,
        tags: vec![colour.to_owned()],
        meta: BTreeMap::new(),
        source: Source::Api,
        drain: Drain::Serving,
        checks: vec![check(health(number))],
    };
    (0..count).map(instance).collect()
}

/// A view that shows these; an entry without instances is no service.
pub(super) fn view(services: &[(&str, Vec<Instance>)]) -> View {
    let mut view = View::starting(PeerId([1; 32]), Index(1));
    let facts = Arc::new(NodeFacts {
        id: PeerId([1; 32]),
        name: "alpha".into(),
        address: None,
        gateway: None,
        state: MemberState::Up,
        standing: Standing::Trusted,
        meta: BTreeMap::new(),
    });
    for (name, instances) in services {
        let listed = instances.iter().map(|instance| {
            let instance = Instance { service: (*name).to_owned(), ..instance.clone() };
            let health = instance.health();
            let index = Index(1);
            let node = Arc::clone(&facts);
            Arc::new(InstanceView { instance, node, address: None, health, created: index, modified: index })
        });
        let listed: Vec<_> = listed.collect();
        if listed.is_empty() {
            continue;
        }
        let known = view.services.get(*name).map(|service| service.instances.clone()).unwrap_or_default();
        let instances = known.into_iter().chain(listed).collect();
        let service = ServiceView { name: (*name).to_owned(), index: Index(1), instances };
        view.services.insert((*name).to_owned(), Arc::new(service));
    }
    view
}

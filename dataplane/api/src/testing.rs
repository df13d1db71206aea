//! What the gateway is told in tests, with nothing said that is not needed: each test says how its own differs.

use crate::{
    Generation,
    balancer::BalancerState,
    gateway::{GatewayState, NamedHost, NamedInstance, Standing},
};

/// For host `a` of a cluster in which there is nothing.
pub fn gateway_state() -> GatewayState {
    GatewayState {
        generation: Generation(1),
        zone: "weave.local".into(),
        host: "a".into(),
        listen: None,
        range: "10.32.0.0/12".parse().expect("this is a network"),
        hosts: Vec::new(),
        containers: Vec::new(),
        instances: Vec::new(),
        balancer: BalancerState::default(),
    }
}

/// A host that can be reached.
pub fn named_host(name: &str) -> NamedHost {
    NamedHost { name: name.into(), address: None, standing: Standing::Passing, is_gone: false }
}

/// An instance on the first host that takes traffic.
pub fn named_instance(service: &str, id: &str) -> NamedInstance {
    NamedInstance {
        service: service.into(),
        id: id.into(),
        tags: Vec::new(),
        colours: Vec::new(),
        address: None,
        port: 80,
        host: 0,
        standing: Standing::Passing,
        weight: 1,
    }
}

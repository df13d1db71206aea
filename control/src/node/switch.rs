//! The node's place between the switches of services and the balancer of its host.

use std::time::Instant;

use weaved_api::balancer::{BalancerReport, SwitchState};

use super::Node;
use crate::{catalogue::Instance, switch::ServiceFacts};

impl Node {
    /// Which colours of this service get traffic here. Grows [`Self::switch_version`] when it changes.
    pub fn switch_state(&self, _service: &str) -> SwitchState {
        SwitchState::default()
    }

    /// Grows whenever a [`Self::switch_state`] or the colours of instances may have changed.
    pub fn switch_version(&self) -> u64 {
        0
    }

    /// The colours of an instance, by the rule of its service.
    pub fn colours_of(&self, instance: &Instance) -> Vec<String> {
        instance.tags.clone()
    }

    /// The services that the balancer of this host serves, all of them, as the operator's file says.
    pub fn handle_balanced_services(&mut self, _services: Vec<ServiceFacts>, _now: Instant) {}

    /// The gateway of this host does not answer, for this reason. Over with the next [`Self::handle_balancer_report`].
    pub fn handle_balancer_away(&mut self, _reason: &str, _now: Instant) {}

    /// What the balancer of this host does.
    pub fn handle_balancer_report(&mut self, _report: BalancerReport, _now: Instant) {}
}

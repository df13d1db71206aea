//! After a start of control: what the gateway answers for hosts that have not been heard yet stays as it is.
//!
//! Control begins with nothing of Docker and nothing of the others, and the gateway still has what an earlier control has told it.
//! What is known is told at once, so that a new container has its name whoever is missing; the rest is filled up from before.
//!
//! INVARIANT: of a host that was heard nothing is kept. What the balancer shall do is never kept: it goes by what was decided.

use weaved_api::gateway::{GatewayState, NamedHost};

use crate::node::Heard;

/// Fills `state` up with what `before` has of hosts that were not heard; `heard` is of the hosts of `state`, in their order.
pub(super) fn keep(before: &GatewayState, mut state: GatewayState, heard: &[Heard]) -> GatewayState {
    for (old, host) in (0..).zip(&before.hosts) {
        let (place, heard) = place_of(host, &mut state, heard);
        if !heard.containers {
            // Of the own host everything but its containers is known.
            if place != 0 {
                state.hosts[place as usize] = host.clone();
            }
            state.containers.retain(|container| container.host != place);
            let kept = before.containers.iter().filter(|container| container.host == old).cloned();
            state.containers.extend(kept.map(|mut container| {
                container.host = place;
                container
            }));
        }
        if !heard.instances {
            state.instances.retain(|instance| instance.host != place);
            let kept = before.instances.iter().filter(|instance| instance.host == old).cloned();
            state.instances.extend(kept.map(|mut instance| {
                instance.host = place;
                instance
            }));
        }
    }
    state
}

/// Where the host is in the new state, and what was heard of it there. One that nobody knows yet is put behind the others.
fn place_of(host: &NamedHost, state: &mut GatewayState, heard: &[Heard]) -> (u32, Heard) {
    let named = (0..).zip(heard).zip(&state.hosts).filter(|(_, known)| known.name == host.name);
    let mut named = named.map(|((place, heard), _)| (place, *heard));
    if let Some((place, first)) = named.next() {
        // Which of several with one name it was is not known.
        let all = named.fold(first, |all, (_, heard)| Heard {
            containers: all.containers || heard.containers,
            instances: all.instances || heard.instances,
        });
        return (place, all);
    }
    state.hosts.push(host.clone());
    (state.hosts.len() as u32 - 1, Heard::default())
}

#[cfg(test)]
mod tests {
    use weaved_api::{
        gateway::{NamedContainer, NamedInstance, Standing},
        testing::{gateway_state, named_host, named_instance},
    };

    use super::*;

    const NOTHING: Heard = Heard { containers: false, instances: false };
    const ALL: Heard = Heard { containers: true, instances: true };

    /// Hosts with a container and an instance each, called `{host}-{word}`.
    fn state(hosts: &[&str], word: &str) -> GatewayState {
        let called = |host: &str| format!("{host}-{word}");
        GatewayState {
            hosts: hosts.iter().map(|name| named_host(name)).collect(),
            containers: (0..)
                .zip(hosts)
                .map(|(host, name)| NamedContainer { name: called(name), ips: vec![], host })
                .collect(),
            instances: (0..)
                .zip(hosts)
                .map(|(host, name)| NamedInstance { host, ..named_instance(&called(name), &called(name)) })
                .collect(),
            ..gateway_state()
        }
    }

    /// Names of containers and of instances, each with its host.
    fn names(state: &GatewayState) -> [Vec<String>; 2] {
        let host = |index: u32| state.hosts[index as usize].name.clone();
        let line = |name: &str, index| format!("{name} at {}", host(index));
        [
            state.containers.iter().map(|container| line(&container.name, container.host)).collect(),
            state.instances.iter().map(|instance| line(&instance.id, instance.host)).collect(),
        ]
    }

    #[test]
    fn what_was_heard_is_new_and_the_rest_is_as_before() {
        let before = state(&["a", "b", "c", "left"], "old");
        let fresh = state(&["a", "c", "b"], "new");
        let kept = keep(&before, fresh.clone(), &[ALL, ALL, ALL]);
        assert_eq!(names(&kept)[0], ["a-new at a", "c-new at c", "b-new at b", "left-old at left"]);
        let kept = keep(&before, fresh.clone(), &[NOTHING, NOTHING, ALL]);
        let expected = ["b-new at b", "a-old at a", "c-old at c", "left-old at left"];
        assert_eq!(names(&kept), [expected, expected].map(|names| names.map(String::from).to_vec()));
        let only_containers = Heard { containers: true, instances: false };
        let kept = keep(&before, fresh, &[ALL, only_containers, ALL]);
        assert!(names(&kept)[0].contains(&"c-new at c".into()) && names(&kept)[1].contains(&"c-old at c".into()));
    }

    #[test]
    fn a_host_that_was_not_heard_stands_as_before_but_the_own_one_as_it_is() {
        let mut before = state(&["a", "b"], "old");
        before.hosts[0].standing = Standing::HostDown;
        before.hosts[1].address = Some("10.32.1.1".parse().unwrap());
        let mut fresh = state(&["a", "b"], "new");
        fresh.hosts[1].standing = Standing::HostDown;
        let kept = keep(&before, fresh, &[NOTHING, NOTHING]);
        assert_eq!(kept.hosts[0].standing, Standing::Passing);
        assert_eq!(kept.hosts[1], before.hosts[1]);
    }

    #[test]
    fn of_two_hosts_with_one_name_nothing_is_kept_when_one_was_heard() {
        let (before, fresh) = (state(&["a", "vm", "vm"], "old"), state(&["a", "vm", "vm"], "new"));
        let kept = keep(&before, fresh.clone(), &[ALL, NOTHING, ALL]);
        assert_eq!(names(&kept), names(&fresh));
    }
}

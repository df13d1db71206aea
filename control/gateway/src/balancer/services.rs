//! All services, from one state to the next.
//!
//! INVARIANT: an instance that stays under the same address keeps its [`Backend`], with what is in flight there.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Instant,
};

use weaved_api::{
    balancer::{BackendStatus, BalancedService, ServiceStatus},
    gateway::{GatewayState, NamedInstance, Standing},
};

use super::{
    backend::{Backend, BackendKey},
    service::{Listed, Service},
};

/// The services, in the order of the state.
#[derive(Debug, Default)]
pub(super) struct Services {
    list: Vec<Arc<Service>>,
    backends: HashMap<BackendKey, Arc<Backend>>,
    /// Switches whose moment has come, by service.
    switched: BTreeMap<String, u64>,
    drains: BTreeMap<String, Drain>,
}

/// How far the drain of the last switch is.
#[derive(Clone, Copy, Debug, Default)]
struct Drain {
    revision: u64,
    has_cut_requests: bool,
    has_cut_streams: bool,
    has_cut_answers: bool,
}

/// How much has ended because nothing more could come of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Cut {
    /// Connections with requests, at hosts that are down.
    pub(super) connections: usize,
    /// Streams, at hosts that are gone.
    pub(super) streams: usize,
}

impl Services {
    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.list.iter()
    }

    pub(super) fn find(&self, name: &str) -> Option<Arc<Service>> {
        self.list.iter().find(|service| service.rule.name == name).cloned()
    }

    /// Makes them anew. Tells what has ended because of its host.
    pub(super) fn rebuild(&mut self, state: &GatewayState, now_us: u64) -> Cut {
        let mut cut = Cut::default();
        let mut down = Vec::new();
        let mut known = std::mem::take(&mut self.backends);
        let rules = &state.balancer.services;
        let mut listed: HashMap<&str, Vec<Listed>> = rules.iter().map(|rule| (rule.name.as_str(), vec![])).collect();
        for instance in &state.instances {
            let Some(list) = listed.get_mut(instance.service.as_str()) else { continue };
            let Some(rule) = rules.iter().find(|rule| rule.name == instance.service) else { continue };
            let listed = self.instance(rule, instance, state, &mut known);
            if let Some(backend) = &listed.backend {
                let (is_down, is_gone) = fate(instance, state);
                if backend.set_down(is_down) {
                    down.push(Arc::clone(backend));
                }
                cut.streams += backend.set_gone(is_gone);
            }
            list.push(listed);
        }
        // What ends is sent again at once, and not to another one that is down.
        cut.connections = down.iter().map(|backend| backend.end_connections()).sum();
        // What is left over is no backend any more. Requests there go on.
        known.values().for_each(|backend| backend.set_keeps_idle(false));
        let list = rules.iter().map(|rule| {
            let listed = listed.remove(rule.name.as_str()).unwrap_or_default();
            let previous = self.find(&rule.name);
            Arc::new(Service::new(rule.clone(), listed, previous.as_deref(), now_us))
        });
        self.list = list.collect();
        self.switched.retain(|name, _| rules.iter().any(|rule| rule.name == *name));
        self.drains.retain(|name, _| rules.iter().any(|rule| rule.name == *name));
        self.on_moments();
        cut
    }

    fn instance(
        &mut self,
        rule: &BalancedService,
        instance: &NamedInstance,
        state: &GatewayState,
        known: &mut HashMap<BackendKey, Arc<Backend>>,
    ) -> Listed {
        let host = state.hosts.get(instance.host as usize);
        let address = instance.address.or_else(|| host.and_then(|host| host.address));
        let address = address.filter(|_| instance.port != 0).map(|ip| SocketAddr::new(ip, instance.port));
        let host_name = host.map(|host| host.name.clone()).unwrap_or_default();
        let backend = address.map(|address| {
            let key = BackendKey {
                service: instance.service.clone(),
                host: host_name.clone(),
                instance: instance.id.clone(),
                address,
                is_http2: rule.http2_backends,
                send_proxy: rule.send_proxy,
            };
            let backend = known.remove(&key).unwrap_or_else(|| Arc::new(Backend::new(key.clone())));
            self.backends.insert(key, Arc::clone(&backend));
            backend
        });
        // The host's own standing comes first: what it last said may be old.
        let standing = match host.map_or(Standing::HostDown, |host| host.standing) {
            host if !host.takes_traffic() => host,
            _ => instance.standing,
        };
        let (id, colours, weight) = (instance.id.clone(), instance.colours.clone(), instance.weight);
        Listed { id, host: host_name, colours, standing, weight, backend }
    }

    /// The next instant at which a switch comes into force.
    pub(super) fn next_moment_us(&self) -> Option<u64> {
        let ahead = self.list.iter().filter(|service| !service.moment.has_come());
        ahead.map(|service| service.moment.at_us).min()
    }

    /// Takes notice of switches that have come into force. True if there are some.
    pub(super) fn on_moments(&mut self) -> bool {
        let mut is_new = false;
        for service in &self.list {
            let moment = &service.moment;
            if !moment.has_come() || self.switched.get(&service.rule.name) == Some(&moment.revision) {
                continue;
            }
            service.mark_idle();
            self.switched.insert(service.rule.name.clone(), moment.revision);
            is_new = true;
            if moment.revision > 0 {
                let live = service.in_force().iter().map(|share| format!("{} {}", share.colour, share.weight));
                let live = live.collect::<Vec<_>>().join(", ");
                tracing::info!(service = service.rule.name, revision = moment.revision, live, "switched");
            }
        }
        is_new
    }

    /// Cuts what a drain has left over, once for each switch. How much that was. An answer that flows when the requests had their time is a
    /// stream from then on.
    ///
    /// Connections that were made since are left alone. They are previews', and those of requests that had chosen their backend before: each
    /// waits for an answer for as long as the service allows, and what is sent again follows the switch.
    pub(super) fn drain(&mut self, now: Instant) -> usize {
        let mut count = 0;
        for service in self.list.iter().filter(|service| service.moment.revision > 0) {
            let Some(came) = service.moment.came() else { continue };
            let drained = now.saturating_duration_since(came);
            let drain = self.drains.entry(service.rule.name.clone()).or_default();
            if drain.revision != service.moment.revision {
                *drain = Drain { revision: service.moment.revision, ..Drain::default() };
            }
            let requests_are_due = drained >= service.rule.switch.drain;
            if !drain.has_cut_requests && requests_are_due {
                drain.has_cut_requests = true;
                count += service.retired().iter().map(|backend| backend.cut_requests(came)).sum::<usize>();
            }
            let streams_are_due = service.rule.switch.stream_drain.is_some_and(|limit| drained >= limit);
            if !drain.has_cut_streams && streams_are_due {
                drain.has_cut_streams = true;
                count += service.retired().iter().map(|backend| backend.cut_streams(came)).sum::<usize>();
            }
            if !drain.has_cut_answers && requests_are_due && streams_are_due {
                drain.has_cut_answers = true;
                count += service.retired().iter().map(|backend| backend.cut_answers(came)).sum::<usize>();
            }
        }
        count
    }
}

impl Service {
    /// True while requests are in flight; streams do not end by themselves.
    pub(super) fn is_busy(&self) -> bool {
        self.counts.values().any(|counts| counts.in_flight.load(std::sync::atomic::Ordering::Relaxed) > 0)
    }
}

/// Whether its host is down, and whether it is gone for certain. What an address outside the overlay leads to may be elsewhere.
fn fate(instance: &NamedInstance, state: &GatewayState) -> (bool, bool) {
    let is_there = instance.address.is_none_or(|address| match address {
        IpAddr::V4(address) => state.range.contains(&address),
        IpAddr::V6(_) => false,
    });
    let host = state.hosts.get(instance.host as usize).filter(|_| is_there);
    let is_down = host.is_some_and(|host| matches!(host.standing, Standing::HostDown | Standing::HostAway));
    (is_down, host.is_some_and(|host| host.is_gone))
}

/// A service for people.
pub(super) fn status(service: &Service, now: Instant) -> ServiceStatus {
    let backends = service.listed.iter().map(|listed| {
        let backend = listed.backend.as_ref();
        BackendStatus {
            id: listed.id.clone(),
            host: listed.host.clone(),
            address: backend.map(|backend| backend.key.address),
            colours: listed.colours.clone(),
            weight: listed.weight,
            in_flight: backend.map_or(0, |backend| backend.in_flight()),
            state: state_of(service, listed, now),
        }
    });
    let report = service.report();
    ServiceStatus {
        name: service.rule.name.clone(),
        live: service.in_force().to_vec(),
        revision: report.revision,
        backends: backends.collect(),
        colours: report.colours,
    }
}

fn state_of(service: &Service, listed: &Listed, now: Instant) -> String {
    let Some(backend) = &listed.backend else { return "left out: no address or no port".into() };
    if !listed.standing.takes_traffic() {
        return listed.standing.describe().into();
    }
    let shares = service.in_force();
    let share = shares.iter().find(|share| share.weight > 0 && listed.colours.contains(&share.colour));
    match share {
        None if !shares.is_empty() => "idle: its colour is not live".into(),
        _ if backend.is_own(now) => "left out: a listener of this balancer has its address".into(),
        _ if backend.is_ejected(now) => "left out for a while: it failed its clients".into(),
        Some(share) if shares.len() > 1 => format!("live, its colour with weight {}", share.weight),
        _ => "live".into(),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        pin::pin,
        sync::{Mutex, PoisonError},
        task::{Context, Wake, Waker},
        time::Duration,
    };

    use weaved_api::{
        balancer::{BalancerState, ColourShare, SwitchState},
        gateway::NamedHost,
        testing::{gateway_state, named_host, named_instance},
    };

    use super::*;
    use crate::balancer::line::Line;

    /// Instances of one host; it stands like this.
    fn state(standing: Standing) -> GatewayState {
        let instance = |number: u8| NamedInstance {
            address: Some(IpAddr::from([10, 32, 0, number])),
            ..named_instance("web", &format!("web{number}"))
        };
        GatewayState {
            hosts: vec![NamedHost { standing, ..named_host("b") }],
            instances: (1..=3).map(instance).collect(),
            balancer: BalancerState { listeners: vec![], services: vec![BalancedService::plain("web")] },
            ..gateway_state()
        }
    }

    /// Looks, whenever requests are told that they end, at which backends are known to be down by then.
    struct Witness {
        backends: Vec<Arc<Backend>>,
        seen: Mutex<Vec<usize>>,
    }

    impl Witness {
        fn seen(&self) -> Vec<usize> {
            self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
        }
    }

    impl Wake for Witness {
        fn wake(self: Arc<Self>) {
            let down_count = self.backends.iter().filter(|backend| backend.is_down()).count();
            self.seen.lock().unwrap_or_else(PoisonError::into_inner).push(down_count);
        }
    }

    #[tokio::test]
    async fn when_the_first_request_of_a_host_that_is_down_ends_all_its_instances_are_known_to_be_down() {
        let mut services = Services::default();
        services.rebuild(&state(Standing::Passing), 1);
        let listed = services.find("web").unwrap().listed.clone();
        let backends: Vec<_> = listed.into_iter().filter_map(|listed| listed.backend).collect();
        let lines: Vec<Arc<Line>> = backends.iter().map(|_| Arc::default()).collect();
        for (backend, line) in backends.iter().zip(&lines) {
            let task = tokio::spawn(std::future::pending::<()>()).abort_handle();
            backend.on_connection(1, task, Arc::clone(line));
        }
        let witness = Arc::new(Witness { backends, seen: Mutex::default() });
        let waker = Waker::from(Arc::clone(&witness));
        let [one, two, three] = &lines[..] else { panic!("three instances: {lines:?}") };
        let requests = pin!(async { tokio::join!(one.until_cut(), two.until_cut(), three.until_cut()) });
        assert!(requests.poll(&mut Context::from_waker(&waker)).is_pending());

        let cut = services.rebuild(&state(Standing::HostDown), 2);

        assert_eq!(cut, Cut { connections: 3, streams: 0 });
        assert_eq!(witness.seen(), [3, 3, 3]);
    }

    #[tokio::test]
    async fn a_drain_has_its_time_whatever_is_done_to_the_clock_of_the_wall() {
        let (mut services, mut state) = (Services::default(), state(Standing::Passing));
        services.rebuild(&state, 1);
        for backend in services.find("web").unwrap().listed.iter().filter_map(|listed| listed.backend.as_ref()) {
            let task = || tokio::spawn(std::future::pending::<()>()).abort_handle();
            backend.on_connection(1, task(), Arc::default());
            backend.on_stream(1, task());
        }
        state.balancer.services[0].switch = SwitchState {
            revision: 1,
            live: vec![ColourShare { colour: "green".into(), weight: 1 }],
            drain: Duration::from_secs(30),
            stream_drain: Some(Duration::from_secs(60)),
            ..SwitchState::default()
        };
        // It comes when that clock shows 1970; some decades later it is set right.
        services.rebuild(&state, 1);

        let now = Instant::now();
        let mut cut = |seconds| services.drain(now + Duration::from_secs(seconds));
        assert_eq!([0, 29, 30, 31, 59, 60, 61].map(&mut cut), [0, 0, 3, 0, 0, 3, 0]);
    }
}

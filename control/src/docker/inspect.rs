//! What the running containers say about themselves, asked as seldom as possible.
//!
//! A container is inspected when it is new, when an event names it, and when the list shows it in another state than
//! before; else what was seen last holds. So a host with a thousand containers inspects one when one changes.
//!
//! INVARIANT: what contradicts the list does not hold: it was said in the middle of a change, the end of which no event may tell.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    time::{Duration, Instant},
};

use bollard::{
    Docker,
    errors::Error,
    models::{
        ContainerInspectResponse, ContainerState, ContainerSummary, EndpointSettings, EventMessage, Health,
        HealthStatusEnum, NetworkSettings, PortMap,
    },
};
use futures_util::{StreamExt, stream};

use super::{one_line, signals};
use crate::{
    catalogue::Drain,
    registration::facts::{Attachment, Binding, ContainerFacts, DockerHealth, DockerHealthState, Network, Port},
};

/// Questions to Docker at once.
const MAX_AT_ONCE: usize = 8;
/// A container that still runs so long after it was told to stop has not listened, and serves again.
const DRAIN_PATIENCE: Duration = Duration::from_mins(10);
/// What is kept of a health check's output.
const MAX_HEALTH_OUTPUT_CHARS: usize = 1000;

/// Remembers containers between two looks.
#[derive(Default)]
pub(super) struct Inspector {
    seen: HashMap<String, Seen>,
}

#[derive(Default)]
struct Seen {
    /// None when it must be looked at again.
    fingerprint: Option<Fingerprint>,
    /// None when it did not run when it was looked at.
    facts: Option<ContainerFacts>,
    started_at: String,
    told_to_stop: Option<Instant>,
    /// Docker could not answer the last question, and the log has it.
    is_unanswered: bool,
}

/// All of the list that hints at a change. The times in it change by themselves and are left out.
#[derive(Clone, Debug, PartialEq)]
struct Fingerprint {
    names: Option<Vec<String>>,
    state: String,
    health: Option<String>,
    networks: BTreeMap<String, String>,
    port_count: usize,
}

/// Which networks are the overlay, and which addresses of theirs are its.
pub(super) trait Overlay {
    /// True when the network of this name is on our bridge.
    fn holds(&self, network: &str) -> bool;
    /// Addresses that a container has there.
    fn addresses(&self, endpoint: &EndpointSettings) -> Vec<IpAddr>;
}

impl Inspector {
    /// Docker tells that something has happened to a container.
    pub(super) fn on_event(&mut self, event: &EventMessage, now: Instant) {
        let Some(actor) = &event.actor else { return };
        let Some(seen) = actor.id.as_ref().and_then(|id| self.seen.get_mut(id)) else { return };
        seen.fingerprint = None;
        match event.action.as_deref() {
            Some("kill") => {
                let signal = actor.attributes.as_ref().and_then(|attributes| attributes.get("signal"));
                let own = seen.facts.as_ref().map_or("", |facts| facts.stop_signal.as_str());
                if signals::asks_to_stop(signal.map_or("", String::as_str), own) {
                    seen.told_to_stop = Some(now);
                }
            }
            Some("die" | "start") => seen.told_to_stop = None,
            _ => {}
        }
    }

    /// All running containers, from the list that Docker has given just now.
    pub(super) async fn look(
        &mut self,
        docker: &Docker,
        running: &[ContainerSummary],
        overlay: &impl Overlay,
        now: Instant,
    ) -> Result<Vec<ContainerFacts>, String> {
        let listed: HashMap<&str, &ContainerSummary> =
            running.iter().filter_map(|summary| Some((summary.id.as_deref()?, summary))).collect();
        self.seen.retain(|id, _| listed.contains_key(id.as_str()));
        let stale: Vec<(String, Fingerprint)> = listed
            .iter()
            .map(|(id, summary)| ((*id).to_owned(), Fingerprint::of(summary)))
            .filter(|(id, fingerprint)| self.is_stale(id, fingerprint))
            .collect();
        let mut questions = Vec::new();
        for (id, fingerprint) in stale {
            let docker = docker.clone();
            questions.push(async move {
                let answer = docker.inspect_container(&id, None).await;
                (id, fingerprint, answer)
            });
        }
        let answers: Vec<_> = stream::iter(questions).buffer_unordered(MAX_AT_ONCE).collect().await;
        for (id, fingerprint, answer) in answers {
            self.learn(&id, fingerprint, answer, overlay)?;
        }
        let mut all: Vec<ContainerFacts> = self.seen.values_mut().filter_map(|seen| seen.facts(now)).collect();
        all.sort_by(|left, right| left.id.cmp(&right.id));
        Ok(all)
    }

    fn is_stale(&self, id: &str, fingerprint: &Fingerprint) -> bool {
        self.seen
            .get(id)
            .is_none_or(|seen| seen.told_to_stop.is_some() || seen.fingerprint.as_ref() != Some(fingerprint))
    }

    fn learn(
        &mut self,
        id: &str,
        fingerprint: Fingerprint,
        answer: Result<ContainerInspectResponse, Error>,
        overlay: &impl Overlay,
    ) -> Result<(), String> {
        let answer = match answer {
            Ok(answer) => Some(answer),
            // It has gone since the list was made.
            Err(Error::DockerResponseServerError { status_code: 404, .. }) => None,
            Err(error @ Error::DockerResponseServerError { .. }) => {
                self.leave(id, &one_line(&error));
                return Ok(());
            }
            Err(error) => return Err(one_line(&error)),
        };
        let state = answer.as_ref().and_then(|answer| answer.state.as_ref());
        let started_at = state.and_then(|state| state.started_at.clone()).unwrap_or_default();
        let before = self.seen.remove(id).filter(|seen| seen.started_at == started_at);
        let told_to_stop = before.and_then(|seen| seen.told_to_stop);
        let fingerprint =
            Some(fingerprint).filter(|listed| answer.as_ref().is_some_and(|answer| listed.agrees_with(answer)));
        let facts = answer.and_then(|answer| facts_of(answer, overlay));
        let seen = Seen { fingerprint, facts, started_at, told_to_stop, is_unanswered: false };
        self.seen.insert(id.to_owned(), seen);
        Ok(())
    }

    /// Docker has a fault with this container: what it said last holds until it answers, and the others do not wait for it.
    fn leave(&mut self, id: &str, reason: &str) {
        let seen = self.seen.entry(id.to_owned()).or_default();
        seen.fingerprint = None;
        if !std::mem::replace(&mut seen.is_unanswered, true) {
            tracing::warn!(container = id, reason, "Docker cannot inspect a container; it is asked again");
        }
    }
}

impl Seen {
    fn facts(&mut self, now: Instant) -> Option<ContainerFacts> {
        self.told_to_stop.take_if(|since| now.saturating_duration_since(*since) >= DRAIN_PATIENCE);
        let mut facts = self.facts.clone()?;
        if self.told_to_stop.is_some() {
            facts.drain = Drain::Draining;
        }
        Some(facts)
    }
}

impl Fingerprint {
    fn of(summary: &ContainerSummary) -> Self {
        let networks = summary.network_settings.as_ref().and_then(|settings| settings.networks.as_ref());
        // `Up 5 minutes (healthy)`
        let status = summary.status.as_deref().unwrap_or_default();
        Self {
            names: summary.names.clone(),
            state: summary.state.as_ref().map(ToString::to_string).unwrap_or_default(),
            health: status.split_once('(').map(|(_, health)| health.to_owned()),
            networks: addresses_by_network(networks),
            port_count: summary.ports.as_ref().map_or(0, Vec::len),
        }
    }

    /// A container that is restarted between the list and the question does not run then, or has another address.
    fn agrees_with(&self, answer: &ContainerInspectResponse) -> bool {
        let networks = answer.network_settings.as_ref().and_then(|settings| settings.networks.as_ref());
        answer.state.as_ref().is_some_and(is_running) && self.networks == addresses_by_network(networks)
    }
}

fn addresses_by_network(networks: Option<&HashMap<String, EndpointSettings>>) -> BTreeMap<String, String> {
    let address = |endpoint: &EndpointSettings| endpoint.ip_address.clone().unwrap_or_default();
    networks.into_iter().flatten().map(|(name, endpoint)| (name.clone(), address(endpoint))).collect()
}

/// Of a container that waits for its next start Docker says both.
fn is_running(state: &ContainerState) -> bool {
    state.running == Some(true) && state.restarting != Some(true)
}

/// None for a container that does not run.
fn facts_of(answer: ContainerInspectResponse, overlay: &impl Overlay) -> Option<ContainerFacts> {
    let state = answer.state.unwrap_or_default();
    if !is_running(&state) {
        return None;
    }
    let config = answer.config.unwrap_or_default();
    let mode = answer.host_config.and_then(|host| host.network_mode).unwrap_or_default();
    let settings = answer.network_settings.unwrap_or_default();
    let ports = |text: &String| text.parse::<Port>().ok();
    Some(ContainerFacts {
        id: answer.id?,
        name: answer.name.unwrap_or_default().trim_start_matches('/').to_owned(),
        image: config.image.unwrap_or_default(),
        env: config.env.unwrap_or_default(),
        labels: config.labels.unwrap_or_default().into_iter().collect(),
        exposed: config.exposed_ports.iter().flatten().filter_map(ports).collect(),
        published: published(settings.ports.as_ref()),
        network: match mode.split_once(':') {
            Some(("container", id)) => Network::Container(id.to_owned()),
            _ if mode == "host" => Network::Host,
            _ => Network::Networks,
        },
        attachments: attachments(&settings, overlay),
        created: answer.created.unwrap_or_default(),
        stop_signal: config.stop_signal.unwrap_or_default(),
        drain: if state.paused == Some(true) { Drain::Draining } else { Drain::Serving },
        health: health_of(&state),
    })
}

fn published(ports: Option<&PortMap>) -> BTreeMap<Port, Vec<Binding>> {
    let mut published = BTreeMap::new();
    for (text, bindings) in ports.into_iter().flatten() {
        let Ok(port) = text.parse::<Port>() else { continue };
        let parsed = bindings.iter().flatten().filter_map(|binding| {
            let ip = binding.host_ip.as_deref().and_then(|ip| ip.parse().ok());
            Some(Binding { ip, port: binding.host_port.as_deref()?.parse().ok()? })
        });
        let mut parsed: Vec<Binding> = parsed.collect();
        parsed.sort_unstable();
        // Exposed only: Docker has a key for it and no binding.
        if !parsed.is_empty() {
            published.insert(port, parsed);
        }
    }
    published
}

fn attachments(settings: &NetworkSettings, overlay: &impl Overlay) -> Vec<Attachment> {
    let networks = settings.networks.iter().flatten();
    let mut attachments: Vec<Attachment> = networks
        .map(|(name, endpoint)| {
            let ips = overlay.addresses(endpoint);
            Attachment { network: name.clone(), is_overlay: overlay.holds(name) && !ips.is_empty(), ips }
        })
        .collect();
    attachments.sort();
    attachments
}

fn health_of(state: &ContainerState) -> Option<DockerHealth> {
    let health: &Health = state.health.as_ref()?;
    let state = match health.status? {
        HealthStatusEnum::STARTING => DockerHealthState::Starting,
        HealthStatusEnum::HEALTHY => DockerHealthState::Healthy,
        HealthStatusEnum::UNHEALTHY => DockerHealthState::Unhealthy,
        HealthStatusEnum::NONE | HealthStatusEnum::EMPTY => return None,
    };
    let last = health.log.as_ref().and_then(|log| log.last()).and_then(|run| run.output.as_deref());
    let output = last.unwrap_or_default().chars().take(MAX_HEALTH_OUTPUT_CHARS).collect();
    Some(DockerHealth { state, output })
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Ours;

    impl Overlay for Ours {
        fn holds(&self, network: &str) -> bool {
            network == "bridge"
        }

        fn addresses(&self, endpoint: &EndpointSettings) -> Vec<IpAddr> {
            endpoint.ip_address.iter().filter_map(|ip| ip.parse().ok()).collect()
        }
    }

    fn answer(started_at: &str) -> ContainerInspectResponse {
        let json = serde_json::json!({
            "Id": "0123", "Name": "/web", "Created": "2026-11-23T00:00:00Z",
            "State": {
                "Running": true, "StartedAt": started_at,
                "Health": {"Status": "unhealthy", "Log": [{"Output": "old"}, {"Output": "no route"}]},
            },
            "Config": {
                "Image": "httpd", "Env": ["A=b"], "Labels": {"k": "v"}, "StopSignal": "SIGWINCH",
                "ExposedPorts": {"80/tcp": {}, "0/tcp": {}, "nonsense": {}},
            },
            "HostConfig": {"NetworkMode": "bridge"},
            "NetworkSettings": {
                "Ports": {"80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}], "81/tcp": null},
                "Networks": {"other": {"IPAddress": "172.18.0.2"}, "bridge": {"IPAddress": "10.32.0.2"}},
            },
        });
        serde_json::from_value(json).unwrap()
    }

    fn event(action: &str, signal: &str) -> EventMessage {
        let json = serde_json::json!({"Action": action, "Actor": {"ID": "0123", "Attributes": {"signal": signal}}});
        serde_json::from_value(json).unwrap()
    }

    fn summary() -> ContainerSummary {
        let networks = serde_json::json!({"other": {"IPAddress": "172.18.0.2"}, "bridge": {"IPAddress": "10.32.0.2"}});
        let json = serde_json::json!({"Id": "0123", "State": "running", "NetworkSettings": {"Networks": networks}});
        serde_json::from_value(json).unwrap()
    }

    fn looked_at() -> Inspector {
        let mut inspector = Inspector::default();
        inspector.learn("0123", Fingerprint::of(&summary()), Ok(answer("1")), &Ours).unwrap();
        inspector
    }

    fn drain(inspector: &mut Inspector, now: Instant) -> Drain {
        inspector.seen.get_mut("0123").unwrap().facts(now).unwrap().drain
    }

    #[test]
    fn facts_are_what_docker_says_in_order() {
        let facts = looked_at().seen.get_mut("0123").unwrap().facts(Instant::now()).unwrap();
        assert_eq!((facts.name.as_str(), facts.image.as_str()), ("web", "httpd"));
        assert_eq!(facts.exposed, ["80".parse().unwrap()].into());
        assert_eq!(facts.published.len(), 1);
        let overlay: Vec<_> = facts.attachments.iter().map(|each| (each.network.as_str(), each.is_overlay)).collect();
        assert_eq!(overlay, [("bridge", true), ("other", false)]);
        assert_eq!(facts.health.unwrap().output, "no route");
    }

    #[test]
    fn a_container_is_asked_again_only_when_something_hints_at_a_change() {
        let mut inspector = looked_at();
        assert!(!inspector.is_stale("0123", &Fingerprint::of(&summary())));
        let paused = serde_json::from_value(serde_json::json!({"Id": "0123", "State": "paused"})).unwrap();
        assert!(inspector.is_stale("0123", &Fingerprint::of(&paused)));
        inspector.on_event(&event("health_status: healthy", ""), Instant::now());
        assert!(inspector.is_stale("0123", &Fingerprint::of(&summary())));
        assert!(inspector.is_stale("4567", &Fingerprint::of(&summary())));
    }

    #[test]
    fn what_was_said_in_the_middle_of_a_restart_is_asked_again_though_no_event_says_so() {
        let mut stopped = answer("1");
        stopped.state.as_mut().unwrap().running = Some(false);
        let mut moved = answer("2");
        let networks = moved.network_settings.as_mut().unwrap().networks.as_mut().unwrap();
        networks.get_mut("bridge").unwrap().ip_address = Some("10.32.0.3".into());
        let gone = Error::DockerResponseServerError { status_code: 404, message: String::new() };
        for answered in [Ok(stopped), Ok(moved), Err(gone)] {
            let (mut inspector, listed) = (Inspector::default(), Fingerprint::of(&summary()));
            inspector.learn("0123", listed.clone(), answered, &Ours).unwrap();
            assert!(inspector.is_stale("0123", &listed));
            inspector.learn("0123", listed.clone(), Ok(answer("2")), &Ours).unwrap();
            assert!(!inspector.is_stale("0123", &listed));
        }
    }

    #[test]
    fn a_container_that_crashes_again_and_again_does_not_run_while_it_waits_for_its_next_start() {
        let mut inspector = looked_at();
        let mut waiting = answer("1");
        waiting.state.as_mut().unwrap().restarting = Some(true);
        inspector.learn("0123", Fingerprint::of(&summary()), Ok(waiting), &Ours).unwrap();
        assert_eq!(inspector.seen.get_mut("0123").unwrap().facts(Instant::now()), None);
        assert!(inspector.is_stale("0123", &Fingerprint::of(&summary())));
    }

    #[test]
    fn a_container_that_docker_cannot_inspect_stays_as_it_was_and_holds_up_no_other() {
        let mut inspector = looked_at();
        let fault = || Err(Error::DockerResponseServerError { status_code: 500, message: "layer is nil".into() });
        for id in ["0123", "4567"] {
            inspector.learn(id, Fingerprint::of(&summary()), fault(), &Ours).unwrap();
            assert!(inspector.is_stale(id, &Fingerprint::of(&summary())));
        }
        assert!(inspector.seen.get_mut("0123").unwrap().facts(Instant::now()).is_some());
        assert_eq!(inspector.seen.get_mut("4567").unwrap().facts(Instant::now()), None);
        let cut = Error::RequestTimeoutError;
        inspector.learn("0123", Fingerprint::of(&summary()), Err(cut), &Ours).unwrap_err();
    }

    #[test]
    fn the_signal_to_stop_drains_until_it_is_started_again_or_has_not_listened() {
        let now = Instant::now();
        let mut inspector = looked_at();
        inspector.on_event(&event("kill", "1"), now);
        assert_eq!(drain(&mut inspector, now), Drain::Serving, "a hang-up reloads");
        inspector.on_event(&event("kill", "28"), now);
        assert_eq!(drain(&mut inspector, now), Drain::Draining, "its own signal is SIGWINCH");
        inspector.learn("0123", Fingerprint::of(&summary()), Ok(answer("1")), &Ours).unwrap();
        assert_eq!(drain(&mut inspector, now), Drain::Draining);
        inspector.learn("0123", Fingerprint::of(&summary()), Ok(answer("2")), &Ours).unwrap();
        assert_eq!(drain(&mut inspector, now), Drain::Serving, "it was started again");
        inspector.on_event(&event("kill", "15"), now);
        assert_eq!(drain(&mut inspector, now + DRAIN_PATIENCE), Drain::Serving);
    }
}

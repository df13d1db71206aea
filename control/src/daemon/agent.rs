//! Starts what keeps this host's services: the registrar with its sources. The loop only takes the finished list.

use std::{
    path::{Path, PathBuf},
    time::Instant,
};

use ipnet::Ipv4Net;
use tokio::sync::{oneshot, watch};
use weaved_api::gateway::GatewayState;

use super::Daemon;
use crate::{
    catalogue::Instance,
    defaults,
    docker::watch::NoSocket,
    failure::Failure,
    health::probes::Tools,
    registration::{
        agent::{AgentHandle, AgentRequest},
        facts::ContainerFacts,
        files,
        registrar::{Registrar, Setup, Sources},
    },
    serve::protocol::Reply,
    state::{DockerChoice, Settings, Store},
};

/// The complete list of this host's instances, the newest; None while not all sources have been asked.
pub(super) type Instances = watch::Receiver<Option<Vec<Instance>>>;

/// The running registrar, seen from the loop.
pub(super) struct Agent {
    pub(super) handle: AgentHandle,
    pub(super) instances: Instances,
    /// Where the watch of Docker tells what containers say.
    pub(super) containers: watch::Sender<Option<Vec<ContainerFacts>>>,
}

/// Starts it. Must be called within the runtime.
pub(super) fn start(settings: &Settings, store: &Store) -> Result<Agent, Failure> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(|error| Failure::refused(format!("no random numbers: {error}")))?;
    let containers = watch::Sender::new(None);
    if settings.docker == DockerChoice::Off {
        containers.send_replace(Some(Vec::new()));
    }
    let (handle, calls) = AgentHandle::new();
    let (sender, instances) = watch::channel(None);
    let files_read = watch::Sender::new(None);
    let mut facts = containers.subscribe();
    facts.mark_changed();
    let sources = Sources { containers: facts, files: files_read.subscribe(), calls };
    let tools = Tools { docker: settings.docker.clone() };
    let parts = Setup { node: settings.name.clone(), store: store.clone(), tools, seed };
    let registrar = Registrar::new(parts, sender, Instant::now()).map_err(Failure::refused)?;
    tokio::spawn(registrar.run(sources));
    tokio::spawn(files::follow(services_dir(settings), files_read));
    Ok(Agent { handle, instances, containers })
}

fn services_dir(settings: &Settings) -> PathBuf {
    settings.services_dir.clone().unwrap_or_else(|| Path::new(defaults::SERVICES_DIR).to_owned())
}

/// Without a socket there is no Docker, unless it was here before: then its containers may go on without it.
pub(super) fn no_socket(docker_slice: Option<Ipv4Net>, told: Option<&GatewayState>) -> NoSocket {
    // The first host of a gateway's state is its own.
    let had_some = told.is_some_and(|told| {
        let mut hosts = told
            .containers
            .iter()
            .map(|container| container.host)
            .chain(told.instances.iter().map(|instance| instance.host));
        hosts.any(|host| host == 0)
    });
    if docker_slice.is_some() || had_some { NoSocket::Unknown } else { NoSocket::NoContainers }
}

impl Daemon {
    /// Takes the newest list of this host's instances.
    pub(super) fn handle_instances(&mut self, instances: &mut Instances, now: Instant) {
        let newest = instances.borrow_and_update().clone();
        if let Some(newest) = newest {
            self.node.handle_instances(newest, now);
        }
    }

    /// Passes a verb's request on; the loop does not wait for the answer.
    pub(super) fn ask_agent(&self, request: AgentRequest, reply: oneshot::Sender<Reply>) {
        let handle = self.agent.clone();
        tokio::spawn(async move {
            let is_question = request == AgentRequest::Show;
            let answer = match handle.call(request).await {
                Ok(view) if is_question => Reply::Services(Box::new(view)),
                Ok(_) => Reply::Done(crate::serve::protocol::Done::default()),
                Err(error) => Reply::refused(error.to_string()),
            };
            drop(reply.send(answer));
        });
    }
}

#[cfg(test)]
mod tests {
    use weaved_api::{gateway::NamedContainer, testing::gateway_state};

    use super::*;

    #[test]
    fn only_where_no_container_was_ever_seen_is_a_missing_socket_taken_for_none() {
        let told = |hosts: &[u32]| {
            let container = |host| NamedContainer { name: "web".into(), ips: vec![], host };
            GatewayState { containers: hosts.iter().copied().map(container).collect(), ..gateway_state() }
        };
        assert_eq!(no_socket(None, None), NoSocket::NoContainers);
        assert_eq!(no_socket(None, Some(&told(&[1, 2]))), NoSocket::NoContainers);
        assert_eq!(no_socket(None, Some(&told(&[1, 0]))), NoSocket::Unknown);
        assert_eq!(no_socket(Some("10.32.1.0/24".parse().unwrap()), None), NoSocket::Unknown);
    }
}

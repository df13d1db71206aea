//! Starts what keeps this host's services: the registrar with its sources. The loop only takes the finished list.

use std::{
    path::{Path, PathBuf},
    time::Instant,
};

use tokio::sync::{oneshot, watch};

use super::Daemon;
use crate::{
    catalogue::Instance,
    defaults,
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

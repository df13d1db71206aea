//! Everything that is registered on this node, from all sources, as one list.
//!
//! Containers come before files, files before clients: who owns an id keeps it, and what a later one says of it is noted.
//! A registrator that runs beside us registers the containers that Docker has shown us already; so a client's
//! registration with the id of a container is taken for that container's, and ends with it.
//!
//! INVARIANT: no client's registration holds a check by a command, from whatever door and whatever run it comes.
//!
//! INVARIANT: no two instances have one id. The order of calls does not matter for the outcome, but for what clients
//! registered under the id of a container that came later: that is forgotten.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    Definition, Note, Unusable,
    agent::{AgentError, AgentRequest, MAINTENANCE_KIND, Maintenance, NODE_MAINTENANCE},
    definition::{cut, refuse_command, refuse_long},
    facts::ContainerFacts,
    limits::{MAX_NOTES, MAX_REGISTERED},
    rules::{self, Registered},
};
use crate::{
    catalogue::{Check, CheckId, Drain, Health, Instance, InstanceId, Source, limits},
    health::{CheckSpec, schedule::CheckKey},
    state::Record,
};

/// What clients have registered; it survives a restart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Clients {
    services: BTreeMap<InstanceId, Definition>,
    /// Checks that were registered apart from their service.
    checks: BTreeMap<CheckId, ClientCheck>,
    /// Reasons, by service.
    maintenance: BTreeMap<InstanceId, String>,
    node_maintenance: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ClientCheck {
    instance: Option<InstanceId>,
    spec: CheckSpec,
}

impl Record for Clients {
    const NAME: &'static str = "services";
    const VERSION: u32 = 1;
}

impl Clients {
    /// Takes out what has a check by a command: earlier versions took such from everybody. A service goes as a whole,
    /// because without its check it would pass. Returns what has gone, in words.
    pub fn take_commands(&mut self) -> Vec<String> {
        let services =
            self.services.extract_if(.., |_, each| each.checks.iter().any(|spec| refuse_command(spec).is_err()));
        let gone: Vec<InstanceId> = services.map(|(id, _)| id).collect();
        for id in &gone {
            self.forget_what_is_of(id);
        }
        let checks = self.checks.extract_if(.., |_, check| refuse_command(&check.spec).is_err());
        let checks: Vec<String> = checks.map(|(id, _)| format!("check {}", id.0)).collect();
        gone.into_iter().map(|id| format!("service {}", id.0)).chain(checks).collect()
    }

    fn forget_what_is_of(&mut self, id: &InstanceId) {
        self.maintenance.remove(id);
        self.checks.retain(|_, check| check.instance.as_ref() != Some(id));
    }
}

/// What files say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Files {
    /// By the name of the file.
    pub definitions: BTreeMap<String, Vec<Definition>>,
    /// What is wrong with them.
    pub notes: Vec<Note>,
}

/// All registrations of a node.
#[derive(Debug)]
pub struct Book {
    node: String,
    containers: rules::Outcome,
    files: Files,
    clients: Clients,
    entries: BTreeMap<InstanceId, Entry>,
    notes: Vec<Note>,
}

#[derive(Debug)]
struct Entry {
    definition: Definition,
    source: Source,
    drain: Drain,
    docker: Option<Check>,
}

/// What is to be stored before it counts, and what it was about.
#[derive(Debug)]
pub struct Plan {
    /// Given back to [`Book::adopt`] when it has been stored.
    pub clients: Clients,
}

impl Book {
    /// A book of the node with this name, and what clients registered in earlier runs.
    pub fn new(node: &str, clients: Clients) -> Self {
        let mut book = Self {
            node: node.into(),
            containers: rules::Outcome::default(),
            files: Files::default(),
            clients,
            entries: BTreeMap::new(),
            notes: Vec::new(),
        };
        book.settle();
        book
    }

    /// All containers that run. Some when registrations of clients have become theirs: to be stored.
    pub fn set_containers(&mut self, containers: &[ContainerFacts]) -> Option<Plan> {
        self.containers = rules::register(&self.node, containers);
        let mut clients = self.clients.clone();
        for Registered { definition, .. } in &self.containers.registered {
            clients.services.remove(&definition.id);
        }
        self.settle();
        (clients != self.clients).then_some(Plan { clients })
    }

    /// All that files say.
    pub fn set_files(&mut self, files: Files) {
        self.files = files;
        self.settle();
    }

    /// What a request would come to. None when it changes nothing that is stored.
    pub fn plan(&self, request: &AgentRequest) -> Result<Option<Plan>, AgentError> {
        let mut clients = self.clients.clone();
        match request {
            AgentRequest::Register(definition) => self.register(&mut clients, definition)?,
            AgentRequest::Deregister(id) => self.deregister(&mut clients, id)?,
            AgentRequest::RegisterCheck { instance, spec } => {
                self.register_check(&mut clients, instance.as_ref(), spec)?;
            }
            AgentRequest::DeregisterCheck(id) => self.deregister_check(&mut clients, id)?,
            AgentRequest::SetMaintenance { instance, mode } => {
                self.set_maintenance(&mut clients, instance.as_ref(), mode)?;
            }
            AgentRequest::UpdateTtl { .. } | AgentRequest::Show => {}
        }
        Ok((clients != self.clients).then_some(Plan { clients }))
    }

    /// What was planned has been stored.
    pub fn adopt(&mut self, plan: Plan) {
        self.clients = plan.clients;
        self.settle();
    }

    /// True for an instance that a client has registered.
    pub fn is_of_client(&self, id: &InstanceId) -> bool {
        self.entries.get(id).is_some_and(|entry| entry.source == Source::Api)
    }

    /// All checks that are to be run here.
    pub fn checks(&self) -> BTreeMap<CheckKey, CheckSpec> {
        let own = self.entries.iter().flat_map(|(id, entry)| {
            let key = |spec: &CheckSpec| CheckKey { instance: Some(id.clone()), check: spec.id.clone() };
            entry.definition.checks.iter().map(move |spec| (key(spec), spec.clone()))
        });
        let apart =
            self.clients.checks.iter().filter(|(_, check)| self.has_subject(check)).map(|(id, check)| {
                (CheckKey { instance: check.instance.clone(), check: id.clone() }, check.spec.clone())
            });
        own.chain(apart).collect()
    }

    /// The instances as they are, by id. `result` tells how a check is.
    pub fn instances(&self, result: &impl Fn(&CheckKey) -> Option<Check>) -> Vec<Instance> {
        let of_node = self.node_checks(result);
        let mut instances: Vec<Instance> =
            self.entries.iter().map(|(id, entry)| self.instance(id, entry, &of_node, result)).collect();
        instances.truncate(limits::MAX_INSTANCES);
        instances
    }

    /// The checks of the node itself.
    pub fn node_checks(&self, result: &impl Fn(&CheckKey) -> Option<Check>) -> Vec<Check> {
        let apart = self.clients.checks.iter().filter(|(_, check)| check.instance.is_none());
        let keys = apart.map(|(id, _)| CheckKey { instance: None, check: id.clone() });
        let reason = self.clients.node_maintenance.as_ref();
        keys.filter_map(|key| result(&key))
            .chain(reason.map(|reason| maintenance(NODE_MAINTENANCE, reason)))
            .map(fitting)
            .collect()
    }

    /// Who is in maintenance until somebody ends it; what was ignored, cut or mapped, and why.
    pub fn notes(&self) -> Vec<Note> {
        let others = self.containers.notes.iter().chain(&self.files.notes).chain(&self.notes);
        let all = self.clients.maintenance.keys().map(maintenance_note).chain(others.cloned());
        let mut notes: Vec<Note> = all.collect();
        let surplus_count = notes.len().saturating_sub(MAX_NOTES);
        notes.truncate(MAX_NOTES);
        if surplus_count > 0 {
            notes.push(Note::new("notes", format!("{surplus_count} more")));
        }
        notes
    }

    fn instance(
        &self,
        id: &InstanceId,
        entry: &Entry,
        of_node: &[Check],
        result: &impl Fn(&CheckKey) -> Option<Check>,
    ) -> Instance {
        let apart = self.clients.checks.iter().filter(|(_, check)| check.instance.as_ref() == Some(id));
        let specs = entry.definition.checks.iter().map(|spec| &spec.id).chain(apart.map(|(check, _)| check));
        let keys = specs.map(|check| CheckKey { instance: Some(id.clone()), check: check.clone() });
        let reason = self.clients.maintenance.get(id);
        let reason = reason.map(|reason| maintenance(&format!("_service_maintenance:{}", id.0), reason));
        let checks = entry.docker.iter().cloned().chain(reason).chain(of_node.iter().cloned());
        let definition = &entry.definition;
        Instance {
            id: id.clone(),
            service: definition.service.clone(),
            address: definition.address,
            port: definition.port,
            tags: definition.tags.clone(),
            meta: definition.meta.clone(),
            source: entry.source.clone(),
            drain: entry.drain,
            checks: checks.chain(keys.filter_map(|key| result(&key))).take(limits::MAX_CHECKS).map(fitting).collect(),
        }
    }

    fn has_subject(&self, check: &ClientCheck) -> bool {
        check.instance.as_ref().is_none_or(|id| self.entries.contains_key(id))
    }

    /// Makes one list of all sources.
    fn settle(&mut self) {
        self.entries.clear();
        self.notes.clear();
        for Registered { definition, container, drain, health } in &self.containers.registered {
            let (definition, source) = (definition.clone(), Source::Docker(container.clone()));
            let entry = Entry { definition, source, drain: *drain, docker: health.clone() };
            self.entries.insert(entry.definition.id.clone(), entry);
        }
        let files = self.files.definitions.iter();
        let files = files.flat_map(|(file, all)| all.iter().map(move |each| (Source::File(file.clone()), each)));
        let clients = self.clients.services.values().map(|each| (Source::Api, each));
        for (source, definition) in files.chain(clients) {
            if let Some(owner) = self.entries.get(&definition.id) {
                let owner = owner_name(&owner.source);
                let text = format!("{owner} also has this id and keeps it; this one is not used");
                self.notes.push(Note::new(format!("{} of {}", definition.id.0, owner_name(&source)), text));
            } else {
                let entry = Entry { definition: definition.clone(), source, drain: Drain::Serving, docker: None };
                self.entries.insert(definition.id.clone(), entry);
            }
        }
    }

    fn register(&self, clients: &mut Clients, definition: &Definition) -> Result<(), AgentError> {
        let unusable = |error: Unusable| AgentError::Unusable(error.to_string());
        definition.check().map_err(unusable)?;
        definition.checks.iter().try_for_each(refuse_command).map_err(unusable)?;
        match self.entries.get(&definition.id).map(|entry| &entry.source) {
            Some(Source::Docker(_)) => return Ok(()),
            Some(source @ Source::File(_)) => return Err(owned(&definition.id.0, source)),
            _ => {}
        }
        let is_full = clients.services.len() >= MAX_REGISTERED || self.entries.len() >= limits::MAX_INSTANCES;
        if is_full && !clients.services.contains_key(&definition.id) {
            return Err(AgentError::Unusable(format!(
                "{MAX_REGISTERED} services are registered here, more do not fit"
            )));
        }
        clients.services.insert(definition.id.clone(), definition.clone());
        Ok(())
    }

    fn deregister(&self, clients: &mut Clients, id: &InstanceId) -> Result<(), AgentError> {
        if clients.services.remove(id).is_none() {
            return Err(match self.entries.get(id) {
                Some(entry) => owned(&id.0, &entry.source),
                None => AgentError::UnknownInstance(id.0.clone()),
            });
        }
        clients.forget_what_is_of(id);
        Ok(())
    }

    fn register_check(
        &self,
        clients: &mut Clients,
        instance: Option<&InstanceId>,
        spec: &CheckSpec,
    ) -> Result<(), AgentError> {
        let fits = refuse_long(spec).and_then(|()| refuse_command(spec));
        fits.map_err(|error| AgentError::Unusable(error.to_string()))?;
        if let Some(unknown) = instance.filter(|id| !self.entries.contains_key(id)) {
            return Err(AgentError::UnknownInstance(unknown.0.clone()));
        }
        if spec.id.0.is_empty() {
            return Err(AgentError::Unusable("a check needs an id".into()));
        }
        if clients.checks.len() >= MAX_REGISTERED && !clients.checks.contains_key(&spec.id) {
            return Err(AgentError::Unusable(format!("{MAX_REGISTERED} checks are registered here, more do not fit")));
        }
        clients.checks.insert(spec.id.clone(), ClientCheck { instance: instance.cloned(), spec: spec.clone() });
        Ok(())
    }

    /// One that was registered apart; else the one that came with its service, which is without it from then on.
    fn deregister_check(&self, clients: &mut Clients, id: &CheckId) -> Result<(), AgentError> {
        if clients.checks.remove(id).is_some() {
            return Ok(());
        }
        let is_this = |spec: &CheckSpec| spec.id == *id;
        let mut is_gone = false;
        for definition in clients.services.values_mut().filter(|definition| self.is_of_client(&definition.id)) {
            is_gone |= definition.checks.extract_if(.., |spec| is_this(spec)).count() > 0;
        }
        if is_gone {
            return Ok(());
        }
        let owner = self.entries.values().find(|entry| entry.definition.checks.iter().any(is_this));
        Err(owner.map_or_else(|| AgentError::UnknownCheck(id.0.clone()), |entry| owned(&id.0, &entry.source)))
    }

    fn set_maintenance(
        &self,
        clients: &mut Clients,
        instance: Option<&InstanceId>,
        mode: &Maintenance,
    ) -> Result<(), AgentError> {
        let reason = match mode {
            Maintenance::On { reason } if reason.is_empty() => Some("somebody works on it".to_owned()),
            Maintenance::On { reason } => Some(reason.chars().take(limits::MAX_CHECK_OUTPUT_BYTES / 4).collect()),
            Maintenance::Off => None,
        };
        match (instance, reason) {
            (None, reason) => clients.node_maintenance = reason,
            // What has gone in the middle of it can be given its traffic back, for the next of its id.
            (Some(id), _) if !self.entries.contains_key(id) && !clients.maintenance.contains_key(id) => {
                return Err(AgentError::UnknownInstance(id.0.clone()));
            }
            (Some(id), Some(reason)) => drop(clients.maintenance.insert(id.clone(), reason)),
            (Some(id), None) => drop(clients.maintenance.remove(id)),
        }
        Ok(())
    }
}

fn maintenance(id: &str, reason: &str) -> Check {
    Check {
        id: CheckId(id.into()),
        name: "Maintenance".into(),
        kind: MAINTENANCE_KIND.into(),
        health: Health::Critical,
        output: reason.into(),
    }
}

/// Maintenance is of an id, which the next container of the same name has as well.
fn maintenance_note(id: &InstanceId) -> Note {
    let text = "in maintenance, and so is the next of this id";
    Note::new(&*id.0, format!("{text}; `weaved service maintenance {} --off` ends it", id.0))
}

/// As the catalogue carries it, whatever the check is of: one that is not within the limits would take its instance along.
/// What Docker's own check printed may be long, and so may be what was stored by earlier versions.
fn fitting(mut check: Check) -> Check {
    check.output.truncate(check.output.floor_char_boundary(limits::MAX_CHECK_OUTPUT_BYTES));
    Check { id: CheckId(cut(check.id.0)), name: cut(check.name), ..check }
}

fn owner_name(source: &Source) -> String {
    match source {
        Source::Docker(id) => format!("container {}", id.get(..12).unwrap_or(id)),
        Source::File(file) => format!("file {file}"),
        Source::Api => "a client".into(),
    }
}

fn owned(id: &str, source: &Source) -> AgentError {
    let advice = match source {
        Source::Docker(_) => "stop the container, or start it with SERVICE_IGNORE=1",
        Source::File(_) => "change or remove the file",
        Source::Api => "deregister it first",
    };
    AgentError::Owned { id: id.to_owned(), owner: owner_name(source), advice }
}

#[cfg(test)]
mod tests;

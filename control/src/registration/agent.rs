//! What clients may ask of this node's registrations: "agent" in Consul's sense.
//!
//! The verbs and the Consul-compatible API hold an [`AgentHandle`]; the registrar answers. Whatever was answered with
//! `Ok` has been stored and survives a restart.

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

use super::{Definition, Note};
use crate::{
    catalogue::{Check, CheckId, Health, Instance, InstanceId},
    health::CheckSpec,
};

/// The check of a node that somebody works on: Consul's name for it.
pub const NODE_MAINTENANCE: &str = "_node_maintenance";

/// The kind of the check of what somebody works on.
pub const MAINTENANCE_KIND: &str = "maintenance";

/// More requests than wait at once; further ones wait at their sender.
pub const MAX_WAITING: usize = 64;

/// One thing to be done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AgentRequest {
    /// Register a service, or replace the one of this id. One of a container that Docker has shown already is left as
    /// it is, and the answer is `Ok`: a registrator beside us must not double it.
    Register(Box<Definition>),
    /// Take a registered service away.
    Deregister(InstanceId),
    /// Add a check to a registered service; without one, to the node and so to all its services.
    RegisterCheck {
        /// Which service.
        instance: Option<InstanceId>,
        /// What is checked.
        spec: Box<CheckSpec>,
    },
    /// Take a check away that was registered so, or with its service.
    DeregisterCheck(CheckId),
    /// Report for a check of kind `ttl`.
    UpdateTtl {
        /// Which check.
        check: CheckId,
        /// How it is.
        health: Health,
        /// What shall be shown.
        output: String,
    },
    /// Take traffic away from a service, or from all of the node, without deregistering.
    SetMaintenance {
        /// Which service; None for all.
        instance: Option<InstanceId>,
        /// Since when, so to speak.
        mode: Maintenance,
    },
    /// What is registered here.
    Show,
}

/// Whether somebody works on a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Maintenance {
    /// Somebody does, for this reason.
    On {
        /// Shown as the output of the check.
        reason: String,
    },
    /// Nobody does.
    Off,
}

/// What is registered on this node, and how it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentView {
    /// As the catalogue has them.
    pub instances: Vec<Instance>,
    /// Checks of the node itself; each is among the checks of every instance, too.
    pub node_checks: Vec<Check>,
    /// What was ignored, cut or mapped, and why.
    pub notes: Vec<Note>,
}

/// A request that was refused; nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AgentError {
    /// There is no such service here.
    #[error("there is no service {0} on this host; `weaved service ls` lists them")]
    UnknownInstance(String),
    /// There is no such check here.
    #[error("there is no check {0} on this host")]
    UnknownCheck(String),
    /// It belongs to a container or to a file.
    #[error("{id} is registered by {owner}: {advice}")]
    Owned {
        /// The service.
        id: String,
        /// Who has registered it.
        owner: String,
        /// What to do instead.
        advice: &'static str,
    },
    /// It cannot be registered as it is.
    #[error("{0}")]
    Unusable(String),
    /// It could not be stored, so it would be forgotten by a restart.
    #[error("{0}")]
    NotStored(String),
    /// Nobody answers any more.
    #[error("control is ending")]
    Ending,
}

/// What an agent answers.
pub type AgentAnswer = Result<AgentView, AgentError>;

/// A request and where its answer goes.
pub type AgentCall = (AgentRequest, oneshot::Sender<AgentAnswer>);

/// Where requests go. Cheap to clone.
#[derive(Clone, Debug)]
pub struct AgentHandle {
    calls: mpsc::Sender<AgentCall>,
}

impl AgentHandle {
    /// A handle, and where its requests come out.
    pub fn new() -> (Self, mpsc::Receiver<AgentCall>) {
        let (calls, receiver) = mpsc::channel(MAX_WAITING);
        (Self { calls }, receiver)
    }

    /// Asks, and waits for the answer. Only [`AgentRequest::Show`] is answered with a view that holds something.
    pub async fn call(&self, request: AgentRequest) -> AgentAnswer {
        let (sender, answer) = oneshot::channel();
        self.calls.send((request, sender)).await.map_err(|_| AgentError::Ending)?;
        answer.await.map_err(|_| AgentError::Ending)?
    }

    /// What is registered on this node.
    pub async fn show(&self) -> AgentAnswer {
        self.call(AgentRequest::Show).await
    }
}

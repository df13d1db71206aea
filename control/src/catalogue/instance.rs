//! One service at one address and port.

use std::{collections::BTreeMap, net::IpAddr};

use serde::{Deserialize, Serialize};

use super::Weights;

/// Names an instance on its node; unique there and not in the cluster. Docker's have registrator's form,
/// `HOST:CONTAINER:PORT[:udp]`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct InstanceId(pub String);

/// Names a check on its node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct CheckId(pub String);

/// How something is. In the order of Consul's severity, so that the worst of several is the maximum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// Takes traffic.
    #[default]
    Passing,
    /// Takes traffic, and somebody should look at it.
    Warning,
    /// Takes no traffic.
    Critical,
}

/// Who has registered an instance. Each source owns what it has registered; a second one does not overwrite it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// A container of this node, by its full id.
    Docker(String),
    /// The operator or a client, by the HTTP API or `weaved service register`.
    Api,
    /// A file in the services directory, by its name.
    File(String),
}

/// Whether an instance still wants new connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Drain {
    /// It does.
    #[default]
    Serving,
    /// It is being stopped: those that it has may end, new ones go elsewhere.
    Draining,
}

/// The latest result of one check.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Check {
    /// Names it on its node.
    pub id: CheckId,
    /// For people.
    pub name: String,
    /// What is done, in a word: `http`, `tcp`, `grpc`, `exec`, `ttl`, `docker`.
    pub kind: String,
    /// How it ended.
    pub health: Health,
    /// What it printed or answered, cut to `limits::MAX_CHECK_OUTPUT_BYTES`.
    pub output: String,
}

/// One service at one address and port on one node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Instance {
    /// Names it on its node.
    pub id: InstanceId,
    /// The service.
    pub service: String,
    /// Where it answers; None for the address of its node.
    pub address: Option<IpAddr>,
    /// At which port; 0 for none.
    pub port: u16,
    /// In the order in which they were given.
    pub tags: Vec<String>,
    /// Whatever its owner says about it.
    pub meta: BTreeMap<String, String>,
    /// Who has registered it.
    pub source: Source,
    /// Whether it is being stopped.
    pub drain: Drain,
    /// Its checks; without any it is as well as its node.
    pub checks: Vec<Check>,
}

impl Instance {
    /// The worst of its checks.
    pub fn health(&self) -> Health {
        self.checks.iter().map(|check| check.health).max().unwrap_or_default()
    }

    /// How much of the traffic it gets beside the others, by how it is.
    pub fn weights(&self) -> Weights {
        Weights::of_meta(&self.meta)
    }

    /// The container or the file that it came from; empty without one.
    pub fn source_name(&self) -> &str {
        match &self.source {
            Source::Docker(name) | Source::File(name) => name,
            Source::Api => "",
        }
    }

    /// True if it should get new connections, as far as its own node knows.
    pub fn is_passing(&self) -> bool {
        self.health() == Health::Passing && self.drain == Drain::Serving
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::catalogue) fn instance(id: &str, service: &str) -> Instance {
        Instance {
            id: InstanceId(id.into()),
            service: service.into(),
            address: None,
            port: 80,
            tags: vec![],
            meta: BTreeMap::new(),
            source: Source::Api,
            drain: Drain::Serving,
            checks: vec![],
        }
    }

    fn check(health: Health) -> Check {
        Check { id: CheckId("c".into()), name: "c".into(), kind: "tcp".into(), health, output: String::new() }
    }

    fn checked(checks: Vec<Check>) -> Instance {
        Instance { checks, ..instance("a:web:80", "web") }
    }

    #[test]
    fn an_instance_is_as_well_as_its_worst_check() {
        assert_eq!(checked(vec![]).health(), Health::Passing);
        let ill = checked(vec![check(Health::Passing), check(Health::Critical), check(Health::Warning)]);
        assert_eq!(ill.health(), Health::Critical);
        assert!(!ill.is_passing());
    }

    #[test]
    fn a_draining_instance_is_not_passing_however_well_it_is() {
        assert!(!Instance { drain: Drain::Draining, ..checked(vec![]) }.is_passing());
    }
}

//! Hosts that are to get no new traffic: a guarded key for each, `weaved/drain/HOST`, by the host's identity.
//!
//! The host itself says of all its instances that they are being drained; the others hear that as they hear everything of
//! its services. So names, the API and all balancers agree without knowing of the key.

use std::time::Instant;

use serde::{Deserialize, Serialize};
use weaved_api::PeerId;

use super::Node;
use crate::{
    catalogue::{Drain, Instance},
    kv::{Change, Key, RequestId, Rule, Value},
};

/// Where the keys are.
const PREFIX: &str = "weaved/drain/";
/// Numbers of changes that somebody waits for begin here; those of switches are below.
const OWN_REQUESTS: u64 = 1 << 63;

/// Why a host is drained.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrainNote {
    /// Its name.
    pub host: String,
    /// Who wanted it.
    pub by: String,
    /// When, in microseconds of Unix time.
    pub at_us: u64,
}

/// What becomes of a host's traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HostDrain {
    /// It gets no new one.
    Begin,
    /// It gets its share again.
    End,
}

impl Node {
    /// Takes new traffic away from a host, or gives it back. The answer is one of the key-value store.
    pub fn handle_host_drain(&mut self, id: RequestId, host: PeerId, drain: HostDrain, by: &str, now: Instant) {
        let note = DrainNote { host: self.name_of(host), by: by.to_owned(), at_us: self.clock.wall_us(now) };
        let change = match drain {
            HostDrain::Begin => {
                let value = serde_json::to_vec(&note).expect("a note has only text for keys");
                Change::Put { value: Value::new(&value), flags: 0, rule: Rule::Always }
            }
            HostDrain::End => Change::Delete { rule: Rule::Always },
        };
        let number = OWN_REQUESTS + id.0;
        self.own_requests.insert(number, id);
        self.kv.begin_own(number, key_of(host), change, now, self.clock.wall_us(now));
        self.refresh(now);
    }

    /// The member of this name or identity; of several of one name the reason why it cannot be chosen.
    pub fn member_called(&self, name: &str) -> Result<PeerId, String> {
        let ids = || self.replica.members().map(|(id, _)| id).chain([self.config.id]);
        let found: Vec<_> = ids().filter(|&id| self.name_of(id) == name || id.to_string() == name).collect();
        match found[..] {
            [id] => Ok(id),
            [] => {
                let mut known: Vec<_> = ids().map(|id| self.name_of(id)).collect();
                known.sort_unstable();
                Err(format!("there is no host `{}`; there are: {}", name.escape_debug(), known.join(", ")))
            }
            _ => Err(format!(
                "{} hosts are called {name}; say which by its identity, see `weaved status --json`",
                found.len()
            )),
        }
    }

    /// Hosts that are drained.
    pub fn drained_hosts(&self) -> Vec<(PeerId, DrainNote)> {
        let notes = self.kv.entries(PREFIX).filter_map(|(key, entry)| {
            let id = key.as_str().strip_prefix(PREFIX)?.parse().ok()?;
            Some((id, serde_json::from_slice(entry.value.as_ref()?.as_bytes()).ok()?))
        });
        notes.collect()
    }

    /// The instances of this host as the others are to see them.
    pub(super) fn with_host_drain(&self, mut instances: Vec<Instance>) -> Vec<Instance> {
        if self.kv.entry(key_of(self.config.id).as_str()).is_some_and(crate::kv::Entry::is_live) {
            for instance in &mut instances {
                instance.drain = Drain::Draining;
            }
        }
        instances
    }

    /// A key of weaved's own has changed.
    pub(super) fn on_drain_key(&mut self, key: &Key, now: Instant) {
        if *key == key_of(self.config.id)
            && let Some(instances) = self.instances_here.clone()
        {
            self.announce_instances(instances, now);
        }
    }
}

fn key_of(host: PeerId) -> Key {
    Key::new(&format!("{PREFIX}{host}")).expect("an identity is short")
}

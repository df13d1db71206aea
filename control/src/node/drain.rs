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
/// So many digits of an identity are enough to mean it.
const MIN_DIGITS: usize = 8;
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

    /// The member of this name or identity, or whose identity alone begins so; of several the reason why it cannot be chosen.
    pub fn member_called(&self, name: &str) -> Result<PeerId, String> {
        let ids = self.replica.members().map(|(id, _)| id).chain([self.config.id]);
        called(name, &ids.map(|id| (id, self.name_of(id))).collect::<Vec<_>>())
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

fn called(name: &str, hosts: &[(PeerId, String)]) -> Result<PeerId, String> {
    let digits = name.to_ascii_lowercase();
    let matching = |is_meant: &dyn Fn(&(PeerId, String)) -> bool| -> Vec<PeerId> {
        hosts.iter().filter(|host| is_meant(host)).map(|(id, _)| *id).collect()
    };
    let mut found = matching(&|(id, known)| known == name || id.to_string() == digits);
    if found.is_empty() && digits.len() >= MIN_DIGITS {
        found = matching(&|(id, _)| id.to_string().starts_with(&digits));
    }
    match found[..] {
        [id] => Ok(id),
        [] => {
            let mut known: Vec<_> = hosts.iter().map(|(_, name)| name.as_str()).collect();
            known.sort_unstable();
            Err(format!("there is no host `{}`; there are: {}", name.escape_debug(), known.join(", ")))
        }
        _ => {
            let ids: Vec<_> = found.iter().map(|id| id.short().to_string()).collect();
            Err(format!("{} hosts are called {name}; say which by its identity: {}", found.len(), ids.join(", ")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_meant_by_its_name_its_identity_or_enough_digits_of_it() {
        let id = |last| PeerId(std::array::from_fn(|place| if place == 4 { last } else { 0xab }));
        let hosts = [(id(1), "vm".to_owned()), (id(2), "vm".to_owned()), (id(3), "abababab03".to_owned())];
        let meant = |name: &str| called(name, &hosts);
        for known in [id(1), id(2)] {
            assert_eq!(meant(&known.to_string()), Ok(known));
            assert_eq!(meant(&known.short().to_string()), Ok(known));
            assert_eq!(meant(&known.short().to_string().to_uppercase()), Ok(known));
        }
        assert_eq!(meant("abababab03"), Ok(id(3)), "a name comes first");
        let why = meant("vm").unwrap_err();
        assert!(why.contains("2 hosts") && why.contains("abababab01, abababab02"), "{why}");
        assert!(meant("abababab").unwrap_err().contains("3 hosts"));
        assert!(meant("ababab").unwrap_err().contains("there is no host"));
    }
}

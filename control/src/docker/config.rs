//! What Docker must be told so that its containers sit on our bridge with addresses of this host's slice.
//!
//! As flags for `dockerd`, or merged into its `daemon.json`. The merge keeps the operator's keys and their order, and
//! refuses what would contradict him:
//!
//! | key in the file   | what happens                                                                     |
//! |-------------------|----------------------------------------------------------------------------------|
//! | `bridge`          | added; another bridge is a conflict                                              |
//! | `fixed-cidr`      | added; another one is a conflict, unless an earlier installation of ours set it  |
//! | `mtu`             | added; the operator's own stays: every MTU works                                 |
//! | `dns`             | added; the operator's own stays: his resolver may ask us for our zone            |
//! | `dns-search`      | added; the operator's own stays                                                  |
//! | `bip`             | conflict: `dockerd` refuses it beside `bridge`                                   |
//! | `default-gateway` | conflict: containers would leave by a router that is not this host               |
//! | anything else     | kept                                                                             |
//!
//! INVARIANT: what was put in can be taken out again: [`Installed`] holds what was set and what it replaced.

use std::{fmt, net::Ipv4Addr, path::PathBuf};

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::state::Record;

/// Keys that contradict ours and are never set by us.
const FORBIDDEN: [(&str, &str); 2] = [
    ("bip", "dockerd refuses it together with `bridge`"),
    ("default-gateway", "containers would leave by another router than this host"),
];

/// Keys that work with any value: the operator's own stays.
const OPERATORS_CHOICE: [&str; 3] = ["mtu", "dns", "dns-search"];

/// What Docker is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DockerOptions {
    /// The bridge that it attaches containers to.
    pub bridge: String,
    /// The part of the overlay that it gives addresses from: this host's slice.
    pub fixed_cidr: Ipv4Net,
    /// MTU of the containers' interfaces.
    pub mtu: u16,
    /// Where containers ask for names; None to leave that to Docker.
    pub dns: Option<DnsOptions>,
}

/// What Docker writes into its containers' `resolv.conf`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsOptions {
    /// The address of our bridge.
    pub server: Ipv4Addr,
    /// The zone, so that `web` means `web.weave.local`.
    pub search: String,
}

/// What is done about a conflict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnConflict {
    /// Nothing is written.
    Refuse,
    /// Ours replaces it, and it is remembered.
    Replace,
}

/// What an installation did, to be undone.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Installed {
    /// The file.
    pub daemon_json: PathBuf,
    /// The systemd drop-in, when one was written.
    pub drop_in: Option<PathBuf>,
    /// Whether the file was there before.
    pub had_file: bool,
    /// Keys that are ours, with our values.
    pub set: Map<String, Value>,
    /// Keys of the operator that had to go, with his values.
    pub replaced: Map<String, Value>,
}

impl Record for Installed {
    const NAME: &'static str = "docker";
    const VERSION: u32 = 1;
}

/// A `daemon.json` that cannot be merged; it has not been changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MergeError {
    /// `dockerd` would not take it either.
    #[error("it is not valid JSON: {0}; correct it first")]
    NotJson(String),
    /// Valid JSON of the wrong kind.
    #[error("it does not hold a JSON object; correct it first")]
    NotObject,
    /// The operator wants something else.
    #[error("it sets {key} to {value}, but {reason}; remove it, or let --force replace it")]
    Conflict {
        /// Which key.
        key: String,
        /// The operator's value.
        value: Value,
        /// Why both cannot be.
        reason: String,
    },
}

impl fmt::Display for DockerOptions {
    /// The flags form, as `dockerd $(weaved docker-config --flags)` wants it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "--bridge={} --fixed-cidr={} --mtu={}", self.bridge, self.fixed_cidr, self.mtu)?;
        match &self.dns {
            Some(dns) => write!(f, " --dns={} --dns-search={}", dns.server, dns.search),
            None => Ok(()),
        }
    }
}

impl DockerOptions {
    fn wanted(&self) -> Vec<(&'static str, Value)> {
        let mut wanted = vec![
            ("bridge", self.bridge.clone().into()),
            ("fixed-cidr", self.fixed_cidr.to_string().into()),
            ("mtu", self.mtu.into()),
        ];
        if let Some(dns) = &self.dns {
            wanted.push(("dns", vec![dns.server.to_string()].into()));
            wanted.push(("dns-search", vec![dns.search.clone()].into()));
        }
        wanted
    }

    /// The file's new text; `None` when the old one says it all already. `installed` is brought up to date.
    pub fn merge(
        &self,
        text: &str,
        installed: &mut Installed,
        on_conflict: OnConflict,
    ) -> Result<Option<String>, MergeError> {
        let old = parse(text)?;
        let mut new = old.clone();
        for (key, reason) in FORBIDDEN {
            if let Some(value) = new.get(key).cloned() {
                refuse(key, &value, reason, on_conflict)?;
                new.shift_remove(key);
                installed.replaced.insert(key.into(), value);
            }
        }
        let wanted = self.wanted();
        // What an earlier installation set and this one does not want, such as `dns` after --no-dns.
        for (key, ours) in installed.set.clone() {
            if wanted.iter().all(|(wanted, _)| *wanted != key) && new.get(&key) == Some(&ours) {
                new.shift_remove(&key);
                installed.set.shift_remove(&key);
            }
        }
        for (key, wanted) in wanted {
            let present = new.get(key).cloned();
            let ours = present.is_some() && present.as_ref() == installed.set.get(key);
            match present {
                Some(value) if value == wanted => continue,
                Some(_) if OPERATORS_CHOICE.contains(&key) && !ours => continue,
                Some(value) if !ours => {
                    refuse(key, &value, &format!("weaved needs {wanted}"), on_conflict)?;
                    installed.replaced.insert(key.into(), value);
                }
                _ => {}
            }
            installed.set.insert(key.into(), wanted.clone());
            new.insert(key.into(), wanted);
        }
        Ok((new != old).then(|| print(&new)))
    }
}

impl Installed {
    /// The file's text without what we put in; `None` when nothing is left of it that was not there before.
    pub fn unmerge(&self, text: &str) -> Result<Option<String>, MergeError> {
        let mut object = parse(text)?;
        for (key, ours) in &self.set {
            if object.get(key) == Some(ours) {
                match self.replaced.get(key) {
                    Some(value) => drop(object.insert(key.clone(), value.clone())),
                    None => drop(object.shift_remove(key)),
                }
            }
        }
        for (key, value) in &self.replaced {
            if !object.contains_key(key) {
                object.insert(key.clone(), value.clone());
            }
        }
        Ok((self.had_file || !object.is_empty()).then(|| print(&object)))
    }
}

/// True when both are the same document, whatever their white space.
pub fn same_document(one: &str, other: &str) -> bool {
    matches!((parse(one), parse(other)), (Ok(one), Ok(other)) if one == other)
}

fn refuse(key: &str, value: &Value, reason: &str, on_conflict: OnConflict) -> Result<(), MergeError> {
    match on_conflict {
        OnConflict::Replace => Ok(()),
        OnConflict::Refuse => {
            Err(MergeError::Conflict { key: key.into(), value: value.clone(), reason: reason.into() })
        }
    }
}

/// `dockerd` takes an empty file for an empty object.
fn parse(text: &str) -> Result<Map<String, Value>, MergeError> {
    if text.trim().is_empty() {
        return Ok(Map::new());
    }
    match serde_json::from_str(text) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(MergeError::NotObject),
        Err(error) => Err(MergeError::NotJson(error.to_string())),
    }
}

fn print(object: &Map<String, Value>) -> String {
    let mut text = serde_json::to_string_pretty(object).expect("a map with string keys is always printable");
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> DockerOptions {
        let dns = DnsOptions { server: Ipv4Addr::new(10, 32, 3, 1), search: "weave.local".into() };
        DockerOptions { bridge: "weave".into(), fixed_cidr: "10.32.3.0/24".parse().unwrap(), mtu: 1500, dns: Some(dns) }
    }

    fn merge(text: &str) -> Result<Option<String>, MergeError> {
        options().merge(text, &mut Installed::default(), OnConflict::Refuse)
    }

    #[test]
    fn the_flags_are_those_of_dockerd() {
        let without = DockerOptions { dns: None, ..options() };
        assert_eq!(without.to_string(), "--bridge=weave --fixed-cidr=10.32.3.0/24 --mtu=1500");
        assert_eq!(options().to_string(), format!("{without} --dns=10.32.3.1 --dns-search=weave.local"));
    }

    #[test]
    fn foreign_keys_stay_where_they_were() {
        let text = r#"{"log-driver": "local", "mtu": 9000, "dns": ["192.0.2.1"], "a": {"z": 1, "b": 2}}"#;
        let merged = merge(text).unwrap().unwrap();
        let keys: Vec<String> = parse(&merged).unwrap().keys().cloned().collect();
        assert_eq!(keys, ["log-driver", "mtu", "dns", "a", "bridge", "fixed-cidr", "dns-search"]);
        assert_eq!(parse(&merged).unwrap()["dns"][0], "192.0.2.1");
        assert_eq!(parse(&merged).unwrap()["mtu"], 9000);
        assert!(merged.find("\"z\"") < merged.find("\"b\""));
    }

    #[test]
    fn a_missing_empty_or_merged_file_is_taken() {
        let merged = merge("").unwrap().unwrap();
        assert_eq!(merge(" \n").unwrap().unwrap(), merged);
        assert_eq!(merge("{}").unwrap().unwrap(), merged);
        assert_eq!(merge(&merged).unwrap(), None);
    }

    #[test]
    fn what_the_operator_set_otherwise_is_refused_by_name() {
        for (text, key) in [
            (r#"{"bridge": "br0"}"#, "bridge"),
            (r#"{"fixed-cidr": "172.17.0.0/24"}"#, "fixed-cidr"),
            (r#"{"bip": "172.17.0.1/16"}"#, "bip"),
            (r#"{"default-gateway": "172.17.0.9"}"#, "default-gateway"),
        ] {
            let error = merge(text).unwrap_err();
            assert!(matches!(&error, MergeError::Conflict { key: found, .. } if found == key), "{error}");
            assert!(error.to_string().contains("--force"), "{error}");
        }
    }

    #[test]
    fn garbage_and_other_json_are_refused() {
        assert!(matches!(merge("{\"bridge\":"), Err(MergeError::NotJson(_))));
        assert_eq!(merge("[1]"), Err(MergeError::NotObject));
    }

    #[test]
    fn a_forced_merge_can_be_undone() {
        let text = r#"{"bip": "172.17.0.1/16", "debug": true, "bridge": "br0"}"#;
        let mut installed = Installed { had_file: true, ..Installed::default() };
        let merged = options().merge(text, &mut installed, OnConflict::Replace).unwrap().unwrap();
        assert!(!merged.contains("bip") && merged.contains("\"weave\""));
        let undone = parse(&installed.unmerge(&merged).unwrap().unwrap()).unwrap();
        assert_eq!(undone, parse(text).unwrap());
    }

    #[test]
    fn our_own_older_slice_is_replaced_without_asking() {
        let mut installed = Installed::default();
        let merged = options().merge("", &mut installed, OnConflict::Refuse).unwrap().unwrap();
        let moved = DockerOptions { fixed_cidr: "10.33.0.0/24".parse().unwrap(), mtu: 1400, ..options() };
        let again = moved.merge(&merged, &mut installed, OnConflict::Refuse).unwrap().unwrap();
        let again = parse(&again).unwrap();
        assert_eq!((&again["fixed-cidr"], &again["mtu"]), (&"10.33.0.0/24".into(), &1400.into()));
        assert!(installed.replaced.is_empty());
    }

    #[test]
    fn names_are_left_to_docker_again_when_asked_for() {
        let mut installed = Installed::default();
        let merged = options().merge("", &mut installed, OnConflict::Refuse).unwrap().unwrap();
        assert!(merged.contains("\"dns-search\""));
        let without = DockerOptions { dns: None, ..options() };
        let again = without.merge(&merged, &mut installed, OnConflict::Refuse).unwrap().unwrap();
        assert!(!again.contains("dns") && !installed.set.contains_key("dns"), "{again}");
    }

    #[test]
    fn undoing_keeps_what_came_later_and_forgets_a_file_that_was_ours_alone() {
        let mut installed = Installed::default();
        let merged = options().merge("", &mut installed, OnConflict::Refuse).unwrap().unwrap();
        assert_eq!(installed.unmerge(&merged).unwrap(), None);
        let later = merged.replace("\"weave\"", "\"br7\"");
        let undone = parse(&installed.unmerge(&later).unwrap().unwrap()).unwrap();
        assert_eq!(undone.into_iter().collect::<Vec<_>>(), [("bridge".to_owned(), Value::from("br7"))]);
    }
}

//! Consul's JSON, as its clients read it (API v1.34 and before). Field names and their case are Consul's.
//!
//! Lists are never `null`; numbers of indexes are those of the answer's state.

use std::collections::BTreeMap;

use serde::Serialize;

/// The one datacenter that there is.
pub const DATACENTER: &str = "dc1";

/// Addresses by the network that they are in.
pub type TaggedAddresses = BTreeMap<&'static str, String>;

/// A node.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Node {
    /// A UUID made of its identity.
    #[serde(rename = "ID")]
    pub id: String,
    /// Its host name.
    pub node: String,
    /// Where the host answers.
    pub address: String,
    /// See [`DATACENTER`].
    pub datacenter: &'static str,
    /// The same address, in Consul's form.
    pub tagged_addresses: TaggedAddresses,
    /// What is said about it.
    pub meta: BTreeMap<String, String>,
    /// When it appeared.
    pub create_index: u64,
    /// When it changed.
    pub modify_index: u64,
}

/// Parts of the traffic.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Weights {
    /// While it passes.
    pub passing: u16,
    /// While somebody should look at it.
    pub warning: u16,
}

/// An instance, as agents and `/v1/health/service` tell it.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Service {
    /// Of the instance.
    #[serde(rename = "ID")]
    pub id: String,
    /// Its service.
    pub service: String,
    /// In the order in which they were given.
    pub tags: Vec<String>,
    /// Whatever its owner says.
    pub meta: BTreeMap<String, String>,
    /// At which port.
    pub port: u16,
    /// Where; empty for the address of its node.
    pub address: String,
    /// The same address, in Consul's form.
    pub tagged_addresses: BTreeMap<&'static str, AddressAndPort>,
    /// Parts of the traffic.
    pub weights: Weights,
    /// Always false: only owners write.
    pub enable_tag_override: bool,
    /// See [`DATACENTER`].
    pub datacenter: &'static str,
    /// When it appeared.
    pub create_index: u64,
    /// When it changed.
    pub modify_index: u64,
}

/// An address of a service.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct AddressAndPort {
    /// Where.
    pub address: String,
    /// At which port.
    pub port: u16,
}

/// An instance together with its node, as `/v1/catalog/service` tells it.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct CatalogService {
    /// Of the node.
    #[serde(rename = "ID")]
    pub id: String,
    /// Its name.
    pub node: String,
    /// Of the node.
    pub address: String,
    /// See [`DATACENTER`].
    pub datacenter: &'static str,
    /// Of the node.
    pub tagged_addresses: TaggedAddresses,
    /// Of the node.
    pub node_meta: BTreeMap<String, String>,
    /// Always empty: an ordinary service.
    pub service_kind: &'static str,
    /// Of the instance.
    #[serde(rename = "ServiceID")]
    pub service_id: String,
    /// The service.
    pub service_name: String,
    /// In the order in which they were given.
    pub service_tags: Vec<String>,
    /// Of the instance; empty for the address of its node.
    pub service_address: String,
    /// The same address, in Consul's form.
    pub service_tagged_addresses: BTreeMap<&'static str, AddressAndPort>,
    /// Parts of the traffic.
    pub service_weights: Weights,
    /// Whatever its owner says.
    pub service_meta: BTreeMap<String, String>,
    /// At which port.
    pub service_port: u16,
    /// Always false: only owners write.
    pub service_enable_tag_override: bool,
    /// When it appeared.
    pub create_index: u64,
    /// When it changed.
    pub modify_index: u64,
}

/// A check, of a node or of an instance.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Check {
    /// On which node.
    pub node: String,
    /// Names it there.
    #[serde(rename = "CheckID")]
    pub check_id: String,
    /// For people.
    pub name: String,
    /// `passing`, `warning` or `critical`.
    pub status: &'static str,
    /// For people.
    pub notes: String,
    /// What it printed.
    pub output: String,
    /// Of the instance; empty for a check of the node.
    #[serde(rename = "ServiceID")]
    pub service_id: String,
    /// The service; empty for a check of the node.
    pub service_name: String,
    /// Of the instance.
    pub service_tags: Vec<String>,
    /// What is done.
    pub r#type: String,
    /// Always empty: only the node that runs it knows.
    pub definition: BTreeMap<String, String>,
    /// When it appeared.
    pub create_index: u64,
    /// When it changed.
    pub modify_index: u64,
}

/// One instance with all that decides whether it is used.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct ServiceEntry {
    /// Where it runs.
    pub node: Node,
    /// What runs.
    pub service: Service,
    /// Of the node first, then its own.
    pub checks: Vec<Check>,
}

/// A member, as `/v1/agent/members` tells it.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Member {
    /// Its host name.
    pub name: String,
    /// Where it answers.
    pub addr: String,
    /// Its UDP port.
    pub port: u16,
    /// What Consul's clients look for.
    pub tags: BTreeMap<&'static str, String>,
    /// Serf's number: 1 alive, 3 left, 4 failed.
    pub status: u8,
}

/// One key with its value, as `/v1/kv` tells it.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct KeyValue {
    /// How often it has been locked.
    pub lock_index: u64,
    /// The key.
    pub key: String,
    /// The client's number.
    pub flags: u64,
    /// In base64; `null` for an empty one.
    pub value: Option<String>,
    /// When it was made.
    pub create_index: u64,
    /// When it was changed.
    pub modify_index: u64,
    /// Who holds its lock.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
}

/// An identity in the form of a UUID, which some clients insist on.
pub fn uuid(octets: &[u8; 32]) -> String {
    let group = |range: std::ops::Range<usize>| {
        octets[range].iter().fold(String::new(), |hex, octet| format!("{hex}{octet:02x}"))
    };
    [group(0..4), group(4..6), group(6..8), group(8..10), group(10..16)].join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_reads_as_a_uuid() {
        assert_eq!(uuid(&[0xab; 32]), "abababab-abab-abab-abab-abababababab");
    }

    #[test]
    fn keys_are_named_as_consul_names_them() {
        let key = KeyValue {
            lock_index: 0,
            key: "backend/current".into(),
            flags: 0,
            value: None,
            create_index: 11,
            modify_index: 12,
            session: None,
        };
        let json = serde_json::to_string(&key).unwrap();
        assert_eq!(
            json,
            r#"{"LockIndex":0,"Key":"backend/current","Flags":0,"Value":null,"CreateIndex":11,"ModifyIndex":12}"#
        );
    }
}

//! What the API has answered, as templates see it.
//!
//! Lists are sorted (instances by node, then by ID; tags by name), so that equal content renders to equal bytes.
//!
//! INVARIANT: an instance has an address that is an IP address or a host name, and no name and no tag of an instance, a service
//! or a node holds control characters. What is otherwise is left out: a single bad registration must not stop every file, nor
//! write lines into it.

use std::{collections::BTreeMap, net::Ipv6Addr};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::dependency::Dependency;

/// The answer to one [`Dependency`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fact {
    /// To [`Dependency::Service`].
    Instances(Vec<Instance>),
    /// To [`Dependency::Services`].
    Services(Vec<ServiceName>),
    /// To [`Dependency::Nodes`].
    Nodes(Vec<NodeRow>),
    /// To [`Dependency::Node`]; none where there is no such node.
    Node(Option<NodeDetails>),
    /// To [`Dependency::Key`]; none where the key is not set.
    Key(Option<Vec<u8>>),
    /// To [`Dependency::Prefix`], sorted by key.
    Pairs(Vec<Pair>),
}

/// One running instance of a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Instance {
    /// Names it on its node.
    pub id: String,
    /// Its service.
    pub name: String,
    /// Its own address, or that of its node.
    pub address: String,
    /// Its port.
    pub port: u16,
    /// `address:port`, with the brackets that an IPv6 address needs.
    pub endpoint: String,
    /// Sorted.
    pub tags: Vec<String>,
    /// What its owner says.
    pub meta: BTreeMap<String, String>,
    /// Name of its node.
    pub node: String,
    /// Address of its node.
    pub node_address: String,
    /// What is said about its node.
    pub node_meta: BTreeMap<String, String>,
    /// Share of the traffic while it passes.
    pub weight: u32,
    /// The worst of its checks: `passing`, `warning`, `critical` or `maintenance`.
    pub status: &'static str,
}

/// A service and the tags of its instances.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ServiceName {
    /// Its name.
    pub name: String,
    /// Sorted.
    pub tags: Vec<String>,
}

/// A node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all(deserialize = "PascalCase"), default)]
pub struct NodeRow {
    /// Its name.
    pub node: String,
    /// Where it answers.
    pub address: String,
    /// Never changes.
    #[serde(rename(deserialize = "ID"))]
    pub id: String,
    /// What is said about it.
    #[serde(deserialize_with = "or_default")]
    pub meta: BTreeMap<String, String>,
}

/// A node with what is registered there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NodeDetails {
    /// The node itself.
    pub node: NodeRow,
    /// Sorted by ID.
    pub services: Vec<NodeService>,
}

/// A service of one node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all(deserialize = "PascalCase"), default)]
pub struct NodeService {
    /// Names it on its node.
    #[serde(rename(deserialize = "ID"))]
    pub id: String,
    /// The service.
    #[serde(rename(deserialize = "Service"))]
    pub name: String,
    /// Its own address; empty for the node's.
    pub address: String,
    /// Its port.
    pub port: u16,
    /// Sorted.
    #[serde(deserialize_with = "or_default")]
    pub tags: Vec<String>,
    /// What its owner says.
    #[serde(deserialize_with = "or_default")]
    pub meta: BTreeMap<String, String>,
}

/// A key and its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// The whole key.
    pub path: String,
    /// Its bytes.
    pub value: Vec<u8>,
}

/// Reads an answer with status 200; a missing key has its own way ([`absent`]).
pub fn parse(dependency: &Dependency, body: &[u8]) -> Result<Fact, String> {
    Ok(match dependency {
        Dependency::Service { .. } => Fact::Instances(instances(read(body)?)),
        Dependency::Services => Fact::Services(services(read(body)?)),
        Dependency::Nodes => {
            let mut rows: Vec<NodeRow> = read::<Option<_>>(body)?.unwrap_or_default();
            rows.retain(|row| is_line(&row.node));
            rows.sort_by(|a, b| (&a.node, &a.id).cmp(&(&b.node, &b.id)));
            Fact::Nodes(rows)
        }
        Dependency::Node(_) => Fact::Node(read::<Option<RawNode>>(body)?.and_then(node_details)),
        Dependency::Key(_) => {
            let first = read::<Vec<RawPair>>(body)?.into_iter().next();
            Fact::Key(first.map(|pair| pair.bytes()).transpose()?)
        }
        Dependency::Prefix(_) => Fact::Pairs(pairs(read(body)?)?),
    })
}

/// What status 404 means; none where it is an error.
pub fn absent(dependency: &Dependency) -> Option<Fact> {
    match dependency {
        Dependency::Key(_) => Some(Fact::Key(None)),
        Dependency::Prefix(_) => Some(Fact::Pairs(Vec::new())),
        Dependency::Node(Some(_)) => Some(Fact::Node(None)),
        _ => None,
    }
}

/// The name of the node in the answer of `/v1/agent/self`.
pub fn own_name(body: &[u8]) -> Result<String, String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Config {
        node_name: String,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Own {
        config: Config,
    }
    read::<Own>(body).map(|own| own.config.node_name)
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RawInstance {
    node: NodeRow,
    service: RawService,
    #[serde(default, deserialize_with = "or_default")]
    checks: Vec<RawCheck>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct RawService {
    #[serde(flatten)]
    service: NodeService,
    #[serde(deserialize_with = "or_default")]
    weights: RawWeights,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct RawWeights {
    passing: u32,
}

impl Default for RawWeights {
    fn default() -> Self {
        Self { passing: 1 }
    }
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct RawCheck {
    #[serde(rename = "CheckID")]
    check_id: String,
    status: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RawNode {
    node: Option<NodeRow>,
    #[serde(default, deserialize_with = "or_default")]
    services: BTreeMap<String, NodeService>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RawPair {
    key: String,
    value: Option<String>,
}

impl RawPair {
    fn bytes(&self) -> Result<Vec<u8>, String> {
        let value = self.value.as_deref().unwrap_or_default();
        STANDARD.decode(value).map_err(|error| format!("the value of key {:?} is not base64: {error}", self.key))
    }
}

fn instances(raw: Option<Vec<RawInstance>>) -> Vec<Instance> {
    let mut instances: Vec<Instance> = raw.unwrap_or_default().into_iter().filter_map(instance).collect();
    instances.sort_by(|a, b| (&a.node, &a.id).cmp(&(&b.node, &b.id)));
    instances
}

fn instance(raw: RawInstance) -> Option<Instance> {
    let RawService { service, weights } = raw.service;
    let address = if service.address.is_empty() { raw.node.address.clone() } else { service.address };
    let mut tags = service.tags;
    tags.sort();
    let is_plain = [&service.id, &service.name, &raw.node.node].into_iter().chain(&tags).all(|word| is_line(word));
    if !is_host(&address) || !is_plain {
        tracing::warn!(name = ?service.name, id = ?service.id, address = ?address, "an instance is left out: bad address or name");
        return None;
    }
    let bracketed = address.parse::<Ipv6Addr>().is_ok();
    let endpoint =
        if bracketed { format!("[{address}]:{}", service.port) } else { format!("{address}:{}", service.port) };
    Some(Instance {
        id: service.id,
        name: service.name,
        address,
        port: service.port,
        endpoint,
        tags,
        meta: service.meta,
        node: raw.node.node,
        node_address: raw.node.address,
        node_meta: raw.node.meta,
        weight: weights.passing,
        status: worst(&raw.checks),
    })
}

/// True for what stays on the line where a template writes it.
fn is_line(word: &str) -> bool {
    !word.chars().any(char::is_control)
}

/// An IP address, or a name of the letters that names have. Names of Docker have underscores.
fn is_host(address: &str) -> bool {
    let is_name = || address.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
    !address.is_empty() && (address.parse::<Ipv6Addr>().is_ok() || is_name())
}

/// As consul-template sums checks up.
fn worst(checks: &[RawCheck]) -> &'static str {
    let is = |status: &str| checks.iter().any(|check| check.status == status);
    let in_maintenance =
        |check: &RawCheck| check.check_id == "_node_maintenance" || check.check_id.starts_with("_service_maintenance:");
    match () {
        () if checks.iter().any(in_maintenance) => "maintenance",
        () if is("critical") => "critical",
        () if is("warning") => "warning",
        () => "passing",
    }
}

fn services(raw: Option<BTreeMap<String, Option<Vec<String>>>>) -> Vec<ServiceName> {
    let one = |(name, tags): (String, Option<Vec<String>>)| {
        let mut tags = tags.unwrap_or_default();
        tags.retain(|tag| is_line(tag));
        tags.sort();
        ServiceName { name, tags }
    };
    raw.unwrap_or_default().into_iter().filter(|(name, _)| is_line(name)).map(one).collect()
}

fn node_details(raw: RawNode) -> Option<NodeDetails> {
    let mut services: Vec<NodeService> = raw.services.into_values().collect();
    services.retain(|service| {
        let is_reachable = service.address.is_empty() || is_host(&service.address);
        is_reachable && [&service.id, &service.name].into_iter().chain(&service.tags).all(|word| is_line(word))
    });
    services.iter_mut().for_each(|service| service.tags.sort());
    services.sort_by(|a, b| a.id.cmp(&b.id));
    Some(NodeDetails { node: raw.node?, services })
}

fn pairs(raw: Option<Vec<RawPair>>) -> Result<Vec<Pair>, String> {
    let raw = raw.unwrap_or_default();
    let mut pairs = raw
        .iter()
        .map(|pair| Ok(Pair { path: pair.key.clone(), value: pair.bytes()? }))
        .collect::<Result<Vec<_>, String>>()?;
    pairs.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(pairs)
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, String> {
    serde_json::from_slice(body).map_err(|error| format!("the answer is not what Consul's API gives: {error}"))
}

/// Go writes `null` for what is empty.
fn or_default<'de, D: serde::Deserializer<'de>, T: Deserialize<'de> + Default>(value: D) -> Result<T, D::Error> {
    Option::<T>::deserialize(value).map(Option::unwrap_or_default)
}

#[cfg(test)]
mod tests {
    use super::{super::dependency::HealthFilter, *};

    fn service() -> Dependency {
        Dependency::service("web", None, HealthFilter::Any).unwrap()
    }

    fn parsed(rows: &str) -> Vec<Instance> {
        match parse(&service(), rows.as_bytes()).unwrap() {
            Fact::Instances(instances) => instances,
            other => panic!("{other:?}"),
        }
    }

    fn row(node: &str, id: &str, address: &str) -> String {
        format!(
            r#"{{"Node":{{"Node":"{node}","Address":"192.0.2.1","Meta":null}},
                "Service":{{"ID":"{id}","Service":"web","Address":"{address}","Port":80,"Tags":["b","a"],"Meta":null}},
                "Checks":[{{"CheckID":"c","Status":"warning"}}]}}"#
        )
    }

    #[test]
    fn instances_are_sorted_by_node_then_id_and_tags_by_name() {
        let rows = format!("[{},{},{}]", row("n2", "a", ""), row("n1", "z", ""), row("n1", "b", "10.0.0.1"));
        let instances = parsed(&rows);
        let order: Vec<_> = instances.iter().map(|one| (one.node.as_str(), one.id.as_str())).collect();
        assert_eq!(order, [("n1", "b"), ("n1", "z"), ("n2", "a")]);
        assert_eq!(instances[0].tags, ["a", "b"]);
        assert_eq!(instances[0].status, "warning");
        assert_eq!(instances[0].weight, 1);
    }

    #[test]
    fn an_instance_without_an_address_has_that_of_its_node() {
        assert_eq!(parsed(&format!("[{}]", row("n", "a", "")))[0].endpoint, "192.0.2.1:80");
    }

    #[test]
    fn an_ipv6_address_gets_brackets_before_its_port() {
        assert_eq!(parsed(&format!("[{}]", row("n", "a", "fd00::1")))[0].endpoint, "[fd00::1]:80");
    }

    #[test]
    fn an_instance_that_could_write_lines_into_the_file_is_left_out_and_the_others_stay() {
        let rows =
            [row("n", "a\\nevil", ""), row("n", "b", "1.2.3.4 ssl"), row("n", "c", "h\\n"), row("n", "d", "good")];
        let left: Vec<_> = parsed(&format!("[{}]", rows.join(","))).into_iter().map(|one| one.id).collect();
        assert_eq!(left, ["d"]);
    }

    #[test]
    fn neither_do_lists_of_services_and_nodes_write_lines() {
        let services = br#"{"web":["a","b\nevil"],"evil\nname":[]}"#;
        let web = ServiceName { name: "web".into(), tags: vec!["a".into()] };
        assert_eq!(parse(&Dependency::Services, services).unwrap(), Fact::Services(vec![web]));
        let nodes = br#"[{"Node":"n"},{"Node":"n\nevil"}]"#;
        assert!(matches!(parse(&Dependency::Nodes, nodes).unwrap(), Fact::Nodes(rows) if rows.len() == 1));
        let node = br#"{"Node":{"Node":"n"},"Services":{"a":{"ID":"a"},"b":{"ID":"b","Tags":["x\ny"]},
            "c":{"ID":"c","Address":"1.2.3.4 ssl"}}}"#;
        let parsed = parse(&Dependency::Node(Some("n".into())), node).unwrap();
        let Fact::Node(Some(details)) = parsed else { panic!("{parsed:?}") };
        assert_eq!(details.services.iter().map(|each| each.id.as_str()).collect::<Vec<_>>(), ["a"]);
    }

    #[test]
    fn null_is_an_empty_list() {
        assert_eq!(parsed("null"), []);
        assert_eq!(parse(&Dependency::Services, b"null").unwrap(), Fact::Services(vec![]));
        assert_eq!(parse(&Dependency::Node(Some("x".into())), b"null").unwrap(), Fact::Node(None));
    }

    #[test]
    fn a_value_is_decoded_and_null_is_empty() {
        let key = Dependency::Key("k".into());
        assert_eq!(parse(&key, br#"[{"Key":"k","Value":"Ymx1ZQ=="}]"#).unwrap(), Fact::Key(Some(b"blue".into())));
        assert_eq!(parse(&key, br#"[{"Key":"k","Value":null}]"#).unwrap(), Fact::Key(Some(vec![])));
        assert!(parse(&key, br#"[{"Key":"k","Value":"*"}]"#).unwrap_err().contains("base64"));
        assert!(parse(&key, b"<html>").unwrap_err().contains("not what Consul's API gives"));
    }
}

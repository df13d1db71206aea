//! What clients read of services, path by path, from a view that is made by hand.

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use hyper::{Method, StatusCode, body::Bytes};
use serde_json::Value;
use tokio::sync::watch;
use weaved_api::PeerId;

use super::{
    answer::{Answer, Body},
    kv::{Keys, Turns},
    request::Ask,
    routes::Routes,
    server::Handler,
};
use crate::{
    catalogue::{
        Check, CheckId, Drain, Health, Index, Instance, InstanceId, InstanceView, NodeFacts, NodeView, Readiness,
        ServiceView, Source, Standing, View,
    },
    kv::{self, Contact},
    node::MemberState,
    registration::{
        agent::{AgentHandle, AgentView},
        consul_json,
    },
};

/// A store that is ending.
struct NoKeys;

impl Keys for NoKeys {
    async fn call_from(&self, _request: kv::Request, _source: &str) -> kv::Answer {
        Err(kv::KvError::Ending)
    }
}

const ME: PeerId = PeerId([1; 32]);
const OTHER: PeerId = PeerId([2; 32]);

fn node(id: PeerId, name: &str, standing: Standing) -> NodeFacts {
    let state = if standing == Standing::Trusted { MemberState::Up } else { MemberState::Down };
    NodeFacts {
        id,
        name: name.into(),
        address: Some(format!("192.0.2.{}", id.0[0]).parse().unwrap()),
        gateway: None,
        state,
        standing,
        meta: BTreeMap::new(),
    }
}

fn instance(facts: &NodeFacts, tags: &[&str], health: Health, drain: Drain) -> Arc<InstanceView> {
    let check = Check { id: CheckId("c".into()), name: "C".into(), kind: "tcp".into(), health, output: "said".into() };
    let instance = Instance {
        id: InstanceId(format!("{}:web:80", facts.name)),
        service: "web".into(),
        address: Some("10.32.0.5".parse().unwrap()),
        port: 80,
        tags: tags.iter().map(ToString::to_string).collect(),
        meta: BTreeMap::new(),
        source: Source::Api,
        drain,
        checks: vec![check],
    };
    let (address, health) = (instance.address, health.max(facts.health()));
    Arc::new(InstanceView {
        instance,
        node: Arc::new(facts.clone()),
        address,
        health,
        created: Index(3),
        modified: Index(4),
    })
}

/// `a` (we) has a blue instance, `b` a green one.
fn view(b: Standing, health: Health, drain: Drain) -> View {
    let mut view = View::starting(ME, Index(7));
    view.readiness = Readiness::Ready;
    let facts = [node(ME, "a", Standing::Trusted), node(OTHER, "b", b)];
    let all = [
        instance(&facts[0], &["blue", "v1"], health, drain),
        instance(&facts[1], &["green"], Health::Passing, Drain::Serving),
    ];
    for (facts, listed) in facts.into_iter().zip(&all) {
        let instances = vec![Arc::clone(listed)];
        let shown = NodeView { facts, index: Index(5), created: Index(1), modified: Index(2), instances };
        view.nodes.insert(shown.facts.id, Arc::new(shown));
    }
    let service = ServiceView { name: "web".into(), index: Index(6), instances: all.to_vec() };
    view.services.insert("web".into(), Arc::new(service));
    view
}

/// An agent that shows this to everybody.
fn agent(shown: AgentView) -> AgentHandle {
    let (handle, mut calls) = AgentHandle::new();
    tokio::spawn(async move {
        while let Some((_, answer)) = calls.recv().await {
            drop(answer.send(Ok(shown.clone())));
        }
    });
    handle
}

async fn get_from(view: View, path: &str) -> Answer {
    get_with(view, vec![], path).await
}

/// The same where these checks are registered for the node that is asked.
async fn get_with(view: View, node_checks: Vec<Check>, path: &str) -> Answer {
    let instances = view.nodes[&ME].instances.iter().map(|listed| listed.instance.clone()).collect();
    let own = AgentView { instances, node_checks, notes: vec![] };
    let (_sender, views) = watch::channel(Arc::new(view));
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    match Ask::new(Method::GET, path, Some(query), Bytes::new()) {
        Ok(ask) => {
            let (_told, contact) = watch::channel(Contact::none(Instant::now()));
            let (turns, agent) = (Turns::default(), agent(own));
            Routes { views, contact, keys: NoKeys, turns, agent, token: None }.answer(ask).await
        }
        Err(answer) => answer,
    }
}

async fn get(path: &str) -> Answer {
    get_from(view(Standing::Trusted, Health::Passing, Drain::Serving), path).await
}

fn json(answer: &Answer) -> &Value {
    match &answer.body {
        Body::Json(value) => value,
        other => panic!("{other:?} is not JSON"),
    }
}

fn ids(answer: &Answer) -> Vec<&str> {
    let entries = json(answer).as_array().unwrap();
    entries.iter().map(|entry| entry["Service"]["ID"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn a_service_is_told_with_its_node_and_the_checks_of_both() {
    let answer = get("/v1/health/service/web").await;
    assert_eq!(answer.index, Some(6));
    let first = &json(&answer)[0];
    assert_eq!(first["Node"]["Node"], "a");
    assert_eq!(first["Node"]["ID"], "01010101-0101-0101-0101-010101010101");
    assert_eq!((&first["Service"]["Address"], &first["Service"]["Port"]), (&"10.32.0.5".into(), &80.into()));
    assert_eq!(first["Service"]["Tags"], serde_json::json!(["blue", "v1"]));
    let checks: Vec<_> = first["Checks"].as_array().unwrap().iter().map(|check| check["CheckID"].as_str()).collect();
    assert_eq!(checks, [Some("serfHealth"), Some("c")]);
}

#[tokio::test]
async fn passing_leaves_out_the_ill_the_draining_and_what_ran_on_a_dead_host() {
    let passing = async |view| get_from(view, "/v1/health/service/web?passing=1").await;
    for (answer, expected) in [
        (passing(view(Standing::Trusted, Health::Passing, Drain::Serving)).await, vec!["a:web:80", "b:web:80"]),
        (passing(view(Standing::Trusted, Health::Critical, Drain::Serving)).await, vec!["b:web:80"]),
        (passing(view(Standing::Trusted, Health::Passing, Drain::Draining)).await, vec!["b:web:80"]),
        (passing(view(Standing::Suspended, Health::Passing, Drain::Serving)).await, vec!["a:web:80"]),
    ] {
        assert_eq!(ids(&answer), expected);
    }
    let all = get_from(view(Standing::Suspended, Health::Passing, Drain::Draining), "/v1/health/service/web").await;
    assert_eq!(ids(&all).len(), 2, "without the filter everything is told");
    assert_eq!(json(&all)[0]["Checks"][1]["CheckID"], "_service_maintenance:a:web:80");
    assert_eq!(json(&all)[1]["Checks"][0]["Status"], "critical");
}

#[tokio::test]
async fn tags_choose_and_several_must_all_be_there() {
    for (query, expected) in [
        ("tag=green", vec!["b:web:80"]),
        ("tag=BLUE", vec!["a:web:80"]),
        ("tag=blue&tag=v1", vec!["a:web:80"]),
        ("tag=blue&tag=green", vec![]),
        ("tag=", vec!["a:web:80", "b:web:80"]),
        ("node-meta=rack:1", vec![]),
    ] {
        assert_eq!(ids(&get(&format!("/v1/health/service/web?{query}")).await), expected, "{query}");
    }
}

#[tokio::test]
async fn metadata_of_nodes_chooses_in_lists_of_all_services_and_checks_too() {
    for (path, none) in
        [("/v1/catalog/services", serde_json::json!({})), ("/v1/health/state/any", serde_json::json!([]))]
    {
        assert_ne!(*json(&get(path).await), none, "{path}");
        assert_eq!(*json(&get(&format!("{path}?node-meta=rack:1")).await), none, "{path}");
    }
}

#[tokio::test]
async fn what_is_not_there_is_an_empty_list_with_an_index() {
    for path in
        ["/v1/health/service/none", "/v1/catalog/service/none", "/v1/health/checks/none", "/v1/health/node/none"]
    {
        let answer = get(path).await;
        assert_eq!((answer.status, json(&answer)), (StatusCode::OK, &serde_json::json!([])), "{path}");
        assert!(answer.index.is_some_and(|index| index >= 1), "{path}");
    }
    assert_eq!(json(&get("/v1/catalog/node/none").await), &Value::Null, "Consul's own answer");
}

#[tokio::test]
async fn the_catalogue_lists_services_with_tags_nodes_and_rows() {
    assert_eq!(json(&get("/v1/catalog/services").await), &serde_json::json!({"web": ["blue", "green", "v1"]}));
    assert_eq!(json(&get("/v1/catalog/datacenters").await), &serde_json::json!(["dc1"]));
    assert_eq!(json(&get("/v1/catalog/nodes").await)[1]["Address"], "192.0.2.2");
    let rows = get("/v1/catalog/service/web?tag=green").await;
    assert_eq!((&json(&rows)[0]["ServiceName"], &json(&rows)[0]["ServicePort"]), (&"web".into(), &80.into()));
    let node = get("/v1/catalog/node/b").await;
    assert_eq!(json(&node)["Services"]["b:web:80"]["Service"], "web");
}

#[tokio::test]
async fn the_agent_tells_its_own_and_the_health_its_states() {
    assert_eq!(json(&get("/v1/agent/self").await)["Config"]["NodeName"], "a");
    let own = get("/v1/agent/services").await;
    assert_eq!(json(&own).as_object().unwrap().keys().collect::<Vec<_>>(), ["a:web:80"]);
    let down = view(Standing::Suspended, Health::Passing, Drain::Serving);
    let members = get_from(down.clone(), "/v1/agent/members").await;
    let states: Vec<_> = json(&members).as_array().unwrap().iter().map(|member| member["Status"].as_u64()).collect();
    assert_eq!(states, [Some(1), Some(4)]);
    let critical = get_from(down, "/v1/health/state/critical").await;
    assert_eq!(json(&critical).as_array().unwrap().len(), 1);
    assert_eq!(json(&get("/v1/status/peers").await), &serde_json::json!(["192.0.2.1:8300", "192.0.2.2:8300"]));
}

#[tokio::test]
async fn what_cannot_be_answered_is_refused_and_not_answered_wrongly() {
    for (path, status) in [
        ("/v1/health/service/web?dc=elsewhere", StatusCode::INTERNAL_SERVER_ERROR),
        ("/v1/health/service/web?ns=team", StatusCode::BAD_REQUEST),
        ("/v1/health/service/web?partition=team", StatusCode::BAD_REQUEST),
        ("/v1/health/service/web?peer=elsewhere", StatusCode::BAD_REQUEST),
        ("/v1/health/service/web?ns=default&partition=&peer=&dc=dc1", StatusCode::OK),
        ("/v1/health/service/web?index=x", StatusCode::BAD_REQUEST),
        ("/v1/health/service/web?stale&consistent", StatusCode::BAD_REQUEST),
        ("/v1/health/service/", StatusCode::BAD_REQUEST),
        ("/v1/health/state/unwell", StatusCode::BAD_REQUEST),
        ("/v1/event/list", StatusCode::NOT_IMPLEMENTED),
        ("/v1/nothing", StatusCode::NOT_FOUND),
    ] {
        assert_eq!(get(path).await.status, status, "{path}");
    }
}

#[tokio::test]
async fn weights_are_told_as_they_were_registered_and_not_as_metadata() {
    let body = r#"{"ID":"a:web:80","Name":"web","Meta":{"version":"1"},"Weights":{"Passing":10,"Warning":0}}"#;
    let definition = consul_json::parse_service(body).unwrap();
    let mut view = view(Standing::Trusted, Health::Passing, Drain::Serving);
    let mut node = NodeView::clone(&view.nodes[&ME]);
    Arc::make_mut(&mut node.instances[0]).instance.meta = definition.meta;
    let instances = vec![Arc::clone(&node.instances[0]), Arc::clone(&view.services["web"].instances[1])];
    view.services.insert("web".into(), Arc::new(ServiceView { name: "web".into(), index: Index(6), instances }));
    view.nodes.insert(ME, Arc::new(node));
    let (said, meta) = (serde_json::json!({"Passing": 10, "Warning": 0}), serde_json::json!({"version": "1"}));
    for (path, service) in [
        ("/v1/agent/service/a:web:80", ""),
        ("/v1/agent/services", "/a:web:80"),
        ("/v1/health/service/web", "/0/Service"),
        ("/v1/catalog/node/a", "/Services/a:web:80"),
    ] {
        let answer = get_from(view.clone(), path).await;
        let service = json(&answer).pointer(service).unwrap();
        assert_eq!((&service["Weights"], &service["Meta"]), (&said, &meta), "{path}");
    }
    let rows = get_from(view, "/v1/catalog/service/web").await;
    assert_eq!((&json(&rows)[0]["ServiceWeights"], &json(&rows)[0]["ServiceMeta"]), (&said, &meta));
    assert_eq!(json(&rows)[1]["ServiceWeights"], serde_json::json!({"Passing": 1, "Warning": 1}));
}

#[tokio::test]
async fn a_filter_is_refused_on_every_path_instead_of_an_answer_that_ignores_it() {
    let paths = "catalog/nodes catalog/services catalog/service/web catalog/node/a health/service/web health/checks/web \
                 health/node/a health/state/any agent/services agent/checks agent/members agent/self session/list kv/a";
    for path in paths.split_whitespace() {
        let answer = get(&format!("/v1/{path}?filter=Port%20%3D%3D%2080")).await;
        assert!(matches!(&answer.body, Body::Text(line) if line.starts_with("filter= is not supported")), "{path}");
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{path}");
        assert_ne!(get(&format!("/v1/{path}?filter=")).await.status, StatusCode::BAD_REQUEST, "{path}");
    }
}

/// `a` has two instances; each has these checks besides its own.
fn with_node_checks(checks: &[Check]) -> View {
    let mut view = view(Standing::Trusted, Health::Passing, Drain::Serving);
    let mut node = NodeView::clone(&view.nodes[&ME]);
    node.instances = ["1", "2"]
        .map(|name| {
            let mut listed = InstanceView::clone(&node.instances[0]);
            listed.instance.id = InstanceId(name.into());
            listed.instance.checks[0].id = CheckId(format!("service:{name}"));
            listed.instance.checks.extend_from_slice(checks);
            Arc::new(listed)
        })
        .to_vec();
    view.nodes.insert(ME, Arc::new(node));
    view
}

fn named(id: &str, health: Health) -> Check {
    Check { id: CheckId(id.into()), name: id.into(), kind: "ttl".into(), health, output: "said".into() }
}

/// Checks by their id and what they are of, in order.
fn subjects<'a>(checks: impl Iterator<Item = &'a Value>) -> Vec<(&'a str, &'a str)> {
    let word = |check: &'a Value, key: &str| check[key].as_str().unwrap();
    let mut found: Vec<_> = checks.map(|check| (word(check, "CheckID"), word(check, "ServiceID"))).collect();
    found.sort_unstable();
    found
}

#[tokio::test]
async fn a_check_of_the_node_is_listed_once_and_of_no_service() {
    let of_node = [named("disk", Health::Warning), named("_node_maintenance", Health::Critical)];
    let expected = [("_node_maintenance", ""), ("disk", ""), ("service:1", "1"), ("service:2", "2")];
    let answer = get_with(with_node_checks(&of_node), of_node.to_vec(), "/v1/agent/checks").await;
    let agents = json(&answer).as_object().unwrap();
    assert_eq!(subjects(agents.values()), expected);
    assert_eq!((&agents["disk"]["Status"], &agents["disk"]["ServiceName"]), (&"warning".into(), &"".into()));
    for path in ["/v1/health/node/a", "/v1/health/state/any"] {
        let answer = get_with(with_node_checks(&of_node), of_node.to_vec(), path).await;
        let mut listed = subjects(json(&answer).as_array().unwrap().iter().filter(|check| check["Node"] == "a"));
        listed.retain(|(id, _)| *id != "serfHealth");
        assert_eq!(listed, expected, "{path}");
    }
}

#[tokio::test]
async fn a_node_without_services_lists_its_checks_too() {
    let mut view = view(Standing::Trusted, Health::Passing, Drain::Serving);
    let node = NodeView { instances: vec![], ..NodeView::clone(&view.nodes[&ME]) };
    view.nodes.insert(ME, Arc::new(node));
    let answer = get_with(view, vec![named("disk", Health::Passing)], "/v1/agent/checks").await;
    assert_eq!(subjects(json(&answer).as_object().unwrap().values()), [("disk", "")]);
}

#[tokio::test]
async fn checks_of_one_name_that_differ_are_those_of_their_services() {
    let mut view = with_node_checks(&[named("disk", Health::Passing)]);
    let mut node = NodeView::clone(&view.nodes[&ME]);
    Arc::make_mut(&mut node.instances[1]).instance.checks[1].health = Health::Critical;
    view.nodes.insert(ME, Arc::new(node));
    let answer = get_from(view, "/v1/health/node/a").await;
    let listed = subjects(json(&answer).as_array().unwrap().iter());
    assert_eq!(listed, [("disk", "1"), ("disk", "2"), ("serfHealth", ""), ("service:1", "1"), ("service:2", "2")]);
}

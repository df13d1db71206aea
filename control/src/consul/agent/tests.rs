//! What clients may ask of this node's registrations, and what of it comes to who keeps them.

use std::sync::Mutex;

use hyper::{Method, body::Bytes};
use tokio::sync::watch;
use weaved_api::PeerId;

use super::*;
use crate::{
    catalogue::{Index, NodeFacts, Readiness, Standing},
    consul::answer::Body,
    node::MemberState,
    registration::agent::AgentView,
};

/// What the registrar was asked.
type Asked = Arc<Mutex<Vec<AgentRequest>>>;

fn node(octet: u8, name: &str) -> Arc<NodeView> {
    let facts = NodeFacts {
        id: PeerId([octet; 32]),
        name: name.into(),
        address: Some(format!("192.0.2.{octet}").parse().unwrap()),
        gateway: None,
        state: MemberState::Up,
        standing: Standing::Trusted,
        meta: BTreeMap::new(),
    };
    Arc::new(NodeView { facts, index: Index(5), created: Index(1), modified: Index(2), instances: vec![] })
}

/// `a` (we) and `b`.
fn views() -> (watch::Sender<Arc<View>>, Views) {
    let mut view = View::starting(PeerId([1; 32]), Index(7));
    view.readiness = Readiness::Ready;
    for node in [node(1, "a"), node(2, "b")] {
        view.nodes.insert(node.facts.id, node);
    }
    watch::channel(Arc::new(view))
}

/// A registrar that writes down what it is asked, and says yes.
fn willing() -> (AgentHandle, Asked) {
    let (handle, mut calls) = AgentHandle::new();
    let asked = Asked::default();
    let written = Arc::clone(&asked);
    tokio::spawn(async move {
        while let Some((request, answer)) = calls.recv().await {
            written.lock().unwrap().push(request);
            drop(answer.send(Ok(AgentView::default())));
        }
    });
    (handle, asked)
}

/// What a client that puts this is answered, and what the registrar was asked for it.
async fn put(path: &str, body: &str) -> (Answer, Vec<AgentRequest>) {
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    let ask = Ask::new(Method::PUT, path, Some(query), Bytes::from(body.to_owned())).unwrap();
    let ((handle, asked), (_sender, views)) = (willing(), views());
    let answer = match ask.path.as_str() {
        "catalog/register" => catalog_register(&ask, &handle, &views).await,
        "catalog/deregister" => catalog_deregister(&ask, &handle, &views).await,
        _ => {
            let rest = ask.behind("agent").unwrap();
            super::answer(&ask, rest, &handle, &views).await.map(|answer| answer.expect("there is such a path"))
        }
    };
    let asked = asked.lock().unwrap().clone();
    (answer.unwrap_or_else(|refused| refused), asked)
}

fn line(answer: &Answer) -> &str {
    match &answer.body {
        Body::Text(line) => line,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn no_door_takes_a_check_by_a_command() {
    for command in [
        r#""DockerContainerID":"f00","Args":["true"]"#,
        r#""DockerContainerID":"f00","Script":"true""#,
        r#""Args":["true"]"#,
        r#""Script":"true""#,
    ] {
        for (path, body) in [
            ("/v1/agent/service/register", format!(r#"{{"Name":"web","Check":{{{command}}}}}"#)),
            ("/v1/agent/service/register", format!(r#"{{"Name":"web","Checks":[{{"TTL":"1m"}},{{{command}}}]}}"#)),
            ("/v1/agent/check/register", format!(r#"{{"Name":"up",{command}}}"#)),
            ("/v1/agent/check/register", format!(r#"{{"Name":"up","ServiceID":"web",{command}}}"#)),
            ("/v1/catalog/register", format!(r#"{{"Node":"a","Service":{{"Service":"web","Check":{{{command}}}}}}}"#)),
        ] {
            let (answer, asked) = put(path, &body).await;
            assert_eq!((answer.status, asked), (StatusCode::BAD_REQUEST, vec![]), "{path} {body}");
            let line = line(&answer);
            assert!(line.starts_with("a check by a command is not taken from clients: "), "{path} {body}: {line}");
            assert!(!line.contains('\n'), "{line}");
        }
    }
    let (answer, asked) = put("/v1/agent/service/register", r#"{"Name":"web","Check":{"TTL":"1m"}}"#).await;
    assert_eq!((answer.status, asked.len()), (StatusCode::OK, 1));
}

#[tokio::test]
async fn names_of_checks_that_would_hide_every_service_of_the_host_are_refused() {
    let long = "x".repeat(256);
    for (path, body) in [
        ("/v1/agent/check/register", format!(r#"{{"ID":"up","Name":"{long}","TTL":"1m"}}"#)),
        ("/v1/agent/service/register", format!(r#"{{"Name":"web","Check":{{"Name":"{long}","TTL":"1m"}}}}"#)),
        // The check is called `service:ID`.
        ("/v1/agent/service/register", format!(r#"{{"Name":"web","ID":"{}","Check":{{"TTL":"1m"}}}}"#, &long[..248])),
    ] {
        let (answer, asked) = put(path, &body).await;
        assert_eq!((answer.status, asked.len()), (StatusCode::BAD_REQUEST, 0), "{path} {body}");
        assert!(line(&answer).contains(" of a check has 256 bytes, at most 255 fit"), "{}", line(&answer));
    }
}

#[tokio::test]
async fn what_is_deregistered_of_another_member_stays_here() {
    for (node, is_of_us) in [
        (r#""Node":"a""#, true),
        (r#""Node":"a","Address":"192.0.2.1""#, true),
        // registrator v5 makes a node of each container.
        (r#""Node":"f00ba4c0ffee","Address":"10.32.0.5""#, true),
        (r#""Datacenter":"dc1""#, true),
        (r#""Node":"b""#, false),
        (r#""Node":"f00ba4c0ffee","Address":"192.0.2.2""#, false),
    ] {
        for what in [r#""ServiceID":"web""#, r#""CheckID":"up""#] {
            let (answer, asked) = put("/v1/catalog/deregister", &format!("{{{node},{what}}}")).await;
            let status = if is_of_us { StatusCode::OK } else { StatusCode::BAD_REQUEST };
            assert_eq!((answer.status, asked.len()), (status, usize::from(is_of_us)), "{node} {what}");
        }
    }
    let (answer, _) = put("/v1/catalog/deregister", r#"{"Node":"b","ServiceID":"web"}"#).await;
    assert!(line(&answer).starts_with("b is another member: "), "{}", line(&answer));
}

#[tokio::test]
async fn maintenance_takes_every_truth_value_that_go_takes() {
    let set = async |enable: &str| {
        let (answer, asked) = put(&format!("/v1/agent/service/maintenance/web?enable={enable}"), "").await;
        let is_on = asked.first().map(|request| match request {
            AgentRequest::SetMaintenance { mode, .. } => matches!(mode, Maintenance::On { .. }),
            other => panic!("{other:?}"),
        });
        (answer.status, is_on)
    };
    for enable in ["1", "t", "T", "true", "TRUE", "True"] {
        assert_eq!(set(enable).await, (StatusCode::OK, Some(true)), "{enable}");
    }
    for enable in ["0", "f", "F", "false", "FALSE", "False"] {
        assert_eq!(set(enable).await, (StatusCode::OK, Some(false)), "{enable}");
    }
    for enable in ["", "yes", "tRUE", "2"] {
        assert_eq!(set(enable).await, (StatusCode::BAD_REQUEST, None), "{enable}");
    }
}

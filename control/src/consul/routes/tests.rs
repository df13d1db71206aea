//! Which method goes where, and what a client hears of a node that is cut off, with the machine that knows it.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use hyper::body::Bytes;
use weaved_api::PeerId;

use super::*;
use crate::{
    catalogue::{Index, Readiness, View},
    consul::{
        answer::{Body, Layout},
        methods::Methods,
    },
    kv::{self, Kv, KvError, Members, RequestId},
};

const ME: PeerId = PeerId([1; 32]);

/// The store of a node that votes alone.
#[derive(Clone)]
struct Replica(Arc<Mutex<Kv>>);

impl Replica {
    fn new() -> Self {
        Self(Arc::new(Mutex::new(kv::testing::alone(&vec![]))))
    }

    /// What is told of it when these are alive.
    fn sees(&self, live: &[PeerId], now: Instant) -> Contact {
        let mut kv = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let live = live.iter().copied().collect();
        kv.handle_members(Members { live, ..Members::default() }, now, 1);
        kv.contact()
    }
}

impl Keys for Replica {
    async fn call_from(&self, request: kv::Request, _source: &str) -> kv::Answer {
        let mut kv = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kv.handle_request(RequestId(1), request, Instant::now(), 100);
        drop(kv.poll_persist());
        kv.handle_stored();
        kv.poll_answer().map_or(Err(KvError::Busy), |(_, answer)| answer)
    }
}

struct Scene {
    replica: Replica,
    told: watch::Sender<Contact>,
    routes: Routes<Replica>,
    _views: watch::Sender<Arc<View>>,
}

fn scene() -> Scene {
    let replica = Replica::new();
    let (told, contact) = watch::channel(replica.sees(&[ME], Instant::now()));
    let mut view = View::starting(ME, Index(7));
    view.readiness = Readiness::Ready;
    let (views_sender, views) = watch::channel(Arc::new(view));
    // Nobody takes what the agent is asked.
    let agent = AgentHandle::new().0;
    let routes = Routes { views, contact, keys: replica.clone(), turns: Turns::default(), agent, token: None };
    Scene { replica, told, routes, _views: views_sender }
}

impl Scene {
    async fn ask(&self, method: Method, path: &str) -> Answer {
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        match Ask::new(method, path, Some(query), Bytes::from("v")) {
            Ok(ask) => self.routes.answer(ask).await,
            Err(answer) => answer,
        }
    }

    /// `X-Consul-KnownLeader` and `X-Consul-LastContact` of an answer to this.
    async fn contact(&self, path: &str) -> (String, u64) {
        let answer = self.ask(Method::GET, path).await;
        assert_ne!(answer.status, StatusCode::INTERNAL_SERVER_ERROR, "{path}: {answer:?}");
        let response = answer.into_response(self.routes.standing(), Layout::Compact);
        let header = |name: &str| response.headers()[name].to_str().unwrap().to_owned();
        (header("x-consul-knownleader"), header("x-consul-lastcontact").parse().unwrap())
    }
}

const READS: [&str; 6] = [
    "/v1/kv/plain",
    "/v1/kv/backend/web",
    "/v1/kv/?recurse",
    "/v1/health/service/web",
    "/v1/catalog/services",
    "/v1/session/list",
];

#[tokio::test]
async fn reads_of_a_node_that_is_cut_off_go_on_and_say_for_how_long_it_is_and_stop_when_it_is_back() {
    let scene = scene();
    for path in READS {
        assert_eq!(scene.contact(path).await, ("true".into(), 0), "{path}");
    }
    let ago = Instant::now().checked_sub(Duration::from_secs(90)).unwrap();
    scene.told.send_replace(scene.replica.sees(&[], ago));
    // Who is there is told again; since when nobody is does not change.
    scene.told.send_replace(scene.replica.sees(&[], Instant::now()));
    for path in READS {
        let (known_leader, last_contact_ms) = scene.contact(path).await;
        assert!(known_leader == "false" && last_contact_ms >= 90_000, "{path}: {known_leader} {last_contact_ms}");
    }
    scene.told.send_replace(scene.replica.sees(&[ME], Instant::now()));
    assert_eq!(scene.contact("/v1/kv/plain").await, ("true".into(), 0));
}

#[tokio::test]
async fn a_consistent_read_is_refused_while_no_majority_is_alive_and_a_stale_one_is_not() {
    let scene = scene();
    assert_eq!(scene.ask(Method::PUT, "/v1/kv/backend/x").await.status, StatusCode::OK);
    let consistent = |path: &str| format!("{path}{}consistent", if path.contains('?') { '&' } else { '?' });
    for path in READS {
        let status = scene.ask(Method::GET, &consistent(path)).await.status;
        assert!([StatusCode::OK, StatusCode::NOT_FOUND].contains(&status), "{path}: {status}");
    }
    scene.told.send_replace(scene.replica.sees(&[], Instant::now()));
    for path in READS {
        let refused = scene.ask(Method::GET, &consistent(path)).await;
        assert_eq!((refused.status.as_u16(), refused.refusal), (500, Some("no-majority")), "{path}");
        assert!(matches!(&refused.body, Body::Text(line) if line.starts_with("No cluster leader: 0 of 1 voters")));
        let stale = format!("{path}{}stale", if path.contains('?') { '&' } else { '?' });
        assert_ne!(scene.ask(Method::GET, &stale).await.status, StatusCode::INTERNAL_SERVER_ERROR, "{path}");
    }
    // The agent tells of this node alone, and a change is decided by what it changes.
    assert_eq!(scene.ask(Method::GET, "/v1/agent/self?consistent").await.status, StatusCode::OK);
    assert_eq!(scene.ask(Method::PUT, "/v1/kv/plain?consistent").await.status, StatusCode::OK);
}

#[tokio::test]
async fn who_waits_for_a_consistent_answer_when_the_majority_goes_is_refused_as_well() {
    let scene = scene();
    let waiting = scene.ask(Method::GET, "/v1/catalog/services?consistent&index=7&wait=1ms");
    let cut = async { scene.told.send_replace(scene.replica.sees(&[], Instant::now())) };
    let (refused, _) = tokio::join!(waiting, cut);
    assert_eq!((refused.status.as_u16(), refused.refusal), (500, Some("no-majority")));
}

/// Every path that there is, and its methods.
const PATHS: [(&str, &str); 34] = [
    ("kv/a", "GET HEAD PUT POST DELETE"),
    ("txn", "PUT POST"),
    ("catalog/datacenters", "GET HEAD"),
    ("catalog/nodes", "GET HEAD"),
    ("catalog/services", "GET HEAD"),
    ("catalog/service/web", "GET HEAD"),
    ("catalog/node/a", "GET HEAD"),
    ("catalog/register", "PUT POST"),
    ("catalog/deregister", "PUT POST"),
    ("health/service/web", "GET HEAD"),
    ("health/checks/web", "GET HEAD"),
    ("health/node/a", "GET HEAD"),
    ("health/state/any", "GET HEAD"),
    ("agent/self", "GET HEAD"),
    ("agent/members", "GET HEAD"),
    ("agent/services", "GET HEAD"),
    ("agent/checks", "GET HEAD"),
    ("agent/maintenance", "PUT POST"),
    ("agent/service/web", "GET HEAD"),
    ("agent/service/register", "PUT POST"),
    ("agent/service/deregister/web", "PUT POST GET"),
    ("agent/service/maintenance/web", "PUT POST"),
    ("agent/check/register", "PUT POST"),
    ("agent/check/deregister/c", "PUT POST GET"),
    ("agent/check/pass/c", "PUT POST GET"),
    ("agent/check/update/c", "PUT POST"),
    ("session/create", "PUT POST"),
    ("session/destroy/x", "PUT POST"),
    ("session/renew/x", "PUT POST"),
    ("session/info/x", "GET HEAD"),
    ("session/list", "GET HEAD"),
    ("session/node/a", "GET HEAD"),
    ("status/leader", "GET HEAD"),
    ("status/peers", "GET HEAD"),
];

#[tokio::test]
async fn each_path_is_answered_by_its_methods_and_names_them_where_another_is_tried() {
    let scene = scene();
    for (path, methods) in PATHS {
        let path = format!("/v1/{path}");
        let options = scene.ask(Method::OPTIONS, &path).await;
        let named: BTreeSet<_> = options.allow.map_or("", Methods::names).split(',').collect();
        let expected: BTreeSet<_> = methods.split(' ').chain(["OPTIONS"]).collect();
        assert_eq!((options.status, named), (StatusCode::OK, expected), "{path}");
        for method in ["GET", "HEAD", "PUT", "POST", "DELETE", "PATCH"] {
            let answer = scene.ask(method.parse().unwrap(), &path).await;
            let is_there = methods.split(' ').any(|one| one == method);
            let is_refused = answer.status == StatusCode::METHOD_NOT_ALLOWED;
            assert_eq!((is_refused, answer.allow), (!is_there, options.allow.filter(|_| !is_there)), "{method} {path}");
            let is_unknown = matches!(&answer.body, Body::Text(line) if line.starts_with("there is no /v1/"));
            assert!(!is_unknown, "{method} {path}");
        }
    }
}

#[tokio::test]
async fn paths_that_there_are_not_have_no_methods() {
    let scene = scene();
    for path in ["nothing", "kvx", "catalog/x", "agent/check/x/y", "agent/check", "health", "status/raft", "txn/a"] {
        for method in [Method::GET, Method::PUT, Method::OPTIONS] {
            let answer = scene.ask(method.clone(), &format!("/v1/{path}")).await;
            assert_eq!((answer.status, answer.allow), (StatusCode::NOT_FOUND, None), "{method} {path}");
        }
    }
}

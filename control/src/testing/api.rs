//! Every route of the HTTP API, over a store of its own and a catalogue of one service.

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use hyper::Method;
use tokio::{runtime::Runtime, sync::watch};
use weaved_api::PeerId;

use super::{Alone, assert_usable};
use crate::{
    catalogue::{
        Check, CheckId, Drain, Health, Index, Instance, InstanceId, InstanceView, NodeFacts, NodeView, Readiness,
        ServiceView, Source, Standing, View,
    },
    consul::{
        answer::Layout,
        kv::{Keys as _, Turns},
        request::Ask,
        routes::Routes,
        server::Handler as _,
    },
    kv::{Behaviour, Change, Contact, Request, Rule, SessionSpec, Value},
    node::MemberState,
    registration::agent::{AgentCall, AgentHandle, AgentRequest, AgentView},
};

const ME: PeerId = PeerId([1; 32]);

/// Method and rest of a first line such as `GET /v1/kv/a?raw`; PUT where there is none.
pub(super) fn method_of(head: &str) -> (Method, &str) {
    let methods = [Method::GET, Method::PUT, Method::POST, Method::DELETE, Method::HEAD];
    let found = methods.into_iter().find_map(|method| {
        let rest = head.strip_prefix(method.as_str())?.strip_prefix(' ')?;
        Some((method, rest))
    });
    found.unwrap_or((Method::PUT, head))
}

/// The request is answered, and answered again when it has changed something. Nothing waits: nobody brings news.
pub(super) fn fuzz_routes(ask: &Ask) {
    thread_local! {
        static RUNTIME: Runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    }
    RUNTIME.with(|runtime| runtime.block_on(answer_twice(ask)));
}

async fn answer_twice(ask: &Ask) {
    let keys = Alone::default();
    let change = Change::Put { value: Value::new(b"1"), flags: 0, rule: Rule::Always };
    drop(keys.call(Request::Write { key: "a/b".into(), change }).await);
    let (name, node_name, behaviour) = (String::new(), "a".into(), Behaviour::Release);
    let spec = SessionSpec { name, node_name, ttl_us: None, lock_delay_us: 0, behaviour };
    drop(keys.call(Request::SessionCreate { spec }).await);
    let (agent, mut calls) = AgentHandle::new();
    let (_, views) = watch::channel(Arc::new(view()));
    let (_, contact) = watch::channel(Contact::none(Instant::now()));
    let routes = Routes { views, keys, turns: Turns::default(), agent, token: None, contact };
    for layout in [Layout::Compact, Layout::Pretty] {
        let answer = tokio::select! {
            answer = routes.answer(ask.clone()) => answer,
            () = agree(&mut calls) => panic!("the agent ends after its clients"),
        };
        let is_refused = answer.refusal.is_some();
        let response = answer.into_response(routes.standing(), layout);
        assert!(!is_refused || !response.status().is_success());
        assert!(response.headers().contains_key("x-consul-index"));
    }
}

/// An agent that takes everything.
async fn agree(calls: &mut tokio::sync::mpsc::Receiver<AgentCall>) {
    while let Some((request, answer)) = calls.recv().await {
        if let AgentRequest::Register(definition) = &request {
            assert_usable(definition);
        }
        drop(answer.send(Ok(AgentView::default())));
    }
}

/// One host, and one service with one instance.
fn view() -> View {
    let facts = NodeFacts {
        id: ME,
        name: "a".into(),
        address: Some([192, 0, 2, 1].into()),
        gateway: None,
        state: MemberState::Up,
        standing: Standing::Trusted,
        meta: BTreeMap::new(),
    };
    let text = String::from;
    let check = Check {
        id: CheckId(text("c")),
        name: text("C"),
        kind: text("ttl"),
        health: Health::Passing,
        output: text("said"),
    };
    let instance = Instance {
        id: InstanceId(text("web-1")),
        service: text("web"),
        address: Some([10, 32, 0, 5].into()),
        port: 80,
        tags: vec![text("blue"), text("v1")],
        meta: BTreeMap::from([(text("k"), text("v"))]),
        source: Source::Api,
        drain: Drain::Serving,
        checks: vec![check],
    };
    let (address, health, created, modified) = (instance.address, Health::Passing, Index(3), Index(4));
    let node = Arc::new(facts.clone());
    let listed = Arc::new(InstanceView { instance, node, address, health, created, modified });
    let mut view = View::starting(ME, Index(7));
    view.readiness = Readiness::Ready;
    let instances = vec![Arc::clone(&listed)];
    view.nodes.insert(ME, Arc::new(NodeView { facts, index: Index(5), created, modified, instances }));
    let service = ServiceView { name: text("web"), index: Index(6), instances: vec![listed] };
    view.services.insert(text("web"), Arc::new(service));
    view
}

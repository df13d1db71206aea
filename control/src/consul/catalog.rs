//! `/v1/catalog`, `/v1/health` and `/v1/status`: what runs where, from a snapshot.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use hyper::StatusCode;
use serde::Serialize;

use super::{
    answer::Answer,
    blocking::{Starting, view_after},
    convert,
    query::Query,
    request::Ask,
    shapes::{DATACENTER, Node, Service},
};
use crate::{
    catalogue::{Index, InstanceView, NodeView, ServiceView, View},
    daemon::Views,
};

/// The port of Consul's servers among each other. Clients print it, none connects to it.
const SERVER_PORT: u16 = 8300;

/// A node and what runs there, as `/v1/catalog/node` tells it.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct NodeServices {
    node: Node,
    services: BTreeMap<String, Service>,
}

/// Which state `/v1/health/state` asks for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wanted<'a> {
    Any,
    Only(&'a str),
}

/// Answers below `/v1/catalog`; None for paths that there are not.
pub async fn catalog(ask: &Ask, rest: &str, views: &Views) -> Result<Option<Answer>, Answer> {
    let answer = match rest.split_once('/').unwrap_or((rest, "")) {
        ("datacenters", "") => Answer::json(&[DATACENTER]),
        ("nodes", "") => {
            let view = seen(ask, views, |view| view.nodes_index).await?;
            let kept: Vec<_> = nodes(&view, &ask.query).map(|listed| convert::node(listed)).collect();
            Answer::json(&kept).at(view.nodes_index.0)
        }
        ("services", "") => {
            let view = seen(ask, views, |view| view.names_index).await?;
            let tags: BTreeMap<_, _> =
                view.services.iter().filter_map(|(name, service)| Some((name, tags(service, &ask.query)?))).collect();
            Answer::json(&tags).at(view.names_index.0)
        }
        ("service", "") => return Err(Answer::bad("Missing service name")),
        ("service", name) => {
            let view = seen(ask, views, |view| view.service_index(name)).await?;
            let rows: Vec<_> =
                instances(&view, name, &ask.query).map(|listed| convert::catalog_service(listed)).collect();
            Answer::json(&rows).at(view.service_index(name).0)
        }
        ("node", "") => return Err(Answer::bad("Missing node name")),
        ("node", name) => node(&*seen(ask, views, |view| view.node_index(name)).await?, name),
        _ => return Ok(None),
    };
    Ok(Some(answer))
}

/// Answers below `/v1/health`; None for paths that there are not.
pub async fn health(ask: &Ask, rest: &str, views: &Views) -> Result<Option<Answer>, Answer> {
    let answer = match rest.split_once('/').unwrap_or((rest, "")) {
        ("service" | "checks", "") => return Err(Answer::bad("Missing service name")),
        ("service", name) => {
            let view = seen(ask, views, |view| view.service_index(name)).await?;
            let only_passing = ask.query.is_on("passing");
            let kept = instances(&view, name, &ask.query).filter(|listed| !only_passing || listed.is_passing());
            Answer::json(&kept.map(|listed| convert::entry(listed)).collect::<Vec<_>>()).at(view.service_index(name).0)
        }
        ("checks", name) => {
            let view = seen(ask, views, |view| view.service_index(name)).await?;
            let checks: Vec<_> =
                instances(&view, name, &ask.query).flat_map(|listed| convert::instance_checks(listed)).collect();
            Answer::json(&checks).at(view.service_index(name).0)
        }
        ("node", name) => {
            let view = seen(ask, views, |view| view.node_index(name)).await?;
            let checks = view.node_named(name).map(|listed| convert::node_checks(listed)).unwrap_or_default();
            Answer::json(&checks).at(view.node_index(name).0)
        }
        ("state", state) => {
            let wanted = match state {
                "any" => Wanted::Any,
                "passing" | "warning" | "critical" => Wanted::Only(state),
                _ => return Err(Answer::bad(format!("Unknown state {state:?}: any, passing, warning or critical"))),
            };
            let view = seen(ask, views, |view| view.index).await?;
            let all = nodes(&view, &ask.query).flat_map(|listed| convert::node_checks(listed));
            let kept = all.filter(|check| wanted == Wanted::Any || wanted == Wanted::Only(check.status));
            Answer::json(&kept.collect::<Vec<_>>()).at(view.index.0)
        }
        _ => return Ok(None),
    };
    Ok(Some(answer))
}

/// Answers below `/v1/status`: clients ask whether there is a leader before they do anything.
pub fn status(rest: &str, view: &View) -> Option<Answer> {
    let addresses = || view.nodes.values().filter_map(|listed| listed.facts.address);
    let printed = |address: std::net::IpAddr| std::net::SocketAddr::new(address, SERVER_PORT).to_string();
    match rest {
        "leader" => {
            let own = view.nodes.get(&view.me).and_then(|listed| listed.facts.address);
            Some(Answer::json(&own.or_else(|| addresses().next()).map_or_else(|| "127.0.0.1:8300".into(), printed)))
        }
        "peers" => Some(Answer::json(&addresses().map(printed).collect::<Vec<_>>())),
        _ => None,
    }
}

/// The view that a query is answered from, waited for if it blocks.
pub async fn seen(ask: &Ask, views: &Views, index_of: impl Fn(&View) -> Index) -> Result<Arc<View>, Answer> {
    let blocking = ask.query.blocking()?;
    let answer = |starting: Starting| Answer::refused(StatusCode::INTERNAL_SERVER_ERROR, starting.to_string());
    view_after(views.clone(), blocking, index_of).await.map_err(answer)
}

/// What an answer would leave out without a word is refused, on every path.
pub fn refuse_foreign(query: &Query) -> Result<(), Answer> {
    if query.get("dc").is_some_and(|datacenter| !datacenter.is_empty() && datacenter != DATACENTER) {
        return Err(Answer::refused(StatusCode::INTERNAL_SERVER_ERROR, "No path to datacenter"));
    }
    if query.get("filter").is_some_and(|filter| !filter.is_empty()) {
        let reason =
            "filter= is not supported; leave it out and filter what comes, or use tag=, passing and node-meta=";
        return Err(Answer::bad(reason));
    }
    for (name, what) in [("ns", "Namespaces"), ("partition", "Partitions")] {
        if query.get(name).is_some_and(|other| !["", "default"].contains(&other)) {
            return Err(Answer::bad(format!(
                "Invalid query parameter: {name:?} - {what} are not there, only `default`"
            )));
        }
    }
    if query.get("peer").is_some_and(|peer| !peer.is_empty()) {
        return Err(Answer::bad(
            "Invalid query parameter: \"peer\" - there are no other clusters that this one imports from",
        ));
    }
    Ok(())
}

fn node(view: &View, name: &str) -> Answer {
    let found = view.node_named(name).map(|listed| NodeServices {
        node: convert::node(listed),
        services: listed.instances.iter().map(|one| (one.instance.id.0.clone(), convert::service(one))).collect(),
    });
    // Null for a node that is not there: Consul's own answer.
    Answer::json(&found).at(view.node_index(name).0)
}

fn instances<'a>(view: &'a View, name: &str, query: &'a Query) -> impl Iterator<Item = &'a Arc<InstanceView>> {
    let all = view.service(name).into_iter().flat_map(|service| &service.instances);
    all.filter(|listed| {
        let mut tags = query.all("tag").filter(|tag| !tag.is_empty());
        tags.all(|tag| listed.instance.tags.iter().any(|own| own.eq_ignore_ascii_case(tag)))
            && has_meta(query, &listed.node.meta)
    })
}

/// Nodes that are asked for.
fn nodes<'a>(view: &'a View, query: &'a Query) -> impl Iterator<Item = &'a Arc<NodeView>> {
    view.nodes.values().filter(|listed| has_meta(query, &listed.facts.meta))
}

/// Tags of the instances on the nodes that are asked for; None when there is none.
fn tags<'a>(service: &'a ServiceView, query: &Query) -> Option<BTreeSet<&'a str>> {
    let mut asked = service.instances.iter().filter(|listed| has_meta(query, &listed.node.meta)).peekable();
    asked.peek()?;
    Some(asked.flat_map(|listed| &listed.instance.tags).map(String::as_str).collect())
}

/// True for a node with all metadata that the query asks for, written `key:value`.
fn has_meta(query: &Query, meta: &BTreeMap<String, String>) -> bool {
    query.all("node-meta").all(|wanted| {
        let (key, value) = wanted.split_once(':').unwrap_or((wanted, ""));
        meta.get(key).is_some_and(|own| own == value)
    })
}

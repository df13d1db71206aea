//! `/v1/agent` and the registrations of `/v1/catalog`: what runs on this node, by its clients' own words.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use hyper::StatusCode;
use serde::{Deserialize, Serialize};

use super::{
    answer::Answer,
    catalog::seen,
    convert, json,
    query::go_bool,
    request::Ask,
    shapes::{DATACENTER, Member, uuid},
};
use crate::{
    catalogue::{Check, CheckId, Health, Instance, InstanceId, InstanceView, NodeFacts, NodeView, View},
    daemon::Views,
    registration::{
        agent::{AgentError, AgentHandle, AgentRequest, Maintenance},
        consul_json::{CheckDefinition, DefinitionError, parse_check, parse_service},
    },
};

/// What Consul's clients compare versions with: the newest whose paths we answer.
const SPOKEN_VERSION: &str = "1.20.0";

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Itself {
    config: Config,
    member: Option<Member>,
    meta: BTreeMap<String, String>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Config {
    datacenter: &'static str,
    node_name: String,
    #[serde(rename = "NodeID")]
    node_id: String,
    server: bool,
    version: &'static str,
    revision: &'static str,
}

/// The body of `/v1/catalog/register` and `/v1/catalog/deregister`, in lower case.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct CatalogBody {
    node: String,
    address: String,
    service: Option<serde_json::Value>,
    serviceid: String,
    checkid: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Update {
    status: String,
    output: String,
}

/// Answers below `/v1/agent`; None for paths that there are not.
pub async fn answer(ask: &Ask, rest: &str, agent: &AgentHandle, views: &Views) -> Result<Option<Answer>, Answer> {
    let is_get = ask.is_get();
    let answer = match rest.split_once('/').unwrap_or((rest, "")) {
        ("self", "") if is_get => itself(&views.borrow()),
        ("members", "") if is_get => {
            let view = seen(ask, views, |view| view.nodes_index).await?;
            Answer::json(&view.nodes.values().map(|node| convert::member(node)).collect::<Vec<_>>())
        }
        ("services", "") if is_get => {
            let view = seen(ask, views, |view| view.index).await?;
            let own = own(&view, agent).await?;
            let rows = own.instances.iter().map(|listed| (listed.instance.id.0.clone(), convert::service(listed)));
            Answer::json(&rows.collect::<BTreeMap<_, _>>())
        }
        ("checks", "") if is_get => {
            let view = seen(ask, views, |view| view.index).await?;
            let Own { facts, instances, node_checks } = own(&view, agent).await?;
            let rows = facts.map(|facts| convert::agent_checks(&facts, &instances, &node_checks, view.index.0));
            let rows = rows.into_iter().flatten().map(|check| (check.check_id.clone(), check));
            Answer::json(&rows.collect::<BTreeMap<_, _>>())
        }
        ("service", rest) => return service(ask, rest, agent, views).await,
        ("check", rest) => return check(ask, rest, agent).await,
        ("maintenance", "") if ask.is_put() => maintain(ask, None, agent).await?,
        ("join" | "force-leave" | "leave" | "reload" | "monitor", _) => {
            return Err(super::not_here("weaved's own verbs do this: connect, forget, stop, status"));
        }
        _ => return Ok(None),
    };
    Ok(Some(answer))
}

async fn service(ask: &Ask, rest: &str, agent: &AgentHandle, views: &Views) -> Result<Option<Answer>, Answer> {
    let answer = match rest.split_once('/').unwrap_or((rest, "")) {
        ("register", "") if ask.is_put() => {
            let definition = parse_service(text_of(&ask.body)?).map_err(undefined)?;
            done(agent.call(AgentRequest::Register(Box::new(definition))).await)?
        }
        ("deregister" | "maintenance", "") => return Err(Answer::bad("Missing service ID")),
        ("deregister", id) if ask.is_get_or_put() => {
            done(agent.call(AgentRequest::Deregister(InstanceId(id.to_owned()))).await)?
        }
        ("maintenance", id) if ask.is_put() => maintain(ask, Some(InstanceId(id.to_owned())), agent).await?,
        (_, "") if ask.is_get() => {
            let view = seen(ask, views, |view| view.index).await?;
            let own = own(&view, agent).await?;
            match own.instances.iter().find(|listed| listed.instance.id.0 == rest) {
                Some(listed) => Answer::json(&convert::service(listed)),
                None => Answer::refused(StatusCode::NOT_FOUND, format!("unknown service ID: {rest}")),
            }
        }
        _ => return Ok(None),
    };
    Ok(Some(answer))
}

async fn check(ask: &Ask, rest: &str, agent: &AgentHandle) -> Result<Option<Answer>, Answer> {
    let (verb, id) = rest.split_once('/').unwrap_or((rest, ""));
    let note = || ask.query.get("note").unwrap_or_default().to_owned();
    let report = |health, output| AgentRequest::UpdateTtl { check: CheckId(id.to_owned()), health, output };
    let request = match verb {
        "register" if ask.is_put() && id.is_empty() => {
            let CheckDefinition { instance, spec } = parse_check(text_of(&ask.body)?).map_err(undefined)?;
            AgentRequest::RegisterCheck { instance, spec: Box::new(spec) }
        }
        "deregister" | "pass" | "warn" | "fail" | "update" if id.is_empty() => {
            return Err(Answer::bad("Missing check ID"));
        }
        "deregister" if ask.is_get_or_put() => AgentRequest::DeregisterCheck(CheckId(id.to_owned())),
        "pass" if ask.is_get_or_put() => report(Health::Passing, note()),
        "warn" if ask.is_get_or_put() => report(Health::Warning, note()),
        "fail" if ask.is_get_or_put() => report(Health::Critical, note()),
        "update" if ask.is_put() => {
            let update: Update = json::decode(&ask.body, &[])?;
            report(health_of(&update.status)?, update.output)
        }
        _ => return Ok(None),
    };
    done(agent.call(request).await).map(Some)
}

async fn maintain(ask: &Ask, instance: Option<InstanceId>, agent: &AgentHandle) -> Result<Answer, Answer> {
    let enable = ask.query.get("enable").filter(|enable| !enable.is_empty());
    let enable = enable.ok_or_else(|| Answer::bad("Missing value for enable"))?;
    let mode = match go_bool(enable) {
        Some(true) => {
            let reason = ask.query.get("reason").filter(|reason| !reason.is_empty());
            Maintenance::On {
                reason: reason.unwrap_or("Maintenance mode is enabled, but no reason was provided.").to_owned(),
            }
        }
        Some(false) => Maintenance::Off,
        None => return Err(Answer::bad(format!("Invalid value for enable: {enable:?}"))),
    };
    done(agent.call(AgentRequest::SetMaintenance { instance, mode }).await)
}

/// `PUT /v1/catalog/register`: registrator v5 registers containers so, each under a node of its own that no agent knows
/// and that nothing ever removes. Here the node that is asked owns what is registered, so that it ends with it.
pub async fn catalog_register(ask: &Ask, agent: &AgentHandle, views: &Views) -> Result<Answer, Answer> {
    let body: CatalogBody = json::decode(&ask.body, &["meta", "nodemeta"])?;
    let Some(mut service) = body.service else {
        let reason = "only services can be registered: a node is a member, and its checks are its own";
        return Err(Answer::refused(StatusCode::NOT_IMPLEMENTED, reason));
    };
    // The service's name is called `Service` here and `Name` at the agent.
    let object = service.as_object_mut().ok_or_else(|| Answer::bad("Service is not an object"))?;
    if let Some(name) = object.remove("service") {
        object.insert("name".into(), name);
    }
    if object.get("address").and_then(serde_json::Value::as_str).is_none_or(str::is_empty) {
        object.insert("address".into(), body.address.into());
    }
    let definition = parse_service(&service.to_string()).map_err(undefined)?;
    refuse_other_node(&body.node, definition.address, &views.borrow())?;
    done(agent.call(AgentRequest::Register(Box::new(definition))).await)?;
    Ok(Answer::json(&true))
}

/// `PUT /v1/catalog/deregister`. What is said of another member's services is not done to those of this one, which may
/// have the same ids.
pub async fn catalog_deregister(ask: &Ask, agent: &AgentHandle, views: &Views) -> Result<Answer, Answer> {
    let body: CatalogBody = json::decode(&ask.body, &[])?;
    refuse_other_node(&body.node, body.address.parse().ok(), &views.borrow())?;
    let request = match (body.serviceid.as_str(), body.checkid.as_str()) {
        ("", "") => {
            let reason = "a node leaves by `weaved reset`, or is forgotten when it was dead for long enough";
            return Err(Answer::refused(StatusCode::NOT_IMPLEMENTED, reason));
        }
        ("", check) => AgentRequest::DeregisterCheck(CheckId(check.to_owned())),
        (service, _) => AgentRequest::Deregister(InstanceId(service.to_owned())),
    };
    match agent.call(request).await {
        Ok(_) | Err(AgentError::UnknownInstance(_) | AgentError::UnknownCheck(_)) => Ok(Answer::json(&true)),
        Err(error) => Err(refused(&error)),
    }
}

/// Only owners write: what belongs to another member is registered there.
fn refuse_other_node(name: &str, address: Option<IpAddr>, view: &View) -> Result<(), Answer> {
    let is_mine = |id| id == view.me;
    if let Some(node) = view.node_named(name).filter(|node| !is_mine(node.facts.id)) {
        let reason = format!(
            "{name} is another member: what runs there is registered and deregistered at its own agent, {}",
            own_address(node.facts.address)
        );
        return Err(Answer::bad(reason));
    }
    let is_there =
        |node: &&Arc<NodeView>| address.is_some() && [node.facts.address, node.facts.gateway].contains(&address);
    match view.nodes.values().find(is_there).filter(|node| !is_mine(node.facts.id)) {
        Some(node) => {
            let address = own_address(address);
            let reason = "what runs there is registered and deregistered at its own agent";
            Err(Answer::bad(format!("{address} is {}: {reason}", node.facts.name)))
        }
        None => Ok(()),
    }
}

fn own_address(address: Option<IpAddr>) -> String {
    address.map_or_else(|| "there".into(), |address| address.to_string())
}

fn itself(view: &View) -> Answer {
    let me = view.nodes.get(&view.me);
    Answer::json(&Itself {
        config: Config {
            datacenter: DATACENTER,
            node_name: me.map(|node| node.facts.name.clone()).unwrap_or_default(),
            node_id: uuid(&view.me.0),
            server: true,
            version: SPOKEN_VERSION,
            revision: concat!("weaved-", env!("CARGO_PKG_VERSION")),
        },
        member: me.map(|node| convert::member(node)),
        meta: me.map(|node| node.facts.meta.clone()).unwrap_or_default(),
    })
}

/// What runs here, as who registers it says.
#[derive(Default)]
struct Own {
    /// None before this node is a member.
    facts: Option<Arc<NodeFacts>>,
    instances: Vec<InstanceView>,
    node_checks: Vec<Check>,
}

/// What runs here, from who registers it: a client that has registered something finds it at once, before the catalogue
/// shows it.
async fn own(view: &View, agent: &AgentHandle) -> Result<Own, Answer> {
    let shown = agent.show().await.map_err(|error| refused(&error))?;
    let Some(me) = view.nodes.get(&view.me) else { return Ok(Own::default()) };
    let facts = Arc::new(me.facts.clone());
    let listed = |instance: Instance| InstanceView {
        address: instance.address.or(facts.gateway).or(facts.address),
        health: instance.health(),
        node: Arc::clone(&facts),
        created: view.index,
        modified: view.index,
        instance,
    };
    let instances = shown.instances.into_iter().map(listed).collect();
    Ok(Own { facts: Some(facts), instances, node_checks: shown.node_checks })
}

fn health_of(status: &str) -> Result<Health, Answer> {
    match status {
        "passing" => Ok(Health::Passing),
        "warning" => Ok(Health::Warning),
        "critical" => Ok(Health::Critical),
        other => Err(Answer::bad(format!("Invalid check status: '{other}'"))),
    }
}

fn text_of(body: &[u8]) -> Result<&str, Answer> {
    std::str::from_utf8(body).map_err(|_| Answer::bad("Request decode failed: the body is not UTF-8"))
}

fn undefined(error: DefinitionError) -> Answer {
    match error {
        DefinitionError::Unreadable { .. } => Answer::bad(format!("Request decode failed: {error}")),
        DefinitionError::Unusable(reason) => Answer::bad(reason),
    }
}

fn done<T>(outcome: Result<T, AgentError>) -> Result<Answer, Answer> {
    outcome.map(|_| Answer::done()).map_err(|error| refused(&error))
}

fn refused(error: &AgentError) -> Answer {
    match error {
        AgentError::UnknownInstance(id) => Answer::refused(
            StatusCode::NOT_FOUND,
            format!("Unknown service ID {id:?}. Ensure that the service ID is passed, not the service name."),
        ),
        AgentError::UnknownCheck(id) => Answer::refused(
            StatusCode::NOT_FOUND,
            format!("Unknown check ID {id:?}. Ensure that the check ID is passed, not the check name."),
        ),
        AgentError::Owned { .. } | AgentError::Unusable(_) => Answer::bad(error.to_string()),
        AgentError::NotStored(_) => Answer::refused(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
        AgentError::Ending => Answer::refused(StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
    }
}

#[cfg(test)]
mod tests;

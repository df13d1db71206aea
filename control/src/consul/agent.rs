//! `/v1/agent` and the registrations of `/v1/catalog`: what runs on this node, by its clients' own words.

use std::collections::BTreeMap;

use hyper::{Method, StatusCode};
use serde::Serialize;

use super::{
    answer::Answer,
    catalog::seen,
    convert,
    request::Ask,
    shapes::{DATACENTER, Member, uuid},
};
use crate::{
    catalogue::{InstanceView, View},
    daemon::Views,
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

/// Answers below `/v1/agent`; None for paths that there are not.
pub async fn answer(ask: &Ask, rest: &str, views: &Views) -> Result<Option<Answer>, Answer> {
    let is_get = ask.method == Method::GET;
    let answer = match rest.split_once('/').unwrap_or((rest, "")) {
        ("self", "") if is_get => itself(&views.borrow()),
        ("members", "") if is_get => {
            let view = seen(ask, views, |view| view.nodes_index).await?;
            Answer::json(&view.nodes.values().map(|node| convert::member(node)).collect::<Vec<_>>())
        }
        ("services", "") if is_get => {
            let view = seen(ask, views, |view| view.index).await?;
            let rows = own(&view).map(|listed| (listed.instance.id.0.clone(), convert::service(listed)));
            Answer::json(&rows.collect::<BTreeMap<_, _>>())
        }
        ("checks", "") if is_get => {
            let view = seen(ask, views, |view| view.index).await?;
            let rows = own(&view).flat_map(convert::instance_checks);
            Answer::json(&rows.map(|check| (check.check_id.clone(), check)).collect::<BTreeMap<_, _>>())
        }
        ("service", rest) => return service(ask, rest, views).await,
        ("join" | "force-leave" | "leave" | "reload" | "monitor", _) => {
            return Err(super::not_here("weaved's own verbs do this: connect, forget, stop, status"));
        }
        _ => return Ok(None),
    };
    Ok(Some(answer))
}

async fn service(ask: &Ask, rest: &str, views: &Views) -> Result<Option<Answer>, Answer> {
    let answer = match rest.split_once('/').unwrap_or((rest, "")) {
        (_, "") if ask.method == Method::GET => {
            let view = seen(ask, views, |view| view.index).await?;
            let found = own(&view).find(|listed| listed.instance.id.0 == rest);
            match found {
                Some(listed) => Answer::json(&convert::service(listed)),
                None => Answer::refused(StatusCode::NOT_FOUND, format!("unknown service ID: {rest}")),
            }
        }
        _ => return Ok(None),
    };
    Ok(Some(answer))
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

fn own(view: &View) -> impl Iterator<Item = &InstanceView> {
    view.nodes.get(&view.me).into_iter().flat_map(|node| &node.instances).map(std::convert::AsRef::as_ref)
}

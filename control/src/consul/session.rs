//! `/v1/session`: who may hold locks.

use hyper::StatusCode;
use serde::{Deserialize, Serialize};

use super::{
    answer::Answer,
    blocking::with_jitter,
    json,
    kv::{Keys, Turns, refusal, something_else},
    request::Ask,
};
use crate::{
    daemon::Views,
    go_duration,
    kv::{
        Behaviour, DEFAULT_LOCK_DELAY_US, KvError, Reply, Request, SessionId, SessionRow, SessionSpec, Sessions, Wait,
        Watched,
    },
};

/// The body of a creation, in lower case. Checks are ignored: a session dies with its node and its time to live.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Wanted {
    name: String,
    node: String,
    ttl: String,
    lockdelay: Option<serde_json::Value>,
    behavior: String,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Made {
    #[serde(rename = "ID")]
    id: String,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Shape {
    #[serde(rename = "ID")]
    id: String,
    name: String,
    node: String,
    /// Nanoseconds.
    lock_delay: u64,
    behavior: Behaviour,
    #[serde(rename = "TTL")]
    ttl: String,
    checks: Option<[&'static str; 1]>,
    node_checks: [&'static str; 1],
    service_checks: Option<[&'static str; 0]>,
    create_index: u64,
    modify_index: u64,
}

/// Answers below `/v1/session`; None for paths that there are not.
pub async fn answer(
    ask: &Ask,
    rest: &str,
    keys: &impl Keys,
    turns: &Turns,
    views: &Views,
) -> Result<Option<Answer>, Answer> {
    let answer = match rest.split_once('/').unwrap_or((rest, "")) {
        ("create", "") if ask.is_put() => create(ask, keys, views).await?,
        ("destroy" | "renew" | "info", "") => return Err(Answer::bad("Missing session")),
        ("destroy", id) if ask.is_put() => match keys.call(Request::SessionDestroy { id: id_of(id)? }).await {
            Ok(_) | Err(KvError::NoSession { .. }) => Answer::json(&true),
            Err(error) => return Err(refusal(&error)),
        },
        ("renew", id) if ask.is_put() => renew(id_of(id)?, keys).await?,
        ("info", id) if ask.is_get() => listed(ask, Some(id_of(id)?), (keys, turns), |_| true).await?,
        ("list", "") if ask.is_get() => listed(ask, None, (keys, turns), |_| true).await?,
        ("node", node) if ask.is_get() => {
            listed(ask, None, (keys, turns), |row| row.session.spec.node_name == node).await?
        }
        _ => return Ok(None),
    };
    Ok(Some(answer))
}

async fn create(ask: &Ask, keys: &impl Keys, views: &Views) -> Result<Answer, Answer> {
    let wanted: Wanted = if ask.body.is_empty() { Wanted::default() } else { json::decode(&ask.body, &[])? };
    let own_name = {
        let view = views.borrow();
        view.nodes.get(&view.me).map(|node| node.facts.name.clone()).unwrap_or_default()
    };
    if !wanted.node.is_empty() && wanted.node != own_name {
        let reason =
            format!("a session belongs to the node that is asked, {own_name}; ask {} for one of its own", wanted.node);
        return Err(Answer::bad(reason));
    }
    let spec = SessionSpec {
        name: wanted.name,
        node_name: own_name,
        ttl_us: match wanted.ttl.as_str() {
            "" | "0" | "0s" => None,
            text => {
                Some(go_duration::parse(text).ok_or_else(|| Answer::bad("Request TTL decode failed"))?.as_micros()
                    as u64)
            }
        },
        lock_delay_us: lock_delay(wanted.lockdelay.as_ref())?,
        behaviour: match wanted.behavior.as_str() {
            "" | "release" => Behaviour::Release,
            "delete" => Behaviour::Delete,
            other => return Err(Answer::bad(format!("Invalid Behavior setting '{other}'"))),
        },
    };
    match keys.call(Request::SessionCreate { spec }).await {
        Ok(Reply::SessionMade(id)) => Ok(Answer::json(&Made { id: id.to_string() })),
        Ok(_) => Err(something_else()),
        Err(error) => Err(refusal(&error)),
    }
}

/// A duration of Go, or a number: of nanoseconds as Go's client sends it, of seconds when it is as small as people write.
fn lock_delay(wanted: Option<&serde_json::Value>) -> Result<u64, Answer> {
    const SECONDS_BELOW: u64 = 1000;
    let bad = || Answer::bad("Request LockDelay decode failed");
    match wanted {
        None => Ok(DEFAULT_LOCK_DELAY_US),
        Some(serde_json::Value::String(text)) => Ok(go_duration::parse(text).ok_or_else(bad)?.as_micros() as u64),
        Some(number) => {
            let number = number.as_u64().ok_or_else(bad)?;
            Ok(if number < SECONDS_BELOW { number * 1_000_000 } else { number / 1000 })
        }
    }
}

/// Answered with the session as it is then.
async fn renew(id: SessionId, keys: &impl Keys) -> Result<Answer, Answer> {
    let gone =
        |id| Answer::refused(StatusCode::NOT_FOUND, format!("Session id '{id}' not found")).because("no-session");
    match keys.call(Request::SessionRenew { id }).await {
        Ok(_) => {}
        Err(KvError::NoSession { id }) => return Err(gone(id)),
        Err(error) => return Err(refusal(&error)),
    }
    match keys.call(Request::Sessions { id: Some(id), wait: None }).await {
        Ok(Reply::Sessions(sessions)) if sessions.sessions.is_empty() => Err(gone(id)),
        Ok(Reply::Sessions(sessions)) => Ok(shapes(&sessions, |_| true)),
        Ok(_) => Err(something_else()),
        Err(error) => Err(refusal(&error)),
    }
}

async fn listed(
    ask: &Ask,
    id: Option<SessionId>,
    (keys, turns): (&impl Keys, &Turns),
    is_wanted: impl Fn(&SessionRow) -> bool,
) -> Result<Answer, Answer> {
    let wait = ask
        .query
        .blocking()?
        .map(|blocking| Wait { index: blocking.seen, at_most_ms: with_jitter(blocking.wait).as_millis() as u64 });
    let _turn = turns.after(Watched::Sessions(id), wait, keys).await?;
    match keys.call(Request::Sessions { id, wait: None }).await {
        Ok(Reply::Sessions(sessions)) => Ok(shapes(&sessions, is_wanted)),
        Ok(_) => Err(something_else()),
        Err(KvError::NoSession { .. }) => Ok(Answer::json(&[(); 0])),
        Err(error) => Err(refusal(&error)),
    }
}

fn shapes(sessions: &Sessions, is_wanted: impl Fn(&SessionRow) -> bool) -> Answer {
    let kept = sessions.sessions.iter().filter(|row| is_wanted(row));
    Answer::json(&kept.map(shape).collect::<Vec<_>>()).at(sessions.index)
}

fn shape(row: &SessionRow) -> Shape {
    let spec = &row.session.spec;
    Shape {
        id: row.id.to_string(),
        name: spec.name.clone(),
        node: spec.node_name.clone(),
        lock_delay: spec.lock_delay_us * 1000,
        behavior: spec.behaviour,
        ttl: spec.ttl_us.map_or_else(String::new, |ttl_us| format!("{}s", ttl_us / 1_000_000)),
        checks: Some(["serfHealth"]),
        node_checks: ["serfHealth"],
        service_checks: None,
        create_index: row.create_index,
        modify_index: row.modify_index,
    }
}

fn id_of(text: &str) -> Result<SessionId, Answer> {
    text.parse().map_err(|error: crate::kv::NotASessionId| Answer::bad(error.to_string()))
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, sync::Mutex};

    use hyper::{Method, body::Bytes};
    use tokio::sync::watch;
    use weaved_api::PeerId;

    use super::*;
    use crate::{
        catalogue::{Index, View},
        kv,
    };

    /// There are no sessions; writes down what it is asked.
    #[derive(Default)]
    struct Recorder(Mutex<Vec<Request>>);

    impl Keys for Recorder {
        async fn call_from(&self, request: Request, _source: &str) -> kv::Answer {
            let is_watch = matches!(request, Request::Watch { .. });
            self.0.lock().unwrap().push(request);
            Ok(if is_watch { Reply::Watched } else { Reply::Sessions(Sessions::default()) })
        }
    }

    #[tokio::test]
    async fn who_waits_for_sessions_is_woken_first_and_reads_them_in_his_turn() {
        let (_sender, views) = watch::channel(std::sync::Arc::new(View::starting(PeerId([1; 32]), Index(1))));
        let keys = Recorder::default();
        for path in ["list", "node/a"] {
            let query = Some("index=7&wait=10s");
            let ask = Ask::new(Method::GET, &format!("/v1/session/{path}"), query, Bytes::new()).unwrap();
            answer(&ask, path, &keys, &Turns::default(), &views).await.unwrap();
        }
        let asked: BTreeSet<_> = keys.0.lock().unwrap().iter().map(|request| format!("{request:?}")).collect();
        let asked: Vec<_> = asked.iter().map(String::as_str).collect();
        assert!(
            matches!(asked[..], ["Sessions { id: None, wait: None }", ..])
                && asked[1..]
                    .iter()
                    .all(|request| request.starts_with("Watch { what: Sessions(None), wait: Wait { index: 7")),
            "{asked:?}"
        );
    }
}

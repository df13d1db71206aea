//! `/v1/txn`: several operations in one request, done all or not at all.
//!
//! Guarded keys are decided one by one, so a transaction may change one of them by itself, and several plain ones
//! ([`crate::kv::Step`]); one that mixes them is refused whole.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hyper::StatusCode;
use serde::{Deserialize, Serialize};

use super::{
    answer::Answer,
    json,
    kv::{Keys, refusal, shape, something_else},
    request::Ask,
    shapes::KeyValue,
};
use crate::kv::{Change, Expected, Reply, Request, Row, Rule, Step, Transacted, Value};

/// Operations of one request: Consul's own bound.
const MAX_OPERATIONS: usize = 64;

#[derive(Debug, Deserialize)]
struct Operation {
    kv: Option<KeyOperation>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct KeyOperation {
    verb: String,
    key: String,
    value: String,
    flags: u64,
    index: u64,
    session: String,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Outcome {
    results: Vec<Found>,
    errors: Vec<Failed>,
}

#[derive(Serialize)]
struct Found {
    #[serde(rename = "KV")]
    kv: KeyValue,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Failed {
    op_index: usize,
    what: String,
}

/// Answers `PUT /v1/txn`.
pub async fn answer(ask: &Ask, keys: &impl Keys) -> Result<Answer, Answer> {
    let operations: Vec<Operation> = json::decode_list(&ask.body, &[])?;
    if operations.len() > MAX_OPERATIONS {
        let reason = format!("Transaction contains too many operations ({} > {MAX_OPERATIONS})", operations.len());
        return Err(Answer::refused(StatusCode::PAYLOAD_TOO_LARGE, reason));
    }
    let mut steps = operations.into_iter().map(step).collect::<Result<Vec<_>, _>>()?;
    if matches!(steps[..], [Step::Write { .. }])
        && let Some(Step::Write { key, change }) = steps.pop()
    {
        return alone(key, change, keys, &ask.source).await;
    }
    match keys.call_from(Request::Transaction { steps }, &ask.source).await.map_err(|error| refusal(&error))? {
        Reply::Transacted(Transacted::Done(rows)) => Ok(done(&rows)),
        Reply::Transacted(Transacted::Failed(failed)) => Err(undone(failed)),
        _ => Err(something_else()),
    }
}

/// One change by itself may be of a guarded key.
async fn alone(key: String, change: Change, keys: &impl Keys, source: &str) -> Result<Answer, Answer> {
    let is_deletion = matches!(change, Change::Delete { .. });
    let request = Request::Write { key: key.clone(), change };
    match keys.call_from(request, source).await.map_err(|error| refusal(&error))? {
        Reply::Written(true) if is_deletion => Ok(done(&[])),
        Reply::Written(true) => {
            let read = Request::Transaction { steps: vec![Step::Get { key }] };
            let rows = match keys.call(read).await {
                Ok(Reply::Transacted(Transacted::Done(rows))) => rows,
                _ => Vec::new(),
            };
            Ok(done(&rows.into_iter().map(|row| Row { value: Value::default(), ..row }).collect::<Vec<_>>()))
        }
        Reply::Written(false) => {
            Err(undone(vec![(0, format!("failed to change key {key:?}, its index or lock is another"))]))
        }
        _ => Err(something_else()),
    }
}

fn done(rows: &[Row]) -> Answer {
    let results = rows.iter().map(|row| Found { kv: shape(row) }).collect();
    Answer::json(&Outcome { results, errors: Vec::new() })
}

fn undone(failed: Vec<(usize, String)>) -> Answer {
    let errors = failed.into_iter().map(|(op_index, what)| Failed { op_index, what }).collect();
    let mut answer = Answer::json(&Outcome { results: Vec::new(), errors });
    answer.status = StatusCode::CONFLICT;
    answer
}

fn step(operation: Operation) -> Result<Step, Answer> {
    let operation = operation.kv.ok_or_else(|| {
        Answer::refused(StatusCode::NOT_IMPLEMENTED, "a transaction may hold operations on keys (KV) only")
    })?;
    let KeyOperation { verb, key, value, flags, index, session } = operation;
    let session = || session.parse().map_err(|error: crate::kv::NotASessionId| Answer::bad(error.to_string()));
    let put = |rule| {
        let bytes = STANDARD.decode(&value).map_err(|error| Answer::bad(format!("Value is no base64: {error}")))?;
        Ok::<_, Answer>(Change::Put { value: Value::new(&bytes), flags, rule })
    };
    let change = match verb.as_str() {
        "get" => return Ok(Step::Get { key }),
        "get-or-empty" => return Ok(Step::GetOrEmpty { key }),
        "get-tree" => return Ok(Step::GetTree { prefix: key }),
        "delete-tree" => return Ok(Step::DeleteTree { prefix: key }),
        "check-index" => return Ok(Step::Check { key, is: Expected::Index(index) }),
        "check-session" => return Ok(Step::Check { key, is: Expected::Session(session()?) }),
        "check-not-exists" => return Ok(Step::Check { key, is: Expected::Absent }),
        "set" => put(Rule::Always)?,
        "cas" => put(Rule::AtIndex(index))?,
        "lock" => put(Rule::Acquire(session()?))?,
        "unlock" => put(Rule::Release(session()?))?,
        "delete" => Change::Delete { rule: Rule::Always },
        "delete-cas" => Change::Delete { rule: Rule::AtIndex(index) },
        other => return Err(Answer::refused(StatusCode::NOT_IMPLEMENTED, format!("unknown KV operation {other:?}"))),
    };
    Ok(Step::Write { key, change })
}

#[cfg(test)]
mod tests {
    use hyper::{Method, body::Bytes};

    use super::*;
    use crate::{consul::answer::Body, testing::Alone};

    fn store() -> Alone {
        Alone::default()
    }

    async fn put(store: &Alone, body: &str) -> (u16, serde_json::Value) {
        let ask = Ask::new(Method::PUT, "/v1/txn", None, Bytes::from(body.to_owned())).unwrap();
        let answer = answer(&ask, store).await.unwrap_or_else(|refused| refused);
        let body = match answer.body {
            Body::Json(value) => value,
            Body::Text(text) => text.into(),
            other => panic!("{other:?}"),
        };
        (answer.status.as_u16(), body)
    }

    #[tokio::test]
    async fn several_changes_are_answered_as_consul_does() {
        let store = store();
        let body = r#"[{"KV":{"Verb":"set","Key":"a","Value":"Ymx1ZQ==","Flags":7}},
            {"KV":{"Verb":"cas","Key":"b","Value":"Z3JlZW4=","Index":0}},
            {"KV":{"Verb":"get","Key":"a"}}, {"KV":{"Verb":"delete","Key":"b"}}]"#;
        let (status, said) = put(&store, body).await;
        assert_eq!((status, &said["Errors"]), (200, &serde_json::json!([])), "{said}");
        let results = said["Results"].as_array().unwrap();
        assert_eq!(results.len(), 3, "a deletion has no result: {said}");
        assert_eq!((&results[0]["KV"]["Key"], &results[0]["KV"]["Flags"]), (&"a".into(), &7.into()));
        assert!(results[0]["KV"]["Value"].is_null() && results[0]["KV"]["ModifyIndex"].as_u64() > Some(0));
        assert_eq!(results[2]["KV"]["Value"], "Ymx1ZQ==");
    }

    #[tokio::test]
    async fn what_fails_is_told_by_its_place_and_nothing_is_done() {
        let store = store();
        let body = r#"[{"KV":{"Verb":"set","Key":"a","Value":"Ymx1ZQ=="}}, {"KV":{"Verb":"check-index","Key":"b","Index":3}}]"#;
        let (status, said) = put(&store, body).await;
        assert_eq!((status, &said["Errors"][0]["OpIndex"]), (409, &1.into()));
        assert_eq!(said["Errors"][0]["What"], "key \"b\" doesn't exist");
        assert_eq!(put(&store, r#"[{"KV":{"Verb":"check-not-exists","Key":"a"}}]"#).await.0, 200);
    }

    #[tokio::test]
    async fn guarded_keys_and_plain_ones_do_not_go_together() {
        let body =
            r#"[{"KV":{"Verb":"set","Key":"a","Value":""}}, {"KV":{"Verb":"set","Key":"backend/x","Value":""}}]"#;
        let (status, said) = put(&store(), body).await;
        assert!(status == 501 && said.as_str().is_some_and(|line| line.contains("backend/x is guarded")), "{said}");
    }

    #[tokio::test]
    async fn what_is_no_operation_on_keys_is_refused() {
        for body in [
            r#"[{"KV":{"Verb":"shout","Key":"a"}}]"#,
            r#"[{"Node":{"Verb":"set"}}]"#,
            r#"[{"KV":{"Verb":"set","Key":"a","Value":"?"}}]"#,
            r#"[{"KV":{"Verb":"lock","Key":"a","Session":"me"}}]"#,
            r#"[{"KV":{"Verb":"get","Key":""}}]"#,
        ] {
            assert!([400, 501].contains(&put(&store(), body).await.0), "{body}");
        }
    }
}

//! `/v1/txn`: several operations in one request.
//!
//! Keys are decided one by one, by different authorities, so a transaction that changes several of them cannot be atomic
//! here, and one that is not is worse than none. What is done: any number of reads, or one change by itself. Everything
//! else is refused before anything is done.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hyper::StatusCode;
use serde::{Deserialize, Serialize};

use super::{
    answer::Answer,
    json,
    kv::{Keys, refusal, shape},
    request::Ask,
    shapes::KeyValue,
};
use crate::kv::{Change, Reply, Request, Rule, Topic, Value};

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

/// One operation, understood.
enum Step {
    Read(Topic),
    Write { key: String, change: Change },
    DeletePrefix(String),
}

/// Answers `PUT /v1/txn`.
pub async fn answer(ask: &Ask, keys: &impl Keys) -> Result<Answer, Answer> {
    let operations: Vec<Operation> = json::decode_list(&ask.body, &[])?;
    if operations.len() > MAX_OPERATIONS {
        let reason = format!("Transaction contains too many operations ({} > {MAX_OPERATIONS})", operations.len());
        return Err(Answer::refused(StatusCode::PAYLOAD_TOO_LARGE, reason));
    }
    let steps = operations.into_iter().map(step).collect::<Result<Vec<_>, _>>()?;
    let writes = steps.iter().filter(|step| !matches!(step, Step::Read(_))).count();
    if writes > 0 && steps.len() > 1 {
        let reason = "a transaction that changes something may have one operation only: keys are decided one by one here; \
                      use compare-and-set on one key that says which of the others count";
        return Err(Answer::refused(StatusCode::NOT_IMPLEMENTED, reason).because("not-atomic"));
    }
    run(steps, keys, &ask.source).await
}

async fn run(steps: Vec<Step>, keys: &impl Keys, source: &str) -> Result<Answer, Answer> {
    let (mut results, mut errors) = (Vec::new(), Vec::new());
    for (op_index, step) in steps.into_iter().enumerate() {
        let key = step.first_key();
        match keys.call_from(step.into_request(), source).await.map_err(|error| refusal(&error))? {
            Reply::Rows(rows) if rows.rows.is_empty() => {
                errors.push(Failed { op_index, what: format!("key {key:?} doesn't exist") });
            }
            Reply::Rows(rows) => results.extend(rows.rows.iter().map(|row| Found { kv: shape(row) })),
            Reply::Written(true) => results.extend(written(&key, keys).await),
            Reply::Written(false) => {
                errors
                    .push(Failed { op_index, what: format!("failed to change key {key:?}, index or lock is another") });
            }
            _ => {
                return Err(Answer::refused(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "the store has answered something else",
                ));
            }
        }
    }
    if errors.is_empty() {
        return Ok(Answer::json(&Outcome { results, errors }));
    }
    let mut refused = Answer::json(&Outcome { results: Vec::new(), errors });
    refused.status = StatusCode::CONFLICT;
    Err(refused)
}

/// A change is answered with the entry but for its value.
async fn written(key: &str, keys: &impl Keys) -> Option<Found> {
    let topic = Topic::Key(key.to_owned());
    let Ok(Reply::Rows(rows)) = keys.call(Request::Read { topic, wait: None, after: None }).await else { return None };
    rows.rows.first().map(|row| Found { kv: KeyValue { value: None, ..shape(row) } })
}

impl Step {
    fn first_key(&self) -> String {
        match self {
            Self::Read(Topic::Key(key) | Topic::Prefix(key)) | Self::DeletePrefix(key) | Self::Write { key, .. } => {
                key.clone()
            }
        }
    }

    fn into_request(self) -> Request {
        match self {
            Self::Read(topic) => Request::Read { topic, wait: None, after: None },
            Self::Write { key, change } => Request::Write { key, change },
            Self::DeletePrefix(prefix) => Request::DeletePrefix { prefix },
        }
    }
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
        "get" => return Ok(Step::Read(Topic::Key(key))),
        "get-tree" => return Ok(Step::Read(Topic::Prefix(key))),
        "delete-tree" => return Ok(Step::DeletePrefix(key)),
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

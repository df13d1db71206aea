//! `/v1/kv`: keys and values.
//!
//! Index rules and words are Consul's; what a cluster without a majority refuses is said in the body and, for programs, in
//! `X-Weaved-Refusal`.

use std::future::Future;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hyper::{Method, StatusCode};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::{
    answer::Answer,
    blocking::with_jitter,
    methods::Methods,
    query::{Query, QueryError},
    request::Ask,
    shapes::KeyValue,
};
use crate::kv::{self, Change, KvError, Reply, Request, Row, Rows, Rule, SessionId, Topic, Value, Wait, Watched};

/// The store, as the routes see it.
pub trait Keys: Send + Sync {
    /// Asks, and waits for the answer.
    fn call(&self, request: Request) -> impl Future<Output = kv::Answer> + Send {
        self.call_from(request, "the HTTP API")
    }

    /// The same; says for people by what and from where.
    fn call_from(&self, request: Request, source: &str) -> impl Future<Output = kv::Answer> + Send;
}

/// Answers of several pages that are gathered at once, and lists of all sessions: each may hold rows of the whole store.
const MAX_GATHERED: usize = 2;
/// Answers of one page that are read at once. One change may wake thousands that wait for it.
const MAX_PAGES: usize = 16;

/// Whose turn it is to read much.
#[derive(Debug)]
pub struct Turns {
    pages: Semaphore,
    several: Semaphore,
}

impl Default for Turns {
    fn default() -> Self {
        Self { pages: Semaphore::new(MAX_PAGES), several: Semaphore::new(MAX_GATHERED) }
    }
}

impl Turns {
    /// Waits for news, if that is asked for, and then for a turn to read it. Who waits holds nothing of it.
    pub(super) async fn after(
        &self,
        what: Watched,
        wait: Option<Wait>,
        keys: &impl Keys,
    ) -> Result<Option<SemaphorePermit<'_>>, Answer> {
        let room = if matches!(what, Watched::Sessions(None)) { &self.several } else { &self.pages };
        if let Some(wait) = wait {
            match keys.call(Request::Watch { what, wait }).await {
                Ok(Reply::Watched) => {}
                Ok(_) => return Err(something_else()),
                Err(error) => return Err(refusal(&error)),
            }
        }
        Ok(room.acquire().await.ok())
    }
}

/// Answers below `/v1/kv`.
pub async fn answer(ask: &Ask, key: &str, keys: &impl Keys, turns: &Turns) -> Result<Answer, Answer> {
    match ask.method {
        Method::GET | Method::HEAD => get(ask, key, keys, turns).await,
        Method::PUT | Method::POST => put(ask, key, keys).await,
        Method::DELETE => delete(ask, key, keys).await,
        _ => Err(super::not_allowed(&ask.method, Methods::Key)),
    }
}

async fn get(ask: &Ask, key: &str, keys: &impl Keys, turns: &Turns) -> Result<Answer, Answer> {
    let query = &ask.query;
    let topic = match query.has("recurse") || query.has("keys") {
        true => Topic::Prefix(key.to_owned()),
        false if key.is_empty() => return Err(Answer::bad("Missing key name")),
        false => Topic::Key(key.to_owned()),
    };
    let wait = query
        .blocking()?
        .map(|blocking| Wait { index: blocking.seen, at_most_ms: with_jitter(blocking.wait).as_millis() as u64 });
    let (rows, _turn) = match topic {
        Topic::Key(key) => (one(key, wait, query, keys).await?, None),
        Topic::Prefix(_) => all_rows(topic, wait, keys, turns).await?,
    };
    let index = rows.index;
    let answer = if query.has("keys") {
        names(key, &rows, query)
    } else if rows.rows.is_empty() {
        Answer::nothing()
    } else if query.has("raw") && !query.has("recurse") {
        Answer::raw(rows.rows[0].value.as_bytes().to_vec())
    } else {
        Answer::json(&rows.rows.iter().map(shape).collect::<Vec<_>>())
    };
    Ok(answer.at(index))
}

/// A key that is waited for is told as this node has it; what `consistent` asks for is decided when there is news.
async fn one(key: String, wait: Option<Wait>, query: &Query, keys: &impl Keys) -> Result<Rows, Answer> {
    kv::Key::new(&key).map_err(|error| refusal(&error))?;
    let is_consistent = query.has("consistent");
    if is_consistent && wait.is_none() {
        return rows_of(keys.call(Request::ReadConsistent { key }).await);
    }
    let rows = rows_of(keys.call(Request::Read { topic: Topic::Key(key.clone()), wait, after: None }).await)?;
    if is_consistent { rows_of(keys.call(Request::ReadConsistent { key }).await) } else { Ok(rows) }
}

/// A page follows the other. Where there are several, they are read from the beginning in their turn, so that what waits for its
/// turn holds none. The turn is over when the answer is made.
async fn all_rows<'a>(
    topic: Topic,
    wait: Option<Wait>,
    keys: &impl Keys,
    turns: &'a Turns,
) -> Result<(Rows, Option<SemaphorePermit<'a>>), Answer> {
    let turn = turns.after(Watched::Keys(topic.clone()), wait, keys).await?;
    let only = page(&topic, None, keys).await?;
    if only.more_after.is_none() {
        return Ok((only, turn));
    }
    drop((only, turn));
    let turn = turns.several.acquire().await.ok();
    let mut all = page(&topic, None, keys).await?;
    while let Some(after) = all.more_after.take() {
        let next = page(&topic, Some(after), keys).await?;
        all.rows.extend(next.rows);
        all.more_after = next.more_after;
    }
    Ok((all, turn))
}

async fn page(topic: &Topic, after: Option<String>, keys: &impl Keys) -> Result<Rows, Answer> {
    rows_of(keys.call(Request::Read { topic: topic.clone(), wait: None, after }).await)
}

/// The names of keys; with a separator only up to its first place behind the prefix, each once.
fn names(prefix: &str, rows: &Rows, query: &Query) -> Answer {
    if rows.rows.is_empty() && !prefix.is_empty() {
        return Answer::nothing();
    }
    let separator = query.get("separator").filter(|separator| !separator.is_empty());
    let mut names: Vec<&str> = Vec::with_capacity(rows.rows.len());
    for row in &rows.rows {
        let key = row.key.as_str();
        let place = separator.and_then(|separator| Some(key.get(prefix.len()..)?.find(separator)? + separator.len()));
        let name = place.map_or(key, |place| &key[..prefix.len() + place]);
        if names.last() != Some(&name) {
            names.push(name);
        }
    }
    Answer::json(&names)
}

async fn put(ask: &Ask, key: &str, keys: &impl Keys) -> Result<Answer, Answer> {
    if key.is_empty() {
        return Err(Answer::bad("Missing key name"));
    }
    let flags = ask.query.number("flags")?.unwrap_or(0);
    let change = Change::Put { value: Value::new(&ask.body), flags, rule: rule(&ask.query)? };
    written(keys.call_from(Request::Write { key: key.to_owned(), change }, &ask.source).await)
}

async fn delete(ask: &Ask, key: &str, keys: &impl Keys) -> Result<Answer, Answer> {
    if ask.query.has("recurse") {
        if ask.query.has("cas") {
            return Err(Answer::bad("Conflicting flags: cas, recurse"));
        }
        return written(keys.call(Request::DeletePrefix { prefix: key.to_owned() }).await);
    }
    if key.is_empty() {
        return Err(Answer::bad("Missing key name"));
    }
    let rule = ask.query.number("cas")?.map_or(Rule::Always, Rule::AtIndex);
    written(keys.call(Request::Write { key: key.to_owned(), change: Change::Delete { rule } }).await)
}

/// Of `cas`, `acquire` and `release` at most one may be there.
fn rule(query: &Query) -> Result<Rule, Answer> {
    let session =
        |name| query.get(name).map(|id| id.parse::<SessionId>().map_err(|error| Answer::bad(error.to_string())));
    let conditions = (
        query.number("cas").map_err(|error: QueryError| Answer::bad(error.to_string()))?,
        session("acquire"),
        session("release"),
    );
    match conditions {
        (None, None, None) => Ok(Rule::Always),
        (Some(index), None, None) => Ok(Rule::AtIndex(index)),
        (None, Some(session), None) => Ok(Rule::Acquire(session?)),
        (None, None, Some(session)) => Ok(Rule::Release(session?)),
        _ => Err(Answer::bad("Conflicting flags: only one of cas, acquire and release may be given")),
    }
}

/// One row in Consul's form.
pub fn shape(row: &Row) -> KeyValue {
    let bytes = row.value.as_bytes();
    KeyValue {
        lock_index: row.lock_index,
        key: row.key.as_str().to_owned(),
        flags: row.flags,
        value: (!bytes.is_empty()).then(|| STANDARD.encode(bytes)),
        create_index: row.create_index,
        modify_index: row.modify_index,
        session: row.session.map(|session| session.to_string()),
    }
}

fn rows_of(answer: kv::Answer) -> Result<Rows, Answer> {
    match answer {
        Ok(Reply::Rows(rows)) => Ok(rows),
        Ok(_) => Err(something_else()),
        Err(error) => Err(refusal(&error)),
    }
}

/// A broken invariant that is not worth ending for.
pub(super) fn something_else() -> Answer {
    Answer::refused(StatusCode::INTERNAL_SERVER_ERROR, "the store has answered something else")
}

fn written(answer: kv::Answer) -> Result<Answer, Answer> {
    match answer {
        Ok(Reply::Written(is_done)) => Ok(Answer::json(&is_done)),
        Ok(_) => Err(something_else()),
        Err(error) => Err(refusal(&error)),
    }
}

/// Why the store refuses, as a status, a sentence and a word.
pub fn refusal(error: &KvError) -> Answer {
    let (status, word) = match error {
        KvError::BadKey { .. } => (StatusCode::BAD_REQUEST, "bad-key"),
        KvError::BadSession { .. } => (StatusCode::BAD_REQUEST, "bad-session"),
        KvError::Reserved { .. } => (StatusCode::FORBIDDEN, "reserved"),
        KvError::NotSwitched { word, .. } => (StatusCode::CONFLICT, switch_word(word)),
        KvError::GuardedBelow { .. } => (StatusCode::BAD_REQUEST, "guarded-below"),
        KvError::NotAtomic { .. } => (StatusCode::NOT_IMPLEMENTED, "not-atomic"),
        KvError::ValueTooLong { .. } => (StatusCode::PAYLOAD_TOO_LARGE, "value-too-long"),
        KvError::NoSession { .. } => (StatusCode::INTERNAL_SERVER_ERROR, "no-session"),
        KvError::Full { .. } => (StatusCode::INSUFFICIENT_STORAGE, "full"),
        KvError::TooManyWatchers => (StatusCode::TOO_MANY_REQUESTS, "too-many-watchers"),
        KvError::Busy => (StatusCode::SERVICE_UNAVAILABLE, "busy"),
        KvError::NoElectorate { .. } => (StatusCode::INTERNAL_SERVER_ERROR, "no-electorate"),
        KvError::NoMajority { .. } => (StatusCode::INTERNAL_SERVER_ERROR, "no-majority"),
        KvError::OutcomeUnknown { .. } => (StatusCode::INTERNAL_SERVER_ERROR, "outcome-unknown"),
        KvError::IndexExhausted { .. } => (StatusCode::INTERNAL_SERVER_ERROR, "index-exhausted"),
        KvError::Disk { .. } => (StatusCode::INTERNAL_SERVER_ERROR, "disk"),
        KvError::Ending => (StatusCode::SERVICE_UNAVAILABLE, "ending"),
    };
    Answer::refused(status, error.to_string()).because(word)
}

/// The words of refused switches, which come as text.
fn switch_word(word: &str) -> &'static str {
    crate::switch::Refusal::WORDS.into_iter().find(|known| *known == word).unwrap_or("not-switched")
}

#[cfg(test)]
mod tests;

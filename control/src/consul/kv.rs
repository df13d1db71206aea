//! `/v1/kv`: keys and values.
//!
//! Index rules and words are Consul's; what a cluster without a majority refuses is said in the body and, for programs, in
//! `X-Weaved-Refusal`.

use std::future::Future;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hyper::{Method, StatusCode};
use tokio::sync::Semaphore;

use super::{
    answer::Answer,
    blocking::with_jitter,
    query::{Query, QueryError},
    request::Ask,
    shapes::KeyValue,
};
use crate::kv::{self, Change, KvError, Reply, Request, Row, Rows, Rule, SessionId, Topic, Value, Wait};

/// The store, as the routes see it.
pub trait Keys: Send + Sync {
    /// Asks, and waits for the answer.
    fn call(&self, request: Request) -> impl Future<Output = kv::Answer> + Send {
        self.call_from(request, "the HTTP API")
    }

    /// The same; says for people by what and from where.
    fn call_from(&self, request: Request, source: &str) -> impl Future<Output = kv::Answer> + Send;
}

/// Answers of several pages that are gathered at once: each may hold rows of the whole store.
const MAX_GATHERED: usize = 2;

/// Whose turn it is to gather an answer of several pages.
#[derive(Debug)]
pub struct Turns(Semaphore);

impl Default for Turns {
    fn default() -> Self {
        Self(Semaphore::new(MAX_GATHERED))
    }
}

/// Answers below `/v1/kv`.
pub async fn answer(ask: &Ask, key: &str, keys: &impl Keys, turns: &Turns) -> Result<Answer, Answer> {
    match ask.method {
        Method::GET | Method::HEAD => get(ask, key, keys, turns).await,
        Method::PUT | Method::POST => put(ask, key, keys).await,
        Method::DELETE => delete(ask, key, keys).await,
        _ => Err(super::not_allowed(&ask.method)),
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
    let rows = match topic {
        Topic::Key(key) if query.has("consistent") && wait.is_none() => {
            rows_of(keys.call(Request::ReadConsistent { key }).await)?
        }
        topic => all_rows(topic, wait, keys, turns).await?,
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

/// A page follows the other; only the first waits for news. Where there are several, they are read from the beginning in
/// their turn, so that what waits for its turn holds none.
async fn all_rows(topic: Topic, wait: Option<Wait>, keys: &impl Keys, turns: &Turns) -> Result<Rows, Answer> {
    let only = page(&topic, wait, None, keys).await?;
    if only.more_after.is_none() {
        return Ok(only);
    }
    drop(only);
    let _turn = turns.0.acquire().await;
    let mut all = page(&topic, None, None, keys).await?;
    while let Some(after) = all.more_after.take() {
        let next = page(&topic, None, Some(after), keys).await?;
        all.rows.extend(next.rows);
        all.more_after = next.more_after;
    }
    Ok(all)
}

async fn page(topic: &Topic, wait: Option<Wait>, after: Option<String>, keys: &impl Keys) -> Result<Rows, Answer> {
    rows_of(keys.call(Request::Read { topic: topic.clone(), wait, after }).await)
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
        Ok(_) => Err(Answer::refused(StatusCode::INTERNAL_SERVER_ERROR, "the store has answered something else")),
        Err(error) => Err(refusal(&error)),
    }
}

fn written(answer: kv::Answer) -> Result<Answer, Answer> {
    match answer {
        Ok(Reply::Written(is_done)) => Ok(Answer::json(&is_done)),
        Ok(_) => Err(Answer::refused(StatusCode::INTERNAL_SERVER_ERROR, "the store has answered something else")),
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
mod tests {
    use std::sync::{Arc, Mutex};

    use hyper::body::Bytes;

    use super::*;
    use crate::{consul::answer::Body, kv::Key};

    /// Writes down what it is asked, and gives one answer to everything.
    struct Recorder {
        asked: Mutex<Vec<Request>>,
        answer: kv::Answer,
    }

    impl Keys for Recorder {
        async fn call_from(&self, request: Request, _source: &str) -> kv::Answer {
            self.asked.lock().unwrap().push(request);
            self.answer.clone()
        }
    }

    fn row(key: &str, value: &str) -> Row {
        Row {
            key: Key::new(key).unwrap(),
            value: Value::new(value.as_bytes()),
            flags: 0,
            create_index: 11,
            modify_index: 12,
            lock_index: 0,
            session: None,
        }
    }

    fn rows(rows: &[(&str, &str)]) -> Reply {
        let rows = rows.iter().map(|(key, value)| row(key, value)).collect();
        Reply::Rows(Rows { index: 20, rows, more_after: None })
    }

    /// What the client gets, and what the store was asked first.
    async fn ask(method: Method, path: &str, body: &'static str, answer: kv::Answer) -> (Answer, Option<Request>) {
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let ask = Ask::new(method, path, Some(query), Bytes::from(body)).unwrap();
        let keys = Recorder { asked: Mutex::default(), answer };
        let answer = super::answer(&ask, ask.behind("kv").unwrap(), &keys, &Turns::default())
            .await
            .unwrap_or_else(|refused| refused);
        let asked = keys.asked.into_inner().unwrap().into_iter().next();
        (answer, asked)
    }

    async fn get(path: &str, reply: Reply) -> Answer {
        ask(Method::GET, path, "", Ok(reply)).await.0
    }

    fn json(answer: &Answer) -> String {
        match &answer.body {
            Body::Json(value) => value.to_string(),
            other => format!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn a_key_is_told_as_consul_tells_it() {
        let answer = get("/v1/kv/backend/current?stale=&wait=60000ms", rows(&[("backend/current", "blue")])).await;
        assert_eq!(answer.index, Some(20));
        let expected = r#"[{"LockIndex":0,"Key":"backend/current","Flags":0,"Value":"Ymx1ZQ==","CreateIndex":11,"ModifyIndex":12}]"#;
        assert_eq!(json(&answer), expected);
        let raw = get("/v1/kv/backend/current?raw", rows(&[("backend/current", "blue")])).await;
        assert_eq!(raw.body, Body::Raw(b"blue".to_vec()));
        let all = get("/v1/kv/backend/?recurse&raw", rows(&[("backend/a", "blue"), ("backend/b", "green")])).await;
        assert!(json(&all).contains(r#""Key":"backend/b""#), "`raw` is of one key: {all:?}");
    }

    #[tokio::test]
    async fn a_key_that_is_not_there_is_404_with_an_empty_body_and_an_index() {
        for path in ["/v1/kv/none", "/v1/kv/none?recurse", "/v1/kv/none/?keys", "/v1/kv/none?raw"] {
            let answer = get(path, rows(&[])).await;
            assert_eq!(
                (answer.status, &answer.body, answer.index),
                (StatusCode::NOT_FOUND, &Body::Empty, Some(20)),
                "{path}"
            );
        }
        assert_eq!(json(&get("/v1/kv/?keys", rows(&[])).await), "[]", "of an empty store");
        assert_eq!(get("/v1/kv/", rows(&[])).await.status, StatusCode::BAD_REQUEST);
    }

    #[tokio::test]
    async fn names_end_at_the_separator_and_come_once() {
        let all = || rows(&[("a/b", ""), ("a/c/d", ""), ("a/c/e", "")]);
        assert_eq!(json(&get("/v1/kv/a/?keys&separator=/", all()).await), r#"["a/b","a/c/"]"#);
        assert_eq!(json(&get("/v1/kv/a?keys&separator=%2F", all()).await), r#"["a/"]"#);
        assert_eq!(json(&get("/v1/kv/a/?keys", all()).await), r#"["a/b","a/c/d","a/c/e"]"#);
    }

    #[tokio::test]
    async fn a_put_is_made_under_the_condition_that_stands_behind_it() {
        let id = "2b0c0a4e-94ae-4a1f-8c6b-0f4d9f1e7a55";
        let session: SessionId = id.parse().unwrap();
        for (query, expected) in [
            ("", Rule::Always),
            ("?index=7", Rule::Always),
            ("?cas=0", Rule::AtIndex(0)),
            ("?cas=12", Rule::AtIndex(12)),
            (&format!("?acquire={id}"), Rule::Acquire(session)),
            (&format!("?release={id}"), Rule::Release(session)),
        ] {
            let path = format!("/v1/kv/a%2Fb{query}");
            let (answer, asked) = ask(Method::PUT, &path, "blue", Ok(Reply::Written(true))).await;
            let change = Change::Put { value: Value::new(b"blue"), flags: 0, rule: expected };
            assert_eq!(asked, Some(Request::Write { key: "a/b".into(), change }), "{query}");
            assert_eq!(json(&answer), "true");
        }
        assert_eq!(json(&ask(Method::PUT, "/v1/kv/a?cas=1", "", Ok(Reply::Written(false))).await.0), "false");
    }

    #[tokio::test]
    async fn contradictions_and_nonsense_never_reach_the_store() {
        for path in
            ["/v1/kv/a?cas=1&acquire=x", "/v1/kv/a?cas=one", "/v1/kv/a?acquire=me", "/v1/kv/a?flags=-1", "/v1/kv/"]
        {
            let (answer, asked) = ask(Method::PUT, path, "", Ok(Reply::Written(true))).await;
            assert_eq!((answer.status, asked), (StatusCode::BAD_REQUEST, None), "{path}");
        }
    }

    #[tokio::test]
    async fn a_query_with_an_index_waits_in_the_store() {
        let (_, asked) = ask(Method::GET, "/v1/kv/a?index=20&wait=10s", "", Ok(rows(&[]))).await;
        let Some(Request::Read { topic, wait: Some(wait), .. }) = asked else { panic!("{asked:?}") };
        assert_eq!((topic, wait.index), (Topic::Key("a".into()), 20));
        assert!((10_000..=10_625).contains(&wait.at_most_ms), "{} ms", wait.at_most_ms);
    }

    #[tokio::test]
    async fn deletions_say_what_they_delete() {
        let delete = async |path| ask(Method::DELETE, path, "", Ok(Reply::Written(true))).await.1;
        let one = |rule| Some(Request::Write { key: "a".into(), change: Change::Delete { rule } });
        assert_eq!(delete("/v1/kv/a").await, one(Rule::Always));
        assert_eq!(delete("/v1/kv/a?cas=3").await, one(Rule::AtIndex(3)));
        assert_eq!(delete("/v1/kv/a/?recurse=True").await, Some(Request::DeletePrefix { prefix: "a/".into() }));
        assert_eq!(delete("/v1/kv/a?recurse&cas=3").await, None);
    }

    #[tokio::test]
    async fn a_switch_that_is_refused_says_why_in_words_and_in_a_word() {
        let refusal = crate::switch::Refusal::NoColour { service: "web".into(), colour: "gren".into(), known: vec![] };
        let error = KvError::NotSwitched { reason: refusal.to_string(), word: refusal.word().into() };
        let (answer, _) = ask(Method::PUT, "/v1/kv/backend/web", "gren", Err(error)).await;
        assert_eq!((answer.status, answer.refusal), (StatusCode::CONFLICT, Some("no-colour")));
        assert!(matches!(&answer.body, Body::Text(text) if text.contains("no instance of colour `gren`")));
    }

    #[tokio::test]
    async fn without_a_majority_a_change_is_refused_with_the_reason_in_words_and_in_a_word() {
        let error = KvError::NoMajority { key: Key::new("backend/current").unwrap(), answered: 1, voters: 3 };
        let (answer, _) = ask(Method::PUT, "/v1/kv/backend/current?cas=1", "green", Err(error)).await;
        assert_eq!((answer.status, answer.refusal), (StatusCode::INTERNAL_SERVER_ERROR, Some("no-majority")));
        assert!(matches!(&answer.body, Body::Text(text) if text.contains("1 of 3 voters")));
    }

    /// Three pages of one key each; the second and the third come when the gate opens.
    struct Pages {
        gate: Semaphore,
        behind_gate: Mutex<usize>,
    }

    impl Keys for Pages {
        async fn call_from(&self, request: Request, _source: &str) -> kv::Answer {
            let Request::Read { after, .. } = request else { panic!("{request:?}") };
            if after.is_some() {
                *self.behind_gate.lock().unwrap() += 1;
                drop(self.gate.acquire().await.unwrap());
            }
            let (key, more_after) = match after.as_deref() {
                None => ("a", Some("a")),
                Some("a") => ("b", Some("b")),
                _ => ("c", None),
            };
            let more_after = more_after.map(str::to_owned);
            Ok(Reply::Rows(Rows { index: 20, rows: vec![row(key, "")], more_after }))
        }
    }

    #[tokio::test]
    async fn answers_of_several_pages_are_gathered_two_at_a_time() {
        let pages = Pages { gate: Semaphore::new(0), behind_gate: Mutex::default() };
        let shared = Arc::new((pages, Turns::default()));
        let gather = |shared: Arc<(Pages, Turns)>| async move {
            let ask = Ask::new(Method::GET, "/v1/kv/", Some("keys"), Bytes::new()).unwrap();
            super::answer(&ask, "", &shared.0, &shared.1).await.unwrap()
        };
        let gathering: Vec<_> = (0..5).map(|_| tokio::spawn(gather(Arc::clone(&shared)))).collect();
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert_eq!(*shared.0.behind_gate.lock().unwrap(), MAX_GATHERED);
        shared.0.gate.add_permits(1);
        for answer in gathering {
            assert_eq!(json(&answer.await.unwrap()), r#"["a","b","c"]"#);
        }
    }
}

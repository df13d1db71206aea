//! What of a request reaches the store, and how its answer is told.

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
    let expected =
        r#"[{"LockIndex":0,"Key":"backend/current","Flags":0,"Value":"Ymx1ZQ==","CreateIndex":11,"ModifyIndex":12}]"#;
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
    for path in ["/v1/kv/a?cas=1&acquire=x", "/v1/kv/a?cas=one", "/v1/kv/a?acquire=me", "/v1/kv/a?flags=-1", "/v1/kv/"]
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
async fn a_key_that_cannot_be_is_refused_at_once_and_not_waited_for() {
    for path in ["/v1/kv/%00?index=20", "/v1/kv/%00"] {
        let (answer, asked) = ask(Method::GET, path, "", Ok(rows(&[]))).await;
        assert_eq!((answer.status, answer.refusal, asked), (StatusCode::BAD_REQUEST, Some("bad-key"), None), "{path}");
    }
}

#[tokio::test]
async fn who_waits_for_a_guarded_key_and_wants_what_is_decided_asks_the_majority_when_there_is_news() {
    let query = "?consistent&index=20&wait=10s";
    let ask = Ask::new(Method::GET, "/v1/kv/backend/web", Some(&query[1..]), Bytes::new()).unwrap();
    let keys = Recorder { asked: Mutex::default(), answer: Ok(rows(&[("backend/web", "blue")])) };
    super::answer(&ask, "backend/web", &keys, &Turns::default()).await.unwrap();
    let asked = keys.asked.into_inner().unwrap();
    assert!(
        matches!(&asked[..], [Request::Read { wait: Some(_), .. }, Request::ReadConsistent { key }] if key == "backend/web"),
        "{asked:?}"
    );
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

/// A page of one key, read when the gate opens; and how many have been asked for.
struct Herd {
    news: Semaphore,
    gate: Semaphore,
    reading: Mutex<usize>,
}

impl Keys for Herd {
    async fn call_from(&self, request: Request, _source: &str) -> kv::Answer {
        match request {
            Request::Watch { what: Watched::Keys(topic), wait } => {
                assert_eq!((topic, wait.index), (Topic::Prefix("a/".into()), 20));
                drop(self.news.acquire().await.unwrap());
                Ok(Reply::Watched)
            }
            Request::Read { wait: None, .. } => {
                *self.reading.lock().unwrap() += 1;
                drop(self.gate.acquire().await.unwrap());
                Ok(rows(&[("a/b", "")]))
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn of_many_that_one_change_wakes_a_few_read_at_once() {
    let herd = Herd { news: Semaphore::new(0), gate: Semaphore::new(0), reading: Mutex::default() };
    let shared = Arc::new((herd, Turns::default()));
    let wait = |shared: Arc<(Herd, Turns)>| async move {
        let ask = Ask::new(Method::GET, "/v1/kv/a/", Some("recurse&index=20"), Bytes::new()).unwrap();
        super::answer(&ask, "a/", &shared.0, &shared.1).await.unwrap()
    };
    let waiting: Vec<_> = (0..100).map(|_| tokio::spawn(wait(Arc::clone(&shared)))).collect();
    let settle = async || {
        for _ in 0..1000 {
            tokio::task::yield_now().await;
        }
    };
    settle().await;
    assert_eq!(*shared.0.reading.lock().unwrap(), 0, "there is no news");
    shared.0.news.add_permits(1);
    settle().await;
    assert_eq!(*shared.0.reading.lock().unwrap(), MAX_PAGES);
    shared.0.gate.add_permits(1);
    for answer in waiting {
        assert!(json(&answer.await.unwrap()).contains(r#""Key":"a/b""#));
    }
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

//! The store of one node, alone.

use weaved_api::PeerId;

use super::*;
use crate::kv::{Behaviour, Step, Value, limits::MAX_REPLICA_SESSIONS_BYTES, testing::alone};

fn kv(stored: &StoredRows) -> Kv {
    alone(stored)
}

fn ask(kv: &mut Kv, request: Request, wall_us: u64) -> Answer {
    kv.handle_request(RequestId(1), request, Instant::now(), wall_us);
    let _ = kv.poll_persist();
    kv.poll_answer().unwrap().1
}

fn put(key: &str, value: &str, rule: Rule) -> Request {
    Request::Write { key: key.into(), change: Change::Put { value: Value::new(value.as_bytes()), flags: 7, rule } }
}

fn kv_entry(value: Value) -> Entry {
    Entry {
        guard: Some(Lineage { made_at_us: 1, founder: PeerId([1; 32]) }),
        modified: Hlc(1),
        writer: PeerId([1; 32]),
        created: Hlc(1),
        flags: 0,
        lock_index: 0,
        session: None,
        held_back_until: Hlc(0),
        value: Some(value),
    }
}

#[test]
fn no_answer_leaves_before_its_row_is_stored() {
    let mut kv = kv(&vec![]);
    kv.handle_request(RequestId(1), put("a", "1", Rule::Always), Instant::now(), 100);
    assert_eq!(kv.poll_answer(), None);
    assert!(kv.poll_persist().is_some());
    assert_eq!(kv.poll_answer(), Some((RequestId(1), Ok(Reply::Written(true)))));
}

#[test]
fn a_restart_loses_nothing_and_the_index_goes_on() {
    let mut first = kv(&vec![]);
    first.handle_request(RequestId(1), put("a", "1", Rule::Always), Instant::now(), 100);
    let before = first.read(&Topic::Key("a".into()), None).unwrap();
    let batch = first.poll_persist().unwrap();
    let stored = batch.into_iter().filter_map(|((table, key), value)| Some((table, key, value?))).collect();
    let mut second = kv(&stored);
    assert_eq!(second.read(&Topic::Key("a".into()), None).unwrap(), before);
    ask(&mut second, put("b", "2", Rule::Always), 5).unwrap();
    assert!(second.read(&Topic::Key("b".into()), None).unwrap().index > before.index);
}

#[test]
fn a_disk_that_takes_nothing_is_told_and_later_writes_are_refused() {
    let mut kv = kv(&vec![]);
    kv.handle_request(RequestId(1), put("a", "1", Rule::Always), Instant::now(), 100);
    let batch = kv.poll_persist().unwrap();
    kv.handle_persist_failed(batch.clone(), "full");
    assert!(matches!(kv.poll_answer(), Some((_, Err(KvError::Disk { .. })))));
    kv.handle_request(RequestId(2), put("b", "1", Rule::Always), Instant::now(), 101);
    assert!(matches!(kv.poll_answer(), Some((_, Err(KvError::Disk { .. })))));
    assert_eq!(kv.poll_persist(), Some(batch));
    kv.handle_stored();
    assert_eq!(ask(&mut kv, put("b", "1", Rule::Always), 102), Ok(Reply::Written(true)));
}

#[test]
fn a_client_that_names_the_modify_index_of_what_it_has_waits() {
    let mut kv = kv(&vec![]);
    ask(&mut kv, put("a", "1", Rule::Always), 100).unwrap();
    let rows = kv.read(&Topic::Key("a".into()), None).unwrap();
    let topic = Topic::Key("a".into());
    assert!(!kv.has_news(&topic, rows.index) && !kv.has_news(&topic, rows.rows[0].modify_index));
    assert!(kv.has_news(&topic, 0) && kv.has_news(&topic, rows.index - 1));
}

#[test]
fn what_does_not_fit_is_refused_with_a_reason_and_deleting_makes_room() {
    let mut kv = kv(&vec![]);
    let long = "x".repeat(MAX_VALUE_BYTES + 1);
    assert!(matches!(ask(&mut kv, put("a", &long, Rule::Always), 1), Err(KvError::ValueTooLong { .. })));
    let most = "x".repeat(MAX_VALUE_BYTES);
    let full = (0..200).find_map(|n| ask(&mut kv, put(&format!("k/{n}"), &most, Rule::Always), 1).err());
    assert!(full.unwrap().to_string().contains("delete something"));
    assert_eq!(ask(&mut kv, Request::DeletePrefix { prefix: "k/".into() }, 2), Ok(Reply::Written(true)));
    assert_eq!(ask(&mut kv, put("a", "1", Rule::Always), 3), Ok(Reply::Written(true)));
}

/// A session that ends only by word, in node `a`.
fn session_spec() -> SessionSpec {
    SessionSpec {
        name: String::new(),
        node_name: "a".into(),
        ttl_us: None,
        lock_delay_us: 0,
        behaviour: Behaviour::Release,
    }
}

#[test]
fn sessions_that_have_ended_leave_room_for_keys_and_the_refusal_of_a_new_one_says_why() {
    let mut kv = kv(&vec![]);
    let spec = session_spec();
    let Ok(Reply::SessionMade(first)) = ask(&mut kv, Request::SessionCreate { spec: spec.clone() }, 1) else {
        panic!("no session")
    };
    let ended = |number: usize| {
        let spec = SessionSpec { name: "x".repeat(MAX_VALUE_BYTES / 2), ..spec.clone() };
        let session = Session { spec, node: PeerId([1; 32]), phase: Phase::Lost, renewals: 0 };
        let id = SessionId((number as u128).to_be_bytes());
        (Key::of_session(id), kv_entry(session.to_value()))
    };
    for number in 0..MAX_REPLICA_SESSIONS_BYTES / (MAX_VALUE_BYTES / 2) {
        let (key, entry) = ended(number);
        kv.take(&key, entry, Origin::Elsewhere, Instant::now(), 1);
    }
    assert!(kv.store.used_bytes(Quota::Sessions) > MAX_REPLICA_SESSIONS_BYTES * 9 / 10);
    let refused = ask(&mut kv, Request::SessionCreate { spec }, 2).unwrap_err();
    assert!(refused.to_string().starts_with("no new session is made"), "{refused}");
    assert_eq!(ask(&mut kv, put("a", "1", Rule::Always), 3), Ok(Reply::Written(true)));
    assert_eq!(kv.sessions(None).sessions.len(), 1, "those that have ended are not shown");
    assert_eq!(ask(&mut kv, Request::SessionDestroy { id: first }, 4), Ok(Reply::Written(true)));
    assert!(kv.sessions(None).sessions.is_empty());
}

#[test]
fn a_session_that_no_voter_knows_was_forgotten_and_can_only_end() {
    let mut kv = kv(&vec![]);
    let id = SessionId([7; 16]);
    let session = Session { spec: session_spec(), node: PeerId([1; 32]), phase: Phase::Live, renewals: 0 };
    kv.take(&Key::of_session(id), kv_entry(session.to_value()), Origin::Elsewhere, Instant::now(), 1);
    assert_eq!(kv.sessions(None).sessions.len(), 1);
    let gone = Err(KvError::NoSession { id });
    assert_eq!(ask(&mut kv, put("lock", "1", Rule::Acquire(id)), 2), gone);
    assert_eq!(ask(&mut kv, Request::SessionRenew { id }, 3), gone);
    assert_eq!(ask(&mut kv, Request::SessionDestroy { id }, 4), Ok(Reply::Written(true)));
    assert!(kv.sessions(None).sessions.is_empty());
}

#[test]
fn a_reader_can_know_whether_a_majority_answers_and_since_when_none_does() {
    let begin = Instant::now();
    let mut kv = kv(&vec![]);
    assert_eq!(kv.reach(begin), Reach { answering: 0, voters: 1, lost_for_ms: Some(0) });
    let live = BTreeSet::from([PeerId([1; 32])]);
    kv.handle_members(Members { live, ..Members::default() }, begin, 1);
    assert_eq!(ask(&mut kv, Request::Reach, 2), Ok(Reply::Reach(kv.reach(begin))));
    assert_eq!(kv.reach(begin), Reach { answering: 1, voters: 1, lost_for_ms: None });
    kv.handle_members(Members::default(), begin + Duration::from_secs(5), 3);
    assert_eq!(kv.reach(begin + Duration::from_secs(12)).lost_for_ms, Some(7000));
}

#[test]
fn clients_cannot_write_below_weaved_and_are_told_so() {
    let mut kv = kv(&vec![]);
    let error = ask(&mut kv, put("weaved/switch/web", "{}", Rule::Always), 1).unwrap_err();
    assert!(error.to_string().contains("weaved's own"), "{error}");
    let deletion = Request::Write { key: "weaved/x".into(), change: Change::Delete { rule: Rule::Always } };
    assert!(matches!(ask(&mut kv, deletion, 1), Err(KvError::Reserved { .. })));
    assert_eq!(ask(&mut kv, put("weaved", "1", Rule::Always), 1), Ok(Reply::Written(true)));
}

#[test]
fn every_change_is_refused_while_nobody_knows_what_is_guarded() {
    let mut kv = Kv::new(KvConfig::new(PeerId([1; 32])), &vec![], [1; 32], Instant::now()).unwrap();
    for key in ["backend/x", "plain"] {
        assert!(matches!(ask(&mut kv, put(key, "1", Rule::Always), 1), Err(KvError::NoElectorate { .. })));
    }
    let steps = vec![Step::Write { key: "plain".into(), change: Change::Delete { rule: Rule::Always } }];
    assert!(matches!(ask(&mut kv, Request::Transaction { steps }, 1), Err(KvError::NoElectorate { .. })));
    assert!(matches!(ask(&mut kv, Request::DeletePrefix { prefix: "p".into() }, 1), Ok(Reply::Written(true))));
}

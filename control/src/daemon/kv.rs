//! Clients of the key-value store: who waits for what, and how tasks elsewhere in the process ask.
//!
//! A read that waits is parked here and woken by the keys that have changed; it costs a row in three maps until then.
//! Everything else goes to the node and is answered when the node says so.
//!
//! INVARIANT: each request is answered once, or its client has gone.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::{mpsc, oneshot};

use super::{Daemon, PERSIST_RETRY};
use crate::{
    kv::{
        Answer, Kv, KvError, Reply as KvReply, Request, RequestId, Topic, Wait, Watched,
        limits::{MAX_WAIT, MAX_WATCHERS},
    },
    node::Node,
    serve::protocol::Reply,
    state::kv_file::KvFile,
};

/// Requests of other tasks that wait for the loop; further ones wait in their tasks.
const QUEUE_LEN: usize = 1024;
/// Requests that are taken together and share one write to the disk.
const BATCH_LEN: usize = 256;
/// Writes of one turn of the loop, each resting on the one before; further ones wait for the next turn.
const STORE_ROUNDS: usize = 64;

/// Asks the key-value store from other tasks of this process. Cheap to clone.
#[derive(Clone, Debug)]
pub struct KvClient {
    calls: mpsc::Sender<KvCall>,
    next_id: Arc<AtomicU64>,
}

/// What travels from a task to the loop.
#[derive(Debug)]
pub(super) enum KvCall {
    /// A request, and where its answer goes.
    Ask(RequestId, Request, String, oneshot::Sender<Answer>),
    /// Nobody wants the answer any more.
    Cancel(RequestId),
}

impl KvClient {
    /// A client and the loop's end of it.
    pub(super) fn new() -> (Self, mpsc::Receiver<KvCall>) {
        let (calls, receiver) = mpsc::channel(QUEUE_LEN);
        (Self { calls, next_id: Arc::default() }, receiver)
    }

    /// Asks, and waits for the answer. May be dropped at any time; a write may then have happened. `source` says by what
    /// and from where, for people.
    pub async fn call(&self, request: Request, source: &str) -> Answer {
        let id = self.take_id();
        let (sender, receiver) = oneshot::channel();
        let ask = KvCall::Ask(id, request, source.to_owned(), sender);
        self.calls.send(ask).await.map_err(|_| KvError::Ending)?;
        let mut hang_up = HangUp { calls: &self.calls, id: Some(id) };
        let answer = receiver.await.unwrap_or(Err(KvError::Ending));
        hang_up.id = None;
        answer
    }

    pub(super) fn take_id(&self) -> RequestId {
        RequestId(self.next_id.fetch_add(1, Ordering::Relaxed))
    }
}

/// Tells the loop when a call is dropped. When the queue is full the deadline of the read does it.
struct HangUp<'a> {
    calls: &'a mpsc::Sender<KvCall>,
    id: Option<RequestId>,
}

impl Drop for HangUp<'_> {
    fn drop(&mut self) {
        if let Some(id) = self.id.take() {
            drop(self.calls.try_send(KvCall::Cancel(id)));
        }
    }
}

/// Where an answer goes.
#[derive(Debug)]
pub(super) enum Client {
    Task(oneshot::Sender<Answer>),
    Verb(oneshot::Sender<Reply>),
}

impl Client {
    fn answer(self, answer: Answer) {
        // A client that has gone does not want its answer.
        match self {
            Self::Task(sender) => drop(sender.send(answer)),
            Self::Verb(sender) => drop(sender.send(Reply::Kv(Box::new(answer)))),
        }
    }
}

/// A read that waits.
#[derive(Debug)]
struct Parked {
    request: Request,
    wait: Wait,
    deadline: Instant,
    client: Client,
}

/// All that wait.
#[derive(Debug, Default)]
pub(super) struct KvDesk {
    parked: BTreeMap<RequestId, Parked>,
    deadlines: BTreeSet<(Instant, RequestId)>,
    watchers: crate::kv::Watchers<RequestId>,
    pending: BTreeMap<RequestId, Client>,
    stuck: Option<Stuck>,
}

/// The disk takes nothing.
#[derive(Debug)]
struct Stuck {
    reason: String,
    retry_at: Instant,
}

impl KvDesk {
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// Takes one request in: parks it, or hands it to the node, which answers when what the answer rests on is stored.
    pub(super) fn ask(
        &mut self,
        node: &mut Node,
        id: RequestId,
        (request, source): (Request, &str),
        client: Client,
        now: Instant,
    ) {
        let kv = node.kv();
        let must_wait = |topic: &Topic, index| index != 0 && !kv.has_news(topic, index) && index <= kv.latest_index();
        let Some((topic, wait)) = waits_for(&request).filter(|(topic, wait)| must_wait(topic, wait.index)) else {
            self.pending.insert(id, client);
            return node.handle_kv_request(id, request, source, now);
        };
        if self.parked.len() >= MAX_WATCHERS {
            return client.answer(Err(KvError::TooManyWatchers));
        }
        let deadline = now + Duration::from_millis(wait.at_most_ms).min(MAX_WAIT);
        self.watchers.park(id, topic);
        self.deadlines.insert((deadline, id));
        self.parked.insert(id, Parked { request, wait, deadline, client });
    }

    /// Somebody waits for an answer that the node will give.
    pub(super) fn expect(&mut self, id: RequestId, client: Client) {
        self.pending.insert(id, client);
    }

    pub(super) fn cancel(&mut self, id: RequestId) {
        self.pending.remove(&id);
        self.unpark(id);
    }

    /// Stores what is to be stored, answers who has an answer, wakes who waits.
    pub(super) fn drain(&mut self, node: &mut Node, file: &mut KvFile, now: Instant) {
        self.store(node, file, now);
        while let Some((id, answer)) = node.poll_kv_answer() {
            if let Some(client) = self.pending.remove(&id) {
                client.answer(answer);
            }
        }
        while let Some(key) = node.poll_kv_changed() {
            for id in self.watchers.concerned(key.as_str()) {
                self.wake(node.kv(), id);
            }
        }
        while let Some(&(_, id)) = self.deadlines.first().filter(|(at, _)| *at <= now) {
            if let Some(parked) = self.unpark(id) {
                parked.client.answer(read(node.kv(), &parked.request));
            }
        }
    }

    /// What follows from something that was stored may have to be stored too.
    fn store(&mut self, node: &mut Node, file: &mut KvFile, now: Instant) {
        for _ in 0..STORE_ROUNDS {
            let Some(batch) = node.poll_kv_persist() else { return };
            let written = match &self.stuck {
                Some(stuck) if now < stuck.retry_at => Err(stuck.reason.clone()),
                _ => file.write(&batch).map_err(|error| self.on_stuck(error.to_string(), now)),
            };
            if let Err(reason) = written {
                return node.handle_kv_persist_failed(batch, &reason);
            }
            if self.stuck.take().is_some() {
                tracing::info!("keys and values are stored again");
            }
            node.handle_kv_stored(now);
        }
    }

    fn on_stuck(&mut self, reason: String, now: Instant) -> String {
        if self.stuck.is_none() {
            tracing::error!(reason, "cannot store keys and values");
        }
        self.stuck = Some(Stuck { reason: reason.clone(), retry_at: now + PERSIST_RETRY });
        reason
    }

    /// Why the disk takes nothing, while that lasts.
    pub(super) fn problem(&self) -> Option<String> {
        self.stuck.as_ref().map(|stuck| format!("keys cannot be changed: {}", stuck.reason))
    }

    /// When a write that failed is tried again.
    pub(super) fn retry_at(&self) -> Option<Instant> {
        self.stuck.as_ref().map(|stuck| stuck.retry_at)
    }

    fn wake(&mut self, kv: &Kv, id: RequestId) {
        let Some(parked) = self.parked.get(&id) else { return };
        let has_news = waits_for(&parked.request).is_some_and(|(topic, _)| kv.has_news(&topic, parked.wait.index));
        if has_news && let Some(parked) = self.unpark(id) {
            parked.client.answer(read(kv, &parked.request));
        }
    }

    fn unpark(&mut self, id: RequestId) -> Option<Parked> {
        let parked = self.parked.remove(&id)?;
        self.watchers.remove(id);
        self.deadlines.remove(&(parked.deadline, id));
        Some(parked)
    }
}

/// What a read waits for, if it does.
fn waits_for(request: &Request) -> Option<(Topic, Wait)> {
    match request {
        Request::Read { topic, wait: Some(wait), .. } | Request::Watch { what: Watched::Keys(topic), wait } => {
            Some((topic.clone(), *wait))
        }
        Request::Sessions { id, wait: Some(wait) } | Request::Watch { what: Watched::Sessions(id), wait } => {
            Some((Kv::sessions_topic(*id), *wait))
        }
        _ => None,
    }
}

fn read(kv: &Kv, request: &Request) -> Answer {
    match request {
        Request::Read { topic, after, .. } => kv.read(topic, after.as_deref()).map(KvReply::Rows),
        Request::Sessions { id, .. } => Ok(KvReply::Sessions(kv.sessions(*id))),
        Request::Watch { .. } => Ok(KvReply::Watched),
        _ => unreachable!("only reads wait"),
    }
}

impl Daemon {
    /// Takes a request of another task, and those that wait behind it: they share one write to the disk.
    pub(super) fn handle_kv_call(&mut self, first: KvCall, calls: &mut mpsc::Receiver<KvCall>, now: Instant) {
        let more = std::iter::from_fn(|| calls.try_recv().ok()).take(BATCH_LEN);
        for call in std::iter::once(first).chain(more) {
            match call {
                KvCall::Ask(id, request, source, sender) => {
                    self.kv_desk.ask(&mut self.node, id, (request, &source), Client::Task(sender), now);
                }
                KvCall::Cancel(id) => self.kv_desk.cancel(id),
            }
        }
    }

    /// Takes a request of a verb.
    pub(super) fn handle_kv_verb(&mut self, request: Request, reply: oneshot::Sender<Reply>, now: Instant) {
        let id = self.kv_client.take_id();
        let source = format!("weaved kv on {}", self.memory.settings.name);
        self.kv_desk.ask(&mut self.node, id, (request, &source), Client::Verb(reply), now);
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use weaved_api::PeerId;

    use super::*;
    use crate::{
        kv::{Change, Rule, Value},
        node::{NodeConfig, Start},
        state::kv_file::Origin,
    };

    struct Scene {
        node: Node,
        desk: KvDesk,
        file: KvFile,
        next_id: u64,
        _dir: tempfile::TempDir,
    }

    fn scene() -> Scene {
        let dir = tempfile::tempdir().unwrap();
        let config = NodeConfig {
            id: PeerId([1; 32]),
            name: "a".into(),
            range: "10.32.0.0/12".parse().unwrap(),
            slice_prefix: 24,
            zone: crate::defaults::ZONE.into(),
            guarded: vec![],
            listen_port: 6783,
            start: Start::Founder,
            local_endpoints: vec![],
        };
        let mut node = Node::new(config, None, [1; 32], Instant::now(), SystemTime::now()).unwrap();
        let (file, rows) = KvFile::open(dir.path(), Origin::MayBeNew).unwrap();
        node.restore_kv(&rows, Instant::now()).unwrap();
        Scene { node, desk: KvDesk::default(), file, next_id: 0, _dir: dir }
    }

    impl Scene {
        /// Asks, and the loop goes on.
        fn ask(&mut self, request: Request) -> (RequestId, oneshot::Receiver<Answer>) {
            let asked = self.ask_among_others(request);
            self.desk.drain(&mut self.node, &mut self.file, Instant::now());
            asked
        }

        /// Asks; more requests are taken before anything is stored.
        fn ask_among_others(&mut self, request: Request) -> (RequestId, oneshot::Receiver<Answer>) {
            let (sender, receiver) = oneshot::channel();
            self.next_id += 1;
            let id = RequestId(self.next_id);
            self.desk.ask(&mut self.node, id, (request, "a test"), Client::Task(sender), Instant::now());
            (id, receiver)
        }

        fn put(&mut self, key: &str) {
            let change = Change::Put { value: Value::new(b"x"), flags: 0, rule: Rule::Always };
            let (_, mut answer) = self.ask(Request::Write { key: key.into(), change });
            assert_eq!(answer.try_recv().unwrap(), Ok(KvReply::Written(true)));
        }

        fn wait(&mut self, topic: Topic, at_most_ms: u64) -> (RequestId, oneshot::Receiver<Answer>) {
            let index = self.node.kv().latest_index();
            self.ask(Request::Read { topic, wait: Some(Wait { index, at_most_ms }), after: None })
        }
    }

    #[test]
    fn of_ten_thousand_waiting_reads_only_those_of_the_changed_key_are_answered() {
        let mut scene = scene();
        scene.put("first");
        let mut waiting: Vec<_> =
            (0..10_000).map(|n| scene.wait(Topic::Prefix(format!("{}/", n % 1000)), 60_000).1).collect();
        scene.put("7/x");
        let answered = waiting.iter_mut().filter_map(|answer| answer.try_recv().ok()).count();
        assert_eq!((answered, scene.desk.parked.len()), (10, 9_990));
    }

    #[test]
    fn a_waiting_read_that_sees_a_write_is_answered_when_the_write_is_stored() {
        let mut scene = scene();
        scene.put("a");
        let index = scene.node.kv().latest_index();
        let change = Change::Put { value: Value::new(b"new"), flags: 0, rule: Rule::Always };
        let (_, mut written) = scene.ask_among_others(Request::Write { key: "a".into(), change });
        let wait = Some(Wait { index, at_most_ms: 60_000 });
        let (_, mut read) = scene.ask_among_others(Request::Read { topic: Topic::Key("a".into()), wait, after: None });
        assert!(written.try_recv().is_err() && read.try_recv().is_err(), "nothing is stored yet");
        scene.desk.drain(&mut scene.node, &mut scene.file, Instant::now());
        assert_eq!(written.try_recv().unwrap(), Ok(KvReply::Written(true)));
        assert!(matches!(read.try_recv().unwrap(), Ok(KvReply::Rows(rows)) if rows.rows[0].value.as_bytes() == b"new"));
    }

    #[test]
    fn a_read_that_waited_long_enough_gets_what_is_there() {
        let mut scene = scene();
        scene.put("a");
        let (_, mut answer) = scene.wait(Topic::Key("a".into()), 0);
        assert!(matches!(answer.try_recv().unwrap(), Ok(KvReply::Rows(rows)) if rows.rows.len() == 1));
        assert!(scene.desk.deadlines.is_empty() && scene.desk.watchers.is_empty());
    }

    #[test]
    fn a_watch_is_told_that_there_is_news_and_not_what_it_is() {
        let mut scene = scene();
        scene.put("a/1");
        let wait = Wait { index: scene.node.kv().latest_index(), at_most_ms: 60_000 };
        let watch = |scene: &mut Scene, what| scene.ask(Request::Watch { what, wait }).1;
        let mut keys = watch(&mut scene, Watched::Keys(Topic::Prefix("a/".into())));
        let mut sessions = watch(&mut scene, Watched::Sessions(None));
        assert_eq!(scene.desk.parked.len(), 2);
        scene.put("a/2");
        assert_eq!(keys.try_recv().unwrap(), Ok(KvReply::Watched));
        assert!(sessions.try_recv().is_err(), "a key is no session");
        let mut late = watch(&mut scene, Watched::Keys(Topic::Prefix("a/".into())));
        assert_eq!(late.try_recv().unwrap(), Ok(KvReply::Watched), "what is there already is not waited for");
    }

    #[test]
    fn a_client_that_hangs_up_leaves_nothing_behind() {
        let mut scene = scene();
        scene.put("a");
        let (id, _) = scene.wait(Topic::Key("a".into()), 60_000);
        assert_eq!(scene.desk.parked.len(), 1);
        scene.desk.cancel(id);
        assert!(scene.desk.parked.is_empty() && scene.desk.deadlines.is_empty() && scene.desk.watchers.is_empty());
    }

    #[tokio::test]
    async fn a_dropped_call_is_cancelled() {
        let (client, mut calls) = KvClient::new();
        let call = client.call(Request::Sessions { id: None, wait: None }, "a test");
        drop(tokio::time::timeout(Duration::from_millis(1), call).await);
        assert!(matches!(calls.recv().await, Some(KvCall::Ask(RequestId(0), ..))));
        assert!(matches!(calls.recv().await, Some(KvCall::Cancel(RequestId(0)))));
    }
}

//! Connections, and what a client may make this node keep for it.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    net::TcpStream,
    sync::Notify,
};
use weaved_gateway::share::Limit;

use super::*;
use crate::{
    consul::{patient::TAKE_PATIENCE, room::Limits},
    kv::Reach,
};

/// What `/v1/large` is answered with. Three of them fit.
const LARGE_BYTES: usize = 300 << 10;
const LIMITS: Limits = Limits {
    connections: Limit { all: 400, share: 2 },
    bodies: Limit { all: 1024, share: 256 },
    answers: Limit { all: 1024, share: 512 },
};
/// What nobody uses of bodies and answers, in KiB.
const ALL_FREE: (usize, usize) = (LIMITS.bodies.all, LIMITS.answers.all);

/// Says what it was asked; `/v1/wait` when there is news.
#[derive(Default)]
struct Echo {
    news: Notify,
}

impl Handler for Echo {
    async fn answer(&self, ask: Ask) -> Answer {
        match ask.path.as_str() {
            "large" => return Answer::raw(vec![b'x'; LARGE_BYTES]),
            "wait" => self.news.notified().await,
            _ => {}
        }
        Answer::json(&serde_json::json!({"path": ask.path, "bytes": ask.body.len()})).at(7)
    }

    fn standing(&self) -> Standing {
        Standing { index: 3, reach: Reach { answering: 1, voters: 1, lost_for_ms: None } }
    }

    fn admits(&self, token: Option<&str>) -> bool {
        token == Some("secret")
    }
}

async fn say(request: String) -> String {
    let listener = bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(serve(listener, Arc::new(Echo::default()), Arc::new(Room::new(LIMITS))));
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    server.abort();
    answer
}

fn get(path: &str, header: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{header}\r\n")
}

#[tokio::test]
async fn the_token_counts_in_every_form_that_clients_send_it_in() {
    for (path, header) in [
        ("/v1/kv/a", "X-Consul-Token: secret\r\n"),
        ("/v1/kv/a", "Authorization: Bearer secret\r\n"),
        ("/v1/kv/a?token=secret", ""),
    ] {
        let answer = say(get(path, header)).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(answer.contains("x-consul-index: 7") && answer.contains(r#""path":"kv/a""#), "{answer}");
    }
}

#[tokio::test]
async fn without_the_token_nothing_is_answered_but_a_refusal() {
    for header in ["", "X-Consul-Token: guess\r\n"] {
        let answer = say(get("/v1/kv/a", header)).await;
        assert!(answer.starts_with("HTTP/1.1 403") && answer.ends_with("Permission denied"), "{answer}");
        assert!(answer.contains("x-consul-index: 3"), "{answer}");
    }
}

#[tokio::test]
async fn a_body_beyond_the_limit_is_refused() {
    let len = MAX_BODY_BYTES + 1;
    let head =
        format!("PUT /v1/kv/a?token=secret HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len}\r\n\r\n");
    let answer = say(head).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
}

#[tokio::test]
async fn json_is_indented_when_asked_for() {
    let answer = say(get("/v1/x?pretty&token=secret", "")).await;
    assert!(answer.contains("{\n  \"path\""), "{answer}");
}

/// A server without a kernel between it and its clients, which would keep something for them.
struct Server {
    handler: Arc<Echo>,
    room: Arc<Room>,
}

impl Server {
    fn new() -> Self {
        Self { handler: Arc::default(), room: Arc::new(Room::new(LIMITS)) }
    }

    /// A client on this host that has said this, and been heard.
    async fn client(&self, said: &str) -> DuplexStream {
        self.client_from(Client::Host, said).await
    }

    async fn client_from(&self, client: Client, said: &str) -> DuplexStream {
        let (mut far, near) = duplex(4 << 10);
        let (handler, room) = (Arc::clone(&self.handler), Arc::clone(&self.room));
        let address = IpAddr::from([10, 32, 0, 5]);
        tokio::spawn(async move { receive(near, (address, client), &*handler, &room).await });
        // Who is turned away may not be listened to.
        drop(far.write_all(said.as_bytes()).await);
        self.settle().await;
        far
    }

    /// Lets everybody do what he can without time passing.
    async fn settle(&self) {
        for _ in 0..1000 {
            tokio::task::yield_now().await;
        }
    }

    fn counted(&self, what: &str) -> u64 {
        self.room.counters.report().into_iter().find(|counter| counter.name == what).expect("it is counted").value
    }

    /// What a client is answered that takes it at once.
    async fn answer(&self, said: &str) -> String {
        rest(self.client(said).await).await
    }
}

async fn rest(mut client: DuplexStream) -> String {
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    answer
}

fn large() -> String {
    get("/v1/large", "X-Consul-Token: secret\r\n")
}

fn put(head: &str, body: &str) -> String {
    format!("PUT /v1/x?token=secret HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{head}\r\n{body}")
}

#[tokio::test(start_paused = true)]
async fn answers_that_nobody_takes_leave_no_room_for_further_ones() {
    let server = Server::new();
    let mut slow = Vec::new();
    for _ in 0..3 {
        slow.push(server.client(&large()).await);
    }
    assert_eq!(server.room.free_kib(), (ALL_FREE.0, ALL_FREE.1 - 900));
    let refused = server.answer(&large()).await;
    assert!(refused.starts_with("HTTP/1.1 503"), "{refused}");
    assert!(
        refused.contains("x-weaved-refusal: busy") && refused.contains("\r\nanswers that their clients"),
        "{refused}"
    );
    assert_eq!(server.counted("answers_refused"), 1);
    assert!(server.answer(&get("/v1/x?token=secret", "")).await.starts_with("HTTP/1.1 200"), "small ones go on");
    let taken = rest(slow.remove(0)).await;
    assert!(taken.starts_with("HTTP/1.1 200") && taken.len() > LARGE_BYTES);
    assert!(server.answer(&large()).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test(start_paused = true)]
async fn who_takes_nothing_of_an_answer_is_cut_and_its_room_is_free() {
    let server = Server::new();
    let client = server.client(&large()).await;
    assert_eq!(server.room.free_kib().1, ALL_FREE.1 - 300);
    tokio::time::sleep(TAKE_PATIENCE + Duration::from_secs(1)).await;
    assert_eq!(server.room.free_kib(), ALL_FREE);
    assert!(rest(client).await.len() < LARGE_BYTES);
    assert_eq!(server.counted("client_timeouts"), 1);
}

#[tokio::test(start_paused = true)]
async fn bodies_that_do_not_end_leave_no_room_for_further_ones() {
    let server = Server::new();
    let half = "x".repeat(512 << 10);
    let announced = format!("Content-Length: {}\r\n", 1 << 20);
    let first = server.client(&put(&announced, &half)).await;
    let chunk = format!("{:x}\r\n{half}\r\n", half.len());
    let _second = server.client(&put("Transfer-Encoding: chunked\r\n", &chunk)).await;
    assert_eq!(server.room.free_kib(), (0, ALL_FREE.1));
    let refused = server.answer(&put("Content-Length: 4\r\n", "blue")).await;
    assert!(refused.starts_with("HTTP/1.1 503") && refused.contains("\r\nthe bodies of requests"), "{refused}");
    assert_eq!(server.counted("bodies_refused"), 1);
    drop(first);
    server.settle().await;
    let taken = server.answer(&put("Content-Length: 4\r\n", "blue")).await;
    assert!(taken.starts_with("HTTP/1.1 200") && taken.contains(r#""bytes":4"#), "{taken}");
    tokio::time::sleep(BODY_PATIENCE + Duration::from_secs(1)).await;
    assert_eq!(server.room.free_kib(), ALL_FREE, "who does not go on is answered that it is too late");
    assert_eq!(server.counted("body_unfinished"), 2, "one broke off, one was late");
}

#[tokio::test(start_paused = true)]
async fn what_was_only_announced_and_queries_that_wait_take_no_room() {
    let server = Server::new();
    let token = "X-Consul-Token: secret\r\n";
    let body = "x".repeat(100 << 10);
    let with_body = format!("{token}Content-Length: {}\r\n", body.len());
    let mut clients = Vec::new();
    for _ in 0..20 {
        clients.push(server.client(&put(&format!("Content-Length: {MAX_BODY_BYTES}\r\n"), "")).await);
        clients.push(server.client(&get("/v1/wait", token)).await);
        clients.push(server.client(&(get("/v1/wait", &with_body) + &body)).await);
    }
    assert_eq!(server.room.free_kib(), ALL_FREE);
    server.handler.news.notify_waiters();
    let told = rest(clients.swap_remove(2)).await;
    assert!(told.contains(r#""path":"wait""#), "{told}");
}

fn other(last: u8) -> Client {
    Client::Other(IpAddr::from([10, 32, 0, last]))
}

#[tokio::test(start_paused = true)]
async fn who_has_its_share_of_connections_is_told_so_and_others_go_on() {
    let server = Server::new();
    let wait = get("/v1/wait?token=secret", "");
    let parked = [server.client_from(other(1), &wait).await, server.client_from(other(1), &wait).await];
    let refused = rest(server.client_from(other(1), &get("/v1/x?token=secret", "")).await).await;
    assert!(refused.starts_with("HTTP/1.1 429 Too Many Requests\r\nconnection: close\r\n"), "{refused}");
    assert!(refused.contains("x-weaved-refusal: share-taken") && refused.contains("x-consul-index: 3"), "{refused}");
    assert!(refused.contains("\r\n\r\nthis address has as much as one may have of connections"), "{refused}");
    assert_eq!((server.counted("connections_refused"), server.room.open()), (1, 2));
    let ask = get("/v1/x?token=secret", "");
    for client in [other(2), Client::Host] {
        assert!(rest(server.client_from(client, &ask).await).await.starts_with("HTTP/1.1 200"), "{client:?}");
    }
    drop(parked);
    server.settle().await;
    assert_eq!(server.room.open(), 0);
    assert!(rest(server.client_from(other(1), &ask).await).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test(start_paused = true)]
async fn clients_that_are_turned_away_and_stay_are_left_after_a_moment() {
    let server = Server::new();
    let wait = get("/v1/wait?token=secret", "");
    let _parked = [server.client_from(other(1), &wait).await, server.client_from(other(1), &wait).await];
    let free = server.room.turned_away.available_permits();
    let mut staying = Vec::new();
    for _ in 0..free {
        staying.push(server.client_from(other(1), "").await);
    }
    assert_eq!(server.room.turned_away.available_permits(), 0);
    assert_eq!(rest(server.client_from(other(1), "").await).await, "", "a further one is told nothing");
    tokio::time::sleep(2 * FAREWELL_PATIENCE).await;
    assert_eq!(server.room.turned_away.available_permits(), free);
    assert!(rest(staying.remove(0)).await.starts_with("HTTP/1.1 429"));
}

#[tokio::test(start_paused = true)]
async fn a_body_or_an_answer_beyond_the_share_of_its_address_is_refused_and_counted() {
    let server = Server::new();
    let half = "x".repeat(200 << 10);
    let announced = format!("Content-Length: {}\r\n", 300 << 10);
    let _begun = server.client_from(other(1), &put(&announced, &half)).await;
    let small = put("Content-Length: 4\r\n", "blue");
    let refused = rest(server.client_from(other(1), &small).await).await;
    assert!(refused.starts_with("HTTP/1.1 429") && refused.contains("of bodies of requests under way"), "{refused}");
    assert!(rest(server.client_from(other(2), &small).await).await.starts_with("HTTP/1.1 200"));
    let _slow = server.client_from(other(3), &large()).await;
    let refused = rest(server.client_from(other(3), &large()).await).await;
    assert!(refused.starts_with("HTTP/1.1 429") && refused.contains("of answers that it has not taken"), "{refused}");
    assert!(rest(server.client_from(other(2), &large()).await).await.starts_with("HTTP/1.1 200"));
    assert_eq!((server.counted("bodies_refused"), server.counted("answers_refused")), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn what_is_not_understood_or_not_allowed_is_counted() {
    let server = Server::new();
    for (said, why, status) in [
        (get("/v1/x", ""), "token_refused", "403"),
        (get("/v1/x?stale&consistent&token=secret", ""), "bad_requests", "400"),
        (get("/v1/%ff?token=secret", ""), "bad_requests", "400"),
        (get(&format!("/v1/x?token=secret&filter={}", "x".repeat(10 << 10)), ""), "bad_requests", "400"),
        ("nonsense\r\n\r\n".into(), "bad_requests", "400"),
        (get("/v1/x", &format!("A: {}\r\n", "x".repeat(40 << 10))), "bad_requests", "431"),
        (put(&format!("Content-Length: {}\r\n", MAX_BODY_BYTES + 1), ""), "body_too_long", "413"),
    ] {
        let before = server.counted(why);
        let answer = server.answer(&said).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{why}: {answer}");
        assert_eq!(server.counted(why), before + 1, "{why}: {answer}");
    }
    let total: u64 =
        server.room.counters.report().iter().filter(|one| one.name != "connections").map(|one| one.value).sum();
    assert_eq!(total, 5 + 7, "five became requests, and each of seven is counted once");
}

#[tokio::test(start_paused = true)]
async fn a_head_that_comes_in_drops_ends_the_connection_and_one_that_says_nothing_is_not_slow() {
    let server = Server::new();
    let mut slow = server.client("GET /v1/x?token=secret HTTP/1.1\r\n").await;
    let idle = server.client("").await;
    let mut quick = server.client("GET /v1/x?token=secret HTTP/1.1\r\nHost: x\r\n\r\n").await;
    for _ in 0..40 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        drop(slow.write_all(b"A: b\r\n").await);
    }
    assert_eq!(server.room.open(), 0);
    assert_eq!(server.counted("client_timeouts"), 1, "only the one that began");
    assert_eq!(rest(idle).await, "");
    let mut answer = String::new();
    quick.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[tokio::test(start_paused = true)]
async fn what_comes_behind_a_query_that_waits_is_answered_after_it_and_in_its_turn() {
    let server = Server::new();
    let first = "GET /v1/wait?token=secret HTTP/1.1\r\nHost: x\r\n\r\n";
    let client = server.client(&format!("{first}{}", get("/v1/x?token=secret", ""))).await;
    server.handler.news.notify_waiters();
    let told = rest(client).await;
    let (wait, x) = (told.find(r#""path":"wait""#), told.find(r#""path":"x""#));
    assert!(wait.is_some() && wait < x, "{told}");
}

#[tokio::test(start_paused = true)]
async fn the_head_alone_has_no_body() {
    let server = Server::new();
    let head = get("/v1/x?token=secret", "").replace("GET", "HEAD");
    let answer = server.answer(&head).await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("\r\n\r\n"), "{answer}");
    assert!(answer.contains("content-length: "), "{answer}");
}

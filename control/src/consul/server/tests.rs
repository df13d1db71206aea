//! Connections, and what a client may make this node keep for it.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    net::TcpStream,
    sync::Notify,
};

use super::*;
use crate::consul::{patient::TAKE_PATIENCE, room::Limits};

/// What `/v1/large` is answered with. Three of them fit.
const LARGE_BYTES: usize = 300 << 10;
const LIMITS: Limits = Limits { connections: 4, bodies_bytes: 1 << 20, answers_bytes: 1 << 20 };
/// What nobody uses of bodies and answers, in KiB.
const ALL_FREE: (usize, usize) = (LIMITS.bodies_bytes >> 10, LIMITS.answers_bytes >> 10);

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
        Standing { index: 3, has_majority: true }
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

    /// A client that has said this, and been heard.
    async fn client(&self, said: &str) -> DuplexStream {
        let (mut far, near) = duplex(4 << 10);
        let (handler, room) = (Arc::clone(&self.handler), Arc::clone(&self.room));
        tokio::spawn(async move { converse(near, IpAddr::from([10, 32, 0, 5]), &*handler, &room).await });
        far.write_all(said.as_bytes()).await.unwrap();
        self.settle().await;
        far
    }

    /// Lets everybody do what he can without time passing.
    async fn settle(&self) {
        for _ in 0..1000 {
            tokio::task::yield_now().await;
        }
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
    drop(first);
    server.settle().await;
    let taken = server.answer(&put("Content-Length: 4\r\n", "blue")).await;
    assert!(taken.starts_with("HTTP/1.1 200") && taken.contains(r#""bytes":4"#), "{taken}");
    tokio::time::sleep(BODY_PATIENCE + Duration::from_secs(1)).await;
    assert_eq!(server.room.free_kib(), ALL_FREE, "who does not go on is answered that it is too late");
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

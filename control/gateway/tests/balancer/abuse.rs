//! Clients that mean no good, and clients that are only slow.

use std::time::Duration;

use http_body_util::Empty;
use hyper::{Request, body::Bytes, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use weaved_api::balancer::{AccessLog, Ejection, LogFormat};

use crate::lab::{Backend, Client, Lab, share, wait_for};

/// Each can be read in more than one way, or in none.
const SMUGGLED: &[&str] = &[
    "Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nX",
    "Transfer-Encoding: chunked\r\nContent-Length: 6\r\n\r\n0\r\n\r\nX",
    "Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
    "Content-Length: 5, 6\r\n\r\nhello",
    "Content-Length: +5\r\n\r\nhello",
    "Content-Length: 5 5\r\n\r\nhello",
    "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    "Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
    "X: y\r\n Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "X: a\rTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "X: a\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "X: a\0\r\n\r\n",
    "Host: b\r\n\r\n",
    "X y: b\r\n\r\n",
    "no colon\r\n\r\n",
];

#[tokio::test]
async fn what_can_be_read_in_two_ways_is_refused_and_nothing_of_it_reaches_a_backend() {
    let backend = Backend::http1("one").await;
    let lab = Lab::start(&[(&backend, "blue")]).await;
    for smuggled in SMUGGLED {
        let mut client = Client::connect(lab.address()).await;
        // What a smuggler would hide behind it.
        client.send(format!("POST / HTTP/1.1\r\nHost: a\r\n{smuggled}GET /hidden HTTP/1.1\r\nHost: a\r\n\r\n")).await;
        let answer = client.answer().await.unwrap_or_else(|| panic!("{smuggled:?} has an answer"));
        assert_eq!(answer.status, 400, "{smuggled:?}");
        assert!(client.is_closed().await, "{smuggled:?}");
    }
    assert_eq!(backend.request_count(), 0);
    assert_eq!(lab.counter("ambiguous").await, SMUGGLED.len() as u64);
}

#[tokio::test]
async fn a_bad_chunk_breaks_its_request_and_what_comes_behind_it_is_not_read() {
    for chunks in
        ["5;a\rb\r\nhello\r\n", "5 \r\nhello\r\n", "0x5\r\nhello\r\n", "5\nhello\r\n", "fffffffffffffffff\r\nhello"]
    {
        let backend = Backend::http1("one").await;
        let lab = Lab::start(&[(&backend, "blue")]).await;
        let mut client = Client::connect(lab.address()).await;
        let head = "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        client.send(format!("{head}{chunks}0\r\n\r\nGET /hidden HTTP/1.1\r\nHost: a\r\n\r\n")).await;
        while let Some(answer) = client.answer().await {
            assert_ne!(answer.status, 200, "{chunks:?}");
        }
        assert!(backend.request_count() <= 1, "{chunks:?}");
        assert_eq!(lab.counter("ambiguous").await, 1, "{chunks:?}");
    }
}

#[tokio::test]
async fn what_is_refused_before_it_is_a_request_is_a_line_of_the_access_log() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("access.log");
    let backend = Backend::http1("one").await;
    let mut lab = Lab::start(&[(&backend, "blue")]).await;
    lab.listener().limits.head_timeout = Duration::from_millis(300);
    lab.listener().access_log = Some(AccessLog { path: path.clone(), format: LogFormat::Json });
    lab.apply().await;
    // Method and status of the line with this number, which is the last.
    let line = async |number: usize| {
        let text = || std::fs::read_to_string(&path).unwrap();
        wait_for("its line", async || text().lines().count() >= number).await;
        assert_eq!(text().lines().count(), number, "{}", text());
        let line: serde_json::Value = serde_json::from_str(text().lines().last().unwrap()).unwrap();
        (line["method"].as_str().unwrap().to_owned(), line["status"].as_u64().unwrap())
    };
    let refused = |status: u64| (String::new(), status);
    let mut bad = Client::connect(lab.address()).await;
    bad.send("GET / HTTP/1.1\nHost: a\n\n").await;
    assert_eq!(bad.answer().await.unwrap().status, 400);
    assert_eq!(line(1).await, refused(400));
    let mut large = Client::connect(lab.address()).await;
    large.send(format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(100))).await;
    assert_eq!(large.answer().await.unwrap().status, 431);
    assert_eq!(line(2).await, refused(431));
    let mut silent = Client::connect(lab.address()).await;
    assert!(silent.is_closed().await, "and has asked for nothing");
    let mut slow = Client::connect(lab.address()).await;
    slow.send("GET / HTTP/1.1\r\nHost:").await;
    assert!(slow.is_closed().await);
    assert_eq!(line(3).await, refused(408));
    // What is a request by then has a line of its own, and no second one.
    let mut chunk = Client::connect(lab.address()).await;
    let head = "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    chunk.send(format!("{head}5 \r\nhello\r\n0\r\n\r\n")).await;
    chunk.wait_for_end().await;
    assert_eq!(line(4).await.0, "POST");
    assert_eq!(lab.get("/").await, "one");
    assert_eq!(line(5).await, ("GET".to_owned(), 200));
}

#[tokio::test]
async fn what_comes_behind_a_fault_in_later_pieces_is_not_read_either() {
    let backend = Backend::http1("one").await;
    let lab = Lab::start(&[(&backend, "blue")]).await;
    let mut client = Client::connect(lab.address()).await;
    client.stream.set_nodelay(true).unwrap();
    for piece in [
        "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;a",
        "\n",
        "\r\nhello\r\n0\r\n\r\nGET /hidden HTTP/1.1\nHost: a\n\n",
    ] {
        // It may be closed by then.
        drop(client.stream.write_all(piece.as_bytes()).await);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    while let Some(answer) = client.answer().await {
        assert_ne!(answer.status, 200);
    }
    assert!(backend.request_count() <= 1);
    assert_eq!(lab.counter("ambiguous").await, 1);
}

#[tokio::test]
async fn a_faulty_request_behind_a_good_one_takes_nothing_from_it() {
    let backend = Backend::http1("one").await;
    let lab = Lab::start(&[(&backend, "blue")]).await;
    let mut client = Client::connect(lab.address()).await;
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n").await;
    assert_eq!(client.answer().await.unwrap().body, "one");
    assert_eq!(client.answer().await.unwrap().status, 400);
    assert!(client.is_closed().await);
}

#[tokio::test]
async fn heads_and_bodies_that_are_too_long_are_refused() {
    let backend = Backend::http1("one").await;
    let mut lab = Lab::start(&[(&backend, "blue")]).await;
    lab.listener().limits.head_bytes = 4096;
    lab.listener().limits.body_bytes = 1000;
    lab.apply().await;
    let mut client = Client::connect(lab.address()).await;
    drop(
        client
            .stream
            .write_all(format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "y".repeat(100_000)).as_bytes())
            .await,
    );
    if let Some(answer) = client.answer().await {
        assert!(matches!(answer.status, 400 | 431), "{answer:?}");
    }
    let mut client = Client::connect(lab.address()).await;
    client.send(format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(100))).await;
    assert_eq!(client.answer().await.unwrap().status, 431);
    let mut client = Client::connect(lab.address()).await;
    client.send("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 1001\r\n\r\n").await;
    assert_eq!(client.answer().await.unwrap().status, 413);
    assert_eq!(backend.request_count(), 0);
    let mut client = Client::connect(lab.address()).await;
    let chunk = format!("258\r\n{}\r\n", "z".repeat(0x258));
    client
        .send(format!("POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{chunk}{chunk}0\r\n\r\n"))
        .await;
    assert_eq!(client.answer().await.unwrap().status, 413);
    assert_eq!(lab.counter("body_too_long").await, 2);
    // Neither is the backend's fault.
    assert_eq!(lab.counter("ejections").await, 0);
}

#[tokio::test]
async fn a_client_that_sends_its_head_byte_by_byte_is_closed_and_an_idle_one_too() {
    let backend = Backend::http1("one").await;
    let mut lab = Lab::start(&[(&backend, "blue")]).await;
    lab.listener().limits.head_timeout = Duration::from_millis(300);
    lab.listener().limits.idle_timeout = Duration::from_millis(500);
    lab.apply().await;
    let mut slow = Client::connect(lab.address()).await;
    let mut broken = false;
    for byte in "GET / HTTP/1.1\r\nHost: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa".bytes() {
        broken |= slow.stream.write_all(&[byte]).await.is_err();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(broken);
    let mut silent = Client::connect(lab.address()).await;
    assert!(silent.is_closed().await);
    lab.wait_for_counter("client_timeouts", 2).await;
    let mut idle = Client::connect(lab.address()).await;
    idle.get("/").await;
    assert!(idle.is_closed().await);
    // A body that does not go on.
    let mut stuck = Client::connect(lab.address()).await;
    stuck.send("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nhalf").await;
    while stuck.answer().await.is_some() {}
    // A slow answer is not the client's fault.
    let mut patient = Client::connect(lab.address()).await;
    assert_eq!(patient.get("/slow/1200").await.body, "one");
}

#[tokio::test]
async fn a_client_that_takes_nothing_of_its_answer_is_closed_and_one_that_takes_it_slowly_is_not() {
    // More than the kernels hold between the two.
    const BYTES: usize = 24_000_000;
    let backend = Backend::http1("one").await;
    let mut lab = Lab::start(&[(&backend, "blue")]).await;
    lab.listener().limits.idle_timeout = Duration::from_secs(1);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("access.log");
    lab.listener().access_log = Some(AccessLog { path: path.clone(), format: LogFormat::Json });
    lab.apply().await;
    let request = format!("GET /big/{BYTES} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    let mut slow = Client::connect(lab.address()).await;
    slow.send(&request).await;
    let (mut seen, mut piece) = (0, vec![0; 200_000]);
    while let len @ 1.. = slow.stream.read(&mut piece).await.unwrap() {
        seen += len;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(seen > BYTES);
    assert_eq!(lab.counter("client_timeouts").await, 0);
    let mut greedy = Client::connect(lab.address()).await;
    greedy.send(&request).await;
    lab.wait_for_counter("client_timeouts", 1).await;
    wait_for("its place", async || lab.status().await.listeners[0].connections == 0).await;
    lab.wait_for_report(|report| report.services[0].colours.iter().all(|colour| colour.in_flight == 0)).await;
    assert_eq!(lab.counter("client_timeouts").await, 1);
    let text = || std::fs::read_to_string(&path).unwrap();
    wait_for("both lines", async || text().lines().count() == 2).await;
    let lines = text();
    let is_broken = lines.lines().map(|line| line.contains("\"broken\":true")).collect::<Vec<_>>();
    assert_eq!(is_broken, [false, true], "{lines}");
}

#[tokio::test]
async fn clients_whose_bodies_do_not_come_to_their_end_take_no_backend_away_and_no_colour() {
    let (one, two) = (Backend::http1("one").await, Backend::http1("two").await);
    let mut lab = Lab::start(&[(&one, "blue"), (&two, "blue")]).await;
    lab.service().switch.live = vec![share("blue", 1)];
    lab.service().ejection = Ejection { failures: 1, duration: Duration::from_secs(60), max_percent: 100 };
    lab.service().timeouts.response = Duration::from_millis(500);
    lab.listener().limits.body_bytes = 1000;
    lab.apply().await;
    for sent in 1..=10 {
        let mut broken = Client::connect(lab.address()).await;
        broken.send("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc").await;
        wait_for("it is there", async || one.request_count() + two.request_count() == sent).await;
    }
    lab.wait_for_counter("body_unfinished", 10).await;
    let mut stalled = Client::connect(lab.address()).await;
    stalled.send("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc").await;
    let answer = stalled.answer().await.unwrap();
    assert_eq!((answer.status, answer.body.as_str()), (408, "the body has not come to its end in time\n"));
    let mut long = Client::connect(lab.address()).await;
    let chunk = format!("258\r\n{}\r\n", "z".repeat(0x258));
    long.send(format!("POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{chunk}{chunk}")).await;
    assert_eq!(long.answer().await.unwrap().status, 413);
    assert_eq!((lab.counter("ejections").await, lab.counts("blue").await), (0, (0, 0)));
    // Whoever has the whole body and does not answer has failed.
    let mut whole = Client::connect(lab.address()).await;
    whole.send("POST /slow/10000 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc").await;
    assert_eq!(whole.answer().await.unwrap().status, 504);
    assert_eq!((lab.counter("ejections").await, lab.counts("blue").await), (1, (1, 1)));
}

#[tokio::test]
async fn connections_beyond_the_limit_are_closed_and_places_come_free() {
    let backend = Backend::http1("one").await;
    let mut lab = Lab::start(&[(&backend, "blue")]).await;
    lab.listener().limits.connections = 2;
    lab.apply().await;
    let mut first = Client::connect(lab.address()).await;
    first.get("/").await;
    let mut second = Client::connect(lab.address()).await;
    second.get("/").await;
    let mut third = Client::connect(lab.address()).await;
    drop(third.stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await);
    assert!(third.answer().await.is_none());
    assert_eq!(lab.counter("connections_refused").await, 1);
    drop(first);
    wait_for("a place", async || lab.status().await.listeners[0].connections == 1).await;
    assert_eq!(lab.get("/").await, "one");
}

#[tokio::test]
async fn a_client_with_too_many_requests_is_told_so() {
    let backend = Backend::http1("one").await;
    let mut lab = Lab::start(&[(&backend, "blue")]).await;
    lab.listener().limits.requests_per_second = Some(5);
    lab.apply().await;
    let mut client = Client::connect(lab.address()).await;
    let mut refused = 0;
    for _ in 0..50 {
        let answer = client.get("/").await;
        refused += usize::from(answer.status == 429 && answer.header("retry-after") == Some("1"));
    }
    assert!(refused > 0 && backend.request_count() + refused == 50);
}

#[tokio::test]
async fn a_connection_that_resets_its_streams_as_fast_as_it_opens_them_is_ended() {
    let backend = Backend::http1("one").await;
    let lab = Lab::start(&[(&backend, "blue")]).await;
    let stream = TcpStream::connect(lab.address()).await.unwrap();
    let (mut sender, connection) =
        http2::handshake::<_, _, Empty<Bytes>>(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    let ended = tokio::spawn(connection);
    for _ in 0..20_000 {
        if sender.ready().await.is_err() {
            break;
        }
        let request = Request::get("http://web/slow/60000").body(Empty::new()).unwrap();
        // Dropping the future resets the stream.
        let answer = sender.send_request(request);
        drop(tokio::time::timeout(Duration::from_micros(1), answer).await);
    }
    let outcome = tokio::time::timeout(Duration::from_secs(20), ended).await.expect("an end").unwrap();
    assert!(outcome.is_err(), "the balancer has ended it");
    assert_eq!(lab.get("/").await, "one");
}

#[tokio::test]
async fn requests_without_a_host_tunnels_and_users_in_targets_are_refused() {
    let backend = Backend::http1("one").await;
    let lab = Lab::start(&[(&backend, "blue")]).await;
    for (request, status) in [
        ("GET / HTTP/1.1\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
        ("GET http://user@web/ HTTP/1.1\r\nHost: web\r\n\r\n", 400),
        ("CONNECT web:80 HTTP/1.1\r\nHost: web:80\r\n\r\n", 405),
        ("GET / HTTP/1.0\r\n\r\n", 200),
    ] {
        let mut client = Client::connect(lab.address()).await;
        client.send(request).await;
        assert_eq!(client.answer().await.unwrap().status, status, "{request:?}");
    }
}

/// A frame of HTTP/2 (RFC 9113 §4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let len = (payload.len() as u32).to_be_bytes();
    [&len[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

#[tokio::test]
async fn floods_of_frames_of_http2_cost_nobody_else_anything() {
    const HEADERS: u8 = 1;
    const SETTINGS: u8 = 4;
    const PING: u8 = 6;
    const WINDOW_UPDATE: u8 = 8;
    const CONTINUATION: u8 = 9;
    let backend = Backend::http1("one").await;
    let lab = Lab::start(&[(&backend, "blue")]).await;
    let header = [&[0x40, 1, b'x', 127, 128, 7][..], &[b'y'; 1023]].concat();
    let floods = [
        ("continuations", frame(HEADERS, 0, 1, &[0x82]), frame(CONTINUATION, 0, 1, &header), true),
        ("empty continuations", frame(HEADERS, 0, 1, &[0x82]), frame(CONTINUATION, 0, 1, &[]), true),
        ("settings", vec![], frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 1]), false),
        ("pings", vec![], frame(PING, 0, 0, &[0; 8]), false),
        ("windows", vec![], frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]), false),
    ];
    for (name, first, next, must_end) in floods {
        let mut client = Client::connect(lab.address()).await;
        client.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
        client.send([frame(SETTINGS, 0, 0, &[]), first].concat()).await;
        let many = next.repeat(1000);
        // What is answered is not read.
        let flood = async { while client.stream.write_all(&many).await.is_ok() {} };
        let outcome = tokio::time::timeout(Duration::from_secs(2), flood).await;
        assert!(outcome.is_ok() || !must_end, "{name} go on");
        assert_eq!(lab.get("/").await, "one", "behind {name}");
    }
}

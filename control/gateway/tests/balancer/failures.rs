//! What counts as a failure of a colour, besides 5xx: automatic rollback goes by it.

use std::time::Duration;

use http_body_util::{BodyExt, Empty};
use hyper::{Request, body::Bytes, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::lab::{Backend, Client, Lab, share, wait_for};

#[tokio::test]
async fn a_status_of_grpc_that_means_5xx_is_a_failure_wherever_it_stands() {
    let backend = Backend::http2("one").await;
    let mut lab = Lab::start(&[(&backend, "blue")]).await;
    lab.service().http2_backends = true;
    lab.service().switch.live = vec![share("blue", 1)];
    lab.service().switch.revision = 1;
    lab.apply().await;
    let stream = TcpStream::connect(lab.address()).await.unwrap();
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let mut expected = 0;
    for (status, is_failure) in [("0", false), ("2", true), ("5", false), ("13", true), ("14", true), ("x", false)] {
        for verb in ["trailers", "refused"] {
            let request = Request::post(format!("http://web/{verb}/{status}")).body(Empty::<Bytes>::new()).unwrap();
            let answer = sender.send_request(request).await.unwrap();
            assert_eq!(answer.status(), 200);
            drop(answer.into_body().collect().await.unwrap());
            expected += u64::from(is_failure);
            wait_for("it is counted", async || lab.counts("blue").await.1 >= expected).await;
            assert_eq!(lab.counts("blue").await.1, expected, "{verb} {status}");
        }
    }
    assert_eq!(lab.counts("blue").await.0, 12);
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_a_failure_and_one_that_its_client_leaves_is_none() {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = socket.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = socket.accept().await {
            let mut request = [0; 4096];
            let len = stream.read(&mut request).await.unwrap();
            let status = if request[..len].starts_with(b"GET /ill") { "500 Ill" } else { "200 OK" };
            drop(stream.write_all(format!("HTTP/1.1 {status}\r\nContent-Length: 10\r\n\r\nhalf").as_bytes()).await);
            if request[..len].starts_with(b"GET /left") {
                drop(stream.read(&mut request).await);
            }
        }
    });
    let mut lab = Lab::start(&[(&Backend::http1("unused").await, "blue")]).await;
    lab.state.instances[0].port = port;
    lab.service().switch.live = vec![share("blue", 1)];
    lab.service().switch.revision = 1;
    lab.apply().await;
    for (path, failures) in [("/", 1), ("/ill", 2)] {
        let mut client = Client::connect(lab.address()).await;
        client.send(format!("GET {path} HTTP/1.1\r\nHost: web\r\n\r\n")).await;
        client.wait_for_end().await;
        wait_for("it is counted", async || lab.counts("blue").await.1 >= failures).await;
        assert_eq!(lab.counts("blue").await.1, failures, "{path}");
    }
    let mut client = Client::connect(lab.address()).await;
    client.send("GET /left HTTP/1.1\r\nHost: web\r\n\r\n").await;
    client.wait_for_text("half").await;
    drop(client);
    wait_for("it has left", async || {
        lab.status().await.services[0].backends.iter().all(|backend| backend.in_flight == 0)
    })
    .await;
    assert_eq!(lab.counts("blue").await, (3, 2));
}

#[tokio::test]
async fn an_answer_that_its_instance_does_not_go_on_with_is_broken_off_and_events_may_be_silent() {
    const PIECES: usize = 30;
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = socket.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = socket.accept().await {
            tokio::spawn(async move {
                let mut request = [0; 4096];
                let len = stream.read(&mut request).await.unwrap();
                let is_for = |path: &str| request[..len].starts_with(format!("GET {path} ").as_bytes());
                let kind = if is_for("/events") { "text/event-stream" } else { "text/plain" };
                let pieces = if is_for("/slow") { PIECES } else { 1 };
                let head = format!("Connection: close\r\nContent-Type: {kind}\r\nContent-Length: {}", 5 * PIECES);
                stream.write_all(format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n").as_bytes()).await.unwrap();
                for _ in 0..pieces {
                    stream.write_all(b"piece").await.unwrap();
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                drop(stream.read(&mut request).await);
            });
        }
    });
    let mut lab = Lab::start(&[(&Backend::http1("unused").await, "blue")]).await;
    lab.state.instances[0].port = port;
    lab.service().switch.live = vec![share("blue", 1)];
    lab.service().timeouts.idle = Some(Duration::from_secs(1));
    lab.apply().await;
    let mut events = Client::connect(lab.address()).await;
    events.send("GET /events HTTP/1.1\r\nHost: web\r\n\r\n").await;
    events.wait_for_text("piece").await;
    let mut slow = Client::connect(lab.address()).await;
    assert_eq!(slow.get("/slow").await.body.len(), 5 * PIECES, "all of it took longer");
    let mut stalled = Client::connect(lab.address()).await;
    stalled.send("GET / HTTP/1.1\r\nHost: web\r\n\r\n").await;
    stalled.wait_for_end().await;
    assert_eq!(lab.counter("answers_stalled").await, 1);
    assert_eq!(lab.counts("blue").await, (3, 1));
    let status = lab.status().await;
    assert_eq!(status.services[0].backends[0].in_flight, 1, "those that wait for events");
}

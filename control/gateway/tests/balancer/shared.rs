//! Connections of HTTP/2, each of which carries many requests: to instances, and from clients that have nothing to say.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use http_body_util::{BodyExt, Empty};
use hyper::{
    Request, Response,
    body::{Bytes, Incoming},
    client::conn::http2,
    server,
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
};

use crate::lab::{Backend, Client, Lab, SOON, wait_for};

/// An instance that takes so many requests at once over one connection, and answers `/wait` never.
async fn narrow(room: u32, connections: Arc<AtomicUsize>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            connections.fetch_add(1, Ordering::Relaxed);
            let service = service_fn(|request: Request<Incoming>| async move {
                if request.uri().path() == "/wait" {
                    std::future::pending::<()>().await;
                }
                Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
            });
            tokio::spawn(async move {
                let mut builder = server::conn::http2::Builder::new(TokioExecutor::new());
                drop(builder.max_concurrent_streams(room).serve_connection(TokioIo::new(stream), service).await);
            });
        }
    });
    port
}

async fn http2_lab(port: u16) -> Lab {
    let mut lab = Lab::start(&[(&Backend::http1("unused").await, "blue")]).await;
    lab.state.instances[0].port = port;
    lab.service().http2_backends = true;
    lab.apply().await;
    lab
}

#[tokio::test]
async fn requests_beyond_what_a_connection_takes_at_once_go_over_another_one() {
    let connections = Arc::new(AtomicUsize::new(0));
    let lab = http2_lab(narrow(4, Arc::clone(&connections)).await).await;
    let mut waiting = Vec::new();
    for _ in 0..20 {
        let mut client = Client::connect(lab.address()).await;
        client.send("GET /wait HTTP/1.1\r\nHost: web\r\n\r\n").await;
        waiting.push(client);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for _ in 0..8 {
        let mut client = Client::connect(lab.address()).await;
        assert_eq!(client.get("/").await.status, 200);
    }
    assert!(connections.load(Ordering::Relaxed) >= 5, "{connections:?}");
    drop(waiting);
}

#[tokio::test]
async fn connections_that_are_not_needed_any_more_are_closed_but_for_one() {
    let backend = Backend::http2("one").await;
    let lab = http2_lab(backend.address.port()).await;
    let mut clients = Vec::new();
    for _ in 0..16 {
        let mut client = Client::connect(lab.address()).await;
        client.send("GET /slow/300 HTTP/1.1\r\nHost: web\r\n\r\n").await;
        clients.push(client);
    }
    for client in &mut clients {
        assert_eq!(client.answer().await.unwrap().body, "one");
    }
    // One for each thread of the balancer.
    wait_for("the others are closed", async || backend.open_count() <= 2).await;
    let before = backend.connection_count();
    assert_eq!(lab.get("/").await, "one");
    assert!(backend.connection_count() <= before + 1);
}

/// A way to an instance that is cut without a word after the first answer: what is sent over it is lost, and a new connection
/// passes.
async fn cut_way(to: u16) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let mut is_first = true;
        while let Ok((mut near, _)) = listener.accept().await {
            let mut far = TcpStream::connect(("127.0.0.1", to)).await.unwrap();
            let patience = if std::mem::take(&mut is_first) { Duration::from_millis(500) } else { SOON };
            tokio::spawn(async move {
                drop(tokio::time::timeout(patience, copy_bidirectional(&mut near, &mut far)).await);
                std::future::pending::<()>().await;
            });
        }
    });
    port
}

#[tokio::test]
async fn a_connection_that_has_died_in_silence_costs_the_requests_on_it_and_no_other() {
    let backend = Backend::http2("one").await;
    let mut lab = http2_lab(cut_way(backend.address.port()).await).await;
    lab.service().timeouts.response = Duration::from_millis(300);
    lab.service().retries = 0;
    lab.apply().await;
    // The threads have connections of their own, and only the first of all dies: asked until its thread has met it.
    let mut statuses = Vec::new();
    for round in 0..24 {
        statuses.push(Client::connect(lab.address()).await.get("/").await.status);
        if round == 0 {
            tokio::time::sleep(Duration::from_millis(700)).await;
        }
    }
    let lost = statuses.iter().filter(|status| **status == 504).count();
    assert!(lost <= 1 && statuses.iter().all(|status| matches!(status, 200 | 504)), "{statuses:?}");
    assert_eq!(lost, 1, "{statuses:?}");
}

#[tokio::test]
async fn a_client_of_http2_that_asks_for_nothing_is_closed_though_it_says_that_it_is_alive() {
    let backend = Backend::http1("one").await;
    let mut lab = Lab::start(&[(&backend, "blue")]).await;
    lab.listener().limits.idle_timeout = Duration::from_millis(400);
    lab.apply().await;
    let stream = TcpStream::connect(lab.address()).await.unwrap();
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder.timer(TokioTimer::new()).keep_alive_interval(Duration::from_millis(50)).keep_alive_while_idle(true);
    let (mut sender, connection) = builder.handshake(TokioIo::new(stream)).await.unwrap();
    let connection = tokio::spawn(connection);
    // One that waits longer than that for its answer is not idle.
    let request = Request::get("http://web/slow/1000").body(Empty::<Bytes>::new()).unwrap();
    let answer = sender.send_request(request).await.unwrap();
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "one");
    tokio::time::timeout(SOON, connection).await.expect("an end").unwrap().unwrap();
}

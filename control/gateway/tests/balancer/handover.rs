//! One balancer takes over from another: no client finds the door closed, and nobody's request is lost.

use http_body_util::{BodyExt, Full};
use hyper::{Request, body::Bytes, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

use crate::lab::{Backend, Client, Lab, wait_for};

#[tokio::test]
async fn every_client_is_served_while_one_balancer_takes_over_from_another() {
    let backend = Backend::http1("one").await;
    let old = Lab::start(&[(&backend, "blue")]).await;
    let address = old.address();
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let load = |is_kept: bool| {
        let stopped = stopped.clone();
        tokio::spawn(async move {
            let mut client = Client::connect(address).await;
            let mut count = 0;
            while !*stopped.borrow() {
                let answer = client.get("/").await;
                assert_eq!((answer.status, answer.body.as_str()), (200, "one"));
                count += 1;
                if !is_kept || answer.header("connection") == Some("close") {
                    client = Client::connect(address).await;
                }
            }
            count
        })
    };
    let loads = [load(true), load(false), load(true), load(false)];
    let mut stream = Client::connect(address).await;
    stream.send("GET /upgrade HTTP/1.1\r\nHost: web\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n").await;
    assert_eq!(stream.answer().await.unwrap().status, 101);
    let mut slow = Client::connect(address).await;
    slow.send("GET /slow/500 HTTP/1.1\r\nHost: web\r\n\r\n").await;
    wait_for("traffic", async || backend.request_count() > 100).await;

    let new = old.successor().await;
    let at_new = async || new.counter("requests_http1").await;
    wait_for("both serve", async || at_new().await > 10).await;
    old.retire().await;
    let (before, there) = (at_new().await, backend.request_count());
    wait_for("the new one serves all", async || backend.request_count() > there + 100).await;
    assert!(at_new().await > before);
    assert_eq!(slow.answer().await.unwrap().body, "one");
    stop.send_replace(true);
    for load in loads {
        assert!(load.await.unwrap() > 0);
    }
    stream.send("still here").await;
    assert_eq!(stream.read(10).await, b"still here");
    assert!(!old.is_idle().await);
    drop((stream, slow));
    wait_for("the old one has nothing left", async || old.is_idle().await).await;
    assert_eq!(new.get("/").await, "one");
}

#[tokio::test]
async fn a_client_of_http2_is_told_to_go_and_loses_no_stream() {
    let backend = Backend::http1("one").await;
    let old = Lab::start(&[(&backend, "blue")]).await;
    let stream = TcpStream::connect(old.address()).await.unwrap();
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    let connection = tokio::spawn(connection);
    let request = || Request::get("http://web/slow/500").body(Full::<Bytes>::default()).unwrap();
    let answers = [sender.send_request(request()), sender.send_request(request())];
    wait_for("they are in flight", async || backend.request_count() == 2).await;
    let _new = old.successor().await;
    old.retire().await;
    for answer in answers {
        assert_eq!(answer.await.unwrap().into_body().collect().await.unwrap().to_bytes(), "one");
    }
    connection.await.unwrap().unwrap();
    wait_for("the old one has nothing left", async || old.is_idle().await).await;
}

#[tokio::test]
async fn what_is_left_at_the_old_balancer_follows_new_states() {
    let (blue, green) = (Backend::http1("blue").await, Backend::http1("green").await);
    let mut old = Lab::start(&[(&blue, "blue"), (&green, "green")]).await;
    old.service().switch.live = vec![crate::lab::share("blue", 1)];
    old.service().switch.revision = 1;
    old.apply().await;
    let mut client = Client::connect(old.address()).await;
    assert_eq!(client.get("/").await.body, "blue");
    let _new = old.successor().await;
    old.retire().await;
    old.service().switch.live = vec![crate::lab::share("green", 1)];
    old.service().switch.revision = 2;
    old.apply().await;
    let answer = client.get("/").await;
    assert_eq!((answer.body.as_str(), answer.header("connection")), ("green", Some("close")));
    wait_for("it is closed", async || old.is_idle().await).await;
    assert!(client.is_closed().await);
}

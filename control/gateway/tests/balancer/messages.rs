//! Heads and bodies in all their forms: what comes out behind the balancer is what went in.

use std::time::Duration;

use http_body_util::{BodyExt, StreamBody};
use hyper::{
    HeaderMap, Request,
    body::{Bytes, Frame},
    client::conn::http2,
    header::HeaderValue,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};
use weaved_api::balancer::{ListenerProtocol, Sticky, SwitchState};

use crate::lab::{Backend, Client, Lab, listener, share};

/// An instance that tells what it was sent, byte for byte, and answers each whole request with the text.
async fn scripted(answer: &'static str) -> (std::net::SocketAddr, mpsc::UnboundedReceiver<String>) {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let (told, heard) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = socket.accept().await {
            let told = told.clone();
            tokio::spawn(async move {
                let (mut buffer, mut request) = ([0; 4096], String::new());
                while let Ok(len @ 1..) = stream.read(&mut buffer).await {
                    request += &String::from_utf8_lossy(&buffer[..len]);
                    let is_body_whole = !request.contains("chunked") || request.contains("\r\n0\r\n");
                    if request.ends_with("\r\n\r\n") && is_body_whole {
                        told.send(std::mem::take(&mut request)).unwrap();
                        stream.write_all(answer.as_bytes()).await.unwrap();
                    }
                }
            });
        }
    });
    (address, heard)
}

/// A lab with that instance alone.
async fn scripted_lab(answer: &'static str) -> (Lab, mpsc::UnboundedReceiver<String>) {
    let (address, heard) = scripted(answer).await;
    let mut lab = Lab::start(&[(&Backend::http1("unused").await, "blue")]).await;
    lab.state.instances[0].port = address.port();
    lab.apply().await;
    (lab, heard)
}

#[tokio::test]
async fn a_body_of_unknown_length_reaches_the_instance_whatever_the_method() {
    let backend = Backend::http1("one").await;
    let lab = Lab::start(&[(&backend, "blue")]).await;
    let mut client = Client::connect(lab.address()).await;
    for method in ["GET", "POST", "DELETE", "PATCH"] {
        let head = format!("{method} /echo HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: chunked\r\n\r\n");
        client.send(format!("{head}5\r\nhello\r\n0\r\n\r\n")).await;
        assert_eq!(client.answer().await.unwrap().body, "hello", "{method}");
    }
    let stream = TcpStream::connect(lab.address()).await.unwrap();
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let frames =
        futures_util::stream::iter([Ok::<_, std::convert::Infallible>(Frame::data(Bytes::from("over http2")))]);
    let request = Request::get("http://web/echo").body(StreamBody::new(frames)).unwrap();
    let answer = sender.send_request(request).await.unwrap().into_body().collect().await.unwrap();
    assert_eq!(answer.to_bytes(), "over http2");
}

#[tokio::test]
async fn a_request_of_http10_without_a_host_gets_the_name_of_the_service_for_one() {
    let backend = Backend::http1("one").await;
    let mut lab = Lab::start(&[(&backend, "blue")]).await;
    let ask = async |lab: &Lab| {
        let mut client = Client::connect(lab.address()).await;
        client.send("GET /head HTTP/1.0\r\n\r\n").await;
        client.answer().await.unwrap()
    };
    let told = ask(&lab).await.body;
    assert!(told.lines().any(|line| line == "host: web") && !told.contains("x-forwarded-host"), "{told}");

    let newer = Backend::http2("two").await;
    lab.state.instances[0].port = newer.address.port();
    lab.service().http2_backends = true;
    lab.apply().await;
    let answer = ask(&lab).await;
    assert!(answer.body.starts_with("GET http://web/head HTTP/2.0"), "{answer:?}");
}

#[tokio::test]
async fn answers_without_a_body_are_passed_on_without_one_and_the_connection_goes_on() {
    for (request, answer, length) in [
        ("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n", Some("1234")),
        ("HEAD", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", None),
        ("GET", "HTTP/1.1 204 No Content\r\n\r\n", None),
        ("GET", "HTTP/1.1 304 Not Modified\r\nETag: \"a\"\r\n\r\n", None),
        ("GET", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n", None),
    ] {
        let (lab, mut heard) = scripted_lab(answer).await;
        let mut client = Client::connect(lab.address()).await;
        let status: u16 = answer.rsplit("HTTP/1.1 ").next().unwrap()[..3].parse().unwrap();
        for _ in 0..3 {
            client.send(format!("{request} / HTTP/1.1\r\nHost: web\r\n\r\n")).await;
            let mut answered = vec![0; 4096];
            let len = client.stream.read(&mut answered).await.unwrap();
            let answered = String::from_utf8_lossy(&answered[..len]).to_lowercase();
            assert!(
                answered.starts_with(&format!("http/1.1 {status}")) && answered.ends_with("\r\n\r\n"),
                "{answered:?}"
            );
            let told = answered.lines().find_map(|line| line.strip_prefix("content-length: "));
            assert_eq!(told, length, "{answered:?}");
            assert!(heard.recv().await.unwrap().starts_with(request));
        }
        assert_eq!(lab.counter("backend_reused").await, 2, "{answer:?}");
    }
}

#[tokio::test]
async fn a_client_cannot_say_who_it_is_behind_its_body_either() {
    let (lab, mut heard) = scripted_lab("HTTP/1.1 204 No Content\r\n\r\n").await;
    let mut client = Client::connect(lab.address()).await;
    let beginning =
        "POST / HTTP/1.1\r\nHost: web\r\nTrailer: x-forwarded-for, x-sum\r\nTransfer-Encoding: chunked\r\n\r\n";
    client.send(format!("{beginning}5\r\nhello\r\n0\r\nX-Forwarded-For: 10.0.0.1\r\nX-Sum: 7\r\n\r\n")).await;
    let told = heard.recv().await.unwrap().to_lowercase();
    assert_eq!(told.split_once("\r\n0\r\n").unwrap().1, "x-sum: 7\r\n\r\n", "{told:?}");
}

#[tokio::test]
async fn trailers_of_a_request_over_http2_say_nothing_of_the_client() {
    let (lab, mut heard) = scripted_lab("HTTP/1.1 204 No Content\r\n\r\n").await;
    let stream = TcpStream::connect(lab.address()).await.unwrap();
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let mut trailers = HeaderMap::new();
    trailers.insert("x-real-ip", HeaderValue::from_static("10.0.0.1"));
    let frames = [Frame::data(Bytes::from_static(b"hello")), Frame::trailers(trailers)];
    let body = StreamBody::new(futures_util::stream::iter(frames.map(Ok::<_, std::convert::Infallible>)));
    let request = Request::post("http://web/").header("trailer", "x-real-ip").body(body).unwrap();
    assert_eq!(sender.send_request(request).await.unwrap().status(), 204);
    let told = heard.recv().await.unwrap();
    assert!(!told.contains("10.0.0.1"), "{told:?}");
}

#[tokio::test]
async fn a_cookie_of_the_old_colour_holds_nobody_there_once_it_is_switched() {
    let (blue, green) = (Backend::http1("blue").await, Backend::http1("green").await);
    let mut lab = Lab::start(&[(&blue, "blue"), (&green, "green")]).await;
    lab.service().sticky = Some(Sticky::Cookie("route".into()));
    let live = |revision, colour: &str, before: &str| SwitchState {
        revision,
        live: vec![share(colour, 1)],
        before: vec![share(before, 1)],
        at_us: 1,
        prepare: None,
        drain: Duration::from_secs(30),
        stream_drain: None,
    };
    lab.service().switch = live(1, "blue", "green");
    lab.apply().await;
    let mut client = Client::connect(lab.address()).await;
    let cookie = client.get("/").await.header("set-cookie").unwrap().split(';').next().unwrap().to_owned();
    lab.service().switch = live(2, "green", "blue");
    lab.apply().await;
    client.send(format!("GET / HTTP/1.1\r\nHost: web\r\nCookie: {cookie}\r\n\r\n")).await;
    let answer = client.answer().await.unwrap();
    assert_eq!(answer.body, "green");
    let cookie = answer.header("set-cookie").expect("a cookie of the new colour").split(';').next().unwrap().to_owned();
    client.send(format!("GET / HTTP/1.1\r\nHost: web\r\nCookie: {cookie}\r\n\r\n")).await;
    assert_eq!(client.answer().await.unwrap().header("set-cookie"), None);
}

#[tokio::test]
async fn a_request_that_is_begun_before_its_listener_goes_may_still_change_the_protocol() {
    let backend = Backend::http1("one").await;
    let mut lab = Lab::start(&[(&backend, "blue")]).await;
    let mut client = Client::connect(lab.address()).await;
    assert_eq!(client.get("/").await.status, 200);
    lab.state.balancer.listeners = vec![listener(ListenerProtocol::Http)];
    lab.apply().await;
    client.send("GET /upgrade HTTP/1.1\r\nHost: web\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n").await;
    let answer = client.answer().await.unwrap();
    assert_eq!((answer.status, answer.header("connection")), (101, Some("upgrade")));
    client.send("bytes").await;
    assert_eq!(client.read(5).await, b"bytes");
}

//! Hosts that are down or gone: nobody waits for an answer that cannot come.

use std::io;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};
use weaved_api::{
    balancer::ListenerProtocol,
    gateway::{NamedHost, NamedInstance, Standing},
};

use crate::lab::{Backend, Client, Lab, listener};

/// An instance that takes everything and never answers. It tells of each connection whose first bytes have come.
async fn silent() -> (u16, mpsc::UnboundedReceiver<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (tell, hears) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        let mut open = Vec::new();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.read_u8().await.unwrap();
            tell.send(()).unwrap();
            open.push(stream);
        }
    });
    (port, hears)
}

/// The instances `one` and `other` on host b never answer; `two` on host a does. The first request goes to `one`.
async fn lab(two: &Backend, protocol: ListenerProtocol) -> (Lab, mpsc::UnboundedReceiver<()>) {
    let (port, hears) = silent().await;
    let mut lab = Lab::start(&[(two, "blue"), (two, "blue")]).await;
    lab.state.range = "127.0.0.0/8".parse().unwrap();
    lab.state.hosts.push(NamedHost { name: "b".into(), address: None, standing: Standing::Passing, is_gone: false });
    let one = &mut lab.state.instances[0];
    (one.id, one.host, one.port) = ("one".into(), 1, port);
    let other = NamedInstance { id: "other".into(), ..one.clone() };
    lab.state.instances.insert(1, other);
    lab.state.balancer.listeners[0] = listener(protocol);
    lab.apply().await;
    (lab, hears)
}

async fn lose_host_b(lab: &mut Lab) {
    lab.state.hosts[1].standing = Standing::HostDown;
    lab.apply().await;
    lab.state.hosts[1].is_gone = true;
    lab.apply().await;
}

#[tokio::test]
async fn a_request_that_may_be_repeated_goes_to_another_instance_when_its_host_is_gone() {
    let two = Backend::http1("two").await;
    let (mut lab, mut hears) = lab(&two, ListenerProtocol::Http).await;
    let mut client = Client::connect(lab.address()).await;
    client.send("GET / HTTP/1.1\r\nHost: web\r\n\r\n").await;
    hears.recv().await.unwrap();
    lose_host_b(&mut lab).await;
    let answer = client.answer().await.unwrap();
    assert_eq!((answer.status, answer.body.as_str()), (200, "two"));
    assert_eq!((lab.counter("host_lost").await, lab.counter("retries").await), (1, 1));
    // It is back: it gets requests again, and what is in flight there is left alone by the next state.
    (lab.state.hosts[1].standing, lab.state.hosts[1].is_gone) = (Standing::Passing, false);
    lab.state.instances.truncate(1);
    lab.apply().await;
    let mut client = Client::connect(lab.address()).await;
    client.send("GET / HTTP/1.1\r\nHost: web\r\n\r\n").await;
    hears.recv().await.unwrap();
    lab.apply().await;
    assert_eq!(lab.counter("host_lost").await, 1);
}

#[tokio::test]
async fn a_request_with_a_body_is_refused_with_the_reason_when_its_host_is_gone() {
    let two = Backend::http1("two").await;
    let (mut lab, mut hears) = lab(&two, ListenerProtocol::Http).await;
    let mut client = Client::connect(lab.address()).await;
    client.send("POST / HTTP/1.1\r\nHost: web\r\nContent-Length: 4\r\n\r\nbody").await;
    hears.recv().await.unwrap();
    lose_host_b(&mut lab).await;
    let answer = client.answer().await.unwrap();
    assert_eq!(answer.status, 502);
    assert_eq!(answer.body, "b is down, where the instance of web is that had the request\n");
    assert_eq!((two.request_count(), lab.counter("backend_failed").await), (0, 1));
}

#[tokio::test]
async fn a_stream_to_a_host_that_is_gone_is_reset() {
    let two = Backend::http1("two").await;
    let (mut lab, mut hears) = lab(&two, ListenerProtocol::Tcp).await;
    let mut stream = TcpStream::connect(lab.address()).await.unwrap();
    stream.write_all(b"hello").await.unwrap();
    hears.recv().await.unwrap();
    lab.state.hosts[1].standing = Standing::HostDown;
    lab.apply().await;
    assert_eq!(lab.counter("host_gone_cut").await, 0, "its control alone may be away");
    lose_host_b(&mut lab).await;
    assert_eq!(stream.read_u8().await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    assert_eq!(lab.counter("host_gone_cut").await, 1);
}

#[tokio::test]
async fn what_is_in_flight_at_an_address_elsewhere_goes_on() {
    let (one, two) = (Backend::http1("one").await, Backend::http1("two").await);
    let (mut lab, mut hears) = lab(&two, ListenerProtocol::Http).await;
    lab.state.instances[0].port = one.address.port();
    lab.apply().await;
    let mut client = Client::connect(lab.address()).await;
    client.send("GET /slow/500 HTTP/1.1\r\nHost: web\r\n\r\n").await;
    crate::lab::wait_for("it is in flight", async || one.request_count() == 1).await;
    lab.state.range = "10.32.0.0/12".parse().unwrap();
    lose_host_b(&mut lab).await;
    assert_eq!(client.answer().await.unwrap().body, "one");
    assert_eq!((lab.counter("host_lost").await, lab.counter("host_gone_cut").await), (0, 0));
    assert!(hears.try_recv().is_err());
}

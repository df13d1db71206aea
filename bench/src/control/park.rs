//! Clients that wait for a key, until it changes. Says `parked` when all wait; what is measured begins with the change.

use std::{
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use http_body_util::{BodyExt, Full};
use hyper::{
    Request,
    body::{Body, Bytes, Frame, Incoming},
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

use super::{Measured, Outcome, Protocol, Shape, grpc};

/// One message, after which the stream stays open: a watch ends with it.
struct Open(Option<Vec<u8>>);

impl Body for Open {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.0.take().map_or(Poll::Pending, |message| Poll::Ready(Some(Ok(Frame::data(message.into())))))
    }
}

pub(super) async fn run(protocol: Protocol, address: SocketAddr, shape: Shape, key: &str) -> Outcome<Measured> {
    let mut waiting = Vec::new();
    for _ in 0..shape.clients {
        let woken = match protocol {
            Protocol::Http => tokio::task::spawn_local(query(address, key.to_owned())),
            _ => tokio::task::spawn_local(watch(open_watch(address, key).await?)),
        };
        waiting.push(woken);
        tokio::task::yield_now().await;
    }
    // A query is parked when its server has read it; the kernel has all of them by now.
    tokio::time::sleep(Duration::from_secs(1)).await;
    println!("parked");
    let (mut times, mut first) = (Vec::new(), None);
    for each in waiting {
        let woken: Instant = each.await??;
        let first = *first.get_or_insert(woken);
        times.push(woken.saturating_duration_since(first).as_micros() as u64);
    }
    let spread = times.iter().max().copied().unwrap_or(0);
    Ok(Measured::of(times, Duration::from_micros(spread.max(1)), 0))
}

/// A blocking query with the index that the key has now.
async fn query(address: SocketAddr, key: String) -> Result<Instant, String> {
    let words = |error: hyper::Error| error.to_string();
    let stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(words)?;
    tokio::task::spawn_local(connection);
    let mut index = String::from("0");
    for _ in 0..2 {
        let path = format!("/v1/kv/{key}?index={index}&wait=5m");
        let request = Request::get(path).header("Host", "bench").body(Full::<Bytes>::default());
        sender.ready().await.map_err(words)?;
        let answer = sender.send_request(request.map_err(|error| error.to_string())?).await.map_err(words)?;
        let seen = answer.headers().get("x-consul-index").and_then(|value| value.to_str().ok());
        index = seen.ok_or("no index")?.to_owned();
        answer.into_body().collect().await.map_err(words)?;
    }
    Ok(Instant::now())
}

/// A watch on a connection of its own, after the answer that says that it is there.
async fn open_watch(address: SocketAddr, key: &str) -> Outcome<Incoming> {
    let stream = TokioIo::new(TcpStream::connect(address).await?);
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), stream).await?;
    tokio::task::spawn_local(connection);
    let request = Request::post(format!("http://bench{}", grpc::WATCH))
        .header("Content-Type", "application/grpc")
        .header("TE", "trailers")
        .body(Open(Some(grpc::watch(key))))?;
    let mut body = sender.send_request(request).await?.into_body();
    body.frame().await.ok_or("the watch has ended")??;
    // The connection ends with its sender.
    tokio::task::spawn_local(async move {
        let _sender = sender;
        std::future::pending::<()>().await;
    });
    Ok(body)
}

async fn watch(mut body: Incoming) -> Result<Instant, String> {
    let frame = body.frame().await.ok_or("the watch has ended")?;
    frame.map(|_| Instant::now()).map_err(|error| error.to_string())
}

//! Keys: clients in closed loops, each with a connection and one question at a time.

use std::{
    cell::RefCell,
    net::SocketAddr,
    rc::Rc,
    time::{Duration, Instant},
};

use http_body_util::{BodyExt, Full};
use hyper::{
    Request,
    body::Bytes,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

use super::{Measured, Outcome, Protocol, Shape, grpc};

/// Different keys of a load.
pub(super) const KEYS: usize = 500;
/// Bytes of a value, of which the first are a number that makes it a new one.
const VALUE_BYTES: usize = 64;

/// What is done with keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    Put,
    Get,
}

/// A connection to a server.
pub(super) enum Client {
    Http(http1::SendRequest<Full<Bytes>>),
    Grpc(http2::SendRequest<Full<Bytes>>),
}

impl Client {
    pub(super) async fn connect(protocol: Protocol, address: SocketAddr) -> Outcome<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let stream = TokioIo::new(stream);
        if protocol == Protocol::Http {
            let (sender, connection) = http1::handshake(stream).await?;
            tokio::task::spawn_local(connection);
            return Ok(Self::Http(sender));
        }
        let (sender, connection) = http2::handshake(TokioExecutor::new(), stream).await?;
        tokio::task::spawn_local(connection);
        Ok(Self::Grpc(sender))
    }

    async fn put(&mut self, key: &str, value: &str) -> Outcome<()> {
        match self {
            Self::Http(_) => self.http(Request::put(format!("/v1/kv/{key}")), value.to_owned().into()).await,
            Self::Grpc(_) => self.grpc(grpc::PUT, grpc::put(key, value)).await,
        }
    }

    async fn get(&mut self, key: &str) -> Outcome<()> {
        match self {
            Self::Http(_) => self.http(Request::get(format!("/v1/kv/{key}")), Bytes::new()).await,
            Self::Grpc(_) => self.grpc(grpc::RANGE, grpc::range(key)).await,
        }
    }

    async fn http(&mut self, request: hyper::http::request::Builder, body: Bytes) -> Outcome<()> {
        let Self::Http(sender) = self else { return Err("another protocol".into()) };
        sender.ready().await?;
        let answer = sender.send_request(request.header("Host", "bench").body(Full::new(body))?).await?;
        let status = answer.status();
        let body = answer.into_body().collect().await?.to_bytes();
        if status != 200 || body.as_ref() == b"false" {
            return Err(format!("{status}: {}", String::from_utf8_lossy(&body)).into());
        }
        Ok(())
    }

    async fn grpc(&mut self, path: &str, message: Vec<u8>) -> Outcome<()> {
        let Self::Grpc(sender) = self else { return Err("another protocol".into()) };
        sender.ready().await?;
        let request = Request::post(format!("http://bench{path}"))
            .header("Content-Type", "application/grpc")
            .header("TE", "trailers")
            .body(Full::from(message))?;
        let answer = sender.send_request(request).await?.into_body().collect().await?;
        let code = answer.trailers().and_then(|trailers| trailers.get("grpc-status")).cloned();
        if code.as_ref().is_none_or(|code| code != "0") {
            return Err(format!("gRPC status {code:?}").into());
        }
        Ok(())
    }
}

pub(super) async fn run(
    protocol: Protocol,
    address: SocketAddr,
    shape: Shape,
    verb: Verb,
    prefix: &str,
) -> Outcome<Measured> {
    let times = Rc::new(RefCell::new(Vec::new()));
    let (mut clients, mut loops) = (Vec::new(), Vec::new());
    for _ in 0..shape.clients {
        clients.push(Client::connect(protocol, address).await?);
    }
    let begun = Instant::now();
    let end = begun + Duration::from_millis(shape.millis);
    for (number, mut client) in clients.into_iter().enumerate() {
        let (times, prefix) = (Rc::clone(&times), prefix.to_owned());
        loops.push(tokio::task::spawn_local(async move {
            let mut turn = number;
            loop {
                turn += shape.clients;
                let key = format!("{prefix}{}", turn % KEYS);
                let asked = Instant::now();
                let outcome = match verb {
                    Verb::Put => client.put(&key, &value(turn)).await,
                    Verb::Get => client.get(&key).await,
                };
                outcome.map_err(|error| error.to_string())?;
                times.borrow_mut().push(asked.elapsed().as_micros() as u64);
                if Instant::now() >= end {
                    return Ok::<(), String>(());
                }
            }
        }));
    }
    for each in loops {
        each.await??;
    }
    let took = begun.elapsed();
    Ok(Measured::of(times.take(), took, 0))
}

/// A new one for each turn of each run, so that no put is one of what is there already.
fn value(turn: usize) -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_nanos();
    format!("{now}-{turn:0>width$}", width = VALUE_BYTES - 20)
}

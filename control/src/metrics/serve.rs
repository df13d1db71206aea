//! HTTP for the page: `GET /metrics`, and a hint for everything else.
//!
//! INVARIANT: at most [`MAX_CONNECTIONS`]; a page is made from one snapshot, and whoever asks too fast waits for it. An address
//! that cannot be listened on fails nothing: it is said once, stands in the status, and is tried again.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::TcpListener,
    sync::{Semaphore, mpsc, oneshot, watch},
};
use weaved_api::gateway::{GatewayEvent, GatewayRequest, GatewayStats};

use super::{Snapshot, render, usages};
use crate::{
    gateway_client,
    paths::Paths,
    serve::{
        Call,
        protocol::{Reply, Request as Ask},
        report::StatusReport,
    },
};

/// Scrapers at once: a Prometheus or two, and somebody with curl.
const MAX_CONNECTIONS: usize = 16;
/// How long a client may take for its request.
const HEADER_PATIENCE: Duration = Duration::from_secs(10);
/// An address that is taken is tried again after this.
const RETRY_INTERVAL: Duration = Duration::from_secs(2);
/// After a refused `accept`.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Prometheus's text format.
const TEXT_FORMAT: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

/// Whom a page is asked of.
#[derive(Clone, Debug)]
pub struct Sources {
    /// The daemon's loop.
    pub calls: mpsc::Sender<Call>,
    /// Where the gateway's socket is, and the pid files.
    pub paths: Paths,
}

/// Serves until the daemon ends. `problem` says why it does not listen.
pub async fn serve(address: SocketAddr, sources: Sources, problem: watch::Sender<Option<String>>) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let listener = listen(address, &problem).await;
    while let Ok(place) = Arc::clone(&places).acquire_owned().await {
        match listener.accept().await {
            Ok((stream, _)) => {
                let sources = sources.clone();
                tokio::spawn(async move {
                    let connection = http1::Builder::new()
                        .timer(TokioTimer::new())
                        .header_read_timeout(HEADER_PATIENCE)
                        .serve_connection(TokioIo::new(stream), service_fn(|request| respond(request, &sources)));
                    if let Err(error) = connection.await {
                        tracing::debug!(%error, "a connection for metrics ended");
                    }
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection for metrics");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn listen(address: SocketAddr, problem: &watch::Sender<Option<String>>) -> TcpListener {
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => {
                tracing::info!(%address, "metrics are served");
                problem.send_replace(None);
                return listener;
            }
            Err(error) => {
                let line = format!("metrics cannot be served on {address}: {error}; it is tried again");
                if problem.send_replace(Some(line)).is_none() {
                    tracing::warn!(%address, %error, "metrics cannot be served; tried again every 2 s");
                }
                tokio::time::sleep(RETRY_INTERVAL).await;
            }
        }
    }
}

async fn respond(request: Request<Incoming>, sources: &Sources) -> Result<Response<Full<Bytes>>, Infallible> {
    let (status, text) = match (request.method(), request.uri().path()) {
        (&Method::GET | &Method::HEAD, "/metrics") => match snapshot(sources).await {
            Some(snapshot) => match tokio::task::spawn_blocking(|| render(snapshot)).await {
                Ok(Ok(text)) => (StatusCode::OK, text),
                _ => (StatusCode::INTERNAL_SERVER_ERROR, "the metrics could not be written\n".into()),
            },
            None => (StatusCode::SERVICE_UNAVAILABLE, "weaved is ending\n".into()),
        },
        (&Method::GET | &Method::HEAD, "/") => (StatusCode::OK, "metrics of weaved: /metrics\n".into()),
        (&Method::GET | &Method::HEAD, _) => (StatusCode::NOT_FOUND, "there is only /metrics\n".into()),
        _ => (StatusCode::METHOD_NOT_ALLOWED, "only GET\n".into()),
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, TEXT_FORMAT);
    Ok(response)
}

async fn snapshot(sources: &Sources) -> Option<Snapshot> {
    let status = status(&sources.calls).await?;
    let paths = sources.paths.clone();
    // Sockets and /proc: nothing that the loop should wait for.
    let asked = tokio::task::spawn_blocking(move || (gateway_stats(&paths), usages(&paths))).await;
    let (gateway, processes) = asked.unwrap_or_default();
    let balancer = status.gateway.balancer.clone();
    Some(Snapshot { status, gateway, balancer, processes })
}

async fn status(calls: &mpsc::Sender<Call>) -> Option<StatusReport> {
    let (reply_to, reply) = oneshot::channel();
    calls.send((Ask::Status, reply_to)).await.ok()?;
    match reply.await.ok()? {
        Reply::Status(report) => Some(*report),
        _ => None,
    }
}

fn gateway_stats(paths: &Paths) -> Option<GatewayStats> {
    match gateway_client::ask(paths, &GatewayRequest::QueryStats) {
        Ok(GatewayEvent::Stats(stats)) => Some(*stats),
        _ => None,
    }
}

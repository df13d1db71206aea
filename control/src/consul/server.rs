//! HTTP/1.1 for the API: connections, limits, the operator's token.
//!
//! INVARIANT: what is under way fits its [`Room`], and who finds none is told so; a body of more than [`MAX_BODY_BYTES`] is refused before it is read
//! whole; what a client sends reaches a handler only with the operator's token, when there is one.

use std::{convert::Infallible, future::Future, io, net::IpAddr, pin::pin, sync::Arc, time::Duration};

use http_body_util::{BodyExt, Full};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Body, Bytes},
    header::{AUTHORIZATION, USER_AGENT},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpSocket},
};
use weaved_gateway::share::Client;

use super::{
    answer::{Answer, Layout, Standing},
    patient::{Patient, Progress},
    query::Query,
    request::Ask,
    room::{MAX_BODY_BYTES, Room},
};

/// Connections that may come at once and wait to be taken. Where there is no room for one its client is silent for a second and
/// more: the library's 128 are filled by a script that starts a thousand watchers.
const BACKLOG: u32 = 4096;

/// Ten thousand parked queries of containers, and room for those that ask: a quarter is this host's.
pub const MAX_CONNECTIONS: usize = 14_000;
/// How long a client may take for its headers.
const HEADER_PATIENCE: Duration = Duration::from_secs(30);
/// How long a client may take for its body.
const BODY_PATIENCE: Duration = Duration::from_mins(1);
/// Bytes that a connection reads at once, at most, beyond a body.
const MAX_HEADER_BYTES: usize = 32 << 10;
/// What is noted of a client's name for itself.
const MAX_AGENT_CHARS: usize = 100;
/// How long a client that finds no place may take for the answer.
const FAREWELL_PATIENCE: Duration = Duration::from_secs(1);
/// What of its request is read and thrown away meanwhile: a connection that is closed with something unread loses the answer.
const FAREWELL_BYTES: u64 = 64 << 10;
/// After a refused `accept`: out of file descriptors, most likely.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What answers requests.
pub trait Handler: Send + Sync + 'static {
    /// The answer to one request.
    fn answer(&self, ask: Ask) -> impl Future<Output = Answer> + Send;

    /// What stands in the headers of every answer.
    fn standing(&self) -> Standing;

    /// True if a request with this token may be answered.
    fn admits(&self, token: Option<&str>) -> bool;
}

/// Serves one listener for ever. Several listeners share one room.
pub async fn serve(listener: TcpListener, handler: Arc<impl Handler>, room: Arc<Room>) {
    let mut is_failing = false;
    loop {
        match listener.accept().await {
            Ok((stream, from)) => {
                is_failing = false;
                let client = Client::of(from.ip(), stream.local_addr().map_or(from.ip(), |own| own.ip()));
                let (handler, room) = (Arc::clone(&handler), Arc::clone(&room));
                tokio::spawn(async move { receive(stream, (from.ip(), client), &*handler, &room).await });
            }
            Err(error) => {
                if !is_failing {
                    tracing::warn!(%error, "cannot accept connections of the API; tried again until it can be done");
                }
                is_failing = true;
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Answers what comes on one connection, or says that there is no place for it.
async fn receive(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send,
    (address, client): (IpAddr, Client),
    handler: &impl Handler,
    room: &Room,
) {
    match room.connection(client) {
        Ok(place) => {
            room.counters.connections.add();
            converse(stream, (address, client), handler, room).await;
            drop(place);
        }
        Err(refused) => turn_away(stream, refused, handler, room).await,
    }
}

/// Says why, whatever is asked, and ends the connection.
async fn turn_away(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    refused: Answer,
    handler: &impl Handler,
    room: &Room,
) {
    let Ok(_turn) = room.turned_away.try_acquire() else { return };
    let answer = printed(refused.into_response(handler.standing(), Layout::Compact));
    let saying = async {
        stream.write_all(&answer).await?;
        stream.shutdown().await?;
        tokio::io::copy(&mut stream.take(FAREWELL_BYTES), &mut tokio::io::sink()).await
    };
    // A client that does not want to know has gone.
    drop(tokio::time::timeout(FAREWELL_PATIENCE, saying).await);
}

/// An answer to somebody who is not listened to.
fn printed(response: Response<Vec<u8>>) -> Vec<u8> {
    let (head, body) = response.into_parts();
    let mut text =
        format!("HTTP/1.1 {}\r\nconnection: close\r\ncontent-length: {}\r\n", head.status, body.len()).into_bytes();
    for (name, value) in &head.headers {
        text.extend([name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
    }
    text.extend(b"\r\n");
    text.extend(body);
    text
}

/// Answers what comes on one connection, until it ends.
async fn converse(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send,
    client: (IpAddr, Client),
    handler: &impl Handler,
    room: &Room,
) {
    let progress = Progress::default();
    let service = service_fn(|request| respond(request, client, handler, room));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_PATIENCE)
        .max_buf_size(MAX_HEADER_BYTES)
        .half_close(false)
        .serve_connection(TokioIo::new(Patient::new(stream, &progress)), service);
    if let Err(error) = connection.await {
        tracing::debug!(%error, "a connection of the API ended");
        // Who has nothing to ask for that long has not been slow.
        let is_slow = progress.is_cut() || error.is_timeout() && progress.has_begun();
        if is_slow {
            room.counters.client_timeouts.add();
        } else if error.is_parse() {
            room.counters.bad_requests.add();
        }
    }
}

async fn respond<B>(
    request: Request<B>,
    (address, client): (IpAddr, Client),
    handler: &impl Handler,
    room: &Room,
) -> Result<Response<Full<Bytes>>, Infallible>
where
    B: Body<Data = Bytes> + Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    room.counters.requests.add();
    let layout = layout_of(request.uri().query());
    let source = source_of(request.method(), address, request.headers());
    let answer = match read(request, client, handler, room).await {
        Ok(ask) => counted(handler.answer(Ask { source, ..ask }).await, room),
        Err(answer) => answer,
    };
    let (head, bytes) = answer.into_response(handler.standing(), layout).into_parts();
    Ok(match room.answer(client, bytes) {
        Ok(bytes) => Response::from_parts(head, Full::new(bytes)),
        Err(refused) => refused.into_response(handler.standing(), layout).map(|line| Full::new(line.into())),
    })
}

/// The same, counted if it says that the request is none.
fn counted(answer: Answer, room: &Room) -> Answer {
    if matches!(answer.status, StatusCode::BAD_REQUEST | StatusCode::METHOD_NOT_ALLOWED) {
        room.counters.bad_requests.add();
    }
    answer
}

/// Each refusal is counted here.
async fn read<B>(request: Request<B>, client: Client, handler: &impl Handler, room: &Room) -> Result<Ask, Answer>
where
    B: Body<Data = Bytes> + Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let (head, body) = request.into_parts();
    let query = head.uri.query();
    let parameters = Query::parse(query.unwrap_or_default()).map_err(|error| counted(error.into(), room))?;
    let token = token_of(&head.headers).or_else(|| parameters.get("token"));
    if !handler.admits(token) {
        room.counters.token_refused.add();
        return Err(Answer::refused(StatusCode::FORBIDDEN, "Permission denied"));
    }
    if body.size_hint().lower() > MAX_BODY_BYTES as u64 {
        return Err(too_large(room));
    }
    let body = tokio::time::timeout(BODY_PATIENCE, whole(body, client, room)).await;
    let body = body.map_err(|_| {
        room.counters.body_unfinished.add();
        Answer::refused(StatusCode::REQUEST_TIMEOUT, "the body did not come")
    })??;
    // Of what only asks nobody looks at the body, and it may wait for long.
    let only_asks = matches!(head.method, Method::GET | Method::HEAD);
    let body = if only_asks { Bytes::new() } else { body };
    Ask::new(head.method, head.uri.path(), query, body).map_err(|answer| counted(answer, room))
}

async fn whole<B>(body: B, client: Client, room: &Room) -> Result<Bytes, Answer>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let mut body = pin!(body);
    let mut coming = room.body(client);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            room.counters.body_unfinished.add();
            unreadable(error)
        })?;
        let Ok(piece) = frame.into_data() else { continue };
        if coming.len() + piece.len() > MAX_BODY_BYTES {
            return Err(too_large(room));
        }
        coming.extend(&piece)?;
    }
    Ok(coming.whole())
}

fn unreadable(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Answer {
    let error: Box<dyn std::error::Error + Send + Sync> = error.into();
    Answer::bad(format!("the body cannot be read: {error}"))
}

fn too_large(room: &Room) -> Answer {
    room.counters.body_too_long.add();
    let reason = format!("Request body too large, max size: {MAX_BODY_BYTES} bytes.");
    Answer::refused(StatusCode::PAYLOAD_TOO_LARGE, reason)
}

/// `X-Consul-Token`, or a bearer token.
fn token_of(headers: &hyper::HeaderMap) -> Option<&str> {
    let own = headers.get("x-consul-token").and_then(|value| value.to_str().ok());
    let bearer = || headers.get(AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ");
    own.or_else(bearer)
}

/// By what and from where a request comes, such as `PUT from 10.0.0.3, curl/7.88.1`.
fn source_of(method: &hyper::Method, client: IpAddr, headers: &hyper::HeaderMap) -> String {
    let agent = headers.get(USER_AGENT).and_then(|agent| agent.to_str().ok()).unwrap_or_default();
    let agent: String = agent.chars().take(MAX_AGENT_CHARS).collect();
    let separator = if agent.is_empty() { "" } else { ", " };
    format!("{method} from {client}{separator}{agent}")
}

fn layout_of(query: Option<&str>) -> Layout {
    let is_pretty = Query::parse(query.unwrap_or_default()).is_ok_and(|query| query.has("pretty"));
    if is_pretty { Layout::Pretty } else { Layout::Compact }
}

/// Opens a listener on which a restarted program may follow itself at once.
pub fn bind(address: std::net::SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // As the library's own listeners have it: a restart finds connections of before in TIME-WAIT.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

#[cfg(test)]
mod tests;

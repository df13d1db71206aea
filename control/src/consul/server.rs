//! HTTP/1.1 for the API: connections, limits, the operator's token.
//!
//! INVARIANT: at most [`MAX_CONNECTIONS`]; a body of more than [`MAX_BODY_BYTES`] is refused before it is read whole; what
//! a client sends reaches a handler only with the operator's token, when there is one.

use std::{convert::Infallible, future::Future, io, net::IpAddr, sync::Arc, time::Duration};

use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::{
    Request, Response, StatusCode,
    body::{Body, Bytes},
    header::{AUTHORIZATION, USER_AGENT},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{net::TcpListener, sync::Semaphore};

use super::{
    answer::{Answer, Layout, Standing},
    query::Query,
    request::Ask,
};

/// Ten thousand parked queries, and room for those that ask.
pub const MAX_CONNECTIONS: usize = 12_000;
/// The longest value of the key-value store, within a transaction's encoding.
const MAX_BODY_BYTES: usize = 2 << 20;
/// How long a client may take for its headers.
const HEADER_PATIENCE: Duration = Duration::from_secs(30);
/// How long a client may take for its body.
const BODY_PATIENCE: Duration = Duration::from_mins(1);
/// Bytes that a connection reads at once, at most, beyond a body.
const MAX_HEADER_BYTES: usize = 32 << 10;
/// What is noted of a client's name for itself.
const MAX_AGENT_CHARS: usize = 100;
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

/// Serves one listener for ever. Connections of several listeners share `places`.
pub async fn serve(listener: TcpListener, handler: Arc<impl Handler>, places: Arc<Semaphore>) {
    while let Ok(place) = Arc::clone(&places).acquire_owned().await {
        match listener.accept().await {
            Ok((stream, client)) => {
                let handler = Arc::clone(&handler);
                tokio::spawn(async move {
                    let service = service_fn(|request| respond(request, client.ip(), &*handler));
                    let connection = http1::Builder::new()
                        .timer(TokioTimer::new())
                        .header_read_timeout(HEADER_PATIENCE)
                        .max_buf_size(MAX_HEADER_BYTES)
                        .half_close(false)
                        .serve_connection(TokioIo::new(stream), service);
                    if let Err(error) = connection.await {
                        tracing::debug!(%error, "a connection of the API ended");
                    }
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection of the API");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn respond<B>(
    request: Request<B>,
    client: IpAddr,
    handler: &impl Handler,
) -> Result<Response<Full<Bytes>>, Infallible>
where
    B: Body<Data = Bytes> + Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let layout = layout_of(request.uri().query());
    let source = source_of(request.method(), client, request.headers());
    let answer = match read(request, handler).await {
        Ok(ask) => handler.answer(Ask { source, ..ask }).await,
        Err(answer) => answer,
    };
    Ok(answer.into_response(handler.standing(), layout))
}

async fn read<B>(request: Request<B>, handler: &impl Handler) -> Result<Ask, Answer>
where
    B: Body<Data = Bytes> + Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let (head, body) = request.into_parts();
    let query = head.uri.query();
    let parameters = Query::parse(query.unwrap_or_default())?;
    let token = token_of(&head.headers).or_else(|| parameters.get("token"));
    if !handler.admits(token) {
        return Err(Answer::refused(StatusCode::FORBIDDEN, "Permission denied"));
    }
    if body.size_hint().lower() > MAX_BODY_BYTES as u64 {
        return Err(too_large());
    }
    let reading = tokio::time::timeout(BODY_PATIENCE, Limited::new(body, MAX_BODY_BYTES).collect());
    let body = match reading.await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) => return Err(refused_body(&*error)),
        Err(_) => return Err(Answer::refused(StatusCode::REQUEST_TIMEOUT, "the body did not come")),
    };
    Ask::new(head.method, head.uri.path(), query, body)
}

fn refused_body(error: &(dyn std::error::Error + Send + Sync + 'static)) -> Answer {
    if error.is::<LengthLimitError>() {
        return too_large();
    }
    Answer::bad(format!("the body cannot be read: {error}"))
}

fn too_large() -> Answer {
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
pub async fn bind(address: std::net::SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(address).await
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpStream,
    };

    use super::*;

    struct Echo;

    impl Handler for Echo {
        async fn answer(&self, ask: Ask) -> Answer {
            Answer::json(&serde_json::json!({"path": ask.path, "bytes": ask.body.len()})).at(7)
        }

        fn standing(&self) -> Standing {
            Standing { index: 3, has_majority: true }
        }

        fn admits(&self, token: Option<&str>) -> bool {
            token == Some("secret")
        }
    }

    async fn say(request: String) -> String {
        let listener = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(serve(listener, Arc::new(Echo), Arc::new(Semaphore::new(4))));
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        server.abort();
        answer
    }

    fn get(path: &str, header: &str) -> String {
        format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{header}\r\n")
    }

    #[tokio::test]
    async fn the_token_counts_in_every_form_that_clients_send_it_in() {
        for (path, header) in [
            ("/v1/kv/a", "X-Consul-Token: secret\r\n"),
            ("/v1/kv/a", "Authorization: Bearer secret\r\n"),
            ("/v1/kv/a?token=secret", ""),
        ] {
            let answer = say(get(path, header)).await;
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
            assert!(answer.contains("x-consul-index: 7") && answer.contains(r#""path":"kv/a""#), "{answer}");
        }
    }

    #[tokio::test]
    async fn without_the_token_nothing_is_answered_but_a_refusal() {
        for header in ["", "X-Consul-Token: guess\r\n"] {
            let answer = say(get("/v1/kv/a", header)).await;
            assert!(answer.starts_with("HTTP/1.1 403") && answer.ends_with("Permission denied"), "{answer}");
            assert!(answer.contains("x-consul-index: 3"), "{answer}");
        }
    }

    #[tokio::test]
    async fn a_body_beyond_the_limit_is_refused() {
        let len = MAX_BODY_BYTES + 1;
        let head = format!(
            "PUT /v1/kv/a?token=secret HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len}\r\n\r\n"
        );
        let answer = say(head).await;
        assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    }

    #[tokio::test]
    async fn json_is_indented_when_asked_for() {
        let answer = say(get("/v1/x?pretty&token=secret", "")).await;
        assert!(answer.contains("{\n  \"path\""), "{answer}");
    }
}

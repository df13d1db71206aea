//! A check over HTTP: 2xx passes, 429 warns, everything else fails. Consul's meaning of the codes.
//!
//! Redirects are followed on the same server only: what a container answers must not choose whom this host talks to.

use http_body_util::{BodyExt, Full};
use hyper::{
    Request, Response, Uri,
    body::{Bytes, Incoming},
    client::conn::http1,
    header,
};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{
    HttpProbe, probes,
    schedule::MAX_OUTPUT_BYTES,
    tls::{self, Protocol},
};
use crate::catalogue::Health;

const MAX_REDIRECTS: usize = 5;
const USER_AGENT: &str = concat!("weaved/", env!("CARGO_PKG_VERSION"), " health check");

/// Why a URL cannot be checked; None when it can.
pub fn problem_of(url: &str) -> Option<String> {
    parse(url).err()
}

pub(super) async fn run(probe: &HttpProbe) -> Result<(Health, String), String> {
    let mut uri = parse(&probe.url)?;
    for _ in 0..=MAX_REDIRECTS {
        let response = ask(probe, &uri).await?;
        match redirect(&response, &uri) {
            Some(next) => uri = next,
            None => return judge(response).await,
        }
    }
    Err(format!("more than {MAX_REDIRECTS} redirects, the last to {uri}"))
}

fn parse(url: &str) -> Result<Uri, String> {
    let uri: Uri = url.parse().map_err(|error| format!("{url} is no URL: {error}"))?;
    match uri.scheme_str() {
        Some("http" | "https") if uri.authority().is_some() => Ok(uri),
        _ => Err(format!("{url} is no URL; one begins with http:// or https://")),
    }
}

async fn ask(probe: &HttpProbe, uri: &Uri) -> Result<Response<Incoming>, String> {
    let host = uri.host().unwrap_or_default();
    let is_tls = uri.scheme_str() == Some("https");
    let port = uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
    let stream = probes::connect(&format!("{host}:{port}")).await?;
    let request = request(probe, uri)?;
    if is_tls {
        exchange(tls::encrypt(stream, host, probe.certificates, Protocol::Http1).await?, request).await
    } else {
        exchange(stream, request).await
    }
}

fn request(probe: &HttpProbe, uri: &Uri) -> Result<Request<Full<Bytes>>, String> {
    let authority = uri.authority().map(ToString::to_string).unwrap_or_default();
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let mut builder = Request::builder()
        .method(probe.method.as_str())
        .uri(path)
        .header(header::USER_AGENT, USER_AGENT)
        .header(header::CONNECTION, "close");
    let is_header = |wanted: &str| probe.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case(wanted));
    if !is_header("host") {
        builder = builder.header(header::HOST, authority);
    }
    for (name, value) in &probe.headers {
        builder = builder.header(name, value);
    }
    builder.body(Full::from(probe.body.clone())).map_err(|error| format!("the request cannot be made: {error}"))
}

async fn exchange<S>(stream: S, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let broken = |error: hyper::Error| format!("no answer: {error}");
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    // Ends when the response has been read or is dropped.
    tokio::spawn(connection);
    sender.send_request(request).await.map_err(broken)
}

fn redirect(response: &Response<Incoming>, from: &Uri) -> Option<Uri> {
    if !response.status().is_redirection() {
        return None;
    }
    let location = response.headers().get(header::LOCATION)?.to_str().ok()?;
    let next: Uri = if location.starts_with('/') {
        format!("{}://{}{location}", from.scheme_str()?, from.authority()?).parse().ok()?
    } else {
        location.parse().ok()?
    };
    (next.authority() == from.authority() && next.scheme() == from.scheme()).then_some(next)
}

async fn judge(response: Response<Incoming>) -> Result<(Health, String), String> {
    let status = response.status();
    let health = match status.as_u16() {
        200..=299 => Health::Passing,
        429 => Health::Warning,
        _ => Health::Critical,
    };
    let mut body = response.into_body();
    let mut bytes = Vec::new();
    while bytes.len() < MAX_OUTPUT_BYTES {
        let Some(Ok(frame)) = body.frame().await else { break };
        if let Ok(data) = frame.into_data() {
            bytes.extend_from_slice(&data[..data.len().min(MAX_OUTPUT_BYTES - bytes.len())]);
        }
    }
    Ok((health, format!("HTTP {status}\n{}", String::from_utf8_lossy(&bytes))))
}

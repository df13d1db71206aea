//! A check by gRPC's health protocol, `grpc.health.v1.Health/Check`, over HTTP/2.
//!
//! The two messages have one field each, so they are written and read here:
//!
//! ```text
//! HealthCheckRequest  { string service = 1; }            0a LEN BYTES
//! HealthCheckResponse { ServingStatus status = 1; }      08 VARINT        1 is SERVING
//! on the wire, before each: 00 (not compressed), length as u32 big endian
//! ```

use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Request, Response,
    body::{Bytes, Incoming},
    client::conn::http2,
    header,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};

use super::{
    GrpcProbe, probes,
    tls::{self, Protocol},
};
use crate::catalogue::Health;

const PATH: &str = "/grpc.health.v1.Health/Check";
const SERVING: u64 = 1;
const PREFIX_LEN: usize = 5;
/// The answer has a few bytes.
const MAX_ANSWER_BYTES: usize = 4096;
/// The service's name is behind one byte of length.
const MAX_SERVICE_BYTES: usize = 127;

pub(super) async fn run(probe: &GrpcProbe) -> Result<(Health, String), String> {
    let stream = probes::connect(&probe.target).await?;
    let host = probe.target.rsplit_once(':').map_or(probe.target.as_str(), |(host, _)| host);
    let scheme = if probe.tls.is_some() { "https" } else { "http" };
    let request = Request::post(format!("{scheme}://{}{PATH}", probe.target))
        .header(header::CONTENT_TYPE, "application/grpc")
        .header(header::TE, "trailers")
        .body(Full::from(encode(&probe.service)?))
        .map_err(|error| format!("the request cannot be made: {error}"))?;
    let response = match probe.tls {
        Some(certificates) => {
            exchange(tls::encrypt(stream, host, certificates, Protocol::Http2).await?, request).await?
        }
        None => exchange(stream, request).await?,
    };
    judge(response).await
}

async fn exchange<S>(stream: S, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let broken = |error: hyper::Error| format!("no gRPC answer: {error}");
    let (mut sender, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.map_err(broken)?;
    tokio::spawn(connection);
    sender.send_request(request).await.map_err(broken)
}

fn encode(service: &str) -> Result<Vec<u8>, String> {
    if service.len() > MAX_SERVICE_BYTES {
        return Err(format!("the gRPC service's name has more than {MAX_SERVICE_BYTES} bytes"));
    }
    let mut message = Vec::new();
    if !service.is_empty() {
        message.extend([0x0a, service.len() as u8]);
        message.extend(service.as_bytes());
    }
    let mut bytes = vec![0];
    bytes.extend((message.len() as u32).to_be_bytes());
    bytes.extend(message);
    Ok(bytes)
}

async fn judge(response: Response<Incoming>) -> Result<(Health, String), String> {
    if !response.status().is_success() {
        return Err(format!("HTTP {} where gRPC was expected", response.status()));
    }
    let code_of = |headers: &hyper::HeaderMap| headers.get("grpc-status")?.to_str().ok().map(str::to_owned);
    let early = code_of(response.headers());
    let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect().await;
    let body = body.map_err(|error| format!("the gRPC answer broke off: {error}"))?;
    let code = body.trailers().and_then(code_of).or(early);
    if let Some(code) = code.filter(|code| code != "0") {
        return Err(format!("gRPC status {code}"));
    }
    match status_of(&body.to_bytes()) {
        Some(SERVING) => Ok((Health::Passing, "SERVING".into())),
        Some(2) => Ok((Health::Critical, "NOT_SERVING".into())),
        Some(3) => Ok((Health::Critical, "SERVICE_UNKNOWN".into())),
        Some(other) => Ok((Health::Critical, format!("serving status {other}"))),
        None => Err("the gRPC answer is no HealthCheckResponse".into()),
    }
}

/// Field 1 of the message; 0, which is UNKNOWN, where it is left out.
pub(crate) fn status_of(bytes: &[u8]) -> Option<u64> {
    let len = u32::from_be_bytes(bytes.get(1..PREFIX_LEN)?.try_into().ok()?) as usize;
    let mut message = bytes.get(PREFIX_LEN..PREFIX_LEN + len).filter(|_| bytes[0] == 0)?;
    let mut status = 0;
    while !message.is_empty() {
        let tag = varint(&mut message)?;
        match (tag >> 3, tag & 7) {
            (1, 0) => status = varint(&mut message)?,
            (_, 0) => drop(varint(&mut message)?),
            (_, 2) => {
                let len = varint(&mut message)? as usize;
                message = message.get(len..)?;
            }
            (_, 1) => message = message.get(8..)?,
            (_, 5) => message = message.get(4..)?,
            _ => return None,
        }
    }
    Some(status)
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_as_protobuf_has_them() {
        assert_eq!(encode("").unwrap(), [0, 0, 0, 0, 0]);
        assert_eq!(encode("ab").unwrap(), [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        assert_eq!(status_of(&[0, 0, 0, 0, 2, 8, 1]), Some(SERVING));
        assert_eq!(status_of(&[0, 0, 0, 0, 0]), Some(0));
        // Unknown fields are passed over: 15: "x", then 1: 2.
        assert_eq!(status_of(&[0, 0, 0, 0, 5, 0x7a, 1, b'x', 8, 2]), Some(2));
    }

    proptest::proptest! {
        #[test]
        fn no_answer_is_too_strange(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..64)) {
            let _ = status_of(&bytes);
        }
    }
}

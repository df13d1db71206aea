//! Probes against small servers on loopback, good ones and bad ones. `testdata` holds a certificate for `localhost` that
//! nobody has signed, and its key; they are used here only.

use std::{convert::Infallible, sync::Arc};

use http_body_util::{BodyExt, StreamBody};
use hyper::{
    Request, Response,
    body::{Bytes, Frame, Incoming},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpListener,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        crypto::aws_lc_rs,
        pki_types::{CertificateDer, PrivatePkcs8KeyDer},
    },
};

use super::*;
use crate::health::{Certificates, GrpcProbe, HttpProbe};

const PATIENCE: Duration = Duration::from_secs(10);

async fn listen() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = listener.local_addr().unwrap().to_string();
    (listener, target)
}

fn acceptor() -> TlsAcceptor {
    let certificate = CertificateDer::from(include_bytes!("testdata/cert.der").as_slice());
    let key = PrivatePkcs8KeyDer::from(include_bytes!("testdata/key.der").as_slice());
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
    let config = config.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
    let mut config = config.with_single_cert(vec![certificate], key.into()).unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    TlsAcceptor::from(Arc::new(config))
}

/// Answers each request, by its first line, with these bytes.
async fn serve_http(answer: impl Fn(&str) -> String + Send + Sync + 'static, tls: Option<TlsAcceptor>) -> String {
    async fn converse(mut stream: impl AsyncRead + AsyncWrite + Unpin, answer: &(impl Fn(&str) -> String + Sync)) {
        let mut request = vec![0; 4096];
        let len = stream.read(&mut request).await.unwrap_or_default();
        let text = String::from_utf8_lossy(&request[..len]).into_owned();
        // A client that has seen enough goes away.
        drop(stream.write_all(answer(text.lines().next().unwrap_or_default()).as_bytes()).await);
        drop(stream.shutdown().await);
    }
    let (listener, target) = listen().await;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            match &tls {
                None => converse(stream, &answer).await,
                Some(tls) => {
                    if let Ok(stream) = tls.accept(stream).await {
                        converse(stream, &answer).await;
                    }
                }
            }
        }
    });
    target
}

fn http_probe(url: String, certificates: Certificates) -> Probe {
    Probe::Http(HttpProbe { url, method: "GET".into(), headers: vec![], body: String::new(), certificates })
}

async fn check(probe: &Probe, patience: Duration) -> Outcome {
    run(probe, patience, &Tools { docker: DockerChoice::Off }).await
}

async fn check_http(url: String) -> Outcome {
    check(&http_probe(url, Certificates::Verified), PATIENCE).await
}

#[tokio::test]
async fn the_code_of_an_answer_is_the_health() {
    let target = serve_http(
        |line| {
            let code = line.split(['/', ' ']).nth(2).unwrap();
            format!("HTTP/1.1 {code} X\r\nContent-Length: 2\r\n\r\nhi")
        },
        None,
    )
    .await;
    for (code, health) in [
        (200, Health::Passing),
        (204, Health::Passing),
        (429, Health::Warning),
        (301, Health::Critical),
        (404, Health::Critical),
        (503, Health::Critical),
    ] {
        let outcome = check_http(format!("http://{target}/{code}")).await;
        assert_eq!(outcome.health, health, "{code}: {}", outcome.output);
        assert!(outcome.output.starts_with(&format!("HTTP {code}")), "{}", outcome.output);
    }
}

#[tokio::test]
async fn a_redirect_is_followed_on_the_same_server_only() {
    let target = serve_http(
        |line| match line.split(' ').nth(1) {
            Some("/up") => "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nup".into(),
            Some("/elsewhere") => {
                "HTTP/1.1 302 F\r\nLocation: http://127.0.0.1:1/up\r\nContent-Length: 0\r\n\r\n".into()
            }
            Some("/circle") => "HTTP/1.1 302 F\r\nLocation: /circle\r\nContent-Length: 0\r\n\r\n".into(),
            _ => "HTTP/1.1 302 F\r\nLocation: /up\r\nContent-Length: 0\r\n\r\n".into(),
        },
        None,
    )
    .await;
    assert_eq!(check_http(format!("http://{target}/")).await.health, Health::Passing);
    let elsewhere = check_http(format!("http://{target}/elsewhere")).await;
    assert!(elsewhere.health == Health::Critical && elsewhere.output.contains("302"), "{elsewhere:?}");
    assert!(check_http(format!("http://{target}/circle")).await.output.contains("more than 5"));
}

#[tokio::test]
async fn a_megabyte_is_cut_silence_ends_and_garbage_is_no_answer() {
    let giant = serve_http(|_| format!("HTTP/1.1 500 X\r\n\r\n{}", "ä".repeat(1 << 20)), None).await;
    let outcome = check_http(format!("http://{giant}/")).await;
    assert!(outcome.health == Health::Critical && outcome.output.len() <= MAX_OUTPUT_BYTES);
    let garbage = serve_http(|_| "\u{1}garbage\r\n\r\n".into(), None).await;
    assert!(check_http(format!("http://{garbage}/")).await.output.contains("no answer"));
    // Accepted by the kernel, answered by nobody.
    let (_listener, silent) = listen().await;
    let silence = check(&http_probe(format!("http://{silent}/"), Certificates::Verified), MIN_PATIENCE).await;
    assert_eq!(silence, Outcome { health: Health::Critical, output: "no answer within 0.2 s".into() });
}

const MIN_PATIENCE: Duration = Duration::from_millis(200);

#[tokio::test]
async fn a_certificate_that_nobody_signed_is_refused_unless_it_need_not_be_verified() {
    let target = serve_http(|_| "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nup".into(), Some(acceptor())).await;
    let url = format!("https://{target}/");
    assert_eq!(check(&http_probe(url.clone(), Certificates::Unverified), PATIENCE).await.health, Health::Passing);
    let refused = check_http(url).await;
    assert_eq!(refused.health, Health::Critical);
    // Without any authority on this host, the reason is another one.
    assert!(refused.output.contains("TLS") || refused.output.contains("authority"), "{refused:?}");
}

#[tokio::test]
async fn a_port_that_accepts_passes_and_a_closed_one_does_not() {
    let (listener, target) = listen().await;
    assert_eq!(check(&Probe::Tcp(target.clone()), PATIENCE).await.health, Health::Passing);
    drop(listener);
    let closed = check(&Probe::Tcp(target.clone()), PATIENCE).await;
    assert!(closed.output.contains(&target), "{closed:?}");
    assert_eq!(check(&Probe::Tcp("nonsense".into()), PATIENCE).await.health, Health::Critical);
}

/// Answers `Check` with a serving status, or with gRPC status 12 for service `unknown`.
async fn serve_grpc(status: u8, tls: Option<TlsAcceptor>) -> String {
    async fn answer(request: Request<Incoming>, status: u8) -> Result<Response<Body>, Infallible> {
        assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
        let asked = request.into_body().collect().await.unwrap().to_bytes();
        let code = if asked.ends_with(b"unknown") { "12" } else { "0" };
        let message = Frame::data(Bytes::from(vec![0, 0, 0, 0, 2, 8, status]));
        let trailers = Frame::trailers([("grpc-status".parse().unwrap(), code.parse().unwrap())].into_iter().collect());
        let body = StreamBody::new(futures_util::stream::iter([Ok(message), Ok(trailers)]));
        Ok(Response::builder().header("content-type", "application/grpc").body(body).unwrap())
    }
    type Body = StreamBody<futures_util::stream::Iter<std::array::IntoIter<Result<Frame<Bytes>, Infallible>, 2>>>;
    let (listener, target) = listen().await;
    tokio::spawn(async move {
        let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        let service = service_fn(move |request| answer(request, status));
        while let Ok((stream, _)) = listener.accept().await {
            // A client that has its answer goes away.
            match &tls {
                None => drop(server.serve_connection(TokioIo::new(stream), service).await),
                Some(tls) => {
                    if let Ok(stream) = tls.accept(stream).await {
                        drop(server.serve_connection(TokioIo::new(stream), service).await);
                    }
                }
            }
        }
    });
    target
}

async fn check_grpc(target: String, service: &str, tls: Option<Certificates>) -> Outcome {
    check(&Probe::Grpc(GrpcProbe { target, service: service.into(), tls }), PATIENCE).await
}

#[tokio::test]
async fn grpc_serving_passes_and_everything_else_does_not() {
    assert_eq!(check_grpc(serve_grpc(1, None).await, "", None).await.health, Health::Passing);
    let down = check_grpc(serve_grpc(2, None).await, "shop", None).await;
    assert_eq!((down.health, down.output.as_str()), (Health::Critical, "NOT_SERVING"));
    let unknown = check_grpc(serve_grpc(1, None).await, "unknown", None).await;
    assert_eq!((unknown.health, unknown.output.as_str()), (Health::Critical, "gRPC status 12"));
    let http = serve_http(|_| "HTTP/1.1 200 OK\r\n\r\n".into(), None).await;
    assert_eq!(check_grpc(http, "", None).await.health, Health::Critical);
    let secure = serve_grpc(1, Some(acceptor())).await;
    assert_eq!(check_grpc(secure, "", Some(Certificates::Unverified)).await.health, Health::Passing);
}

#[tokio::test]
async fn a_command_without_docker_fails_with_the_reason() {
    let probe = Probe::Exec(crate::health::ExecProbe { container: "x".into(), command: vec!["true".into()] });
    let outcome = check(&probe, PATIENCE).await;
    assert!(outcome.health == Health::Critical && outcome.output.contains("--no-docker"), "{outcome:?}");
}

#[test]
fn control_characters_do_not_get_into_tables() {
    assert_eq!(clean("\x1b[2Jred\nline\0"), "[2Jred\nline");
}

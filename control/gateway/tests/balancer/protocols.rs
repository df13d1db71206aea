//! HTTP/2, gRPC, TLS, TCP and the PROXY protocol.

use std::{path::Path, process::Command, sync::Arc, time::Duration};

use http_body_util::{BodyExt, Empty, Full};
use hyper::{Request, StatusCode, body::Bytes, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        ClientConfig, RootCertStore,
        pki_types::{CertificateDer, ServerName, pem::PemObject},
    },
};
use weaved_api::balancer::{AccessLog, ListenerProtocol, LogFormat, ProxyVersion, Sticky, Trust};

use crate::lab::{Backend, Client, Lab, listener, wait_for};

#[tokio::test]
async fn http2_without_tls_is_understood_and_becomes_http1_for_the_backend() {
    let backend = Backend::http1("one").await;
    let lab = Lab::start(&[(&backend, "blue")]).await;
    let stream = TcpStream::connect(lab.address()).await.unwrap();
    let (mut sender, connection) =
        http2::handshake::<_, _, Full<Bytes>>(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let mut answers = Vec::new();
    for number in 0..20 {
        let body = Full::new(Bytes::from(format!("body {number}")));
        let request = Request::post("http://web.example.com/echo").body(body).unwrap();
        answers.push((number, sender.send_request(request)));
    }
    for (number, answer) in answers {
        let body = answer.await.unwrap().into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, format!("body {number}"));
    }
    let request = Request::get("http://web.example.com/head").header("cookie", "a=1").body(Full::default()).unwrap();
    let head = sender.send_request(request).await.unwrap().into_body().collect().await.unwrap().to_bytes();
    let head = String::from_utf8(head.to_vec()).unwrap();
    assert!(head.starts_with("GET /head HTTP/1.1") && head.contains("host: web.example.com"), "{head}");
    assert_eq!(lab.counter("requests_http2").await, 21);
}

#[tokio::test]
async fn grpc_keeps_its_trailers_to_backends_that_speak_http2() {
    let backend = Backend::http2("one").await;
    let mut lab = Lab::start(&[(&backend, "blue")]).await;
    lab.service().http2_backends = true;
    lab.apply().await;
    let stream = TcpStream::connect(lab.address()).await.unwrap();
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    for _ in 0..5 {
        let request =
            Request::post("http://web/trailers").header("te", "trailers").body(Empty::<Bytes>::new()).unwrap();
        let answer = sender.send_request(request).await.unwrap().into_body().collect().await.unwrap();
        assert_eq!(answer.trailers().unwrap()["grpc-status"], "0");
        assert_eq!(answer.to_bytes(), "message");
    }
    assert_eq!(backend.connection_count(), 1);
    // Clients of HTTP/1 reach it as well.
    assert!(lab.get("/head").await.starts_with("GET http://web/head HTTP/2.0"));
    assert_eq!(lab.get("/").await, "one");
}

#[tokio::test]
async fn tcp_is_carried_both_ways_to_its_end_and_a_dead_backend_costs_nobody() {
    let echo = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = echo.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = echo.accept().await.unwrap();
            tokio::spawn(async move {
                let (mut reader, mut writer) = stream.split();
                tokio::io::copy(&mut reader, &mut writer).await.unwrap();
            });
        }
    });
    let (mut dead, some) = (Backend::http1("dead").await, Backend::http1("some").await);
    dead.kill().await;
    let mut lab = Lab::start(&[(&dead, "blue"), (&some, "blue")]).await;
    lab.state.instances[1].port = address.port();
    lab.state.balancer.listeners[0] = listener(ListenerProtocol::Tcp);
    lab.apply().await;
    for _ in 0..4 {
        let mut stream = TcpStream::connect(lab.address()).await.unwrap();
        let sent = vec![7; 1_000_000];
        let (mut reader, mut writer) = stream.split();
        let (received, ()) = tokio::join!(
            async {
                let mut received = Vec::new();
                reader.read_to_end(&mut received).await.unwrap();
                received
            },
            async {
                writer.write_all(&sent).await.unwrap();
                writer.shutdown().await.unwrap();
            }
        );
        assert!(received == sent);
    }
    assert_eq!(lab.counter("streams").await, 4);
    lab.wait_for_report(|report| report.services[0].colours.iter().all(|colour| colour.streams == 0)).await;
}

#[tokio::test]
async fn a_tcp_stream_that_its_backend_breaks_off_does_not_look_complete() {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = socket.accept().await.unwrap();
        stream.write_all(b"half").await.unwrap();
        stream.read_u8().await.unwrap();
        stream.set_zero_linger().unwrap();
    });
    let some = Backend::http1("some").await;
    let mut lab = Lab::start(&[(&some, "blue")]).await;
    lab.state.instances[0].port = address.port();
    lab.state.balancer.listeners[0] = listener(ListenerProtocol::Tcp);
    lab.apply().await;
    let mut client = Client::connect(lab.address()).await;
    assert_eq!(client.read(4).await, b"half");
    client.send("x").await;
    assert_eq!(client.stream.read_u8().await.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_silent_stream_is_closed_when_its_time_is_over() {
    let backend = Backend::http1("one").await;
    let mut lab = Lab::start(&[(&backend, "blue")]).await;
    lab.state.balancer.listeners[0] = listener(ListenerProtocol::Tcp);
    lab.service().timeouts.idle = Some(Duration::from_millis(200));
    lab.apply().await;
    let mut client = Client::connect(lab.address()).await;
    assert_eq!(client.get("/").await.body, "one");
    assert!(client.is_closed().await);
}

#[tokio::test]
async fn proxy_headers_tell_the_client_in_and_out() {
    // A backend that says what it got first.
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = socket.accept().await.unwrap();
            let mut bytes = [0; 4096];
            let len = stream.read(&mut bytes).await.unwrap();
            stream.write_all(&bytes[..len]).await.unwrap();
        }
    });
    let some = Backend::http1("some").await;
    let mut lab = Lab::start(&[(&some, "blue")]).await;
    lab.state.instances[0].port = address.port();
    lab.state.balancer.listeners[0] = listener(ListenerProtocol::Tcp);
    lab.listener().accept_proxy = Trust::Everybody;
    for (version, header) in [
        (ProxyVersion::V1, b"PROXY TCP4 192.0.2.1 198.51.100.7 1234 443\r\n".as_slice()),
        (ProxyVersion::V2, b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x01\xc6\x33\x64\x07\x04\xd2\x01\xbb"),
    ] {
        lab.service().send_proxy = Some(version);
        lab.apply().await;
        let mut client = Client::connect(lab.address()).await;
        // In two pieces, the second with data behind it.
        client.send(&header[..9]).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
        client.send([&header[9..], b"data"].concat()).await;
        // The destination is the listener's own.
        let local = lab.address();
        let expected =
            weaved_gateway::balancer::proxy_protocol::emit(version, "192.0.2.1:1234".parse().unwrap(), local);
        assert_eq!(client.read(expected.len()).await, expected);
    }
    // HTTP: the client of the header is the one that is told.
    lab.state.instances[0].port = some.address.port();
    lab.service().send_proxy = None;
    lab.listener().protocol = ListenerProtocol::Http;
    lab.apply().await;
    let mut client = Client::connect(lab.address()).await;
    client.send("PROXY TCP4 192.0.2.1 198.51.100.7 1234 443\r\nGET /head HTTP/1.1\r\nHost: web\r\n\r\n").await;
    assert!(client.answer().await.unwrap().body.contains("x-forwarded-for: 192.0.2.1"));
    let mut stranger = Client::connect(lab.address()).await;
    stranger.send("GET / HTTP/1.1\r\nHost: web\r\n\r\n").await;
    assert!(stranger.is_closed().await);
    assert_eq!(lab.counter("proxy_header_refused").await, 1);
}

#[tokio::test]
async fn only_addresses_in_the_networks_that_are_trusted_say_who_asked() {
    let networks = |text: &str| Trust::Networks(vec![text.parse().unwrap()]);
    let backend = Backend::http1("one").await;
    let mut lab = Lab::start(&[(&backend, "blue")]).await;
    let request = "GET /head HTTP/1.1\r\nHost: web\r\nX-Forwarded-For: 198.51.100.9\r\n\r\n";
    let proxied = |client: &str| format!("PROXY TCP4 {client} 198.51.100.7 1234 443\r\n{request}");
    // Who is not there needs no PROXY header, and a header makes it nobody else.
    lab.listener().accept_proxy = networks("192.0.2.0/24");
    lab.listener().trust_forwarded = networks("192.0.2.0/24");
    lab.apply().await;
    let mut client = Client::connect(lab.address()).await;
    client.send(request).await;
    let head = client.answer().await.unwrap().body;
    assert!(head.lines().any(|line| line == "x-forwarded-for: 127.0.0.1"), "{head}");
    let mut liar = Client::connect(lab.address()).await;
    liar.send(proxied("192.0.2.1")).await;
    assert_eq!(liar.answer().await.unwrap().status, 400);
    // Who is there says it, and the client that it names is who is believed or not.
    lab.listener().accept_proxy = networks("127.0.0.0/8");
    lab.apply().await;
    for (address, told) in [("192.0.2.1", "198.51.100.9, 192.0.2.1"), ("203.0.113.1", "203.0.113.1")] {
        let mut client = Client::connect(lab.address()).await;
        client.send(proxied(address)).await;
        let head = client.answer().await.unwrap().body;
        assert!(head.lines().any(|line| line == format!("x-forwarded-for: {told}")), "{head}");
    }
}

#[tokio::test]
async fn rate_stickiness_and_log_go_by_the_client_that_a_trusted_proxy_names() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("access.log");
    let (one, two) = (Backend::http1("one").await, Backend::http1("two").await);
    let mut lab = Lab::start(&[(&one, "blue"), (&two, "blue")]).await;
    lab.service().sticky = Some(Sticky::Address);
    lab.listener().trust_forwarded = Trust::Networks(vec!["127.0.0.1/32".parse().unwrap()]);
    lab.listener().access_log = Some(AccessLog { path: path.clone(), format: LogFormat::Common });
    lab.apply().await;
    let mut proxy = Client::connect(lab.address()).await;
    let mut ask = async |address: &str| {
        let told = format!("X-Forwarded-For: 203.0.113.7, {address}\r\nX-Forwarded-For: 127.0.0.1\r\n");
        proxy.send(format!("GET / HTTP/1.1\r\nHost: web\r\n{told}\r\n")).await;
        proxy.answer().await.unwrap()
    };
    let mut names = std::collections::BTreeSet::new();
    for number in 1..=20 {
        let address = format!("198.51.100.{number}");
        let name = ask(&address).await.body;
        assert_eq!(ask(&address).await.body, name, "{address} stays");
        names.insert(name);
    }
    assert_eq!(names.len(), 2, "and others may be elsewhere");
    let text = || std::fs::read_to_string(&path).unwrap();
    wait_for("its lines", async || text().lines().count() == 40).await;
    assert!(text().starts_with("198.51.100.1 - - [") && !text().contains("127.0.0.1"), "{}", text());

    lab.listener().limits.requests_per_second = Some(1);
    lab.apply().await;
    for (address, status) in [("192.0.2.1", 200), ("192.0.2.2", 200), ("192.0.2.3", 200)] {
        assert_eq!(ask(address).await.status, status, "{address}");
    }
    let mut statuses = Vec::new();
    for _ in 0..20 {
        statuses.push(ask("192.0.2.4").await.status);
    }
    assert!(statuses.contains(&429), "{statuses:?}");
    // The word of others is worth nothing: all that they say they are is one client.
    lab.listener().trust_forwarded = Trust::Networks(vec!["192.0.2.0/24".parse().unwrap()]);
    lab.apply().await;
    let mut statuses = Vec::new();
    for number in 1..=20 {
        statuses.push(ask(&format!("198.51.100.{number}")).await.status);
    }
    assert!(statuses.contains(&429), "{statuses:?}");
}

/// A certificate for a name that is its own authority.
fn certificate(dir: &Path, file: &str, name: &str) {
    let path = |extension: &str| dir.join(format!("{file}.{extension}"));
    let output = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"])
        .args(["-subj", &format!("/CN={name}"), "-addext", &format!("subjectAltName=DNS:{name}")])
        .args(["-addext", "basicConstraints=critical,CA:FALSE"])
        .arg("-keyout")
        .arg(path("key"))
        .arg("-out")
        .arg(path("crt"))
        .output()
        .expect("openssl is there (Debian: openssl)");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// A TLS connection that trusts only the certificate in this file.
async fn connect(
    lab: &Lab,
    dir: &Path,
    file: &str,
    name: &str,
    alpn: &[&[u8]],
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(dir.join(format!("{file}.crt"))).unwrap()).unwrap();
    let provider = Arc::new(tokio_rustls::rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let mut config = config.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    let stream = TcpStream::connect(lab.address()).await.unwrap();
    TlsConnector::from(Arc::new(config)).connect(ServerName::try_from(name.to_owned()).unwrap(), stream).await
}

async fn get(mut stream: impl crate::lab::Stream) -> String {
    stream.write_all(b"GET /head HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut text = Vec::new();
    // Our end may be closed without the farewell of TLS.
    drop(stream.read_to_end(&mut text).await);
    String::from_utf8(text).unwrap()
}

#[tokio::test]
async fn tls_chooses_the_certificate_by_name_and_takes_new_ones_without_a_dropped_connection() {
    let dir = tempfile::tempdir().unwrap();
    certificate(dir.path(), "a", "a.example.com");
    certificate(dir.path(), "b", "*.example.org");
    let backend = Backend::http1("one").await;
    let mut lab = Lab::start(&[(&backend, "blue")]).await;
    lab.listener().tls = Some(dir.path().to_owned());
    lab.apply().await;
    for (file, name) in [("a", "a.example.com"), ("b", "x.example.org")] {
        let answer = get(connect(&lab, dir.path(), file, name, &[b"http/1.1"]).await.unwrap()).await;
        assert!(answer.contains("x-forwarded-proto: https"), "{answer}");
    }
    let Err(_) = connect(&lab, dir.path(), "b", "a.example.com", &[]).await else { panic!("b is not for a") };
    // HTTP/2 by ALPN.
    let stream = connect(&lab, dir.path(), "a", "a.example.com", &[b"h2"]).await.unwrap();
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = Request::get("https://a.example.com/").body(Empty::<Bytes>::new()).unwrap();
    assert_eq!(sender.send_request(request).await.unwrap().status(), StatusCode::OK);

    // A new certificate under the old name: new handshakes get it, the connection that is there stays.
    let kept = connect(&lab, dir.path(), "a", "a.example.com", &[]).await.unwrap();
    certificate(dir.path(), "a", "a.example.com");
    wait_for("the new certificate", async || connect(&lab, dir.path(), "a", "a.example.com", &[]).await.is_ok()).await;
    assert!(get(kept).await.starts_with("HTTP/1.1 200"));
    // A broken one changes nothing but is told.
    std::fs::write(dir.path().join("a.key"), "no key").unwrap();
    let report = lab.wait_for_report(|report| !report.problems.is_empty()).await;
    assert!(report.problems[0].contains("a.key"), "{:?}", report.problems);
    connect(&lab, dir.path(), "a", "a.example.com", &[]).await.unwrap();
}

#[tokio::test]
async fn a_listener_of_bytes_offers_nothing_inside_of_tls_and_lets_clients_offer_what_they_like() {
    let dir = tempfile::tempdir().unwrap();
    certificate(dir.path(), "a", "a.example.com");
    let backend = Backend::http1("one").await;
    let mut lab = Lab::start(&[(&backend, "blue")]).await;
    lab.listener().tls = Some(dir.path().to_owned());
    for (protocol, offered, chosen) in [
        (ListenerProtocol::Http, b"h2".as_slice(), Some(b"h2".as_slice())),
        (ListenerProtocol::Tcp, b"h2", None),
        (ListenerProtocol::Tcp, b"postgresql", None),
        (ListenerProtocol::Http, b"http/1.1", Some(b"http/1.1")),
    ] {
        lab.listener().protocol = protocol;
        lab.apply().await;
        let stream = connect(&lab, dir.path(), "a", "a.example.com", &[offered]).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), chosen, "{protocol:?}");
        if chosen != Some(b"h2") {
            assert!(get(stream).await.starts_with("HTTP/1.1 200"), "{protocol:?}");
        }
    }
}

#[tokio::test]
async fn an_upgrade_to_http2_is_answered_over_http1_and_makes_no_tunnel() {
    let backend = Backend::http1("one").await;
    let lab = Lab::start(&[(&backend, "blue")]).await;
    let mut client = Client::connect(lab.address()).await;
    // The connection goes on as it was.
    for _ in 0..2 {
        let upgrade = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n";
        client.send(format!("GET /head HTTP/1.1\r\nHost: web\r\n{upgrade}\r\n")).await;
        let answer = client.answer().await.unwrap();
        assert_eq!(answer.status, 200);
        assert!(!answer.body.contains("upgrade") && !answer.body.contains("http2-settings"), "{answer:?}");
    }
    assert_eq!(lab.counter("streams").await, 0);
}

#[tokio::test]
async fn garbage_in_place_of_tls_is_counted() {
    let dir = tempfile::tempdir().unwrap();
    certificate(dir.path(), "a", "a.example.com");
    let backend = Backend::http1("one").await;
    let mut lab = Lab::start(&[(&backend, "blue")]).await;
    lab.listener().tls = Some(dir.path().to_owned());
    lab.listener().limits.head_timeout = Duration::from_millis(300);
    lab.apply().await;
    let mut client = Client::connect(lab.address()).await;
    client.send("GET / HTTP/1.1\r\nHost: web\r\n\r\n").await;
    lab.wait_for_counter("tls_failed", 1).await;
    let _silent = Client::connect(lab.address()).await;
    lab.wait_for_counter("tls_failed", 2).await;
}

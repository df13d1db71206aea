//! Requests find their way, and come back.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use weaved_api::{
    balancer::{AccessLog, Ejection, ListenerProtocol, LogFormat, Policy, Sticky},
    gateway::{NamedHost, Standing},
};

use crate::lab::{Backend, Client, Lab, instance, listener, route, service, wait_for};

#[tokio::test]
async fn requests_go_round_over_kept_connections() {
    let (one, two) = (Backend::http1("one").await, Backend::http1("two").await);
    let lab = Lab::start(&[(&one, "blue"), (&two, "blue")]).await;
    let mut client = Client::connect(lab.address()).await;
    let mut names = Vec::new();
    for _ in 0..20 {
        names.push(client.get("/").await.body);
    }
    assert!(names.chunks(2).all(|pair| pair[0] != pair[1]), "{names:?}");
    assert_eq!((one.connection_count(), two.connection_count()), (1, 1));
    assert_eq!(lab.counter("requests_http1").await, 20);
}

#[tokio::test]
async fn the_backend_hears_who_asked_and_nothing_of_the_clients_connection() {
    let backend = Backend::http1("one").await;
    let lab = Lab::start(&[(&backend, "blue")]).await;
    let mut client = Client::connect(lab.address()).await;
    client
        .send(
            "GET http://example.com:81/head?x=1 HTTP/1.1\r\nHost: other\r\nX-Forwarded-For: 1.2.3.4\r\nConnection: \
             keep-alive, x-secret\r\nX-Secret: 1\r\nExpect: 100-continue\r\n\r\n",
        )
        .await;
    let head = client.answer().await.unwrap().body;
    let mut lines: Vec<&str> = head.lines().collect();
    lines.sort_unstable();
    let expected = [
        "GET /head?x=1 HTTP/1.1",
        "host: example.com:81",
        "x-forwarded-for: 127.0.0.1",
        "x-forwarded-host: example.com:81",
        "x-forwarded-proto: http",
        "x-weaved-hops: 1",
    ];
    assert_eq!(lines, expected);
}

#[tokio::test]
async fn a_request_that_goes_round_between_balancers_ends() {
    let backend = Backend::http1("one").await;
    let (mut lab, mut other) = (Lab::start(&[(&backend, "blue")]).await, Lab::start(&[(&backend, "blue")]).await);
    // Each is the only instance of the other.
    let (address, other_address) = (lab.address(), other.address());
    for (lab, to) in [(&mut lab, other_address), (&mut other, address)] {
        lab.state.instances[0].port = to.port();
        lab.service().retries = 0;
        lab.apply().await;
    }
    let answer = Client::connect(lab.address()).await.get("/").await;
    assert_eq!(answer.status, 508, "{}", answer.body);
    assert!(answer.body.contains("passes the request back"), "{}", answer.body);
    let passed = lab.counter("requests_http1").await + other.counter("requests_http1").await;
    assert_eq!((passed, lab.counter("loops").await), (11, 1));
}

#[tokio::test]
async fn an_instance_that_is_the_balancer_itself_gets_nothing() {
    let backend = Backend::http1("one").await;
    for protocol in [ListenerProtocol::Http, ListenerProtocol::Tcp] {
        let mut lab = Lab::start(&[(&backend, "blue")]).await;
        lab.listener().protocol = protocol;
        lab.apply().await;
        lab.state.instances[0].port = lab.address().port();
        lab.apply().await;
        for _ in 0..20 {
            let mut client = Client::connect(lab.address()).await;
            client.send("GET / HTTP/1.1\r\nHost: web\r\n\r\n").await;
            assert!(client.answer().await.is_none_or(|answer| answer.status == 502));
        }
        // One of the balancer's own for each thread, until that is known.
        let connections = lab.counter("connections").await;
        assert!((20..=24).contains(&connections), "{connections} with {protocol:?}");
        let state = lab.status().await.services[0].backends[0].state.clone();
        assert_eq!(state, "left out: a listener of this balancer has its address");
    }
}

#[tokio::test]
async fn bodies_of_any_length_pass_both_ways() {
    let backend = Backend::http1("one").await;
    let lab = Lab::start(&[(&backend, "blue")]).await;
    let mut client = Client::connect(lab.address()).await;
    assert_eq!(client.get("/big/3000000").await.body.len(), 3_000_000);
    let body = "y".repeat(2_000_000);
    client.send(format!("POST /echo HTTP/1.1\r\nHost: web\r\nContent-Length: {}\r\n\r\n{body}", body.len())).await;
    assert_eq!(client.answer().await.unwrap().body, body);
    client.send("POST /echo HTTP/1.1\r\nHost: web\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n").await;
    assert_eq!(client.answer().await.unwrap().body, "hello");
    client.send("HEAD / HTTP/1.1\r\nHost: web\r\n\r\n").await;
    assert!(String::from_utf8(client.read(15).await).unwrap().starts_with("HTTP/1.1 200 OK"));
}

#[tokio::test]
async fn routes_decide_by_host_path_and_header_and_nothing_else_gets_in() {
    let (web, api) = (Backend::http1("web").await, Backend::http1("api").await);
    let mut lab = Lab::start(&[(&web, "blue")]).await;
    lab.state.instances.push(weaved_api::gateway::NamedInstance { service: "api".into(), ..instance(&api, "blue") });
    lab.state.balancer.services.push(service("api"));
    let host = |host: &str, to: &str| weaved_api::balancer::Route { host: Some(host.into()), ..route(to) };
    lab.listener().routes = vec![
        weaved_api::balancer::Route { path: Some("/api".into()), ..route("api") },
        weaved_api::balancer::Route { header: Some(("x-to".into(), "api".into())), ..route("api") },
        host("*.example.com", "web"),
    ];
    lab.apply().await;
    let mut client = Client::connect(lab.address()).await;
    for (request, expected) in [
        ("GET /api/x HTTP/1.1\r\nHost: a\r\n", "api"),
        ("GET / HTTP/1.1\r\nHost: a\r\nX-To: api\r\n", "api"),
        ("GET /apiary HTTP/1.1\r\nHost: www.Example.com:80\r\n", "web"),
        ("GET / HTTP/1.1\r\nHost: example.com\r\n", "no route leads there\n"),
    ] {
        client.send(format!("{request}\r\n")).await;
        assert_eq!(client.answer().await.unwrap().body, expected, "{request}");
    }
}

#[tokio::test]
async fn only_instances_that_take_traffic_get_requests_and_none_is_said_in_a_sentence() {
    let (one, two) = (Backend::http1("one").await, Backend::http1("two").await);
    let mut lab = Lab::start(&[(&one, "blue"), (&two, "blue")]).await;
    for (standing, is_taken) in [
        (Standing::Warning, true),
        (Standing::Critical, false),
        (Standing::Draining, false),
        (Standing::HostDown, false),
    ] {
        lab.state.instances[1].standing = standing;
        lab.apply().await;
        let mut names = Vec::new();
        for _ in 0..4 {
            names.push(lab.get("/").await);
        }
        assert_eq!(names.contains(&"two".to_owned()), is_taken, "{standing:?}");
    }
    lab.state.hosts[0].standing = Standing::HostDown;
    lab.apply().await;
    let answer = Client::connect(lab.address()).await.get("/").await;
    assert_eq!((answer.status, answer.body.as_str()), (503, "no instance of web takes traffic\n"));
    let status = lab.status().await;
    assert_eq!(status.services[0].backends[0].state, "left out: its host does not answer");
}

#[tokio::test]
async fn requests_at_a_host_that_is_down_are_sent_elsewhere_or_refused_at_once_and_streams_wait() {
    let (lost, other) = (Backend::http1("lost").await, Backend::http1("other").await);
    let mut lab = Lab::start(&[(&lost, "blue"), (&other, "blue")]).await;
    lab.state.hosts.push(NamedHost { name: "b".into(), address: None, standing: Standing::Passing, is_gone: false });
    lab.state.range = "127.0.0.0/8".parse().unwrap();
    lab.state.instances[0].host = 1;
    lab.apply().await;
    // In turns: one of each kind is at each of the two.
    let upgrade = "GET /upgrade HTTP/1.1\r\nHost: web\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n";
    let repeatable = "GET /slow/600000 HTTP/1.1\r\nHost: web\r\n\r\n";
    let single = "POST /slow/600000 HTTP/1.1\r\nHost: web\r\nContent-Length: 1\r\n\r\nx";
    let (mut clients, mut sent) = (Vec::new(), 0);
    for request in [upgrade, upgrade, repeatable, repeatable, single, single] {
        let mut client = Client::connect(lab.address()).await;
        client.send(request).await;
        sent += 1;
        wait_for("it is there", async || lost.request_count() + other.request_count() == sent).await;
        clients.push(client);
    }
    assert_eq!((lost.request_count(), other.request_count()), (3, 3));
    lab.state.hosts[1].standing = Standing::HostDown;
    lab.apply().await;
    wait_for("one is sent again", async || other.request_count() == 4).await;
    lab.wait_for_counter("backend_failed", 1).await;
    assert_eq!(lab.counter("host_lost").await, 2);
    for stream in &mut clients[..2] {
        assert_eq!(stream.answer().await.unwrap().status, 101);
        stream.send("still here").await;
        assert_eq!(stream.read(10).await, b"still here");
    }
}

#[tokio::test]
async fn an_instance_that_cannot_be_reached_costs_no_request_and_is_left_out() {
    let (one, mut two) = (Backend::http1("one").await, Backend::http1("two").await);
    let mut lab = Lab::start(&[(&one, "blue"), (&two, "blue")]).await;
    lab.service().ejection = Ejection { failures: 2, duration: Duration::from_secs(60), max_percent: 50 };
    lab.apply().await;
    two.kill().await;
    let mut client = Client::connect(lab.address()).await;
    for _ in 0..20 {
        assert_eq!(client.get("/").await.body, "one");
    }
    assert_eq!(lab.counter("ejections").await, 1);
    assert_eq!(lab.counter("retries").await, 2);
    let status = lab.status().await;
    assert_eq!(status.services[0].backends[1].state, "left out for a while: it failed its clients");
}

#[tokio::test]
async fn a_request_that_may_have_been_done_is_not_sent_again() {
    // A backend that takes requests and hangs up.
    let socket = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let rude = tokio::spawn(async move {
        let mut seen = 0;
        while seen < 2 {
            let (mut stream, _) = socket.accept().await.unwrap();
            let mut bytes = [0; 4096];
            seen += usize::from(stream.read(&mut bytes).await.unwrap() > 0);
        }
    });
    let good = Backend::http1("good").await;
    let mut lab = Lab::start(&[(&good, "blue")]).await;
    let mut bad = instance(&good, "blue");
    (bad.id, bad.port) = ("bad".into(), address.port());
    lab.state.instances.insert(0, bad);
    lab.service().ejection.failures = 0;
    lab.apply().await;
    let mut statuses = Vec::new();
    for _ in 0..2 {
        let mut client = Client::connect(lab.address()).await;
        client.send("POST / HTTP/1.1\r\nHost: web\r\nContent-Length: 2\r\n\r\nhi").await;
        statuses.push(client.answer().await.unwrap().status);
    }
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 502]);
    // A GET is, and its client never knows.
    for _ in 0..2 {
        assert_eq!(lab.get("/").await, "good");
    }
    rude.await.unwrap();
}

#[tokio::test]
async fn who_takes_too_long_is_given_up_and_a_slow_upload_is_not() {
    let backend = Backend::http1("one").await;
    let mut lab = Lab::start(&[(&backend, "blue")]).await;
    lab.service().timeouts.response = Duration::from_millis(200);
    lab.service().retries = 0;
    lab.apply().await;
    let mut client = Client::connect(lab.address()).await;
    let answer = client.get("/slow/10000").await;
    assert_eq!((answer.status, answer.body.as_str()), (504, "web took too long to answer\n"));
    let mut client = Client::connect(lab.address()).await;
    client.send("POST /echo HTTP/1.1\r\nHost: web\r\nContent-Length: 8\r\n\r\n").await;
    for _ in 0..8 {
        tokio::time::sleep(Duration::from_millis(60)).await;
        client.send("x").await;
    }
    assert_eq!(client.answer().await.unwrap().body, "xxxxxxxx");
}

#[tokio::test]
async fn least_connections_goes_past_whoever_is_busy() {
    let (one, two) = (Backend::http1("one").await, Backend::http1("two").await);
    let mut lab = Lab::start(&[(&one, "blue"), (&two, "blue")]).await;
    lab.service().policy = Policy::LeastConnections;
    lab.apply().await;
    let mut waiting = Client::connect(lab.address()).await;
    waiting.send("GET /slow/1500 HTTP/1.1\r\nHost: web\r\n\r\n").await;
    wait_for("one is busy", async || one.request_count() + two.request_count() == 1).await;
    let idle = if one.request_count() == 1 { "two" } else { "one" };
    for _ in 0..4 {
        assert_eq!(lab.get("/").await, idle);
    }
}

#[tokio::test]
async fn weights_share_requests_and_a_change_counts_at_once() {
    let (one, two) = (Backend::http1("one").await, Backend::http1("two").await);
    let mut lab = Lab::start(&[(&one, "blue"), (&two, "blue")]).await;
    let mut client = Client::connect(lab.address()).await;
    for (weights, due) in [([3, 1], 30), ([1, 4], 8), ([9, 9], 20)] {
        for (instance, weight) in lab.state.instances.iter_mut().zip(weights) {
            instance.weight = weight;
        }
        lab.apply().await;
        let mut count = 0_u32;
        for _ in 0..40 {
            count += u32::from(client.get("/").await.body == "one");
        }
        assert!(count.abs_diff(due) <= 2, "{weights:?}: {count}");
        let status = lab.status().await;
        let told: Vec<u16> = status.services[0].backends.iter().map(|backend| backend.weight).collect();
        assert_eq!(told, weights);
    }
}

#[tokio::test]
async fn clients_stay_with_their_instance_by_cookie_and_by_header() {
    let backends = [Backend::http1("one").await, Backend::http1("two").await, Backend::http1("three").await];
    let mut lab = Lab::start(&[(&backends[0], "blue"), (&backends[1], "blue"), (&backends[2], "blue")]).await;
    lab.service().sticky = Some(Sticky::Cookie("route".into()));
    lab.apply().await;
    let mut client = Client::connect(lab.address()).await;
    let first = client.get("/").await;
    let cookie = first.header("set-cookie").unwrap().split(';').next().unwrap().to_owned();
    for _ in 0..6 {
        client.send(format!("GET / HTTP/1.1\r\nHost: web\r\nCookie: a=b; {cookie}\r\n\r\n")).await;
        let answer = client.answer().await.unwrap();
        assert_eq!((answer.body.as_str(), answer.header("set-cookie")), (first.body.as_str(), None));
    }
    // Its instance is gone: another one, and another cookie.
    lab.state.instances.retain(|instance| instance.id != first.body);
    lab.apply().await;
    client.send(format!("GET / HTTP/1.1\r\nHost: web\r\nCookie: {cookie}\r\n\r\n")).await;
    let moved = client.answer().await.unwrap();
    assert!(moved.body != first.body && moved.header("set-cookie").is_some());

    lab.service().sticky = Some(Sticky::Header("x-user".into()));
    lab.apply().await;
    let mut seen = std::collections::BTreeSet::new();
    for user in 0..20 {
        let mut names = Vec::new();
        for _ in 0..3 {
            client.send(format!("GET / HTTP/1.1\r\nHost: web\r\nX-User: {user}\r\n\r\n")).await;
            names.push(client.answer().await.unwrap().body);
        }
        assert!(names.iter().all(|name| *name == names[0]));
        seen.insert(names.remove(0));
    }
    assert_eq!(seen.len(), 2);
}

#[tokio::test]
async fn an_upgraded_connection_carries_bytes_and_is_counted_while_it_lives() {
    let backend = Backend::http1("one").await;
    let mut lab = Lab::start(&[(&backend, "blue")]).await;
    // With a length: as `docker exec` and `kubectl exec` ask.
    for length in ["", "Content-Length: 0\r\n", "Content-Length: 2\r\n"] {
        let mut client = Client::connect(lab.address()).await;
        let body = if length.contains('2') { "{}" } else { "" };
        let head = "POST /upgrade HTTP/1.1\r\nHost: web\r\nConnection: upgrade\r\nUpgrade: echo\r\n";
        client.send(format!("{head}{length}\r\n{body}")).await;
        let answer = client.answer().await.unwrap();
        assert_eq!(
            (answer.status, answer.header("upgrade"), answer.header("connection")),
            (101, Some("echo"), Some("upgrade"))
        );
        // Bytes that no HTTP has.
        for bytes in [b"\0\r\n\nGET".as_slice(), b"\n\n\n"] {
            client.send(bytes).await;
            assert_eq!(client.read(bytes.len()).await, bytes, "{length:?}");
        }
        lab.wait_for_report(|report| report.services[0].colours.iter().any(|colour| colour.streams == 1)).await;
        client.stream.shutdown().await.unwrap();
        lab.wait_for_report(|report| report.services[0].colours.iter().all(|colour| colour.streams == 0)).await;
    }
}

#[tokio::test]
async fn a_client_that_has_rested_is_served_as_before() {
    let backend = Backend::http1("one").await;
    let lab = Lab::start(&[(&backend, "blue")]).await;
    let mut client = Client::connect(lab.address()).await;
    assert_eq!(client.get("/").await.body, "one");
    lab.wait_for_counter("rests", 1).await;
    assert_eq!(client.get("/").await.body, "one");
    lab.wait_for_counter("rests", 2).await;
    // More than is read at once, and two requests.
    let body = "b".repeat(5000);
    client.send(format!("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5000\r\n\r\n{body}")).await;
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(client.answer().await.unwrap().body, body);
    assert_eq!(client.answer().await.unwrap().body, "one");
    lab.wait_for_counter("rests", 3).await;
    client.send("GET / HTTP/1.1\nHost: a\n\n").await;
    assert_eq!(client.answer().await.unwrap().status, 400);
}

#[tokio::test]
async fn new_rules_keep_the_connections_that_are_there() {
    let backend = Backend::http1("one").await;
    let mut lab = Lab::start(&[(&backend, "blue")]).await;
    let mut client = Client::connect(lab.address()).await;
    client.get("/").await;
    lab.listener().routes = vec![weaved_api::balancer::Route { path: Some("/only".into()), ..route("web") }];
    lab.state.balancer.listeners.push(listener(weaved_api::balancer::ListenerProtocol::Http));
    lab.apply().await;
    assert_eq!(client.get("/").await.status, 404);
    assert_eq!(client.get("/only").await.body, "one");
    // A listener that goes away ends its connections between two requests.
    let second = lab.state.balancer.listeners[1].address;
    lab.state.balancer.listeners.remove(0);
    lab.apply().await;
    let last = client.get("/only").await;
    assert_eq!((last.body.as_str(), last.header("connection")), ("one", Some("close")));
    assert!(client.is_closed().await);
    assert_eq!(Client::connect(second).await.get("/").await.body, "one");
}

#[tokio::test]
async fn each_request_is_a_line_in_the_access_log() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("access.log");
    let backend = Backend::http1("one").await;
    let mut lab = Lab::start(&[(&backend, "blue")]).await;
    lab.listener().access_log = Some(AccessLog { path: path.clone(), format: LogFormat::Json });
    lab.apply().await;
    let mut client = Client::connect(lab.address()).await;
    client.get("/big/1000?a").await;
    client.send("GET / HTTP/1.1\r\n\r\n").await;
    assert_eq!(client.answer().await.unwrap().status, 400);
    let mut leaving = Client::connect(lab.address()).await;
    leaving.send("GET /slow/600000 HTTP/1.1\r\nHost: web\r\n\r\n").await;
    wait_for("it waits", async || backend.request_count() == 2).await;
    drop(leaving);
    let count = || std::fs::read_to_string(&path).map_or(0, |text| text.lines().count());
    wait_for("three lines", async || count() == 3).await;
    let text = std::fs::read_to_string(&path).unwrap();
    let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let served = lines.iter().find(|line| line["status"] == 200).unwrap();
    assert_eq!(
        (&served["target"], &served["bytes"], &served["backend"]),
        (&"/big/1000?a".into(), &1000.into(), &"a/one".into())
    );
    assert!(lines.iter().any(|line| line["status"] == 400));
    let left = lines.iter().find(|line| line["status"] == 499).unwrap();
    assert_eq!((&left["target"], &left["service"], &left["bytes"]), (&"/slow/600000".into(), &"web".into(), &0.into()));
}

#[tokio::test]
async fn an_answer_of_which_all_has_come_is_not_broken_though_its_end_comes_later() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("access.log");
    let backend = Backend::http2("one").await;
    let mut lab = Lab::start(&[(&backend, "blue")]).await;
    lab.service().http2_backends = true;
    lab.listener().access_log = Some(AccessLog { path: path.clone(), format: LogFormat::Json });
    lab.apply().await;
    assert_eq!(lab.get("/late/word").await, "word");
    let text = || std::fs::read_to_string(&path).unwrap();
    wait_for("its line", async || text().lines().count() == 1).await;
    assert!(text().contains("\"broken\":false"), "{}", text());
}

//! From one colour to the other: at an instant, without a failure, and without a request to the old one behind it.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use http_body_util::{BodyExt, Full};
use hyper::{Request, body::Bytes, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use weaved_api::balancer::{BalancerReport, LONG_WAIT, ListenerProtocol, Prepare, Route, SwitchState};

use crate::lab::{Backend, Client, Lab, SOON, listener, route, share, wait_for};

fn now_us() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros() as u64
}

fn live(revision: u64, colour: &str, before: &str, at_us: u64) -> SwitchState {
    let before = if before.is_empty() { vec![] } else { vec![share(before, 1)] };
    let drain = Duration::from_secs(30);
    SwitchState { revision, live: vec![share(colour, 1)], before, at_us, prepare: None, drain, stream_drain: None }
}

#[tokio::test]
async fn a_thousand_requests_during_a_switch_all_succeed_and_none_sees_the_old_colour_behind_the_report() {
    let (blue, green) = (Backend::http1("blue").await, Backend::http1("green").await);
    let mut lab = Lab::start(&[(&blue, "blue"), (&green, "green")]).await;
    lab.service().switch = live(1, "blue", "", 1);
    lab.apply().await;
    let (address, mut reports) = (lab.address(), lab.reports.clone());
    let load = tokio::spawn(async move {
        let mut clients = Vec::new();
        for _ in 0..8 {
            clients.push(Client::connect(address).await);
        }
        let mut late_blue = 0;
        let (mut blue, mut green) = (0, 0);
        while blue + green < 1000 || green < 100 {
            for client in &mut clients {
                let has_switched = reports.borrow_and_update().services[0].revision == 2;
                let answer = client.get("/").await;
                assert_eq!(answer.status, 200);
                match answer.body.as_str() {
                    "blue" => {
                        blue += 1;
                        late_blue += usize::from(has_switched);
                    }
                    _ => green += 1,
                }
            }
        }
        (blue, green, late_blue)
    });
    wait_for("traffic", async || blue.request_count() > 200).await;
    let at_us = now_us() + 100_000;
    lab.service().switch = live(2, "green", "blue", at_us);
    lab.apply().await;
    let report = lab.wait_for_report(|report| report.services[0].revision == 2).await;
    assert!(report.services[0].switched_at_us >= at_us);
    let (blue_count, green_count, late_blue) = load.await.unwrap();
    assert!(blue_count >= 200 && green_count >= 100 && late_blue == 0, "{blue_count} {green_count} {late_blue}");
    // Idle connections to the old colour are closed; nothing else of it is touched.
    assert_eq!(lab.counter("backend_failed").await, 0);
}

#[tokio::test]
async fn the_instant_is_reached_without_a_request() {
    let blue = Backend::http1("blue").await;
    let mut lab = Lab::start(&[(&blue, "blue")]).await;
    let at_us = now_us() + 50_000;
    lab.service().switch = live(5, "blue", "", at_us);
    lab.apply().await;
    let report = lab.wait_for_report(|report| report.services[0].revision == 5).await;
    assert!(report.services[0].switched_at_us >= at_us);
}

#[tokio::test]
async fn a_preparation_connects_to_every_instance_and_says_how_many_are_warm() {
    let (blue, green, mut dead) =
        (Backend::http1("blue").await, Backend::http1("green").await, Backend::http1("dead").await);
    dead.kill().await;
    let mut lab = Lab::start(&[(&blue, "blue"), (&green, "green"), (&dead, "green")]).await;
    lab.service().switch = live(1, "blue", "", 1);
    lab.service().switch.prepare = Some(Prepare { attempt: 7, colour: "green".into() });
    lab.apply().await;
    let is_settled = |report: &weaved_api::balancer::BalancerReport| {
        report.services[0].prepared.as_ref().is_some_and(|prepared| prepared.is_settled)
    };
    let report = lab.wait_for_report(is_settled).await;
    let prepared = report.services[0].prepared.clone().unwrap();
    assert_eq!((prepared.attempt, prepared.healthy, prepared.warm), (7, 2, 1));
    assert_eq!(green.request_count(), 0);
    // The first requests after the switch take the connections that are there.
    wait_for("each thread is warm", async || green.connection_count() == 2).await;
    lab.service().switch = live(2, "green", "blue", 1);
    lab.state.instances.retain(|instance| instance.id != "dead");
    lab.apply().await;
    assert_eq!(lab.get("/").await, "green");
    assert_eq!(green.connection_count(), 2);
    // A colour that nobody has is settled with nobody.
    lab.service().switch.prepare = Some(Prepare { attempt: 8, colour: "red".into() });
    lab.apply().await;
    let report = lab
        .wait_for_report(|report| report.services[0].prepared.as_ref().is_some_and(|prepared| prepared.attempt == 8));
    let prepared = report.await.services[0].prepared.clone().unwrap();
    assert_eq!((prepared.healthy, prepared.is_settled), (0, true));
}

#[tokio::test]
async fn a_colour_without_instances_is_told_and_never_replaced_by_the_other() {
    let blue = Backend::http1("blue").await;
    let mut lab = Lab::start(&[(&blue, "blue")]).await;
    lab.service().switch = live(1, "green", "blue", 1);
    let preview = Route { host: Some("green.web".into()), colour: Some("green".into()), ..route("web") };
    lab.listener().routes = vec![preview, route("web")];
    lab.apply().await;
    let mut client = Client::connect(lab.address()).await;
    let answer = client.get("/").await;
    assert_eq!((answer.status, answer.body.as_str()), (503, "no instance of web in green takes traffic\n"));
    assert_eq!((blue.request_count(), lab.counter("no_backend").await), (0, 1));
    // Who watches the switch hears of it; a preview that finds nobody is nothing to watch.
    assert_eq!(lab.counts("green").await, (1, 1));
    client.send("GET / HTTP/1.1\r\nHost: green.web\r\n\r\n").await;
    assert_eq!(client.answer().await.unwrap().status, 503);
    assert_eq!(lab.counts("green").await, (1, 1));
    // The same for streams.
    lab.state.balancer.listeners[0] = listener(ListenerProtocol::Tcp);
    lab.apply().await;
    assert!(Client::connect(lab.address()).await.is_closed().await);
    assert_eq!(lab.counts("green").await, (2, 2));
}

#[tokio::test]
async fn a_failure_is_its_colours_when_nobody_else_is_left_and_when_the_other_colour_answers() {
    let (blue, mut green) = (Backend::http1("blue").await, Backend::http1("green").await);
    green.kill().await;
    let mut lab = Lab::start(&[(&blue, "blue"), (&green, "green")]).await;
    lab.service().switch = live(1, "green", "blue", 1);
    lab.apply().await;
    let mut client = Client::connect(lab.address()).await;
    assert_eq!(client.get("/").await.status, 502);
    assert_eq!((lab.counts("green").await, lab.counter("retries").await), ((1, 1), 0));
    // A canary that no request survives: each that begins there is its failure, whoever answers in the end.
    lab.service().switch = SwitchState { live: vec![share("blue", 1), share("green", 1)], ..live(2, "", "", 1) };
    lab.apply().await;
    let mut answered = 0;
    for _ in 0..100 {
        answered += u64::from(client.get("/").await.status == 200);
    }
    let (requests, failures) = lab.counts("green").await;
    assert_eq!((requests, lab.counts("blue").await), (failures, (answered, 0)));
    // Six standard deviations of a fair draw.
    assert!((20..=80).contains(&failures), "{failures}");
}

/// As long as the bound is, which is no operator's choice.
#[tokio::test]
async fn who_waits_for_long_is_reported_while_it_waits_also_when_it_is_sent_again_and_is_one_failure_in_the_end() {
    let (blue, green) = (Backend::http1("blue").await, Backend::http1("green").await);
    let mut lab = Lab::start(&[(&blue, "green"), (&green, "green")]).await;
    let silent = [0; 2].map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap());
    for (instance, silent) in lab.state.instances.iter_mut().zip(&silent) {
        instance.port = silent.local_addr().unwrap().port();
    }
    lab.service().timeouts.response = LONG_WAIT + Duration::from_secs(3);
    lab.service().switch = live(1, "green", "", 1);
    lab.apply().await;
    let (mut once, mut twice) = (Client::connect(lab.address()).await, Client::connect(lab.address()).await);
    once.send("POST / HTTP/1.1\r\nHost: web\r\nContent-Length: 0\r\n\r\n").await;
    twice.send("GET / HTTP/1.1\r\nHost: web\r\n\r\n").await;
    let waiting = |report: &BalancerReport| report.services[0].colours.iter().map(|colour| colour.waiting).sum::<u64>();
    lab.wait_for_report(|report| waiting(report) == 2).await;
    assert_eq!(lab.counts("green").await, (0, 0));
    assert_eq!(once.answer().await.unwrap().status, 504);
    lab.wait_for_counter("retries", 1).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    let now = lab.status().await.services[0].colours.iter().map(|colour| colour.waiting).sum::<u64>();
    assert_eq!((now, lab.counts("green").await), (1, (1, 1)), "what is sent again does not begin to wait anew");
    drop(twice);
    lab.wait_for_report(|report| waiting(report) == 0).await;
    assert_eq!(lab.counts("green").await, (1, 1));
}

#[tokio::test]
async fn a_request_that_is_sent_again_after_the_switch_goes_to_the_new_colour() {
    let (blue, green) = (Backend::http1("blue").await, Backend::http1("green").await);
    let mut lab = Lab::start(&[(&blue, "blue"), (&green, "green")]).await;
    // One that takes connections and never answers.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    lab.state.instances[0].port = silent.local_addr().unwrap().port();
    lab.service().timeouts.response = Duration::from_secs(2);
    lab.service().switch = live(1, "blue", "", 1);
    lab.apply().await;
    let mut client = Client::connect(lab.address()).await;
    client.send("GET / HTTP/1.1\r\nHost: web\r\n\r\n").await;
    lab.wait_for_counter("backend_connections", 1).await;
    lab.service().switch = live(2, "green", "blue", 1);
    lab.apply().await;
    let answer = client.answer().await.unwrap();
    assert_eq!((answer.status, answer.body.as_str()), (200, "green"));
    assert_eq!((lab.counts("blue").await, lab.counts("green").await), ((1, 1), (1, 0)));
}

#[tokio::test]
async fn a_preview_reaches_the_idle_colour_by_host_and_by_header() {
    let (blue, green) = (Backend::http1("blue").await, Backend::http1("green").await);
    let mut lab = Lab::start(&[(&blue, "blue"), (&green, "green")]).await;
    lab.service().switch = live(1, "blue", "", 1);
    let preview = Route { host: Some("green.web".into()), colour: Some("green".into()), ..route("web") };
    lab.listener().routes = vec![preview, Route { colour_header: Some("x-colour".into()), ..route("web") }];
    lab.apply().await;
    let mut client = Client::connect(lab.address()).await;
    for (headers, expected) in
        [("Host: web", "blue"), ("Host: green.web", "green"), ("Host: web\r\nX-Colour: green", "green")]
    {
        client.send(format!("GET / HTTP/1.1\r\n{headers}\r\n\r\n")).await;
        assert_eq!(client.answer().await.unwrap().body, expected, "{headers}");
    }
}

#[tokio::test]
async fn weights_send_a_share_to_the_canary() {
    let (blue, green) = (Backend::http1("blue").await, Backend::http1("green").await);
    let mut lab = Lab::start(&[(&blue, "blue"), (&green, "green")]).await;
    lab.service().switch = SwitchState { live: vec![share("blue", 80), share("green", 20)], ..live(1, "blue", "", 1) };
    lab.apply().await;
    let mut client = Client::connect(lab.address()).await;
    for _ in 0..1000 {
        client.get("/").await;
    }
    // Six standard deviations of a fair draw.
    assert!((124..276).contains(&green.request_count()), "{}", green.request_count());
}

#[tokio::test]
async fn what_is_in_flight_at_the_switch_ends_in_peace_and_only_the_drain_ends_what_does_not() {
    let (blue, green) = (Backend::http1("blue").await, Backend::http1("green").await);
    let mut lab = Lab::start(&[(&blue, "blue"), (&green, "green")]).await;
    lab.service().switch = live(1, "blue", "", 1);
    lab.listener().routes = vec![Route { colour_header: Some("x-colour".into()), ..route("web") }];
    lab.apply().await;
    let mut slow = Client::connect(lab.address()).await;
    slow.send("GET /slow/300 HTTP/1.1\r\nHost: web\r\n\r\n").await;
    let mut endless = Client::connect(lab.address()).await;
    // It must not be sent twice.
    endless.send("POST /slow/600000 HTTP/1.1\r\nHost: web\r\nContent-Length: 1\r\n\r\nx").await;
    let mut stream = Client::connect(lab.address()).await;
    stream.send("GET /upgrade HTTP/1.1\r\nHost: web\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n").await;
    assert_eq!(stream.answer().await.unwrap().status, 101);
    wait_for("both are in flight", async || blue.request_count() == 3).await;
    lab.service().switch = SwitchState { drain: Duration::from_secs(2), ..live(2, "green", "blue", 1) };
    lab.apply().await;
    assert_eq!(slow.answer().await.unwrap().body, "blue");
    assert_eq!(slow.get("/").await.body, "green");
    // One that looks at the idle colour is none of the drain's.
    let mut preview = Client::connect(lab.address()).await;
    preview.send("GET /slow/3000 HTTP/1.1\r\nHost: web\r\nX-Colour: blue\r\n\r\n").await;
    let cut = endless.answer().await.unwrap();
    assert_eq!(cut.status, 502);
    assert_eq!(preview.answer().await.unwrap().body, "blue");
    assert!(lab.counter("drain_cut").await >= 1);
    // Streams are not cut unless somebody says so.
    stream.send("still here").await;
    assert_eq!(stream.read(10).await, b"still here");
    lab.service().switch.revision = 3;
    lab.service().switch.stream_drain = Some(Duration::from_millis(1));
    lab.apply().await;
    assert!(stream.is_closed().await);
}

#[tokio::test]
async fn an_answer_that_flows_when_the_requests_had_their_time_is_a_stream_and_has_the_time_of_streams() {
    let (blue, green) = (Backend::http1("blue").await, Backend::http1("green").await);
    let mut lab = Lab::start(&[(&blue, "blue"), (&green, "green")]).await;
    lab.service().switch = live(1, "blue", "", 1);
    lab.apply().await;
    let mut flowing = Vec::new();
    for path in ["/events", "/events/plain"] {
        let mut client = Client::connect(lab.address()).await;
        client.send(format!("GET {path} HTTP/1.1\r\nHost: web\r\n\r\n")).await;
        client.wait_for_text("data: 0").await;
        flowing.push(client);
    }
    // Events are known to have no end; the other one may be a download.
    let status = lab.status().await;
    let counted = status.services[0].colours.iter().find(|counted| counted.colour == "blue").unwrap();
    assert_eq!((counted.streams, counted.in_flight), (1, 1));
    let mut waiting = Client::connect(lab.address()).await;
    waiting.send("POST /slow/600000 HTTP/1.1\r\nHost: web\r\nContent-Length: 1\r\n\r\nx").await;
    wait_for("it waits", async || blue.request_count() == 3).await;
    lab.service().switch = SwitchState { drain: Duration::from_millis(100), ..live(2, "green", "blue", 1) };
    lab.apply().await;
    assert_eq!(waiting.answer().await.unwrap().status, 502);
    tokio::time::sleep(Duration::from_millis(300)).await;
    for client in &mut flowing {
        client.forget();
        client.wait_for_text("data: ").await;
    }
    assert_eq!(lab.counter("drain_cut").await, 1);
    lab.service().switch.revision = 3;
    lab.service().switch.stream_drain = Some(Duration::from_millis(100));
    lab.apply().await;
    for client in &mut flowing {
        client.wait_for_end().await;
    }
    assert_eq!(lab.counter("drain_cut").await, 3);
}

#[tokio::test]
async fn of_several_requests_on_one_connection_to_a_backend_the_drain_ends_those_that_wait() {
    let (blue, green) = (Backend::http2("blue").await, Backend::http2("green").await);
    let mut lab = Lab::start(&[(&blue, "blue"), (&green, "green")]).await;
    lab.service().http2_backends = true;
    lab.service().switch = live(1, "blue", "", 1);
    lab.apply().await;
    let stream = TcpStream::connect(lab.address()).await.unwrap();
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = |method: &str, path: &str| {
        let request = Request::builder().method(method).uri(format!("http://web{path}"));
        request.body(Full::<Bytes>::default()).unwrap()
    };
    let mut events = sender.send_request(request("GET", "/events")).await.unwrap().into_body();
    events.frame().await.unwrap().unwrap();
    let waiting = tokio::spawn(sender.send_request(request("POST", "/slow/600000")));
    wait_for("both are there", async || blue.request_count() == 2).await;
    assert_eq!(blue.connection_count(), 1);
    lab.service().switch = SwitchState { drain: Duration::from_millis(100), ..live(2, "green", "blue", 1) };
    lab.apply().await;
    assert_eq!(waiting.await.unwrap().unwrap().status(), 502);
    let cut = Instant::now();
    while cut.elapsed() < Duration::from_millis(300) {
        events.frame().await.unwrap().unwrap();
    }
    lab.service().switch.revision = 3;
    lab.service().switch.stream_drain = Some(Duration::from_millis(100));
    lab.apply().await;
    let end = async { while events.frame().await.is_some_and(|frame| frame.is_ok()) {} };
    tokio::time::timeout(SOON, end).await.expect("the end in time");
}

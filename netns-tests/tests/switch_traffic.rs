//! Nobody notices a switch: clients on three hosts ask through three balancers while the service is switched again and again.

use std::{fs, path::Path, sync::Arc, time::Duration};

use serde_json::Value;
use weaved_netns_tests::{Host, Lab, Place, Process, SOON, ledger::Ledger, shop::now_us, traffic, wait_until};

const SWITCHES: usize = 8;
/// A backend that fails whatever it is asked.
const SICK: &str = "
import http.server
class Sick(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    def do_GET(self):
        self.rfile.read(int(self.headers.get('Content-Length') or 0))
        self.send_response(500)
        self.send_header('Content-Length', '4')
        self.end_headers()
        self.wfile.write(b'sick')
    do_POST = do_GET
    def log_message(self, *args):
        pass
http.server.ThreadingHTTPServer(('0.0.0.0', 9003), Sick).serve_forever()
";

/// Three hosts; blue and green on each of them, a balancer on each of them.
fn stage(lab: &mut Lab) -> ([Arc<Host>; 3], Vec<Process>) {
    let hosts = [lab.host("a"), lab.host("b"), lab.host("c")];
    lab.launch_cluster(&[&hosts[0], &hosts[1], &hosts[2]]);
    let mut servers = Vec::new();
    for host in &hosts {
        for (port, colour) in [("9001", "blue"), ("9002", "green")] {
            servers.push(traffic::serve(&**host, &["web-serve", port, colour]));
            register(host, colour, port);
        }
        let file = host.weaved().state_dir().join("balancer.toml");
        fs::write(&file, "[[listen]]\naddress = \"127.0.0.1:8080\"\nservice = \"web\"\n").expect("the file is written");
    }
    for host in &hosts {
        wait_until("all instances are seen", SOON, || {
            let listed = host.weaved().run(&["services", "web", "--json"]).stdout;
            listed.matches("\"passing\": true").count() == 6
        });
        wait_until("the balancer answers", SOON, || ask(host) != "-");
    }
    (hosts, servers)
}

fn register(host: &Host, colour: &str, port: &str) {
    let address = host.ipv4().to_string();
    let args = ["service", "register", "web", "--id", colour, "--port", port, "--tag", colour, "--address", &address];
    host.weaved().run(&args).ok();
}

/// The colour that answers on a host, or `-`.
fn ask(host: &Host) -> String {
    let said = host.run(&["curl", "--silent", "--fail", "--max-time", "5", "http://127.0.0.1:8080/"]).stdout;
    said.split(' ').next().filter(|colour| !colour.is_empty()).unwrap_or("-").to_owned()
}

#[test]
fn no_request_fails_and_none_is_answered_by_a_colour_that_is_not_live_any_more() {
    let Some(mut lab) = Lab::open("traffic") else { return };
    let (hosts, _servers) = stage(&mut lab);
    hosts[0].weaved().run(&["switch", "web", "blue"]).ok();
    let files: Vec<String> = (0..3).map(|n| lab.dir().join(format!("load-{n}")).display().to_string()).collect();
    let loads: Vec<Process> = hosts
        .iter()
        .zip(&files)
        .map(|(host, file)| {
            host.spawn_labtool(&["web-load", "127.0.0.1", "8080", "web", "4", "1000000", "20000", file])
        })
        .collect();
    // When each colour was acknowledged, and until when nothing else was ordered.
    let mut periods = Vec::new();
    for number in 0..SWITCHES {
        std::thread::sleep(Duration::from_millis(500));
        let colour = ["green", "blue"][number % 2];
        hosts[number % 3].weaved().run(&["switch", "web", colour]).ok();
        let acknowledged_us = now_us();
        std::thread::sleep(Duration::from_millis(500));
        periods.push((acknowledged_us, now_us(), colour));
    }
    for load in loads {
        load.finish(Duration::from_secs(60)).ok();
    }
    let mut ledger = Ledger::default();
    files.iter().for_each(|file| ledger.read(Path::new(file)));
    let (asked, failed) = (&ledger.requests, ledger.failed());
    assert!(asked.len() > 1000, "only {} requests", asked.len());
    assert!(failed.is_empty(), "{} of {} requests failed: {:?}", failed.len(), asked.len(), failed.first());
    let mut judged = 0;
    for (from_us, until_us, colour) in periods {
        for asked in asked.iter().filter(|asked| (from_us..until_us).contains(&asked.began_us)) {
            judged += 1;
            assert_eq!(asked.colour, colour, "asked {} us after the acknowledgement", asked.began_us - from_us);
        }
    }
    assert!(judged > 100, "only {judged} requests were asked after an acknowledgement");
    let record: Value =
        serde_json::from_str(&hosts[1].weaved().run(&["history", "web", "--json"]).ok().stdout).unwrap();
    let entries = record["history"].as_array().expect("there is a history");
    let spreads: Vec<_> = entries.iter().map(|entry| entry["figures"]["spread_us"].as_u64()).collect();
    println!("{} requests, {judged} of them judged; spreads in us: {spreads:?}", asked.len());
    let all_took_part = |entry: &Value| entry["figures"]["hosts"] == 3 && entry["figures"]["missing"].is_null();
    assert!(entries.iter().all(all_took_part), "{record:#}");
}

#[test]
fn a_version_that_turns_out_to_be_sick_is_taken_back_by_itself() {
    let Some(mut lab) = Lab::open("rescue") else { return };
    let (hosts, _servers) = stage(&mut lab);
    let _sick = hosts[0].spawn(&["python3", "-c", SICK]);
    register(&hosts[0], "red", "9003");
    let [a, b, c] = &hosts;
    a.weaved().run(&["switch", "web", "blue"]).ok();
    wait_until("the sick version is seen", SOON, || b.weaved().run(&["switch", "web", "red", "--dry-run"]).success());
    let watched = ["switch", "web", "red", "--rollback-on", "errors=5%", "--min-requests", "20", "--watch", "60s"];
    b.weaved().run(&watched).ok();
    wait_until("it goes back by itself", SOON, || {
        for host in &hosts {
            host.run(&["curl", "--silent", "--max-time", "5", "http://127.0.0.1:8080/?[1-10]"]);
        }
        hosts.iter().all(|host| ask(host) == "blue")
    });
    let history = c.weaved().run(&["history", "web"]).ok().stdout;
    assert!(history.contains("requests failed") && history.contains("automatic rollback"), "{history}");
}

#[test]
fn a_host_that_was_away_serves_what_was_decided_meanwhile_and_never_what_was_before() {
    let Some(mut lab) = Lab::open("away") else { return };
    let (hosts, _servers) = stage(&mut lab);
    let [a, b, c] = &hosts;
    a.weaved().run(&["switch", "web", "blue"]).ok();
    // As a loss of power: it is back with what it knew, and must not serve it. The run directory would be empty.
    let parts = weaved_netns_tests::Part::ALL;
    for part in parts {
        c.weaved().kill9(part);
    }
    fs::remove_file(c.weaved().run_dir().join("gateway.state")).expect("the gateway has kept its state");
    wait_until("the others go on without it", SOON, || a.weaved().run(&["switch", "web", "green"]).success());
    c.weaved().launch(&[]);
    let mut answers = Vec::new();
    wait_until("its balancer is back", SOON, || {
        answers.push(ask(c));
        answers.last().is_some_and(|colour| colour == "green")
    });
    assert!(answers.iter().all(|colour| colour != "blue"), "it has served what was live before: {answers:?}");
    assert_eq!((ask(a), ask(b)), ("green".into(), "green".into()));
}

//! Services of containers, files and the operator, as one host lists them.

use std::{collections::BTreeSet, fs, path::Path, time::Duration};

use serde_json::Value;
use weaved_netns_tests::{Dockerd, Host, Lab, Part, Place, SOON, wait_for, wait_until};

/// The instances of this host as `weaved service ls --json` has them; empty while it does not answer.
fn instances(host: &Host) -> Vec<Value> {
    let output = host.weaved().run(&["service", "ls", "--json"]);
    let view: Value = serde_json::from_str(&output.stdout).unwrap_or_default();
    view["instances"].as_array().cloned().unwrap_or_default()
}

fn ids(host: &Host) -> BTreeSet<String> {
    instances(host).iter().filter_map(|instance| instance["id"].as_str()).map(str::to_owned).collect()
}

/// Waits until there is an instance with this id that is so.
#[track_caller]
fn wait_for_instance(host: &Host, id: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    let find = || instances(host).into_iter().find(|instance| instance["id"] == id).filter(|instance| is_so(instance));
    wait_for(&format!("instance {id} is as it should be: {:?}", find()), SOON, find)
}

#[track_caller]
fn wait_until_gone(host: &Host, id: &str) {
    wait_until(&format!("instance {id} is gone"), SOON, || !ids(host).contains(id));
}

fn health(instance: &Value) -> Vec<&str> {
    let checks = instance["checks"].as_array().map(Vec::as_slice).unwrap_or_default();
    checks.iter().filter_map(|check| check["health"].as_str()).collect()
}

#[test]
fn containers_of_docker_run_and_of_compose_register_drain_and_leave() {
    let Some(mut lab) = Lab::open("reg") else { return };
    let host = lab.host("alpha");
    host.weaved().launch(&[]);
    let docker = host.start_weave_docker();

    let options = ["--expose", "80", "-e", "SERVICE_80_NAME=apache-80", "-e", "SERVICE_TAGS=production,eu"];
    let check = ["-e", "SERVICE_CHECK_HTTP=/busybox", "-e", "SERVICE_CHECK_INTERVAL=200ms"];
    // It answers its signal late, so that there is time to see it drain.
    let command = "trap 'sleep 3; exit' TERM; httpd -f -p 80 -h /bin & while :; do sleep 0.1; done";
    let web = docker.run_container("web", &[&options[..], &check].concat(), &["sh", "-c", command]);
    let instance = wait_for_instance(&host, "alpha:web:80", |instance| health(instance) == ["passing"]);
    assert_eq!(instance["service"], "apache-80");
    assert_eq!(instance["address"], web.address().to_string());
    assert_eq!(instance["tags"], serde_json::json!(["production", "eu"]));
    assert_eq!(instance["drain"], "serving");

    let stop = host.spawn(&["docker", "-H", &docker.docker_host(), "stop", "web"]);
    wait_for_instance(&host, "alpha:web:80", |instance| instance["drain"] == "draining");
    wait_until_gone(&host, "alpha:web:80");
    stop.finish(SOON).ok();
    docker.docker(&["start", "web"]).ok();
    wait_for_instance(&host, "alpha:web:80", |instance| instance["drain"] == "serving");

    docker.run_container("in-vain", &[], &["sleep", "1000000"]);
    wait_until("what is ignored is told", SOON, || {
        host.weaved().run(&["service", "ls"]).ok().stderr.contains("in-vain: ignored: it exposes no port")
    });
    compose_scales_stops_and_takes_down(&lab, &host, &docker);
}

/// What docker-compose 1.29 is told for the stack of the README's predecessor: services by their names in the file, scaled.
const COMPOSE: &str = r#"
version: "3.8"
services:
  shop:
    image: lab
    network_mode: bridge
    command: httpd -f -p 80 -h /bin
    expose: ["80"]
    stop_grace_period: 1s
    environment: {SERVICE_TAGS: "blue,v1", SERVICE_OWNER: team}
  cart:
    image: lab
    network_mode: bridge
    command: sleep 1000000
    expose: ["80", "443"]
    stop_grace_period: 1s
    labels: {SERVICE_443_NAME: cart-tls}
"#;

fn compose_scales_stops_and_takes_down(lab: &Lab, host: &Host, docker: &Dockerd) {
    let file = lab.file("compose.yml", COMPOSE);
    let compose = |args: &[&str]| {
        let usual = ["docker-compose", "-H", &docker.docker_host(), "-f", &file, "-p", "stack"];
        host.run(&[&usual, args].concat()).ok();
    };
    // Names that the packaged 1.29 gives: PROJECT_SERVICE_NUMBER.
    let listed = || {
        let of_stack =
            instances(host).into_iter().filter(|each| each["id"].as_str().unwrap_or_default().contains("stack_"));
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let pair = |each: Value| text(&each["id"]) + " " + &text(&each["service"]);
        of_stack.map(pair).collect::<BTreeSet<_>>()
    };
    let cart = ["alpha:stack_cart_1:443 cart-tls", "alpha:stack_cart_1:80 cart-80"].map(str::to_owned);
    let shops = |count: usize| (1..=count).map(|number| format!("alpha:stack_shop_{number}:80 shop"));
    let expected = |count: usize| shops(count).chain(cart.iter().cloned()).collect::<BTreeSet<_>>();
    compose(&["up", "-d", "--scale", "shop=3"]);
    wait_until("compose's services are there", SOON, || listed() == expected(3));
    let shop = wait_for_instance(host, "alpha:stack_shop_2:80", |instance| instance["drain"] == "serving");
    assert_eq!((&shop["tags"], &shop["meta"]["owner"]), (&serde_json::json!(["blue", "v1"]), &"team".into()));
    compose(&["up", "-d", "--scale", "shop=1"]);
    wait_until("what was scaled down is gone", SOON, || listed() == expected(1));
    compose(&["stop", "cart"]);
    wait_until("what was stopped is gone", SOON, || listed() == shops(1).collect());
    compose(&["restart", "cart"]);
    wait_until("it is back", SOON, || listed() == expected(1));
    compose(&["down"]);
    wait_until("all are gone", SOON, || listed().is_empty());
}

#[test]
fn checks_of_containers_decide_their_health() {
    let Some(mut lab) = Lab::open("check") else { return };
    let host = lab.host("alpha");
    host.weaved().launch(&[]);
    let docker = host.start_weave_docker();

    let health_options = ["--expose", "80", "--health-cmd", "test -e /tmp/up", "--health-interval", "300ms"];
    let own = docker.run_container("own", &health_options, &["sleep", "1000000"]);
    wait_for_instance(&host, "alpha:own:80", |instance| health(instance) == ["critical"]);
    own.run(&["touch", "/tmp/up"]).ok();
    let instance = wait_for_instance(&host, "alpha:own:80", |instance| health(instance) == ["passing"]);
    assert_eq!(instance["checks"][0]["kind"], "docker");

    let script = |script: &str| format!("SERVICE_CHECK_SCRIPT={script}");
    let common = ["--expose", "80", "-e", "SERVICE_CHECK_INTERVAL=300ms", "-e", "SERVICE_CHECK_TIMEOUT=700ms", "-e"];
    let run = |name: &str, text: &str| {
        docker.run_container(name, &[&common[..], &[&script(text)]].concat(), &["sleep", "1000000"])
    };
    run("good", "echo fine on $SERVICE_PORT");
    let giant = run("giant", "yes | head -c 1000000; exit 2");
    let hangs = run("hangs", "sleep 500 & sleep 600");
    let good = wait_for_instance(&host, "alpha:good:80", |instance| health(instance) == ["passing"]);
    assert_eq!(good["checks"][0]["output"], "fine on 80");
    let said = wait_for_instance(&host, "alpha:giant:80", |instance| instance["checks"][0]["output"] != "");
    assert!(said["checks"][0]["output"].as_str().is_some_and(|text| text.starts_with("exit code 2")), "{said}");
    let said = wait_for_instance(&host, "alpha:hangs:80", |instance| instance["checks"][0]["output"] != "");
    assert!(said["checks"][0]["output"].as_str().is_some_and(|text| text.contains("killed after")), "{said}");
    // Several rounds later there is one round's processes, and not one for each.
    std::thread::sleep(Duration::from_secs(3));
    let sleeping = hangs.run(&["sh", "-c", "ps | grep -c 'sleep [56]00'"]).stdout;
    assert!(sleeping.trim().parse::<u32>().is_ok_and(|count| count <= 8), "{sleeping}");
    drop(giant);
}

#[test]
fn what_is_no_container_is_registered_by_hand_or_by_files_and_survives() {
    let Some(mut lab) = Lab::open("hand") else { return };
    let host = lab.host("alpha");
    let dir = host.dir().join("services.d");
    fs::create_dir(&dir).unwrap();
    host.weaved().launch(&["--no-docker", "--services-dir", &dir.display().to_string()]);
    let weaved = host.weaved();

    weaved.run(&["service", "register", "db", "--port", "5432", "--tag", "primary", "--check-tcp", "127.0.0.1:1"]).ok();
    let db = wait_for_instance(&host, "db", |instance| health(instance) == ["critical"]);
    assert_eq!((&db["port"], &db["tags"]), (&5432.into(), &serde_json::json!(["primary"])));
    fs::write(dir.join("cache.json"), r#"{"Service":{"Name":"cache","Port":6379}}"#).unwrap();
    wait_for_instance(&host, "cache", |instance| instance["source"]["file"] == "cache.json");
    weights_come_from_each_source_and_are_told(&host, &dir);
    fs::write(dir.join("cache.json"), "{\"Service\":\n  {\"Name\": 7}}").unwrap();
    wait_until("the bad file is named with its place", SOON, || {
        weaved.run(&["service", "ls"]).ok().stderr.contains("cache.json: line 2, column 12: ")
    });
    assert!(ids(&host).contains("cache"), "the old content stays");
    let why = weaved.run(&["service", "deregister", "cache"]).refused(1);
    assert!(why.contains("change or remove the file"), "{why}");

    let old = weaved.kill9(Part::Control);
    weaved.wait_for_restart(Part::Control, old);
    wait_for_instance(&host, "db", |_| true);
    weaved.run(&["service", "deregister", "db"]).ok();
    wait_until_gone(&host, "db");
    let why = weaved.run(&["service", "deregister", "db"]).refused(1);
    assert!(why.contains("no service db"), "{why}");
}

/// The verb, a file and Consul's API say weights; the verb, Consul's API and names tell them.
fn weights_come_from_each_source_and_are_told(host: &Host, dir: &Path) {
    let weaved = host.weaved();
    let register = ["service", "register", "heavy", "--id", "verb", "--address", "10.1.2.1", "--port", "81"];
    weaved.run(&[&register[..], &["--weight", "7"]].concat()).ok();
    let file = r#"{"service":{"name":"heavy","id":"file","address":"10.1.2.2","port":82,"weights":{"passing":300}}}"#;
    fs::write(dir.join("heavy.json"), file).expect("the directory is the test's own");
    let put = |body: &str| {
        let url = "http://127.0.0.1:8500/v1/agent/service/register";
        host.run(&["curl", "-s", "-m", "10", "-w", "%{http_code}", "-X", "PUT", "-d", body, url]).stdout
    };
    let body = |passing: u32| {
        format!(
            r#"{{"Name":"heavy","ID":"api","Address":"10.1.2.3","Port":83,"Weights":{{"Passing":{passing},"Warning":5}}}}"#
        )
    };
    assert_eq!(put(&body(0)), "Weights: Passing is 0, and may be from 1 to 65535400");
    assert_eq!(put(&body(65_535)), "200");
    let told = || {
        let answer = host.run(&["curl", "-sf", "-m", "10", "http://127.0.0.1:8500/v1/catalog/service/heavy"]);
        let rows: Vec<Value> = serde_json::from_str(&answer.stdout).unwrap_or_default();
        let row = |row: &Value| format!("{} {}", row["ServiceID"], row["ServiceWeights"]).replace('"', "");
        let mut rows: Vec<String> = rows.iter().map(row).collect();
        rows.sort();
        rows
    };
    let expected = ["api {Passing:65535,Warning:5}", "file {Passing:300,Warning:1}", "verb {Passing:7,Warning:7}"];
    wait_until("the API tells the weights", SOON, || told() == expected);
    wait_until("names carry the weights", SOON, || {
        let records = weaved.run(&["dns-lookup", "_heavy._tcp", "--type", "srv"]).stdout;
        [" 1 7 81 ", " 1 300 82 ", " 1 65535 83 "].iter().all(|record| records.contains(record))
    });
    let table = weaved.run(&["services", "heavy"]).ok().stdout;
    assert!(table.contains("WEIGHT") && table.contains(" 300 "), "{table}");
}

//! Consul's clients as they are published, against the agents of three hosts. `docs/consul.md` says what of each is covered.

use std::{path::PathBuf, sync::Arc};

use weaved_netns_tests::{Host, Lab, Output, Part, Place, SOON, wait_until};

/// Where `make clients` has put the clients.
fn clients() -> PathBuf {
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("../consul-clients");
    dir.canonicalize().unwrap_or_else(|error| panic!("{}: {error}; run `make clients`", dir.display()))
}

fn program(name: &str) -> String {
    format!("{}/clients/{name}", env!("CARGO_MANIFEST_DIR"))
}

fn three_hosts(lab: &mut Lab) -> [Arc<Host>; 3] {
    let hosts = [lab.host("a"), lab.host("b"), lab.host("c")];
    lab.launch_cluster_without_docker(&[&hosts[0], &hosts[1], &hosts[2]]);
    for host in &hosts {
        wait_until("the agent answers", SOON, || curl(host, &["http://127.0.0.1:8500/v1/status/leader"]).success());
        wait_until("the agent sees three nodes", SOON, || {
            curl(host, &["http://127.0.0.1:8500/v1/catalog/nodes"]).stdout.matches(r#""Node":"#).count() == 3
        });
    }
    hosts
}

fn curl(host: &Host, args: &[&str]) -> Output {
    host.run(&[&["curl", "--silent", "--show-error", "--fail-with-body", "--max-time", "20"], args].concat())
}

/// `consulate --api-host 127.0.0.1 --api-port 8500 ARGS`
fn consulate(host: &Host, args: &[&str]) -> Output {
    let python = clients().join("consulate/bin/python").display().to_string();
    let shim = program("with_old_json.py");
    let head = [&python, &shim, "consulate.cli:main", "--api-host", "127.0.0.1", "--api-port", "8500"];
    host.run(&[&head, args].concat())
}

#[test]
fn consulate_sets_gets_lists_and_registers() {
    let Some(mut lab) = Lab::open("consulate") else { return };
    let [a, b, _] = three_hosts(&mut lab);

    consulate(&a, &["kv", "set", "backend/current", "staging"]).ok();
    consulate(&a, &["kv", "set", "backend/current", "production"]).ok();
    assert_eq!(consulate(&a, &["kv", "get", "backend/current"]).ok().stdout.trim(), "production");
    wait_until("the other host has it", SOON, || {
        consulate(&b, &["kv", "get", "backend/current"]).stdout.trim() == "production"
    });
    consulate(&b, &["kv", "set", "backend/current", "staging"]).ok();
    wait_until("what the other host has set is here", SOON, || {
        consulate(&a, &["kv", "get", "backend/current"]).stdout.trim() == "staging"
    });
    // The way of the article: where the key shows the live colour of a service, setting it switches.
    for (id, tag) in [("one", "blue"), ("two", "green")] {
        a.weaved().run(&["service", "register", "web", "--id", id, "--port", "80", "--tag", tag]).ok();
    }
    let live = |host: &Host| host.weaved().run(&["history", "web"]).stdout;
    wait_until("consulate switches", SOON, || consulate(&b, &["kv", "set", "backend/web", "blue"]).success());
    wait_until("it is live", SOON, || live(&a).contains("live: blue"));
    consulate(&a, &["kv", "set", "backend/web", "green"]).ok();
    wait_until("the other colour is live", SOON, || live(&b).contains("live: green"));
    assert!(live(&b).contains("python-requests") || live(&b).contains("PUT from 127.0.0.1"), "{}", live(&b));
    assert!(!consulate(&a, &["kv", "set", "backend/web", "gren"]).success(), "a typo is refused");
    assert!(live(&a).contains("live: green"));

    assert_eq!(consulate(&a, &["kv", "get", "no/such/key"]).ok().stdout.trim(), "None");
    consulate(&a, &["kv", "mkdir", "folder"]).ok();
    consulate(&a, &["kv", "set", "folder/key", "value"]).ok();
    let listed = consulate(&a, &["kv", "ls"]).ok().stdout;
    assert!(listed.contains("backend/current") && listed.contains("folder/key"), "{listed}");
    let backup = consulate(&a, &["kv", "backup"]).ok().stdout;
    assert!(backup.contains("staging"), "{backup}");
    consulate(&a, &["kv", "rm", "--recurse", "folder"]).ok();
    assert!(!consulate(&a, &["kv", "ls"]).ok().stdout.contains("folder/key"));

    consulate(
        &a,
        &["register", "article", "--address", "10.32.0.7", "--port", "80", "--tags", "blue,green", "no-check"],
    )
    .ok();
    wait_until("the other host sees the service", SOON, || {
        let listed = curl(&b, &["http://127.0.0.1:8500/v1/health/service/article?passing"]).stdout;
        listed.contains("10.32.0.7") && listed.contains(r#""Tags":["blue","green"]"#)
    });
    consulate(&a, &["deregister", "article"]).ok();
    wait_until("and sees it go", SOON, || {
        curl(&b, &["http://127.0.0.1:8500/v1/catalog/service/article"]).stdout.trim() == "[]"
    });
}

#[test]
fn python_libraries_find_all_that_they_ask_for() {
    let Some(mut lab) = Lab::open("pyconsul") else { return };
    let [a, ..] = three_hosts(&mut lab);
    for client in ["python-consul", "py-consul"] {
        let python = clients().join(client).join("bin/python").display().to_string();
        let said = a.run(&[&python, &program("library.py")]).ok().stdout;
        assert_eq!(said.matches("ok ").count(), 6, "{client}: {said}");
    }
}

#[test]
fn what_registrator_sent_over_the_years_is_taken_and_what_a_dead_host_ran_is_not_passing() {
    let Some(mut lab) = Lab::open("registrator") else { return };
    let hosts = three_hosts(&mut lab);
    what_registrator_sent_over_the_years_is_taken(&hosts);
    what_a_dead_host_ran_is_not_passing_anywhere(&lab, &hosts);
}

fn what_registrator_sent_over_the_years_is_taken([a, b, _]: &[Arc<Host>; 3]) {
    let api = |path: &str| format!("http://127.0.0.1:8500/v1/{path}");
    let put = |path: &str, body: &str| curl(a, &["--request", "PUT", "--data", body, &api(path)]);
    let addresses = |service: &str| {
        let rows = curl(b, &[&api(&format!("catalog/service/{service}"))]).stdout;
        let rows: Vec<serde_json::Value> = serde_json::from_str(&rows).unwrap_or_default();
        rows.iter().map(|row| row["ServiceAddress"].as_str().unwrap_or_default().to_owned()).collect::<Vec<_>>()
    };

    // v6 and later.
    let leader = curl(a, &[&api("status/leader")]).ok().stdout;
    assert!(leader.starts_with('"'), "{leader}");
    put(
        "agent/service/register",
        r#"{"ID":"a:web:80","Name":"web","Port":80,"Tags":["x"],"Address":"10.32.0.5","Meta":{"k":"v"},"Check":null}"#,
    )
    .ok();
    wait_until("v6's service is there", SOON, || addresses("web") == ["10.32.0.5"]);
    put("agent/service/deregister/a:web:80", "").ok();
    wait_until("v6's service is gone", SOON, || addresses("web").is_empty());

    // v5 with -internal: a node of its own for each container.
    let v5 = r#"{"Datacenter":"dc1","Node":"0123456789ab","Address":"10.32.0.6","Service":{"ID":"0123:web:80","Service":"web","Port":80,"Tags":[]}}"#;
    assert_eq!(put("catalog/register", v5).ok().stdout.trim(), "true");
    wait_until("v5's service is there", SOON, || addresses("web") == ["10.32.0.6"]);
    let nodes = curl(b, &[&api("catalog/nodes")]).ok().stdout;
    assert!(!nodes.contains("0123456789ab"), "no node appears that nobody owns: {nodes}");
    let gone = r#"{"Datacenter":"dc1","Node":"0123456789ab","Address":"10.32.0.6","ServiceID":"0123:web:80"}"#;
    assert_eq!(put("catalog/deregister", gone).ok().stdout.trim(), "true");
    wait_until("v5's service is gone", SOON, || addresses("web").is_empty());
}

fn what_a_dead_host_ran_is_not_passing_anywhere(lab: &Lab, [a, b, c]: &[Arc<Host>; 3]) {
    let file = lab.file("web.json", r#"{"Name":"web","Port":80,"Address":"10.32.0.5"}"#);
    let data = format!("@{file}");
    curl(c, &["--request", "PUT", "--data", &data, "http://127.0.0.1:8500/v1/agent/service/register"]).ok();
    let passing =
        |host: &Host| curl(host, &["http://127.0.0.1:8500/v1/health/service/web?passing"]).stdout.contains("10.32.0.5");
    for host in [a, b] {
        wait_until("the service is seen", SOON, || passing(host));
    }
    // All processes, the supervisor first: a host that loses its power says nothing.
    for part in [Part::Supervisor, Part::Control, Part::Dataplane, Part::Gateway] {
        c.weaved().kill9(part);
    }
    for host in [a, b] {
        wait_until("the dead host's service is not passing", SOON, || !passing(host));
    }
}

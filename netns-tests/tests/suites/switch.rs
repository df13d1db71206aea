//! One word switches a service on all hosts: `weaved switch`, its history, and the ways of the article.

use std::{sync::Arc, time::Duration};

use serde_json::Value;
use weaved_netns_tests::{Host, Lab, Output, Part, Place, SOON, wait_until};

fn three_hosts(lab: &mut Lab) -> [Arc<Host>; 3] {
    let hosts = [lab.host("a"), lab.host("b"), lab.host("c")];
    lab.launch_cluster_without_docker(&[&hosts[0], &hosts[1], &hosts[2]]);
    for host in &hosts {
        wait_until("three hosts vote on keys", SOON, || {
            host.weaved().run(&["kv", "put", "backend/warm", &host.name()]).success() && {
                let nodes = curl(host, &["http://127.0.0.1:8500/v1/catalog/nodes"]).stdout;
                nodes.matches(r#""Node":"#).count() == 3
            }
        });
    }
    hosts
}

fn curl(host: &Host, args: &[&str]) -> Output {
    host.run(&[&["curl", "--silent", "--show-error", "--fail-with-body", "--max-time", "20"], args].concat())
}

/// `web` in blue on `a` and in green on `b`, seen by all.
fn blue_and_green(hosts: &[Arc<Host>; 3]) {
    for (host, colour) in hosts.iter().zip(["blue", "green"]) {
        let args = ["service", "register", "web", "--id", colour, "--port", "80", "--tag", colour];
        host.weaved().run(&args).ok();
    }
    for host in hosts {
        wait_until("both colours are seen", SOON, || {
            let listed = host.weaved().run(&["services", "web", "--json"]).stdout;
            let listed: Value = serde_json::from_str(&listed).unwrap_or_default();
            listed["instances"]
                .as_array()
                .is_some_and(|instances| instances.iter().filter(|instance| instance["passing"] == true).count() == 2)
        });
    }
}

fn history(host: &Host) -> Value {
    let output = host.weaved().run(&["history", "web", "--json"]);
    serde_json::from_str(&output.stdout).unwrap_or_default()
}

/// The colour that the record says is live, as this host knows it.
fn live(host: &Host) -> String {
    history(host)["live"][0]["colour"].as_str().unwrap_or_default().to_owned()
}

fn key(host: &Host, key: &str) -> String {
    host.weaved().run(&["kv", "get", key]).stdout.trim().to_owned()
}

#[track_caller]
fn wait_for_colour(hosts: &[Arc<Host>], colour: &str) {
    for host in hosts {
        wait_until(&format!("{} knows that {colour} is live", host.name()), SOON, || {
            live(host) == colour && key(host, "backend/web") == colour
        });
    }
}

/// Each switch begins where the one before ended.
#[track_caller]
fn assert_chain(record: &Value) {
    let entries = record["history"].as_array().expect("there is a history");
    for pair in entries.windows(2) {
        assert_eq!(pair[1]["from"], pair[0]["to"], "{record:#}");
        let revision = |entry: &Value| entry["revision"].as_u64().expect("a revision is a number");
        assert_eq!(revision(&pair[1]), revision(&pair[0]) + 1, "{record:#}");
    }
}

#[test]
fn one_word_switches_everywhere_and_one_goes_back() {
    let Some(mut lab) = Lab::open("switch") else { return };
    let hosts = three_hosts(&mut lab);
    blue_and_green(&hosts);
    let [a, b, c] = &hosts;

    let why = a.weaved().run(&["switch", "wep", "green"]).refused(1);
    assert!(why.contains("there are: web"), "{why}");
    let why = b.weaved().run(&["switch", "web", "gren"]).refused(1);
    assert!(why.contains("its colours are: blue, green"), "{why}");
    let why = c.weaved().run(&["switch", "web", "green", "--min-healthy", "2"]).refused(1);
    assert!(why.contains("only 1 of 1 instances"), "{why}");

    let dry = c.weaved().run(&["switch", "web", "blue", "--dry-run"]).ok().stdout;
    assert!(dry.contains("blue would be live"), "{dry}");
    a.weaved().run(&["history", "web"]).refused(1);

    let said = c.weaved().run(&["switch", "web", "blue"]).ok().stdout;
    assert!(said.contains("switch 1: all colours → blue"), "{said}");
    wait_for_colour(&hosts, "blue");
    let said = a.weaved().run(&["switch", "web", "blue"]).ok().stdout;
    assert!(said.contains("live already"), "{said}");
    b.weaved().run(&["switch", "web", "green", "--json"]).ok();
    wait_for_colour(&hosts, "green");
    a.weaved().run(&["rollback", "web"]).ok();
    wait_for_colour(&hosts, "blue");

    wait_until("the figures are in the history", SOON, || {
        history(b)["history"].as_array().is_some_and(|entries| {
            let is_good = |entry: &Value| {
                entry["figures"]["duration_us"].as_u64() > Some(0) && entry["figures"]["missing"].is_null()
            };
            entries.len() == 3 && entries.iter().all(is_good)
        })
    });
    let record = history(c);
    assert_chain(&record);
    assert_eq!(record["history"][2]["reason"], "rollback");
    assert_eq!(record["history"][1]["host"], "b");

    let why = a.weaved().run(&["kv", "put", "weaved/switch/web", "{}"]).refused(1);
    assert!(why.contains("weaved's own"), "{why}");
    assert!(key(c, "weaved/switch/web").contains("\"revision\": 3"));

    a_canary_is_held_taken_up_and_given_up_from_any_host(&hosts);
}

/// Of `web` in blue. That it goes step by step by itself is shown in `control/src/switch/scenarios/canary.rs`.
fn a_canary_is_held_taken_up_and_given_up_from_any_host(hosts: &[Arc<Host>; 3]) {
    let [a, b, c] = hosts;
    let why = b.weaved().run(&["switch", "web", "--pause"]).refused(1);
    assert!(why.contains("no canary"), "{why}");
    let said = a.weaved().run(&["switch", "web", "green", "--canary", "1,10,50", "--step", "1h"]).ok().stdout;
    assert!(said.contains("switch 4: blue → blue 99 %, green 1 %"), "{said}");
    let why = b.weaved().run(&["switch", "web", "green"]).refused(1);
    assert!(why.contains("step 1 of 3") && why.contains("--abort"), "{why}");
    let said = b.weaved().run(&["switch", "web", "--pause"]).ok().stdout;
    assert!(said.contains("paused at blue 99 %, green 1 %"), "{said}");
    wait_until("everybody sees that it is paused", SOON, || history(c)["canary"]["paused"] == true);
    assert!(c.weaved().run(&["history", "web"]).ok().stdout.contains("step 1 of 3, paused"));
    let said = c.weaved().run(&["switch", "web", "--resume"]).ok().stdout;
    assert!(said.contains("goes on at blue 99 %, green 1 %"), "{said}");
    assert_eq!(key(a, "backend/web"), "blue", "while it is out the key shows the old colour");
    let said = c.weaved().run(&["switch", "web", "--abort"]).ok().stdout;
    assert!(said.contains("switch 5: blue 99 %, green 1 % → blue"), "{said}");
    wait_for_colour(hosts, "blue");
    let record = history(b);
    assert_chain(&record);
    assert!(record["canary"].is_null() && record["history"][4]["reason"] == "canary aborted", "{record:#}");
}

#[test]
fn switches_that_race_on_a_drained_host_or_with_half_of_the_cluster_leave_a_chain() {
    let Some(mut lab) = Lab::open("race") else { return };
    let hosts = three_hosts(&mut lab);
    blue_and_green(&hosts);
    of_two_switches_at_once_one_wins_and_the_history_is_a_chain(&hosts);
    a_drained_host_gets_no_new_traffic_until_that_ends(&hosts);
    without_a_majority_nothing_is_switched_and_after_a_crash_others_go_on(&hosts);
}

fn of_two_switches_at_once_one_wins_and_the_history_is_a_chain(hosts: &[Arc<Host>; 3]) {
    hosts[0].weaved().run(&["switch", "web", "blue"]).ok();
    for round in 0..5 {
        let orders = [(&hosts[0], "green"), (&hosts[1], "green"), (&hosts[2], "blue")];
        let running: Vec<_> =
            orders.iter().map(|(host, colour)| host.weaved().spawn(&["switch", "web", colour])).collect();
        let ended: Vec<Output> = running.into_iter().map(|process| process.finish(SOON)).collect();
        for output in &ended {
            let words = format!("{}{}", output.stdout, output.stderr);
            assert!(
                output.success() || words.contains("is being switched to"),
                "round {round}: a loser is told by whom: {words}"
            );
        }
        assert!(ended.iter().any(Output::success));
        hosts[0].weaved().run(&["switch", "web", if round % 2 == 0 { "green" } else { "blue" }]).ok();
    }
    let colour = live(&hosts[0]);
    wait_for_colour(hosts, &colour);
    assert_chain(&history(&hosts[1]));
}

#[test]
fn the_keys_of_the_article_switch_and_refuse_like_the_verb() {
    let Some(mut lab) = Lab::open("article") else { return };
    let hosts = three_hosts(&mut lab);
    blue_and_green(&hosts);
    let [a, b, c] = &hosts;
    let url = "http://127.0.0.1:8500/v1/kv/backend/web";
    let put = |host: &Host, colour: &str, query: &str| {
        curl(host, &["-i", "--request", "PUT", "--data", colour, &format!("{url}{query}")])
    };

    assert!(put(a, "blue", "").ok().stdout.ends_with("true"));
    wait_for_colour(&hosts, "blue");
    let refused = put(b, "gren", "");
    assert!(refused.stdout.to_lowercase().contains("x-weaved-refusal: no-colour"), "{refused}");
    assert!(refused.stdout.contains("its colours are: blue, green"), "{refused}");
    assert!(put(b, "green", "?cas=7").ok().stdout.ends_with("false"), "another index");
    assert_eq!(live(c), "blue");

    let row = curl(c, &[url]).ok().stdout;
    let row: Value = serde_json::from_str(&row).unwrap();
    let index = row[0]["ModifyIndex"].as_u64().unwrap();
    assert!(put(c, "green", &format!("?cas={index}")).ok().stdout.ends_with("true"));
    wait_for_colour(&hosts, "green");
    assert!(put(a, "blue", &format!("?cas={index}")).ok().stdout.ends_with("false"), "the index is used up");
    assert_eq!(live(a), "green");

    a.weaved().run(&["kv", "put", "backend/web", "blue"]).ok();
    wait_for_colour(&hosts, "blue");
    let record = history(b);
    assert_chain(&record);
    let sources: Vec<_> =
        record["history"].as_array().unwrap().iter().map(|entry| entry["source"].to_string()).collect();
    assert!(sources[0].contains("PUT from 127.0.0.1, curl/"), "{sources:?}");
    assert!(sources[2].contains("weaved kv on a"), "{sources:?}");
    let why = a.weaved().run(&["kv", "rm", "backend/web"]).refused(1);
    assert!(why.contains("cannot be deleted"), "{why}");

    // What shows no service's colour is a key as any other.
    a.weaved().run(&["kv", "put", "backend/other", "anything"]).ok();
    a.weaved().run(&["switch", "web", "green", "--key", "backend/current"]).ok();
    for host in &hosts {
        wait_until("the other key shows it", SOON, || key(host, "backend/current") == "green");
    }
    assert!(curl(b, &["--request", "PUT", "--data", "blue", "http://127.0.0.1:8500/v1/kv/backend/current"]).success());
    wait_until("and switches it", SOON, || live(c) == "blue");
}

fn a_drained_host_gets_no_new_traffic_until_that_ends(hosts: &[Arc<Host>; 3]) {
    let [a, b, c] = hosts;
    let passing = |host: &Host| {
        let url = "http://127.0.0.1:8500/v1/health/service/web?passing";
        let rows: Value = serde_json::from_str(&curl(host, &[url]).stdout).unwrap_or_default();
        let ids = rows.as_array().into_iter().flatten().map(|row| row["Service"]["ID"].to_string());
        ids.collect::<Vec<_>>().join(",")
    };
    let why = c.weaved().run(&["drain", "d"]).refused(1);
    assert!(why.contains("there are: a, b, c"), "{why}");
    c.weaved().run(&["drain", "a"]).ok();
    for host in hosts {
        wait_until("the drained host's instance is left out", SOON, || passing(host) == "\"green\"");
    }
    b.weaved().wait_for_problem(&["a is drained", "--end"]);
    let old = a.weaved().kill9(Part::Control);
    a.weaved().wait_for_restart(Part::Control, old);
    wait_until("it stays so over a restart", SOON, || passing(a) == "\"green\"");
    let why = b.weaved().run(&["switch", "web", "blue"]).refused(1);
    assert!(why.contains("0 of 1 instances"), "{why}");
    b.weaved().run(&["drain", "a", "--end"]).ok();
    wait_until("it gets traffic again", SOON, || passing(c).contains("blue"));
}

fn without_a_majority_nothing_is_switched_and_after_a_crash_others_go_on(hosts: &[Arc<Host>; 3]) {
    let [a, b, c] = hosts;
    a.weaved().run(&["switch", "web", "blue"]).ok();
    wait_for_colour(hosts, "blue");

    // The coordinator is killed somewhere in the middle; whatever came of it, the next switch goes through.
    for round in 0..3 {
        let switch = c.weaved().spawn(&["switch", "web", "green"]);
        std::thread::sleep(Duration::from_millis(15 * round));
        let old = c.weaved().kill9(Part::Control);
        drop(switch.finish(SOON));
        c.weaved().wait_for_restart(Part::Control, old);
        wait_until("another host switches", SOON, || a.weaved().run(&["switch", "web", "blue"]).success());
        wait_for_colour(hosts, "blue");
    }
    assert_chain(&history(b));

    for host in [a, b] {
        for part in [Part::Supervisor, Part::Control, Part::Dataplane, Part::Gateway] {
            host.weaved().kill9(part);
        }
    }
    let why = c.weaved().run(&["switch", "web", "blue", "--key", "backend/x"]).refused(1);
    assert!(why.contains("no majority answers"), "{why}");
    assert_eq!(live(c), "blue");
}

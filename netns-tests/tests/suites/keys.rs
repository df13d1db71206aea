//! Guarded and plain keys of three hosts with real processes, when one of them is cut off.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::sync::Arc;

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use weaved_netns_tests::{Host, Lab, Output, Place, SOON, wait_for, wait_until};

fn curl(host: &Host, args: &[&str]) -> Output {
    host.run(&[&["curl", "--silent", "--show-error", "--max-time", "20"], args].concat())
}

/// A write of a key through the API, with the answer's headers.
fn put(host: &Host, key: &str, value: &str) -> String {
    let url = format!("http://127.0.0.1:8500/v1/kv/{key}");
    curl(host, &["--include", "--request", "PUT", "--data", value, &url]).stdout
}

fn get(host: &Host, key: &str) -> String {
    curl(host, &[&format!("http://127.0.0.1:8500/v1/kv/{key}?raw")]).stdout
}

fn modify_index(host: &Host, key: &str) -> u64 {
    let rows = curl(host, &[&format!("http://127.0.0.1:8500/v1/kv/{key}")]).stdout;
    let rows: serde_json::Value = serde_json::from_str(&rows).unwrap_or_default();
    rows[0]["ModifyIndex"].as_u64().unwrap_or_else(|| panic!("{key} has no index: {rows}"))
}

/// Whether a host says that it is with the others, and for how many milliseconds it says that it is not.
fn contact(host: &Host, path: &str) -> (bool, u64) {
    let said = curl(host, &["--include", &format!("http://127.0.0.1:8500/v1/{path}")]).stdout.to_lowercase();
    let header = |name: &str| {
        let value = said.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        value.unwrap_or_else(|| panic!("{name} is not in {said}")).to_owned()
    };
    (header("x-consul-knownleader") == "true", header("x-consul-lastcontact").parse().unwrap())
}

/// Nothing comes in from the cable and nothing goes out, by either version of IP: one alone would be found.
fn cut(host: &Host) {
    filter(host, "-I");
}

fn heal(host: &Host) {
    filter(host, "-D");
}

fn filter(host: &Host, verb: &str) {
    for program in ["iptables", "ip6tables"] {
        for (chain, flag) in [("INPUT", "-i"), ("OUTPUT", "-o")] {
            host.run(&[program, verb, chain, flag, "eth0", "-j", "DROP"]).ok();
        }
    }
}

#[test]
fn who_is_cut_off_is_refused_guarded_keys_with_the_reason_while_the_majority_goes_on_and_all_agree_after_it() {
    let Some(mut lab) = Lab::open("keys") else { return };
    let [a, b, c]: [Arc<Host>; 3] = ["a", "b", "c"].map(|name| lab.host(name));
    lab.launch_cluster_without_docker(&[&a, &b, &c]);
    wait_until("a guarded key can be set", SOON, || a.weaved().run(&["kv", "put", "backend/current", "one"]).success());
    put(&a, "plain/both", "before");
    for host in [&b, &c] {
        wait_until("all have it", SOON, || {
            get(host, "backend/current") == "one" && get(host, "plain/both") == "before"
        });
    }
    wait_until("all three vote", SOON, || {
        c.weaved().run(&["voters"]).stdout.contains("2 of 3, 3 answer")
            && a.weaved().run(&["voters"]).stdout.contains("2 of 3, 3 answer")
    });
    let before = modify_index(&c, "backend/current");

    cut(&c);
    let refused = wait_for("the minority is refused", SOON, || {
        let said = put(&c, "backend/current", "minority");
        assert!(!said.starts_with("HTTP/1.1 200"), "{said}");
        said.to_lowercase().contains("x-weaved-refusal: no-majority").then_some(said)
    });
    assert!(refused.starts_with("HTTP/1.1 500") && refused.contains("nothing was changed"), "{refused}");
    let refused = c.weaved().run(&["kv", "put", "backend/current", "minority"]).refused(1);
    assert!(refused.contains("no majority answers"), "{refused}");
    let refused = curl(&c, &["--include", "http://127.0.0.1:8500/v1/kv/backend/current?consistent"]).stdout;
    assert!(refused.to_lowercase().contains("x-weaved-refusal: no-majority"), "{refused}");
    // It reads what it has, and says that it has no majority and for how long.
    let read = curl(&c, &["--include", "http://127.0.0.1:8500/v1/kv/backend/current?raw"]).stdout;
    assert!(read.ends_with("one"), "{read}");
    let (known_leader, first_ms) = contact(&c, "kv/backend/current?stale");
    wait_until("it says how much older it is", SOON, || contact(&c, "catalog/nodes").1 > first_ms);
    assert!(!known_leader && contact(&a, "kv/backend/current") == (true, 0));
    for path in ["kv/plain/?recurse&consistent", "health/service/web?consistent"] {
        let refused = curl(&c, &["--include", &format!("http://127.0.0.1:8500/v1/{path}")]).stdout;
        assert!(refused.starts_with("HTTP/1.1 500") && refused.contains("No cluster leader: 1 of 3"), "{refused}");
    }

    wait_until("the majority goes on", SOON, || put(&a, "backend/current", "two").starts_with("HTTP/1.1 200"));
    wait_until("and sees it", SOON, || get(&b, "backend/current") == "two");
    assert_eq!(get(&c, "backend/current"), "one");
    // Plain keys go on everywhere; the later one stays.
    assert!(put(&a, "plain/both", "majority").starts_with("HTTP/1.1 200"));
    assert!(put(&c, "plain/both", "minority, later").starts_with("HTTP/1.1 200"));
    assert!(put(&c, "plain/minority", "x").starts_with("HTTP/1.1 200"));

    heal(&c);
    wait_until("the one that was cut off has what the majority decided", SOON, || get(&c, "backend/current") == "two");
    wait_until("and says that it is back", SOON, || contact(&c, "kv/backend/current") == (true, 0));
    for host in [&a, &b, &c] {
        wait_until("plain keys are equal everywhere", SOON, || {
            get(host, "plain/both") == "minority, later" && get(host, "plain/minority") == "x"
        });
    }
    // A compare-and-set with what it knew before the cut is refused by the rule, not by the lack of a majority.
    wait_until("the rule decides again", SOON, || {
        let said = put(&c, &format!("backend/current?cas={before}"), "stale");
        said.starts_with("HTTP/1.1 200") && said.ends_with("false")
    });
    let now = modify_index(&c, "backend/current");
    assert!(put(&c, &format!("backend/current?cas={now}"), "three").ends_with("true"));
    for host in [&a, &b] {
        wait_until("all see what it decided", SOON, || get(host, "backend/current") == "three");
    }
    clients_that_wait_are_all_woken_by_one_change(&a, &b);
    one_that_is_left_goes_on_when_the_operator_says_so(&a, &[&b, &c]);
}

fn one_that_is_left_goes_on_when_the_operator_says_so(left: &Host, lost: &[&Host]) {
    let refused = left.weaved().run(&["voters", "--found-anew", "--yes"]).refused(1);
    assert!(refused.contains("a majority"), "{refused}");
    for pid in lost.iter().flat_map(|host| host.weaved().processes()) {
        kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    }
    wait_until("it knows that nobody else answers", SOON, || {
        left.weaved().run(&["voters"]).ok().stdout.contains("2 of 3, 1 answer")
    });
    left.weaved().wait_for_problem(&["no majority", "1 of 3 voters", "weaved voters"]);
    let refused = left.weaved().run(&["voters", "--found-anew"]).refused(1);
    assert!(refused.contains("this gives up") && refused.contains("--yes"), "{refused}");
    assert!(put(left, "backend/current", "alone").starts_with("HTTP/1.1 500"));
    left.weaved().run(&["voters", "--found-anew", "--yes"]).ok();
    assert!(put(left, "backend/current", "alone").ends_with("true"));
    assert!(!left.weaved().problems().join("\n").contains("no majority"));
    lost[0].weaved().launch(&[]);
    wait_until("who comes back follows", SOON, || {
        get(lost[0], "backend/current") == "alone"
            && lost[0].weaved().run(&["voters"]).stdout.contains("2 of 2, 2 answer; founded anew 1 times")
    });
}

/// How many clients wait for a key, and as many again for a service. `WEAVED_PARKED=5000` measures.
fn parked_count() -> usize {
    let wish = std::env::var("WEAVED_PARKED").ok();
    wish.map_or(1000, |text| text.parse().unwrap_or_else(|error| panic!("WEAVED_PARKED={text}: {error}")))
}

/// Resident KiB and used ticks of a process (100 a second).
fn used(pid: i32) -> (u64, u64) {
    let read = |name: &str| std::fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap();
    let status = read("status");
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let stat = read("stat");
    let times = stat.rsplit(')').next().unwrap().split_whitespace().skip(11).take(2);
    (resident.trim_end_matches("kB").trim().parse().unwrap(), times.map(|ticks| ticks.parse::<u64>().unwrap()).sum())
}

fn clients_that_wait_are_all_woken_by_one_change(a: &Host, b: &Host) {
    let body = r#"{"ID":"web-1","Name":"web","Port":80,"Address":"192.0.2.1"}"#;
    let register = |body: &str| {
        let url = "http://127.0.0.1:8500/v1/agent/service/register";
        curl(b, &["--fail-with-body", "--request", "PUT", "--data", body, url]).ok();
    };
    register(body);
    let service = "/v1/health/service/web?passing";
    wait_until("the service is seen", SOON, || {
        curl(a, &[&format!("http://127.0.0.1:8500{service}")]).stdout.contains("192.0.2.1")
    });
    let (program, count) = (format!("{}/clients/parked.py", env!("CARGO_MANIFEST_DIR")), parked_count().to_string());
    let control = a.weaved().pid(weaved_netns_tests::Part::Control).unwrap();
    let before = used(control);
    let mut waiting = ["/v1/kv/backend/current", service].map(|path| a.spawn(&["python3", &program, path, &count]));
    for clients in &mut waiting {
        clients.wait_for_text("parked", SOON);
    }
    let parked = used(control);
    if std::env::var_os("WEAVED_PARKED").is_some() {
        std::thread::sleep(std::time::Duration::from_secs(20));
        let idle = used(control);
        println!("before {before:?}, parked {parked:?}, 20 s later {idle:?} (KiB, ticks of 10 ms)");
    }
    let begun = std::time::Instant::now();
    assert!(put(a, "backend/current", "woken").ends_with("true"));
    register(&body.replace("80", "81"));
    for clients in waiting {
        clients.finish(SOON).ok();
    }
    println!("twice {count} were woken within {:?}; now {:?}", begun.elapsed(), used(control));
}

//! `switch-soak SWITCHES REQUESTS`: a service on three hosts with real Docker is switched to and fro under load, then with a host
//! that dies in each phase; what clients noticed, and how fast the switches were.
//!
//! Exit code 0: no request failed in the quiet part, none was answered by a colour that was not live, no held connection was cut, and
//! after each death the next switch went through. Everything runs in namespaces of its own; the time is bounded by the requests.

use std::{
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use weaved_netns_tests::{
    Part, Process, SOON,
    ledger::{Ledger, Switched},
    shop::{self, COLOURS, Demand, SERVICE, Shop},
    wait_until,
};

/// Clients on each host.
const CLIENTS: u32 = 8;
/// Upgraded connections on each host.
const HELD: u32 = 10;
/// No run is longer.
const AT_MOST: Duration = Duration::from_mins(8);
/// So long after its order a host dies: while it is prepared, decided, drained.
const DEATHS: [(&str, Duration); 3] =
    [("prepare", Duration::ZERO), ("commit", Duration::from_millis(60)), ("drain", Duration::from_millis(400))];

fn main() -> ExitCode {
    let args: Vec<u64> = std::env::args().skip(1).filter_map(|word| word.parse().ok()).collect();
    let [switches, requests] = args[..] else {
        eprintln!("usage: switch-soak SWITCHES REQUESTS; it needs root, Docker and the program `weaved` (WEAVED_BIN)");
        return ExitCode::from(2);
    };
    let Some(shop) = Shop::open("switch-soak") else { return ExitCode::SUCCESS };
    let is_good = [quiet(&shop, switches, requests), dying(&shop)].into_iter().all(|is_good| is_good);
    println!("{}", if is_good { "good" } else { "NOT GOOD" });
    if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Switches while everything is well.
fn quiet(shop: &Shop, count: u64, requests: u64) -> bool {
    let held = shop.begin_holding(HELD, AT_MOST);
    let mut load = shop.begin_load(Demand { clients: CLIENTS, requests: requests.div_ceil(3), time: AT_MOST });
    let began = Instant::now();
    let mut switches = Vec::new();
    for turn in 0..count as usize {
        switches.push(shop.switch(turn % 3, COLOURS[(turn + 1) % 2]));
        // As many as fit, spread over the load.
        thread::sleep(Duration::from_millis(300));
    }
    let under_load = load.is_running();
    let ledger = load.finish();
    let seconds = began.elapsed().as_secs_f64();
    let rate = ledger.requests.len() as u64 * 1000 / (began.elapsed().as_millis() as u64).max(1);
    println!("{} switches, {} requests in {seconds:.0} s, {rate} a second", switches.len(), ledger.requests.len());
    println!("the last switch was {} the load", if under_load { "within" } else { "AFTER THE END OF" });
    tell_figures(shop);
    let cut: usize = held.into_iter().map(cut_count).sum();
    println!("held connections that were cut: {cut}");
    tell(&ledger, &switches) && cut == 0 && under_load
}

/// A host dies at a moment of a switch that another one carries out.
fn dying(shop: &Shop) -> bool {
    let mut is_good = true;
    for (phase, delay) in DEATHS {
        let live = shop::get(&shop.hosts[0]).stdout;
        let to = if live.starts_with(COLOURS[0]) { COLOURS[1] } else { COLOURS[0] };
        let load = shop.begin_load(Demand { clients: 2, requests: 1_000_000, time: Duration::from_secs(20) });
        let verb = shop.hosts[0].weaved().spawn(&["switch", SERVICE, to, "--timeout", "15s"]);
        thread::sleep(delay);
        let victim = &shop.hosts[2];
        victim.ip(&["link", "set", "eth0", "down"]).ok();
        for part in Part::ALL {
            victim.weaved().kill9(part);
        }
        let output = verb.finish(Duration::from_secs(40));
        let said = format!("{}{}", output.stdout, output.stderr);
        println!("a host dies ({phase}): {}", said.trim().lines().last().unwrap_or_default());
        // The clients of the dead host itself have nobody to ask.
        let mut survivors = load.finish_each();
        survivors.pop();
        let asked: usize = survivors.iter().map(|ledger| ledger.requests.len()).sum();
        let failed: Vec<_> = survivors.iter().flat_map(Ledger::failed).collect();
        println!("  on the other two hosts {asked} requests, {} failed", failed.len());
        for request in failed.iter().take(3) {
            println!("    {request}");
        }
        victim.ip(&["link", "set", "eth0", "up"]).ok();
        victim.weaved().launch(&[]);
        victim.weaved().wait_for_peers(2);
        is_good &= agree(shop);
        // The next one goes through whatever became of this one.
        let next = shop.try_switch(1, &["switch", SERVICE, COLOURS[0], "--timeout", "15s"]);
        println!("  the next switch: {}", next.stdout.trim().lines().last().unwrap_or(&next.stderr));
        is_good &= next.success();
    }
    is_good
}

/// All balancers give the same colour, and only one.
fn agree(shop: &Shop) -> bool {
    let colours = |host| -> Vec<String> { (0..6).map(|_| shop::get(host).stdout).collect() };
    wait_until("all hosts serve one colour", SOON * 3, || {
        let all: Vec<String> = shop.hosts.iter().flat_map(|host| colours(host)).collect();
        all.iter().all(|answer| answer.split(' ').next() == all[0].split(' ').next() && !answer.is_empty())
    });
    true
}

fn tell(ledger: &Ledger, switches: &[Switched]) -> bool {
    let (failed, wrong) = (ledger.failed(), ledger.wrong(switches));
    println!("failed: {}, answered by a colour that was not live: {}", failed.len(), wrong.len());
    for request in failed.iter().chain(&wrong).take(10) {
        println!("  {request}");
    }
    failed.is_empty() && wrong.is_empty()
}

/// Percentiles of what the history says.
fn tell_figures(shop: &Shop) {
    let history = shop.try_switch(0, &["history", SERVICE, "--json"]);
    let record: Value = serde_json::from_str(&history.stdout).unwrap_or_default();
    let entries = record["history"].as_array().cloned().unwrap_or_default();
    for (name, field) in [("spread", "spread_us"), ("from the order to the last host", "duration_us")] {
        let mut micros: Vec<u64> = entries.iter().filter_map(|entry| entry["figures"][field].as_u64()).collect();
        micros.sort_unstable();
        let at = |percent: usize| {
            let micros = micros.get(micros.len().saturating_sub(1) * percent / 100).copied().unwrap_or(0);
            Duration::from_micros(micros)
        };
        println!("{name}: p50 {:?}, p99 {:?} of {}", at(50), at(99), micros.len());
    }
}

/// How many of a holder's connections broke until now.
fn cut_count(holder: Process) -> usize {
    holder.kill().stderr.lines().filter(|line| line.contains("a held connection")).count()
}

//! `switch-soak SWITCHES REQUESTS`: a service on three hosts with real Docker is switched to and fro under load, directly and
//! through `HAProxy`, then while parts and hosts die, while hosts are cut off, and to a version that turns sick; what clients
//! noticed, and how fast the switches were.
//!
//! Switches go on until there were SWITCHES of them and REQUESTS requests, so that neither depends on the speed of the machine. A
//! switch counts only if the clients of every host have asked before and behind it.
//!
//! Exit code 0: all was wholly within its load; where nothing broke, and where only control died, no request failed, none was
//! answered by a colour that was not live, no held connection was cut; every other failure is explained by what was broken; and
//! after each death the next switch went through. Everything runs in namespaces of its own.

mod broken;
mod report;

use std::{
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use weaved_netns_tests::{
    ledger::{Ledger, Switched},
    shop::{COLOURS, Demand, Load, Shop},
};

use self::report::{Span, count_under_load, is_unnoticed, none_was_cut, tell_figures};

/// Clients on each host.
const CLIENTS: u32 = 8;
/// Upgraded connections on each host.
const HELD: u32 = 10;
/// A load that nobody ends. What is longer is not under load, and not good.
const AT_MOST: Duration = Duration::from_mins(30);
const DEMAND: Demand = Demand { clients: CLIENTS, time: AT_MOST };
/// Between two switches.
const PAUSE: Duration = Duration::from_millis(300);

fn main() -> ExitCode {
    let args: Vec<u64> = std::env::args().skip(1).filter_map(|word| word.parse().ok()).collect();
    let [switches, requests] = args[..] else {
        eprintln!("usage: switch-soak SWITCHES REQUESTS; it needs root, Docker and the program `weaved` (WEAVED_BIN)");
        return ExitCode::from(2);
    };
    let Some(mut shop) = Shop::open("switch-soak") else { return ExitCode::SUCCESS };
    let is_good = [
        quiet(&shop, switches, requests),
        fronted(&mut shop, switches, requests),
        broken::killing(&shop),
        broken::sick(&shop),
        broken::cutting(&shop),
        broken::dying(&shop),
    ];
    let is_good = is_good.into_iter().all(|is_good| is_good);
    println!("{}", if is_good { "good" } else { "NOT GOOD" });
    if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Switches while everything is well.
fn quiet(shop: &Shop, count: u64, requests: u64) -> bool {
    println!("clients ask the balancer of their host");
    let held = shop.begin_holding(HELD, AT_MOST);
    let is_good = switch_under(shop.begin_load(DEMAND), shop, count, requests);
    tell_figures(shop);
    none_was_cut(held) && is_good
}

/// The same through `HAProxy`.
fn fronted(shop: &mut Shop, count: u64, requests: u64) -> bool {
    println!("clients ask HAProxy, which asks the three balancers");
    let front = shop.open_front();
    switch_under(front.begin_load(DEMAND), shop, count, requests)
}

/// At least so many switches within at least so many requests; true if nobody noticed.
fn switch_under(mut load: Load, shop: &Shop, count: u64, requests: u64) -> bool {
    let start = Instant::now();
    let [live, _] = shop.live_and_idle(0);
    let first = if live == COLOURS[0] { 1 } else { 2 };
    let mut switches: Vec<Switched> = Vec::new();
    while load.is_running() && ((switches.len() as u64) < count || load.asked() < requests) {
        let turn = first + switches.len();
        switches.push(shop.switch(turn % 3, COLOURS[turn % 2]));
        thread::sleep(PAUSE);
    }
    let ledgers = load.end_each();
    let spans: Vec<Span> = switches.iter().map(|switch| (switch.begun_us, switch.acknowledged_us)).collect();
    let under_load = count_under_load(&ledgers, &spans);
    let ledger = Ledger::of_all(ledgers);
    let asked = ledger.requests.len() as u64;
    let rate = asked * 1000 / (start.elapsed().as_millis() as u64).max(1);
    println!("  {} switches in {:.0} s, {rate} requests a second", switches.len(), start.elapsed().as_secs_f64());
    let is_enough = under_load as u64 >= count && asked >= requests;
    let verdict = if is_enough { "enough" } else { "NOT ENOUGH" };
    println!("  {under_load} switches were wholly within the load: {verdict}");
    is_unnoticed(&ledger, &switches) && is_enough
}

//! `switch-soak SWITCHES REQUESTS`: a service on three hosts with real Docker is switched to and fro under load, directly and
//! through `HAProxy`, then while parts and hosts die, while hosts are cut off, and to a version that turns sick; what clients
//! noticed, and how fast the switches were.
//!
//! Exit code 0: where nothing broke, and where only control died, no request failed, none was answered by a colour that was not
//! live, no held connection was cut; every other failure is explained by what was broken; and after each death the next
//! switch went through. Everything runs in namespaces of its own; the time is bounded by the requests.

mod broken;
mod report;

use std::{
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use weaved_netns_tests::{
    ledger::Switched,
    shop::{COLOURS, Demand, Load, Shop},
};

use self::report::{cut_count, is_unnoticed, tell_figures};

/// Clients on each host.
const CLIENTS: u32 = 8;
/// Upgraded connections on each host.
const HELD: u32 = 10;
/// No run is longer.
const AT_MOST: Duration = Duration::from_mins(8);
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
    let load = shop.begin_load(Demand { clients: CLIENTS, requests: requests.div_ceil(3), time: AT_MOST });
    let is_good = switch_under(load, shop, count);
    tell_figures(shop);
    let cut: usize = held.into_iter().map(cut_count).sum();
    println!("  held connections that were cut: {cut}");
    is_good && cut == 0
}

/// The same through `HAProxy`.
fn fronted(shop: &mut Shop, count: u64, requests: u64) -> bool {
    println!("clients ask HAProxy, which asks the three balancers");
    let front = shop.open_front();
    let load = front.begin_load(Demand { clients: CLIENTS, requests, time: AT_MOST });
    switch_under(load, shop, count)
}

/// As many switches as are wanted, spread over the load; true if nobody noticed.
fn switch_under(mut load: Load, shop: &Shop, count: u64) -> bool {
    let began = Instant::now();
    let [live, _] = shop.live_and_idle(0);
    let turns = if live == COLOURS[0] { 1.. } else { 2.. };
    let switches: Vec<Switched> = turns
        .take(count as usize)
        .map(|turn: usize| {
            let switched = shop.switch(turn % 3, COLOURS[turn % 2]);
            thread::sleep(PAUSE);
            switched
        })
        .collect();
    let under_load = load.is_running();
    let ledger = load.finish();
    let rate = ledger.requests.len() as u64 * 1000 / (began.elapsed().as_millis() as u64).max(1);
    println!("  {} switches in {:.0} s, {rate} requests a second", switches.len(), began.elapsed().as_secs_f64());
    println!("  the last switch was {} the load", if under_load { "within" } else { "AFTER THE END OF" });
    is_unnoticed(&ledger, &switches) && under_load
}

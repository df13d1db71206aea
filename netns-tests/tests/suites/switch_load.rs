//! Nobody notices: containers of real Dockers are switched to and fro under load and held connections, directly and through
//! `HAProxy`, and what dies, is cut off or turns sick meanwhile costs no more than it must.

use std::time::Duration;

use serde_json::Value;
use weaved_netns_tests::{
    Host, Part, Process, SOON,
    cut::{self, Cut, Plan},
    ledger::{Ledger, Request, Switched},
    shop::{self, COLOURS, Demand, Load, SERVICE, Shop, now_us},
    wait_until,
};

/// Ends by itself when the test does not.
const AT_MOST: Duration = Duration::from_mins(2);
const DEMAND: Demand = Demand { clients: 3, time: AT_MOST };
/// Switches behind which the executable of a host is replaced.
const UPGRADES: [usize; 2] = [1, 3];

#[track_caller]
fn none(what: &str, list: &[&Request], shop: &Shop) {
    let first = list.iter().take(5).map(ToString::to_string).collect::<Vec<_>>().join("\n");
    assert!(list.is_empty(), "{} {what}:\n{first}\n{}", list.len(), shop.describe());
}

#[track_caller]
fn is_unnoticed(shop: &Shop, whose: &str, ledger: &Ledger, switches: &[Switched]) {
    println!("measured: {} switches, {} requests of {whose}", switches.len(), ledger.requests.len());
    none("failed", &ledger.failed(), shop);
    none("by a wrong colour", &ledger.wrong(switches), shop);
    let began_us = ledger.requests.iter().map(|request| request.began_us).min().unwrap_or(u64::MAX);
    assert!(switches.iter().any(|switch| switch.begun_us > began_us), "switches happen under load");
    assert!(ledger.requests.len() > 1_000, "there was a load: {}", ledger.requests.len());
}

#[track_caller]
fn none_was_cut(held: Vec<Process>) {
    for mut process in held {
        assert!(process.is_running(), "they are held as long as it lives");
        let output = process.kill();
        assert!(!output.stderr.contains("a held connection"), "{output}");
    }
}

#[test]
fn nobody_notices_switches_and_what_dies_meanwhile_costs_no_more_than_it_must() {
    let Some(mut shop) = Shop::open("load") else { return };
    switches_under_load_fail_nobody_and_leave_no_answer_of_the_old_colour(&mut shop);
    a_version_that_turns_sick_is_taken_back_by_itself(&shop);
    controls_that_die_fail_nobody(&shop);
    a_host_that_is_cut_off_decides_nothing_and_takes_over_what_was_decided(&shop);
    a_host_that_was_away_serves_what_was_decided_meanwhile_and_never_what_was_before(&shop);
}

fn switches_under_load_fail_nobody_and_leave_no_answer_of_the_old_colour(shop: &mut Shop) {
    let front = shop.open_front();
    let held = shop.begin_holding(3, AT_MOST);
    let loads = [shop.begin_load(DEMAND), front.begin_load(DEMAND)];
    let mut switches = Vec::new();
    for turn in 0..6 {
        switches.push(shop.switch(turn % 3, COLOURS[(turn + 1) % 2]));
        if UPGRADES.contains(&turn) {
            upgrade(&shop.hosts[0]);
        }
    }
    let [direct, fronted] = loads.map(Load::end);
    is_unnoticed(shop, "the balancers", &direct, &switches);
    is_unnoticed(shop, "HAProxy", &fronted, &switches);
    none_was_cut(held);
    wait_until("gateways that were taken over from have ended", SOON, || {
        shop.hosts[0].weaved().retired_gateways() == 0
    });
    let record = shop.record(1);
    let entries = record["history"].as_array().expect("there is a history");
    let all_took_part = |entry: &Value| entry["figures"]["hosts"] == 3 && entry["figures"]["missing"].is_null();
    assert!(entries.iter().all(all_took_part), "{record:#}");
}

/// In mid-traffic.
#[track_caller]
fn upgrade(host: &Host) {
    let same = host.weaved().run(&["upgrade"]).ok().stdout;
    assert!(same.contains("already"), "{same}");
    let before = Part::ALL.map(|part| host.weaved().pid(part));
    host.weaved().replace_executable();
    let said = host.weaved().run(&["upgrade"]).ok().stdout;
    assert!(said.contains("weaved is upgraded"), "{said}");
    let after = Part::ALL.map(|part| host.weaved().pid(part));
    assert_eq!(after[0], before[0], "the supervisor stays the process that it is");
    assert!((1..4).all(|part| after[part].is_some() && after[part] != before[part]), "{before:?} {after:?}");
    assert_ne!(host.weaved().retired_gateways(), 0, "somebody holds the connections from before");
}

fn a_version_that_turns_sick_is_taken_back_by_itself(shop: &Shop) {
    let [old, new] = shop.live_and_idle(0);
    let load = shop.begin_load(DEMAND);
    shop.switch_with(0, new, &["--rollback-on", "errors=5%", "--min-requests", "100", "--watch", "60s"]);
    let sick_us = now_us();
    shop.make_sick(new);
    wait_until("it is taken back", SOON, || shop.live_and_idle(1)[0] == old);
    shop.wait_until_agreed();
    let ledger = load.end();
    let sickness = ledger.sickness(new, sick_us, now_us());
    println!("measured: a version turns sick: {sickness}");
    none("failed otherwise", &sickness.unexplained, shop);
    assert!(sickness.saw_it > 0);
    let history = shop.try_switch(2, &["history", SERVICE]).ok().stdout;
    assert!(history.contains("requests failed") && history.contains("automatic rollback"), "{history}");
    shop.make_well(new);
}

/// Control of a host that is not asked, then of the one that is: the switch happens or it does not, and never by half.
fn controls_that_die_fail_nobody(shop: &Shop) {
    let load = shop.begin_load(DEMAND);
    let victim = shop.hosts[1].weaved();
    let old = victim.kill9(Part::Control);
    shop.switch(0, COLOURS[1]);
    victim.wait_for_restart(Part::Control, old);
    let coordinator = shop.hosts[2].weaved();
    let verb = coordinator.spawn(&["switch", SERVICE, COLOURS[0]]);
    let old = coordinator.kill9(Part::Control);
    verb.finish(SOON);
    coordinator.wait_for_restart(Part::Control, old);
    // Whatever became of it, the next one goes through.
    wait_until("the next switch goes through", SOON, || {
        shop.try_switch(0, &["switch", SERVICE, COLOURS[0], "--force"]).success()
    });
    none("failed", &load.end().failed(), shop);
    shop.wait_until_agreed();
}

fn a_host_that_is_cut_off_decides_nothing_and_takes_over_what_was_decided(shop: &Shop) {
    let [live, _] = shop.live_and_idle(0);
    let before = Switched { begun_us: 0, acknowledged_us: now_us(), colour: live.to_owned() };
    let load = shop.begin_load(DEMAND);
    let cut = Cut::make(shop, Plan { on: 0, victim: 2, delay: None });
    println!("measured: a host is cut off: {}", cut.said);
    assert!(cut.switched.is_some(), "the majority goes over");
    let mut as_before = Vec::new();
    for (host, ledger) in load.end_each().iter().enumerate() {
        let account = cut::account(host, ledger, &before, std::slice::from_ref(&cut));
        println!(
            "measured: host {host}: {} requests, {} lost, {} as before",
            account.asked, account.lost, account.as_before
        );
        none("unexplained", &account.unexplained, shop);
        as_before.push(account.as_before > 0);
    }
    assert_eq!(as_before, [false, false, true], "who is cut off serves what it knew");
}

/// All of it is killed: it is back with what it knew, and must not serve it.
fn a_host_that_was_away_serves_what_was_decided_meanwhile_and_never_what_was_before(shop: &Shop) {
    let [old, new] = shop.live_and_idle(0);
    let away = &shop.hosts[2];
    for part in Part::ALL {
        away.weaved().kill9(part);
    }
    wait_until("the others go on without it", SOON, || shop.try_switch(0, &["switch", SERVICE, new]).success());
    away.weaved().launch(&[]);
    let mut answers = Vec::new();
    wait_until("its balancer is back", SOON, || {
        answers.push(shop::get(away).stdout);
        answers.last().is_some_and(|answer| answer.starts_with(new))
    });
    assert!(answers.iter().all(|answer| !answer.starts_with(old)), "it has served what was live before: {answers:?}");
    shop.wait_until_agreed();
}

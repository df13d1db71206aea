//! Nobody notices: containers of real Dockers are switched to and fro under load and held connections, and parts die meanwhile.

use std::time::Duration;

use weaved_netns_tests::{
    Part, Process, SOON,
    ledger::{Ledger, Switched},
    shop::{COLOURS, Demand, SERVICE, Shop},
    wait_until,
};

/// Ends by itself when the test does not.
const AT_MOST: Duration = Duration::from_secs(40);
const DEMAND: Demand = Demand { clients: 4, requests: 12_000, time: AT_MOST };

#[track_caller]
fn is_unnoticed(shop: &Shop, ledger: &Ledger, switches: &[Switched]) {
    let (failed, wrong) = (ledger.failed(), ledger.wrong(switches));
    println!("measured: {} switches, {} requests", switches.len(), ledger.requests.len());
    let first = |list: &[&weaved_netns_tests::ledger::Request]| {
        list.iter().take(5).map(ToString::to_string).collect::<Vec<_>>().join("\n")
    };
    assert!(failed.is_empty(), "{} failed:\n{}\n{}", failed.len(), first(&failed), shop.describe());
    assert!(wrong.is_empty(), "{} by a wrong colour:\n{}\n{}", wrong.len(), first(&wrong), shop.describe());
    assert!(ledger.requests.len() > 1_000, "there was a load: {}", ledger.requests.len());
}

#[track_caller]
fn none_was_cut(held: Vec<Process>) {
    for process in held {
        let output = process.finish(AT_MOST + SOON).ok();
        assert!(output.stdout.contains(r#""broken": 0"#), "{output}");
    }
}

#[test]
fn switches_under_load_fail_nobody_and_leave_no_answer_of_the_old_colour() {
    let Some(shop) = Shop::open("load") else { return };
    let held = shop.begin_holding(3, Duration::from_secs(12));
    let load = shop.begin_load(DEMAND);
    let mut switches = Vec::new();
    for turn in 0..6 {
        switches.push(shop.switch(turn % 3, COLOURS[(turn + 1) % 2]));
    }
    let ledger = load.finish();
    is_unnoticed(&shop, &ledger, &switches);
    let began = ledger.requests.iter().map(|request| request.began_us).min().unwrap_or_default();
    let ended = ledger.requests.iter().map(|request| request.ended_us).max().unwrap_or_default();
    let is_within = |switch: &&Switched| switch.begun_us > began && switch.acknowledged_us < ended;
    println!(
        "measured: load of {} ms, {} switches within",
        (ended - began) / 1000,
        switches.iter().filter(is_within).count()
    );
    assert!(switches.iter().any(|switch| is_within(&switch)), "switches happen under load");
    none_was_cut(held);
}

#[test]
fn parts_that_die_around_a_switch_fail_nobody() {
    let Some(shop) = Shop::open("dying") else { return };
    let load = shop.begin_load(DEMAND);
    // Control of a host that is not asked, then of the one that is: the switch happens or it does not, and never by half.
    let victim = shop.hosts[1].weaved();
    let old = victim.kill9(Part::Control);
    let first = shop.switch(0, COLOURS[1]);
    victim.wait_for_restart(Part::Control, old);
    let coordinator = shop.hosts[2].weaved();
    let verb = coordinator.spawn(&["switch", SERVICE, COLOURS[0]]);
    let old = coordinator.kill9(Part::Control);
    verb.finish(SOON);
    coordinator.wait_for_restart(Part::Control, old);
    let ledger = load.finish();
    let failed = ledger.failed();
    assert!(failed.is_empty(), "{} failed: {}\n{}", failed.len(), failed[0], shop.describe());
    // Whatever became of it, the next one goes through.
    wait_until("the next switch goes through", SOON, || {
        shop.try_switch(0, &["switch", SERVICE, COLOURS[0], "--force"]).success()
    });
    assert_eq!(first.colour, COLOURS[1]);
}

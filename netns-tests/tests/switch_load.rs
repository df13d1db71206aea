//! Nobody notices: a service is switched to and fro under load, and parts die meanwhile.

use std::time::Duration;

use weaved_netns_tests::{
    Part, Process, SOON,
    ledger::{Ledger, Switched},
    shop::{COLOURS, Demand, SERVICE, Shop},
    wait_until,
};

/// Ends by itself when the test does not.
const AT_MOST: Duration = Duration::from_secs(40);
const DEMAND: Demand = Demand { clients: 4, requests: 4_000, time: AT_MOST };

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
    let mut load = shop.begin_load(DEMAND);
    let mut switches = Vec::new();
    for turn in 0..6 {
        switches.push(shop.switch(turn % 3, COLOURS[(turn + 1) % 2]));
        assert!(load.is_running() || turn > 0, "switches happen under load");
    }
    is_unnoticed(&shop, &load.finish(), &switches);
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

#[test]
fn a_colour_that_turns_sick_after_the_switch_is_left_by_itself() {
    let Some(shop) = Shop::open("sick") else { return };
    let load = shop.begin_load(Demand { clients: 2, requests: 1_000_000, time: Duration::from_secs(20) });
    let rule = ["--rollback-on", "errors=5%", "--min-requests", "50", "--watch", "30s"];
    shop.try_switch(0, &[&["switch", SERVICE, COLOURS[1]], rule.as_slice()].concat()).ok();
    for docker in &shop.dockers {
        docker.docker(&["exec", COLOURS[1], "touch", "/tmp/sick"]).ok();
    }
    wait_until("the old colour is live again", SOON, || {
        let history = shop.try_switch(1, &["history", SERVICE, "--json"]);
        history.success()
            && shop.hosts.iter().all(|host| weaved_netns_tests::shop::get(host).stdout.starts_with("blue"))
    });
    let history = shop.try_switch(1, &["history", SERVICE]).ok().stdout;
    assert!(history.contains("errors") || history.contains("failed"), "the reason stands in the history: {history}");
    drop(load);
}

//! Parts that die, hosts that die and hosts that are cut off while a service is switched.

use std::{thread, time::Duration};

use weaved_netns_tests::{
    Part, Place, SOON,
    cut::{self, Cut, Plan},
    ledger::{Ledger, Switched},
    shop::{COLOURS, Demand, SERVICE, Shop, now_us},
    wait_until,
};

use super::report::is_unnoticed;

/// So long after its order something dies: while it is prepared, decided, drained.
const PHASES: [(&str, Duration); 3] =
    [("prepare", Duration::ZERO), ("commit", Duration::from_millis(60)), ("drain", Duration::from_millis(400))];
/// So long after the order a host is cut off, or before it: while it is prepared, around the decision, and behind it.
const CUTS_MS: [Option<u64>; 5] = [None, Some(0), Some(20), Some(40), Some(80)];
/// A load that something else ends.
const AT_MOST: Duration = Duration::from_mins(4);

fn demand(clients: u32, time: Duration) -> Demand {
    Demand { clients, requests: 10_000_000, time }
}

/// Control is killed where the switch was ordered, and elsewhere.
pub(crate) fn killing(shop: &Shop) -> bool {
    let [live, _] = shop.live_and_idle(0);
    let mut switches = vec![Switched { begun_us: 0, acknowledged_us: now_us(), colour: live.to_owned() }];
    let load = shop.begin_load(demand(2, AT_MOST));
    for (phase, delay) in PHASES {
        for victim in [0, 1] {
            let [_, colour] = shop.live_and_idle(0);
            let begun_us = now_us();
            let verb = shop.hosts[0].weaved().spawn(&["switch", SERVICE, colour, "--timeout", "15s"]);
            thread::sleep(delay);
            let old = shop.hosts[victim].weaved().kill9(Part::Control);
            let said = verb.finish(SOON * 2);
            let acknowledged_us = if said.success() { now_us() } else { u64::MAX };
            switches.push(Switched { begun_us, acknowledged_us, colour: colour.to_owned() });
            let whose = if victim == 0 { "where it was ordered" } else { "elsewhere" };
            let outcome = if said.success() { "switched" } else { "the verb lost its answer" };
            println!("  control is killed {whose} ({phase}): {outcome}");
            shop.hosts[victim].weaved().wait_for_restart(Part::Control, old);
            shop.wait_until_agreed();
        }
    }
    println!("control killed, {} times:", PHASES.len() * 2);
    is_unnoticed(&load.end(), &switches)
}

/// A host dies at a moment of a switch that another one carries out.
pub(crate) fn dying(shop: &Shop) -> bool {
    let mut is_good = true;
    for (phase, delay) in PHASES {
        let [_, to] = shop.live_and_idle(0);
        let load = shop.begin_load(demand(2, Duration::from_secs(20)));
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
        shop.wait_until_agreed();
        // The next one goes through whatever became of this one.
        let next = shop.try_switch(1, &["switch", SERVICE, COLOURS[0], "--timeout", "15s"]);
        println!("  the next switch: {}", next.stdout.trim().lines().last().unwrap_or(&next.stderr));
        is_good &= next.success();
    }
    is_good
}

/// A host is cut off at a moment of a switch: one that is not asked, then the one that carries it out.
pub(crate) fn cutting(shop: &Shop) -> bool {
    let [live, _] = shop.live_and_idle(0);
    let before = Switched { begun_us: 0, acknowledged_us: now_us(), colour: live.to_owned() };
    let mut load = shop.begin_load(demand(2, AT_MOST));
    let mut cuts = Vec::new();
    for (on, whose) in [(0, "another host"), (2, "the host that switches")] {
        for ms in CUTS_MS {
            let cut = Cut::make(shop, Plan { on, victim: 2, delay: ms.map(Duration::from_millis) });
            let when = ms.map_or("right before the order".to_owned(), |ms| format!("{ms} ms after the order"));
            println!("{whose} is cut off {when}: {}", cut.said);
            cuts.push(cut);
        }
    }
    let under_load = load.is_running();
    let ledgers = load.end_each();
    let mut is_good = under_load;
    for (host, ledger) in ledgers.iter().enumerate() {
        let account = cut::account(host, ledger, &before, &cuts);
        println!(
            "  host {}: {} requests; {} lost beyond the cut before it was noticed, {} answered by what was known while it was \
             cut off, unexplained: {}",
            shop.hosts[host].name(),
            account.asked,
            account.lost,
            account.as_before,
            account.unexplained.len()
        );
        account.unexplained.iter().take(10).for_each(|request| println!("    {request}"));
        is_good &= account.unexplained.is_empty();
    }
    is_good
}

/// A version turns sick after the switch, and is taken back by itself.
pub(crate) fn sick(shop: &Shop) -> bool {
    let [old, new] = shop.live_and_idle(0);
    let load = shop.begin_load(demand(2, AT_MOST));
    let flags = ["--rollback-on", "errors=5%", "--min-requests", "100", "--watch", "60s"];
    let switched = shop.switch_with(0, new, &flags);
    thread::sleep(Duration::from_secs(2));
    let sick_us = now_us();
    shop.make_sick(new);
    wait_until("it is taken back", SOON, || shop.live_and_idle(1)[0] == old);
    shop.wait_until_agreed();
    let back_us = now_us();
    let ledger = load.end();
    shop.make_well(new);
    let sickness = ledger.sickness(new, sick_us, back_us);
    println!("a version turns sick after the switch: {sickness}");
    sickness.unexplained.iter().take(10).for_each(|request| println!("    {request}"));
    let back = Switched { begun_us: sick_us, acknowledged_us: back_us, colour: old.to_owned() };
    sickness.unexplained.is_empty() && ledger.wrong(&[switched, back]).is_empty()
}

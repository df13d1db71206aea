//! Parts that die, hosts that die and hosts that are cut off while a service is switched.

use std::{thread, time::Duration};

use weaved_netns_tests::{
    Host, Part, Place, SOON,
    cut::{self, Cut, Plan},
    ledger::{Ledger, Switched},
    shop::{Demand, SERVICE, Shop, now_us},
    wait_until,
};

use super::report::{Span, are_under_load, is_unnoticed, tell_examples};

/// So long after its order something dies: while it is prepared, decided, drained.
const PHASES: [(&str, Duration); 3] =
    [("prepare", Duration::ZERO), ("commit", Duration::from_millis(60)), ("drain", Duration::from_millis(400))];
/// So long after the order a host is cut off, or before it: while it is prepared, around the decision, and behind it.
const CUTS_MS: [Option<u64>; 5] = [None, Some(0), Some(20), Some(40), Some(80)];
/// The host that dies, or is cut off; the others have other clients.
const VICTIM: usize = 2;
/// Longer than a switch takes that must first find out that a host is away.
const VERB_PATIENCE: Duration = Duration::from_secs(60);
/// Each of these ends its load itself; one that takes longer is not under load, and not good.
const DEMAND: Demand = Demand { clients: 2, time: Duration::from_mins(20) };

/// Control is killed where the switch was ordered, and elsewhere.
pub(crate) fn killing(shop: &Shop) -> bool {
    let [live, _] = shop.live_and_idle(0);
    let mut switches = vec![Switched { begun_us: 0, acknowledged_us: now_us(), colour: live.to_owned() }];
    let mut spans: Vec<Span> = Vec::new();
    let load = shop.begin_load(DEMAND);
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
            spans.push((begun_us, now_us()));
        }
    }
    let ledgers = load.end_each();
    println!("control killed, {} times:", spans.len());
    are_under_load(&ledgers, &spans) & is_unnoticed(&Ledger::of_all(ledgers), &switches)
}

/// A host dies at a moment of a switch that another one carries out.
pub(crate) fn dying(shop: &Shop) -> bool {
    PHASES.iter().fold(true, |is_good, (phase, delay)| dying_in(shop, phase, *delay) & is_good)
}

/// Asked are the balancers of the hosts that live on, from before the order until the host is back and the next switch is made.
fn dying_in(shop: &Shop, phase: &str, delay: Duration) -> bool {
    let [_, to] = shop.live_and_idle(0);
    let load = shop.begin_load_on(0..VICTIM, DEMAND);
    let doomed = shop.begin_load_on(VICTIM..VICTIM + 1, DEMAND);
    let begun_us = now_us();
    let verb = shop.hosts[0].weaved().spawn(&["switch", SERVICE, to, "--timeout", "15s"]);
    thread::sleep(delay);
    let death_us = now_us();
    lose_power(&shop.hosts[VICTIM]);
    // With its host: it has nobody to ask any more.
    drop(doomed);
    let noticed_us = [0, 1].map(|host| cut::wait_until_noticed(shop, host, VICTIM));
    let output = verb.finish(VERB_PATIENCE);
    let acknowledged_us = if output.success() { now_us() } else { u64::MAX };
    let said = format!("{}{}", output.stdout, output.stderr);
    println!("a host dies ({phase}): {}", said.trim().lines().last().unwrap_or_default());
    come_back(&shop.hosts[VICTIM]);
    shop.wait_until_agreed();
    // The next one goes through whatever became of this one.
    let [_, colour] = shop.live_and_idle(1);
    let next_us = now_us();
    let next = shop.try_switch(1, &["switch", SERVICE, colour, "--timeout", "15s"]);
    println!("  the next switch: {}", next.stdout.trim().lines().last().unwrap_or(&next.stderr));
    let end_us = now_us();
    let ledgers = load.end_each();
    let switches = [
        Switched { begun_us, acknowledged_us, colour: to.to_owned() },
        Switched { begun_us: next_us, acknowledged_us: end_us, colour: colour.to_owned() },
    ];
    let is_under_load = are_under_load(&ledgers, &[(begun_us, end_us)]);
    let is_explained = [0, 1].map(|host| {
        println!("  host {}:", shop.hosts[host].name());
        is_explained(&ledgers[host], &switches, (death_us, noticed_us[host]))
    });
    is_under_load && next.success() && is_explained == [true; 2]
}

/// True if nothing failed that was not under way between a death and its being noticed, and no colour has answered that was not live.
fn is_explained(ledger: &Ledger, switches: &[Switched], (death_us, noticed_us): Span) -> bool {
    let (lost, mut unexplained): (Vec<_>, Vec<_>) =
        ledger.failed().into_iter().partition(|request| request.ended_us >= death_us && request.began_us <= noticed_us);
    unexplained.extend(ledger.wrong(switches));
    let (asked, lost_count, unexplained_count) = (ledger.requests.len(), lost.len(), unexplained.len());
    println!(
        "    {asked} requests; {lost_count} failed before the death was noticed, unexplained: {unexplained_count}"
    );
    tell_examples(&lost);
    tell_examples(&unexplained);
    unexplained.is_empty()
}

/// Nothing of it answers any more, nor says that it goes.
fn lose_power(host: &Host) {
    host.ip(&["link", "set", "eth0", "down"]).ok();
    for part in Part::ALL {
        host.weaved().kill9(part);
    }
}

/// It is with the others again.
fn come_back(host: &Host) {
    host.ip(&["link", "set", "eth0", "up"]).ok();
    host.weaved().launch(&[]);
    host.weaved().wait_for_peers(2);
}

/// A host is cut off at a moment of a switch: one that is not asked, then the one that carries it out.
pub(crate) fn cutting(shop: &Shop) -> bool {
    let [live, _] = shop.live_and_idle(0);
    let before = Switched { begun_us: 0, acknowledged_us: now_us(), colour: live.to_owned() };
    let load = shop.begin_load(DEMAND);
    let (mut cuts, mut spans): (Vec<Cut>, Vec<Span>) = Default::default();
    for (on, whose) in [(0, "another host"), (VICTIM, "the host that switches")] {
        for ms in CUTS_MS {
            let from_us = now_us();
            let cut = Cut::make(shop, Plan { on, victim: VICTIM, delay: ms.map(Duration::from_millis) });
            spans.push((from_us, now_us()));
            let when = ms.map_or("right before the order".to_owned(), |ms| format!("{ms} ms after the order"));
            println!("{whose} is cut off {when}: {}", cut.said);
            cuts.push(cut);
        }
    }
    let ledgers = load.end_each();
    let mut is_good = are_under_load(&ledgers, &spans);
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
        tell_examples(&account.unexplained);
        is_good &= account.unexplained.is_empty();
    }
    is_good
}

/// A version turns sick after the switch, and is taken back by itself.
pub(crate) fn sick(shop: &Shop) -> bool {
    let [old, new] = shop.live_and_idle(0);
    let load = shop.begin_load(DEMAND);
    let flags = ["--rollback-on", "errors=5%", "--min-requests", "100", "--watch", "60s"];
    let switched = shop.switch_with(0, new, &flags);
    thread::sleep(Duration::from_secs(2));
    let sick_us = now_us();
    shop.make_sick(new);
    wait_until("it is taken back", SOON, || shop.live_and_idle(1)[0] == old);
    shop.wait_until_agreed();
    let back_us = now_us();
    let ledgers = load.end_each();
    shop.make_well(new);
    let is_under_load = are_under_load(&ledgers, &[(switched.begun_us, back_us)]);
    let ledger = Ledger::of_all(ledgers);
    let sickness = ledger.sickness(new, sick_us, back_us);
    println!("a version turns sick after the switch: {sickness}");
    tell_examples(&sickness.unexplained);
    let back = Switched { begun_us: sick_us, acknowledged_us: back_us, colour: old.to_owned() };
    let wrong = ledger.wrong(&[switched, back]);
    println!("  answered by a colour that was not live: {}", wrong.len());
    tell_examples(&wrong);
    is_under_load && sickness.unexplained.is_empty() && wrong.is_empty()
}

//! A host that is cut off from the others while a service is switched, and what may become of its clients' requests and of the
//! others'.
//!
//! What must hold (docs/adr/0024): the side with the majority goes over, the other one decides nothing and serves what it knew
//! until it hears; then it takes over what was decided, once. A request may fail only where it was under way to an instance
//! beyond the cut, so only as long as its balancer has not noticed.

use std::{thread, time::Duration};

use serde_json::Value;

use crate::{
    Host, Place, SOON,
    ledger::{Ledger, Request, Switched},
    shop::{SERVICE, Shop, now_us},
    wait_until,
};

/// Longer than a switch takes that must first find out that a host is away.
const VERB_PATIENCE: Duration = Duration::from_secs(60);

/// When a host is cut off.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// The host where the switch is ordered.
    pub on: usize,
    /// The host that is cut off.
    pub victim: usize,
    /// So long after the order; right before it if None.
    pub delay: Option<Duration>,
}

/// A cut that is healed again.
#[derive(Clone, Debug)]
pub struct Cut {
    /// As the host saw it where it was ordered. Where nobody has acknowledged it and it came about nevertheless, it counts from
    /// when all were agreed; None where it did not come about.
    pub switched: Option<Switched>,
    /// What the verb said at the end.
    pub said: String,
    plan: Plan,
    from_us: u64,
    /// When each balancer had left out what is beyond the cut.
    noticed_us: [u64; 3],
    /// When all served the same again.
    agreed_us: u64,
}

/// What is to be said of the requests of one host.
#[derive(Debug, Default)]
pub struct Account<'a> {
    /// All.
    pub asked: usize,
    /// Under way beyond the cut when it began, or before it was noticed.
    pub lost: usize,
    /// Answered by what the host knew while it was cut off.
    pub as_before: usize,
    /// None of these: it must be empty.
    pub unexplained: Vec<&'a Request>,
}

impl Cut {
    /// Orders a switch to the colour that is not live, cuts, waits until both sides have noticed, heals, and waits until all are
    /// agreed. What must be refused meanwhile is seen to be.
    #[track_caller]
    pub fn make(shop: &Shop, plan: Plan) -> Self {
        let Plan { on, victim, delay } = plan;
        let revision = shop.record(on)["revision"].clone();
        let [_, colour] = shop.live_and_idle(on);
        let begun_us = now_us();
        let order = || shop.hosts[on].weaved().spawn(&["switch", SERVICE, colour, "--timeout", "15s"]);
        let begun = delay.map(|delay| (order(), thread::sleep(delay)).0);
        let from_us = now_us();
        shop.cut_off(victim);
        let verb = begun.unwrap_or_else(order);
        let noticed_us = [0, 1, 2].map(|host| wait_until_noticed(shop, host, victim));
        let ended = verb.finish(VERB_PATIENCE);
        let acknowledged_us = if ended.success() { now_us() } else { u64::MAX };
        assert!(ended.success() || on == victim, "the majority switches\n{ended}\n{}", shop.describe());
        refuse_on(shop, victim);
        shop.heal();
        shop.wait_until_agreed();
        let agreed_us = now_us();
        let is_made = shop.record(0)["revision"] != revision;
        assert!(is_made || !ended.success(), "what was acknowledged is decided\n{}", shop.describe());
        let acknowledged_us = if acknowledged_us == u64::MAX { agreed_us } else { acknowledged_us };
        let switched = Switched { begun_us, acknowledged_us, colour: colour.to_owned() };
        let said = format!("{}{}", ended.stdout, ended.stderr).trim().lines().last().unwrap_or_default().to_owned();
        Self { switched: is_made.then_some(switched), said, plan, from_us, noticed_us, agreed_us }
    }

    /// Whether a host is on the other side than the one where the switch was ordered: it may hear when all is healed.
    fn is_beyond(&self, host: usize) -> bool {
        (host == self.plan.victim) != (self.plan.on == self.plan.victim)
    }

    fn may_lose(&self, host: usize, request: &Request) -> bool {
        request.ended_us >= self.from_us && request.began_us <= self.noticed_us[host]
    }
}

/// Accounts for every request of one host's clients. `before` is what was live at first.
pub fn account<'a>(host: usize, ledger: &'a Ledger, before: &Switched, cuts: &[Cut]) -> Account<'a> {
    let known = |cut: &Cut| {
        let switched = cut.switched.clone()?;
        let acknowledged_us = if cut.is_beyond(host) { cut.agreed_us } else { switched.acknowledged_us };
        Some(Switched { acknowledged_us, ..switched })
    };
    let switches: Vec<Switched> = std::iter::once(before.clone()).chain(cuts.iter().filter_map(known)).collect();
    let failed = ledger.failed();
    let is_lost = |request: &&&Request| cuts.iter().any(|cut| cut.may_lose(host, request));
    let lost = failed.iter().filter(is_lost).count();
    let as_before = |cut: &Cut| {
        let made = cut.switched.as_ref().filter(|_| cut.is_beyond(host))?;
        let within = ledger.requests.iter().filter(|request| {
            request.began_us >= made.acknowledged_us && request.ended_us < cut.agreed_us && request.status == "200"
        });
        Some(within.filter(|request| request.colour != made.colour).count())
    };
    let unexplained = failed.into_iter().filter(|request| !is_lost(&request));
    let unexplained = unexplained.chain(ledger.wrong(&switches)).chain(ledger.relapsed(&switches)).collect();
    Account { asked: ledger.requests.len(), lost, as_before: cuts.iter().filter_map(as_before).sum(), unexplained }
}

/// The balancer of a host leaves out whatever is beyond the cut. When it was seen to.
#[track_caller]
pub fn wait_until_noticed(shop: &Shop, host: usize, victim: usize) -> u64 {
    let victim_name = Place::name(&*shop.hosts[victim]);
    let is_beyond = |of: &str| if host == victim { of != victim_name } else { of == victim_name };
    wait_until("the instances beyond the cut are left out", SOON, || {
        let backends = backends(&shop.hosts[host]);
        let mut beyond = backends.iter().filter(|backend| backend["host"].as_str().is_some_and(is_beyond)).peekable();
        beyond.peek().is_some() && beyond.all(|backend| backend["state"] == "left out: its host does not answer")
    });
    now_us()
}

fn backends(host: &Host) -> Vec<Value> {
    let said = host.weaved().run(&["balancer", "status", "--json"]).stdout;
    let status: Value = serde_json::from_str(&said).unwrap_or_default();
    status["services"][0]["backends"].as_array().cloned().unwrap_or_default()
}

/// Without a majority nothing is switched.
#[track_caller]
fn refuse_on(shop: &Shop, victim: usize) {
    let [_, colour] = shop.live_and_idle(victim);
    let why = shop.try_switch(victim, &["switch", SERVICE, colour]).refused(1);
    assert!(why.contains("no majority answers"), "{why}");
}

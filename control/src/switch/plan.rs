//! What an order comes to, given what is decided and what the catalogue shows: the guards.

use weaved_api::balancer::ColourShare;

use super::{
    canary::Canary,
    clock::utc,
    order::{Care, Order, What},
    record::{Pending, Record, describe, main_colour, only, only_colour},
    refusal::Refusal,
    rule::ColourRule,
    verdict::{Limits, Watch},
};
use crate::catalogue::View;

/// How long a canary is watched beyond its last step, unless told.
const USUAL_WATCH_MS: u64 = 60_000;

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Plan {
    /// Nothing, for this reason.
    Nothing(String),
    /// The record changes, and what is live does not.
    Settle(Box<Record>, String),
    /// What is live changes.
    Change(Box<Change>),
}

/// A change of what is live.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Change {
    /// What is to be live.
    pub to: Vec<ColourShare>,
    /// The colour that must be ready before; None where it has traffic already.
    pub prepare: Option<String>,
    /// The canary that is out then.
    pub canary: Option<Canary>,
    /// What is watched then.
    pub watch: Option<Watch>,
    /// Why.
    pub reason: String,
}

/// Looks at an order. `blocking` is a switch that is under way and belongs to somebody.
pub(super) fn plan(order: &Order, record: &Record, blocking: Option<&Pending>, view: &View) -> Result<Plan, Refusal> {
    if let Some(pending) = blocking {
        return Err(under_way(&order.service, pending));
    }
    let settled = with_settings(order, record);
    let canary = record.canary.as_ref();
    let no_canary = || Refusal::NoCanary { service: order.service.clone() };
    match &order.what {
        What::Pause | What::Resume => {
            let paused = order.what == What::Pause;
            let canary = canary.ok_or_else(no_canary)?;
            let word = if paused { "paused" } else { "goes on" };
            let record = Record { canary: Some(Canary { paused, held: None, ..canary.clone() }), ..settled };
            Ok(Plan::Settle(Box::new(record), format!("the canary {word} at {}", describe(&canary.shares()))))
        }
        What::Abort => {
            let canary = canary.ok_or_else(no_canary)?;
            require_instances(order, &settled.colours, &canary.from, order.min_healthy, view)?;
            Ok(direct(only(&canary.from), None, None, "canary aborted"))
        }
        What::Step => {
            let canary = canary.ok_or_else(no_canary)?;
            if canary.paused {
                return Err(Refusal::Senseless(format!("the canary of {} is paused", order.service)));
            }
            // Where few ask, nothing else tells that nobody is left to answer.
            require_instances(order, &settled.colours, &canary.to, order.min_healthy, view)?;
            let (to, next) = canary.next();
            let reason = match &next {
                Some(next) => format!("canary, {}", next.step_in_words()),
                None => "canary, all steps passed".into(),
            };
            Ok(direct(to, next, record.watch.clone(), &reason))
        }
        What::Rescue(reason) => {
            let watch = record.watch.as_ref().ok_or_else(no_canary)?;
            require_instances(order, &settled.colours, &watch.back_to, 1, view)?;
            Ok(direct(only(&watch.back_to), None, None, reason))
        }
        What::Back => {
            let none = || Refusal::NoColourBefore { service: order.service.clone() };
            let colour = record.colour_before().ok_or_else(none)?.to_owned();
            let reason = if canary.is_some() { "canary aborted" } else { "rollback" };
            switch_to(order, record, settled, &colour, reason, view)
        }
        What::To(colour) => switch_to(order, record, settled, colour, "", view),
        What::Canary(colour, canary) => {
            let from = only_colour(&record.live).map(ToOwned::to_owned).ok_or_else(|| {
                Refusal::Senseless(format!(
                    "no single colour of {} is live; switch it to one before a canary is sent out",
                    order.service
                ))
            })?;
            if from == *colour {
                return Ok(nothing_to_switch(order, record, settled, colour));
            }
            no_canary_out(order, record)?;
            require_instances(order, &settled.colours, colour, order.min_healthy, view)?;
            let canary = canary.begin(&from, colour);
            let watch = watch_of(order, colour, &from).unwrap_or_else(|| usual_watch(colour, &from));
            let reason = format!("canary, {}", canary.step_in_words());
            let to = canary.shares();
            let prepare = Some(colour.clone());
            Ok(Plan::Change(Box::new(Change { to, prepare, canary: Some(canary), watch: Some(watch), reason })))
        }
    }
}

/// The refusal that names who is in the way.
pub(super) fn under_way(service: &str, pending: &Pending) -> Refusal {
    let Pending { by, host, source, .. } = pending;
    let who = format!("{by} on {host} ({source}), since {}", utc(pending.began_us));
    Refusal::UnderWay { service: service.to_owned(), to: describe(&pending.to), who }
}

/// The words for an order that has nothing to do.
pub(super) fn live_already(service: &str, colour: &str) -> String {
    format!("{colour} of {service} is live already")
}

/// The colour is live already. What the order says of settings holds from now on; what it says of a watch is of no use.
fn nothing_to_switch(order: &Order, record: &Record, settled: Record, colour: &str) -> Plan {
    let mut words = live_already(&order.service, colour);
    if order.watch.is_some() {
        words += "; only a switch is watched, so --rollback-on and --watch have changed nothing";
    }
    if settled == *record { Plan::Nothing(words) } else { Plan::Settle(Box::new(settled), words) }
}

fn switch_to(
    order: &Order,
    record: &Record,
    settled: Record,
    colour: &str,
    reason: &str,
    view: &View,
) -> Result<Plan, Refusal> {
    if only_colour(&record.live) == Some(colour) {
        return Ok(nothing_to_switch(order, record, settled, colour));
    }
    if order.care != Care::Forced && order.what != What::Back {
        no_canary_out(order, record)?;
    }
    require_instances(order, &settled.colours, colour, order.min_healthy, view)?;
    let canary = record.canary.as_ref().map(|canary| canary.from.as_str());
    let from = canary.or_else(|| main_colour(&record.live)).filter(|from| *from != colour);
    if order.watch.is_some() && from.is_none() {
        return Err(nothing_to_go_back_to(order, colour));
    }
    let watch = from.and_then(|from| watch_of(order, colour, from));
    let (prepare, reason) = (Some(colour.to_owned()), reason.to_owned());
    Ok(Plan::Change(Box::new(Change { to: only(colour), prepare, canary: None, watch, reason })))
}

/// The record with what the order says of settings.
pub(super) fn with_settings(order: &Order, record: &Record) -> Record {
    let mut settled = record.clone();
    if let Some(key) = &order.key {
        settled.key.clone_from(key);
    }
    if let Some(colours) = &order.colours {
        settled.colours = colours.clone();
    }
    settled.drain = order.drain.unwrap_or_default().applied_to(record.drain);
    settled
}

fn direct(to: Vec<ColourShare>, canary: Option<Canary>, watch: Option<Watch>, reason: &str) -> Plan {
    Plan::Change(Box::new(Change { to, prepare: None, canary, watch, reason: reason.to_owned() }))
}

fn no_canary_out(order: &Order, record: &Record) -> Result<(), Refusal> {
    let Some(canary) = &record.canary else { return Ok(()) };
    Err(Refusal::CanaryOut {
        service: order.service.clone(),
        to: canary.to.clone(),
        step: format!("{} to {}, {}", canary.from, canary.to, canary.step_in_words()),
    })
}

/// The refusal of a watch that could lead nowhere.
fn nothing_to_go_back_to(order: &Order, colour: &str) -> Refusal {
    Refusal::Senseless(format!(
        "--rollback-on and --watch need a colour to go back to, and {} had none before {colour}; leave them out this time",
        order.service
    ))
}

fn watch_of(order: &Order, colour: &str, from: &str) -> Option<Watch> {
    let watch = order.watch.as_ref()?;
    let (limits, length_ms) = (watch.limits, watch.length_ms);
    Some(Watch { colour: colour.into(), back_to: from.into(), limits, length_ms })
}

/// A canary that nobody looks at is no canary.
fn usual_watch(colour: &str, from: &str) -> Watch {
    let (limits, length_ms) = (Limits::default(), USUAL_WATCH_MS);
    Watch { colour: colour.into(), back_to: from.into(), limits, length_ms }
}

/// The service exists, it has the colour, and enough instances of it take traffic.
fn require_instances(order: &Order, rule: &ColourRule, colour: &str, needed: u32, view: &View) -> Result<(), Refusal> {
    let name = &order.service;
    let Some(service) = view.service(name) else {
        let known = view.services.keys().cloned().collect();
        return Err(Refusal::NoService { service: name.clone(), known });
    };
    let has_colour = |instance| rule.colours(instance).iter().any(|own| own == colour);
    let of_colour: Vec<_> = service.instances.iter().filter(|listed| has_colour(&listed.instance)).collect();
    if of_colour.is_empty() {
        let mut known: Vec<_> = service.instances.iter().flat_map(|listed| rule.colours(&listed.instance)).collect();
        known.sort_unstable();
        known.dedup();
        return Err(Refusal::NoColour { service: name.clone(), colour: colour.to_owned(), known });
    }
    let passing = of_colour.iter().filter(|listed| listed.is_passing()).count();
    // Even who insists, or asks for none, does not want a service without any instance.
    let needed = if order.care == Care::Forced { 1 } else { needed.max(1) };
    if passing < needed as usize {
        let (service, colour, count) = (name.clone(), colour.to_owned(), of_colour.len());
        return Err(Refusal::NotHealthy { service, colour, passing, count, needed });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::switch::{
        canary::CanaryPlan,
        order::{DrainOrder, StreamLimit, WatchOrder},
        record::{DrainLimits, HistoryEntry},
        testing::{instances, view},
    };

    fn order(what: What) -> Order {
        Order::new("web", what, "ada", "a test")
    }

    fn live(colour: &str) -> Record {
        let mut record = Record::new("web");
        record.commit(only(colour), entry());
        record
    }

    fn entry() -> HistoryEntry {
        HistoryEntry {
            revision: 0,
            from: vec![],
            to: vec![],
            by: String::new(),
            source: String::new(),
            host: String::new(),
            at_us: 0,
            reason: String::new(),
            attempt: 0,
            figures: None,
        }
    }

    fn to(colour: &str) -> What {
        What::To(colour.into())
    }

    #[test]
    fn a_colour_that_is_unknown_empty_or_ill_is_refused_with_what_there_is() {
        let view = view(&[("web", instances("blue", 3, 3)), ("web", instances("green", 2, 1)), ("db", vec![])]);
        let refused = |order: &Order| plan(order, &live("blue"), None, &view).unwrap_err();
        let unknown = refused(&Order { service: "wep".into(), ..order(to("green")) });
        assert!(unknown.to_string().contains("there are: web"), "{unknown}");
        assert!(refused(&order(to("gren"))).to_string().contains("its colours are: blue, green"));
        assert!(refused(&Order { min_healthy: 2, ..order(to("green")) }).to_string().contains("only 1 of 2 instances"));
        assert!(matches!(plan(&order(to("green")), &live("blue"), None, &view), Ok(Plan::Change(_))));
    }

    #[test]
    fn the_loser_of_two_is_told_by_whom_from_where_and_since_when() {
        let pending = Pending {
            attempt: 1,
            coordinator: weaved_api::PeerId([1; 32]),
            host: "alpha".into(),
            by: "ada".into(),
            source: "weaved switch".into(),
            to: only("green"),
            began_us: 1_000_000_000_000_000,
            patience_ms: 10_000,
        };
        let view = view(&[("web", instances("green", 1, 1))]);
        let refusal = plan(&order(to("green")), &live("blue"), Some(&pending), &view).unwrap_err();
        let expected = "web is being switched to green by ada on alpha (weaved switch), since 2001-09-09 01:46:40 UTC";
        assert_eq!(refusal.to_string(), expected);
    }

    #[test]
    fn what_is_live_already_is_said_and_settings_are_taken_anyway() {
        let view = view(&[("web", instances("blue", 1, 1))]);
        assert!(matches!(plan(&order(to("blue")), &live("blue"), None, &view), Ok(Plan::Nothing(_))));
        let order = Order { key: Some("backend/current".into()), ..order(to("blue")) };
        match plan(&order, &live("blue"), None, &view) {
            Ok(Plan::Settle(record, _)) => assert_eq!(record.key, "backend/current"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn who_wants_a_watch_of_what_is_live_already_is_told_that_there_is_none() {
        let view = view(&[("web", instances("blue", 1, 1))]);
        let canary = CanaryPlan { steps: vec![10], step_ms: 60_000, paused: false };
        for what in [to("blue"), What::Canary("blue".into(), canary)] {
            for key in [None, Some("backend/current".to_owned())] {
                let watch = Some(WatchOrder { limits: Limits::default(), length_ms: 60_000 });
                let order = Order { watch, key: key.clone(), ..order(what.clone()) };
                let words = match plan(&order, &live("blue"), None, &view) {
                    Ok(Plan::Nothing(words)) if key.is_none() => words,
                    Ok(Plan::Settle(_, words)) if key.is_some() => words,
                    other => panic!("{what:?} {key:?}: {other:?}"),
                };
                let expected = "blue of web is live already; only a switch is watched, so --rollback-on and --watch have changed nothing";
                assert_eq!(words, expected);
            }
        }
    }

    #[test]
    fn what_is_not_said_of_the_drain_stays_as_it_was() {
        let drain = |requests_ms, streams| Some(DrainOrder { requests_ms, streams });
        let mut record = live("blue");
        for (said, requests_ms, streams_ms) in [
            (drain(Some(90_000), None), 90_000, None),
            (drain(None, Some(StreamLimit::AfterMs(5000))), 90_000, Some(5000)),
            (None, 90_000, Some(5000)),
            (drain(Some(10_000), None), 10_000, Some(5000)),
            (drain(None, Some(StreamLimit::Never)), 10_000, None),
        ] {
            record = with_settings(&Order { drain: said, ..order(to("green")) }, &record);
            assert_eq!(record.drain, DrainLimits { requests_ms, streams_ms }, "after {said:?}");
        }
    }

    #[test]
    fn who_insists_gets_an_ill_colour_but_never_an_empty_one() {
        let view = view(&[("web", instances("green", 3, 1)), ("web", instances("red", 3, 0))]);
        let forced = |colour| Order { min_healthy: 3, care: Care::Forced, ..order(to(colour)) };
        assert!(plan(&forced("green"), &live("blue"), None, &view).is_ok());
        assert!(matches!(plan(&forced("red"), &live("blue"), None, &view), Err(Refusal::NotHealthy { .. })));
    }

    #[test]
    fn rollback_leads_to_the_colour_before_and_has_nothing_to_do_at_the_beginning() {
        let view = view(&[("web", instances("blue", 1, 1)), ("web", instances("green", 1, 1))]);
        let mut record = live("blue");
        let none = plan(&order(What::Back), &record, None, &view);
        assert!(matches!(none, Err(Refusal::NoColourBefore { .. })));
        record.commit(only("green"), entry());
        match plan(&order(What::Back), &record, None, &view) {
            Ok(Plan::Change(change)) => assert_eq!((change.to, &*change.reason), (only("blue"), "rollback")),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn while_a_canary_is_out_only_its_end_or_force_changes_the_colours() {
        let view = view(&[("web", instances("blue", 1, 1)), ("web", instances("green", 1, 1))]);
        let plan_of = CanaryPlan { steps: vec![10, 50], step_ms: 60_000, paused: false };
        let Ok(Plan::Change(change)) =
            plan(&order(What::Canary("green".into(), plan_of.clone())), &live("blue"), None, &view)
        else {
            panic!()
        };
        let mut record = live("blue");
        record.commit(change.to, entry());
        record.canary = change.canary;
        record.watch = change.watch;
        for what in [to("green"), to("blue"), What::Canary("green".into(), plan_of)] {
            let refused = plan(&order(what), &record, None, &view).unwrap_err();
            assert!(matches!(refused, Refusal::CanaryOut { .. } | Refusal::Senseless(_)), "{refused}");
        }
        let change = |what| match plan(&order(what), &record, None, &view) {
            Ok(Plan::Change(change)) => describe(&change.to),
            other => panic!("{other:?}"),
        };
        assert_eq!(change(What::Abort), "blue");
        assert_eq!(change(What::Back), "blue");
        assert_eq!(change(What::Step), "blue 50 %, green 50 %");
        assert_eq!(change(What::Rescue("ill".into())), "blue");
    }

    fn with_canary(steps: &[u32], place: usize) -> Record {
        let mut record = live("blue");
        let canary = CanaryPlan { steps: steps.to_vec(), step_ms: 1000, paused: false }.begin("blue", "green");
        let canary = Canary { place, ..canary };
        record.commit(canary.shares(), entry());
        record.canary = Some(canary);
        record
    }

    #[test]
    fn a_canary_takes_no_step_to_a_colour_that_nobody_is_left_of_and_is_not_aborted_to_one() {
        let record = with_canary(&[10, 50], 1);
        let (green, blue) = (("web", instances("green", 2, 2)), ("web", instances("blue", 2, 2)));
        let ill = |colour| ("web", instances(colour, 2, 0));
        for (what, view) in [
            (What::Step, view(std::slice::from_ref(&blue))),
            (What::Step, view(&[blue.clone(), ill("green")])),
            (What::Abort, view(std::slice::from_ref(&green))),
            (What::Abort, view(&[green.clone(), ill("blue")])),
        ] {
            let refused = plan(&order(what.clone()), &record, None, &view).unwrap_err();
            assert!(matches!(refused, Refusal::NoColour { .. } | Refusal::NotHealthy { .. }), "{what:?}: {refused}");
        }
        let both = view(&[green, blue]);
        for what in [What::Step, What::Abort] {
            assert!(matches!(plan(&order(what), &record, None, &both), Ok(Plan::Change(_))));
        }
    }

    #[test]
    fn who_asks_for_no_instance_gets_no_empty_colour_either() {
        let view = view(&[("web", instances("green", 3, 0))]);
        for care in [Care::Careful, Care::Forced] {
            let order = Order { min_healthy: 0, care, ..order(to("green")) };
            assert!(matches!(plan(&order, &live("blue"), None, &view), Err(Refusal::NotHealthy { needed: 1, .. })));
        }
    }

    #[test]
    fn what_is_watched_after_a_canary_leads_back_to_the_colour_before_it_however_far_it_was() {
        let view = view(&[("web", instances("blue", 1, 1)), ("web", instances("green", 1, 1))]);
        let watch = Some(WatchOrder { limits: Limits::default(), length_ms: 60_000 });
        let order = Order { watch, care: Care::Forced, ..order(to("green")) };
        for place in [0, 1] {
            match plan(&order, &with_canary(&[10, 80], place), None, &view) {
                Ok(Plan::Change(change)) => assert_eq!(change.watch.expect("it is watched").back_to, "blue"),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn a_watch_that_could_lead_nowhere_is_refused_and_not_forgotten() {
        let view = view(&[("web", instances("blue", 1, 1)), ("web", instances("green", 1, 1))]);
        let watch = Some(WatchOrder { limits: Limits::default(), length_ms: 60_000 });
        let canary = with_canary(&[10, 80], 1);
        for care in [Care::Careful, Care::Forced, Care::DryRun] {
            let order = Order { watch: watch.clone(), care, ..order(to("blue")) };
            let refused = plan(&order, &Record::new("web"), None, &view).unwrap_err().to_string();
            assert!(refused.contains("web had none before blue; leave them out"), "{refused}");
            // Without it the same order is carried out.
            let without = Order { watch: None, ..order };
            assert!(matches!(plan(&without, &Record::new("web"), None, &view), Ok(Plan::Change(_))));
        }
        // Back to where a canary has come from.
        let order = Order { watch, care: Care::Forced, ..order(to("blue")) };
        assert!(matches!(plan(&order, &canary, None, &view), Err(Refusal::Senseless(_))));
    }

    #[test]
    fn a_canary_that_is_paused_takes_no_step() {
        let mut record = live("blue");
        let canary = CanaryPlan { steps: vec![10, 50], step_ms: 1000, paused: true }.begin("blue", "green");
        record.commit(canary.shares(), entry());
        record.canary = Some(canary);
        let refusal = plan(&order(What::Step), &record, None, &view(&[])).unwrap_err();
        assert_eq!(refusal.to_string(), "the canary of web is paused");
    }
}

//! One service: its backends by colour, and which colours get new requests.
//!
//! Made anew from each state of control; what must outlive that (backends, counts, the moment of a switch) is shared with the one
//! before.
//!
//! ```text
//!   before ──────────────▶ at_us ──────────────▶ live
//!             first request at or after it, or the timer: whoever is first marks the moment
//! ```
//!
//! INVARIANT: a moment that has come stays: no request follows `before` after one has followed `live`, on whichever thread.

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
    time::Instant,
};

use weaved_api::{
    balancer::{BalancedService, BalancedServiceReport, ColourShare, SwitchState},
    gateway::Standing,
};

use super::{
    backend::Backend,
    clock,
    group::{ColourCounts, Group},
    limits::{MAX_COLOURS, MAX_SWITCH_WAIT},
    prepare::Preparation,
};

/// One service.
#[derive(Debug)]
pub(super) struct Service {
    pub(super) rule: BalancedService,
    /// Instances that take traffic, whatever their colour.
    pub(super) all: Arc<Group>,
    /// By colour; an instance of several is in several.
    pub(super) colours: BTreeMap<String, Arc<Group>>,
    before: Choice,
    live: Choice,
    pub(super) moment: Arc<Moment>,
    pub(super) preparation: Option<Arc<Preparation>>,
    /// All instances, for people.
    pub(super) listed: Vec<Listed>,
    /// For instances without a colour, and for colours that nobody has any more.
    pub(super) counts: BTreeMap<String, Arc<ColourCounts>>,
}

/// An instance, whether it takes traffic or not.
#[derive(Clone, Debug)]
pub(super) struct Listed {
    pub(super) id: String,
    pub(super) host: String,
    pub(super) colours: Vec<String>,
    pub(super) standing: Standing,
    /// See [`weaved_api::gateway::NamedInstance::weight`].
    pub(super) weight: u16,
    /// None without an address or a port.
    pub(super) backend: Option<Arc<Backend>>,
}

/// When a switch comes into force, shared by all threads.
#[derive(Debug)]
pub(super) struct Moment {
    pub(super) revision: u64,
    /// What was in force before.
    before_revision: u64,
    pub(super) at_us: u64,
    /// It has come by then, whatever the wall's clock says.
    latest: Instant,
    came: OnceLock<Came>,
}

/// When a moment has come, on both clocks: hosts compare the wall's, which may be set; what takes its time from then on goes by the other.
#[derive(Debug)]
struct Came {
    /// Microseconds of Unix time.
    at_us: u64,
    at: Instant,
}

/// Which groups get new requests.
#[derive(Debug)]
enum Choice {
    All,
    /// With the sum of the weights up to and including each.
    Weighted(Vec<(Arc<Group>, u64)>),
}

/// Why a request leads nowhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NoGroup {
    /// The colour that is asked for has no instance that takes traffic, or does not exist.
    Empty(String),
}

impl Service {
    /// `previous` is the same service as it was until now.
    pub(super) fn new(rule: BalancedService, listed: Vec<Listed>, previous: Option<&Self>, now_us: u64) -> Self {
        let mut counts = previous.map(|previous| previous.counts.clone()).unwrap_or_default();
        let mut count = |colour: &str| {
            let new = || Arc::new(ColourCounts::new(colour));
            Arc::clone(counts.entry(colour.to_owned()).or_insert_with(new))
        };
        let mut all = Vec::new();
        let mut by_colour: BTreeMap<String, Vec<(Arc<Backend>, u16)>> = BTreeMap::new();
        for instance in listed.iter().filter(|instance| instance.standing.takes_traffic()) {
            let Some(backend) = &instance.backend else { continue };
            let weighed = (Arc::clone(backend), instance.weight);
            for colour in &instance.colours {
                by_colour.entry(colour.clone()).or_default().push(weighed.clone());
            }
            all.push(weighed);
        }
        let named = rule.switch.live.iter().chain(&rule.switch.before).map(|share| &share.colour);
        let named = named.chain(rule.switch.prepare.iter().map(|prepare| &prepare.colour));
        for colour in named {
            by_colour.entry(colour.clone()).or_default();
        }
        let all = Arc::new(Group::new(count(""), all));
        let group = |(colour, backends): (String, Vec<_>)| {
            let group = Group::new(count(&colour), backends);
            (colour, Arc::new(group))
        };
        let colours: BTreeMap<String, Arc<Group>> = by_colour.into_iter().map(group).collect();
        if counts.len() > MAX_COLOURS {
            counts.retain(|colour, counts| colour.is_empty() || colours.contains_key(colour) || counts.is_busy());
        }
        let switch = &rule.switch;
        let moment = Moment::following(switch, previous.map(|previous| &previous.moment), now_us);
        let preparation = switch.prepare.as_ref().map(|prepare| {
            let backends = colours.get(&prepare.colour).map(|group| group.backends.clone()).unwrap_or_default();
            let known = previous.and_then(|previous| previous.preparation.as_ref());
            Preparation::following(prepare.attempt, backends, known)
        });
        let (before, live) = (Choice::new(&switch.before, &colours), Choice::new(&switch.live, &colours));
        let service = Self { rule, all, colours, before, live, moment, preparation, listed, counts };
        service.mark_idle();
        service
    }

    /// Who gets a new request: of the colour that was asked for, or else of what is live. `draw` decides between colours.
    pub(super) fn group(&self, asked: Option<&str>, draw: u64) -> Result<&Arc<Group>, NoGroup> {
        let group = match asked {
            Some(colour) => self.colours.get(colour).ok_or_else(|| NoGroup::Empty(colour.to_owned()))?,
            None => match self.choice() {
                Choice::All => &self.all,
                Choice::Weighted(shares) => weighted(shares, draw).ok_or_else(|| NoGroup::Empty(names(shares)))?,
            },
        };
        if group.backends.is_empty() {
            return Err(NoGroup::Empty(group.colour().to_owned()));
        }
        Ok(group)
    }

    /// The colour in force that has the backend with this mark.
    pub(super) fn group_of_mark(&self, mark: u64) -> Option<&Arc<Group>> {
        let has = |group: &Group| group.backends.iter().any(|backend| backend.mark == mark);
        match self.choice() {
            Choice::All => Some(&self.all).filter(|group| has(group)),
            Choice::Weighted(shares) => {
                let mut below = 0;
                let with_weight = shares.iter().filter(|(_, sum)| {
                    let has_weight = *sum > below;
                    below = *sum;
                    has_weight
                });
                with_weight.map(|(group, _)| group).find(|group| has(group))
            }
        }
    }

    fn choice(&self) -> &Choice {
        if self.moment.has_come() { &self.live } else { &self.before }
    }

    /// What new requests follow.
    pub(super) fn in_force(&self) -> &[ColourShare] {
        if self.moment.has_come() { &self.rule.switch.live } else { &self.rule.switch.before }
    }

    /// Connections are kept to those that may get requests.
    pub(super) fn mark_idle(&self) {
        let has_come = self.moment.has_come();
        let choices = if has_come { vec![&self.live] } else { vec![&self.before, &self.live] };
        let is_all = choices.iter().any(|choice| matches!(choice, Choice::All));
        self.all.backends.iter().for_each(|backend| backend.set_keeps_idle(is_all));
        // Those that are told to stop wait for connections to end, too.
        let left_out = self.listed.iter().filter(|instance| !instance.standing.takes_traffic());
        left_out.filter_map(|instance| instance.backend.as_ref()).for_each(|backend| backend.set_keeps_idle(false));
        for choice in choices {
            if let Choice::Weighted(shares) = choice {
                let kept = shares.iter().flat_map(|(group, _)| &group.backends);
                kept.for_each(|backend| backend.set_keeps_idle(true));
            }
        }
        let prepared = self.preparation.iter().flat_map(|preparation| preparation.backends());
        prepared.for_each(|backend| backend.set_keeps_idle(true));
    }

    /// Backends that get no new requests any more because their colour is not live.
    pub(super) fn retired(&self) -> Vec<Arc<Backend>> {
        let Choice::Weighted(shares) = self.choice() else { return Vec::new() };
        let is_live =
            |backend: &Backend| shares.iter().any(|(group, _)| group.backends.iter().any(|live| live.id == backend.id));
        let known = self.listed.iter().filter_map(|instance| instance.backend.as_ref());
        known.filter(|backend| !is_live(backend)).cloned().collect()
    }

    pub(super) fn report(&self) -> BalancedServiceReport {
        let healthy = |colour: &str| match self.colours.get(colour) {
            Some(group) => group.backends.len(),
            None if colour.is_empty() => {
                let plain = |listed: &&Listed| listed.standing.takes_traffic() && listed.colours.is_empty();
                self.listed.iter().filter(plain).count()
            }
            None => 0,
        };
        BalancedServiceReport {
            service: self.rule.name.clone(),
            revision: self.moment.revision_in_force(),
            switched_at_us: self.moment.came.get().map_or(0, |came| came.at_us),
            prepared: self.preparation.as_ref().map(|preparation| preparation.report()),
            colours: self.counts.iter().map(|(colour, counts)| counts.report(healthy(colour))).collect(),
        }
    }
}

impl Moment {
    fn following(switch: &SwitchState, previous: Option<&Arc<Self>>, now_us: u64) -> Arc<Self> {
        if let Some(same) = previous.filter(|previous| previous.revision == switch.revision) {
            return Arc::clone(same);
        }
        let (now, latest_us) = (Instant::now(), now_us + MAX_SWITCH_WAIT.as_micros() as u64);
        let moment = Self {
            revision: switch.revision,
            before_revision: previous
                .map_or_else(|| switch.revision.saturating_sub(1), |previous| previous.revision_in_force()),
            at_us: switch.at_us.min(latest_us),
            latest: now + MAX_SWITCH_WAIT,
            came: OnceLock::new(),
        };
        moment.look(now_us, now);
        Arc::new(moment)
    }

    /// Whether it has come; marks it when it has.
    pub(super) fn has_come(&self) -> bool {
        self.came.get().is_some() || self.look(clock::wall_us(), Instant::now())
    }

    fn look(&self, now_us: u64, now: Instant) -> bool {
        if now_us < self.at_us && now < self.latest {
            return false;
        }
        let is_first = self.came.set(Came { at_us: now_us.max(1), at: now }).is_ok();
        if is_first && self.revision > 0 {
            tracing::debug!(revision = self.revision, late_us = now_us.saturating_sub(self.at_us), "switched");
        }
        true
    }

    fn revision_in_force(&self) -> u64 {
        if self.has_come() { self.revision } else { self.before_revision }
    }

    /// When it came; None as long as it has not.
    pub(super) fn came(&self) -> Option<Instant> {
        if self.has_come() { self.came.get().map(|came| came.at) } else { None }
    }
}

impl Choice {
    fn new(shares: &[ColourShare], colours: &BTreeMap<String, Arc<Group>>) -> Self {
        if shares.is_empty() {
            return Self::All;
        }
        let mut sum = 0;
        let groups = shares.iter().filter_map(|share| {
            sum += u64::from(share.weight);
            Some((Arc::clone(colours.get(&share.colour)?), sum))
        });
        Self::Weighted(groups.collect())
    }
}

fn weighted(shares: &[(Arc<Group>, u64)], draw: u64) -> Option<&Arc<Group>> {
    let (_, total) = shares.last().filter(|(_, total)| *total > 0)?;
    let place = draw % total;
    shares.iter().find(|(_, sum)| place < *sum).map(|(group, _)| group)
}

fn names(shares: &[(Arc<Group>, u64)]) -> String {
    shares.iter().map(|(group, _)| group.colour()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use weaved_api::balancer::Prepare;

    use super::*;
    use crate::balancer::{backend::sample, flight::Place};

    fn rule(switch: SwitchState) -> BalancedService {
        BalancedService { switch, ..BalancedService::plain("web") }
    }

    fn listed(number: u8, colour: &str, standing: Standing) -> Listed {
        let backend = Some(sample(number));
        let colours = vec![colour.to_owned()];
        Listed { id: format!("web{number}"), host: "a".into(), colours, standing, weight: 1, backend }
    }

    fn two_colours() -> Vec<Listed> {
        vec![
            listed(1, "blue", Standing::Passing),
            listed(2, "green", Standing::Passing),
            listed(3, "green", Standing::Critical),
        ]
    }

    fn share(colour: &str, weight: u32) -> ColourShare {
        ColourShare { colour: colour.into(), weight }
    }

    fn switch(revision: u64, live: &[(&str, u32)], before: &[(&str, u32)], at_us: u64) -> SwitchState {
        let shares = |of: &[(&str, u32)]| of.iter().map(|(colour, weight)| share(colour, *weight)).collect();
        SwitchState {
            revision,
            live: shares(live),
            before: shares(before),
            at_us,
            prepare: None,
            drain: Duration::from_secs(1),
            stream_drain: None,
        }
    }

    fn colour(service: &Service) -> &str {
        service.group(None, 0).unwrap().colour()
    }

    #[test]
    fn without_a_switch_all_instances_that_are_well_get_requests() {
        let service = Service::new(rule(SwitchState::default()), two_colours(), None, 1);
        assert_eq!(service.group(None, 0).unwrap().backends.len(), 2);
        assert_eq!(service.report().revision, 0);
    }

    #[test]
    fn requests_follow_before_until_the_instant_and_live_from_it_on_for_ever() {
        let soon = clock::wall_us() + 50_000;
        let state = switch(3, &[("green", 1)], &[("blue", 1)], soon);
        let service = Service::new(rule(state.clone()), two_colours(), None, clock::wall_us());
        assert_eq!((colour(&service), service.report().revision), ("blue", 2));
        while clock::wall_us() < soon {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!((colour(&service), service.report().revision), ("green", 3));
        let at = service.report().switched_at_us;
        assert!(at >= soon);
        // The same state again, with an instant that lies ahead: it has come already.
        let later = SwitchState { at_us: soon + 10_000_000, ..state };
        let again = Service::new(rule(later), two_colours(), Some(&service), clock::wall_us());
        assert_eq!((colour(&again), again.report().switched_at_us), ("green", at));
    }

    #[test]
    fn an_instant_far_ahead_is_not_waited_for() {
        let now = 1_000_000_000;
        let state = switch(1, &[("green", 1)], &[], now + 3_600_000_000);
        let service = Service::new(rule(state), two_colours(), None, now);
        assert_eq!(service.moment.at_us, now + MAX_SWITCH_WAIT.as_micros() as u64);
    }

    #[test]
    fn an_instant_is_not_waited_for_longer_when_the_clock_of_the_wall_is_set_back() {
        let (now_us, now) = (clock::wall_us() + 3_600_000_000, Instant::now());
        let state = switch(1, &[("green", 1)], &[("blue", 1)], now_us + 500_000);
        let service = Service::new(rule(state), two_colours(), None, now_us);
        let set_back_us = clock::wall_us();
        assert!(!service.moment.look(set_back_us, now + MAX_SWITCH_WAIT / 2));
        assert!(service.moment.look(set_back_us, now + MAX_SWITCH_WAIT * 2));
        assert_eq!(colour(&service), "green");
    }

    #[test]
    fn a_colour_without_a_healthy_instance_is_refused_and_never_replaced_by_another() {
        let mut listed = two_colours();
        listed[1].standing = Standing::Critical;
        let service = Service::new(rule(switch(1, &[("green", 1)], &[], 1)), listed, None, 2);
        assert_eq!(service.group(None, 0).unwrap_err(), NoGroup::Empty("green".into()));
        assert_eq!(service.group(Some("red"), 0).unwrap_err(), NoGroup::Empty("red".into()));
        assert_eq!(service.group(Some("blue"), 0).unwrap().colour(), "blue");
    }

    #[test]
    fn weights_share_requests_and_a_weight_of_nothing_gets_none() {
        let service =
            Service::new(rule(switch(1, &[("blue", 3), ("red", 0), ("green", 1)], &[], 1)), two_colours(), None, 2);
        let blue = (0..400).filter(|draw| service.group(None, *draw).unwrap().colour() == "blue").count();
        assert_eq!(blue, 300);
        let none = Service::new(rule(switch(1, &[("blue", 0)], &[], 1)), two_colours(), None, 2);
        assert!(none.group(None, 0).is_err());
    }

    #[test]
    fn where_each_version_is_a_colour_of_its_own_those_that_are_gone_are_forgotten_unless_they_are_busy() {
        let mut service: Option<Service> = None;
        let mut busy = None;
        for version in 0..500 {
            let colour = format!("version-{version}");
            let listed = vec![listed(1, &colour, Standing::Passing)];
            let live = rule(switch(version + 1, &[(colour.as_str(), 1)], &[], 1));
            let next = Service::new(live, listed, service.as_ref(), 2);
            assert!(next.report().colours.iter().any(|known| known.colour == colour));
            if version == 0 {
                let group = &next.colours[&colour];
                busy = Some(Place::take(group, &group.backends[0]));
            }
            service = Some(next);
        }
        let report = service.unwrap().report();
        assert!(report.colours.len() <= MAX_COLOURS, "{}", report.colours.len());
        assert!(report.colours.iter().any(|known| known.colour == "version-0" && known.in_flight == 1));
        drop(busy);
    }

    #[test]
    fn idle_connections_of_a_colour_that_is_not_live_are_not_kept_unless_it_is_being_prepared() {
        let listed = two_colours();
        let (blue, green) = (listed[0].backend.clone().unwrap(), listed[1].backend.clone().unwrap());
        let first = Service::new(rule(switch(1, &[("blue", 1)], &[], 1)), listed.clone(), None, 2);
        assert!(blue.keeps_idle() && !green.keeps_idle());
        let retired: Vec<u64> = first.retired().iter().map(|backend| backend.id).collect();
        assert!(retired.contains(&green.id) && !retired.contains(&blue.id));
        let mut preparing = switch(1, &[("blue", 1)], &[], 1);
        preparing.prepare = Some(Prepare { attempt: 7, colour: "green".into() });
        let second = Service::new(rule(preparing), listed.clone(), Some(&first), 3);
        assert!(blue.keeps_idle() && green.keeps_idle());
        let mut third =
            Service::new(rule(switch(2, &[("green", 1)], &[("blue", 1)], 3)), listed.clone(), Some(&second), 4);
        assert!(!blue.keeps_idle() && green.keeps_idle());
        for (standing, keeps_idle) in [(Standing::Draining, false), (Standing::Passing, true)] {
            let listed = vec![Listed { standing, ..listed[1].clone() }];
            third = Service::new(third.rule.clone(), listed, Some(&third), 5);
            assert_eq!(green.keeps_idle(), keeps_idle, "{standing:?}");
        }
    }
}

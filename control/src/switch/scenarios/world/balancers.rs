//! The balancers of the scenarios: what gateways do with what control tells them.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use weaved_api::balancer::{BalancedServiceReport, BalancerReport, ColourReport, ColourShare, Prepared, SwitchState};

use super::{
    super::super::{record::main_colour, verdict::Counts},
    Broken, Event, World,
};

#[derive(Default)]
pub(super) struct Balancer {
    told: SwitchState,
    pub(super) revision: u64,
    switched_at_us: u64,
    pub(super) serving: Vec<ColourShare>,
    prepared: Option<Prepared>,
    is_sick: bool,
    /// Nobody answers at the addresses of instances, whatever their checks say.
    is_cut_off: bool,
    counts: BTreeMap<String, Counts>,
    /// Requests of each colour that wait for long.
    waiting: BTreeMap<String, u64>,
}

impl Balancer {
    /// What it was told is gone; what is wrong with the instances is not.
    pub(super) fn lose_power(&mut self) {
        *self = Self { is_sick: self.is_sick, is_cut_off: self.is_cut_off, ..Self::default() };
    }
}

impl World {
    pub(in crate::switch::scenarios) fn balancer_count(&self) -> usize {
        self.hosts.iter().filter(|host| host.balancer.is_some()).count()
    }

    pub(in crate::switch::scenarios) fn make_balancers_sick(&mut self) {
        self.hosts.iter_mut().filter_map(|host| host.balancer.as_mut()).for_each(|balancer| balancer.is_sick = true);
    }

    /// All instances of the new colour, and each balancer hears of it.
    pub(in crate::switch::scenarios) fn kill_instances(&mut self) {
        self.make_balancers_sick();
        for index in 0..self.hosts.len() {
            let prepared = self.hosts[index].balancer.as_mut().and_then(|balancer| balancer.prepared.as_mut());
            if let Some(prepared) = prepared.filter(|prepared| prepared.is_settled) {
                *prepared = Prepared { healthy: 0, warm: 0, ..prepared.clone() };
                self.report(index);
            }
        }
    }

    pub(in crate::switch::scenarios) fn cut_a_balancer_off_from_instances(&mut self) {
        self.hosts.iter_mut().find_map(|host| host.balancer.as_mut()).expect("there is a balancer").is_cut_off = true;
    }

    /// Each balancer has had these requests to a colour.
    pub(in crate::switch::scenarios) fn serve(&mut self, colour: &str, counts: &Counts) {
        for index in 0..self.hosts.len() {
            if let Some(balancer) = &mut self.hosts[index].balancer {
                balancer.counts.insert(colour.to_owned(), counts.clone());
                self.report(index);
            }
        }
    }

    /// All gateways begin to count anew.
    pub(in crate::switch::scenarios) fn restart_gateways(&mut self) {
        for index in 0..self.hosts.len() {
            if let Some(balancer) = &mut self.hosts[index].balancer {
                (balancer.counts, balancer.waiting) = Default::default();
                self.call(index, |switches, _| switches.handle_balancer_away("it is restarted"));
            }
        }
    }

    /// So many requests to a colour wait for an answer at each balancer, for long.
    pub(in crate::switch::scenarios) fn let_wait(&mut self, colour: &str, count: u64) {
        for index in 0..self.hosts.len() {
            if let Some(balancer) = &mut self.hosts[index].balancer {
                balancer.waiting.insert(colour.to_owned(), count);
                self.report(index);
            }
        }
    }

    /// Between the first and the last balancer that went over to the latest revision, in true time.
    pub(in crate::switch::scenarios) fn true_spread(&self) -> Duration {
        let flips = self.flips.last_key_value().expect("there was a switch").1;
        let (first, last) = (flips.values().min(), flips.values().max());
        *last.expect("somebody went over") - *first.expect("somebody went over")
    }

    /// The colours that balancers of running hosts serve.
    pub(in crate::switch::scenarios) fn live_colours(&self) -> Vec<String> {
        let balancers =
            self.hosts.iter().filter(|host| host.switches.is_some()).filter_map(|host| host.balancer.as_ref());
        let colours: BTreeSet<_> = balancers.filter_map(|balancer| main_colour(&balancer.serving)).collect();
        colours.into_iter().map(ToOwned::to_owned).collect()
    }

    /// The gateway is told.
    pub(super) fn look(&mut self, index: usize) {
        let Some(switches) = &self.hosts[index].switches else { return };
        let state = switches.state("web", 0);
        let wall_us = self.wall_us(index);
        let Some(balancer) = &mut self.hosts[index].balancer else { return };
        let wait = Duration::from_micros(state.at_us.saturating_sub(wall_us));
        let (revision, prepare) = (state.revision, state.prepare.clone());
        balancer.told = state;
        if prepare.as_ref().map(|prepare| prepare.attempt)
            != balancer.prepared.as_ref().map(|prepared| prepared.attempt)
        {
            balancer.prepared =
                prepare.as_ref().map(|prepare| Prepared { attempt: prepare.attempt, ..Prepared::default() });
            if let Some(prepare) = prepare {
                let delay = self.delay() + Duration::from_millis(5);
                self.at(delay, Event::Prepared(index, prepare.attempt));
            }
        }
        if self.hosts[index].balancer.as_ref().is_some_and(|balancer| balancer.revision != revision) {
            assert!(wait <= Duration::from_secs(1), "WEAVED_SEED={}: h{index} would wait {wait:?}", self.seed);
            self.at(wait, Event::Flip(index, revision));
        }
    }

    pub(super) fn flip(&mut self, index: usize, revision: u64) {
        let (wall_us, now, is_broken) = (self.wall_us(index), self.now, self.broken == Some(Broken::Balancers));
        if self.hosts[index].switches.is_none() {
            return;
        }
        let Some(balancer) = &mut self.hosts[index].balancer else { return };
        // A moment that was told anew comes with another event.
        if balancer.told.revision != revision || balancer.revision == revision || balancer.told.at_us > wall_us {
            return;
        }
        assert!(revision > balancer.revision, "WEAVED_SEED={}: h{index} goes back to {revision}", self.seed);
        (balancer.revision, balancer.switched_at_us) = (revision, wall_us);
        if !is_broken {
            balancer.serving.clone_from(&balancer.told.live);
        }
        self.flips.entry(revision).or_default().insert(index, now);
        self.report(index);
    }

    pub(super) fn prepared(&mut self, index: usize, attempt: u64) {
        let Some(balancer) = &mut self.hosts[index].balancer else { return };
        if let Some(prepared) = balancer.prepared.as_mut().filter(|prepared| prepared.attempt == attempt) {
            let healthy = if balancer.is_sick { 0 } else { 3 };
            let warm = if balancer.is_cut_off { 0 } else { healthy };
            *prepared = Prepared { attempt, healthy, warm, is_settled: true };
            self.report(index);
        }
    }

    pub(super) fn report(&mut self, index: usize) {
        let Some(balancer) = &self.hosts[index].balancer else { return };
        let names: BTreeSet<_> = balancer.counts.keys().chain(balancer.waiting.keys()).collect();
        let colours = names.into_iter().map(|colour| {
            let counts = balancer.counts.get(colour).cloned().unwrap_or_default();
            ColourReport {
                colour: colour.clone(),
                requests: counts.requests,
                failures: counts.failures,
                waiting: balancer.waiting.get(colour).copied().unwrap_or_default(),
                latency: counts.latency,
                ..ColourReport::default()
            }
        });
        let service = BalancedServiceReport {
            service: "web".into(),
            revision: balancer.revision,
            switched_at_us: balancer.switched_at_us,
            prepared: balancer.prepared.clone(),
            colours: colours.collect(),
        };
        let report = BalancerReport { services: vec![service], problems: vec![] };
        self.call(index, |switches, _| switches.handle_balancer_report(report));
    }
}

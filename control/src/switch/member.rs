//! A host's part in switches: makes a colour ready, goes over when it is decided, and says so.
//!
//! When a decision takes effect is told in time from now ([`SwitchMessage::Commit`]), so no two clocks are compared. What
//! is heard in another way is late and takes effect at once, but for two cases: its moment by this host's clock is about to
//! come, or this host was being prepared, so that the coordinator's own word is on its way.
//!
//! INVARIANT: a decision replaces an older one and never a newer one, whatever the order in which they come; and it takes
//! effect at most [`MAX_LEAD`] after it was heard.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use weaved_api::{
    PeerId,
    balancer::{BalancedServiceReport, BalancerReport, ColourReport, Prepare, SwitchState},
};

use super::{
    ServiceFacts,
    around::{Around, Out},
    limits::{MAX_LEAD, MAX_SERVICES, MIN_LEAD},
    message::{Core, Flip, Readiness, SwitchMessage},
    rule::ColourRule,
    verdict::{Counts, Watch},
};
use crate::catalogue::Instance;

/// A preparation is kept so long after its time, for a decision that is on its way.
const PREPARATION_GRACE: Duration = Duration::from_secs(2);

/// What this host knows and does.
#[derive(Debug, Default)]
pub(super) struct Member {
    known: BTreeMap<String, Known>,
    preparing: BTreeMap<String, Preparing>,
    balanced: BTreeMap<String, ServiceFacts>,
    /// Why the gateway does not answer, if it does not.
    away: Option<String>,
    reports: BTreeMap<String, BalancedServiceReport>,
    version: u64,
}

/// A decision that is in force here, or about to be.
#[derive(Debug)]
struct Known {
    core: Core,
    flip_at: Instant,
    /// The same by the wall clock: what the balancer is told.
    at_us: u64,
    /// Who wants to know when it is in force.
    asker: Option<(PeerId, u64)>,
    /// What the balancer has counted since; None until it has said.
    counted: Option<Counted>,
}

/// What a balancer has counted, in its own reports.
#[derive(Debug)]
struct Counted {
    /// When the decision was heard. Without a colour whose counts have begun anew since: its gateway was restarted.
    baseline: Vec<ColourReport>,
    /// The latest. Kept while the gateway is away, because nothing else tells that it comes back with less.
    latest: Vec<ColourReport>,
}

#[derive(Debug)]
struct Preparing {
    attempt: u64,
    colour: String,
    colours: ColourRule,
    coordinator: PeerId,
    until: Instant,
    answered: Option<Readiness>,
    /// True when the record has named the attempt.
    is_recorded: bool,
}

/// How a decision came here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// From its coordinator, at once; it takes effect in so many microseconds.
    Directly { in_us: u64 },
    /// With the keys.
    InPassing,
    /// After a start, or from a peer that has come up.
    Late,
}

impl Member {
    /// Grows when what the balancer must be told has changed.
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    pub(super) fn next_timeout(&self) -> Option<Instant> {
        self.preparing.values().map(|preparing| preparing.until).min()
    }

    /// Preparations whose time is over end.
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        let count = self.preparing.len();
        self.preparing.retain(|_, preparing| preparing.until > now);
        self.version += u64::from(self.preparing.len() != count);
    }

    pub(super) fn handle_balanced(&mut self, services: Vec<ServiceFacts>) {
        let balanced = services.into_iter().take(MAX_SERVICES).map(|facts| (facts.name.clone(), facts)).collect();
        if balanced != self.balanced {
            self.balanced = balanced;
            self.version += 1;
        }
    }

    pub(super) fn balanced(&self) -> impl Iterator<Item = &ServiceFacts> {
        self.balanced.values()
    }

    pub(super) fn handle_away(&mut self, reason: &str, out: &mut Out) {
        self.away = Some(reason.to_owned());
        self.reports.clear();
        self.answer_changed(out);
    }

    pub(super) fn handle_report(&mut self, report: BalancerReport, out: &mut Out) {
        self.away = None;
        self.reports = report.services.into_iter().map(|report| (report.service.clone(), report)).collect();
        self.answer_changed(out);
        self.go_on_counting();
        let services: Vec<_> = self.known.keys().cloned().collect();
        for service in services {
            self.tell_if_done(&service, out);
        }
    }

    /// What was counted before control has started, or has asked, was counted before the decision for all that is known.
    fn go_on_counting(&mut self) {
        for (service, known) in &mut self.known {
            let Some(report) = self.reports.get(service) else { continue };
            match &mut known.counted {
                Some(counted) => counted.go_on(&report.colours),
                None => known.counted = Some(Counted::begin(&report.colours)),
            }
        }
    }

    /// Takes in a decision.
    pub(super) fn hear(&mut self, core: Core, heard: Heard, around: &Around<'_>) {
        let (now, known_count) = (around.now, self.known.len());
        let before = self.known.get_mut(&core.service);
        let by_clock = Duration::from_micros(core.at_us.saturating_sub(around.wall_us));
        let flip_at = match heard {
            Heard::Directly { in_us } => now + Duration::from_micros(in_us).min(MAX_LEAD),
            Heard::InPassing if by_clock > Duration::ZERO && by_clock <= MIN_LEAD => now + by_clock,
            Heard::InPassing if self.preparing.contains_key(&core.service) => now + MIN_LEAD,
            Heard::InPassing | Heard::Late => now,
        };
        let at_us = around.wall_us + (flip_at - now).as_micros() as u64;
        // The first that is heard of a service may be what held before the preparation.
        let ends_preparation = before.is_some() || matches!(heard, Heard::Directly { .. });
        match before {
            Some(known) if known.core.stamp.precedence() >= core.stamp.precedence() => {
                // The coordinator's word on the moment counts, as long as that is to come.
                let is_directly = matches!(heard, Heard::Directly { .. }) && known.core.revision == core.revision;
                if is_directly && known.flip_at > now && known.flip_at.max(flip_at) - known.flip_at.min(flip_at) > NEAR
                {
                    (known.flip_at, known.at_us) = (flip_at, at_us);
                    self.version += 1;
                }
                return;
            }
            Some(known) if known.core.revision == core.revision && known.core.live == core.live => {
                let is_same = (known.core.drain, &known.core.colours) == (core.drain, &core.colours);
                self.version += u64::from(!is_same);
                known.core = core;
                return;
            }
            None if known_count >= MAX_SERVICES => return,
            _ => {}
        }
        if ends_preparation {
            self.preparing.remove(&core.service);
        }
        let counted = self.reports.get(&core.service).map(|report| Counted::begin(&report.colours));
        self.known.insert(core.service.clone(), Known { core, flip_at, at_us, asker: None, counted });
        self.version += 1;
    }

    /// Begins, or goes on, to make a colour ready.
    pub(super) fn on_prepare(&mut self, from: PeerId, ask: Asked, now: Instant, out: &mut Out) {
        let Asked { attempt, service, colour, colours, patience } = ask;
        if !self.balanced.contains_key(&service) {
            return out.send(from, SwitchMessage::Prepared { attempt, state: Readiness::NotMine });
        }
        let before = self.preparing.get(&service).filter(|preparing| preparing.attempt == attempt);
        let (is_new, is_recorded) = (before.is_none(), before.is_some_and(|preparing| preparing.is_recorded));
        let until = now + patience + PREPARATION_GRACE;
        let preparing = Preparing { attempt, colour, colours, coordinator: from, until, answered: None, is_recorded };
        self.preparing.insert(service.clone(), preparing);
        self.version += u64::from(is_new);
        self.answer(&service, out);
    }

    /// The attempt is not made.
    pub(super) fn on_cancel(&mut self, service: &str, attempt: u64) {
        if self.preparing.get(service).is_some_and(|preparing| preparing.attempt == attempt) {
            self.preparing.remove(service);
            self.version += 1;
        }
    }

    /// The record says which attempt is under way. It may be older than what the coordinator has said itself: a preparation
    /// ends only when the record has spoken of it before.
    pub(super) fn on_pending(&mut self, service: &str, pending: Option<u64>) {
        let Some(preparing) = self.preparing.get_mut(service) else { return };
        if pending == Some(preparing.attempt) {
            preparing.is_recorded = true;
        } else if preparing.is_recorded {
            self.preparing.remove(service);
            self.version += 1;
        }
    }

    /// Somebody wants to know when a decision is in force.
    pub(super) fn on_asked(&mut self, from: PeerId, attempt: u64, service: &str, revision: u64, out: &mut Out) {
        let state = self.flip(service, revision);
        out.send(from, SwitchMessage::Told { attempt, state });
        if let Some(known) = self.known.get_mut(service) {
            known.asker = (state == Flip::Waiting).then_some((from, attempt));
        }
    }

    /// What the balancer is to do. `offset_us` is what the system's clock is ahead of the one that decisions are noted by.
    pub(super) fn state(&self, service: &str, offset_us: i64) -> SwitchState {
        let preparing = self.preparing.get(service);
        let prepare =
            preparing.map(|preparing| Prepare { attempt: preparing.attempt, colour: preparing.colour.clone() });
        let Some(known) = self.known.get(service) else { return SwitchState { prepare, ..SwitchState::default() } };
        let core = &known.core;
        SwitchState {
            revision: core.revision,
            live: core.live.clone(),
            before: core.before.clone(),
            at_us: known.at_us.saturating_add_signed(offset_us),
            prepare,
            drain: Duration::from_millis(core.drain.requests_ms),
            stream_drain: core.drain.streams_ms.map(Duration::from_millis),
        }
    }

    /// The colours of an instance; while another meaning of colours is prepared, by both.
    pub(super) fn colours_of(&self, instance: &Instance) -> Vec<String> {
        let service = &instance.service;
        let decided = self.known.get(service).map(|known| &known.core.colours);
        let configured = self.balanced.get(service).and_then(|facts| facts.colour.as_ref());
        let mut colours = decided.or(configured).unwrap_or(&ColourRule::Tag).colours(instance);
        if let Some(preparing) = self.preparing.get(service) {
            let coming = preparing.colours.colours(instance);
            colours.extend(coming.into_iter().filter(|colour| !colours.contains(colour)).collect::<Vec<_>>());
        }
        colours
    }

    /// What the balancer counted of the colour that is watched since the present decision was heard, and of the one that it leads back to
    /// altogether.
    pub(super) fn counts(&self, service: &str, watch: &Watch) -> Option<(u64, Counts, Counts)> {
        let (known, report) = (self.known.get(service)?, self.reports.get(service)?);
        let baseline = known.counted.as_ref()?.baseline.as_slice();
        let (new, old) = (find(&report.colours, &watch.colour), find(&report.colours, &watch.back_to));
        let since = new.map(|now| Counts::since(now, find(baseline, &watch.colour))).unwrap_or_default();
        let before = old.map(Counts::of).unwrap_or_default();
        let (since, before) = if before.is_prompt(watch.limits.min_requests) {
            (since.with_waiting(new), before.with_waiting(old))
        } else {
            (since, before)
        };
        Some((known.core.revision, since, before))
    }

    /// Everything that is known to be decided.
    pub(super) fn cores(&self) -> impl Iterator<Item = &Core> {
        self.known.values().map(|known| &known.core)
    }

    fn readiness(&self, service: &str, attempt: u64) -> Readiness {
        if !self.balanced.contains_key(service) {
            return Readiness::NotMine;
        }
        if let Some(reason) = &self.away {
            return Readiness::Away(reason.clone());
        }
        let prepared = self.reports.get(service).and_then(|report| report.prepared.as_ref());
        match prepared.filter(|prepared| prepared.attempt == attempt && prepared.is_settled) {
            Some(prepared) => Readiness::Ready { healthy: prepared.healthy, warm: prepared.warm },
            None => Readiness::Busy,
        }
    }

    fn flip(&self, service: &str, revision: u64) -> Flip {
        if !self.balanced.contains_key(service) {
            return Flip::NotMine;
        }
        let (Some(known), Some(report)) = (self.known.get(service), self.reports.get(service)) else {
            return Flip::Waiting;
        };
        if known.core.revision != report.revision || report.revision < revision {
            return Flip::Waiting;
        }
        let is_old = |colour: &&ColourReport| !known.core.live.iter().any(|share| share.colour == colour.colour);
        let old = report.colours.iter().filter(is_old);
        Flip::Done {
            late_us: report.switched_at_us.cast_signed().saturating_sub(known.at_us.cast_signed()),
            in_flight: old.clone().map(|colour| colour.in_flight).sum(),
            streams: old.map(|colour| colour.streams).sum(),
        }
    }

    fn tell_if_done(&mut self, service: &str, out: &mut Out) {
        let Some((asker, attempt)) = self.known.get(service).and_then(|known| known.asker) else { return };
        let revision = self.known.get(service).map_or(0, |known| known.core.revision);
        let state = self.flip(service, revision);
        if matches!(state, Flip::Done { .. })
            && let Some(known) = self.known.get_mut(service)
        {
            known.asker = None;
            out.send(asker, SwitchMessage::Told { attempt, state });
        }
    }

    fn answer_changed(&mut self, out: &mut Out) {
        let services: Vec<_> = self.preparing.keys().cloned().collect();
        for service in services {
            let Some(preparing) = self.preparing.get(&service) else { continue };
            if preparing.answered.as_ref() != Some(&self.readiness(&service, preparing.attempt)) {
                self.answer(&service, out);
            }
        }
    }

    fn answer(&mut self, service: &str, out: &mut Out) {
        let Some(attempt) = self.preparing.get(service).map(|preparing| preparing.attempt) else { return };
        let state = self.readiness(service, attempt);
        if let Some(preparing) = self.preparing.get_mut(service) {
            preparing.answered = Some(state.clone());
            out.send(preparing.coordinator, SwitchMessage::Prepared { attempt, state });
        }
    }
}

impl Counted {
    fn begin(colours: &[ColourReport]) -> Self {
        Self { baseline: colours.to_vec(), latest: colours.to_vec() }
    }

    /// Counts of one gateway never fall. What it has counted before it was restarted is lost; what it counts then is all new.
    fn go_on(&mut self, colours: &[ColourReport]) {
        let latest = std::mem::replace(&mut self.latest, colours.to_vec());
        self.baseline.retain(|begun| {
            let (now, last) = (find(colours, &begun.colour), find(&latest, &begun.colour));
            let has_fallen =
                |now: &ColourReport, last: &ColourReport| now.requests < last.requests || now.failures < last.failures;
            now.is_some_and(|now| last.is_some_and(|last| !has_fallen(now, last)))
        });
    }
}

fn find<'a>(colours: &'a [ColourReport], name: &str) -> Option<&'a ColourReport> {
    colours.iter().find(|colour| colour.colour == name)
}

/// A moment that differs by less need not be told anew.
const NEAR: Duration = Duration::from_millis(2);

/// What a coordinator asks for.
pub(super) struct Asked {
    pub(super) attempt: u64,
    pub(super) service: String,
    pub(super) colour: String,
    pub(super) colours: ColourRule,
    pub(super) patience: Duration,
}

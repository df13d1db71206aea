//! The hosts in one switch: getting them ready, telling them, hearing that they have gone over.

use std::time::{Duration, Instant};

use super::{Attempt, Care, Context, Flip, Outcome, Phase, Readiness, Refusal, Step, SwitchMessage};
use crate::switch::clock::millis;
use crate::switch::limits::{MAX_DRAIN_WATCH, REASK, RETELL, URGENT_TELLINGS, VERIFY_PATIENCE};
use weaved_api::PeerId;

/// How often connections that end are looked at.
const DRAIN_LOOK: Duration = Duration::from_millis(500);

/// One host, as far as this switch is concerned.
#[derive(Debug, Default)]
pub(super) struct Seat {
    readiness: Option<Readiness>,
    flip: Option<Flip>,
    asked_at: Option<Instant>,
    tellings: u32,
}

impl Attempt {
    /// Everybody is to get ready.
    pub(super) fn prepare(&mut self, ctx: &mut Context<'_, '_>) {
        self.step = Step::Preparing;
        self.ask_all(ctx);
        self.go_on_when_ready(ctx);
    }

    /// Time has passed.
    pub(in crate::switch) fn handle_timeout(&mut self, ctx: &mut Context<'_, '_>) {
        if self.wake_at.is_none_or(|at| at > ctx.around.now) || self.outcome.is_some() {
            return;
        }
        match self.step {
            Step::Preparing => {
                self.ask_all(ctx);
                self.go_on_when_ready(ctx);
            }
            Step::Verifying => self.verify(ctx),
            Step::Draining { .. } => self.drain(ctx),
            Step::Deciding | Step::Ended => self.wake_at = None,
        }
    }

    /// How a host stands with the preparation.
    pub(in crate::switch) fn handle_prepared(&mut self, from: PeerId, state: &Readiness, ctx: &mut Context<'_, '_>) {
        if self.step != Step::Preparing {
            return;
        }
        let seat = self.hosts.entry(from).or_default();
        let is_news = seat.readiness.as_ref() != Some(state);
        seat.readiness = Some(state.clone());
        if is_news {
            let text = match state {
                Readiness::NotMine | Readiness::Busy => None,
                Readiness::Away(reason) => Some(format!("its gateway does not answer: {reason}")),
                Readiness::Ready { healthy, warm } => Some(format!("ready: {healthy} healthy, {warm} connected")),
            };
            if let Some(text) = text {
                self.say(Phase::Prepare, Some((ctx.around.name)(from)), text, ctx.around.now);
            }
        }
        self.go_on_when_ready(ctx);
    }

    /// How a host stands with the decision.
    pub(in crate::switch) fn handle_told(&mut self, from: PeerId, state: Flip, ctx: &mut Context<'_, '_>) {
        let Some(before) = self.hosts.entry(from).or_default().flip.replace(state) else {
            return self.on_told(from, state, ctx);
        };
        match (before, state) {
            // What was sent earlier came later.
            (Flip::Done { .. }, Flip::Waiting) => self.hosts.entry(from).or_default().flip = Some(before),
            (Flip::Done { .. }, Flip::Done { .. }) => self.go_on_when_done(ctx),
            _ => self.on_told(from, state, ctx),
        }
    }

    fn on_told(&mut self, from: PeerId, state: Flip, ctx: &mut Context<'_, '_>) {
        if let (Flip::Done { late_us, .. }, Step::Verifying) = (state, &self.step) {
            let side = if late_us < 0 { "before" } else { "after" };
            let text = format!("switched, {} {side} the agreed moment", millis(late_us.unsigned_abs()));
            self.say(Phase::Verify, Some((ctx.around.name)(from)), text, ctx.around.now);
        }
        self.go_on_when_done(ctx);
    }

    fn ask_all(&mut self, ctx: &mut Context<'_, '_>) {
        let around = ctx.around;
        let Some(change) = &self.change else { return };
        let colours = self.order.colours.clone().unwrap_or_else(|| self.record.colours.clone());
        let patience_ms = self.deadline.saturating_duration_since(around.now).as_millis() as u64;
        for &host in around.live {
            let seat = self.hosts.entry(host).or_default();
            let is_due = seat.asked_at.is_none_or(|at| around.now >= at + REASK);
            if is_due && matches!(seat.readiness, None | Some(Readiness::Busy)) {
                seat.asked_at = Some(around.now);
                let ask = SwitchMessage::Prepare {
                    attempt: self.id.0,
                    service: self.order.service.clone(),
                    colour: change.prepare.clone().unwrap_or_default(),
                    colours: colours.clone(),
                    patience_ms,
                };
                ctx.out.send(host, ask);
            }
        }
        self.wake_at = Some((around.now + REASK).min(self.deadline).max(around.now + RETELL));
    }

    /// Commits when all that are alive are ready, or must not be; gives up when it is clear that they will not be.
    fn go_on_when_ready(&mut self, ctx: &mut Context<'_, '_>) {
        if self.step != Step::Preparing {
            return;
        }
        let is_over = ctx.around.now >= self.deadline;
        let needed = self.order.min_healthy.max(1);
        let (mut reasons, mut has_to_wait) = (Vec::new(), false);
        for &host in ctx.around.live {
            let name = || (ctx.around.name)(host);
            let readiness = self.hosts.get(&host).and_then(|seat| seat.readiness.as_ref());
            match readiness {
                Some(Readiness::NotMine) => {}
                // What is healthy by its checks may have none, or be out of this host's reach.
                Some(Readiness::Ready { healthy, warm }) if *healthy.min(warm) >= needed => {}
                Some(Readiness::Ready { healthy, warm }) => reasons.push(format!(
                    "{} knows {healthy} healthy instances and could connect to {warm}, and {needed} are needed",
                    name()
                )),
                Some(Readiness::Away(reason)) => {
                    reasons.push(format!("the gateway of {} does not answer: {reason}", name()));
                }
                Some(Readiness::Busy) if is_over => {
                    reasons.push(format!("{} did not get ready within {} ms", name(), self.order.timeout_ms));
                }
                None if is_over => reasons.push(format!("{} did not answer", name())),
                Some(Readiness::Busy) | None => has_to_wait = true,
            }
        }
        match self.order.care {
            _ if has_to_wait && reasons.is_empty() => {}
            Care::Forced if has_to_wait => {}
            _ if reasons.is_empty() => self.commit_or_look(ctx),
            Care::Forced => {
                for reason in reasons {
                    self.say(Phase::Prepare, None, format!("{reason}; goes over anyway"), ctx.around.now);
                }
                self.commit(ctx);
            }
            Care::Careful | Care::DryRun => self.abandon(Refusal::NotReady { reasons }, ctx),
        }
    }

    fn commit_or_look(&mut self, ctx: &mut Context<'_, '_>) {
        self.commit(ctx);
        if self.order.care == Care::DryRun {
            self.tell_cancelled(ctx);
        }
    }

    /// Tells everybody who has not heard, and asks those who have not gone over.
    pub(super) fn verify(&mut self, ctx: &mut Context<'_, '_>) {
        let around = ctx.around;
        let Some(made) = &self.decided else { return };
        let (flip_at, core) = (made.flip_at, made.core.clone());
        let in_us = flip_at.saturating_duration_since(around.now).as_micros() as u64;
        for &host in around.live {
            let seat = self.hosts.entry(host).or_default();
            let interval = match seat.flip {
                None if seat.tellings < URGENT_TELLINGS => RETELL,
                None => REASK,
                Some(Flip::Waiting) if around.now >= flip_at => REASK,
                Some(_) => continue,
            };
            if seat.asked_at.is_none_or(|at| seat.tellings == 0 || around.now >= at + interval) {
                seat.asked_at = Some(around.now);
                seat.tellings += 1;
                ctx.out.send(host, SwitchMessage::Commit { attempt: self.id.0, core: core.clone(), in_us });
            }
        }
        let is_urgent = around
            .live
            .iter()
            .any(|host| self.hosts.get(host).is_none_or(|seat| seat.flip.is_none() && seat.tellings < URGENT_TELLINGS));
        self.wake_at = Some(around.now + if is_urgent { RETELL } else { REASK });
        self.go_on_when_done(ctx);
    }

    /// Ends the verification when all that are alive have gone over, or had time enough.
    fn go_on_when_done(&mut self, ctx: &mut Context<'_, '_>) {
        if self.step != Step::Verifying {
            if matches!(self.step, Step::Draining { .. }) {
                self.end_when_drained(ctx);
            }
            return;
        }
        let Some(made) = &self.decided else { return };
        let is_open = |host: &PeerId| {
            !matches!(self.hosts.get(host).and_then(|seat| seat.flip), Some(Flip::NotMine | Flip::Done { .. }))
        };
        let open: Vec<_> = ctx.around.live.iter().copied().filter(is_open).collect();
        let is_over = ctx.around.now >= made.flip_at + VERIFY_PATIENCE;
        if !open.is_empty() && !is_over {
            return;
        }
        let missing: Vec<_> = open.into_iter().map(ctx.around.name).collect();
        for host in missing.clone() {
            let text = "did not say in time that it has switched; it takes over what was decided when it is back";
            self.say(Phase::Verify, Some(host), text.into(), ctx.around.now);
        }
        self.sum_up(missing, ctx);
        self.note_figures(ctx);
        let drain = Duration::from_millis(self.record.drain.requests_ms).min(MAX_DRAIN_WATCH);
        self.step = Step::Draining { until: ctx.around.now + drain };
        self.end_when_drained(ctx);
    }

    fn sum_up(&mut self, missing: Vec<String>, ctx: &mut Context<'_, '_>) {
        let late = self.hosts.values().filter_map(|seat| match seat.flip {
            Some(Flip::Done { late_us, .. }) => Some(late_us),
            _ => None,
        });
        let (count, first, last) = late
            .fold((0, i64::MAX, i64::MIN), |(count, first, last), late| (count + 1, first.min(late), last.max(late)));
        let duration_us = ctx.around.now.saturating_duration_since(self.began).as_micros() as u64;
        let Some(made) = &mut self.decided else { return };
        made.figures.hosts = count;
        made.figures.spread_us = if count > 0 { last.abs_diff(first) } else { 0 };
        made.figures.duration_us = duration_us;
        made.figures.missing = missing;
        let text = if count == 0 {
            "no balancer serves it; its key and its names show what is live".into()
        } else {
            let spread = millis(made.figures.spread_us);
            format!("{count} balancers have switched, {spread} between the first and the last")
        };
        self.say(Phase::Verify, None, text, ctx.around.now);
    }

    fn drain(&mut self, ctx: &mut Context<'_, '_>) {
        let Some(made) = &self.decided else { return };
        for (&host, seat) in &self.hosts {
            if matches!(seat.flip, Some(Flip::Done { .. })) && ctx.around.live.contains(&host) {
                let commit = SwitchMessage::Commit { attempt: self.id.0, core: made.core.clone(), in_us: 0 };
                ctx.out.send(host, commit);
            }
        }
        self.wake_at = Some(ctx.around.now + DRAIN_LOOK);
        self.end_when_drained(ctx);
    }

    fn end_when_drained(&mut self, ctx: &mut Context<'_, '_>) {
        let Step::Draining { until } = self.step else { return };
        let flips = self.hosts.iter().filter(|(host, _)| ctx.around.live.contains(host));
        let (mut in_flight, mut streams) = (0_u64, 0_u64);
        for (_, seat) in flips {
            if let Some(Flip::Done { in_flight: requests, streams: open, .. }) = seat.flip {
                in_flight = in_flight.saturating_add(requests);
                streams = streams.saturating_add(open);
            }
        }
        if in_flight > 0 && ctx.around.now < until {
            if self.wake_at.is_none_or(|at| at > ctx.around.now + DRAIN_LOOK) || self.progress_phase() < Phase::Drain {
                self.say(Phase::Drain, None, format!("{in_flight} requests of the old colour end"), ctx.around.now);
                self.wake_at = Some(ctx.around.now + DRAIN_LOOK);
            }
            return;
        }
        if in_flight > 0 || streams > 0 {
            let text = format!("{in_flight} requests and {streams} streams of the old colour go on");
            self.say(Phase::Drain, None, text, ctx.around.now);
        }
        let Some(made) = self.decided.clone() else { return };
        let to = super::describe(&made.core.live);
        let outcome = Outcome::Switched { revision: made.revision, from: made.from, to, figures: made.figures };
        self.end(outcome, ctx);
    }

    fn progress_phase(&self) -> Phase {
        self.progress.last().map_or(Phase::Prepare, |line| line.phase)
    }

    /// Nobody needs to be ready any more.
    pub(super) fn tell_cancelled(&mut self, ctx: &mut Context<'_, '_>) {
        for (&host, seat) in &self.hosts {
            if seat.readiness != Some(Readiness::NotMine) {
                let (attempt, service) = (self.id.0, self.order.service.clone());
                ctx.out.send(host, SwitchMessage::Cancel { attempt, service });
            }
        }
    }
}

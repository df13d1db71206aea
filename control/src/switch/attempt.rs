//! The coordinator of one switch, on the host where it was ordered.
//!
//! ```text
//!   plan ─▶ reserve ─▶ compare ─▶ prepare ─▶ commit ─▶ tell and verify ─▶ drain ─▶ ended
//!            (CAS)     (a client's  │          (CAS)     │
//!                       own CAS)    └▶ cancel (CAS) ─▶ ended
//! ```
//!
//! Every step that others must agree to is a compare-and-set of the service's record, at the index that the step before left
//! behind. So an attempt whose place was taken finds another index and ends: it can be late, and never wrong.
//!
//! INVARIANT: hosts are told of a decision only when a majority has made it; until then nothing of what is live has changed.

mod hosts;

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use weaved_api::PeerId;

use self::hosts::Seat;
use super::{
    around::{Around, Out, Purpose, Records, Stage},
    limits::{MAX_NOTE_BYTES, MAX_PROGRESS, MAX_TRIES, MIN_LEAD, OUTCOME_KEPT},
    message::{Core, Flip, Readiness, Stamp, SwitchMessage},
    order::{AttemptId, Care, Order, Outcome, Phase, Progress, ProgressReport, What},
    plan::{Change, Plan, live_already, plan, with_settings},
    record::{Figures, HistoryEntry, Pending, Record, describe, main_colour, only_colour, record_key},
    refusal::Refusal,
};
use crate::{
    hlc::Hlc,
    kv::{self, Decided, KvError, Rule, Value},
};

/// One switch that is carried out here.
#[derive(Debug)]
pub(super) struct Attempt {
    pub(super) id: AttemptId,
    order: Order,
    began: Instant,
    began_us: u64,
    /// When hosts must be ready.
    deadline: Instant,
    /// The record where nothing is decided yet.
    fresh: Record,
    /// The record as this attempt knows it, and where a compare-and-set must begin.
    record: Record,
    stamp: Stamp,
    index: u64,
    change: Option<Change>,
    step: Step,
    /// True when a majority has said what the register holds.
    is_fresh: bool,
    tries: u32,
    wake_at: Option<Instant>,
    hosts: BTreeMap<PeerId, Seat>,
    decided: Option<Made>,
    is_mirrored: bool,
    progress: Vec<Progress>,
    outcome: Option<(Outcome, Instant)>,
}

/// How far it is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    /// A majority is deciding about something.
    Deciding,
    Preparing,
    /// It is decided; hosts go over.
    Verifying,
    Draining {
        until: Instant,
    },
    Ended,
}

/// What was decided.
#[derive(Clone, Debug)]
struct Made {
    from: String,
    revision: u64,
    core: Core,
    flip_at: Instant,
    figures: Figures,
}

/// One call's world, with what goes out.
pub(super) struct Context<'a, 'b> {
    pub(super) around: &'a Around<'b>,
    pub(super) records: &'a mut Records,
    pub(super) out: &'a mut Out,
}

impl Attempt {
    pub(super) fn begin(id: AttemptId, mut order: Order, fresh: Record, ctx: &mut Context<'_, '_>) -> Self {
        let around = ctx.around;
        for note in [&mut order.by, &mut order.source] {
            note.truncate(note.floor_char_boundary(MAX_NOTE_BYTES));
        }
        let mut attempt = Self {
            id,
            began: around.now,
            began_us: around.wall_us,
            deadline: around.now + Duration::from_millis(order.timeout_ms),
            record: fresh.clone(),
            fresh,
            stamp: Stamp { lineage: None, modified: Hlc(0), writer: around.me },
            index: 0,
            change: None,
            step: Step::Deciding,
            is_fresh: false,
            tries: 0,
            wake_at: None,
            hosts: BTreeMap::new(),
            decided: None,
            is_mirrored: false,
            progress: Vec::new(),
            outcome: None,
            order,
        };
        attempt.plan(ctx);
        attempt
    }

    /// Who asks for progress behind the line of this number.
    pub(super) fn report(&self, after: usize) -> ProgressReport {
        let lines = self.progress.get(after..).unwrap_or_default().to_vec();
        ProgressReport { lines, outcome: self.outcome.as_ref().map(|(outcome, _)| outcome.clone()) }
    }

    /// For a client that waits until the switch is in force and the key shows it, and no longer: whether it was made.
    pub(super) fn verdict(&self) -> Option<Result<bool, Refusal>> {
        match &self.outcome {
            Some((Outcome::Refused(refusal), _)) => Some(Err(refusal.clone())),
            Some((Outcome::OtherIndex, _)) => Some(Ok(false)),
            Some(_) => Some(Ok(true)),
            // Decided is not enough: whoever asks next must be answered by the new colour.
            None => (self.is_mirrored && matches!(self.step, Step::Draining { .. })).then_some(Ok(true)),
        }
    }

    pub(super) fn service(&self) -> &str {
        &self.order.service
    }

    pub(super) fn is_ended(&self) -> bool {
        self.outcome.is_some()
    }

    /// True when nobody will ask for it any more.
    pub(super) fn is_forgotten(&self, now: Instant) -> bool {
        self.outcome.as_ref().is_some_and(|(_, at)| now >= *at + OUTCOME_KEPT)
    }

    pub(super) fn next_timeout(&self) -> Option<Instant> {
        self.wake_at.filter(|_| self.outcome.is_none())
    }

    /// Looks at the order in the light of the newest record, and begins what follows.
    fn plan(&mut self, ctx: &mut Context<'_, '_>) {
        let service = self.order.service.clone();
        let held = ctx.records.get(&service);
        if let Some(held) = held {
            (self.record, self.stamp, self.index) = (held.record.clone(), held.stamp, held.index);
        }
        let blocking = held.and_then(|held| held.blocking(ctx.around));
        if let Some(problem) = self.order.problem() {
            return self.refuse(Refusal::Senseless(problem), ctx);
        }
        let plan = plan(&self.order, &self.record, blocking, ctx.around.view);
        if !self.is_fresh && !self.order.what.is_upkeep() && rests_on_record(&plan) {
            // This host may have missed the latest decision: a majority is asked before anybody is sent away.
            let key = record_key(&service);
            return self.decide(Stage::Refresh, &key, kv::Change::Look, ctx);
        }
        match plan {
            Err(refusal) => self.refuse(refusal, ctx),
            Ok(Plan::Nothing(words)) => self.end(Outcome::Nothing(words), ctx),
            Ok(Plan::Settle(record, words)) => {
                if self.order.care == Care::DryRun {
                    return self.end(Outcome::Nothing(words), ctx);
                }
                self.say(Phase::Commit, None, words, ctx.around.now);
                self.propose(Stage::Settle, &record, ctx);
            }
            Ok(Plan::Change(change)) => {
                let to = describe(&change.to);
                let is_prepared = change.prepare.is_none();
                self.change = Some(*change);
                let from = describe(&self.record.live);
                let what = format!("{service}: {from} → {to}");
                self.say(Phase::Prepare, None, what, ctx.around.now);
                if is_prepared {
                    self.commit(ctx);
                } else if self.order.care == Care::DryRun {
                    self.prepare(ctx);
                } else {
                    let pending = self.pending(ctx);
                    let record = Record { pending: Some(pending), ..self.record.clone() };
                    self.propose(Stage::Reserve, &record, ctx);
                }
            }
        }
    }

    fn pending(&self, ctx: &Context<'_, '_>) -> Pending {
        Pending {
            attempt: self.id.0,
            coordinator: ctx.around.me,
            host: (ctx.around.name)(ctx.around.me),
            by: self.order.by.clone(),
            source: self.order.source.clone(),
            to: self.change.as_ref().map(|change| change.to.clone()).unwrap_or_default(),
            began_us: self.began_us,
            patience_ms: self.order.timeout_ms,
        }
    }

    /// Lets a majority decide a new value of the record.
    fn propose(&mut self, stage: Stage, record: &Record, ctx: &mut Context<'_, '_>) {
        let change = kv::Change::Put { value: record.to_value(), flags: 0, rule: Rule::AtIndex(self.index) };
        self.decide(stage, &record_key(&self.order.service), change, ctx);
    }

    fn decide(&mut self, stage: Stage, key: &str, change: kv::Change, ctx: &mut Context<'_, '_>) {
        ctx.out.decide(Purpose::Attempt(self.id, stage), key, change);
    }

    /// What a majority has decided.
    pub(super) fn handle_decided(&mut self, stage: Stage, result: Result<Decided, KvError>, ctx: &mut Context<'_, '_>) {
        match stage {
            Stage::Compare => self.on_compared(result, ctx),
            Stage::Mirror => self.on_mirrored(&result, ctx),
            Stage::Refresh => match result {
                Ok(decided) => {
                    self.adopt(&decided, ctx);
                    self.plan(ctx);
                }
                Err(KvError::OutcomeUnknown { .. }) if self.may_resolve(&Stage::Reserve, ctx) => {
                    let key = record_key(&self.order.service);
                    self.decide(Stage::Refresh, &key, kv::Change::Look, ctx);
                }
                Err(error) => self.refuse(Refusal::Keys(error.to_string()), ctx),
            },
            Stage::Resolve(stage) => match result {
                Ok(decided) => {
                    self.adopt(&decided, ctx);
                    if self.is_visible(&stage) { self.on_written(&stage, ctx) } else { self.on_beaten(&stage, ctx) }
                }
                // Until it is known how it ended, nothing else can be said.
                Err(_) if self.may_resolve(&stage, ctx) => self.resolve(*stage, ctx),
                Err(error) => self.on_failed(&stage, &KvError::OutcomeUnknown { key: key_of(&error, self) }, ctx),
            },
            stage => match result {
                Ok(decided) => {
                    self.adopt(&decided, ctx);
                    if decided.is_allowed { self.on_written(&stage, ctx) } else { self.on_beaten(&stage, ctx) }
                }
                Err(KvError::OutcomeUnknown { .. }) if self.may_resolve(&stage, ctx) => self.resolve(stage, ctx),
                Err(error) => self.on_failed(&stage, &error, ctx),
            },
        }
    }

    /// A reservation is not worth more time than the order has.
    fn may_resolve(&mut self, stage: &Stage, ctx: &Context<'_, '_>) -> bool {
        self.take_try() && (*stage != Stage::Reserve || ctx.around.now < self.deadline)
    }

    /// Asks a majority how a decision ended: what it answers cannot be overtaken by that one any more.
    fn resolve(&mut self, stage: Stage, ctx: &mut Context<'_, '_>) {
        let key = record_key(&self.order.service);
        self.decide(Stage::Resolve(Box::new(stage)), &key, kv::Change::Look, ctx);
    }

    /// Goes on from what the register holds.
    fn adopt(&mut self, decided: &Decided, ctx: &mut Context<'_, '_>) {
        self.is_fresh = true;
        let Some(entry) = &decided.entry else {
            (self.record, self.index) = (self.fresh.clone(), 0);
            return;
        };
        ctx.records.note(&self.order.service, entry, ctx.around.now);
        if let Some(record) = entry.value.as_ref().and_then(Record::from_value) {
            (self.record, self.stamp, self.index) = (record, Stamp::of(entry), entry.modified.0);
        } else if entry.value.is_none() {
            (self.record, self.stamp, self.index) = (self.fresh.clone(), Stamp::of(entry), 0);
        }
    }

    fn is_pending(&self) -> bool {
        self.record.pending.as_ref().is_some_and(|pending| pending.attempt == self.id.0)
    }

    /// Whether what a stage wanted is what the register holds.
    fn is_visible(&self, stage: &Stage) -> bool {
        match stage {
            Stage::Reserve => self.is_pending(),
            Stage::Commit => self.record.entry_of(self.id.0).is_some(),
            Stage::Cancel => !self.is_pending(),
            Stage::Figures => self.record.entry_of(self.id.0).is_some_and(|entry| entry.figures.is_some()),
            _ => false,
        }
    }

    fn on_written(&mut self, stage: &Stage, ctx: &mut Context<'_, '_>) {
        match stage {
            Stage::Reserve if self.order.at_index.is_some() => {
                let key = self.record.key.clone();
                self.decide(Stage::Compare, &key, kv::Change::Look, ctx);
            }
            Stage::Reserve => self.prepare(ctx),
            Stage::Commit => self.on_committed(ctx),
            Stage::Settle => {
                let words = self.progress.last().map(|line| line.text.clone()).unwrap_or_default();
                self.end(Outcome::Nothing(words), ctx);
            }
            _ => {}
        }
    }

    /// The register holds something else than this attempt began from.
    fn on_beaten(&mut self, stage: &Stage, ctx: &mut Context<'_, '_>) {
        let is_in_time = ctx.around.now < self.deadline || *stage != Stage::Reserve;
        let may_try = self.take_try() && is_in_time;
        match stage {
            Stage::Commit if self.record.entry_of(self.id.0).is_some() => self.on_committed(ctx),
            Stage::Commit if self.is_pending() && may_try => self.commit(ctx),
            Stage::Commit if self.change.as_ref().is_some_and(|change| change.prepare.is_some()) => {
                self.refuse(Refusal::Overtaken, ctx);
            }
            Stage::Reserve if self.is_pending() => self.on_written(&Stage::Reserve, ctx),
            Stage::Reserve | Stage::Settle | Stage::Commit if may_try => self.plan_again(ctx),
            Stage::Cancel if self.is_pending() && may_try => self.cancel(ctx),
            Stage::Figures if may_try => self.note_figures(ctx),
            Stage::Reserve | Stage::Settle | Stage::Commit => self.refuse(Refusal::Overtaken, ctx),
            _ => {}
        }
    }

    /// Looks at the order in the light of what has beaten it, if it still means what it meant when it was given.
    fn plan_again(&mut self, ctx: &mut Context<'_, '_>) {
        let goal = self.change.as_ref().and_then(|change| only_colour(&change.to)).map(ToOwned::to_owned);
        match (&self.order.what, goal) {
            // It was judged on a record that is no more: the next upkeep judges anew.
            (What::Step | What::Rescue(_), _) => self.refuse(Refusal::Overtaken, ctx),
            // "Back" from what is live now would lead to what the order wanted to leave.
            (What::Back | What::Abort, Some(goal)) if only_colour(&self.record.live) == Some(&*goal) => {
                self.end(Outcome::Nothing(live_already(&self.order.service, &goal)), ctx);
            }
            (What::Back, Some(goal)) if self.record.colour_before() != Some(&*goal) => {
                self.refuse(Refusal::Overtaken, ctx);
            }
            _ => self.plan(ctx),
        }
    }

    fn on_failed(&mut self, stage: &Stage, error: &KvError, ctx: &mut Context<'_, '_>) {
        let is_unknown = matches!(error, KvError::OutcomeUnknown { .. });
        match stage {
            Stage::Commit if is_unknown => {
                let words =
                    format!("it is not known whether {} was switched: too few hosts answered", self.order.service);
                self.end(Outcome::Refused(Refusal::Unknown(words)), ctx);
            }
            Stage::Commit => self.abandon(Refusal::Keys(error.to_string()), ctx),
            Stage::Reserve if is_unknown => self.abandon(Refusal::Keys(error.to_string()), ctx),
            Stage::Reserve | Stage::Settle => self.refuse(Refusal::Keys(error.to_string()), ctx),
            _ => {}
        }
    }

    /// A client's compare-and-set holds if the key shows what is live, at the index that he knows.
    fn on_compared(&mut self, result: Result<Decided, KvError>, ctx: &mut Context<'_, '_>) {
        let entry = match result {
            Ok(decided) => decided.entry.filter(crate::kv::Entry::is_live),
            Err(error) => return self.abandon(Refusal::Keys(error.to_string()), ctx),
        };
        let index = entry.as_ref().map_or(0, |entry| entry.modified.0);
        let shown = entry.as_ref().and_then(|entry| entry.value.as_ref()).map(Value::as_bytes);
        // What nobody has switched yet shows whatever was put there.
        let is_true = self.record.revision == 0 || shown == self.record.current().map(str::as_bytes);
        if self.order.at_index == Some(index) && is_true {
            self.prepare(ctx);
        } else {
            self.end(Outcome::OtherIndex, ctx);
            self.cancel(ctx);
        }
    }

    /// Asks a majority for the decision itself.
    pub(super) fn commit(&mut self, ctx: &mut Context<'_, '_>) {
        let Some(change) = self.change.clone() else { return };
        if self.order.care == Care::DryRun {
            return self.end(Outcome::Nothing(format!("{} would be live", describe(&change.to))), ctx);
        }
        self.step = Step::Deciding;
        self.wake_at = None;
        let mut record = with_settings(&self.order, &self.record);
        let entry = HistoryEntry {
            revision: 0,
            from: Vec::new(),
            to: Vec::new(),
            by: self.order.by.clone(),
            source: self.order.source.clone(),
            host: (ctx.around.name)(ctx.around.me),
            at_us: ctx.around.wall_us + MIN_LEAD.as_micros() as u64,
            reason: change.reason.clone(),
            attempt: self.id.0,
            figures: None,
        };
        record.commit(change.to, entry);
        (record.canary, record.watch) = (change.canary, change.watch);
        self.propose(Stage::Commit, &record, ctx);
    }

    fn on_committed(&mut self, ctx: &mut Context<'_, '_>) {
        let Some(entry) = self.record.entry_of(self.id.0) else { return };
        let (from, to, revision) = (describe(&entry.from), describe(&entry.to), entry.revision);
        let reason = if entry.reason.is_empty() { String::new() } else { format!(" ({})", entry.reason) };
        let core = Core::of(&self.order.service, &self.record, self.stamp);
        let flip_at = ctx.around.now + MIN_LEAD;
        ctx.out.note(format!("{} is switched from {from} to {to}{reason}, by {}", self.order.service, self.order.by));
        self.say(Phase::Commit, None, format!("decided: switch {revision}, {from} → {to}"), ctx.around.now);
        self.decided = Some(Made { from, revision, core, flip_at, figures: Figures::default() });
        self.step = Step::Verifying;
        self.verify(ctx);
        self.mirror(ctx);
    }

    /// Shows the live colour in the key that mirrors it.
    fn mirror(&mut self, ctx: &mut Context<'_, '_>) {
        let colour = main_colour(&self.record.live).unwrap_or_default().to_owned();
        let known = (ctx.around.key)(&self.record.key);
        let is_ours = ctx.records.owner_of(&self.record.key).is_none_or(|owner| owner == self.order.service);
        if !is_ours || known.as_ref().is_some_and(|shown| shown.value == colour.as_bytes()) {
            self.is_mirrored = true;
            return;
        }
        let index = known.map_or(0, |shown| shown.index);
        let value = Value::new(colour.as_bytes());
        let key = self.record.key.clone();
        self.decide(Stage::Mirror, &key, kv::Change::Put { value, flags: 0, rule: Rule::AtIndex(index) }, ctx);
    }

    fn on_mirrored(&mut self, result: &Result<Decided, KvError>, ctx: &mut Context<'_, '_>) {
        let colour = main_colour(&self.record.live).unwrap_or_default().to_owned();
        let retry = match result {
            Ok(decided) if !decided.is_allowed => {
                let entry = decided.entry.as_ref().filter(|entry| entry.is_live());
                let shown = entry.and_then(|entry| entry.value.as_ref()).map(Value::as_bytes);
                let latest = ctx.records.get(&self.order.service).map(|held| held.record.revision);
                let is_latest = self.decided.as_ref().map(|made| made.revision) == latest;
                let index = entry.map_or(0, |entry| entry.modified.0);
                (shown != Some(colour.as_bytes()) && is_latest && self.take_try()).then_some(index)
            }
            _ => None,
        };
        match retry {
            Some(index) => {
                let key = self.record.key.clone();
                let value = Value::new(colour.as_bytes());
                self.decide(Stage::Mirror, &key, kv::Change::Put { value, flags: 0, rule: Rule::AtIndex(index) }, ctx);
            }
            // Where it could not be written the upkeep does it.
            None => self.is_mirrored = true,
        }
    }

    /// Ends it, and takes the reservation back.
    fn abandon(&mut self, refusal: Refusal, ctx: &mut Context<'_, '_>) {
        self.refuse(refusal, ctx);
        self.cancel(ctx);
    }

    fn cancel(&mut self, ctx: &mut Context<'_, '_>) {
        if self.order.care == Care::DryRun && !self.is_pending() {
            return self.tell_cancelled(ctx);
        }
        let record = Record { pending: None, ..self.record.clone() };
        self.propose(Stage::Cancel, &record, ctx);
        self.tell_cancelled(ctx);
    }

    /// Writes into the history how it went.
    fn note_figures(&mut self, ctx: &mut Context<'_, '_>) {
        let Some(made) = &self.decided else { return };
        let figures = made.figures.clone();
        let mut record = self.record.clone();
        let entry = record.history.iter_mut().find(|entry| entry.attempt == self.id.0);
        if let Some(entry) = entry.filter(|entry| entry.figures.is_none()) {
            entry.figures = Some(figures);
            self.propose(Stage::Figures, &record, ctx);
        }
    }

    fn take_try(&mut self) -> bool {
        self.tries += 1;
        self.tries <= MAX_TRIES
    }

    fn say(&mut self, phase: Phase, host: Option<String>, text: String, now: Instant) {
        if self.progress.len() < MAX_PROGRESS {
            let at_ms = now.saturating_duration_since(self.began).as_millis() as u64;
            self.progress.push(Progress { at_ms, phase, host, text });
        }
    }

    fn refuse(&mut self, refusal: Refusal, ctx: &mut Context<'_, '_>) {
        self.end(Outcome::Refused(refusal), ctx);
    }

    fn end(&mut self, outcome: Outcome, ctx: &mut Context<'_, '_>) {
        let is_tried_again = matches!(self.order.what, What::Step)
            || (self.order.what.is_upkeep() && outcome == Outcome::Refused(Refusal::Overtaken));
        if let (Outcome::Refused(refusal), false) = (&outcome, is_tried_again) {
            ctx.out.note(format!("{} is not switched, as {} wanted: {refusal}", self.order.service, self.order.by));
        }
        self.step = Step::Ended;
        self.wake_at = None;
        self.outcome.get_or_insert((outcome, ctx.around.now));
    }
}

/// Whether a plan that changes nothing would be another one if the record were another one.
fn rests_on_record(plan: &Result<Plan, Refusal>) -> bool {
    match plan {
        Ok(Plan::Settle(..) | Plan::Change(_))
        | Err(Refusal::NoService { .. } | Refusal::NoColour { .. } | Refusal::NotHealthy { .. }) => false,
        Ok(Plan::Nothing(_)) | Err(_) => true,
    }
}

fn key_of(error: &KvError, attempt: &Attempt) -> kv::Key {
    match error {
        KvError::NoMajority { key, .. } | KvError::OutcomeUnknown { key } | KvError::NoElectorate { key } => {
            key.clone()
        }
        _ => kv::Key::new(&record_key(&attempt.order.service)).expect("the name of a service is short"),
    }
}

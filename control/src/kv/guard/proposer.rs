//! Rounds: how a change of a key, or of the electorate, becomes decided.
//!
//! Rounds of one key queue up behind each other on one node. Rounds of several nodes may push each other aside; each then
//! waits for a random time that grows with its attempts.

mod anew;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::{Duration, Instant},
};

use rand::{RngExt as _, rngs::StdRng};
use serde::{Deserialize, Serialize};
use weaved_api::PeerId;

use super::{
    Ballot, Decided, Decree, Electorate, GuardMessage, GuardedStore, OpId, Tag, Target, World, electorate::majority,
    voter::Voter,
};
use crate::{
    hlc::Hlc,
    kv::{
        change::{Author, Change, Decision, decide},
        entry::{Entry, Lineage},
        key::Key,
        limits::MAX_STAMP,
        request::KvError,
        rows::{Damaged, Rows, StoredRows, Table, read},
        store::Store,
    },
};

/// How long a change may take before its client is told that no majority answers.
const PATIENCE: Duration = Duration::from_secs(4);
/// What was not answered is sent again after this.
const RESEND: Duration = Duration::from_millis(200);
/// The first pause after another round went before; it doubles.
const PAUSE: Duration = Duration::from_millis(8);
/// A change of members must last so long before the electorate follows: members come in swarms.
const SETTLE: Duration = Duration::from_millis(500);
/// Interval of telling a peer who votes.
const TELL_EVERY: Duration = Duration::from_secs(1);
/// Changes that are being decided, those that queue included.
const MAX_ROUNDS: usize = 4096;
/// The row of our electorate.
const FACT: &[u8] = b"electorate";

pub use self::anew::FoundAnewError;

/// Decides by ballots among the voters.
#[derive(Debug)]
pub struct Consensus {
    me: PeerId,
    rng: StdRng,
    voter: Voter,
    seat: Option<Seat>,
    wanted: BTreeSet<PeerId>,
    wanted_since: Option<Instant>,
    live: BTreeSet<PeerId>,
    rounds: BTreeMap<Target, Round>,
    queued: BTreeMap<Target, VecDeque<(OpId, Change, Instant)>>,
    queued_count: usize,
    outcomes: VecDeque<(OpId, Result<Decided, KvError>)>,
    sent: VecDeque<(PeerId, GuardMessage)>,
    /// Messages to ourselves: they do not travel.
    own: VecDeque<GuardMessage>,
    tell_at: Option<Instant>,
}

/// A page of cells, and whether there are more.
type Page = (Vec<(Key, Ballot, Decree)>, bool);

/// Our place in the newest electorate that we know.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Seat {
    electorate: Electorate,
    /// Whether we have the cells of a majority of the epoch before.
    is_active: bool,
    /// Who has given us all of its cells, and how far others are.
    #[serde(skip)]
    fetched: BTreeMap<PeerId, Progress>,
}

impl Seat {
    /// As it goes on after a restart: what others had given is asked for again, our own cells are there.
    fn resumed(mut self, me: PeerId) -> Self {
        if self.electorate.before.contains(&me) {
            self.fetched.insert(me, Progress::Done);
        }
        self
    }
}

#[derive(Clone, Debug)]
enum Progress {
    After(Option<Key>),
    Done,
}

#[derive(Debug)]
struct Round {
    work: Work,
    ballot: Ballot,
    step: Step,
    deadline: Instant,
    /// When what was not answered is sent again, or when the next attempt begins.
    wake_at: Instant,
    attempts: u32,
    /// Stamps of what this change has asked voters to accept so far.
    in_doubt: BTreeSet<Hlc>,
    answered: BTreeSet<PeerId>,
}

#[derive(Debug)]
enum Work {
    Change(OpId, Key, Change),
    Voters(BTreeSet<PeerId>),
}

#[derive(Debug)]
enum Step {
    Pausing,
    Preparing(BTreeMap<PeerId, Option<(Ballot, Decree)>>),
    Accepting { decree: Decree, is_allowed: bool, by: BTreeSet<PeerId> },
}

impl Consensus {
    /// As an earlier run left it.
    pub(in crate::kv) fn restore(me: PeerId, rng: StdRng, stored: &StoredRows) -> Result<Self, Damaged> {
        let fact = stored.iter().find(|(table, name, _)| *table == Table::Facts && name == FACT);
        Ok(Self {
            me,
            rng,
            voter: Voter::restore(stored)?,
            seat: fact.map(|(_, _, value)| read::<Seat>(value)).transpose()?.map(|seat| seat.resumed(me)),
            wanted: BTreeSet::new(),
            wanted_since: None,
            live: BTreeSet::new(),
            rounds: BTreeMap::new(),
            queued: BTreeMap::new(),
            queued_count: 0,
            outcomes: VecDeque::new(),
            sent: VecDeque::new(),
            own: VecDeque::new(),
            tell_at: None,
        })
    }

    /// The electorate that this node knows.
    pub fn electorate(&self) -> Option<&Electorate> {
        self.seat.as_ref().map(|seat| &seat.electorate)
    }

    /// This node founds an electorate, unless it knows one.
    pub(in crate::kv) fn found(&mut self, lineage: Lineage, guarded: &BTreeSet<String>, world: &mut World<'_>) {
        if self.seat.is_none() && lineage.founder == self.me {
            let electorate = Electorate::found(lineage, guarded.clone());
            self.sit(Seat { electorate, is_active: true, fetched: BTreeMap::new() }, world);
        }
    }

    /// Who is a member, who has left for good, and who is alive.
    pub(in crate::kv) fn handle_members(
        &mut self,
        known: &BTreeSet<PeerId>,
        gone: &BTreeSet<PeerId>,
        live: &BTreeSet<PeerId>,
        now: Instant,
    ) {
        self.live.clone_from(live);
        let Some(electorate) = self.electorate() else { return };
        // Who was given up votes again when he answers. A voter of whom nothing is known yet, after a restart, stays one.
        let counts = |id: &&PeerId| !gone.contains(id) && (live.contains(id) || !electorate.given_up.contains(id));
        let wanted: BTreeSet<_> = electorate.voters.union(known).filter(counts).copied().collect();
        let is_wanted = wanted != electorate.voters && !wanted.is_empty();
        if wanted != self.wanted || !is_wanted {
            self.wanted_since = is_wanted.then_some(now);
            self.wanted = wanted;
        }
    }

    pub(in crate::kv) fn handle_message(&mut self, from: PeerId, message: GuardMessage, world: &mut World<'_>) {
        self.dispatch(from, message, world);
        self.deliver_own(world);
    }

    fn dispatch(&mut self, from: PeerId, message: GuardMessage, world: &mut World<'_>) {
        match message {
            GuardMessage::Prepare(tag, target, ballot) => {
                if self.may_vote(from, tag) {
                    let answer = self.voter.prepare(&target, ballot, world);
                    self.post((from, answer));
                }
            }
            GuardMessage::Accept(tag, target, ballot, decree) => {
                if self.may_vote(from, tag) {
                    let answer = self.voter.accept(&target, ballot, decree, world.rows);
                    self.post((from, answer));
                }
            }
            GuardMessage::Promised(target, ballot, accepted) => {
                self.on_promised(from, &target, ballot, accepted, world);
            }
            GuardMessage::Accepted(target, ballot) => self.on_accepted(from, &target, ballot, world),
            GuardMessage::Rejected(target, ballot, promised) => {
                self.on_rejected(from, &target, ballot, promised, world.now);
            }
            GuardMessage::Electorate(electorate) => self.on_electorate(from, electorate, world),
            GuardMessage::Fetch(tag, after) => {
                if self.electorate().is_some_and(|ours| ours.lineage == tag.lineage && ours.epoch >= tag.epoch) {
                    let (cells, has_more) = self.voter.page(after.as_ref(), world.store);
                    self.post((from, GuardMessage::Cells(tag, cells, has_more)));
                }
            }
            GuardMessage::Cells(tag, cells, has_more) => self.on_cells(from, tag, (cells, has_more), world),
        }
    }

    /// Sessions of which this node's vote has nothing left to know.
    pub(in crate::kv) fn forgettable_sessions(&self, wall_us: u64) -> impl Iterator<Item = &Key> {
        self.voter.forgettable_sessions(wall_us)
    }

    /// This node's vote about a session is forgotten.
    pub(in crate::kv) fn forget(&mut self, key: &Key, rows: &mut Rows) {
        self.voter.forget(key, rows);
    }

    pub(in crate::kv) fn poll_send(&mut self) -> Option<(PeerId, GuardMessage)> {
        self.sent.pop_front()
    }

    /// The electorate, for a peer that has come up.
    pub(in crate::kv) fn tell(&mut self, to: PeerId) {
        if let Some(electorate) = self.electorate() {
            self.post((to, GuardMessage::Electorate(electorate.clone())));
        }
    }

    fn sit(&mut self, seat: Seat, world: &mut World<'_>) {
        world.rows.put(Table::Facts, FACT, &seat);
        self.seat = Some(seat);
        self.wanted_since = None;
        self.wanted.clear();
    }

    /// Whether a round of this electorate may be answered. Who is behind is told who votes.
    fn may_vote(&mut self, from: PeerId, tag: Tag) -> bool {
        let Some(seat) = &self.seat else { return false };
        let (ours, is_voter) = (seat.electorate.tag(), seat.electorate.voters.contains(&self.me));
        if ours != tag {
            self.tell(from);
            return false;
        }
        seat.is_active && is_voter
    }

    fn on_electorate(&mut self, from: PeerId, electorate: Electorate, world: &mut World<'_>) {
        let is_news = self.electorate().is_none_or(|ours| electorate.replaces(ours));
        if !electorate.is_valid() || !is_news {
            // Who is behind hears it at once.
            if self.electorate().is_some_and(|ours| ours.replaces(&electorate)) {
                self.tell(from);
            }
            return;
        }
        let is_same_lineage = self.electorate().is_none_or(|ours| ours.lineage == electorate.lineage);
        if is_same_lineage {
            self.voter.unseal(world.rows);
            if electorate.is_anew && electorate.before.contains(&self.me) {
                self.voter.rebase(&electorate, world);
            }
        } else {
            self.voter.clear(world.rows);
        }
        let is_anew = electorate.is_anew;
        // Our own cells are as good as another's: sealed with this step.
        let is_old_voter = is_same_lineage && electorate.before.contains(&self.me);
        let fetched = is_old_voter.then_some((self.me, Progress::Done)).into_iter().collect();
        self.sit(Seat { electorate, is_active: false, fetched }, world);
        self.activate(world);
        self.fetch();
        self.rounds.remove(&Target::Next);
        let targets: Vec<_> = self.rounds.keys().cloned().collect();
        for target in targets {
            let is_void = (!is_same_lineage || is_anew)
                && self.rounds.get(&target).is_some_and(|round| !round.in_doubt.is_empty());
            if is_void {
                self.give_up(&target, world.now);
            } else {
                self.restart(&target, world.now, Duration::ZERO);
            }
        }
    }

    fn on_cells(&mut self, from: PeerId, tag: Tag, page: Page, world: &mut World<'_>) {
        let (cells, has_more) = page;
        let Some(seat) = self.seat.as_mut().filter(|seat| !seat.is_active && seat.electorate.tag() == tag) else {
            return;
        };
        if !seat.electorate.before.contains(&from) || matches!(seat.fetched.get(&from), Some(Progress::Done)) {
            return;
        }
        // A page that was sent twice must not make a later one look done.
        let last = cells.last().map(|(key, ..)| key.clone());
        let at = match seat.fetched.get(&from) {
            Some(Progress::After(at)) => at.clone(),
            _ => None,
        };
        if cells.first().is_some_and(|(first, ..)| at.as_ref().is_some_and(|at| first <= at)) {
            return;
        }
        let progress = if has_more { Progress::After(last.clone()) } else { Progress::Done };
        seat.fetched.insert(from, progress);
        for (key, ballot, decree) in cells {
            self.voter.adopt(key, ballot, decree, world.rows);
        }
        if has_more {
            self.post((from, GuardMessage::Fetch(tag, last)));
        }
        self.activate(world);
    }

    /// Votes from now on, if enough of the epoch before have told us what they had.
    fn activate(&mut self, world: &mut World<'_>) {
        let Some(seat) = self.seat.as_mut().filter(|seat| !seat.is_active) else { return };
        let done = seat.fetched.values().filter(|progress| matches!(progress, Progress::Done)).count();
        if seat.electorate.voters.contains(&self.me) && done >= seat.electorate.needed_before() {
            seat.is_active = true;
            world.rows.put(Table::Facts, FACT, seat);
        }
    }

    fn fetch(&mut self) {
        let Some(seat) = self.seat.as_ref().filter(|seat| !seat.is_active) else { return };
        if !seat.electorate.voters.contains(&self.me) {
            return;
        }
        let tag = seat.electorate.tag();
        for &id in seat.electorate.before.iter().filter(|&&id| id != self.me) {
            let after = match seat.fetched.get(&id) {
                Some(Progress::Done) => continue,
                Some(Progress::After(after)) => after.clone(),
                None => None,
            };
            self.sent.push_back((id, GuardMessage::Fetch(tag, after)));
        }
    }

    fn on_promised(
        &mut self,
        from: PeerId,
        target: &Target,
        ballot: Ballot,
        accepted: Option<(Ballot, Decree)>,
        world: &mut World<'_>,
    ) {
        let Some((round, electorate)) = current(&mut self.rounds, self.seat.as_ref(), target, ballot, from) else {
            return;
        };
        round.answered.insert(from);
        let Step::Preparing(promises) = &mut round.step else { return };
        promises.insert(from, accepted);
        let needed = majority(&electorate.voters);
        if promises.len() < needed {
            return;
        }
        let newest = promises.values().flatten().max_by_key(|(ballot, _)| *ballot).cloned();
        let agree_count = promises
            .values()
            .filter(|accepted| accepted.as_ref().map(|(b, _)| *b) == newest.as_ref().map(|(b, _)| *b))
            .count();
        let is_settled = agree_count >= needed || newest.is_none();
        self.decide(target, newest.map(|(_, decree)| decree), is_settled, world);
    }

    /// The promises of a majority are here: makes the decree of what they report.
    fn decide(&mut self, target: &Target, newest: Option<Decree>, is_settled: bool, world: &mut World<'_>) {
        let Some(seat) = &self.seat else { return };
        let Some(round) = self.rounds.get_mut(target) else { return };
        let (decree, is_allowed) = match &round.work {
            Work::Voters(voters) => (newest.unwrap_or_else(|| Decree::Voters(voters.clone())), true),
            Work::Change(_, key, change) => {
                let current = match newest {
                    Some(Decree::Entry(entry)) => entry,
                    _ => beginning(key, change, seat.electorate.lineage, world.store),
                };
                let modified = current.as_ref().map_or(Hlc(0), |entry| entry.modified);
                let is_ours = |entry: &Entry| entry.writer == self.me && round.in_doubt.contains(&entry.modified);
                if current.as_ref().is_some_and(is_ours) {
                    (Decree::Entry(current), true)
                } else if round.in_doubt.first().is_some_and(|doubt| modified > *doubt) {
                    // Others have gone on; whether from ours cannot be told.
                    let key = key.clone();
                    return self.finish(target, Err(KvError::OutcomeUnknown { key }), world.now);
                } else {
                    let author = Author { writer: self.me, now: world.store.tick(world.wall_us) };
                    match decide(current.as_ref(), change, author) {
                        Decision::Changed(entry) if entry.modified.0 < MAX_STAMP => {
                            round.in_doubt.insert(entry.modified);
                            (Decree::Entry(Some(Entry { guard: Some(seat.electorate.lineage), ..entry })), true)
                        }
                        other => {
                            let is_allowed = other == Decision::Unchanged;
                            if is_settled && round.in_doubt.is_empty() {
                                let decided = Decided { key: key.clone(), is_allowed, entry: current };
                                return self.finish(target, Ok(decided), world.now);
                            }
                            let guard = Some(seat.electorate.lineage);
                            (Decree::Entry(current.map(|entry| Entry { guard, ..entry })), is_allowed)
                        }
                    }
                }
            }
        };
        round.step = Step::Accepting { decree, is_allowed, by: BTreeSet::new() };
        round.wake_at = world.now + RESEND;
        self.send_step(target);
    }

    fn on_accepted(&mut self, from: PeerId, target: &Target, ballot: Ballot, world: &mut World<'_>) {
        let Some((round, electorate)) = current(&mut self.rounds, self.seat.as_ref(), target, ballot, from) else {
            return;
        };
        round.answered.insert(from);
        let Step::Accepting { by, decree, is_allowed } = &mut round.step else { return };
        by.insert(from);
        if by.len() < majority(&electorate.voters) {
            return;
        }
        match (decree.clone(), &round.work) {
            (Decree::Voters(voters), _) => {
                let next = electorate.next(voters);
                let everybody: BTreeSet<_> = next.voters.union(&next.before).copied().collect();
                for &id in everybody.iter().filter(|&&id| id != self.me) {
                    self.sent.push_back((id, GuardMessage::Electorate(next.clone())));
                }
                self.rounds.remove(target);
                self.on_electorate(self.me, next, world);
            }
            (Decree::Entry(entry), Work::Change(_, key, _)) => {
                let decided = Decided { key: key.clone(), is_allowed: *is_allowed, entry };
                self.finish(target, Ok(decided), world.now);
            }
            (Decree::Entry(_), Work::Voters(_)) => {}
        }
    }

    fn on_rejected(&mut self, from: PeerId, target: &Target, ballot: Ballot, promised: Ballot, now: Instant) {
        let Some((round, _)) = current(&mut self.rounds, self.seat.as_ref(), target, ballot, from) else { return };
        round.ballot.round = round.ballot.round.max(promised.round);
        round.answered.insert(from);
        let most = PAUSE * 2_u32.pow(round.attempts.min(6));
        let pause = most.mul_f64(self.rng.random());
        self.restart(target, now, pause);
    }

    /// Another attempt, after a pause.
    fn restart(&mut self, target: &Target, now: Instant, pause: Duration) {
        if let Some(round) = self.rounds.get_mut(target) {
            round.step = Step::Pausing;
            round.attempts += 1;
            round.wake_at = now + pause;
        }
    }

    /// Begins an attempt with a ballot above all that this round, and this node as a voter, has heard of.
    fn prepare(&mut self, target: &Target, now: Instant) {
        let Some(seat) = &self.seat else { return };
        let Some(round) = self.rounds.get_mut(target) else { return };
        let epoch = seat.electorate.epoch;
        let heard = [Some(round.ballot), self.voter.promised(target)].into_iter().flatten();
        let highest = heard.filter(|ballot| ballot.epoch == epoch).map(|ballot| ballot.round).max().unwrap_or(0);
        let nonce = self.rng.random();
        round.ballot = Ballot { epoch, round: highest + 1, proposer: self.me, nonce };
        round.step = Step::Preparing(BTreeMap::new());
        round.wake_at = now + RESEND;
        self.send_step(target);
    }

    /// Sends the step to all voters that have not answered it.
    fn send_step(&mut self, target: &Target) {
        let (Some(round), Some(seat)) = (self.rounds.get(target), &self.seat) else { return };
        let tag = seat.electorate.tag();
        for &id in &seat.electorate.voters {
            let message = match &round.step {
                Step::Preparing(promises) if !promises.contains_key(&id) => {
                    GuardMessage::Prepare(tag, target.clone(), round.ballot)
                }
                Step::Accepting { decree, by, .. } if !by.contains(&id) => {
                    GuardMessage::Accept(tag, target.clone(), round.ballot, decree.clone())
                }
                _ => continue,
            };
            if id == self.me {
                self.own.push_back(message);
            } else {
                self.sent.push_back((id, message));
            }
        }
    }

    fn post(&mut self, (to, message): (PeerId, GuardMessage)) {
        if to == self.me {
            self.own.push_back(message);
        } else {
            self.sent.push_back((to, message));
        }
    }

    fn deliver_own(&mut self, world: &mut World<'_>) {
        while let Some(message) = self.own.pop_front() {
            self.dispatch(self.me, message, world);
        }
    }

    fn finish(&mut self, target: &Target, outcome: Result<Decided, KvError>, now: Instant) {
        if let Some(Round { work: Work::Change(op, ..), .. }) = self.rounds.remove(target) {
            self.outcomes.push_back((op, outcome));
        }
        let next = self.queued.get_mut(target).and_then(VecDeque::pop_front);
        match next {
            Some((op, change, deadline)) => {
                self.queued_count -= 1;
                self.open(op, target, change, deadline, now);
            }
            None => drop(self.queued.remove(target)),
        }
    }

    fn open(&mut self, op: OpId, target: &Target, change: Change, deadline: Instant, now: Instant) {
        let Target::Key(key) = target else { return };
        let work = Work::Change(op, key.clone(), change);
        self.rounds.insert(target.clone(), self.round(work, deadline, now));
        self.prepare(target, now);
    }

    fn round(&self, work: Work, deadline: Instant, now: Instant) -> Round {
        let ballot = Ballot { epoch: 0, round: 0, proposer: self.me, nonce: 0 };
        let (answered, in_doubt) = (BTreeSet::new(), BTreeSet::new());
        Round { work, ballot, step: Step::Pausing, deadline, wake_at: now, attempts: 0, in_doubt, answered }
    }

    /// Why a round that found no majority in time has ended.
    fn give_up(&mut self, target: &Target, now: Instant) {
        let Some(round) = self.rounds.get(target) else { return };
        let Work::Change(_, key, _) = &round.work else {
            self.rounds.remove(target);
            return;
        };
        let key = key.clone();
        let error = match (&self.seat, round.in_doubt.is_empty()) {
            (_, false) => KvError::OutcomeUnknown { key },
            (Some(seat), true) => {
                KvError::NoMajority { key, answered: round.answered.len(), voters: seat.electorate.voters.len() }
            }
            (None, true) => KvError::NoElectorate { key },
        };
        self.finish(target, Err(error), now);
    }

    /// Lets the electorate follow the members: the first live voter does it, the others when it does not.
    fn pursue_electorate(&mut self, now: Instant) {
        let Some(seat) = self.seat.as_ref().filter(|seat| seat.is_active) else { return };
        if !seat.electorate.voters.contains(&self.me) || self.rounds.contains_key(&Target::Next) {
            return;
        }
        let rank = seat.electorate.voters.iter().filter(|&id| *id < self.me && self.live.contains(id)).count();
        let patience = SETTLE + 2 * SETTLE * rank.min(8) as u32;
        let is_due = self.wanted_since.is_some_and(|since| now >= since + patience);
        if is_due || (self.voter.is_sealed() && self.rng.random_range(0..4) == 0) {
            let voters = if self.wanted.is_empty() { seat.electorate.voters.clone() } else { self.wanted.clone() };
            let round = self.round(Work::Voters(voters), now + PATIENCE, now);
            self.rounds.insert(Target::Next, round);
            self.prepare(&Target::Next, now);
        }
    }
}

impl GuardedStore for Consensus {
    fn begin(&mut self, op: OpId, key: Key, change: Change, world: &mut World<'_>) {
        if self.seat.is_none() {
            return self.outcomes.push_back((op, Err(KvError::NoElectorate { key })));
        }
        if self.queued_count + self.rounds.len() >= MAX_ROUNDS {
            return self.outcomes.push_back((op, Err(KvError::Busy)));
        }
        let (target, deadline) = (Target::Key(key), world.now + PATIENCE);
        if self.rounds.contains_key(&target) {
            self.queued_count += 1;
            self.queued.entry(target).or_default().push_back((op, change, deadline));
        } else {
            self.open(op, &target, change, deadline, world.now);
            self.deliver_own(world);
        }
    }

    fn poll_outcome(&mut self) -> Option<(OpId, Result<Decided, KvError>)> {
        self.outcomes.pop_front()
    }

    fn handle_timeout(&mut self, world: &mut World<'_>) {
        let now = world.now;
        let due: Vec<_> =
            self.rounds.iter().filter(|(_, round)| round.wake_at <= now).map(|(target, _)| target.clone()).collect();
        for target in due {
            let Some(round) = self.rounds.get_mut(&target) else { continue };
            if round.deadline <= now {
                self.give_up(&target, now);
            } else if matches!(round.step, Step::Pausing) {
                self.prepare(&target, now);
            } else {
                round.wake_at = now + RESEND;
                self.send_step(&target);
            }
        }
        if self.tell_at.is_none_or(|at| at <= now) {
            self.tell_at = Some(now + TELL_EVERY);
            self.fetch();
            self.pursue_electorate(now);
            let others: Vec<_> = self.live.iter().copied().filter(|id| *id != self.me).collect();
            if !others.is_empty() {
                let to = others[self.rng.random_range(0..others.len())];
                self.tell(to);
            }
        }
        self.deliver_own(world);
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let rounds = self.rounds.values().map(|round| round.wake_at);
        rounds.chain(self.tell_at).min()
    }
}

/// Where a register begins of which no voter knows anything: with what the last writer left before the key was guarded. A session
/// that this electorate has decided about and does not know has ended, and was forgotten; it can only end once more.
fn beginning(key: &Key, change: &Change, lineage: Lineage, store: &Store) -> Option<Entry> {
    let held = store.get(key.as_str())?;
    let is_end = matches!(change, Change::EndSession { .. });
    let is_forgotten = key.is_internal() && held.entry.guard == Some(lineage) && !is_end;
    (!is_forgotten).then(|| held.entry.clone())
}

/// The round that an answer belongs to, if it comes from a voter.
fn current<'a>(
    rounds: &'a mut BTreeMap<Target, Round>,
    seat: Option<&'a Seat>,
    target: &Target,
    ballot: Ballot,
    from: PeerId,
) -> Option<(&'a mut Round, &'a Electorate)> {
    let electorate = &seat?.electorate;
    let round = rounds.get_mut(target).filter(|round| round.ballot == ballot)?;
    (ballot.epoch == electorate.epoch && electorate.voters.contains(&from)).then_some((round, electorate))
}

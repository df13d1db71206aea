//! One template at work: when it is due, what it depends on, what became of its last rendering.
//!
//! A command or a write that has failed is tried again, at growing intervals: what is in its way may go without a change of the data.
//!
//! INVARIANT: the destination changes only by a candidate whose check has agreed; a reload runs after a change, and again until it has
//! worked, by the next process too.

use std::{
    collections::BTreeSet,
    hash::{DefaultHasher, Hash, Hasher},
    io,
    path::Path,
    time::Instant,
};

use super::{
    command,
    config::Template,
    dependency::Dependency,
    functions::Facts,
    limits,
    owed::Owed,
    quiet::{Quiet, Wait},
    render::{self, Outcome},
};
use crate::host::replace::{Candidate, is_current};

/// A template and its state.
#[derive(Debug)]
pub struct Job {
    /// What is to be done.
    pub template: Template,
    /// What the last rendering has asked for.
    pub used: BTreeSet<Dependency>,
    /// When it is rendered next.
    pub quiet: Quiet,
    reload: Owed,
    failing: Option<Failing>,
    complaint: Option<String>,
}

/// A content that cannot be brought into force.
#[derive(Clone, Copy, Debug)]
struct Failing {
    /// A hash of it.
    content: u64,
    /// How often it was tried.
    count: u32,
}

/// What a run of a job did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Done {
    /// The file has new content, and who reads it has been told.
    Written,
    /// It has this content already.
    Unchanged,
    /// Data is still missing.
    Incomplete,
    /// One sentence; the old file is there.
    Kept(String),
    /// The file has new content; the reload command failed, as this sentence says.
    NotReloaded(String),
}

impl Job {
    /// Due at once.
    pub fn new(template: Template, now: Instant) -> Self {
        let mut quiet = Quiet::default();
        quiet.hurry(now);
        let reload = Owed::of(&template.destination);
        Self { template, used: BTreeSet::new(), quiet, reload, failing: None, complaint: None }
    }

    /// Takes over from the job that had this destination before the configuration was read again.
    pub fn inherit(&mut self, old: &Self) {
        self.used.clone_from(&old.used);
    }

    /// Renders without writing.
    pub fn render(&mut self, facts: &Facts) -> Outcome {
        let rendering = render::render(&self.template.name, &self.template.source, facts);
        self.used = rendering.asked.used;
        rendering.outcome
    }

    /// Renders, checks, writes and reloads, as far as there is something to do; logs what came of it.
    pub async fn run(&mut self, facts: &Facts) -> Done {
        let done = self.run_once(facts).await;
        self.tell(&done);
        done
    }

    /// The same, for who tells himself what came of it.
    pub async fn run_once(&mut self, facts: &Facts) -> Done {
        let failing = self.failing.take();
        match self.render(facts) {
            Outcome::Incomplete => Done::Incomplete,
            // Other data is what helps, and comes as a change.
            Outcome::Failed(error) => Done::Kept(error.to_string()),
            Outcome::Text(content) => {
                let done = self.deliver(&content).await;
                if matches!(done, Done::Kept(_) | Done::NotReloaded(_)) {
                    self.failing = Some(Failing::again(failing, &content));
                }
                done
            }
        }
    }

    /// How long to wait before it is tried again. None where nothing has failed that could work without a change of the data.
    pub fn retry(&self) -> Option<Wait> {
        let doublings = self.failing?.count.saturating_sub(1).min(16);
        let pause = (limits::FIRST_RETRY * (1 << doublings)).min(limits::MAX_RETRY);
        Some(Wait { min: pause, max: pause })
    }

    async fn deliver(&mut self, content: &[u8]) -> Done {
        let destination = &self.template.destination;
        if is_current(destination, content, self.template.mode) {
            return if self.reload.is_owed() { self.reload().await } else { Done::Unchanged };
        }
        if let Err(reason) = self.replace(content).await {
            return Done::Kept(reason);
        }
        self.reload().await
    }

    async fn replace(&mut self, content: &[u8]) -> Result<(), String> {
        let Template { destination, mode, check, reload, command_timeout, .. } = &self.template;
        let cannot = |error: io::Error| format!("cannot write {}: {error}", destination.display());
        let candidate = Candidate::write(destination, content, *mode).map_err(cannot)?;
        if let Some(check) = check {
            let outcome = command::run(check, candidate.path(), *command_timeout).await;
            outcome.map_err(|reason| format!("{}: the check refuses it: {reason}", self.template.name))?;
        }
        if reload.is_some() {
            self.reload.owe().map_err(cannot)?;
        }
        candidate.commit().map_err(cannot)
    }

    async fn reload(&mut self) -> Done {
        if let Some(reload) = &self.template.reload
            && let Err(reason) = command::run(reload, &self.template.destination, self.template.command_timeout).await
        {
            return Done::NotReloaded(format!("{}: reload failed: {reason}", self.template.name));
        }
        self.reload.settle();
        Done::Written
    }

    /// One line for each change of state: a template that stays wrong says so once.
    fn tell(&mut self, done: &Done) {
        let path: &Path = &self.template.destination;
        match done {
            Done::Written => tracing::info!(path = ?path, "written"),
            Done::Unchanged => {}
            Done::Incomplete => return,
            Done::Kept(reason) | Done::NotReloaded(reason) => {
                if self.is_news(reason) {
                    let what =
                        if matches!(done, Done::Kept(_)) { "the old file stays" } else { "written, not in force" };
                    tracing::warn!(path = ?path, "{what}: {reason}");
                }
                self.complaint = Some(reason.clone());
                return;
            }
        }
        if self.complaint.take().is_some() {
            tracing::info!(path = ?path, "the file is right again");
        }
    }

    /// Programs write their process id and the time into what they say: tried again, they say the same but for digits.
    fn is_news(&self, reason: &str) -> bool {
        let is_retry = self.failing.is_some_and(|failing| failing.count > 1);
        let said = |text: &str| text.replace(|letter: char| is_retry && letter.is_ascii_digit(), "");
        self.complaint.as_ref().is_none_or(|told| said(told) != said(reason))
    }
}

impl Failing {
    fn again(before: Option<Self>, content: &[u8]) -> Self {
        let mut hasher = DefaultHasher::new();
        content.hash(&mut hasher);
        let content = hasher.finish();
        let count = before.filter(|failing| failing.content == content).map_or(0, |failing| failing.count);
        Self { content, count: count.saturating_add(1) }
    }
}

#[cfg(test)]
mod tests;

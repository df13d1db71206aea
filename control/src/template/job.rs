//! One template at work: when it is due, what it depends on, what became of its last rendering.
//!
//! INVARIANT: the destination changes only by a candidate whose check has agreed; a reload runs only after a change, or again
//! after it has failed.

use std::{collections::BTreeSet, io, path::Path, time::Instant};

use super::{
    command,
    config::Template,
    dependency::Dependency,
    functions::Facts,
    quiet::Quiet,
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
    reload: Reload,
    complaint: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reload {
    Done,
    Owed,
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
        Self { template, used: BTreeSet::new(), quiet, reload: Reload::Done, complaint: None }
    }

    /// Takes over from the job that had this destination before the configuration was read again.
    pub fn inherit(&mut self, old: &Self) {
        self.used.clone_from(&old.used);
        self.reload = old.reload;
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
        match self.render(facts) {
            Outcome::Incomplete => Done::Incomplete,
            Outcome::Failed(error) => Done::Kept(error.to_string()),
            Outcome::Text(content) => self.deliver(&content).await,
        }
    }

    async fn deliver(&mut self, content: &[u8]) -> Done {
        let destination = &self.template.destination;
        if is_current(destination, content, self.template.mode) {
            return if self.reload == Reload::Owed { self.reload().await } else { Done::Unchanged };
        }
        if let Err(reason) = self.replace(content).await {
            return Done::Kept(reason);
        }
        self.reload = Reload::Owed;
        self.reload().await
    }

    async fn replace(&self, content: &[u8]) -> Result<(), String> {
        let Template { destination, mode, check, command_timeout, .. } = &self.template;
        let cannot = |error: io::Error| format!("cannot write {}: {error}", destination.display());
        let candidate = Candidate::write(destination, content, *mode).map_err(cannot)?;
        if let Some(check) = check {
            let outcome = command::run(check, candidate.path(), *command_timeout).await;
            outcome.map_err(|reason| format!("{}: the check refuses it: {reason}", self.template.name))?;
        }
        candidate.commit().map_err(cannot)
    }

    async fn reload(&mut self) -> Done {
        if let Some(reload) = &self.template.reload
            && let Err(reason) = command::run(reload, &self.template.destination, self.template.command_timeout).await
        {
            return Done::NotReloaded(format!("{}: reload failed: {reason}", self.template.name));
        }
        self.reload = Reload::Done;
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
                if self.complaint.as_ref() != Some(reason) {
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

    /// Whether the reload command has failed and will be run again.
    pub fn owes_reload(&self) -> bool {
        self.reload == Reload::Owed
    }
}

//! The loop of `weaved template`: signals, reports of the watches, quiet times; one rendering and one command at a time.
//!
//! What templates stop asking for is no longer watched. An API that is away changes nothing: the last facts stay, one line says
//! that it is away and one that it is back.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::pending,
    path::PathBuf,
    sync::Arc,
    time::Instant,
};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
    task::{AbortHandle, JoinSet},
    time::sleep_until,
};

use super::{
    api::{Api, ApiError},
    config::{self, Template},
    dependency::Dependency,
    fact::Fact,
    functions::Facts,
    job::{Done, Job},
    limits,
    render::Outcome,
    watch::{self, Report},
};
use crate::failure::Failure;

/// Reports that wait for us; the watches wait when it is full.
const REPORT_QUEUE: usize = 64;

/// Renders everything once: what does not work is a failure, though the other templates are done.
pub async fn once(api: &Api, templates: Vec<Template>) -> Result<(), Failure> {
    let mut failures = Vec::new();
    let mut facts = Facts::new();
    for template in templates {
        let mut job = Job::new(template, Instant::now());
        complete(api, &mut job, &mut facts).await?;
        match job.run_once(&facts).await {
            Done::Kept(reason) => failures.push(reason),
            Done::NotReloaded(reason) => failures.push(format!("written, not in force: {reason}")),
            Done::Written => tracing::info!(path = ?job.template.destination, "written"),
            Done::Incomplete => failures.push(format!("{}: its data does not become complete", job.template.name)),
            Done::Unchanged => {}
        }
    }
    if failures.is_empty() { Ok(()) } else { Err(Failure::refused(failures.join("; "))) }
}

/// Renders everything once, for the eye: what would be written, by destination.
pub async fn dry(api: &Api, templates: Vec<Template>) -> Result<Vec<(PathBuf, String)>, Failure> {
    let mut texts = Vec::new();
    let mut facts = Facts::new();
    for template in templates {
        let mut job = Job::new(template, Instant::now());
        match complete(api, &mut job, &mut facts).await? {
            Outcome::Text(text) => {
                texts.push((job.template.destination, String::from_utf8_lossy(&text).into_owned()));
            }
            Outcome::Failed(error) => return Err(Failure::refused(error)),
            Outcome::Incomplete => return Err(Failure::refused("the data of the template does not become complete")),
        }
    }
    Ok(texts)
}

/// Asks for what is missing until nothing is; a template may ask for more with each answer.
async fn complete(api: &Api, job: &mut Job, facts: &mut Facts) -> Result<Outcome, Failure> {
    for _ in 0..limits::MAX_DEPENDENCIES {
        match job.render(facts) {
            Outcome::Incomplete => {}
            outcome => return Ok(outcome),
        }
        let missing: Vec<Dependency> = job.used.iter().filter(|one| !facts.contains_key(*one)).cloned().collect();
        for dependency in missing {
            let fact = watch::fetch(api, &dependency).await.map_err(|error| match error {
                ApiError::Away(reason) => Failure::unreachable(format!("{reason}; nothing was written")),
                ApiError::Refused(reason) => Failure::refused(format!("{reason}; nothing was written")),
            })?;
            facts.insert(dependency, Arc::new(fact));
        }
    }
    Ok(Outcome::Incomplete)
}

/// Renders and watches until SIGTERM or SIGINT; SIGHUP reads the configuration again.
pub async fn run(api: Api, config_path: PathBuf) -> Result<(), Failure> {
    let mut signals = Signals::new().map_err(|error| Failure::refused(format!("cannot wait for signals: {error}")))?;
    let templates = config::load(&config_path).map_err(Failure::refused)?;
    let (sender, mut reports) = mpsc::channel(REPORT_QUEUE);
    let mut runner = Runner::new(api, templates, sender);
    loop {
        runner.render_due().await;
        let due = runner.next_due();
        tokio::select! {
            biased;
            _ = signals.end.recv() => return Ok(()),
            _ = signals.interrupt.recv() => return Ok(()),
            _ = signals.hangup.recv() => match config::load(&config_path) {
                Ok(templates) => {
                    tracing::info!(path = ?config_path, "read again");
                    runner.replace(templates);
                }
                Err(reason) => tracing::warn!("the old configuration stays: {reason}"),
            },
            Some(report) = reports.recv() => runner.on_report(report),
            () = until(due) => {}
        }
    }
}

struct Signals {
    end: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            end: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due.into()).await,
        None => pending().await,
    }
}

struct Runner {
    api: Api,
    jobs: Vec<Job>,
    facts: Facts,
    watches: BTreeMap<Dependency, AbortHandle>,
    /// Ends the watches with the runner.
    tasks: JoinSet<()>,
    failing: BTreeSet<Dependency>,
    sender: mpsc::Sender<Report>,
}

impl Runner {
    fn new(api: Api, templates: Vec<Template>, sender: mpsc::Sender<Report>) -> Self {
        let mut runner = Self {
            api,
            jobs: Vec::new(),
            facts: Facts::new(),
            watches: BTreeMap::new(),
            tasks: JoinSet::new(),
            failing: BTreeSet::new(),
            sender,
        };
        runner.replace(templates);
        runner
    }

    fn replace(&mut self, templates: Vec<Template>) {
        let now = Instant::now();
        let used: BTreeMap<_, _> = self.jobs.drain(..).map(|job| (job.template.destination.clone(), job)).collect();
        self.jobs = templates.into_iter().map(|template| Job::new(template, now)).collect();
        for job in &mut self.jobs {
            // What was watched stays watched until the new template has said what it needs.
            if let Some(old) = used.get(&job.template.destination) {
                job.inherit(old);
            }
        }
    }

    fn next_due(&self) -> Option<Instant> {
        self.jobs.iter().filter_map(|job| job.quiet.due()).min()
    }

    async fn render_due(&mut self) {
        let mut changed = false;
        for job in &mut self.jobs {
            let now = Instant::now();
            if !job.quiet.take_due(now) {
                continue;
            }
            changed = true;
            job.run(&self.facts).await;
            if let Some(wait) = job.retry() {
                job.quiet.on_change(wait, Instant::now());
            }
        }
        if changed {
            self.adjust_watches();
        }
    }

    fn on_report(&mut self, report: Report) {
        let Report { dependency, outcome } = report;
        if !self.watches.contains_key(&dependency) {
            return;
        }
        match outcome {
            Ok(fact) => self.on_fact(dependency, fact),
            Err(error) => {
                if self.failing.is_empty() {
                    tracing::warn!("files stay as they are: {error}");
                }
                self.failing.insert(dependency);
            }
        }
    }

    fn on_fact(&mut self, dependency: Dependency, fact: Arc<Fact>) {
        if self.failing.remove(&dependency) && self.failing.is_empty() {
            tracing::info!(endpoint = self.api.base(), "the API answers again");
        }
        let is_first = !self.facts.contains_key(&dependency);
        if self.facts.get(&dependency) == Some(&fact) {
            return;
        }
        let now = Instant::now();
        for job in self.jobs.iter_mut().filter(|job| job.used.contains(&dependency)) {
            // The first answers are awaited, not gathered: `render` is complete or does nothing.
            if is_first { job.quiet.hurry(now) } else { job.quiet.on_change(job.template.wait, now) }
        }
        self.facts.insert(dependency, fact);
    }

    fn adjust_watches(&mut self) {
        let used: BTreeSet<&Dependency> = self.jobs.iter().flat_map(|job| &job.used).collect();
        self.watches.retain(|dependency, task| {
            let stays = used.contains(dependency);
            if !stays {
                task.abort();
            }
            stays
        });
        self.facts.retain(|dependency, _| used.contains(dependency));
        self.failing.retain(|dependency| used.contains(dependency));
        for dependency in used {
            if !self.watches.contains_key(dependency) {
                let work = watch::watch(self.api.clone(), dependency.clone(), self.sender.clone());
                self.watches.insert(dependency.clone(), self.tasks.spawn(work));
            }
        }
        // Tasks that were aborted are forgotten.
        while self.tasks.try_join_next().is_some() {}
    }
}
